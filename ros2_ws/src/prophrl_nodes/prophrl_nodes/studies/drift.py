"""Has the camera moved? Recordings held against a reference recording: by a fixed board, or by the arm itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.board import Board, detect
from calibration.camera import PinholeCamera
from calibration.camera_shift import DriftReport
from calibration.drift import check_marker, make_marker_reference
from calibration.poses import from_ur
from calibration.robot_drift import check_robot, make_robot_reference
from calibration.robot_reference import RobotReference
from calibration.storage import load, parse
from prophrl_models.data.bag import Bag
from prophrl_models.data.streams import color_sample, gripper_sample, stamp_ns
from robot_bridge.arm_outline import ArmOutline
from robot_bridge.cell import RobotConfig
from robot_bridge.ur_kinematics import JOINT_NAMES, Kinematics

Array = NDArray[np.float64]
COLOR, JOINTS, GRIPPER = "camera/color/image_raw", "joint_states", "gripper/state"


class DriftError(ValueError):
    """A recording that cannot be checked; the message names it and what is missing."""


@dataclass(frozen=True)
class DriftFinding:
    """Verdict on one bag: still, moved or unknown; figures over the working points, with their sigmas."""

    bag: Path
    verdict: str
    pixels: float
    millimetres: float
    sigma_px: float
    sigma_mm: float
    reason: str

    @classmethod
    def of(cls, bag: Path, report: DriftReport) -> DriftFinding:
        """The finding of a report."""
        return cls(
            bag,
            report.verdict,
            float(report.pixels),
            float(report.millimetres),
            float(report.sigma_px),
            float(report.sigma_mm),
            report.reason,
        )


@dataclass(frozen=True)
class Frames:
    """Images [T, H, W, 3] RGB spread over a bag, their times, and the arm at these times: q [T, 6], opening [T]."""

    images_THW3: NDArray[np.uint8]
    stamp_s_T: Array
    q_T6: Array
    opening_T: Array


class RobotCheck:
    """Compares bags by the arm (and the scenery) in the pictures.

    Args:
        reference: a bag recorded while the calibration was good, or what ``save`` wrote.
        robot: robot section of the cell; its TCP offset belongs to the kinematics.
        calibration: calibration file; None takes the bag's own copy.
        frames: pictures used of each bag.

    Raises:
        DriftError, BagError, CalibrationFileError: a recording lacks something.
    """

    def __init__(
        self, reference: Path, robot: RobotConfig, *, calibration: Path | None = None, frames: int = 20
    ) -> None:
        self._outline = ArmOutline(Kinematics(tool=from_ur(robot.tcp_offset)))
        self._frames = frames
        if reference.suffix == ".npz":
            self._reference = RobotReference.load(reference)
            return
        bag = Bag(reference)
        seen = read_frames(bag, frames, with_arm=True)
        self._reference = make_robot_reference(
            camera_of(bag, calibration, seen), seen.images_THW3, self._points(seen), self._outline.link_N
        )

    def save(self, path: Path) -> None:
        """Keep the reference as a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._reference.save(path)

    def judge(self, path: Path) -> DriftFinding:
        """The verdict on one bag."""
        seen = read_frames(Bag(path), self._frames, with_arm=True)
        report = check_robot(self._reference, seen.images_THW3, self._points(seen), stamp_s_T=seen.stamp_s_T)
        return DriftFinding.of(path, report.result)

    def _points(self, seen: Frames) -> Array:
        return self._outline.points(seen.q_T6, seen.opening_T)


class MarkerCheck:
    """Compares bags by a board that stands fixed in view; arguments and errors as ``RobotCheck``."""

    def __init__(self, reference: Path, board: Board, *, calibration: Path | None = None, frames: int = 20) -> None:
        self._board = board
        self._frames = frames
        bag = Bag(reference)
        seen = read_frames(bag, frames, with_arm=False)
        views = [view for image in seen.images_THW3 if (view := detect(image, board)) is not None]
        if not views:
            raise DriftError(
                f"{reference}: {board.name} is in none of {len(seen.images_THW3)} pictures of the reference"
            )
        self._reference = make_marker_reference(views, board, camera_of(bag, calibration, seen))

    def judge(self, path: Path) -> DriftFinding:
        """The verdict on one bag."""
        seen = read_frames(Bag(path), self._frames, with_arm=False)
        views = [view for image in seen.images_THW3 if (view := detect(image, self._board)) is not None]
        return DriftFinding.of(path, check_marker(self._reference, views))


def camera_of(bag: Bag, calibration: Path | None, seen: Frames) -> PinholeCamera:
    """The calibrated camera of a bag's pictures, at their size.

    Raises:
        DriftError: the bag holds no calibration, or one of a camera on the tool.
    """
    if calibration is not None:
        found = load(calibration)
    elif bag.calibration_yaml is not None:
        found = parse(bag.calibration_yaml.encode(), f"{bag.name}/calibration.yaml")
    else:
        raise DriftError(f"{bag.name} holds no calibration; name the file that was in force with --calibration")
    if found.mode != "eye_to_hand":
        raise DriftError(
            f"the camera of {bag.name} is on the tool: it moves all the time, this check is for fixed ones"
        )
    height, width = seen.images_THW3.shape[1:3]
    return found.camera.resized(width, height)


def read_frames(bag: Bag, count: int, *, with_arm: bool) -> Frames:
    """Up to ``count`` pictures at even distances over a bag, with the arm's state where it is asked for.

    Raises:
        DriftError: no pictures, or no joint states around them.
    """
    topics = {COLOR: bag.resolve(COLOR)}
    if with_arm:
        # The leader's joint states have the same name further down: the arm's stand beside its camera.
        namespace = topics[COLOR].removesuffix(COLOR)
        topics |= {name: namespace + name for name in (JOINTS, GRIPPER)}
        for topic in topics.values():
            if topic not in bag.topics or not bag.topics[topic].count:
                raise DriftError(f"{bag.name} holds no {topic}; the check without marker needs it")
    total = bag.topics[topics[COLOR]].count
    wanted = set(np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)).tolist())
    images, image_ns = [], []
    joints: list[tuple[int, list[float]]] = []
    openings: list[tuple[int, float]] = []
    number = -1
    for message in bag.messages(list(topics.values())):
        if message.topic == topics[COLOR]:
            number += 1
            if number in wanted:
                taken_ns, image = color_sample(message.cdr)
                images.append(np.array(image))
                image_ns.append(taken_ns)
        elif message.topic == topics[JOINTS]:
            state = bag.decode(message)
            by_name = dict(zip(state.name, state.position, strict=False))
            joints.append((stamp_ns(state), [_of(by_name, name, bag) for name in JOINT_NAMES]))
        else:
            at_ns, (opening, _) = gripper_sample(bag.decode(message))
            openings.append((at_ns, opening))
    if not images:
        raise DriftError(f"{bag.name} holds no pictures")
    times = np.array(image_ns, dtype=np.int64)
    if not with_arm:
        return Frames(np.stack(images), (times - times[0]) * 1e-9, np.zeros((len(images), 6)), np.ones(len(images)))
    joint_ns = np.array([at for at, _ in joints], dtype=np.int64)
    q = np.array([values for _, values in joints]).reshape(-1, 6)
    inside = (times >= joint_ns[0] - 50_000_000) & (times <= joint_ns[-1] + 50_000_000) if len(joint_ns) else times < 0
    if not inside.any():
        raise DriftError(f"{bag.name}: no joint states at the time of the pictures")
    times, kept = times[inside], [image for image, keep in zip(images, inside, strict=True) if keep]
    # Relative to the first, or float64 would round nanoseconds since the epoch to 0.2 us.
    at = (times - times[0]).astype(np.float64)
    q_T6 = np.stack([np.interp(at, (joint_ns - times[0]).astype(np.float64), q[:, i]) for i in range(6)], axis=1)
    gripper_ns = np.array([stamp for stamp, _ in openings], dtype=np.int64)
    opening_T = np.interp(at, (gripper_ns - times[0]).astype(np.float64), [value for _, value in openings])
    return Frames(np.stack(kept), at * 1e-9, q_T6, opening_T)


def _of(by_name: dict[str, float], joint: str, bag: Bag) -> float:
    for name, value in by_name.items():
        if name.endswith(joint):
            return float(value)
    raise DriftError(f"{bag.name}: the joint states lack {joint}; they hold {', '.join(by_name)}")
