"""A scripted hand that moves the twin's TCP along straight lines, without servo, safety or operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from calibration.poses import interpolate
from robot_bridge.twin.motion import JointServo
from robot_bridge.twin.success import SuccessReport
from robot_bridge.twin.tasks import Placement
from robot_bridge.twin.world import World
from robot_bridge.ur_kinematics import Kinematics

TICK_S = 0.002


class Hand:
    """Drives one world; ``watch`` is called after every tick."""

    def __init__(self, world: World, watch: Callable[[World], None] | None = None) -> None:
        self.world = world
        self.watch = watch
        self.kinematics = Kinematics(deltas=world.deltas)
        self.servo = JointServo(lookahead_s=0.03, gain=1500.0)
        self.servo.seed(world.q)
        self.q = world.q
        self.T = world.T_base_tcp
        self.opening = world.gripper_opening

    def tick(self) -> None:
        self.world.step(self.servo.step(self.q), self.opening)
        if self.watch is not None:
            self.watch(self.world)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.tick()

    def grip(self, opening: float, seconds: float = 0.8) -> None:
        self.opening = opening
        self.wait(seconds)

    def move(self, T_goal: np.ndarray, speed_mps: float = 0.25) -> None:
        """Straight line with a minimum-jerk profile of about that peak speed."""
        T_start = self.T
        distance = float(np.linalg.norm(T_goal[:3, 3] - T_start[:3, 3]))
        ticks = round(max(1.875 * distance / speed_mps, 0.2) / TICK_S)
        for k in range(1, ticks + 1):
            u = k / ticks
            if k % 5 == 0 or k == ticks:
                T = interpolate(T_start, T_goal, u**3 * (10.0 - 15.0 * u + 6.0 * u * u))
                self.q = self.kinematics.inverse(T, self.q)
            self.tick()
        self.T = T_goal

    def grasp(self, side: int = 0) -> np.ndarray:
        """Approach, go down, close and lift by the task's own plan; returns the TCP pose of the grasp."""
        plan = self.world.task.grasp
        T_grasp = plan.grasp_pose(self.world.object_poses()[plan.object], side)
        self.grip(plan.open_fraction, 0.3)
        self.move(raised(T_grasp, plan.approach_height_m))
        self.move(T_grasp, 0.15)
        self.grip(0.0)
        self.move(raised(T_grasp, plan.lift_height_m))
        return T_grasp

    def place(self, T_grasp: np.ndarray, side: int = 0) -> None:
        """Carry to the task's target, release and retreat."""
        plan = self.world.task.grasp
        assert plan.target is not None
        T_place = plan.place_pose(self.world.object_poses()[plan.target], T_grasp, side)
        self.move(raised(T_place, 0.08))
        self.move(T_place, 0.15)
        self.grip(plan.open_fraction, 0.6)
        self.move(raised(T_place, plan.retreat_height_m))

    def do_task(self, side: int = 0) -> SuccessReport:
        T_grasp = self.grasp(side)
        if self.world.task.grasp.target is not None:
            self.place(T_grasp, side)
        self.wait(0.7)
        return self.world.success()


def raised(T: np.ndarray, height_m: float) -> np.ndarray:
    T = T.copy()
    T[2, 3] += height_m
    return T


@pytest.fixture
def hand() -> Callable[..., Hand]:
    """``hand(task_id, placement, watch=None)``: a fresh world at that placement with a hand on it."""

    def make(task_id: str, placement: Placement | None = None, watch: Callable[[World], None] | None = None) -> Hand:
        world = World(task_id, seed=3)
        world.reset(placement)
        return Hand(world, watch)

    return make
