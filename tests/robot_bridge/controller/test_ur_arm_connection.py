"""Getting connected, and what the robot does when the driver is gone."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from robot_bridge.arm_types import ArmError, ControllerUnreachable, NotInRemoteControl
from robot_bridge.ur_arm import UrArm
from tests.helpers.twin_controller import RunningController, wait_for


def test_connect_powers_on_and_measures(robot: RunningController) -> None:
    robot.lab.call("emergency_stop", on=True)
    robot.lab.call("emergency_stop", on=False)
    assert robot.status("robot_mode") == "POWER_OFF"
    arm = UrArm(robot.cell.robot, robot.cell.safety)
    with pytest.raises(ArmError, match="connect first"):
        arm.measured()
    arm.connect()
    state = arm.measured()
    assert (state.robot_mode, state.safety_mode, state.runtime_state) == (7, 1, 2)
    assert np.abs(state.T_base_tcp - np.array(robot.lab.truth()["T_base_tcp"])).max() < 1e-3
    assert arm.trouble == ""
    later = wait_for(lambda: arm.measured() if arm.measured().timestamp_s > state.timestamp_s else None, "a new sample")
    assert later.stamp_ns > state.stamp_ns
    arm.close()
    wait_for(lambda: robot.status("program") == "", "the program to end")


def test_connecting_to_a_stopped_robot_measures_but_leaves_the_stop_to_a_person(robot: RunningController) -> None:
    robot.lab.call("protective_stop")
    arm = UrArm(robot.cell.robot, robot.cell.safety)
    arm.connect()
    assert "protective stop" in arm.trouble
    assert arm.measured().safety_mode == 3
    assert robot.status("safety_mode") == "PROTECTIVE_STOP"
    arm.recover()
    assert arm.trouble == ""
    arm.close()


def test_killing_the_driver_stops_the_robot(robot: RunningController) -> None:
    code = f"""
import itertools, time
from robot_bridge.cell import load_cell
from robot_bridge.ur_arm import UrArm
from robot_bridge.ur_kinematics import Kinematics
cell = load_cell({str(robot.cell_path)!r}, host={robot.host!r})
arm = UrArm(cell.robot, cell.safety)
arm.connect()
arm.move_home()
arm.engage("teleop")
q = list(arm.measured().q)
print("moving", flush=True)
for i in itertools.count():
    arm.set_joint_target([q[0] + 0.002 * i, *q[1:]])
    time.sleep(0.01)
"""
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "moving\n"
    wait_for(lambda: robot.lab.status()["q"][0] > 0.1, "motion")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for(lambda: robot.status("program") == "", "the program to end")
    assert any("RTDE watchdog" in line for line in robot.lab.status()["log"])
    stood = robot.lab.status()["q"]
    tick = int(str(robot.status("tick")))
    wait_for(lambda: int(str(robot.status("tick"))) > tick + 100, "time to pass")
    assert robot.lab.status()["q"] == pytest.approx(stood, abs=2e-3)


def test_local_control_is_named_with_its_remedy(robot: RunningController) -> None:
    robot.lab.fault("not_in_remote", True)
    with pytest.raises(NotInRemoteControl, match="Remote Control"):
        UrArm(robot.cell.robot, robot.cell.safety).connect()


def test_no_controller_is_an_error_that_says_what_to_start(robot: RunningController) -> None:
    nowhere = dataclasses.replace(robot.cell.robot, host="127.255.255.254")
    with pytest.raises(ControllerUnreachable, match="start it with"):
        UrArm(nowhere, robot.cell.safety).connect()
