"""The moves the scripted operator is made of: align, travel, settle, nudge, squeeze, wait.

Each move is a generator that yields once per step and returns whether it went well; the script strings them together
with ``yield from``. The hand has a pose (position, yaw, a remaining tilt) which becomes leader joints with tremor
added. Frame ``base``, metres, radians, seconds of the view's clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robot_bridge.twin.grasp_plan import top_down, yaw_of
from robot_bridge.twin.operator_eyes import Eyes, SceneView
from robot_bridge.twin.operator_hand import Cruise, RoundedPath, Tremor, minimum_jerk
from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]
Steps = Generator[None, None, bool]
"""A move: yields once per step, returns whether it went well."""
Goal = Callable[[], tuple[Array, float]]
"""Where the follower's TCP should be, as judged now: position [3] and yaw."""

HOME_Q_RAD = (0.0, -math.pi / 2, math.pi / 2, -math.pi / 2, -math.pi / 2, 0.0)
ALIGN_SPEED_RADPS = 0.6
ALIGNED_RAD = 0.03
"""A leader nearer than this to the follower's posture counts as aligned."""
MAX_STEP_S = 0.03
"""A longer gap between two views is not made up for: the hand does not know that time has passed."""
MAX_SPEED_MPS = 0.21
"""Below the follower's cap of 0.25 m/s, corrections and tremor included."""
FOLLOW_TOLERANCE_M = 0.08
FOLLOW_PATIENCE_S = 3.0
PAUSE = 0.10
"""Probability of a short pause in a movement."""


class GiveUp(Exception):
    """The operator sees no point in going on; the text says why."""


class OperatorMoves:
    """The operator's body: eyes, hand, trigger, and a sense of time.

    Args:
        rng: source of everything human.
        kinematics: nominal kinematics of leader and follower, with the gripper's TCP.
        q_leader: where the leader is now, radians [6]; None if it is already at the follower's pose.
        patience_s: a demonstration that takes longer is given up.
    """

    def __init__(
        self, rng: np.random.Generator, kinematics: Kinematics, q_leader: Sequence[float] | None, patience_s: float
    ) -> None:
        self._rng = rng
        self._kinematics = kinematics
        self._patience_s = patience_s
        self._eyes = Eyes(rng)
        self._tremor = Tremor(rng)
        self._cruise_mps = float(rng.uniform(0.185, 0.210))
        self._ramp_s = float(rng.uniform(0.45, 0.65))
        self._q = [float(value) for value in q_leader] if q_leader is not None else []
        self._joint_move = True
        self._position = np.zeros(3)
        self._yaw = 0.0
        self._tilt = np.zeros(3)
        self._bias = np.zeros(3)  # hand minus follower, as far as noticed
        self._trigger = self._trigger_from = self._trigger_to = 1.0
        self._trigger_start_s, self._trigger_s = 0.0, 1.0
        self._now = self._dt = self._begin_s = 0.0

    def _live(self, view: SceneView, *, first: bool) -> None:
        """Take in a view and let its time pass."""
        if first:
            self._now = self._begin_s = view.time_s
        self._dt = min(max(view.time_s - self._now, 0.0), MAX_STEP_S)
        self._now = view.time_s
        self._eyes.look(view)
        if not self._q:
            self._q = [float(value) for value in self._kinematics.inverse(view.T_base_tcp, HOME_Q_RAD)]

    def _move_trigger(self) -> None:
        u = (self._now - self._trigger_start_s) / self._trigger_s
        self._trigger = self._trigger_from + minimum_jerk(u) * (self._trigger_to - self._trigger_from)

    def _hold_leader(self) -> None:
        """Leader joints for the hand's pose, tremor included."""
        shake = self._tremor.at(self._now, self._dt)
        T = top_down(self._position + shake[:3], self._yaw + shake[3])
        if self._tilt.any():
            T[:3, :3] = T[:3, :3] @ Rotation.from_rotvec(self._tilt).as_matrix()
        self._q = [float(value) for value in self._kinematics.inverse(T, self._q)]

    def _align(self) -> Steps:
        """Bring the leader to the follower's posture before anything else: the gate of teleoperation asks for it."""
        start = list(self._q)
        goal = [float(value) for value in self._kinematics.inverse(self._eyes.tcp(), HOME_Q_RAD)]
        farthest = max(abs(a - b) for a, b in zip(start, goal, strict=True))
        if farthest > ALIGNED_RAD:
            duration = max(0.8, 1.875 * farthest / ALIGN_SPEED_RADPS)
            begin = self._now
            while self._now - begin < duration:
                s = minimum_jerk((self._now - begin) / duration)
                self._q = [a + s * (b - a) for a, b in zip(start, goal, strict=True)]
                yield
        T = self._kinematics.forward(self._q)
        self._position, self._yaw = T[:3, 3].copy(), yaw_of(T)
        upright = top_down((0.0, 0.0, 0.0), self._yaw)[:3, :3]
        self._tilt = Rotation.from_matrix(upright.T @ T[:3, :3]).as_rotvec()
        self._joint_move = False
        self._bias = self._position - self._eyes.tcp()[:3, 3]
        return (yield from self._wait(float(self._rng.uniform(0.1, 0.4))))

    def _travel(
        self,
        points: Sequence[Array],
        goal: Goal | None,
        hover_m: float,
        speed_mps: float | None = None,
        watch: Callable[[], bool] | None = None,
    ) -> Steps:
        """Follow a rounded path; from half-way on, shift it to where the goal is now judged to be.

        ``watch`` is asked all the time; when it says no for a quarter of a second the hand stops: False.
        """
        path = RoundedPath(points, float(self._rng.uniform(0.04, 0.07)))
        speed = (speed_mps or self._cruise_mps) * float(self._rng.uniform(0.95, 1.05))
        # Short moves begin and end more quickly than long ones.
        ramp_s = self._ramp_s * min(1.0, 0.5 + path.length_m / 0.3)
        profile = Cruise(path.length_m, min(speed, MAX_SPEED_MPS), ramp_s)
        first_goal = points[-1]
        yaw_start = self._yaw
        yaw_wanted = goal()[1] if goal is not None else self._yaw
        tilt_start = self._tilt.copy()
        shift, doubt_s, elapsed, pace = np.zeros(3), 0.0, 0.0, 1.0
        pause_at = profile.duration_s * self._rng.uniform(0.2, 0.8) if self._rng.random() < PAUSE else math.inf
        pause_left = float(self._rng.uniform(0.2, 0.6))
        while elapsed < profile.duration_s:
            self._check_time()
            doubt_s = doubt_s + self._dt if watch is not None and not watch() else 0.0
            pausing = elapsed > pause_at and pause_left > 0.0
            pause_left -= self._dt if pausing else 0.0
            wanted_pace = 0.0 if pausing or doubt_s > 0.25 else 1.0
            pace += (wanted_pace - pace) * min(1.0, self._dt / 0.12)
            if doubt_s > 0.25 and pace < 0.03:
                return False
            elapsed += pace * self._dt
            arc = profile.at(elapsed)
            progress = arc / path.length_m
            if goal is not None:
                position, yaw_goal = goal()
                wanted = raised(position + self._bias, hover_m) - first_goal
                shift += np.clip((wanted - shift) / 0.2, -0.03, 0.03) * self._dt
                yaw_wanted += (yaw_goal - yaw_wanted) * min(1.0, self._dt / 0.25)
                self._yaw = yaw_start + minimum_jerk(1.3 * progress) * (yaw_wanted - yaw_start)
            self._tilt = (1.0 - minimum_jerk(progress)) * tilt_start
            self._position = path.at(arc) + minimum_jerk((progress - 0.4) / 0.6) * shift
            yield
        return True

    def _settle(self, goal: Goal, hover_m: float, tolerance_m: float, *, hurry: bool = False) -> Steps:
        """Wait until the follower has come along, and correct the hand in small moves until it is in place."""
        begin = still_since = self._now
        while True:
            self._check_time()
            yield
            tcp = self._eyes.tcp()[:3, 3]
            waited = self._now - still_since
            if waited < self._eyes.reaction_s + (0.08 if hurry else 0.18) or self._eyes.tcp_speed_mps() > 0.02:
                if waited > FOLLOW_PATIENCE_S:
                    raise GiveUp("the follower does not come to rest")
                continue
            if float(np.linalg.norm(tcp - self._position)) > FOLLOW_TOLERANCE_M:
                if waited > FOLLOW_PATIENCE_S:
                    raise GiveUp("the follower does not follow; is teleoperation engaged?")
                continue
            position, yaw = goal()
            self._bias = self._bias + 0.8 * (self._position - tcp - self._bias)
            error = raised(position, hover_m) - tcp
            if float(np.linalg.norm(error)) < tolerance_m or self._now - begin > 2.0:
                return True
            yield from self._nudge(error, yaw)
            still_since = self._now

    def _nudge(self, error: Array, yaw: float) -> Steps:
        """One corrective move: most of the error seen, in a third of a second."""
        begin, start, yaw_start = self._now, self._position.copy(), self._yaw
        move = 0.85 * error * min(1.0, 0.015 / float(np.linalg.norm(error)))
        duration = float(self._rng.uniform(0.25, 0.4))
        while self._now - begin < duration:
            s = minimum_jerk((self._now - begin) / duration)
            self._position = start + s * move
            self._yaw = yaw_start + s * (yaw - yaw_start)
            yield
        return True

    def _wait(self, seconds: float) -> Steps:
        begin = self._now
        while self._now - begin < seconds:
            yield
        return True

    def _squeeze(self, opening: float, seconds: float) -> None:
        """Begin to move the trigger; the hand may move meanwhile."""
        self._trigger_from, self._trigger_to = self._trigger, opening
        self._trigger_start_s, self._trigger_s = self._now, seconds

    def _wait_for_fingers(self, wide_enough: float = math.inf) -> Steps:
        """Until the gripper is seen to have stopped, or to be wide enough (or for 1.8 s)."""
        begin = calm_since = self._now
        previous = self._eyes.seen.gripper_opening
        least = self._trigger_s + self._eyes.reaction_s + 0.15
        while self._now - begin < 1.8:
            yield
            opening = self._eyes.seen.gripper_opening
            if opening > wide_enough:
                break
            if abs(opening - previous) > 0.004:
                previous, calm_since = opening, self._now
            if self._now - begin > least and self._now - calm_since > 0.15:
                break
        return True

    def _check_time(self) -> None:
        if self._now - self._begin_s > self._patience_s:
            raise GiveUp(f"it takes longer than {self._patience_s:.0f} s")


def raised(position: Array, height_m: float) -> Array:
    """A position [3] moved up."""
    higher: Array = position + np.array([0.0, 0.0, height_m])
    return higher
