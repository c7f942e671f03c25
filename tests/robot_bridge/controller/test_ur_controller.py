"""The controller's frame without sockets: motion functions, stops, watchdog, measurements, on the real physics."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from robot_bridge.arm_types import RobotMode, RuntimeState, SafetyMode
from robot_bridge.twin.arm_control import PERIOD_S, Trapezoid
from robot_bridge.twin.rtde_fields import InputRecipe
from robot_bridge.twin.ur_controller import UrController
from robot_bridge.twin.urscript import ScriptError
from robot_bridge.twin.world import World

HOME = [0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0]


@pytest.fixture(scope="module")
def world() -> World:
    return World("place_cube", seed=3)


@pytest.fixture
def robot(world: World) -> UrController:
    """Powered on, at home."""
    world.reset(None, q=HOME)
    controller = UrController(world)
    controller.modes.brake_release()
    frames(controller, until=lambda: controller.modes.robot_mode is RobotMode.RUNNING)
    return controller


def frames(
    controller: UrController, count: int = 5000, until: Callable[[], bool] | None = None
) -> list[tuple[list[float], list[float]]]:
    """Run frames; (setpoint q, TCP target pose) of each."""
    seen = []
    for _ in range(count):
        controller.frame()
        seen.append((list(controller.arm.q), list(controller.state.target_TCP_pose)))
        if until is not None and until():
            return seen
    assert until is None, f"not reached within {count} frames; log: {list(controller.interpreter.log)[-3:]}"
    return seen


def play(controller: UrController, body: str, count: int = 5000) -> list[tuple[list[float], list[float]]]:
    """Run a program to its end."""
    assert controller.upload(f"def prog():\n{body}\nend\n"), controller.interpreter.log[-1]
    return frames(controller, count, until=lambda: not controller.interpreter.running)


@pytest.mark.parametrize("length", [0.0, 1e-6, 0.01, 0.5, 3.0])
def test_a_trapezoid_keeps_speed_and_acceleration(length: float) -> None:
    profile = Trapezoid(length, speed=0.5, acceleration=2.0)
    times = np.arange(0.0, profile.duration_s + 0.01, 0.001)
    path = np.array([profile.at(t) for t in times]) * length
    speed = np.diff(path) / 0.001
    assert profile.at(profile.duration_s) == 1.0
    assert np.all(speed >= -1e-9)
    assert speed.max(initial=0.0) <= 0.5 + 1e-9
    assert np.abs(np.diff(speed) / 0.001).max(initial=0.0) <= 2.0 + 1e-6


def test_a_trapezoid_can_be_given_its_duration() -> None:
    assert Trapezoid(0.3, 0.5, 2.0, duration_s=2.5).duration_s == pytest.approx(2.5)


def test_movej_leads_with_the_asked_speed_and_arrives(robot: UrController) -> None:
    seen = play(robot, "movej([0.3,-1.4,1.5708,-1.5708,-1.5708,0.05], a=2.0, v=0.5)")
    speeds = np.abs(np.diff([q for q, _ in seen], axis=0)) / PERIOD_S
    assert speeds.max() == pytest.approx(0.5, rel=0.01)
    assert robot.arm.q == pytest.approx([0.3, -1.4, 1.5708, -1.5708, -1.5708, 0.05])
    frames(robot, 100)
    assert robot.state.actual_q == pytest.approx(robot.arm.q, abs=1e-3)


def test_movej_to_a_pose_brings_the_set_tcp_there(robot: UrController) -> None:
    body = "set_tcp(p[0,0,0.174,0,0,0])\np1 = get_actual_tcp_pose()\np1[0] = p1[0] + 0.05\nmovej(p1)"
    play(robot, "set_tcp(p[0,0,0.174,0,0,0])\nsync()")
    start = list(robot.state.actual_TCP_pose)
    play(robot, body)
    frames(robot, 150)
    assert robot.state.actual_TCP_pose[:3] == pytest.approx([start[0] + 0.05, start[1], start[2]], abs=2e-3)
    # The controller's own TCP pose is the true one, calibration deltas included.
    assert robot.state.actual_TCP_pose[:3] == pytest.approx(robot.world.T_base_tcp[:3, 3].tolist(), abs=1e-6)


def test_movel_keeps_to_its_line_and_speed(robot: UrController) -> None:
    play(robot, "set_tcp(p[0,0,0.174,0,0,0])\nsync()")
    start = np.array(robot.state.target_TCP_pose)
    seen = play(robot, "t = get_target_tcp_pose()\nt[1] = t[1] + 0.1\nt[2] = t[2] - 0.1\nmovel(t, a=1.0, v=0.2)")
    points = np.array([pose for _, pose in seen])[:, :3]
    direction = np.array([0.0, 1.0, -1.0]) / math.sqrt(2.0)
    offsets = points - start[:3]
    along = offsets @ direction
    assert np.linalg.norm(offsets - np.outer(along, direction), axis=1).max() < 1e-6
    assert along[-1] == pytest.approx(0.1 * math.sqrt(2.0), abs=1e-6)
    assert (np.diff(along) / PERIOD_S).max() == pytest.approx(0.2, rel=0.02)


def test_speedj_ramps_holds_and_stops_after_its_time(robot: UrController) -> None:
    seen = play(robot, "speedj([0.2,0,0,0,0,0], a=1.0, t=0.5)\nstopj(4.0)")
    speed = np.diff([q[0] for q, _ in seen]) / PERIOD_S
    assert speed.max() == pytest.approx(0.2, abs=1e-6)
    assert speed[50] == pytest.approx(0.1, abs=0.01)
    assert 250 < len(seen) < 290
    assert robot.arm.at_rest


def test_speedl_moves_the_tcp_straight(robot: UrController) -> None:
    play(robot, "set_tcp(p[0,0,0.174,0,0,0])\nsync()")
    start = np.array(robot.state.target_TCP_pose)
    play(robot, "speedl([0,0,-0.1,0,0,0], a=1.0, t=0.6)\nstopl(1.0)")
    moved = np.array(robot.state.target_TCP_pose) - start
    assert moved[2] == pytest.approx(-0.06, abs=0.005)
    assert np.abs(np.delete(moved, 2)).max() < 1e-4


def test_the_speed_slider_stretches_a_move(robot: UrController) -> None:
    full = len(play(robot, "movej([0.2,-1.5708,1.5708,-1.5708,-1.5708,0], a=1.0, v=0.5)"))
    robot.state.target_speed_fraction = 0.5
    half = len(play(robot, "movej([0,-1.5708,1.5708,-1.5708,-1.5708,0], a=1.0, v=0.5)"))
    assert half == pytest.approx(2 * full, abs=2)


def servo_ramp(robot: UrController, share: float, step_rad: float, cycles: int) -> float:
    """Where the base stands after a ramp of servoj targets from 0, with the speed slider at ``share``."""
    robot.state.target_speed_fraction = 1.0
    play(robot, "movej([0,-1.5708,1.5708,-1.5708,-1.5708,0], a=4.0, v=1.0)")
    robot.state.target_speed_fraction = share
    servo = f"servoj([{step_rad}*i,-1.5708,1.5708,-1.5708,-1.5708,0], 0, 0, 0.002, 0.03, 600)"
    play(robot, f"i = 0\nwhile i < {cycles}:\n {servo}\n i = i + 1\nend")
    return robot.arm.q[0]


def test_the_speed_slider_slows_servoj_alike_and_targets_at_full_speed_run_ahead(robot: UrController) -> None:
    full = servo_ramp(robot, 1.0, 0.0005, 1000)
    assert full > 0.48
    assert servo_ramp(robot, 0.5, 0.00025, 2000) == pytest.approx(full, abs=2e-3)
    assert servo_ramp(robot, 0.1, 0.0005, 1000) < 0.45


def test_two_threads_cannot_move_the_arm_at_once(robot: UrController) -> None:
    mover = "thread t():\n while True:\n  speedj([0.1,0,0,0,0,0], 1.0, 0.002)\n end\nend\n"
    play(robot, mover + "run t()\nmovej([0.5,-1.5,1.5,-1.5,-1.5,0])")
    assert "another thread is already controlling the robot" in robot.interpreter.log[-1]
    frames(robot, 500, until=lambda: robot.arm.at_rest)


def test_a_program_that_ends_in_motion_brakes_the_arm(robot: UrController) -> None:
    play(robot, "speedj([0.5,0,0,0,0,0], a=5.0, t=0.2)")
    assert not robot.arm.at_rest
    frames(robot, 500, until=lambda: robot.arm.at_rest)


def test_servoj_follows_a_jump_within_joint_limits_and_without_overshoot(robot: UrController) -> None:
    servo = "servoj([0.4,-1.5708,1.5708,-1.5708,-1.5708,0], t=0.002, gain=600, lookahead_time=0.05)"
    seen = play(robot, f"i = 0\nwhile i < 400:\n {servo}\n i = i + 1\nend")
    base = np.array([q[0] for q, _ in seen])
    assert base[-1] == pytest.approx(0.4, abs=1e-4)
    assert base.max() < 0.4 + 1e-4
    assert (np.diff(base) / PERIOD_S).max() <= math.radians(120.0)


def test_no_inverse_solution_ends_the_program(robot: UrController) -> None:
    play(robot, "q = get_inverse_kin(p[5,0,0,0,0,0])\nmovej(q)")
    assert "get_inverse_kin" in robot.interpreter.log[-1]
    assert "out of reach" in robot.interpreter.log[-1]


def test_functions_beyond_the_model_end_the_program_and_say_so(robot: UrController) -> None:
    play(robot, "force_mode(p[0,0,0,0,0,0], [0,0,1,0,0,0], [0,0,1,0,0,0], 2, [0,0,0,0,0,0])")
    assert "force_mode() is not modelled by this twin" in robot.interpreter.log[-1]


def test_a_starved_watchdog_stops_the_program(robot: UrController) -> None:
    body = (
        'rtde_set_watchdog("input_int_register_0", 10, "stop")\nwhile True:\n speedj([0.1,0,0,0,0,0], 1.0, 0.002)\nend'
    )
    assert robot.upload(f"def prog():\n{body}\nend\n")
    recipe = InputRecipe(["input_int_register_0"])
    for _ in range(20):
        frames(robot, 40)
        assert recipe.apply(b"\0\0\0\x05", robot.state)
    assert robot.interpreter.running
    gone = frames(robot, 200, until=lambda: not robot.interpreter.running)
    assert 49 <= len(gone) <= 53
    assert "RTDE watchdog: input_int_register_0 was not written for 100 ms" in robot.interpreter.log[-1]
    frames(robot, 500, until=lambda: robot.arm.at_rest)


def test_pressing_on_the_table_is_a_protective_stop(robot: UrController) -> None:
    play(robot, "set_tcp(p[0,0,0.174,0,0,0])\nt = get_target_tcp_pose()\nt[2] = -0.05\nmovel(t, a=1.0, v=0.2)", 10_000)
    assert robot.modes.safety_mode is SafetyMode.PROTECTIVE_STOP
    assert "collision" in robot.modes.stop_reason
    assert robot.state.runtime_state == RuntimeState.STOPPED
    frames(robot, 400)
    assert robot.modes.unlock_protective_stop() == "Protective stop releasing"
    frames(robot, 10)
    # It let go of the table: unlocked, the arm stays there without a second stop and can drive away.
    assert robot.modes.safety_mode is SafetyMode.NORMAL
    play(robot, "t = get_target_tcp_pose()\nt[2] = t[2] + 0.1\nmovel(t, a=1.0, v=0.2)")
    assert robot.state.actual_TCP_pose[2] > 0.09


def test_unlocking_is_refused_at_first(robot: UrController) -> None:
    robot.modes.unlock_delay_s = 5.0
    robot.modes.protective_stop("test")
    frames(robot, 2400)
    assert "Cannot unlock protective stop until 5s" in robot.modes.unlock_protective_stop()
    frames(robot, 200)
    assert robot.modes.unlock_protective_stop() == "Protective stop releasing"


def test_an_emergency_stop_takes_the_power(robot: UrController) -> None:
    robot.upload("def prog():\nwhile True:\n speedj([0.3,0,0,0,0,0], 1.0, 0.002)\nend\nend\n")
    frames(robot, 300)
    robot.modes.emergency_stop(True)
    frames(robot, 100)
    assert robot.arm.at_rest
    assert (robot.modes.robot_mode, robot.modes.safety_mode) == (RobotMode.POWER_OFF, SafetyMode.ROBOT_EMERGENCY_STOP)
    robot.modes.power_on()
    frames(robot, 500)
    assert robot.modes.robot_mode is RobotMode.POWER_OFF
    robot.modes.emergency_stop(False)
    robot.modes.brake_release()
    frames(robot, 1000, until=lambda: robot.modes.drives_on)


def test_a_safeguard_stop_pauses_and_resumes(robot: UrController) -> None:
    robot.upload("def prog():\nmovej([0.4,-1.5708,1.5708,-1.5708,-1.5708,0], a=1, v=0.5)\nend\n")
    frames(robot, 200)
    robot.modes.safeguard_stop(True)
    frames(robot, 300)
    assert robot.arm.at_rest
    assert robot.state.runtime_state == RuntimeState.PAUSED
    robot.modes.safeguard_stop(False)
    frames(robot, until=lambda: not robot.interpreter.running)
    assert robot.arm.q[0] == pytest.approx(0.4)


def test_programs_need_a_running_robot(world: World) -> None:
    world.reset(None, q=HOME)
    controller = UrController(world)
    assert not controller.upload("def prog():\n sync()\nend\n")
    assert "POWER_OFF" in controller.interpreter.log[-1]


def test_measured_tcp_speed_agrees_with_the_physics(robot: UrController) -> None:
    robot.upload("def prog():\nset_tcp(p[0,0,0.174,0,0,0])\nspeedj([0.3,0.2,-0.2,0.1,0.3,-0.4], a=2.0, t=2.0)\nend\n")
    frames(robot, 400)
    assert robot.state.actual_TCP_speed == pytest.approx(robot.world.tcp_velocity.tolist(), abs=5e-3)
    assert max(map(abs, robot.state.actual_TCP_speed)) > 0.1


def test_controller_and_physics_share_the_calibration(robot: UrController) -> None:
    assert robot.world.deltas is not None
    with pytest.raises(ScriptError, match="out of reach"):
        robot.arm._reach([9.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    robot.arm.set_tcp([0, 0, 0.174, 0, 0, 0])
    frames(robot, 2)
    assert np.linalg.norm(np.array(robot.state.actual_TCP_pose[:3]) - robot.world.T_base_tcp[:3, 3]) < 1e-6
