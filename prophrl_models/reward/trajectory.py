"""Where a hand was told to go, and what was there before it moved: all that a judge of trajectories looks at.

A world model shows where the arm goes much better than what becomes of the things it meets: whether a grasp a
centimetre beside the middle will hold is in no picture of 96 rows, but it is in the commands and the photograph from
before them. So the photograph is cut out where the hand is told to be, moment by moment. "The hand closes around the
bottle's foot" is then a picture of a bottle in the middle, wherever on the table it stands. T moments, V pixels.
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
_FAR_PX = 10_000.0


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


def views(trajectory: Trajectory, index_T: NDArray[np.int64], size: int, ground_z_m: float) -> Views:
    """Cut-outs of the start picture around the hand at some moments, uint8 [T, V, V, 6] with V = ``size``.

    Channels 0..2 are centred on the point straight below the TCP in the plane z = ``ground_z_m`` of the base, where
    things stand; channels 3..5 on the TCP itself. One camera tells no depth: both together do. What lies outside the
    picture repeats its edge; a point behind the camera shows a corner.
    """
    tcp_T3 = trajectory.state_T7[index_T, :3]
    foot_T3 = np.concatenate([tcp_T3[:, :2], np.full((len(tcp_T3), 1), ground_z_m)], axis=1)
    image = np.ascontiguousarray(trajectory.image_HW3)
    found = np.empty((len(index_T), size, size, 6), np.uint8)
    for first, points_T3 in ((0, foot_T3), (3, tcp_T3)):
        pixels_T2 = np.nan_to_num(trajectory.camera.project(points_T3)[0], nan=-_FAR_PX).clip(-_FAR_PX, _FAR_PX)
        for row, (x, y) in enumerate(pixels_T2.tolist()):
            found[row, ..., first : first + 3] = cv2.getRectSubPix(image, (size, size), (x, y))
    return found


def motion(trajectory: Trajectory, index_T: NDArray[np.int64], ground_z_m: float) -> NDArray[np.float32]:
    """What the cut-outs do not say [T, ``MOTION``]: height, opening, turn (twice the angle of the tool's x axis about
    the vertical, as sine and cosine: a gripper is the same from behind) and the way from the start, each about 1."""
    state = trajectory.state_T7[index_T]
    axis_T3 = Rotation.from_euler("xyz", state[:, 3:6]).as_matrix()[:, :, 0]
    turn = 2.0 * np.arctan2(axis_T3[:, 1], axis_T3[:, 0])
    way = 3.0 * (state[:, :2] - trajectory.state_T7[0, :2])
    height = 5.0 * (state[:, 2] - ground_z_m) - 1.0
    return np.stack([height, state[:, 6], np.cos(turn), np.sin(turn), way[:, 0], way[:, 1]], axis=1).astype(np.float32)
