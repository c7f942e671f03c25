"""One trustworthy view of the board: the arm has come to rest, several images agree, corners and pose are averaged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.board import MIN_CORNERS, Board, BoardView, detect, explain_absence
from calibration.poses import transform
from prophrl_nodes.calibrating.samples import View
from robot_bridge.ur_kinematics import JOINT_NAMES

Array = NDArray[np.float64]
Image = NDArray[np.uint8]


class NotStill(RuntimeError):
    """The arm does not come to rest where it is; it may elsewhere."""


class CalibrationStopped(RuntimeError):
    """The run cannot go on: cancelled, the arm stopped, or a device is silent. Samples taken so far are kept."""


@dataclass(frozen=True)
class ArmReading:
    """Joints q [6] rad and their velocities, and ``T_base_tool`` [4, 4] of the same moment as the robot reports it."""

    q: Array
    qd: Array
    T_base_tool: Array
    stamp_ns: int


@dataclass(frozen=True)
class CameraImage:
    """One colour image [H, W, 3] uint8 RGB and when it was taken."""

    image: Image
    stamp_ns: int


class Eyes(Protocol):
    """Where arm readings and images come from. Calls block; they raise ``CalibrationStopped`` on silence or cancel."""

    def arm(self) -> ArmReading:
        """The newest reading, fresh."""

    def image(self, after_ns: int) -> CameraImage:
        """The next image taken after that moment."""

    def check(self) -> None:
        """Raise ``CalibrationStopped`` when the run was cancelled or the arm stopped."""


@dataclass(frozen=True)
class LookSettings:
    """How a view is taken.

    Attributes:
        frames: images with the board that are averaged.
        still_radps, still_s: the arm stands when no joint was faster than this for this long.
        agree_px: two images agree when their common corners differ by less than this on average.
        patience_s: longest wait for the arm to come to rest.
        delay_s: an image's content may be older than its stamp says by this much (exposure, transport).
    """

    frames: int = 5
    still_radps: float = 0.004
    still_s: float = 0.5
    agree_px: float = 0.6
    patience_s: float = 8.0
    delay_s: float = 0.05


@dataclass(frozen=True)
class Look:
    """What came of looking: a view, or why there is none; the last image either way."""

    view: View | None
    image: Image
    problem: str = ""


def look(
    eyes: Eyes,
    board: Board,
    settings: LookSettings | None = None,
    *,
    on_image: Callable[[CameraImage, BoardView | None], None] = lambda image, view: None,
) -> Look:
    """Wait for rest, then average corners and tool pose over several images that agree.

    Args:
        on_image: called with each image and what was found in it.

    Raises:
        CalibrationStopped: cancelled, or no images.
    """
    settings = settings or LookSettings()
    try:
        after_ns = wait_until_still(eyes, settings) + int(settings.delay_s * 1e9)
    except NotStill as restless:
        return Look(None, np.zeros((1, 1, 3), dtype=np.uint8), str(restless))
    kept: list[tuple[BoardView, ArmReading]] = []
    image = np.zeros((1, 1, 3), dtype=np.uint8)
    problem = ""
    for _ in range(3 * settings.frames):
        eyes.check()
        frame = eyes.image(after_ns)
        image, after_ns = frame.image, frame.stamp_ns
        found = detect(image, board)
        on_image(frame, found)
        if found is None:
            problem = explain_absence(image, board)
            if not kept:
                break  # one clear look at a standing arm is enough to know that the board is not there
            continue
        reading = eyes.arm()
        if kept and not _stands(kept[-1][1], reading):
            kept.clear()
            problem = "the arm moved while the camera was looking"
        elif kept and disagreement_px(kept[-1][0], found) > settings.agree_px:
            problem = f"images differ by {disagreement_px(kept[-1][0], found):.2f} px although the arm stands"
            kept.clear()
        kept.append((found, reading))
        if len(kept) == settings.frames:
            return Look(_average(kept), image)
    return Look(None, image, problem)


def wait_until_still(eyes: Eyes, settings: LookSettings) -> int:
    """Wait until no joint has moved for a while; the stamp of the last reading in nanoseconds.

    Raises:
        NotStill: not within the settings' patience.
        CalibrationStopped: cancelled, or the arm is silent.
    """
    began_s = time.monotonic()
    still_since_ns = -1
    while True:
        eyes.check()
        reading = eyes.arm()
        if float(np.abs(reading.qd).max()) > settings.still_radps:
            still_since_ns = -1
        elif still_since_ns < 0:
            still_since_ns = reading.stamp_ns
        elif reading.stamp_ns - still_since_ns >= settings.still_s * 1e9:
            return reading.stamp_ns
        if time.monotonic() - began_s > settings.patience_s:
            worst = int(np.abs(reading.qd).argmax())
            raise NotStill(
                f"the arm does not come to rest: {JOINT_NAMES[worst]} turns at {abs(reading.qd[worst]):.3f} rad/s, "
                f"{settings.patience_s:.0f} s after the move, at {np.round(reading.q, 4).tolist()}; who moves it?"
            )
        time.sleep(0.01)


def disagreement_px(first: BoardView, second: BoardView) -> float:
    """Mean distance in pixels of the corners both views hold; infinite when they share too few."""
    common, i, j = np.intersect1d(first.ids_N, second.ids_N, return_indices=True)
    if len(common) < MIN_CORNERS:
        return float("inf")
    return float(np.linalg.norm(first.corners_px_N2[i] - second.corners_px_N2[j], axis=1).mean())


def _stands(before: ArmReading, now: ArmReading) -> bool:
    return float(np.abs(before.q - now.q).max()) < 1e-3


def _average(kept: list[tuple[BoardView, ArmReading]]) -> View:
    """Corners found in most images, averaged; the tool's mean pose."""
    sums: dict[int, Array] = {}
    counts: dict[int, int] = {}
    for view, _ in kept:
        for i, corner in zip(view.ids_N.tolist(), view.corners_px_N2, strict=True):
            sums[i] = sums.get(i, np.zeros(2)) + corner
            counts[i] = counts.get(i, 0) + 1
    ids = sorted(i for i, count in counts.items() if 2 * count > len(kept))
    first = kept[0][0]
    corners = np.array([sums[i] / counts[i] for i in ids])
    poses = np.array([reading.T_base_tool for _, reading in kept])
    T = transform(poses[:, :3, 3].mean(axis=0), Rotation.from_matrix(poses[:, :3, :3]).mean())
    view = BoardView(np.array(ids, dtype=np.int32), corners, first.width, first.height)
    q = np.mean([reading.q for _, reading in kept], axis=0)
    return View(q, T, view, kept[-1][1].stamp_ns, len(kept))
