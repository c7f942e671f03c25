"""The gripper: the cap's text protocol with bare sockets, and the driver against it."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator

import pytest

from robot_bridge.robotiq_gripper import GripperError, RobotiqGripper
from robot_bridge.twin.tasks import Placement, held_out_placements
from robot_bridge.ur_arm import UrArm
from robot_bridge.ur_kinematics import Kinematics
from tests.helpers.twin_controller import RunningController, wait_for


class Cap:
    """A bare connection to the gripper cap."""

    def __init__(self, host: str) -> None:
        self.socket = socket.create_connection((host, 63352), timeout=5.0)

    def ask(self, request: str) -> bytes:
        self.socket.sendall(request.encode())
        return self.socket.recv(1024)

    def get(self, name: str) -> int:
        answer = self.ask(f"GET {name}\n").decode().split()
        assert answer[0] == name
        return int(answer[1])

    def activate(self) -> None:
        assert self.ask("SET ACT 0\n") == b"ack"
        assert self.ask("SET ATR 0\n") == b"ack"
        assert (self.get("ACT"), self.get("STA")) == (0, 0)
        assert self.ask("SET ACT 1\n") == b"ack"
        wait_for(lambda: self.get("STA") == 3, "activation")


@pytest.fixture
def cap(robot: RunningController) -> Iterator[Cap]:
    cap = Cap(robot.host)
    yield cap
    cap.socket.close()


@pytest.fixture
def gripper(robot: RunningController) -> Iterator[RobotiqGripper]:
    """Connected, activated, open."""
    gripper = RobotiqGripper(robot.cell.gripper)
    gripper.connect()
    gripper.activate()
    gripper.set_opening(1.0)
    wait_for(lambda: at_rest(gripper, 1.0), "the open gripper")
    yield gripper
    gripper.close()


def at_rest(gripper: RobotiqGripper, opening: float) -> bool:
    state = gripper.state()
    return not state.moving and abs(state.opening - opening) < 0.02


def reads(gripper: RobotiqGripper) -> bool:
    try:
        return bool(gripper.state())
    except GripperError:
        return False


def test_activation_passes_through_its_states(cap: Cap) -> None:
    assert cap.ask("SET ACT 0\n") == b"ack"
    assert cap.get("STA") == 0
    assert cap.ask("SET ACT 1\n") == b"ack"
    assert cap.get("STA") == 1
    wait_for(lambda: cap.get("STA") == 3, "activation")
    assert cap.get("FLT") == 0


def test_moves_echo_the_request_and_report_the_object_register(cap: Cap) -> None:
    cap.activate()
    assert cap.ask("SET POS 120 SPE 255 FOR 100 GTO 1\n") == b"ack"
    assert cap.get("PRE") == 120
    assert cap.get("OBJ") == 0
    wait_for(lambda: cap.get("OBJ") == 3, "the position")
    assert cap.get("POS") == pytest.approx(120, abs=4)
    assert cap.ask("SET POS 255\n") == b"ack"
    wait_for(lambda: cap.get("OBJ") == 3 or cap.get("POS") > 224, "the end of the stroke")
    assert 224 <= cap.get("POS") <= 230  # the fingers meet before count 255
    assert cap.ask("SET POS 0\n") == b"ack"
    wait_for(lambda: cap.get("POS") <= 6, "the open end")


def test_several_gets_in_one_write_are_answered_in_order(cap: Cap) -> None:
    cap.socket.sendall(b"GET FLT\nGET ACT\nGET SPE\n")
    answer = b""
    while answer.count(b"\n") < 3:
        answer += cap.socket.recv(1024)
    assert [line.split()[0] for line in answer.decode().splitlines()] == ["FLT", "ACT", "SPE"]


def test_unknown_variables_get_a_question_mark(cap: Cap) -> None:
    assert cap.ask("GET XYZ\n") == b"XYZ ?\n"
    assert cap.ask("SET XYZ 1\n") == b"?\n"
    assert cap.ask("SET POS 300\n") == b"?\n"
    assert cap.ask("HELLO\n") == b"?\n"


def test_the_driver_moves_to_openings(gripper: RobotiqGripper) -> None:
    for opening in (0.0, 0.4, 1.0):
        gripper.set_opening(opening)
        wait_for(lambda opening=opening: at_rest(gripper, opening), f"opening {opening}")
        assert gripper.state().target_opening == opening
        assert not gripper.state().object_detected
    assert gripper.trouble == ""


def test_the_newest_of_many_requests_wins(gripper: RobotiqGripper) -> None:
    for opening in (0.0, 0.3, 0.9, 0.2, 0.6):
        gripper.set_opening(opening)
    wait_for(lambda: at_rest(gripper, 0.6), "the last opening")


@pytest.mark.parametrize("opening", [-0.1, 1.1, float("nan")])
def test_openings_outside_the_stroke_are_refused(gripper: RobotiqGripper, opening: float) -> None:
    with pytest.raises(ValueError, match="between 0"):
        gripper.set_opening(opening)


def test_an_active_gripper_is_not_activated_again(gripper: RobotiqGripper) -> None:
    gripper.set_opening(0.5)
    wait_for(lambda: at_rest(gripper, 0.5), "half open")
    gripper.activate()
    assert at_rest(gripper, 0.5)
    gripper.activate(force=True)
    wait_for(lambda: at_rest(gripper, 0.5), "the wanted opening after the activation strokes")


def test_an_object_between_the_fingers_is_detected(robot: RunningController, gripper: RobotiqGripper) -> None:
    """The cube is laid between the open fingers of the arm standing low over the table."""
    kinematics, home = Kinematics(), list(robot.cell.robot.home_rad)
    T = kinematics.forward(home)
    T[:3, 3] = -0.65, -0.1, 0.03
    config = dataclasses.replace(robot.cell.robot, home_rad=tuple(kinematics.inverse(T, home)))
    arm = UrArm(config, robot.cell.safety)
    arm.connect()
    arm.move_home()
    x, y, _ = arm.measured().T_base_tcp[:3, 3]
    between = Placement("place_cube", {"cube": (x, y, 0.0), "bowl": (-0.6, 0.25, 0.0)})
    robot.lab.reset_scene("place_cube", between.to_json())
    gripper.set_opening(0.0)
    state = wait_for(lambda: gripper.state() if gripper.state().object_detected else None, "the cube in the grip")
    assert 0.3 < state.opening < 0.8
    assert not state.moving
    cap = Cap(robot.host)
    assert cap.get("OBJ") == 2
    cap.socket.close()
    assert robot.lab.truth()["object_detected"]
    gripper.set_opening(1.0)
    wait_for(lambda: at_rest(gripper, 1.0), "the open gripper")
    arm.close()
    robot.lab.reset_scene("place_cube", held_out_placements("place_cube")[0].to_json())


def test_faults_and_lost_answers_are_named(robot: RunningController, gripper: RobotiqGripper) -> None:
    robot.lab.fault("gripper_fault", 14)
    wait_for(lambda: "overcurrent" in gripper.trouble, "the fault code")
    assert gripper.state().fault == 14
    robot.lab.fault("gripper_fault", 0)
    wait_for(lambda: gripper.trouble == "", "no fault")
    robot.lab.fault("gripper_unknown", True)
    wait_for(lambda: "no power" in gripper.trouble, "the question marks")
    with pytest.raises(GripperError):
        wait_for(lambda: not gripper.state(), "stale readings")
    robot.lab.fault("gripper_unknown", False)
    wait_for(lambda: gripper.trouble == "" and reads(gripper), "the gripper to be back")
    robot.lab.fault("gripper_silent", True)
    wait_for(lambda: "does not answer" in gripper.trouble, "the silence")
    robot.lab.fault("gripper_silent", False)
    wait_for(lambda: gripper.trouble == "" and reads(gripper), "the gripper to be back")


def test_without_power_it_must_be_activated_again(robot: RunningController, gripper: RobotiqGripper) -> None:
    robot.lab.call("emergency_stop", on=True)
    wait_for(lambda: gripper.trouble != "", "the loss of power")
    robot.lab.call("emergency_stop", on=False)
    robot.power_on()
    wait_for(lambda: "not activated" in gripper.trouble, "the lost activation")
    gripper.activate()
    gripper.set_opening(0.3)
    wait_for(lambda: at_rest(gripper, 0.3), "the opening")


def test_it_reconnects_to_a_restarted_controller(robot: RunningController, gripper: RobotiqGripper) -> None:
    robot.kill()
    wait_for(lambda: gripper.trouble != "", "the loss")
    robot.start()
    robot.power_on()
    wait_for(lambda: "not activated" in gripper.trouble, "the new connection")
    gripper.activate()
    wait_for(lambda: at_rest(gripper, 1.0), "the wanted opening")


def test_no_cap_is_an_error_that_says_what_to_do(robot: RunningController) -> None:
    nowhere = RobotiqGripper(dataclasses.replace(robot.cell.gripper, host="127.255.255.254"))
    with pytest.raises(GripperError, match="start the lab"):
        nowhere.connect()
    with pytest.raises(GripperError, match="connect first"):
        nowhere.activate()
