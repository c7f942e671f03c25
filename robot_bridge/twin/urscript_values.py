"""Values of URScript: lists with value semantics and element-wise arithmetic, poses, and the arithmetic of poses.

A pose is ``p[x, y, z, rx, ry, rz]``: metres and a rotation vector in radians. Everything here is plain floats, because
it runs inside the controller's 2 ms frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from robot_bridge.ur_kinematics import Rows, multiply

T = TypeVar("T")


class List(list[Any]):
    """A URScript list or vector: ``+ - * /`` work element by element."""

    def _with(self, values: Iterable[Any]) -> List:
        return type(self)(values)

    def __add__(self, other: Any) -> List:
        return self._with(a + b for a, b in _pairs(self, other))

    def __sub__(self, other: Any) -> List:
        return self._with(a - b for a, b in _pairs(self, other))

    def __mul__(self, other: Any) -> List:
        return self._with(a * b for a, b in _pairs(self, other))

    def __rmul__(self, other: Any) -> List:
        return self.__mul__(other)

    def __radd__(self, other: Any) -> List:
        return self.__add__(other)

    def __truediv__(self, other: Any) -> List:
        return self._with(a / b for a, b in _pairs(self, other))

    def __neg__(self) -> List:
        return self._with(-a for a in self)


class Pose(List):
    """A URScript pose; a type of its own because ``movej`` reads a list as joint angles and a pose as a TCP pose."""

    def __str__(self) -> str:
        return "p" + super().__str__()


def _pairs(a: List, b: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(b, list):
        if len(a) != len(b):
            raise ValueError(f"lists of {len(a)} and {len(b)} elements cannot be combined")
        return zip(a, b, strict=True)
    return ((value, b) for value in a)


def copy_value(value: T) -> T:
    """The value itself, or a copy of a list (nested lists too): assignment copies in URScript."""
    if isinstance(value, list):
        if value and isinstance(value[0], list):
            return type(value)(copy_value(item) for item in value)
        return type(value)(value)
    return value


def to_text(value: Any) -> str:
    """A value as the controller prints it in its log."""
    if isinstance(value, bool):
        return "True" if value else "False"
    if isinstance(value, list):
        return ("p[" if isinstance(value, Pose) else "[") + ",".join(to_text(v) for v in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- poses -----------------------------------------------------------------------------------------------------------

IDENTITY: Rows = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def rows_of_pose(pose: Sequence[float]) -> Rows:
    """Transform of a pose."""
    x, y, z, rx, ry, rz = pose
    angle = math.sqrt(rx * rx + ry * ry + rz * rz)
    if angle < 1e-12:
        return (1.0, -rz, ry, x, rz, 1.0, -rx, y, -ry, rx, 1.0, z)
    ux, uy, uz = rx / angle, ry / angle, rz / angle
    c, s = math.cos(angle), math.sin(angle)
    v = 1.0 - c
    return (
        ux * ux * v + c,
        ux * uy * v - uz * s,
        ux * uz * v + uy * s,
        x,
        ux * uy * v + uz * s,
        uy * uy * v + c,
        uy * uz * v - ux * s,
        y,
        ux * uz * v - uy * s,
        uy * uz * v + ux * s,
        uz * uz * v + c,
        z,
    )


def pose_of_rows(rows: Rows) -> Pose:
    """Pose of a transform; the rotation vector's angle lies in [0, pi]."""
    r00, r01, r02, x, r10, r11, r12, y, r20, r21, r22, z = rows
    sx, sy, sz = r21 - r12, r02 - r20, r10 - r01  # 2 sin(angle) * axis
    sine = 0.5 * math.sqrt(sx * sx + sy * sy + sz * sz)
    angle = math.atan2(sine, 0.5 * (r00 + r11 + r22 - 1.0))
    if sine > 1e-6:
        k = 0.5 * angle / sine
        return Pose((x, y, z, sx * k, sy * k, sz * k))
    if angle < 1.0:
        return Pose((x, y, z, 0.5 * sx, 0.5 * sy, 0.5 * sz))
    # Half a turn: the axis is the column of (R + 1) with the largest diagonal.
    columns = ((r00 + 1.0, r10, r20), (r01, r11 + 1.0, r21), (r02, r12, r22 + 1.0))
    ax, ay, az = max(columns, key=lambda c: c[0] * c[0] + c[1] * c[1] + c[2] * c[2])
    sign = -1.0 if sx * ax + sy * ay + sz * az < 0.0 else 1.0
    k = sign * angle / math.sqrt(ax * ax + ay * ay + az * az)
    return Pose((x, y, z, ax * k, ay * k, az * k))


def invert(a: Rows) -> Rows:
    """Inverse of a rigid transform."""
    r00, r01, r02, x, r10, r11, r12, y, r20, r21, r22, z = a
    return (
        r00, r10, r20, -(r00 * x + r10 * y + r20 * z),
        r01, r11, r21, -(r01 * x + r11 * y + r21 * z),
        r02, r12, r22, -(r02 * x + r12 * y + r22 * z),
    )  # fmt: skip


def pose_trans(a: Sequence[float], b: Sequence[float]) -> Pose:
    """``T_a @ T_b``."""
    return pose_of_rows(multiply(rows_of_pose(a), rows_of_pose(b)))


def pose_inv(a: Sequence[float]) -> Pose:
    """Inverse transform."""
    return pose_of_rows(invert(rows_of_pose(a)))


def pose_add(a: Sequence[float], b: Sequence[float]) -> Pose:
    """Positions added, rotations composed ``R_a @ R_b``."""
    rotated = pose_of_rows(multiply(rows_of_pose((0, 0, 0, *a[3:])), rows_of_pose((0, 0, 0, *b[3:]))))
    return Pose((a[0] + b[0], a[1] + b[1], a[2] + b[2], *rotated[3:]))


def pose_sub(a: Sequence[float], b: Sequence[float]) -> Pose:
    """Positions subtracted, rotation ``R_a @ R_b^-1``."""
    rotated = pose_of_rows(multiply(rows_of_pose((0, 0, 0, *a[3:])), invert(rows_of_pose((0, 0, 0, *b[3:])))))
    return Pose((a[0] - b[0], a[1] - b[1], a[2] - b[2], *rotated[3:]))


def pose_dist(a: Sequence[float], b: Sequence[float]) -> float:
    """Norm of the six differences, metres and radians alike, as the controller defines it."""
    return norm(pose_sub(a, b))


def point_dist(a: Sequence[float], b: Sequence[float]) -> float:
    """Distance between two positions, metres."""
    return math.dist(a[:3], b[:3])


def interpolate_pose(a: Sequence[float], b: Sequence[float], alpha: float) -> Pose:
    """Straight line in position and constant-rate rotation from a (alpha 0) to b (alpha 1)."""
    rows_a = rows_of_pose((0.0, 0.0, 0.0, *a[3:]))
    turn = pose_of_rows(multiply(invert(rows_a), rows_of_pose((0.0, 0.0, 0.0, *b[3:]))))
    rotated = pose_of_rows(multiply(rows_a, rows_of_pose((0.0, 0.0, 0.0, *(alpha * r for r in turn[3:])))))
    return Pose((*(p + alpha * (q - p) for p, q in zip(a[:3], b[:3], strict=True)), *rotated[3:]))


def norm(a: Any) -> float:
    """Euclidean norm of a list, absolute value of a number."""
    return math.sqrt(sum(x * x for x in a)) if isinstance(a, list) else abs(float(a))


def rpy2rotvec(rpy: Sequence[float]) -> List:
    """Rotation vector of roll, pitch, yaw about fixed x, y, z (radians)."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a), math.sin(a)) for a in rpy)
    rows: Rows = (
        cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr, 0.0,
        sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr, 0.0,
        -sp, cp * sr, cp * cr, 0.0,
    )  # fmt: skip
    return List(pose_of_rows(rows)[3:])


def rotvec2rpy(rotation_vector: Sequence[float]) -> List:
    """Roll, pitch, yaw about fixed x, y, z (radians) of a rotation vector."""
    r = rows_of_pose((0.0, 0.0, 0.0, *rotation_vector))
    return List((math.atan2(r[9], r[10]), math.atan2(-r[8], math.hypot(r[9], r[10])), math.atan2(r[4], r[0])))
