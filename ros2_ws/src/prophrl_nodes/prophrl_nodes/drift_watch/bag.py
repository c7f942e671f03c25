"""The drift check on recorded bags: the same messages that the live node hears, in the same order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from calibration.board import Board
from calibration.storage import CalibrationFileError, parse
from prophrl_models.data.bag import Bag, BagError
from prophrl_models.data.cdr import ImageError
from prophrl_models.data.streams import Topics, gripper_sample, stamp_ns
from prophrl_nodes.drift_watch.check import DriftChecker, NoReference, camera_for
from prophrl_nodes.drift_watch.frames import EpisodeFrames, FrameKeeper
from prophrl_nodes.drift_watch.references import DriftReference
from prophrl_nodes.drift_watch.verdict import DriftVerdict
from prophrl_nodes.messages import ARM_JOINTS, joint_positions
from prophrl_nodes.recorder.episode import EpisodeError, open_episode
from robot_bridge.cell_files import open_cell

JOINT_STATES = "joint_states"
LEADER_JOINT_STATES = "gello/joint_states"


def frames_of_bag(bag: Bag, count: int = 20) -> EpisodeFrames | None:
    """``count`` frames spread over the episode; None when no picture has joint angles at its stamp.

    Raises:
        BagError: a topic is missing or the bag is damaged.
        ImageError: pictures without colour.
    """
    color, gripper, joints = bag.resolve(Topics.color), bag.resolve(Topics.gripper), _joint_topic(bag)
    keeper = FrameKeeper(count)
    for message in bag.messages((color, gripper, joints)):
        if message.topic == color:
            keeper.image(message.cdr)
        elif message.topic == joints:
            state = bag.decode(message)
            keeper.joints(stamp_ns(state), joint_positions(state, ARM_JOINTS))
        else:
            stamp, (opening, _) = gripper_sample(bag.decode(message))
            keeper.gripper(stamp, opening)
    return keeper.frames()


def _joint_topic(bag: Bag) -> str:
    """The arm's joint states: the leader's topic ends in the same words."""
    mine = [
        topic
        for topic, info in bag.topics.items()
        if info.count and f"/{topic}".endswith(f"/{JOINT_STATES}") and not topic.endswith(f"/{LEADER_JOINT_STATES}")
    ]
    return mine[0] if len(mine) == 1 else bag.resolve(JOINT_STATES)


class BagChecks:
    """Checks bag after bag; the first one of each calibration and image size becomes the reference of the others.

    Args:
        cell: name or file of the cell; empty: the one that each episode names.
        board: a board that stands in the camera's view, or None.
        given: a reference to compare with instead.
        frames: frames looked at per bag.
    """

    def __init__(self, cell: str, board: Board | None, given: DriftReference | None, frames: int = 20) -> None:
        self._cell, self._board, self._given, self._frames = cell, board, given, frames
        self._checkers: dict[str, DriftChecker] = {}
        self._references: dict[tuple[str, int, int], DriftReference] = {}

    def of(self, path: Path) -> DriftVerdict:
        """The verdict on one bag; ``unknown`` with the reason where it cannot be judged."""
        said = DriftVerdict("unknown", "", path.name)
        try:
            bag = Bag(path)
            if bag.calibration_yaml is None:
                return replace(said, reason="no calibration was in force when it was recorded")
            calibration = parse(bag.calibration_yaml.encode(), f"the calibration of {path.name}")
            said = replace(said, calibration_id=calibration.id)
            if self._given is not None and self._given.calibration_id != calibration.id:
                other = f"recorded with calibration {calibration.id}, the reference is of {self._given.calibration_id}"
                return replace(said, reason=f"{other}; leave the reference away, or give that calibration's")
            frames = frames_of_bag(bag, self._frames)
            camera = camera_for(calibration, frames)
            key = (calibration.id, camera.width, camera.height)
            reference = self._given or self._references.get(key)
            checker = self._checker(path)
            if reference is not None:
                return checker.check(frames, reference, path.name)
            self._references[key] = checker.reference(frames, calibration, path.name)
        except (BagError, ImageError, CalibrationFileError, NoReference, EpisodeError) as error:
            return replace(said, reason=str(error))
        first = f"the first of calibration {calibration.id}: later ones are compared with it"
        count = 0 if frames is None else len(frames)
        return replace(said, verdict="reference", reason=first, reference_episode=path.name, frames=count)

    def _checker(self, path: Path) -> DriftChecker:
        name = self._cell or str(open_episode(path).record.get("cell") or "twin")
        if name not in self._checkers:
            self._checkers[name] = DriftChecker(open_cell(name, ""), self._board)
        return self._checkers[name]
