"""Points on the surface of arm and gripper for any joint angles: what ``calibration.robot_drift`` projects.

Links are tubes of the UR30's outer sizes, the gripper a few boxes of the 2F-85's; good to one or two centimetres, which
is all the drift check asks of them. Frame ``base``; one row of points is the same material points at every time.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]

SPACING_M = 0.02
BASE, FINGER_RIGHT, FINGER_LEFT = 0, 8, 9
"""Link numbers: 0 the base, i what turns with joint i (the gripper's palm with joint 6), 8 and 9 the fingers."""
_HALF_STROKE_M = 0.0425


class ArmOutline:
    """Surface points of one arm with its gripper.

    Args:
        kinematics: nominal or calibrated kinematics with the cell's tool.
    """

    def __init__(self, kinematics: Kinematics) -> None:
        self._kinematics = kinematics
        d1, _, _, d4, d5, d6 = kinematics.dh.d
        _, a2, a3, _, _, _ = kinematics.dh.a
        parts: list[tuple[int, Array]] = [
            (0, _tube((0, 0, 0), (0, 0, 0.09), 0.110)),
            (1, _tube((0, 0, 0.10), (0, 0, d1 + 0.02), 0.092)),
            (1, _tube((0, 0.125, d1), (0, -0.12, d1), 0.087)),
            (2, _tube((0, 0, 0.12), (0, 0, 0.320), 0.089)),
            (2, _tube((0, 0, 0.215), (a2, 0, 0.215), 0.070)),
            (2, _tube((a2, 0, 0.12), (a2, 0, 0.310), 0.079)),
            (3, _tube((0, 0, -0.03), (0, 0, 0.12), 0.078)),
            (3, _tube((0, 0, 0.055), (a3, 0, 0.055), 0.058)),
            (3, _tube((a3, 0, -0.035), (a3, 0, 0.115), 0.059)),
            (4, _tube((0, 0, 0.115), (0, 0, d4 + 0.07), 0.055)),
            (5, _tube((0, 0, 0.075), (0, 0, d5 + 0.07), 0.055)),
            (6, _tube((0, 0, 0.075), (0, 0, d6), 0.048)),
            (6, _tube((0, 0, d6), (0, 0, d6 + 0.055), 0.038)),
            (6, _box((0, 0, d6 + 0.072), (0.043, 0.030, 0.026))),
            (FINGER_RIGHT, _box((0.012, 0, 0.155), (0.009, 0.014, 0.032), 0.01)),
            (FINGER_LEFT, _box((-0.012, 0, 0.155), (0.009, 0.014, 0.032), 0.01)),
        ]
        self.link_N = np.concatenate([np.full(len(points), link) for link, points in parts]).astype(np.int32)
        self._local = np.concatenate([points for _, points in parts])
        # Tubes are given in the frame that turns with the joint; DH frame i stands fixed to it at the link's far end.
        self._T_frame_body = [
            np.linalg.inv(_fixed(kinematics.dh.a[i], kinematics.dh.d[i], kinematics.dh.alpha[i])) for i in range(6)
        ]

    def points(self, q_T6: ArrayLike, opening_T: ArrayLike) -> Array:
        """Points [T, N, 3] in base, metres, for joint angles [T, 6] in radians and gripper openings [T] (0 to 1)."""
        Q = np.asarray(q_T6, dtype=np.float64).reshape(-1, 6)
        openings = np.broadcast_to(np.asarray(opening_T, dtype=np.float64), len(Q))
        out = np.empty((len(Q), len(self._local), 3))
        for t, (q, opening) in enumerate(zip(Q, openings, strict=True)):
            frames = self._kinematics.forward_all(q.tolist())
            bodies = {0: np.eye(4)}
            bodies.update({i + 1: frames[i] @ self._T_frame_body[i] for i in range(6)})
            for link, side in ((FINGER_RIGHT, 1.0), (FINGER_LEFT, -1.0)):
                bodies[link] = frames[5].copy()  # the fingers slide along x of tool0
                bodies[link][:3, 3] += side * _HALF_STROKE_M * opening * frames[5][:3, 0]
            for link, T in bodies.items():
                mine = self.link_N == link
                out[t, mine] = self._local[mine] @ T[:3, :3].T + T[:3, 3]
        return out


def _fixed(a: float, d: float, alpha: float) -> Array:
    c, s = math.cos(alpha), math.sin(alpha)
    return np.array([[1.0, 0.0, 0.0, a], [0.0, c, -s, 0.0], [0.0, s, c, d], [0.0, 0.0, 0.0, 1.0]])


def _tube(start: tuple[float, float, float], end: tuple[float, float, float], radius: float) -> Array:
    """Side and ends of a cylinder."""
    p, e = np.array(start), np.array(end)
    length = float(np.linalg.norm(e - p))
    axis = (e - p) / length
    side = np.cross(axis, [1.0, 0.0, 0.0] if abs(axis[0]) < 0.9 else [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    other = np.cross(axis, side)
    around = np.arange(0.0, 2.0 * math.pi, SPACING_M / radius)
    ring = np.outer(np.cos(around), side) + np.outer(np.sin(around), other)
    along = np.linspace(0.0, length, max(2, math.ceil(length / SPACING_M) + 1))
    shell = [p + axis * s + radius * ring for s in along]
    caps = [p + axis * s + r * ring[::2] for s in (0.0, length) for r in np.arange(radius - SPACING_M, 0.0, -SPACING_M)]
    return np.concatenate([*shell, *caps])


def _box(centre: tuple[float, float, float], half: tuple[float, float, float], spacing_m: float = SPACING_M) -> Array:
    """Grid on the six faces of a box."""
    axes = [np.linspace(-h, h, max(2, math.ceil(2 * h / spacing_m) + 1)) for h in half]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    on_face = np.any(np.isclose(np.abs(grid), half), axis=1)
    return np.asarray(grid[on_face] + np.array(centre))
