"""The camera's image with the board's corners and the state of the calibration drawn in, for the operator."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.board import Board, BoardView
from calibration.camera import PinholeCamera

Image = NDArray[np.uint8]
Array = NDArray[np.float64]

CORNER, TEXT, SHADE = (40, 230, 60), (255, 255, 255), (0, 0, 0)


def draw(
    image: Image,
    view: BoardView | None,
    lines: Sequence[str],
    *,
    board: Board,
    camera: PinholeCamera | None = None,
    T_camera_board: Array | None = None,
) -> Image:
    """A copy of an image [H, W, 3] RGB with corners, the board's axes (x red, y green, z blue) and lines of text."""
    picture = np.ascontiguousarray(image).copy()
    if view is not None:
        for x, y in view.corners_px_N2:
            cv2.circle(picture, (round(float(x)), round(float(y))), 3, CORNER, 1, cv2.LINE_AA)
    if camera is not None and T_camera_board is not None:
        rotation = cv2.Rodrigues(T_camera_board[:3, :3])[0]
        distortion = np.zeros(5) if camera.distortion is None else camera.distortion
        swapped = np.ascontiguousarray(picture[..., ::-1])  # OpenCV means BGR when it draws x red
        cv2.drawFrameAxes(swapped, camera.K, distortion, rotation, T_camera_board[:3, 3], 2 * board.square_m, 2)
        picture = np.ascontiguousarray(swapped[..., ::-1])
    scale = image.shape[0] / 480.0
    for i, line in enumerate(lines):
        at = (round(8 * scale), round((20 + 20 * i) * scale))
        for colour, thickness in ((SHADE, 3), (TEXT, 1)):
            cv2.putText(picture, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * scale, colour, thickness, cv2.LINE_AA)
    return picture
