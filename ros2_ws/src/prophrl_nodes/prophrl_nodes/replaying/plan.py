"""From a bag to what is to be replayed: its recorded joints, or its delta actions, and what the arm did at the time.

``joints``: the measured joint angles at their own stamps, with the opening that was commanded at each moment.
``actions``: the rows that training would be given, from the dataset's own converter, and nothing else: whoever executes
them starts from the pose it finds.

In a recording the arm comes behind what it is told; a replay that commands what was *measured* comes behind once more,
while the gripper's commands are replayed as they were given: the gripper is early by the arm's lag. ``lag_s`` is that
lag as the recording itself shows it, and so how long the gripper's commands may wait to meet the arm where they did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention
from prophrl_models.data.bag import Bag, BagError
from prophrl_models.data.convert import Converter
from prophrl_models.data.episode import NO_CALIBRATION, EpisodeMetadata
from prophrl_models.data.streams import TCP_POSE, Topics, gripper_sample, pose_sample, stamp_ns
from prophrl_models.data.synchronise import SyncSpec
from prophrl_nodes.replaying.track import TRACK_RATE_HZ, Samples, Track, TrackError
from prophrl_nodes.replaying.tracking import estimate_lag
from robot_bridge.twin.tasks import Placement

Array = NDArray[np.float64]

JOINT_STATES = "joint_states"
LEADER_JOINT_STATES = "gello/joint_states"
SERVO_TARGET = "servo/target"
JOINT_TARGET = 1
"""ServoTarget.JOINT; plans are read without ROS."""
JOINT_NAMES = tuple(
    f"{name}_joint" for name in ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
)
MAX_LAG_S = 0.5


class ReplayError(ValueError):
    """A bag that cannot be replayed here; the message names the bag, the reason and the next action."""


class ReplayMode(str, Enum):
    """What of a recording is replayed."""

    ACTIONS = "actions"
    JOINTS = "joints"


@dataclass(frozen=True)
class ReplayPlan:
    """One episode, ready to be replayed.

    Attributes:
        source: path of the bag.
        metadata: what was said about the episode; ``metadata.placement`` restores the scene.
        mode: whether ``actions_T7`` or ``q_N6`` drives the arm.
        rate_hz: rows of ``actions_T7`` per second.
        convention: meaning of their pose numbers.
        actions_T7: float32 delta actions, metres, radians, commanded opening; as training would be given them.
        q_N6: joint angles at ``TRACK_RATE_HZ`` from the first observation on, radians.
        target_opening_N: commanded opening at the same times.
        recorded: what arm and gripper did, beginning with the first observation.
        lag_s: by how much the arm came behind its targets when this was recorded; NaN when the bag does not tell.
        invalid_steps: actions that rest on stale samples.
    """

    source: str
    metadata: EpisodeMetadata
    mode: ReplayMode
    rate_hz: float
    convention: ActionConvention
    actions_T7: NDArray[np.float32]
    q_N6: Array
    target_opening_N: Array
    recorded: Track
    lag_s: float = math.nan
    invalid_steps: int = 0

    @property
    def q_first_6(self) -> Array:
        """Joint angles of the first observation, radians."""
        first: Array = self.q_N6[0]
        return first

    @property
    def duration_s(self) -> float:
        """Of the motion, without waiting at its end."""
        if self.mode is ReplayMode.ACTIONS:
            return len(self.actions_T7) / self.rate_hz
        return (len(self.q_N6) - 1) / TRACK_RATE_HZ


def read_plan(
    path: str | Path,
    mode: ReplayMode | str = ReplayMode.ACTIONS,
    *,
    rate_hz: float = 10.0,
    convention: ActionConvention = ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
    topics: Topics | None = None,
) -> ReplayPlan:
    """Read a bag.

    Raises:
        BagError: no bag, cut off, damaged, or without the topics a replay needs.
        ReplayError: the recording is too short, or its devices were silent.
    """
    mode = ReplayMode(mode)
    topics = topics or Topics()
    bag = Bag(path)
    joint_topic = _own_joint_states(bag)
    columns = Converter(bag, SyncSpec(control_rate_hz=rate_hz), lambda _: None, topics=topics).run(convention)
    heard = _listen(bag, joint_topic, topics)
    try:
        # Not the first tick, but the sample that it saw: at full speed the arm is millimetres farther at the tick.
        first_ns = int(columns.source_stamp_ns_T[TCP_POSE][0])
        recorded = Track.of(heard.joints, heard.poses, heard.openings, start_ns=first_ns)
        targets_ns, targets = heard.target_openings.sorted()
    except TrackError as error:
        raise ReplayError(f"{bag.name}: {error}; record the episode again") from error
    return ReplayPlan(
        source=str(path),
        metadata=bag.metadata,
        mode=mode,
        rate_hz=rate_hz,
        convention=convention,
        actions_T7=columns.action_T7,
        q_N6=recorded.q_N6,
        target_opening_N=_held(recorded, targets_ns, targets),
        recorded=recorded,
        lag_s=_recorded_lag(recorded, heard.commands),
        invalid_steps=int((~columns.valid_T).sum()),
    )


def scene_of(plan: ReplayPlan) -> Placement:
    """The placement recorded with an episode.

    Raises:
        ReplayError: none was recorded, or it names another scene.
    """
    try:
        return Placement.from_json(dict(plan.metadata.placement))
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(
            f"{plan.metadata.episode_id}: its placement {dict(plan.metadata.placement)} cannot be restored ({error}); "
            "only episodes of the session and trials nodes carry one"
        ) from error


def check_cell(plan: ReplayPlan, cell: str, calibration_id: str = "") -> None:
    """Refuse an episode of another cell, or one recorded before the camera was calibrated anew.

    A placement and joint angles mean the same only on the cell they were recorded on. The camera's calibration does
    not move the arm; but where it has changed, camera or robot base were moved, and the table may be elsewhere.

    Args:
        plan: what is to be replayed.
        cell: name of this cell.
        calibration_id: of the calibration in force; empty skips the comparison.

    Raises:
        ReplayError: they differ.
    """
    said = plan.metadata
    recorded_on = str(said.extra.get("cell") or "")
    if recorded_on and recorded_on != cell:
        raise ReplayError(
            f"{said.episode_id} was recorded on cell {recorded_on!r}, this is {cell!r}; "
            f"replay it with cell:={recorded_on}"
        )
    if calibration_id and said.calibration_id != NO_CALIBRATION and said.calibration_id != calibration_id:
        raise ReplayError(
            f"{said.episode_id} was recorded under camera calibration {said.calibration_id}, in force is "
            f"{calibration_id}: camera or base were moved since. If the table still stands where it stood, replay "
            "with same_calibration:=false"
        )


@dataclass
class _Heard:
    """What arm and gripper said during an episode, and the joint targets the arm was given."""

    joints: Samples
    poses: Samples
    openings: Samples
    target_openings: Samples
    commands: Samples


def _listen(bag: Bag, joint_topic: str, topics: Topics) -> _Heard:
    pose_topic, gripper_topic = bag.resolve(topics.tcp_pose), bag.resolve(topics.gripper)
    command_topic = _optional(bag, SERVO_TARGET)
    heard = _Heard(*(Samples(name) for name in (joint_topic, pose_topic, gripper_topic, gripper_topic, SERVO_TARGET)))
    wanted = [joint_topic, pose_topic, gripper_topic, *([command_topic] if command_topic else [])]
    for message in bag.messages(wanted):
        decoded = bag.decode(message)
        try:
            if message.topic == joint_topic:
                heard.joints.add(stamp_ns(decoded), _joints(decoded))
            elif message.topic == pose_topic:
                heard.poses.add(*pose_sample(decoded))
            elif message.topic == gripper_topic:
                stamp, (opening, target) = gripper_sample(decoded)
                heard.openings.add(stamp, opening)
                heard.target_openings.add(stamp, target)
            elif int(decoded.mode) == JOINT_TARGET:
                heard.commands.add(stamp_ns(decoded), np.asarray(decoded.joint_positions))
        except ValueError as error:
            raise BagError(f"{bag.name}: {message.topic}: {error}") from error
    return heard


def _own_joint_states(bag: Bag) -> str:
    """The follower's joint states; the leader's topic ends in the same words.

    Raises:
        BagError: none.
    """
    found = [
        topic
        for topic, info in bag.topics.items()
        if info.count
        and f"/{topic.lstrip('/')}".endswith(f"/{JOINT_STATES}")
        and not f"/{topic.lstrip('/')}".endswith(f"/{LEADER_JOINT_STATES}")
    ]
    if len(found) != 1:
        there = ", ".join(topic for topic, info in bag.topics.items() if info.count)
        raise BagError(
            f"{bag.name}: a replay needs one topic {JOINT_STATES!r} of the arm, found {len(found)}; there is {there}"
        )
    return found[0]


def _optional(bag: Bag, name: str) -> str | None:
    try:
        return bag.resolve(name)
    except BagError:
        return None


def _joints(message: Any) -> Array:
    by_name: Mapping[str, float] = dict(zip(message.name, message.position, strict=False))
    q = [value for joint in JOINT_NAMES for name, value in by_name.items() if name.endswith(joint)]
    if len(q) != len(JOINT_NAMES) or not np.isfinite(q).all():
        raise ValueError(f"joint state holds {', '.join(by_name)}, expected the six joints of the arm, finite")
    return np.array(q)


def _held(recorded: Track, stamps_ns: NDArray[np.int64], values: Array) -> Array:
    """At each row the newest value at or before it; before the first value, that one."""
    grid_ns = recorded.start_ns + np.round(recorded.time_s_N * 1e9).astype(np.int64)
    rows = np.searchsorted(stamps_ns, grid_ns, side="right") - 1
    held: Array = values[np.maximum(rows, 0)]
    return held


def _recorded_lag(recorded: Track, commands: Samples) -> float:
    """By how much measured joints came behind joint targets; NaN without such targets or motion."""
    try:
        stamps_ns, q = commands.sorted()
    except TrackError:
        return math.nan
    grid_ns = recorded.start_ns + np.round(recorded.time_s_N * 1e9).astype(np.int64)
    inside = (grid_ns >= stamps_ns[0]) & (grid_ns <= stamps_ns[-1])
    if int(inside.sum()) < TRACK_RATE_HZ:
        return math.nan
    at, stamps = (grid_ns[inside] - stamps_ns[0]) * 1e-9, (stamps_ns - stamps_ns[0]) * 1e-9
    commanded = np.column_stack([np.interp(at, stamps, column) for column in q.T])
    lag_s = estimate_lag(commanded, recorded.q_N6[inside], MAX_LAG_S)
    return lag_s if lag_s >= 0.0 else math.nan
