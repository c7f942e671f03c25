"""``prophrl calibrate gello`` and ``gripper`` on a running twin whose leader is assembled in secret."""

from __future__ import annotations

import argparse
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from prophrl_nodes.cli import calibrate_gello, calibrate_gripper
from prophrl_nodes.cli.main import _run
from prophrl_nodes.studies import leader_hands

from robot_bridge.leader_offsets import JointServo, LeaderOffsets, load_offsets, save_offsets
from robot_bridge.twin.leader_assembly import assembled
from tests.helpers.twin_controller import RunningController, new_host, wait_for

SEED = 7
AWAY = [0.4, -1.2, 1.9, -1.9, -1.2, 0.5]


@pytest.fixture(autouse=True)
def quick_wiggles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_hands, "WIGGLE_S", 0.25)


@dataclass
class Cell:
    """A running robot and leader, and the words that name them on a command line."""

    robot: RunningController
    path: Path

    def words(self, *more: str) -> list[str]:
        return ["--cell", str(self.path), "--host", self.robot.host, *more]


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    folder = tmp_path_factory.mktemp("cell")
    robot = RunningController(folder, new_host())
    raw = yaml.safe_load(robot.cell_path.read_text())
    raw["twin"]["leader_seed"] = SEED
    path = folder / "crooked.yaml"
    path.write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", "robot_bridge.twin.servo_bus", "--cell", str(path), "--host", robot.host]
    leader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None and "ready" in leader.stdout.readline()
    robot.power_on()
    yield Cell(robot, path)
    leader.terminate()
    leader.communicate(timeout=10.0)
    robot.stop()


def run(module: Any, words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    parser = argparse.ArgumentParser()
    module.register(parser)
    capsys.readouterr()
    code = _run(module.run, parser.parse_args(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def move_robot(cell: Cell, q_6: list[float]) -> None:
    """As with the pendant: by a line of URScript."""
    with socket.create_connection((cell.robot.host, 30002), timeout=5.0) as script:
        script.sendall(f"movej({q_6}, a=3.0, v=2.0)\n".encode())
        wait_for(lambda: np.allclose(_follower(cell), q_6, atol=1e-3), "the robot in its new pose")
        time.sleep(0.2)


def _follower(cell: Cell) -> Any:
    from robot_bridge.twin.shared_state import WorldStateReader

    assert cell.robot.cell.twin is not None
    return WorldStateReader(cell.robot.cell.twin.directory).read().q


def test_the_leader_is_calibrated_stored_and_verified_in_another_pose(
    cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "offsets.yaml"
    words = cell.words("--output", str(output), "--yes", "--json")
    code, out, err = run(calibrate_gello, [*words, "--seconds", "0.3"], capsys)
    assert code == 0, err
    document = json.loads(out)
    truth = assembled(SEED)
    assert document["signs"] == [joint.sign for joint in truth.joints]
    zero_deg = [(a - b.zero_raw) * 360 / 4096 for a, b in zip(document["zero_raw"], truth.joints, strict=True)]
    assert np.abs([(error + 180) % 360 - 180 for error in zero_deg]).max() < 0.2
    assert document["check"]["passed"] and document["check"]["tcp_mm"] < 3.0
    assert len(document["check"]["directions_not_seen"]) == 6  # the robot stands at home, in the jig's pose
    assert "The jig pose" in err and "wrist 3: turn it clockwise seen from above" in err
    assert document["saved"] == str(output) and load_offsets(output, "default").joints[0].sign == truth.joints[0].sign

    move_robot(cell, AWAY)
    code, out, err = run(calibrate_gello, [*words, "--verify-only"], capsys)
    check = json.loads(out)["check"]
    assert code == 0 and check["directions_not_seen"] == [] and max(map(abs, check["difference_deg"])) < 0.3

    # Somebody remounts a horn: the stored numbers are wrong now, and the check says so.
    stored = load_offsets(output, "default")
    joints = list(stored.joints)
    joints[2] = JointServo(joints[2].zero_raw + 1024.0, joints[2].sign)
    save_offsets(output, "default", LeaderOffsets(tuple(joints), stored.trigger))
    code, out, err = run(calibrate_gello, cell.words("--output", str(output), "--yes", "--verify-only"), capsys)
    assert code == 1
    assert "FAIL  elbow differs by" in out and "about a quarter of a turn" in out and "check failed" in out


def test_a_failed_check_stores_nothing(cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    move_robot(cell, AWAY)
    output = tmp_path / "offsets.yaml"
    signs = [joint.sign for joint in assembled(SEED).joints]
    signs[1] = -signs[1]
    given = "--signs=" + ",".join(map(str, signs))
    words = cell.words("--output", str(output), "--yes", "--seconds", "0.3", "--placements", "1", given)
    code, out, _err = run(calibrate_gello, words, capsys)
    assert code == 1 and not output.exists()
    assert "FAIL  shoulder differs by" in out and "its direction is wrong" in out
    assert "nothing was stored" in out


def test_a_person_is_asked_step_by_step(
    cell: Cell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n" * 4))
    words = cell.words("--no-verify", "--seconds", "0.3", "--placements", "1", "--signs=1,1,-1,1,1,1")
    code, out, err = run(calibrate_gello, words, capsys)
    assert code == 0
    assert err.count("then press Enter") == 3  # jig, trigger released, trigger pulled
    assert "the result will be shown but not stored" in out and "zero (counts)" in out
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, _out, err = run(calibrate_gello, words, capsys)
    assert code == 1 and "use --yes" in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--jig", "1,2,3"], "--jig takes six angles in degrees"),
        (["--signs=1,1,2,1,1,1"], "--signs takes six of 1 or -1"),
        (["--no-wiggles"], "needs --second-pose or --signs"),
        (["--placements", "0"], "--placements must be at least 1"),
        (["--verify-only", "--output", "/nowhere/offsets.yaml"], "no leader offsets at /nowhere/offsets.yaml"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_begins(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _out, err = run(calibrate_gello, ["--cell", "twin", "--host", "127.255.255.254", *words], capsys)
    assert code == 1 and reason in err


def test_a_missing_robot_is_noticed_before_the_persons_work(
    cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = yaml.safe_load(cell.path.read_text())
    raw["robot"]["host"] = "127.255.255.254"
    path = tmp_path / "cell.yaml"
    path.write_text(yaml.safe_dump(raw))
    code, out, err = run(calibrate_gello, ["--cell", str(path), "--host", cell.robot.host, "--yes"], capsys)
    assert code == 1 and "no UR controller answers at 127.255.255.254" in err and "jig" not in out


@pytest.mark.slow
def test_the_grippers_scale_is_measured_stored_and_in_force(
    cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = yaml.safe_load(cell.path.read_text())
    scale = tmp_path / "gripper.yaml"
    raw["gripper"] |= {"open_count": 60, "closed_count": 200, "calibration_file": str(scale)}
    path = tmp_path / "cell.yaml"
    path.write_text(yaml.safe_dump(raw))
    words = ["--cell", str(path), "--host", cell.robot.host, "--yes"]
    code, _out, err = run(calibrate_gripper, [*words, "--verify-only"], capsys)
    assert code == 1 and "run prophrl calibrate gripper" in err
    code, out, err = run(calibrate_gripper, [*words, "--json", "--speed", "255", "--cycles", "1"], capsys)
    assert code == 0, err
    document = json.loads(out)
    assert abs(document["open_count"] - 3) <= 1 and abs(document["closed_count"] - 228) <= 1
    assert document["check"]["monotonic"] and document["check"]["largest_error"] < 0.02
    stored = yaml.safe_load(scale.read_text())["gripper"]
    assert (stored["open_count"], stored["closed_count"]) == (document["open_count"], document["closed_count"])
    code, out, _err = run(calibrate_gripper, [*words, "--verify-only"], capsys)
    assert code == 0 and "check passed" in out
    code, _out, err = run(calibrate_gripper, [*words, "--force", "300"], capsys)
    assert code == 1 and "--force must be 0 to 255" in err
