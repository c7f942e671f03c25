"""Pictures of a calibration board as a given camera would take them, by exact warping of the printed board."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.board import Board
from calibration.camera import PinholeCamera
from calibration.poses import transform

Array = NDArray[np.float64]


def facing(board: Board, distance_m: float, rotvec: Array, aside_m: tuple[float, float] = (0.0, 0.0)) -> Array:
    """``T_camera_board`` of a board whose centre stands before the camera, turned by a rotation vector."""
    rotation = Rotation.from_rotvec(rotvec)
    width, height = board.size_m
    return transform(np.array([*aside_m, distance_m]) - rotation.apply([width / 2, height / 2, 0.0]), rotation)


def take_picture(
    board: Board,
    T_camera_board: Array,
    camera: PinholeCamera,
    rng: np.random.Generator,
    *,
    noise_grey: float = 2.0,
    blur_px: float = 0.5,
    margin_squares: float = 0.5,
) -> NDArray[np.uint8]:
    """The board on a grey wall [H, W] uint8: lens distortion, four-fold supersampling, blur and noise."""
    texture_px, fine = 60, 4
    texture = board.image(texture_px, margin_squares)
    left, top, right, bottom = _box(board, T_camera_board, camera, margin_squares)
    image = np.full((camera.height, camera.width), 140.0, dtype=np.float32)
    if right > left and bottom > top:
        y, x = np.mgrid[fine * top : fine * bottom, fine * left : fine * right]
        pixels = (np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) / fine - 0.5
        if camera.distortion is None:
            rays = (pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
        else:
            rays = cv2.undistortPoints(pixels.reshape(-1, 1, 2), camera.K, camera.distortion).reshape(-1, 2)
        board_of_ray = np.linalg.inv(T_camera_board[:3, [0, 1, 3]])
        on_board = np.column_stack([rays, np.ones(len(rays))]) @ board_of_ray.T
        on_board = (on_board[:, :2] / on_board[:, 2:] / board.square_m + margin_squares) * texture_px - 0.5
        maps = on_board.astype(np.float32).reshape(*x.shape, 2)
        # Where the samples of a pixel are not enough, the texture is averaged first.
        step = float(np.median(np.abs(np.diff(maps[:, :, 0], axis=1))))
        smooth = cv2.GaussianBlur(texture, (0, 0), max(0.3, 0.4 * step))
        drawn = cv2.remap(smooth, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderValue=140).astype(np.float32)
        size = (right - left, bottom - top)
        image[top:bottom, left:right] = cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(40.0 + 0.7 * image, (0, 0), blur_px)
    return np.clip(np.rint(image + rng.normal(0.0, noise_grey, image.shape)), 0, 255).astype(np.uint8)


def _box(
    board: Board, T_camera_board: Array, camera: PinholeCamera, margin_squares: float
) -> tuple[int, int, int, int]:
    """Part of the image that the board covers: left, top, right, bottom."""
    margin = margin_squares * board.square_m
    width, height = board.size_m
    along = np.linspace(0.0, 1.0, 9)
    x, y = np.meshgrid(-margin + along * (width + 2 * margin), -margin + along * (height + 2 * margin))
    points = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    pixels, _ = camera.project(points @ T_camera_board[:3, :3].T + T_camera_board[:3, 3])
    low = np.clip(np.floor(pixels.min(axis=0)) - 4, 0, [camera.width, camera.height]).astype(int)
    high = np.clip(np.ceil(pixels.max(axis=0)) + 5, 0, [camera.width, camera.height]).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def true_corners(board: Board, T_camera_board: Array, camera: PinholeCamera) -> Array:
    """Where the board's corners are in the picture, [N, 2] by id."""
    points = board.corners_board_N3 @ T_camera_board[:3, :3].T + T_camera_board[:3, 3]
    return camera.project(points)[0]
