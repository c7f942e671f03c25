"""Kinematics of the UR30: forward, geometric Jacobian and closed-form inverse, in plain Python floats.

Frames: ``base`` is the UR controller's base (not ROS ``base_link``), ``tcp`` is the tool centre point; poses are
4x4 ``T_base_tcp`` in metres, joint angles radians, in the order base, shoulder, elbow, wrist 1, 2, 3.

The inverse is our own closed form for the UR geometry (three parallel axes 2, 3, 4), which has up to eight
branches. A calibrated arm deviates from that geometry by about a millimetre; its exact answer is reached from the
closed form by Newton steps with the true Jacobian. Everything on the way is scalar arithmetic: at this size numpy's
call overhead costs more than the computation, and the servo loop calls in here 500 times a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.ur_dh import UR30_DH, DhDeltas, DhTable

__all__ = [
    "JOINT_NAMES",
    "JOINT_POSITION_LIMITS_RAD",
    "JOINT_SPEED_LIMITS_RADPS",
    "TWO_PI",
    "UR30_DH",
    "DhDeltas",
    "DhTable",
    "Kinematics",
    "Rows",
    "Unreachable",
]

Array = NDArray[np.float64]
Rows = tuple[float, float, float, float, float, float, float, float, float, float, float, float]
"""The upper three rows of a 4x4 transform, row by row."""

TWO_PI = 2.0 * math.pi
JOINT_NAMES = (
    "shoulder_pan_joint",
    "shoulder_lift_joint",
    "elbow_joint",
    "wrist_1_joint",
    "wrist_2_joint",
    "wrist_3_joint",
)
JOINT_POSITION_LIMITS_RAD = (TWO_PI,) * 6
"""Symmetric position limits of the UR30 (every joint turns one full turn each way)."""
JOINT_SPEED_LIMITS_RADPS = tuple(math.radians(v) for v in (120.0, 120.0, 150.0, 210.0, 210.0, 210.0))
"""Speed limits of the UR30's own joints (UR data sheet); the safety envelope stays far below them."""

_SINGULAR_SIN_Q5 = 1e-7
"""Below this |sin q5| axes 4 and 6 are one line: only q4 + q6 is defined, so q6 is kept where it is."""
_FAR_SQUARE_RAD2 = 0.01
"""A calibrated answer farther than this from where the arm is deserves a second look from there."""


class Unreachable(ValueError):
    """No joint angles reach the pose; carries ``T_base_tcp`` [4, 4] and ``reason``."""

    def __init__(self, T_base_tcp: ArrayLike, reason: str) -> None:
        self.T_base_tcp = np.array(T_base_tcp, dtype=np.float64)
        self.reason = reason
        position = ", ".join(f"{value:.3f}" for value in self.T_base_tcp[:3, 3])
        super().__init__(f"TCP pose at ({position}) m in base is out of reach: {reason}; choose a pose nearer the arm")


class Kinematics:
    """Kinematics of one arm with one tool.

    Args:
        dh: nominal DH table; the closed form needs UR geometry (alpha pi/2, 0, 0, pi/2, -pi/2, 0).
        tool: ``T_tool0_tcp`` [4, 4]; None means the project's gripper, 0.174 m along the flange axis.
        deltas: this arm's calibration; None for the nominal arm.
    """

    def __init__(self, dh: DhTable = UR30_DH, tool: ArrayLike | None = None, deltas: DhDeltas | None = None) -> None:
        if any(abs(a - b) > 1e-9 for a, b in zip(dh.alpha, UR30_DH.alpha, strict=True)) or any(dh.theta):
            raise ValueError(
                f"the nominal table must have UR geometry, got alpha {dh.alpha}; pass deviations as deltas"
            )
        self.dh = dh
        self.deltas = deltas
        T_tool = np.eye(4) if tool is None else np.array(tool, dtype=np.float64)
        if tool is None:
            T_tool[2, 3] = 0.174
        if T_tool.shape != (4, 4):
            raise ValueError(f"tool must be a 4x4 transform T_tool0_tcp, got shape {T_tool.shape}")
        self.T_tool0_tcp = T_tool
        T_tcp_tool = np.eye(4)
        T_tcp_tool[:3, :3] = T_tool[:3, :3].T
        T_tcp_tool[:3, 3] = -T_tool[:3, :3].T @ T_tool[:3, 3]
        self._tool = _rows(T_tool)
        self._tool_inverse = _rows(T_tcp_tool)
        true = dh if deltas is None else deltas.added_to(dh)
        # (a, d, cos alpha, sin alpha, theta) per link; cosines of exactly pi/2 are snapped to 0.
        self._links = tuple(
            (a, d, _snap(math.cos(alpha)), _snap(math.sin(alpha)), theta)
            for a, d, alpha, theta in zip(true.a, true.d, true.alpha, true.theta, strict=True)
        )

    # --- forward -------------------------------------------------------------------------------------------------

    def forward(self, q: Sequence[float] | Array) -> Array:
        """``T_base_tcp`` [4, 4] at joint angles q [6]."""
        return _matrix(self.forward_rows(q))

    def forward_rows(self, q: Sequence[float] | Array) -> Rows:
        """``forward`` as twelve plain floats (upper three rows): the cheap form for the servo loop."""
        return multiply(self._frames(q)[-1], self._tool)

    def forward_all(self, q: Sequence[float] | Array) -> Array:
        """Frames [7, 4, 4] in ``base``: the six DH frames (the sixth is tool0), then the TCP."""
        frames = self._frames(q)[1:]
        return np.stack([_matrix(rows) for rows in [*frames, multiply(frames[-1], self._tool)]])

    def _frames(self, q: Sequence[float] | Array) -> list[Rows]:
        xx, xy, xz = 1.0, 0.0, 0.0  # columns of the running rotation and its origin
        yx, yy, yz = 0.0, 1.0, 0.0
        zx, zy, zz = 0.0, 0.0, 1.0
        px, py, pz = 0.0, 0.0, 0.0
        frames: list[Rows] = [(1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)]
        for angle, (a, d, ca, sa, theta) in zip(q, self._links, strict=True):
            angle = float(angle) + theta
            c, s = math.cos(angle), math.sin(angle)
            nx, ny, nz = xx * c + yx * s, xy * c + yy * s, xz * c + yz * s
            bx, by, bz = yx * c - xx * s, yy * c - xy * s, yz * c - xz * s
            px, py, pz = px + d * zx + a * nx, py + d * zy + a * ny, pz + d * zz + a * nz
            xx, xy, xz = nx, ny, nz
            yx, yy, yz, zx, zy, zz = (
                bx * ca + zx * sa,
                by * ca + zy * sa,
                bz * ca + zz * sa,
                zx * ca - bx * sa,
                zy * ca - by * sa,
                zz * ca - bz * sa,
            )
            frames.append((xx, yx, zx, px, xy, yy, zy, py, xz, yz, zz, pz))
        return frames

    def jacobian(self, q: Sequence[float] | Array) -> Array:
        """Geometric Jacobian [6, 6] at the TCP in ``base``: rows linear velocity, then angular velocity."""
        frames = self._frames(q)
        tcp = multiply(frames[-1], self._tool)
        return np.array(self._jacobian_columns(frames, tcp)).T

    def _jacobian_columns(self, frames: list[Rows], tcp: Rows) -> list[list[float]]:
        columns = []
        for frame in frames[:6]:
            zx, zy, zz = frame[2], frame[6], frame[10]
            rx, ry, rz = tcp[3] - frame[3], tcp[7] - frame[7], tcp[11] - frame[11]
            columns.append([zy * rz - zz * ry, zz * rx - zx * rz, zx * ry - zy * rx, zx, zy, zz])
        return columns

    # --- inverse -------------------------------------------------------------------------------------------------

    def inverse(self, T_base_tcp: ArrayLike, q_near: Sequence[float] | Array) -> Array:
        """Joint angles [6] that reach a pose, nearest to ``q_near`` [6] in the sum of squares.

        Whole turns are chosen joint by joint within the position limits. With the wrist straight (q5 = 0) q6 is
        not determined by the pose: it stays at ``q_near``.

        Raises:
            Unreachable: no branch reaches the pose, or Newton's steps for a calibrated arm do not converge.
        """
        near = [float(value) for value in q_near]
        rows = _rows(np.asarray(T_base_tcp, dtype=np.float64))
        if not all(map(math.isfinite, rows)):
            raise Unreachable(T_base_tcp, "it contains NaN or infinity")
        branches, reason = self._branches(rows, near[5])
        for branch in branches:
            for i in range(6):
                branch[i] = _nearest_turn(branch[i], near[i], JOINT_POSITION_LIMITS_RAD[i])
        branches.sort(key=lambda branch: _square_distance(branch, near))
        if self.deltas is None:
            if not branches:
                raise Unreachable(T_base_tcp, reason)
            return np.array(branches[0])
        for branch in branches:
            polished = self._polish(rows, branch)
            if polished is not None:
                break
        else:
            polished = None
        if polished is None or _square_distance(polished, near) > _FAR_SQUARE_RAD2:
            # Beside a straight wrist or arm the nominal branches lie far from the calibrated answer next door.
            neighbour = self._polish(rows, near)
            if neighbour is not None and (
                polished is None or _square_distance(neighbour, near) < _square_distance(polished, near)
            ):
                polished = neighbour
        if polished is None or any(
            abs(value) > limit for value, limit in zip(polished, JOINT_POSITION_LIMITS_RAD, strict=True)
        ):
            reason = reason or "Newton's steps with the calibrated DH table do not converge (a singular posture)"
            raise Unreachable(T_base_tcp, reason)
        return np.array(polished)

    def all_inverse(self, T_base_tcp: ArrayLike, q6_singular: float = 0.0) -> list[Array]:
        """Every branch [6] (at most eight, angles in (-pi, pi]); ``q6_singular`` is used where q6 is free.

        Raises:
            Unreachable: no branch reaches the pose.
        """
        rows = _rows(np.asarray(T_base_tcp, dtype=np.float64))
        branches, reason = self._branches(rows, q6_singular)
        if self.deltas is not None:
            branches = [polished for branch in branches if (polished := self._polish(rows, branch)) is not None]
        if not branches:
            raise Unreachable(T_base_tcp, reason or "no branch converges with the calibrated DH table")
        return [np.array([_nearest_turn(value, 0.0, math.pi + 1e-9) for value in branch]) for branch in branches]

    def _branches(self, tcp: Rows, q6_free: float) -> tuple[list[list[float]], str]:
        """Closed form on the nominal geometry: all branches, and why there are none."""
        _, a2, a3, _, _, _ = self.dh.a
        d1, _, _, d4, d5, d6 = self.dh.d
        xx, yx, zx, px, xy, yy, zy, py, xz, yz, zz, pz = multiply(tcp, self._tool_inverse)
        # Wrist centre: the point where axes 5 and 6 meet lies at distance d4 beside the arm's vertical plane.
        wx, wy = px - d6 * zx, py - d6 * zy
        radius = math.hypot(wx, wy)
        if radius < abs(d4) - 1e-9:
            return [], f"the wrist centre is {radius:.3f} m from the base axis, nearer than its offset {abs(d4):.3f} m"
        towards = math.atan2(wy, wx) + math.pi / 2
        aside = math.acos(max(-1.0, min(1.0, d4 / radius))) if radius > 0.0 else 0.0
        found: list[list[float]] = []
        shortest = math.inf
        for q1 in (towards + aside, towards - aside):
            s1, c1 = math.sin(q1), math.cos(q1)
            # tool0's axes along the normal of the arm's plane, (s1, -c1, 0).
            nx, ny, nz = xx * s1 - xy * c1, yx * s1 - yy * c1, zx * s1 - zy * c1
            sin5 = math.hypot(nx, ny)
            q5_size = math.atan2(sin5, nz)
            for q5 in (q5_size,) if sin5 < _SINGULAR_SIN_Q5 else (q5_size, -q5_size):
                if sin5 < _SINGULAR_SIN_Q5:
                    q6 = q6_free
                elif q5 > 0.0:
                    q6 = math.atan2(-ny, nx)
                else:
                    q6 = math.atan2(ny, -nx)
                s5, c5 = math.sin(q5), math.cos(q5)
                s6, c6 = math.sin(q6), math.cos(q6)
                # Rotation of frame 4's x and z axes: undo joints 6 and 5 on tool0's axes.
                ux, uy, uz = xx * c6 - yx * s6, xy * c6 - yy * s6, xz * c6 - yz * s6
                vx, vy, vz = xx * s6 + yx * c6, xy * s6 + yy * c6, xz * s6 + yz * c6
                x4x, x4y, x4z = ux * c5 - zx * s5, uy * c5 - zy * s5, uz * c5 - zz * s5
                # Frame 5's y axis is minus frame 4's z axis, along which frame 5 sits d5 from frame 4.
                ox, oy, oz = px - d6 * zx + d5 * vx, py - d6 * zy + d5 * vy, pz - d6 * zz + d5 * vz
                # In the arm's plane: along (c1, s1, 0) and up.
                along = ox * c1 + oy * s1
                up = oz - d1
                square = along * along + up * up
                cos3 = (square - a2 * a2 - a3 * a3) / (2.0 * a2 * a3)
                if cos3 > 1.0 + 1e-9 or cos3 < -1.0 - 1e-9:
                    shortest = min(shortest, math.sqrt(square), key=lambda r: abs(r - abs(a2 + a3)))
                    continue
                q3_size = math.acos(max(-1.0, min(1.0, cos3)))
                q234 = math.atan2(x4z, x4x * c1 + x4y * s1)
                for q3 in (q3_size, -q3_size):
                    q2 = math.atan2(up, along) - math.atan2(a3 * math.sin(q3), a2 + a3 * math.cos(q3))
                    found.append([q1, q2, q3, q234 - q2 - q3, q5, q6])
        if found:
            return found, ""
        nearest, farthest = abs(abs(a2) - abs(a3)), abs(a2) + abs(a3)
        return (
            [],
            f"the wrist is {shortest:.3f} m from the shoulder, upper and lower arm span {nearest:.3f}-{farthest:.3f} m",
        )

    def _polish(self, target: Rows, q: list[float]) -> list[float] | None:
        """Newton steps on the calibrated chain from a nearby q; None when the residual stays above 1e-9."""
        q = list(q)
        for _ in range(12):
            frames = self._frames(q)
            tcp = multiply(frames[-1], self._tool)
            error = _pose_error(tcp, target)
            if max(map(abs, error)) < 1e-11:
                return q
            J = np.array(self._jacobian_columns(frames, tcp)).T
            # A touch of damping keeps the steps bounded at a straight wrist and vanishes against regular directions.
            step = J.T @ np.linalg.solve(J @ J.T + 1e-10 * np.eye(6), np.array(error))
            q = [value + float(delta) for value, delta in zip(q, step, strict=True)]
        error = _pose_error(self.forward_rows(q), target)
        return q if max(map(abs, error)) < 1e-9 else None


def _snap(value: float) -> float:
    return float(round(value)) if abs(value - round(value)) < 1e-12 else value


def _rows(T: Array) -> Rows:
    values = T[:3].ravel().tolist()
    return tuple(values)  # type: ignore[return-value]


def _matrix(rows: Rows) -> Array:
    return np.array([rows[0:4], rows[4:8], rows[8:12], (0.0, 0.0, 0.0, 1.0)])


def multiply(a: Rows, b: Rows) -> Rows:
    """Product of two transforms, as plain floats: arrays would cost more than the arithmetic, 500 times a second."""
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11 = a
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11 = b
    return (
        a0 * b0 + a1 * b4 + a2 * b8,
        a0 * b1 + a1 * b5 + a2 * b9,
        a0 * b2 + a1 * b6 + a2 * b10,
        a0 * b3 + a1 * b7 + a2 * b11 + a3,
        a4 * b0 + a5 * b4 + a6 * b8,
        a4 * b1 + a5 * b5 + a6 * b9,
        a4 * b2 + a5 * b6 + a6 * b10,
        a4 * b3 + a5 * b7 + a6 * b11 + a7,
        a8 * b0 + a9 * b4 + a10 * b8,
        a8 * b1 + a9 * b5 + a10 * b9,
        a8 * b2 + a9 * b6 + a10 * b10,
        a8 * b3 + a9 * b7 + a10 * b11 + a11,
    )


def _nearest_turn(angle: float, near: float, limit: float) -> float:
    """``angle`` plus whole turns, as near to ``near`` as the symmetric limit allows."""
    turned = angle + TWO_PI * round((near - angle) / TWO_PI)
    if turned > limit:
        turned -= TWO_PI
    elif turned < -limit:
        turned += TWO_PI
    return turned


def _square_distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def _pose_error(tcp: Rows, target: Rows) -> list[float]:
    """Twist [6] in base that leads from one pose to a nearby one: translation, then small-angle rotation vector."""
    wx = wy = wz = 0.0
    for i in range(3):  # half the sum of cross products of corresponding axes
        ax, ay, az = tcp[i], tcp[4 + i], tcp[8 + i]
        bx, by, bz = target[i], target[4 + i], target[8 + i]
        wx += 0.5 * (ay * bz - az * by)
        wy += 0.5 * (az * bx - ax * bz)
        wz += 0.5 * (ax * by - ay * bx)
    return [target[3] - tcp[3], target[7] - tcp[7], target[11] - tcp[11], wx, wy, wz]
