"""The soft safety envelope: what a setpoint stream may do, whatever targets it is given.

Two kinds of answer. A target that can be obeyed in part is *clamped* (into the workspace box, to joint limits, to
speed limits) and counted; one that cannot be meant is *refused* with a reason (NaN, a jump, out of reach) and
counted. Neither replaces the robot's own safety functions, which stay configured on the controller.

``SafetyEnvelope.limit`` is the part that must hold for every target stream. It keeps one invariant: from the
current setpoint and velocity, braking at the joint acceleration limit ends inside the box and the joint limits.
A step is taken only if the state behind it keeps the invariant; otherwise the setpoint brakes, which is safe by the
invariant of the step before. Positions in metres in ``base``, joint angles radians, speeds per second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.cell import SafetyConfig
from robot_bridge.ur_kinematics import JOINT_NAMES, JOINT_POSITION_LIMITS_RAD, Kinematics, Rows, Unreachable

Array = NDArray[np.float64]

POSITION_MARGIN_RAD = 0.05
"""Joint targets end this far before the arm's position limits."""
WALL_MARGIN_M = 0.001
"""Clamped targets and the slide along a wall stay this far inside the box; the box itself is never crossed."""
WALL_GAIN_PER_S = 12.0
"""Towards a wall the TCP may move at this gain times its distance from the wall."""
SPEED_RESERVE = 0.995
"""Velocities scaled down to a speed limit aim this fraction of it, so that rounding cannot cross it."""


@dataclass(frozen=True)
class Verdict:
    """Answer to one target: joint angles to go to (None when refused), whether it was clamped, and why."""

    q: list[float] | None
    clamped: bool
    reason: str


class SafetyEnvelope:
    """Checks targets and limits velocities of one arm; holds no state of the motion itself."""

    def __init__(self, config: SafetyConfig, kinematics: Kinematics) -> None:
        self.config = config
        self.kinematics = kinematics
        self._low = tuple(config.workspace_min_m)
        self._high = tuple(config.workspace_max_m)
        if len(self._low) != 3 or len(self._high) != 3:
            raise ValueError(f"the workspace box needs three minima and three maxima, got {self._low}, {self._high}")
        if any(low + 4 * WALL_MARGIN_M >= high for low, high in zip(self._low, self._high, strict=True)):
            raise ValueError(f"workspace_min_m {self._low} must lie below workspace_max_m {self._high} on every axis")
        for name in ("tcp_speed_mps", "tcp_rotation_speed_radps", "joint_speed_radps", "joint_acceleration_radps2"):
            if not 0.0 < getattr(config, name) < math.inf:
                raise ValueError(f"safety.{name} must be a positive number, got {getattr(config, name)}")
        if not config.joint_acceleration_radps2 <= config.hold_deceleration_radps2 < math.inf:
            raise ValueError(
                f"safety.hold_deceleration_radps2 {config.hold_deceleration_radps2} must be at least "
                f"joint_acceleration_radps2 {config.joint_acceleration_radps2}: the arm must stop as well as it starts"
            )
        self._position_limits = tuple(limit - POSITION_MARGIN_RAD for limit in JOINT_POSITION_LIMITS_RAD)

    # --- targets -------------------------------------------------------------------------------------------------

    def check_joints(self, q_target: Sequence[float] | Array, q_previous: Sequence[float]) -> Verdict:
        """Judge a joint target [6] against the previous accepted one as it was given (before any clamping)."""
        q = [float(value) for value in q_target]
        if len(q) != 6:
            return Verdict(None, False, f"a joint target needs 6 angles, got {len(q)}")
        if not all(map(math.isfinite, q)):
            return Verdict(None, False, f"joint target contains NaN or infinity: {q}")
        reason = self.jump_reason(q, q_previous, self.config.jump_rad, "the previous target")
        if reason:
            return Verdict(None, False, reason)
        clamped = False
        for i, limit in enumerate(self._position_limits):
            if abs(q[i]) > limit:
                q[i] = math.copysign(limit, q[i])
                clamped = True
        rows = self.kinematics.forward_rows(q)
        if self._inside(rows):
            return Verdict(q, clamped, "joint position limit" if clamped else "")
        T = np.array([rows[0:4], rows[4:8], rows[8:12], (0.0, 0.0, 0.0, 1.0)])
        return self._clamp_pose(T, q)

    def check_pose(self, T_base_tcp: ArrayLike, q_previous: Sequence[float]) -> Verdict:
        """Judge a TCP pose target [4, 4]; the joint solution nearest to the previous target is taken."""
        T = np.array(T_base_tcp, dtype=np.float64)
        if T.shape != (4, 4):
            return Verdict(None, False, f"a pose target must be 4x4, got shape {T.shape}")
        if not bool(np.isfinite(T).all()):
            return Verdict(None, False, "pose target contains NaN or infinity")
        R = T[:3, :3]
        if float(np.abs(R.T @ R - np.eye(3)).max()) > 1e-3:
            return Verdict(None, False, "the rotation part of the pose target is not a rotation; normalise it")
        verdict = self._clamp_pose(T, q_previous)
        if verdict.q is None:
            return verdict
        reason = self.jump_reason(verdict.q, q_previous, self.config.jump_rad, "the previous target")
        return Verdict(None, False, reason) if reason else verdict

    @staticmethod
    def jump_reason(q: Sequence[float], q_reference: Sequence[float], limit_rad: float, of_what: str) -> str:
        """Which joint lies farther than the limit from a reference, in words; empty when none does."""
        gaps = [abs(a - b) for a, b in zip(q, q_reference, strict=True)]
        worst = max(gaps)
        if worst <= limit_rad:
            return ""
        return f"{JOINT_NAMES[gaps.index(worst)]} is {worst:.2f} rad from {of_what} (limit {limit_rad:.2f} rad)"

    def _inside(self, rows: Rows) -> bool:
        return all(
            low + WALL_MARGIN_M <= value <= high - WALL_MARGIN_M
            for value, low, high in zip((rows[3], rows[7], rows[11]), self._low, self._high, strict=True)
        )

    def _clamp_pose(self, T: Array, q_near: Sequence[float]) -> Verdict:
        wanted = T[:3, 3]
        allowed = np.clip(wanted, np.add(self._low, 2 * WALL_MARGIN_M), np.subtract(self._high, 2 * WALL_MARGIN_M))
        clamped = bool(np.abs(allowed - wanted).max() > WALL_MARGIN_M)
        if clamped:
            T = T.copy()
            T[:3, 3] = allowed
        try:
            q = [float(value) for value in self.kinematics.inverse(T, q_near)]
        except Unreachable as error:
            return Verdict(None, False, str(error))
        for value, limit, name in zip(q, self._position_limits, JOINT_NAMES, strict=True):
            if abs(value) > limit:
                return Verdict(None, False, f"{name} would turn to {value:.2f} rad, its limit is {limit:.2f} rad")
        return Verdict(q, clamped, "workspace box" if clamped else "")

    # --- motion --------------------------------------------------------------------------------------------------

    def brake(self, v: list[float], period_s: float) -> list[float]:
        """Velocity after one period of braking all joints together, down to exactly 0.

        The fastest joint loses speed at ``hold_deceleration_radps2``: stopping may be harder than any tracked motion.
        """
        fastest = max(map(abs, v))
        loss = self.config.hold_deceleration_radps2 * period_s
        if fastest <= loss:
            return [0.0] * 6
        keep = 1.0 - loss / fastest
        return [keep * value for value in v]

    def limit(
        self, q: list[float], v: list[float], v_wanted: list[float], rows: Rows, period_s: float
    ) -> tuple[list[float], Rows, bool]:
        """The velocity for the next period: as near to the wanted one as the envelope allows.

        Args:
            q, v: present setpoint [6] and its velocity [6], which kept the invariant.
            v_wanted: velocity [6] the tracking law asks for.
            rows: the TCP pose at q (``Kinematics.forward_rows``).
            period_s: setpoint period.

        Returns:
            The new velocity [6], the TCP pose after the period, and whether a speed or wall limit was felt.
        """
        config = self.config
        limited = False
        fastest = max(map(abs, v_wanted))
        if fastest > config.joint_speed_radps:
            scale = SPEED_RESERVE * config.joint_speed_radps / fastest
            v_wanted = [scale * value for value in v_wanted]
            limited = True
        v_slide = self._slide(q, v_wanted, rows)
        if v_slide is not None:
            v_wanted, limited = v_slide, True
        gain = config.joint_acceleration_radps2 * period_s
        step = [
            now + (gain if want - now > gain else -gain if want - now < -gain else want - now)
            for now, want in zip(v, v_wanted, strict=True)
        ]
        after = self._after(q, step, rows, period_s)
        if after is not None:
            return step, after, limited
        # All joints together: on the straight line between two allowed velocities every velocity is allowed.
        v_wanted = self._within_tcp_speed(q, v_wanted, rows, period_s)
        farthest = max(abs(want - now) for now, want in zip(v, v_wanted, strict=True))
        share = min(1.0, gain / farthest) if farthest > 0.0 else 1.0
        step = [now + share * (want - now) for now, want in zip(v, v_wanted, strict=True)]
        after = self._after(q, step, rows, period_s)
        if after is not None:
            return step, after, True
        step = self.brake(v, period_s)
        ahead = [angle + speed * period_s for angle, speed in zip(q, step, strict=True)]
        return step, self.kinematics.forward_rows(ahead), True

    def _after(self, q: list[float], v: list[float], rows: Rows, period_s: float) -> Rows | None:
        """TCP pose after a period at v, or None if that breaks a TCP speed limit or the braking invariant."""
        config = self.config
        ahead = [angle + speed * period_s for angle, speed in zip(q, v, strict=True)]
        after = self.kinematics.forward_rows(ahead)
        dx, dy, dz = after[3] - rows[3], after[7] - rows[7], after[11] - rows[11]
        travel = math.sqrt(dx * dx + dy * dy + dz * dz)
        if travel > config.tcp_speed_mps * period_s:
            return None
        if (
            sum(map(abs, v)) > config.tcp_rotation_speed_radps
            and _turn(rows, after) > config.tcp_rotation_speed_radps * period_s
        ):
            return None
        half_brake_s = 0.5 * max(map(abs, v)) / config.joint_acceleration_radps2
        for angle, speed, limit in zip(ahead, v, JOINT_POSITION_LIMITS_RAD, strict=True):
            stop = angle + speed * half_brake_s
            if abs(stop) > limit and stop * speed > 0.0:
                return None
        reach = 1.2 * travel / period_s * half_brake_s + WALL_MARGIN_M
        position = (after[3], after[7], after[11])
        for axis in range(3):
            if position[axis] - reach < self._low[axis] or position[axis] + reach > self._high[axis]:
                stop_rows = self.kinematics.forward_rows(
                    [angle + speed * half_brake_s for angle, speed in zip(ahead, v, strict=True)]
                )
                return after if self._no_farther_out(rows, after) and self._no_farther_out(rows, stop_rows) else None
        return after

    def _no_farther_out(self, rows: Rows, then: Rows) -> bool:
        """Inside the box; an arm that was engaged outside may stay where it is or come inwards."""
        for low, high, now, later in zip(
            self._low, self._high, (rows[3], rows[7], rows[11]), (then[3], then[7], then[11]), strict=True
        ):
            if later < min(low, now) or later > max(high, now):
                return False
        return True

    def _slide(self, q: list[float], v: list[float], rows: Rows) -> list[float] | None:
        """Take from v what runs into a near wall, in the joint direction that changes least; None if far off."""
        zone = WALL_MARGIN_M + self.config.tcp_speed_mps / WALL_GAIN_PER_S
        position = (rows[3], rows[7], rows[11])
        walls = [(axis, -1.0, position[axis] - self._low[axis]) for axis in range(3)]
        walls += [(axis, 1.0, self._high[axis] - position[axis]) for axis in range(3)]
        near = [wall for wall in walls if wall[2] < zone]
        if not near:
            return None
        J = self.kinematics.jacobian(q)[:3].tolist()
        changed = False
        for axis, side, distance in near:
            normal = J[axis]
            outward = side * sum(n * speed for n, speed in zip(normal, v, strict=True))
            # An arm engaged outside the box is led in by its (clamped) target, at the target's pace.
            allowed = WALL_GAIN_PER_S * (distance - WALL_MARGIN_M) if distance > 0.0 else 0.0
            square = sum(n * n for n in normal)
            if outward > allowed + 1e-9 and square > 1e-9:
                excess = side * (outward - allowed) / square
                v = [speed - excess * n for n, speed in zip(normal, v, strict=True)]
                changed = True
        return v if changed else None

    def _within_tcp_speed(self, q: list[float], v: list[float], rows: Rows, period_s: float) -> list[float]:
        after = self.kinematics.forward_rows([angle + speed * period_s for angle, speed in zip(q, v, strict=True)])
        travel = math.dist((after[3], after[7], after[11]), (rows[3], rows[7], rows[11]))
        turn = _turn(rows, after)
        scale = 1.0
        if travel > 0.0:
            scale = min(scale, SPEED_RESERVE * self.config.tcp_speed_mps * period_s / travel)
        if turn > 0.0:
            scale = min(scale, SPEED_RESERVE * self.config.tcp_rotation_speed_radps * period_s / turn)
        return v if scale >= 1.0 else [scale * speed for speed in v]


def _turn(a: Rows, b: Rows) -> float:
    """Angle in radians between two orientations a few milliradians apart."""
    wx = wy = wz = 0.0
    for i in range(3):
        ax, ay, az = a[i], a[4 + i], a[8 + i]
        bx, by, bz = b[i], b[4 + i], b[8 + i]
        wx += ay * bz - az * by
        wy += az * bx - ax * bz
        wz += ax * by - ay * bx
    return 0.5 * math.sqrt(wx * wx + wy * wy + wz * wz)
