"""Words and a picture for the person at the leader: how the jig pose looks, and which way each joint is turned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robot_bridge.leader_calibration import SERVO_NAMES
from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]

_COLUMNS_PER_M, _ROWS_PER_M = 34.0, 14.0  # a character is about 2.4 times as tall as it is wide
_UP = np.array([0.0, 0.0, 1.0])


def forward_axis(q_6: Sequence[float]) -> Array:
    """Horizontal direction [3] in base towards which the arm reaches at these joint angles (that of the base joint)."""
    return np.array([-math.cos(q_6[0]), -math.sin(q_6[0]), 0.0])


def positive_motion(kinematics: Kinematics, q_6: Sequence[float], joint: int) -> str:
    """What turning one joint in its positive direction does, seen by a person who stands behind the base.

    Args:
        kinematics: of the follower; the leader is a small copy of it.
        q_6: joint angles in radians from which it is turned.
        joint: 0 base to 5 wrist 3.
    """
    column = kinematics.jacobian(list(q_6))[:, joint]
    axis = column[3:]
    ahead = forward_axis(q_6)
    frames = [np.eye(4), *kinematics.forward_all(list(q_6))]
    pivot, tip = frames[joint][:3, 3], frames[-1][:3, 3]
    swing = np.cross(axis, tip - pivot)
    directions = {
        "forward": ahead,
        "back": -ahead,
        "left": np.cross(_UP, ahead),
        "right": -np.cross(_UP, ahead),
        "up": _UP,
        "down": -_UP,
    }
    parts = {name: float(swing @ direction) for name, direction in directions.items()}
    wanted = sorted((name for name in parts if parts[name] > 0.05), key=lambda name: -parts[name])[:2]
    words = []
    if wanted:
        if len(wanted) == 2 and parts[wanted[1]] < 0.4 * parts[wanted[0]]:
            wanted = wanted[:1]
        words.append(f"so that the gripper moves {' and '.join(wanted)}")
    if abs(axis[2]) > 0.7:
        words.append(f"{'counter-clockwise' if axis[2] > 0 else 'clockwise'} seen from above")
    if not words:
        sense = "counter-clockwise" if float(axis @ ahead) < 0 else "clockwise"
        words.append(f"{sense} seen from behind the base")
    return f"{SERVO_NAMES[joint]}: turn it {', '.join(words)}"


def jig_picture(kinematics: Kinematics, q_6: Sequence[float]) -> str:
    """The arm in this pose from its left side as text, base at the left, with the joint angles beside it."""
    frames = [np.eye(4), *kinematics.forward_all(list(q_6))]
    ahead = forward_axis(q_6)
    points = [(float(T[:3, 3] @ ahead), float(T[2, 3])) for T in frames]
    left, top = min(x for x, _ in points), max(z for _, z in points)
    bottom, right = min(z for _, z in points), max(x for x, _ in points)
    width = round((right - left) * _COLUMNS_PER_M) + 1
    height = round((top - bottom) * _ROWS_PER_M) + 1
    grid = [[" "] * width for _ in range(height)]
    cells = [(round((x - left) * _COLUMNS_PER_M), round((top - z) * _ROWS_PER_M)) for x, z in points]
    for (c0, r0), (c1, r1) in itertools.pairwise(cells):
        steps = max(abs(c1 - c0), abs(r1 - r0))
        mark = "-" if abs(c1 - c0) > 2 * abs(r1 - r0) else "|" if abs(r1 - r0) >= abs(c1 - c0) else "."
        for k in range(1, steps):
            grid[round(r0 + (r1 - r0) * k / steps)][round(c0 + (c1 - c0) * k / steps)] = mark
    for (column, row), mark in zip(cells, ("#", "o", "o", "o", "o", "o", "o", "v"), strict=True):
        grid[row][column] = mark
    picture = ["".join(line).rstrip() for line in grid] + ["#" * 3 + "  base; the leader reaches to the right"]
    angles = [f"{name:<9}{math.degrees(q):7.1f} deg" for name, q in zip(SERVO_NAMES, q_6, strict=False)]
    rows = max(len(picture), len(angles))
    gap = max(width + 6, 44)
    lines = [
        f"{picture[i] if i < len(picture) else '':<{gap}}{angles[i] if i < len(angles) else ''}".rstrip()
        for i in range(rows)
    ]
    return "\n".join("    " + line for line in lines)
