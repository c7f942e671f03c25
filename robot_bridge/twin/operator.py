"""The scripted operator: demonstrates the four tasks with the leader arm, seeing only what eyes see.

The script below is the strategy, the same in every demonstration: align with the follower, reach above the object,
look, descend, close, lift, carry, lower, open, retreat, be still. What varies is human: speed, tremor, misjudged
positions that are corrected on the way, a pause now and then, a failed grasp that is tried again, giving up.

It is stepped at about 100 Hz and outputs *leader* joint angles. The leader has the follower's nominal kinematics;
the follower comes along some 150 ms later and, being a calibrated arm, a millimetre or two beside. The operator sees
that and shifts the hand. Frame ``base``, metres, radians, seconds of the view's clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robot_bridge.twin.operator_eyes import Eyes, SceneView
from robot_bridge.twin.operator_hand import Cruise, RoundedPath, Tremor, minimum_jerk
from robot_bridge.twin.success import BOWL_INNER_RADIUS_M, BOWL_RIM_HEIGHT_M, LIFT_M, PLATE_TOLERANCE_M, PULL_M
from robot_bridge.twin.tasks import get_task, top_down, yaw_of
from robot_bridge.ur_kinematics import Kinematics, Unreachable

__all__ = ["LeaderCommand", "SceneView", "ScriptedOperator"]

Array = NDArray[np.float64]
Steps = Generator[None, None, bool]
"""A piece of the script: yields once per step, returns whether it went well."""
Goal = Callable[[], tuple[Array, float]]
"""Where the follower's TCP should be, as judged now: position [3] and yaw."""

HOME_Q_RAD = (0.0, -math.pi / 2, math.pi / 2, -math.pi / 2, -math.pi / 2, 0.0)
ALIGN_SPEED_RADPS = 0.6
HOVER_M = 0.030
"""Height above the grasp or release at which the operator looks once more."""
MAX_STEP_S = 0.03
"""A longer gap between two views is not made up for: the hand does not know that time has passed."""
FOLLOW_TOLERANCE_M = 0.08
FOLLOW_PATIENCE_S = 3.0
MAX_ATTEMPTS = 3
HASTE = 0.06
"""Probability of closing the fingers without waiting for the follower: such a grasp may miss."""
MAX_SPEED_MPS = 0.21
"""Below the follower's cap of 0.25 m/s, corrections and tremor included."""


@dataclass(frozen=True)
class LeaderCommand:
    """Where the operator holds the leader: joint angles [6] in radians and the trigger as opening (1 released)."""

    q_6: tuple[float, ...]
    trigger_opening: float


class _GiveUp(Exception):
    """The operator sees no point in going on; the text says why."""


class ScriptedOperator:
    """One demonstration of one task.

    Args:
        task_id: one of ``tasks.TASK_IDS``.
        rng: source of everything human; the same generator state gives the same person on the same day.
        kinematics: nominal kinematics of leader and follower, with the gripper's TCP.
        q_leader: where the leader is now, radians [6]; None if it is already at the follower's pose.

    Attributes:
        phase: what the operator is doing, one word.
        done: the demonstration is over; further steps hold still.
        gave_up: over without success, as far as the operator can see; ``outcome`` says why.

    Raises:
        ValueError: unknown task.
    """

    def __init__(
        self,
        task_id: str,
        rng: np.random.Generator,
        kinematics: Kinematics,
        q_leader: Sequence[float] | None = None,
    ) -> None:
        self.task = get_task(task_id)
        self.phase = "align"
        self.done = False
        self.gave_up = False
        self.outcome = ""
        self.attempts = 0
        self._plan = self.task.grasp
        self._rng = rng
        self._kinematics = kinematics
        self._eyes = Eyes(rng)
        self._tremor = Tremor(rng)
        self._cruise_mps = float(rng.uniform(0.185, 0.210))
        self._ramp_s = float(rng.uniform(0.45, 0.65))
        self._q = list(q_leader) if q_leader is not None else None
        self._joint_move = True
        self._position = np.zeros(3)
        self._yaw = 0.0
        self._tilt = np.zeros(3)
        self._bias = np.zeros(3)  # hand minus follower, as far as noticed
        self._trigger = 1.0
        self._trigger_from, self._trigger_to = 1.0, 1.0
        self._trigger_start_s, self._trigger_s = 0.0, 1.0
        self._now = self._dt = self._begin_s = 0.0
        self._start_objects: dict[str, Array] = {}
        self._script = self._demonstrate()

    def step(self, view: SceneView) -> LeaderCommand:
        """Look at the scene, move on by the time since the last look, and say where the leader is held."""
        if not self._start_objects:
            self._now = self._begin_s = view.time_s
            self._start_objects = {name: T.copy() for name, T in view.object_poses.items()}
        self._dt = min(max(view.time_s - self._now, 0.0), MAX_STEP_S)
        self._now = view.time_s
        self._eyes.look(view)
        if self._q is None:
            self._q = [float(value) for value in self._kinematics.inverse(view.T_base_tcp, HOME_Q_RAD)]
        if not self.done:
            try:
                next(self._script)
            except StopIteration:
                self.done, self.phase = True, "done"
        u = (self._now - self._trigger_start_s) / self._trigger_s
        self._trigger = self._trigger_from + minimum_jerk(u) * (self._trigger_to - self._trigger_from)
        if not self._joint_move and not self.done:
            try:
                self._hold_leader()
            except Unreachable as error:
                self._back_within_reach(error)
        return LeaderCommand(tuple(self._q), self._trigger)

    # --- the script ----------------------------------------------------------------------------------------------

    def _demonstrate(self) -> Generator[None, None, None]:
        try:
            yield from self._align()
            for self.attempts in range(1, MAX_ATTEMPTS + 1):
                went_well = yield from self._grasp()
                if went_well:
                    went_well = yield from (self._place() if self._plan.target else self._lift())
                if went_well and self._looks_done():
                    self.phase = "still"
                    yield from self._wait(float(self._rng.uniform(0.7, 1.0)))
                    self.outcome = "done"
                    return
                self._eyes.refocus()
                if self._rng.random() < 0.1:
                    raise _GiveUp("lost patience after a failed attempt")
            raise _GiveUp(f"{MAX_ATTEMPTS} attempts failed")
        except (_GiveUp, Unreachable) as reason:
            self.gave_up, self.outcome = True, str(reason)
            yield from self._retreat()

    def _align(self) -> Steps:
        """Bring the leader to the follower's posture before anything else: the gate of teleoperation asks for it."""
        self.phase = "align"
        assert self._q is not None
        start = list(self._q)
        goal = [float(value) for value in self._kinematics.inverse(self._eyes.tcp(), HOME_Q_RAD)]
        farthest = max(abs(a - b) for a, b in zip(start, goal, strict=True))
        if farthest > 0.03:  # nearer than that counts as aligned
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

    def _grasp(self) -> Steps:
        """Reach above the object, look, descend, close the fingers. False when they closed on nothing."""
        plan = self._plan
        side = (self.attempts - 1) % len(plan.grasp_offsets_m)

        def goal() -> tuple[Array, float]:
            T = plan.grasp_pose(self._eyes.object(plan.object), side)
            return T[:3, 3], yaw_of(T)

        self.phase = "reach"
        self._squeeze(plan.open_fraction, 0.4)
        position, _ = goal()
        above = _up(position, plan.approach_height_m)
        points = [self._position, above + self._bias, _up(position + self._bias, HOVER_M)]
        if self._position[2] < above[2] - 0.02 and math.dist(self._position[:2], above[:2]) > 0.02:
            points.insert(1, np.array([self._position[0], self._position[1], above[2] + self._bias[2]]))
        yield from self._travel(points, goal, HOVER_M)
        self.phase = "look"
        yield from self._settle(goal, HOVER_M, 0.0045, hurry=True)
        self.phase = "descend"
        position, _ = goal()
        speed = float(self._rng.uniform(0.07, 0.10))
        yield from self._travel([self._position, position + self._bias], goal, 0.0, speed)
        if self._rng.random() >= HASTE:
            yield from self._settle(goal, 0.0, 0.0035)
        self.phase = "close"
        self._squeeze(0.0, float(self._rng.uniform(0.25, 0.4)))
        yield from self._wait_for_fingers()
        return self._eyes.seen.gripper_opening > 0.012

    def _lift(self) -> Steps:
        """Straight up with what is held, and stay there."""
        self.phase = "lift"
        top = _up(self._position, self._plan.lift_height_m)
        speed = self._cruise_mps * (0.8 if self.task.id == "pull_tissue" else 1.0)
        return (yield from self._travel([self._position, top], None, 0.0, speed, self._holding_watch()))

    def _place(self) -> Steps:
        """Carry to the target, lower, open, retreat. False when the object was lost on the way."""
        plan = self._plan
        assert plan.target is not None
        held = self._eyes.tcp()[:2, 3] - self._eyes.object(plan.object)[:2, 3]
        yaw = self._yaw

        def goal() -> tuple[Array, float]:
            target = self._eyes.object(plan.target or "")
            position = target[:3, 3] + np.asarray(plan.place_offset_m)
            position[:2] += held
            return position, yaw

        self.phase = "carry"
        position, _ = goal()
        height = max(self._position[2] + 0.06, position[2] + 1.7 * HOVER_M)
        corners = [self._position, [*self._position[:2], height], [*(position + self._bias)[:2], height]]
        points = [*map(np.asarray, corners), position + self._bias]
        if not (yield from self._travel(points, goal, 0.0, watch=self._holding_watch())):
            return False
        yield from self._settle(goal, 0.0, 0.007)
        self.phase = "open"
        self._squeeze(plan.open_fraction, float(self._rng.uniform(0.25, 0.4)))
        yield from self._wait_for_fingers(0.92 * plan.open_fraction)
        self.phase = "retreat"
        top = _up(self._position, plan.retreat_height_m * float(self._rng.uniform(0.75, 0.95)))
        yield from self._travel([self._position, top], None, 0.0)
        return (yield from self._wait(self._eyes.reaction_s))

    def _retreat(self) -> Steps:
        """Let go and get out of the way."""
        self.phase = "give up"
        self._squeeze(max(self._plan.open_fraction, 0.6), 0.4)
        yield from self._wait(0.6)
        if not self._joint_move and self._position[2] < 0.3:
            try:
                yield from self._travel([self._position, _up(self._position, 0.10)], None, 0.0)
            except (_GiveUp, Unreachable):
                return False
        return (yield from self._wait(0.5))

    def _looks_done(self) -> bool:
        """What the operator believes, from what is seen (not the judge's verdict)."""
        seen = self._eyes.seen
        now, start = seen.object_poses, self._start_objects
        if self.task.id == "place_cube":
            gap = now["cube"][:3, 3] - now["bowl"][:3, 3]
            return math.hypot(gap[0], gap[1]) < BOWL_INNER_RADIUS_M and gap[2] < BOWL_RIM_HEIGHT_M
        if self.task.id == "place_bowl":
            return math.dist(now["bowl"][:2, 3], now["plate"][:2, 3]) < PLATE_TOLERANCE_M and now["bowl"][2, 2] > 0.97
        if self.task.id == "grasp_bottle":
            return bool(now["bottle"][2, 3] - start["bottle"][2, 3] > LIFT_M) and self._held()
        return math.dist(now["tissue"][:3, 3], start["tissue"][:3, 3]) > PULL_M

    # --- movements -----------------------------------------------------------------------------------------------

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
        pause_at = profile.duration_s * self._rng.uniform(0.2, 0.8) if self._rng.random() < 0.10 else math.inf
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
                wanted = _up(position + self._bias, hover_m) - first_goal
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
                    raise _GiveUp("the follower does not come to rest")
                continue
            if float(np.linalg.norm(tcp - self._position)) > FOLLOW_TOLERANCE_M:
                if waited > FOLLOW_PATIENCE_S:
                    raise _GiveUp("the follower does not follow; is teleoperation engaged?")
                continue
            position, yaw = goal()
            self._bias = self._bias + 0.8 * (self._position - tcp - self._bias)
            error = _up(position, hover_m) - tcp
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

    # --- small things --------------------------------------------------------------------------------------------

    def _holding_watch(self) -> Callable[[], bool]:
        """Is the object still where it was between the fingers? (compared with now)"""
        held = self._eyes.seen.object_poses[self._plan.object][:3, 3] - self._eyes.seen.T_base_tcp[:3, 3]

        def still_there() -> bool:
            seen = self._eyes.seen
            now = seen.object_poses[self._plan.object][:3, 3] - seen.T_base_tcp[:3, 3]
            return float(np.linalg.norm(now - held)) < 0.04

        return still_there

    def _held(self) -> bool:
        seen = self._eyes.seen
        return math.dist(seen.object_poses[self._plan.object][:2, 3], seen.T_base_tcp[:2, 3]) < 0.06

    def _check_time(self) -> None:
        if self._now - self._begin_s > self.task.max_duration_s - 3.0:
            raise _GiveUp(f"it takes longer than {self.task.max_duration_s - 3.0:.0f} s")

    def _hold_leader(self) -> None:
        """Leader joints for the hand's pose, tremor included."""
        shake = self._tremor.at(self._now, self._dt)
        T = top_down(self._position + shake[:3], self._yaw + shake[3])
        if self._tilt.any():
            T[:3, :3] = T[:3, :3] @ Rotation.from_rotvec(self._tilt).as_matrix()
        assert self._q is not None
        self._q = [float(value) for value in self._kinematics.inverse(T, self._q)]

    def _back_within_reach(self, error: Unreachable) -> None:
        """The hand would leave the leader's reach: it stays, and the script is told (once) that this cannot go on."""
        assert self._q is not None
        self._position = self._kinematics.forward(self._q)[:3, 3].copy()
        if not self.gave_up:
            try:
                self._script.throw(error)
            except StopIteration:
                self.done, self.phase = True, "done"


def _up(position: Array, height_m: float) -> Array:
    raised: Array = position + np.array([0.0, 0.0, height_m])
    return raised
