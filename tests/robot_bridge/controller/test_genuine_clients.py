"""The unmodified ur_rtde clients against the twin, running the control script they upload themselves."""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from dashboard_client import DashboardClient
from rtde_control import Path, PathEntry, RTDEControlInterface
from rtde_io import RTDEIOInterface
from rtde_receive import RTDEReceiveInterface

from calibration.poses import from_ur
from tests.helpers.twin_controller import HOME_Q, RunningController, new_host, wait_for

TCP = [0.0, 0.0, 0.174, 0.0, 0.0, 0.0]


@dataclass
class Clients:
    """Receive and control of one robot."""

    robot: RunningController
    receive: RTDEReceiveInterface
    control: RTDEControlInterface

    def restart_program(self) -> None:
        self.control.reuploadScript()
        wait_for(self.control.isProgramRunning, "the control program")


@pytest.fixture(scope="module")
def connected(controller: RunningController) -> Iterator[Clients]:
    controller.power_on()
    clients = Clients(controller, RTDEReceiveInterface(controller.host), RTDEControlInterface(controller.host))
    yield clients
    clients.control.stopScript()
    clients.control.disconnect()
    clients.receive.disconnect()


@pytest.fixture
def clients(connected: Clients) -> Clients:
    """At home, with the TCP set, the control program running."""
    connected.robot.calm()
    if not connected.control.isProgramRunning():
        connected.restart_program()
    assert connected.control.setTcp(TCP)
    assert connected.control.moveJ(HOME_Q, 2.0, 6.0)
    return connected


def test_dashboard_powers_the_arm_on(tmp_path: object, controller: RunningController) -> None:
    dashboard = DashboardClient(controller.host)
    dashboard.connect()
    assert dashboard.isConnected()
    assert dashboard.polyscopeVersion().startswith("5.15")
    assert dashboard.getRobotModel() == "UR30"
    assert dashboard.getSerialNumber().isdigit()
    assert dashboard.isInRemoteControl()
    dashboard.powerOff()
    assert dashboard.robotmode() == "Robotmode: POWER_OFF"
    dashboard.powerOn()
    wait_for(lambda: dashboard.robotmode() == "Robotmode: IDLE", "power on")
    dashboard.brakeRelease()
    wait_for(lambda: dashboard.robotmode() == "Robotmode: RUNNING", "brake release")
    assert dashboard.safetystatus() == "Safetystatus: NORMAL"
    assert not dashboard.running()
    assert dashboard.programState().startswith("STOPPED")
    dashboard.popup("hello")
    dashboard.closePopup()
    dashboard.addToLog("noted")
    assert "dashboard: noted" in controller.status("log")
    dashboard.disconnect()


def test_receive_shows_the_whole_robot(clients: Clients) -> None:
    receive = clients.receive
    assert receive.getActualQ() == pytest.approx(HOME_Q, abs=0.005)
    assert receive.getRobotMode() == 7
    assert receive.getSafetyMode() == 1
    assert receive.getRuntimeState() == 2
    assert receive.getSpeedScaling() == 1.0
    first = receive.getTimestamp()
    wait_for(lambda: receive.getTimestamp() > first + 0.05, "robot time to pass")


def test_robot_time_runs_at_wall_time(clients: Clients) -> None:
    """Loosely: this machine may be busy; but never faster than the wall, and no standstill."""
    start_robot, start = clients.receive.getTimestamp(), time.monotonic()
    wait_for(lambda: time.monotonic() - start > 0.5, "half a second")
    passed = clients.receive.getTimestamp() - start_robot
    elapsed = time.monotonic() - start
    assert 0.5 * elapsed < passed < elapsed + 0.05


def test_move_j_and_move_l_arrive(clients: Clients) -> None:
    control, receive = clients.control, clients.receive
    goal = [0.2, -1.4, 1.4, -1.5, -1.5, 0.1]
    assert control.moveJ(goal, 1.5, 4.0)
    assert receive.getTargetQ() == pytest.approx(goal, abs=1e-6)
    pose = receive.getTargetTCPPose()
    pose[2] -= 0.08
    assert control.moveL(pose, 0.25, 2.0)
    wait_for(lambda: max(map(abs, receive.getActualQd())) < 0.01, "rest")
    assert receive.getActualTCPPose()[:3] == pytest.approx(pose[:3], abs=2e-3)


def test_move_j_ik_and_move_l_fk_arrive(clients: Clients) -> None:
    control, receive = clients.control, clients.receive
    pose = receive.getTargetTCPPose()
    pose[1] += 0.06
    assert control.moveJ_IK(pose, 1.5, 4.0)
    assert receive.getTargetTCPPose() == pytest.approx(pose, abs=1e-5)
    assert control.moveL_FK(HOME_Q, 0.25, 2.0)
    assert receive.getTargetQ() == pytest.approx(HOME_Q, abs=1e-5)


def test_forward_and_inverse_kinematics_agree(clients: Clients) -> None:
    control = clients.control
    q = [0.3, -1.3, 1.5, -1.7, -1.4, 0.2]
    pose = control.getForwardKinematics(q, TCP)
    assert control.getInverseKinematics(pose, q) == pytest.approx(q, abs=1e-6)
    assert control.getInverseKinematicsHasSolution(pose)
    assert not control.getInverseKinematicsHasSolution([5.0, 0, 0, 0, 0, 0])
    assert control.isPoseWithinSafetyLimits(pose)
    assert not control.isJointsWithinSafetyLimits([7.0, 0, 0, 0, 0, 0])
    assert control.poseTrans([1, 2, 3, 0, 0, 0], [1, 0, 0, 0, 0, 0]) == pytest.approx([2, 2, 3, 0, 0, 0])


def test_tool_and_payload_reach_the_controller(clients: Clients) -> None:
    control, receive = clients.control, clients.receive
    assert control.setTcp([0.0, 0.01, 0.2, 0.0, 0.0, 0.1])
    assert control.getTCPOffset() == pytest.approx([0.0, 0.01, 0.2, 0.0, 0.0, 0.1])
    assert control.setPayload(1.5, [0.0, 0.01, 0.07])
    wait_for(lambda: receive.getPayload() == 1.5, "the payload")
    assert receive.getPayloadCog() == pytest.approx([0.0, 0.01, 0.07])
    assert control.zeroFtSensor()
    wait_for(lambda: np.linalg.norm(receive.getActualTCPForce()[:3]) < 5.0, "a zeroed force")


def test_servo_j_follows_a_500_hz_stream(clients: Clients) -> None:
    control, receive = clients.control, clients.receive
    start, deadline = time.monotonic(), time.monotonic()
    worst = 0.0
    while (t := time.monotonic() - start) < 1.2:
        target = [HOME_Q[0] + 0.2 * (1 - math.cos(2.0 * t)), *HOME_Q[1:]]
        assert control.servoJ(target, 0, 0, 0.002, 0.05, 600)
        if t > 0.3:
            worst = max(worst, abs(receive.getActualQ()[0] - target[0]))
        deadline += 0.002
        time.sleep(max(0.0, deadline - time.monotonic()))
    assert control.servoStop()
    assert worst < 0.12  # 0.4 rad/s with about 0.06 s of lag, and room for a busy machine
    assert abs(receive.getActualQ()[0] - HOME_Q[0]) > 0.1


def test_servo_l_follows_poses(clients: Clients) -> None:
    control, receive = clients.control, clients.receive
    pose = receive.getTargetTCPPose()
    goal_y = pose[1] + 0.05
    for _ in range(150):
        pose[1] += 0.05 / 150
        assert control.servoL(pose, 0, 0, 0.002, 0.05, 600)
        time.sleep(0.002)
    wait_for(lambda: abs(receive.getActualTCPPose()[1] - goal_y) < 2e-3, "the servo target")
    assert control.servoStop()


def test_an_unreachable_servo_l_ends_the_program_until_it_is_uploaded_again(clients: Clients) -> None:
    control = clients.control
    control.servoL([5.0, 0, 0, 0, 0, 0], 0, 0, 0.002, 0.05, 600)
    wait_for(lambda: not control.isProgramRunning(), "the program to die")
    assert not control.moveJ(HOME_Q, 1.0, 1.0)
    assert any("out of reach" in line for line in clients.robot.status("log"))
    clients.restart_program()
    assert control.moveJ(HOME_Q, 1.0, 1.0)


def test_speed_j_and_speed_l_run_until_stopped(clients: Clients) -> None:
    control, receive = clients.control, clients.receive
    assert control.speedJ([0.3, 0, 0, 0, 0, 0], 2.0, 0.0)
    wait_for(lambda: receive.getActualQd()[0] > 0.25, "joint speed")
    assert control.speedStop(5.0)
    wait_for(lambda: abs(receive.getActualQd()[0]) < 0.01, "rest")
    assert control.speedL([0, 0, -0.05, 0, 0, 0], 1.0, 0.0)
    wait_for(lambda: receive.getActualTCPSpeed()[2] < -0.04, "TCP speed")
    assert control.speedStop(5.0)
    wait_for(lambda: abs(receive.getActualTCPSpeed()[2]) < 0.005, "rest")


def test_asynchronous_moves_report_progress_and_can_be_stopped(clients: Clients) -> None:
    control, receive = clients.control, clients.receive
    assert control.moveJ([1.0, *HOME_Q[1:]], 0.5, 2.0, True)
    wait_for(lambda: receive.getActualQ()[0] > 0.1, "the move to get going")
    assert control.getAsyncOperationProgress() >= 0
    control.stopJ(3.0, True)
    wait_for(lambda: control.getAsyncOperationProgress() < 0, "the stop")
    wait_for(lambda: abs(receive.getActualQd()[0]) < 0.01, "rest")
    assert 0.1 < receive.getActualQ()[0] < 0.9
    assert control.moveL(receive.getTargetTCPPose(), 0.2, 1.0, True)
    control.stopL(3.0)
    assert control.isProgramRunning()


def test_a_path_is_injected_into_the_script(clients: Clients) -> None:
    control, receive = clients.control, clients.receive
    path = Path()
    for angle in (0.1, 0.2):
        parameters = [angle, *HOME_Q[1:], 1.5, 3.0, 0.0]
        path.addEntry(PathEntry(PathEntry.MoveJ, PathEntry.PositionJoints, parameters))
    assert control.movePath(path, False)
    assert receive.getTargetQ()[0] == pytest.approx(0.2, abs=1e-6)


def test_custom_script_functions_run_in_the_control_program(clients: Clients) -> None:
    body = 'textmsg("custom says ", 42)\nset_tcp(p[0,0,0.3,0,0,0])\n'
    assert clients.control.sendCustomScriptFunction("CUSTOM", body)
    assert any("custom says 42" in line for line in clients.robot.status("log"))
    assert clients.control.getTCPOffset()[2] == pytest.approx(0.3)


def test_a_custom_script_takes_the_place_of_the_control_program(clients: Clients) -> None:
    script = (
        "def custom():\n  write_output_integer_register(0, 1)\n"
        "  movej([0.1,-1.5708,1.5708,-1.5708,-1.5708,0], a=4, v=1)\n  write_output_integer_register(0, 2)\nend\n"
    )
    assert clients.control.sendCustomScript(script)
    assert clients.receive.getTargetQ()[0] == pytest.approx(0.1, abs=1e-6)
    # The client loads its own control program again by itself.
    wait_for(lambda: clients.robot.status("program") == "rtde_control", "the control program")
    assert clients.control.moveJ(HOME_Q, 2.0, 6.0)


def test_io_interface_sets_outputs_and_speed_slider(clients: Clients) -> None:
    io, receive = RTDEIOInterface(clients.robot.host), clients.receive
    assert io.setStandardDigitalOut(3, True)
    wait_for(lambda: receive.getDigitalOutState(3), "output 3")
    assert io.setToolDigitalOut(1, True)
    wait_for(lambda: receive.getDigitalOutState(17), "tool output 1")
    assert io.setSpeedSlider(0.5)
    wait_for(lambda: receive.getTargetSpeedFraction() == 0.5, "the speed slider")
    assert io.setSpeedSlider(1.0)
    assert io.setInputIntRegister(20, 77)
    io.disconnect()


def test_a_second_control_client_is_refused_and_the_first_lives_on(clients: Clients) -> None:
    with pytest.raises(RuntimeError, match="already in use"):
        RTDEControlInterface(clients.robot.host)
    assert clients.control.moveJ(HOME_Q, 1.0, 1.0)


def test_protective_stop_unlock_reupload_move(clients: Clients) -> None:
    control, receive = clients.control, clients.receive
    assert control.moveJ([1.0, *HOME_Q[1:]], 0.3, 1.0, True)
    wait_for(lambda: receive.getActualQd()[0] > 0.1, "motion")
    clients.robot.lab.call("protective_stop")
    wait_for(receive.isProtectiveStopped, "the protective stop")
    wait_for(lambda: max(map(abs, receive.getActualQd())) < 0.01, "rest")
    assert receive.getSafetyStatusBits() & 0b100 and receive.getSafetyStatusBits() & (1 << 10)
    wait_for(lambda: not control.isProgramRunning(), "the program to be stopped")
    assert not control.moveJ(HOME_Q, 1.0, 1.0)
    clients.robot.calm()
    clients.restart_program()
    assert control.moveJ(HOME_Q, 2.0, 4.0)


def test_emergency_and_safeguard_stop_show_in_the_status(clients: Clients) -> None:
    receive, lab = clients.receive, clients.robot.lab
    lab.call("safeguard_stop", on=True)
    wait_for(lambda: receive.getSafetyMode() == 5 and receive.getRuntimeState() == 4, "a paused program")
    lab.call("safeguard_stop", on=False)
    wait_for(lambda: receive.getRuntimeState() == 2, "the program to resume")
    lab.call("emergency_stop", on=True)
    wait_for(receive.isEmergencyStopped, "the emergency stop")
    assert receive.getRobotMode() == 3
    lab.call("emergency_stop", on=False)


def test_the_watchdog_ends_a_silent_clients_program(clients: Clients) -> None:
    control = clients.control
    assert control.setWatchdog(10.0)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        assert control.kickWatchdog()
        time.sleep(0.02)
    assert control.isProgramRunning()
    wait_for(lambda: not control.isProgramRunning(), "the watchdog")
    assert any("RTDE watchdog" in line for line in clients.robot.status("log"))


def test_local_control_refuses_clients(clients: Clients) -> None:
    lab, control = clients.robot.lab, clients.control
    lab.fault("not_in_remote", True)
    dashboard = DashboardClient(clients.robot.host)
    dashboard.connect()
    wait_for(lambda: not dashboard.isInRemoteControl(), "local control")
    dashboard.powerOff()  # ur_rtde takes any answer to this; the robot refuses it
    assert dashboard.robotmode() == "Robotmode: RUNNING"
    control.stopScript()
    wait_for(lambda: not control.isProgramRunning(), "the program to end")
    control.reuploadScript()
    wait_for(
        lambda: "program refused: the robot is in local control" in clients.robot.status("log"), "the upload's refusal"
    )
    assert not control.isProgramRunning()
    dashboard.disconnect()


def test_two_robots_run_side_by_side_until_one_is_shut_down(
    clients: Clients, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = RunningController(tmp_path_factory.mktemp("other"), new_host())
    try:
        other.power_on()
        control = RTDEControlInterface(other.host)
        receive = RTDEReceiveInterface(other.host)
        assert control.moveJ([0.5, *HOME_Q[1:]], 2.0, 6.0)
        assert receive.getTargetQ()[0] == pytest.approx(0.5, abs=1e-6)
        assert clients.receive.getTargetQ()[0] == pytest.approx(0.0, abs=1e-6)
        control.disconnect()
        receive.disconnect()
        assert other.cell.twin is not None
        shared_state = pathlib.Path(other.cell.twin.directory) / "world.bin"
        assert shared_state.exists()
        other.lab.call("shutdown")
        assert other.process.wait(timeout=10.0) == 0
        assert not shared_state.exists()
    finally:
        other.stop()
    assert clients.control.moveJ(HOME_Q, 2.0, 6.0)


def test_tcp_pose_is_the_calibrated_one(clients: Clients) -> None:
    measured = from_ur(clients.receive.getActualTCPPose())
    truth = np.array(clients.robot.lab.truth()["T_base_tcp"])
    assert np.abs(measured - truth).max() < 2e-4
