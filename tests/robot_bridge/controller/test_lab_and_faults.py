"""The lab's port, the fault switches, the shared world state, and starting the process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robot_bridge.twin.controller import main as start_controller
from robot_bridge.twin.faults import FAULTS, FaultError, Faults
from robot_bridge.twin.lab_client import LabClient, LabError, OperatorClient
from robot_bridge.twin.shared_state import WorldStateReader
from robot_bridge.twin.tasks import TASK_IDS, held_out_placements
from tests.helpers.twin_controller import RunningController, wait_for


def test_scenes_of_every_task_can_be_laid_out(robot: RunningController) -> None:
    for task in TASK_IDS:
        placement = held_out_placements(task)[3]
        reply = robot.lab.reset_scene(task, placement.to_json())
        truth = robot.lab.truth()
        assert truth["task"] == task
        assert not truth["success"]
        assert truth["reason"]
        for name, (x, y, _) in placement.objects.items():
            assert truth["objects"][name][0][3] == pytest.approx(x, abs=0.02)
            assert truth["objects"][name][1][3] == pytest.approx(y, abs=0.02)
        assert truth["scene_revision"] == reply["scene_revision"]


def test_laying_out_a_scene_leaves_the_arm_where_it_is(robot: RunningController) -> None:
    before = robot.lab.status()["q"]
    robot.lab.reset_scene("grasp_bottle")
    robot.lab.reset_scene("place_cube")
    assert robot.lab.status()["q"] == pytest.approx(before, abs=1e-3)
    assert robot.status("safety_mode") == "NORMAL"


def test_random_placements_differ_and_are_reported(robot: RunningController) -> None:
    first, second = (robot.lab.reset_scene("place_cube")["placement"] for _ in range(2))
    assert first["objects"] != second["objects"]


def test_the_world_is_shared_with_other_processes(robot: RunningController) -> None:
    assert robot.cell.twin is not None
    reader = WorldStateReader(robot.cell.twin.directory)
    robot.lab.reset_scene("place_cube")
    revision = robot.lab.truth()["scene_revision"]
    state = wait_for(lambda: s if (s := reader.read()).scene_revision == revision else None, "the new scene")
    assert state.task == "place_cube"
    assert state.q == pytest.approx(robot.lab.status()["q"], abs=1e-3)
    assert state.robot_mode == 7
    truth = robot.lab.truth()
    assert np.allclose(state.objects["cube"], truth["objects"]["cube"], atol=2e-3)
    wait_for(lambda: reader.read().tick > state.tick + 50, "the world to go on")
    reader.close()


def test_status_reports_how_the_loop_keeps_time(robot: RunningController) -> None:
    status = robot.lab.status()
    assert status["late_p50_us"] <= status["late_p99_us"] <= status["late_p999_us"] <= status["late_max_us"]
    assert 0.0 < status["real_time_ratio"] < 1.2


@pytest.mark.parametrize(
    ("operation", "arguments", "message"),
    [
        ("frobnicate", {}, "reset_scene, truth"),
        ("reset_scene", {"task": "fly"}, "grasp_bottle"),
        ("reset_scene", {"task": "place_cube", "placement": {"task": "place_cube"}}, "objects"),
        ("fault", {"name": "rtde_dropp", "value": 1}, "did you mean 'rtde_drop'"),
        ("fault", {"name": "rtde_drop", "value": 7}, "between 0 and 1"),
        ("fault", {}, "needs the keys"),
        ("emergency_stop", {"on": "yes"}, "true or false"),
    ],
)
def test_bad_operations_are_refused_with_a_hint(
    robot: RunningController, operation: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        robot.lab.call(operation, **arguments)
    assert robot.status("robot_mode") == "RUNNING"


def test_every_fault_is_listed_with_a_description(robot: RunningController) -> None:
    listed = robot.lab.call("faults")["faults"]
    assert [fault["name"] for fault in listed] == list(FAULTS)
    assert all(len(fault["description"]) > 20 for fault in listed)


def test_faults_reach_other_processes_through_the_file(tmp_path: Path) -> None:
    mine, theirs = Faults(tmp_path), Faults(tmp_path)
    assert not theirs.poll()
    mine.set("servo_crc", 0.25)
    mine.set("frame_freeze", True)
    assert theirs.poll()
    assert (theirs.value("servo_crc"), theirs.on("frame_freeze")) == (0.25, True)
    assert not theirs.poll()
    mine.clear()
    assert theirs.poll()
    assert not theirs.on("frame_freeze")


def test_one_shot_faults_strike_once_for_each_set(tmp_path: Path) -> None:
    mine, theirs = Faults(tmp_path), Faults(tmp_path)
    mine.set("leader_power_cycle", True)
    theirs.poll()
    assert theirs.strikes("leader_power_cycle")
    assert not theirs.strikes("leader_power_cycle")
    mine.clear()
    mine.set("leader_power_cycle", True)
    theirs.poll()
    assert theirs.strikes("leader_power_cycle")
    assert not Faults(tmp_path).strikes("leader_power_cycle")  # one that starts later was not struck


def test_unknown_faults_and_values_are_refused(tmp_path: Path) -> None:
    faults = Faults(tmp_path)
    with pytest.raises(FaultError, match="Faults are: rtde_drop"):
        faults.set("nothing_like_it", 1)
    with pytest.raises(FaultError, match="not negative"):
        faults.set("rtde_late", -1.0)
    assert not (tmp_path / "faults.json").exists()


def test_clients_without_a_server_say_what_to_start() -> None:
    with pytest.raises(LabError, match=r"127\.255\.255\.254:30900 .*start the lab"):
        LabClient("127.255.255.254").status()
    with pytest.raises(LabError, match=r"127\.255\.255\.254:30901 .*start the lab"):
        OperatorClient("127.255.255.254").home()


def test_a_second_controller_on_the_address_says_who_is_there(
    robot: RunningController, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start_controller(["--cell", str(robot.cell_path), "--host", robot.host]) == 1
    said = capsys.readouterr().err
    assert f"cannot listen on {robot.host}:30004" in said
    assert "another twin controller" in said


def test_a_cell_without_a_twin_is_refused(
    tmp_path: Path, robot: RunningController, capsys: pytest.CaptureFixture[str]
) -> None:
    hardware = tmp_path / "hardware.yaml"
    hardware.write_text(robot.cell_path.read_text().split("twin:\n")[0])
    assert start_controller(["--cell", str(hardware), "--host", robot.host]) == 1
    assert "no 'twin' section" in capsys.readouterr().err
