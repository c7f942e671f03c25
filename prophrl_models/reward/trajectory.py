"""Where a hand was told to go, and what was there before it moved: all that a judge of trajectories looks at.

A world model shows where the arm goes much better than what becomes of the things it meets: whether a grasp a
centimetre beside the middle will hold is in no picture of 96 rows, but it is in the commands and the photograph from
before them. So the photograph is looked at, moment by moment, from above where the hand is told to be, turned as the
hand is. "The fingers come down beside the cube" is then the same picture wherever on the table the cube lies and
however the hand is turned: what one attempt taught holds for all. T moments, V pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from prophrl_models.reward.judge import JudgeError

Views = NDArray[np.uint8]
Array = NDArray[np.float64]

MOTION = 6
"""Numbers that ``motion`` gives for a moment."""
_CORNERS_42 = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


@dataclass(frozen=True)
class Trajectory:
    """A start picture and the states that the commands add up to.

    Attributes:
        image_HW3: RGB uint8, from before the first action.
        state_T7: ``[x y z ex ey ez opening]`` at the start and after each action, metres, radians (Euler xyz) and 0..1,
            base frame; integrated from the actions, as nothing else is known in imagination.
        camera: of the picture.

    Raises:
        JudgeError: shapes or sizes that do not go together, or numbers that are not finite.
    """

    image_HW3: Views
    state_T7: Array
    camera: PinholeCamera

    def __post_init__(self) -> None:
        image, state = self.image_HW3, self.state_T7
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise JudgeError(f"a start picture is uint8 RGB [H, W, 3], got {image.dtype} {image.shape}")
        if (self.camera.height, self.camera.width) != image.shape[:2]:
            raise JudgeError(
                f"the camera is of a picture of {self.camera.width}x{self.camera.height}, the start picture has "
                f"{image.shape[1]}x{image.shape[0]}; give camera.resized(width, height)"
            )
        if state.ndim != 2 or state.shape[1] != 7 or not len(state) or not np.isfinite(state).all():
            raise JudgeError(f"states of a trajectory must be finite [T, 7], got {state.shape}")

    def moved(self, x_m: float, y_m: float) -> Trajectory:
        """The same motion elsewhere over the same table."""
        shift = np.array([x_m, y_m, 0.0, 0.0, 0.0, 0.0, 0.0])
        return Trajectory(self.image_HW3, self.state_T7 + shift, self.camera)

    def resized(self, height: int, width: int) -> Trajectory:
        """With a start picture of another size."""
        if self.image_HW3.shape[:2] == (height, width):
            return self
        how = cv2.INTER_AREA if height < self.image_HW3.shape[0] else cv2.INTER_CUBIC
        image = np.asarray(cv2.resize(self.image_HW3, (width, height), interpolation=how), np.uint8)
        return Trajectory(image, self.state_T7, self.camera.resized(width, height))


def views(trajectory: Trajectory, index_T: NDArray[np.int64], size: int, side_m: float, ground_z_m: float) -> Views:
    """The start picture from above the hand at some moments, uint8 [T, V, V, 6] with V = ``size``.

    Squares of ``side_m``, columns along the tool's x axis. Channels 0..2 show the plane z = ``ground_z_m`` of the base,
    where things stand, around the point straight below the TCP; channels 3..5 the plane through the TCP, around it. One
    camera tells no depth: both together do. What lies outside the picture repeats its edge; squares that reach behind
    the camera are black.
    """
    state_T7 = trajectory.state_T7[index_T]
    x_T2 = tool_x(state_T7)
    y_T2 = np.stack([-x_T2[:, 1], x_T2[:, 0]], axis=1)
    way_42 = _CORNERS_42 * (side_m / 2.0)
    square_T42 = state_T7[:, None, :2] + way_42[:, :1] * x_T2[:, None] + way_42[:, 1:] * y_T2[:, None]
    found = np.zeros((len(index_T), size, size, 6), np.uint8)
    for first, z_T in ((0, np.full(len(index_T), ground_z_m)), (3, state_T7[:, 2])):
        for row, (square_42, z_m) in enumerate(zip(square_T42, z_T.tolist(), strict=True)):
            found[row, ..., first : first + 3] = _from_above(trajectory, square_42, z_m, size)
    return found


def _from_above(trajectory: Trajectory, square_42: Array, z_m: float, size: int) -> Views:
    """A square of a horizontal plane [V, V, 3]; its corners in the order of ``_CORNERS_42``."""
    pixels_42, _ = trajectory.camera.project(np.column_stack([square_42, np.full(4, z_m)]))
    if np.isnan(pixels_42).any():
        return np.zeros((size, size, 3), np.uint8)
    corners_42 = ((_CORNERS_42 + 1.0) * ((size - 1) / 2.0)).astype(np.float32)
    to_image_33 = cv2.getPerspectiveTransform(corners_42, pixels_42.astype(np.float32))
    seen = cv2.warpPerspective(
        np.ascontiguousarray(trajectory.image_HW3), to_image_33, (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return np.asarray(seen, np.uint8)


def tool_x(state_T7: Array) -> Array:
    """Unit vectors [T, 2] of the tool's x axis in the table's plane."""
    axis_T2: Array = Rotation.from_euler("xyz", state_T7[:, 3:6]).as_matrix()[:, :2, 0]
    length_T1 = np.linalg.norm(axis_T2, axis=1, keepdims=True)
    return np.asarray(axis_T2 / np.maximum(length_T1, 1e-9), np.float64)


def motion(trajectory: Trajectory, index_T: NDArray[np.int64], ground_z_m: float) -> NDArray[np.float32]:
    """What the squares do not say [T, ``MOTION``]: height, opening, turn (twice the angle of the tool's x axis about
    the vertical, as sine and cosine: a gripper is the same from behind) and the way from the start, each about 1."""
    state = trajectory.state_T7[index_T]
    x_T2 = tool_x(state)
    turn = 2.0 * np.arctan2(x_T2[:, 1], x_T2[:, 0])
    way = 3.0 * (state[:, :2] - trajectory.state_T7[0, :2])
    height = 5.0 * (state[:, 2] - ground_z_m) - 1.0
    return np.stack([height, state[:, 6], np.cos(turn), np.sin(turn), way[:, 0], way[:, 1]], axis=1).astype(np.float32)
