"""The gripper's scale: measured on the twin's gripper by moving it, stored, and taken up by the driver."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path

import numpy as np
import pytest

from robot_bridge.cell import load_cell
from robot_bridge.gripper_calibration import FRACTIONS, GripperBlocked, check_scale, judge, measure_ends
from robot_bridge.gripper_scale import (
    GripperScale,
    GripperScaleError,
    calibrated,
    load_scale,
    save_scale,
    scale_of,
)
from robot_bridge.robotiq_gripper import GripperError, RobotiqGripper
from robot_bridge.twin.robotiq_server import CLOSED_COUNT, OPEN_COUNT
from robot_bridge.twin.shared_state import WorldStateReader
from robot_bridge.twin.tasks import Placement, held_out_placements
from robot_bridge.ur_kinematics import Kinematics
from tests.helpers.twin_controller import RunningController, wait_for


def test_the_ends_are_measured_whatever_the_cell_file_says_and_the_driver_takes_them_up(
    robot: RunningController, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(robot.cell.gripper, open_count=40, closed_count=190)
    lines: list[str] = []
    scale, opened, closed = measure_ends(wrong, cycles=2, speed=255, say=lines.append)
    assert abs(scale.open_count - OPEN_COUNT) <= 1 and abs(scale.closed_count - CLOSED_COUNT) <= 1
    assert len(opened) == len(closed) == len(lines) == 2

    check = check_scale(wrong, scale)
    assert check.passed and check.monotonic and check.largest_error < 0.02
    assert check.asked == FRACTIONS
    short = check_scale(wrong, GripperScale(40, 190))  # its fractions are met well, only not over the whole stroke
    assert short.largest_error < 0.02
    assert [reason.split(":")[0] for reason in short.reasons] == [
        f"fully open is count 40 on this scale, the fingers go to {OPEN_COUNT}",
        f"fully closed is count 190 on this scale, the fingers go to {CLOSED_COUNT}",
    ]

    path = tmp_path / "gripper.yaml"
    save_scale(path, scale, measured={"open_counts": opened})
    gripper = RobotiqGripper(dataclasses.replace(wrong, calibration_file=str(path)))
    gripper.connect()
    assert (gripper.config.open_count, gripper.config.closed_count) == (scale.open_count, scale.closed_count)
    gripper.set_opening(0.0)
    wait_for(lambda: not gripper.state().moving and gripper.state().opening < 0.02, "the closed gripper")
    gripper.set_opening(1.0)
    wait_for(lambda: not gripper.state().moving and gripper.state().opening > 0.98, "the open gripper")
    gripper.close()


def test_an_object_between_the_fingers_is_no_end_of_the_stroke(robot: RunningController) -> None:
    kinematics, home = Kinematics(), list(robot.cell.robot.home_rad)
    T = kinematics.forward(home)
    T[:3, 3] = -0.65, -0.1, 0.03
    low = [float(q) for q in kinematics.inverse(T, home)]
    try:
        robot.lab.reset_scene("place_cube", held_out_placements("place_cube")[0].to_json())
        _move(robot, low)
        T_base_tcp = robot.lab.truth()["T_base_tcp"]
        between = Placement(
            "place_cube", {"cube": (T_base_tcp[0][3], T_base_tcp[1][3], 0.0), "bowl": (-0.6, 0.25, 0.0)}
        )
        robot.lab.reset_scene("place_cube", between.to_json())
        with pytest.raises(GripperBlocked, match=r"met something while closing, at count \d+: take it away"):
            measure_ends(robot.cell.gripper, cycles=1, speed=255, force=100)
    finally:
        _move(robot, home)
        robot.lab.reset_scene("place_cube", held_out_placements("place_cube")[0].to_json())


def _move(robot: RunningController, q_6: list[float]) -> None:
    assert robot.cell.twin is not None
    world = WorldStateReader(robot.cell.twin.directory)
    with socket.create_connection((robot.host, 30002), timeout=5.0) as script:
        script.sendall(f"movej({q_6}, a=3.0, v=1.5)\n".encode())
        wait_for(lambda: np.allclose(world.read().q, q_6, atol=1e-3), "the robot in its new pose")


def test_no_gripper_is_named(robot: RunningController) -> None:
    with pytest.raises(GripperError, match="no gripper cap answers"):
        measure_ends(dataclasses.replace(robot.cell.gripper, port=1))
    robot.lab.fault("gripper_unknown", True)
    with pytest.raises(GripperError, match="check that the arm is powered on"):
        measure_ends(robot.cell.gripper)
    robot.lab.fault("gripper_unknown", False)


# --- without a gripper ---


def test_ends_that_do_not_repeat_or_make_no_stroke_are_refused() -> None:
    assert scale_of([3, 4, 3], [228, 227, 228]) == GripperScale(3, 228)
    with pytest.raises(GripperScaleError, match="the closed end was at counts 228, 221: it must repeat within 2"):
        scale_of([3, 3], [228, 221])
    with pytest.raises(GripperScaleError, match=r"from count 3 \(open\) to 60 \(closed\) is shorter than 100"):
        scale_of([3], [60])
    with pytest.raises(GripperScaleError, match="lie in 0"):
        GripperScale(3, 300)


def test_a_crooked_scale_fails_the_check_with_its_reason() -> None:
    asked, scale, ends = (1.0, 0.5, 0.0), GripperScale(3, 228), (3, 228)
    assert judge(asked, (0.99, 0.51, 0.0), scale, ends).passed
    bent = judge(asked, (1.0, 0.6, 0.0), scale, ends)
    assert bent.monotonic and "asked for an opening of 0.50 it stopped at 0.60" in bent.reasons[0]
    stuck = judge(asked, (1.0, 0.5, 0.5), scale, ends)
    assert not stuck.monotonic and len(stuck.reasons) == 2


def test_the_file_replaces_the_counts_and_a_missing_one_is_an_error(tmp_path: Path, robot: RunningController) -> None:
    path = tmp_path / "scales" / "gripper.yaml"
    config = dataclasses.replace(robot.cell.gripper, calibration_file=str(path))
    with pytest.raises(GripperError, match="run prophrl calibrate gripper"):
        RobotiqGripper(config).connect()
    assert save_scale(path, GripperScale(5, 230)) is None
    assert calibrated(config) == dataclasses.replace(config, open_count=5, closed_count=230)
    assert calibrated(robot.cell.gripper) is robot.cell.gripper
    kept = save_scale(path, GripperScale(6, 229))
    assert kept is not None and load_scale(kept) == GripperScale(5, 230)


@pytest.mark.parametrize(
    "text", ["gripper: [", "gripper: {open_count: 3}", "3", "gripper: {open_count: a, closed_count: 2}"]
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gripper.yaml"
    path.write_text(text)
    with pytest.raises(GripperScaleError, match=r"gripper\.yaml"):
        load_scale(path)


def test_the_cell_file_names_it(robot: RunningController, tmp_path: Path) -> None:
    path = tmp_path / "cell.yaml"
    path.write_text(robot.cell_path.read_text().replace("gripper:\n", "gripper:\n  calibration_file: x.yaml\n"))
    assert load_cell(path).gripper.calibration_file == "x.yaml"
