"""Arm poses from which a calibration board is in view, and how far detected corners are from the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from calibration.board import DEFAULT_BOARD, detect
from calibration.camera import PinholeCamera
from robot_bridge.twin.world import World
from robot_bridge.ur_kinematics import Kinematics, Unreachable


@dataclass(frozen=True)
class CornerErrors:
    """Detected minus projected corners [N, 2] in pixels."""

    pixels_N2: np.ndarray

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(np.sum(self.pixels_N2**2, axis=1))))

    def __str__(self) -> str:
        distance = np.linalg.norm(self.pixels_N2, axis=1)
        mean = self.pixels_N2.mean(axis=0)
        return (
            f"{len(distance)} corners: mean ({mean[0]:+.4f}, {mean[1]:+.4f}) px, rms {self.rms:.3f}, "
            f"p95 {np.quantile(distance, 0.95):.3f}, max {distance.max():.3f}"
        )


def corner_errors(image: np.ndarray, camera: PinholeCamera, T_base_board: np.ndarray) -> CornerErrors:
    view = detect(image, DEFAULT_BOARD)
    assert view is not None, "no board found in the image"
    points = DEFAULT_BOARD.corners_board_N3[view.ids_N] @ T_base_board[:3, :3].T + T_base_board[:3, 3]
    return CornerErrors(view.corners_px_N2 - camera.project(points)[0])


def diverse_poses(
    world: World,
    center_m: tuple[float, float, float],
    count: int,
    spread_m: tuple[float, float, float] = (0.12, 0.15, 0.08),
    tilt_rad: float = 0.5,
) -> Iterator[World]:
    """The world with the arm at poses around a point, at which the tool would point straight down."""
    rng = np.random.default_rng(0)
    kinematics = Kinematics(deltas=world.deltas)
    T_down, q_near = world.T_base_tcp, world.q
    T_down[:3, 3] = center_m
    visited = 0
    while visited < count:
        T = T_down.copy()
        T[:3, :3] = T_down[:3, :3] @ Rotation.from_rotvec(rng.uniform(-tilt_rad, tilt_rad, 3)).as_matrix()
        T[:3, 3] += rng.uniform(-1.0, 1.0, 3) * spread_m
        try:
            world.reset(None, q=kinematics.inverse(T, q_near))
        except Unreachable:
            continue
        visited += 1
        yield world
