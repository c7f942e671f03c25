"""The controller's joint setpoint and the motion functions of URScript, one 2 ms frame per ``yield``.

What is modelled: trapezoidal profiles whose leading joint gets the asked speed and acceleration, straight TCP lines,
speed ramps, servoj through ``JointServo``. What is not: blend radii (every waypoint is a stop) and the real
controller's jerk limits; the manufacturer publishes neither law.

Exactly one thread of a program may move the arm in a frame; a second one ends the program, as on the real
controller. A frame in which nobody moves the arm brakes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from robot_bridge.twin.motion import JointServo
from robot_bridge.twin.urscript import Frames, ScriptError
from robot_bridge.twin.urscript_values import Pose, interpolate_pose, invert, pose_of_rows, rows_of_pose
from robot_bridge.ur_kinematics import (
    JOINT_POSITION_LIMITS_RAD,
    JOINT_SPEED_LIMITS_RADPS,
    Kinematics,
    Rows,
    Unreachable,
    multiply,
)

PERIOD_S = 0.002
COAST_DECELERATION_RADPS2 = 10.0
"""How hard the arm brakes when its program stops commanding motion."""
ROTATION_RADIUS_M = 0.2
"""A line that mostly turns the tool moves as fast as a point this far from the TCP may."""
SINGULARITY_DAMPING = 1e-4
_AT_REST_RADPS = 1e-4


class Trapezoid:
    """Distance along a path: speed up, cruise, slow down. Lengths and speeds in any one unit.

    Args:
        length: of the path, >= 0.
        speed, acceleration: positive limits.
        duration_s: when positive, the profile is stretched or shortened to take this long instead.
    """

    def __init__(self, length: float, speed: float, acceleration: float, duration_s: float = 0.0) -> None:
        if speed <= 0.0 or acceleration <= 0.0:
            raise ScriptError(f"speed and acceleration of a move must be positive, got {speed} and {acceleration}")
        self.length = length
        self._ramp_s = min(speed / acceleration, math.sqrt(length / acceleration))
        self._peak = acceleration * self._ramp_s
        self._cruise_s = (length / self._peak - self._ramp_s) if self._peak > 0.0 else 0.0
        natural_s = 2.0 * self._ramp_s + self._cruise_s
        self._rate = natural_s / duration_s if duration_s > 0.0 else 1.0
        self.duration_s = natural_s / self._rate

    def at(self, time_s: float) -> float:
        """Share of the path covered at a time, 0..1."""
        t = time_s * self._rate
        total = 2.0 * self._ramp_s + self._cruise_s
        if t >= total or self.length <= 0.0:
            return 1.0
        if t < self._ramp_s:
            covered = 0.5 * self._peak / self._ramp_s * t * t
        elif t < self._ramp_s + self._cruise_s:
            covered = self._peak * (t - 0.5 * self._ramp_s)
        else:
            left = total - t
            covered = self.length - 0.5 * self._peak / self._ramp_s * left * left
        return covered / self.length


class ArmControl:
    """Setpoint of the six joints (radians) and the functions that move it.

    Args:
        flange: the arm's calibrated kinematics without a tool (``T_base_tool0``).
        thread: returns the script thread that is executing, to tell two movers apart.
    """

    def __init__(self, flange: Kinematics, thread: Callable[[], object | None]) -> None:
        self._flange = flange
        self._thread = thread
        self.q = [0.0] * 6
        self.qd = [0.0] * 6
        self.qdd = [0.0] * 6
        self.speed_fraction = 1.0
        self.waypoint = Pose([0.0] * 6)
        self._next: list[float] | None = None
        self._mover: object | None = None
        self._servo = JointServo(period_s=PERIOD_S)
        self._servoing = self._servoed = False
        self.set_tcp([0.0] * 6)

    # --- tool and kinematics ---

    def set_tcp(self, pose: Sequence[float]) -> None:
        """Tool centre point in the flange frame: x y z metres, rotation vector radians."""
        self.tcp = Pose(float(value) for value in pose)
        self._tool = rows_of_pose(self.tcp)
        self._tool_inverse = invert(self._tool)

    def tcp_rows(self, q: Sequence[float]) -> Rows:
        """``T_base_tcp`` at joints q."""
        return multiply(self._flange.forward_rows(q), self._tool)

    def flange_rows(self, q: Sequence[float]) -> Rows:
        """``T_base_tool0`` at joints q."""
        return self._flange.forward_rows(q)

    def inverse(self, pose: Sequence[float], q_near: Sequence[float] | None = None) -> list[float]:
        """Joints that bring the TCP to a pose, nearest to ``q_near`` (the setpoint if omitted).

        Raises:
            Unreachable: no joints do.
        """
        rows = multiply(rows_of_pose(pose), self._tool_inverse)
        T = np.array([rows[0:4], rows[4:8], rows[8:12], (0.0, 0.0, 0.0, 1.0)])
        return [float(value) for value in self._flange.inverse(T, self.q if q_near is None else q_near)]

    def tcp_velocity(self, q: Sequence[float], qd: Sequence[float]) -> list[float]:
        """Linear and angular velocity [6] of the TCP in base at joints q moving with qd."""
        jacobian, tcp = self._flange.jacobian(q), self.tcp
        if not any(qd):
            return [0.0] * 6
        twist = [float(value) for value in jacobian @ np.asarray(qd, dtype=np.float64)]
        r = self._flange.forward_rows(q)
        x, y, z = (r[i] * tcp[0] + r[i + 1] * tcp[1] + r[i + 2] * tcp[2] for i in (0, 4, 8))
        wx, wy, wz = twist[3:]
        return [twist[0] + wy * z - wz * y, twist[1] + wz * x - wx * z, twist[2] + wx * y - wy * x, wx, wy, wz]

    # --- frames ---

    def seed(self, q: Sequence[float]) -> None:
        """Take joints q as setpoint, at rest (power on, after a stop)."""
        self.q = [float(value) for value in q]
        self.qd, self.qdd = [0.0] * 6, [0.0] * 6
        self._next, self._mover, self._servoing = None, None, False

    def end_frame(self) -> list[float]:
        """Close the frame: returns the setpoint [6] of this frame, braking if nobody moved the arm."""
        if self._next is None:
            q = self._braked(COAST_DECELERATION_RADPS2) if any(self.qd) else self.q
            self._servoing = False
        else:
            q = self._next
            self._servoing = self._servoed
        qd = [(new - old) / PERIOD_S for new, old in zip(q, self.q, strict=True)]
        self.qdd = [(new - old) / PERIOD_S for new, old in zip(qd, self.qd, strict=True)]
        self.q, self.qd = q, qd
        self._next, self._mover, self._servoed = None, None, False
        return q

    def brake(self, deceleration_radps2: float = COAST_DECELERATION_RADPS2) -> None:
        """Brake in this frame whatever the program wanted (a stop of the safety system)."""
        self._next, self._servoed = self._braked(deceleration_radps2), False

    @property
    def at_rest(self) -> bool:
        """No joint's setpoint moves."""
        return max(map(abs, self.qd)) < _AT_REST_RADPS

    def _command(self, q: list[float]) -> None:
        mover = self._thread()
        if self._next is not None and mover is not self._mover:
            raise ScriptError("another thread is already controlling the robot; stop it before moving from here")
        for i, value in enumerate(q):
            # Written so that NaN fails, too.
            if not abs(value) <= JOINT_POSITION_LIMITS_RAD[i]:
                raise ScriptError(f"joint {i} would turn to {value:.3f} rad, beyond its position limit")
        self._next, self._mover = q, mover

    def _braked(self, deceleration: float) -> list[float]:
        fastest = max(map(abs, self.qd))
        loss = deceleration * PERIOD_S
        keep = 0.0 if fastest <= loss else 1.0 - loss / fastest
        return [q + keep * qd * PERIOD_S for q, qd in zip(self.q, self.qd, strict=True)]

    # --- motion functions of URScript ---

    def servoj(
        self,
        q: Sequence[float],
        a: float = 0.0,
        v: float = 0.0,
        t: float = 0.002,
        lookahead_time: float = 0.1,
        gain: float = 300.0,
    ) -> Frames:
        """Follow a joint target for t seconds; the controller ignores a and v."""
        if len(q) != 6:
            raise ScriptError(f"servoj needs six joint angles, got {q}")
        for _ in range(max(1, round(t / PERIOD_S))):
            if not self._servoing and not self._servoed:
                self._servo.seed(self.q, self.qd)
            self._servo.tune(lookahead_time, gain)
            self._command(self._servo.step(q, self.speed_fraction))
            self._servoed = True
            yield

    def servoc(self, pose: Sequence[float], a: float = 1.2, v: float = 0.25, r: float = 0.0) -> Frames:
        """One frame towards a TCP pose at speed v (a straight line; the real one blends circles of radius r)."""
        here = pose_of_rows(self.tcp_rows(self.q))
        distance = math.dist(here[:3], list(pose)[:3])
        speed = math.hypot(*self.tcp_velocity(self.q, self.qd)[:3])
        speed = min(v, speed + a * PERIOD_S, math.sqrt(2.0 * a * distance))
        share = min(1.0, speed * PERIOD_S / distance) if distance > 1e-9 else 1.0
        self._command(self._reach(interpolate_pose(here, pose, share)))
        yield

    def movej(self, target: Sequence[float], a: float = 1.4, v: float = 1.05, t: float = 0.0, r: float = 0.0) -> Frames:
        """Joint move to joints or to a TCP pose; all joints arrive together."""
        goal = self._reach(target) if isinstance(target, Pose) else [float(value) for value in target]
        if len(goal) != 6:
            raise ScriptError(f"movej needs six joint angles or a pose, got {target}")
        self.waypoint = pose_of_rows(self.tcp_rows(goal))
        yield from self._settle(a)
        start = list(self.q)
        change = [b - s for s, b in zip(start, goal, strict=True)]
        length = max(map(abs, change))
        # The leading joint moves at the asked speed, unless that drives another joint over its own limit.
        limit = min((JOINT_SPEED_LIMITS_RADPS[i] * length / abs(c) for i, c in enumerate(change) if c), default=v)
        yield from self._run(
            Trapezoid(length, min(v, limit), a, t), lambda s: [q + s * c for q, c in zip(start, change, strict=True)]
        )

    def movel(self, target: Sequence[float], a: float = 1.2, v: float = 0.25, t: float = 0.0, r: float = 0.0) -> Frames:
        """Straight TCP line to a pose, or to where given joints bring the TCP."""
        yield from self._settle(a)
        goal = target if isinstance(target, Pose) else pose_of_rows(self.tcp_rows(target))
        start = pose_of_rows(self.tcp_rows(self.q))
        self.waypoint = Pose(goal)
        length = max(math.dist(start[:3], goal[:3]), math.hypot(*rotation_between(start, goal)) * ROTATION_RADIUS_M)
        yield from self._run(
            Trapezoid(length, v, a, t), lambda s: self._reach(interpolate_pose(start, goal, s), self.q)
        )

    def movep(self, target: Sequence[float], a: float = 1.2, v: float = 0.25, r: float = 0.0) -> Frames:
        """Process move: here the same straight line as ``movel``."""
        yield from self.movel(target, a, v)

    def speedj(self, qd: Sequence[float], a: float = 1.4, t: float = 0.0) -> Frames:
        """Accelerate the joints to velocities qd; returns after t seconds, or without t when they are reached."""
        for _ in self._frames(t):
            wanted = [float(value) for value in qd]
            change = [w - now for w, now in zip(wanted, self.qd, strict=True)]
            largest = max(map(abs, change))
            reached = largest <= a * PERIOD_S
            scale = 1.0 if reached else a * PERIOD_S / largest
            self._command([q + (now + scale * c) * PERIOD_S for q, now, c in zip(self.q, self.qd, change, strict=True)])
            yield
            if reached and t <= 0.0:
                return

    def speedl(self, xd: Sequence[float], a: float = 1.2, t: float = 0.0, aRot: float = 0.0) -> Frames:
        """Accelerate the TCP to a velocity [6] in base; returns like ``speedj``."""
        for _ in self._frames(t):
            reached = self._towards_twist([float(value) for value in xd], a, aRot or a)
            yield
            if reached and t <= 0.0:
                return

    def stopj(self, a: float = 2.0) -> Frames:
        """Brake all joints at a rad/s^2."""
        yield from self._settle(a)

    def stopl(self, a: float = 1.2, aRot: float = 0.0) -> Frames:
        """Brake the TCP along its line at a m/s^2."""
        while not self.at_rest:
            self._towards_twist([0.0] * 6, a, aRot or a)
            yield

    # --- parts of motions ---

    def _frames(self, t: float) -> Sequence[int]:
        return range(max(1, round(t / PERIOD_S))) if t > 0.0 else range(1 << 30)

    def _settle(self, deceleration: float) -> Frames:
        if deceleration <= 0.0:
            raise ScriptError(f"a deceleration must be positive, got {deceleration}")
        while not self.at_rest:
            self._command(self._braked(deceleration))
            yield

    def _run(self, profile: Trapezoid, point: Callable[[float], list[float]]) -> Frames:
        time_s = 0.0
        while time_s < profile.duration_s:
            # The speed slider stretches time, not the path.
            time_s += PERIOD_S * self.speed_fraction
            self._command(point(profile.at(time_s)))
            yield

    def _reach(self, pose: Sequence[float], q_near: Sequence[float] | None = None) -> list[float]:
        try:
            return self.inverse(pose, q_near)
        except Unreachable as error:
            raise ScriptError(f"no inverse kinematics solution: {error}") from error

    def _towards_twist(self, wanted: list[float], a: float, a_rot: float) -> bool:
        """One frame of acceleration towards a TCP twist; True when it is reached."""
        now = self.tcp_velocity(self.q, self.qd)
        linear = math.dist(wanted[:3], now[:3])
        angular = math.dist(wanted[3:], now[3:])
        share = max(linear / (a * PERIOD_S), angular / (a_rot * PERIOD_S), 1.0)
        twist = [n + (w - n) / share for w, n in zip(wanted, now, strict=True)]
        jacobian = self._flange.jacobian(self.q)
        damped = jacobian @ jacobian.T + SINGULARITY_DAMPING**2 * np.eye(6)
        qd = np.linalg.solve(damped, np.array(self._shifted(twist))) @ jacobian
        fastest = max(abs(float(v)) / limit for v, limit in zip(qd, JOINT_SPEED_LIMITS_RADPS, strict=True))
        if fastest > 1.0:
            raise ScriptError("a joint would exceed its speed limit on this line: too close to a singularity")
        self._command([q + float(v) * PERIOD_S for q, v in zip(self.q, qd, strict=True)])
        return share == 1.0

    def _shifted(self, twist: list[float]) -> list[float]:
        """The flange's twist when the TCP moves with the given one."""
        r, tcp = self._flange.forward_rows(self.q), self.tcp
        x, y, z = (r[i] * tcp[0] + r[i + 1] * tcp[1] + r[i + 2] * tcp[2] for i in (0, 4, 8))
        wx, wy, wz = twist[3:]
        return [twist[0] - wy * z + wz * y, twist[1] - wz * x + wx * z, twist[2] - wx * y + wy * x, wx, wy, wz]


def rotation_between(start: Sequence[float], goal: Sequence[float]) -> list[float]:
    """Rotation vector (radians) that leads from one pose's orientation to another's."""
    turn = multiply(invert(rows_of_pose((0.0, 0.0, 0.0, *start[3:]))), rows_of_pose((0.0, 0.0, 0.0, *goal[3:])))
    return pose_of_rows(turn)[3:]
