"""The scripted operator: demonstrates the four tasks with the leader arm, seeing only what eyes see.

The script below is the strategy, the same in every demonstration: align with the follower, reach above the object,
look, descend, close, lift, carry, open, retreat, be still. What varies is human: speed, tremor, misjudged positions
that are corrected on the way, a pause now and then; rarely a gross misjudgement or a slip of the finger, after which
the operator tries again or gives up.

It is stepped at about 100 Hz and outputs *leader* joint angles. The leader has the follower's nominal kinematics;
the follower comes along some 150 ms later and, being a calibrated arm, a millimetre or two beside. The operator sees
that and shifts the hand. Frame ``base``, metres, radians, seconds of the view's clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from robot_bridge.twin.grasp_plan import yaw_of
from robot_bridge.twin.operator_eyes import SceneView
from robot_bridge.twin.operator_moves import Array, GiveUp, OperatorMoves, Steps, raised
from robot_bridge.twin.success import BOWL_INNER_RADIUS_M, BOWL_RIM_HEIGHT_M, LIFT_M, PLATE_TOLERANCE_M, PULL_M
from robot_bridge.twin.tasks import get_task
from robot_bridge.ur_kinematics import Kinematics, Unreachable

__all__ = ["LeaderCommand", "SceneView", "ScriptedOperator"]

HOVER_M = 0.030
"""Height above the grasp at which the operator looks once more."""
MAX_ATTEMPTS = 3
LAPSE = 0.04
"""Probability, per attempt, of taking the object for several centimetres nearer or farther than it is."""
SLIP = 0.02
"""Probability, per grasp, of letting go of the trigger on the way."""
IMPATIENCE = 0.2
"""Probability of giving up after a failed attempt."""


@dataclass(frozen=True)
class LeaderCommand:
    """Where the operator holds the leader: joint angles [6] in radians and the trigger as opening (1 released)."""

    q_6: tuple[float, ...]
    trigger_opening: float


class ScriptedOperator(OperatorMoves):
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
        super().__init__(rng, kinematics, q_leader, self.task.max_duration_s - 3.0)
        self.phase = "align"
        self.done = False
        self.gave_up = False
        self.outcome = ""
        self.attempts = 0
        self._plan = self.task.grasp
        self._slip_s = math.inf
        self._start_objects: dict[str, Array] = {}
        self._script = self._demonstrate()

    def step(self, view: SceneView) -> LeaderCommand:
        """Look at the scene, move on by the time since the last look, and say where the leader is held."""
        self._live(view, first=not self._start_objects)
        if not self._start_objects:
            self._start_objects = {name: T.copy() for name, T in view.object_poses.items()}
        if not self.done:
            try:
                next(self._script)
            except StopIteration:
                self.done, self.phase = True, "done"
        if self._now >= self._slip_s:
            self._slip_s = math.inf
            self._squeeze(self._plan.open_fraction, 0.2)
        self._move_trigger()
        if not self._joint_move and not self.done:
            try:
                self._hold_leader()
            except Unreachable as error:
                self._back_within_reach(error)
        return LeaderCommand(tuple(self._q), self._trigger)

    def _demonstrate(self) -> Generator[None, None, None]:
        try:
            yield from self._align()
            for self.attempts in range(1, MAX_ATTEMPTS + 1):
                went_well = yield from self._grasp()
                if went_well:
                    yield from (self._place() if self._plan.target else self._lift())
                if self._looks_done():
                    self.phase = "still"
                    yield from self._wait(float(self._rng.uniform(0.7, 1.0)))
                    self.outcome = "done"
                    return
                self._consider_giving_up()
                self._eyes.refocus()
            raise GiveUp(f"{MAX_ATTEMPTS} attempts failed")
        except (GiveUp, Unreachable) as reason:
            self.gave_up, self.outcome = True, str(reason)
            yield from self._retreat()

    def _grasp(self) -> Steps:
        """Reach above the object, look, descend, close the fingers. False when they closed on nothing."""
        plan = self._plan
        side = (self.attempts - 1) % len(plan.grasp_offsets_m)
        lapse_m = float(self._rng.choice([-1.0, 1.0]) * self._rng.uniform(0.040, 0.050)) * self._happens(LAPSE)

        def goal() -> tuple[Array, float]:
            T = plan.grasp_pose(self._eyes.object(plan.object), side)
            return T[:3, 3] + lapse_m * T[:3, 1], yaw_of(T)

        self.phase = "reach"
        if self.attempts > 1 and self._position[2] < goal()[0][2] + HOVER_M:
            yield from self._travel([self._position, raised(self._position, 2.0 * HOVER_M)], None, 0.0)
        self._squeeze(plan.open_fraction, 0.4)
        position, _ = goal()
        above = raised(position, plan.approach_height_m)
        points = [self._position, above + self._bias, raised(position + self._bias, HOVER_M)]
        if self._position[2] < above[2] - 0.02 and math.dist(self._position[:2], above[:2]) > 0.02:
            points.insert(1, np.array([self._position[0], self._position[1], above[2] + self._bias[2]]))
        yield from self._travel(points, goal, HOVER_M)
        self.phase = "look"
        yield from self._settle(goal, HOVER_M, 0.0045, hurry=True)
        self.phase = "descend"
        position, _ = goal()
        speed = float(self._rng.uniform(0.07, 0.10))
        yield from self._travel([self._position, position + self._bias], goal, 0.0, speed)
        yield from self._settle(goal, 0.0, 0.0035)
        self.phase = "close"
        self._squeeze(0.0, float(self._rng.uniform(0.25, 0.4)))
        yield from self._wait_for_fingers()
        if self._happens(SLIP):
            self._slip_s = self._now + float(self._rng.uniform(0.4, 1.2))
        return self._eyes.seen.gripper_opening > 0.012

    def _lift(self) -> Steps:
        """Straight up with what is held, and stay there."""
        self.phase = "lift"
        top = raised(self._position, self._plan.lift_height_m)
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
        top = raised(self._position, plan.retreat_height_m * float(self._rng.uniform(0.75, 0.95)))
        yield from self._travel([self._position, top], None, 0.0)
        return (yield from self._wait(self._eyes.reaction_s))

    def _retreat(self) -> Steps:
        """Let go and get out of the way."""
        self.phase = "give up"
        self._squeeze(max(self._plan.open_fraction, 0.6), 0.4)
        yield from self._wait(0.6)
        if not self._joint_move and self._position[2] < 0.3:
            try:
                yield from self._travel([self._position, raised(self._position, 0.10)], None, 0.0)
            except (GiveUp, Unreachable):
                return False
        return (yield from self._wait(0.5))

    def _consider_giving_up(self) -> None:
        """After a failed attempt: is it worth another one?"""
        T = self._eyes.seen.object_poses[self._plan.object]
        if T[2, 2] < 0.8:
            raise GiveUp(f"the {self._plan.object} has fallen over")
        if self._happens(IMPATIENCE):
            raise GiveUp("lost patience after a failed attempt")

    def _happens(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

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

    def _back_within_reach(self, error: Unreachable) -> None:
        """The hand would leave the leader's reach: it stays, and the script is told (once) that this cannot go on."""
        self._position = self._kinematics.forward(self._q)[:3, 3].copy()
        if not self.gave_up:
            try:
                self._script.throw(error)
            except StopIteration:
                self.done, self.phase = True, "done"
