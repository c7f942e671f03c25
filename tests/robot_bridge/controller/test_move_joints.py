"""The slow joint move through genuine ur_rtde: it keeps the speed limit, refuses unsafe paths, can be stopped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from robot_bridge.arm_types import ArmError, MoveFailed, MoveRefused
from robot_bridge.ur_arm import UrArm
from robot_bridge.ur_kinematics import Kinematics
from tests.helpers.twin_controller import HOME_Q, RunningController, wait_for

AWAY_Q = [0.25, -1.5, 1.6, -1.7, -1.4, 0.5]


@pytest.fixture
def arm(robot: RunningController) -> Iterator[UrArm]:
    arm = UrArm(robot.cell.robot, robot.cell.safety)
    arm.connect()
    arm.move_home()
    yield arm
    arm.close()


def distance(arm: UrArm, goal: list[float]) -> float:
    return float(np.abs(np.subtract(arm.measured().q, goal)).max())


def test_it_arrives_on_a_straight_joint_path_within_the_tcp_speed(arm: UrArm, robot: RunningController) -> None:
    done: list[bool] = []
    speeds, lines = [], []

    def go() -> None:
        arm.move_joints(AWAY_Q)
        done.append(True)

    mover = threading.Thread(target=go)
    mover.start()
    start, along = np.array(HOME_Q), np.subtract(AWAY_Q, HOME_Q)
    while mover.is_alive():
        state = arm.measured()
        speeds.append(float(np.linalg.norm(state.tcp_speed[:3])))
        off = np.subtract(state.q, start)
        share = float(off @ along / (along @ along))
        lines.append(float(np.abs(off - share * along).max()))
        time.sleep(0.01)
    mover.join()
    assert done and distance(arm, AWAY_Q) < 0.01
    assert max(speeds) < 1.05 * robot.cell.safety.tcp_speed_mps
    assert max(lines) < 0.02
    arm.engage("teleop")  # nothing is left that would keep a source from engaging
    arm.disengage()


def test_unsafe_goals_are_refused_before_anything_moves(arm: UrArm) -> None:
    T = Kinematics().forward(HOME_Q)
    T[2, 3] = 0.018
    low = [float(q) for q in Kinematics().inverse(T, HOME_Q)]
    for goal, words in (
        (low, "table"),
        ([1.3, *HOME_Q[1:]], "workspace box"),
        ([*HOME_Q[:4], 3.1, 0.0], "within|box"),
        ([math.nan, *HOME_Q[1:]], "finite"),
        ([6.28, *HOME_Q[1:]], "limit"),
    ):
        with pytest.raises(MoveRefused, match=words):
            arm.move_joints(goal)
    assert distance(arm, HOME_Q) < 1e-3


def test_it_does_not_move_while_somebody_is_engaged(arm: UrArm) -> None:
    arm.engage("teleop")
    with pytest.raises(ArmError, match="while 'teleop' is engaged"):
        arm.move_joints(AWAY_Q)
    assert distance(arm, HOME_Q) < 1e-3


def test_stop_from_another_thread_cancels_the_move(arm: UrArm) -> None:
    stopper = threading.Thread(
        target=lambda: (wait_for(lambda: distance(arm, HOME_Q) > 0.05, "motion"), arm.stop("enough"))
    )
    stopper.start()
    with pytest.raises(MoveFailed, match="cancelled"):
        arm.move_joints(AWAY_Q)
    stopper.join()
    wait_for(lambda: max(map(abs, arm.measured().qd)) < 0.005, "rest")
    assert distance(arm, AWAY_Q) > 0.02
    with pytest.raises(ArmError, match="recover"):
        arm.move_joints(AWAY_Q)
    arm.recover()
    arm.move_joints(AWAY_Q)
    assert distance(arm, AWAY_Q) < 0.01
