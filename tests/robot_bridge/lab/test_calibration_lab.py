"""A lab with a camera nobody has calibrated: what its files say, what is true, and what the pictures show."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.board import DEFAULT_BOARD, detect
from calibration.camera import PinholeCamera
from calibration.poses import inverse
from calibration.storage import Calibration, CalibrationFileError, load, load_camera, save
from robot_bridge.cell import CellError
from robot_bridge.d455 import D455
from robot_bridge.twin.camera_place import nominal_T_tool_camera, nudged, secret_pose, twin_camera
from robot_bridge.twin.lab import Lab
from robot_bridge.twin.lab_client import LabClient, LabError
from robot_bridge.ur_kinematics import Kinematics
from tests.helpers.board_views import corner_errors

ROOT = Path(__file__).parents[3]
TWIN_CELL = ROOT / "config" / "cells" / "twin.yaml"
PROFILE = "848x480@6"
CAMERA_SEED = 7


@pytest.fixture
def cell_file(tmp_path: Path) -> Path:
    path = tmp_path / "cell.yaml"
    path.write_text(TWIN_CELL.read_text().replace("/dev/shm/prophrl-twin-{host}", f"{tmp_path}/lab-{{host}}"))
    return path


def _wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the expected state did not come"
        time.sleep(0.05)


def _line(host: str, port: int, text: str, *, answers: bool) -> None:
    with socket.create_connection((host, port), timeout=5.0) as connection:
        stream = connection.makefile("rw", newline="\n")
        if answers:
            stream.readline()
        stream.write(text + "\n")
        stream.flush()
        if answers:
            stream.readline()


def _move(lab: LabClient, T_base_tool: np.ndarray) -> None:
    """Power on if needed and move there by a program, as a person at the pendant would."""
    if lab.status()["robot_mode"] != "RUNNING":
        _line(lab.host, 29999, "brake release", answers=True)
        _wait_for(lambda: lab.status()["robot_mode"] == "RUNNING")
    q = Kinematics().inverse(T_base_tool, lab.status()["q"])
    _line(lab.host, 30002, f"def go():\n  movej({[float(v) for v in q]}, a=4.0, v=2.0)\nend", answers=False)
    _wait_for(lambda: bool(np.abs(np.subtract(lab.status()["q"], q)).max() < 1e-4))
    _wait_for(lambda: lab.status()["program"] == "")

    def still() -> bool:
        before = lab.status()["q"]
        time.sleep(0.1)
        return bool(np.abs(np.subtract(lab.status()["q"], before)).max() < 1e-6)

    _wait_for(still)


def _picture(camera: D455) -> np.ndarray:
    """A picture of now: exposed after this call."""
    now_ns = time.time_ns()
    while True:
        frames = camera.wait(10.0)
        if frames.stamp_ns > now_ns:
            return frames.color


def _matrix(truth: dict[str, object], name: str) -> np.ndarray:
    return np.array(truth[name], dtype=np.float64)


def _true_camera(truth: dict[str, object]) -> PinholeCamera:
    return replace(twin_camera(848, 480), T_camera_base=inverse(_matrix(truth, "T_base_camera")))


@pytest.mark.slow
def test_secret_fixed_camera_is_where_the_truth_says_and_not_where_its_file_says(
    cell_file: Path, loopback_host: str
) -> None:
    overrides = {"twin.camera_seed": CAMERA_SEED, "twin.task": "calibration"}
    with (
        Lab(cell_file, loopback_host, camera_profile=PROFILE, overrides=overrides) as running,
        LabClient(loopback_host) as lab,
        D455(running.cell.camera) as camera,
    ):
        intrinsics = camera.intrinsics()
        assert (intrinsics.fx, intrinsics.cx, intrinsics.width) == (424.0, 423.5, 848)
        T_base_tool = _matrix(lab.truth(), "T_base_tcp")
        T_base_tool[:3, 3] = (-0.65, 0.0, 0.33)
        _move(lab, T_base_tool)
        truth = lab.truth()
        assert (truth["task"], truth["board"], truth["camera_mount"]) == ("calibration", "tool", "fixed")
        np.testing.assert_allclose(_matrix(truth, "T_base_camera"), secret_pose("fixed", CAMERA_SEED), atol=1e-12)
        T_base_board = _matrix(truth, "T_base_tcp") @ _matrix(truth, "T_tool_board")
        np.testing.assert_allclose(T_base_board, _matrix(truth, "T_base_board"), atol=1e-9)

        believed, true = load_camera(running.directory / "camera.yaml"), _true_camera(truth)
        np.testing.assert_allclose(believed.T_camera_base, twin_camera().T_camera_base, atol=1e-8)
        off_mm = 1e3 * float(np.linalg.norm(believed.T_base_camera[:3, 3] - true.T_base_camera[:3, 3]))
        assert off_mm > 20.0
        image = _picture(camera)
        errors, wrong = corner_errors(image, true, T_base_board), corner_errors(image, believed, T_base_board)
        print(f"\ntruth: {errors}\ncamera.yaml, {off_mm:.0f} mm off: {wrong}")
        assert errors.rms < 0.15
        assert wrong.rms > 10.0

        # A knock, seen in the next pictures and told by the truth.
        delta = (0.004, -0.003, 0.0, 0.0, np.radians(0.4), 0.0)
        lab.nudge_camera(delta)
        moved = _true_camera(lab.truth())
        np.testing.assert_allclose(moved.T_base_camera, nudged(true.T_base_camera, delta), atol=1e-12)
        after = _picture(camera)
        before_view, after_view = detect(image, DEFAULT_BOARD), detect(after, DEFAULT_BOARD)
        assert before_view is not None and after_view is not None
        ids, i, j = np.intersect1d(before_view.ids_N, after_view.ids_N, return_indices=True)
        points = DEFAULT_BOARD.corners_board_N3[ids] @ T_base_board[:3, :3].T + T_base_board[:3, 3]
        expected = (moved.project(points)[0] - true.project(points)[0]).mean(axis=0)
        seen = (after_view.corners_px_N2[j] - before_view.corners_px_N2[i]).mean(axis=0)
        print(f"nudge: the picture moves by {seen.round(3)} px, projected {expected.round(3)} px")
        assert np.linalg.norm(expected) > 3.0
        np.testing.assert_allclose(seen, expected, atol=0.08)
        lab.call("clear_faults")
        np.testing.assert_allclose(_matrix(lab.truth(), "T_base_camera"), true.T_base_camera, atol=1e-12)
        assert corner_errors(_picture(camera), true, T_base_board).rms < 0.15

        # The other calibration scene, and a task, under the same camera.
        reply = lab.reset_scene("calibration", {"board": "table"})
        assert reply["task"] == "calibration_table"
        truth = lab.truth()
        assert "T_tool_board" not in truth
        assert _matrix(truth, "T_base_board")[2, 3] < 0.02
        lab.reset_scene("place_cube")
        assert "T_base_board" not in lab.truth()
        with pytest.raises(LabError, match="the board is on the tool or the table, got 'ceiling'"):
            lab.reset_scene("calibration", {"board": "ceiling"})


@pytest.mark.slow
def test_camera_on_the_tool_sees_the_board_on_the_table(cell_file: Path, loopback_host: str) -> None:
    overrides = {"twin.camera_seed": CAMERA_SEED, "twin.camera_mount": "tool"}
    with (
        Lab(cell_file, loopback_host, camera_profile=PROFILE, overrides=overrides) as running,
        LabClient(loopback_host) as lab,
        D455(running.cell.camera) as camera,
    ):
        assert lab.reset_scene("calibration")["placement"]["board"] == "table"
        path = running.directory / "camera.yaml"
        assert load(path).mode == "eye_in_hand"
        np.testing.assert_allclose(load(path).X, nominal_T_tool_camera(), atol=1e-8)
        with pytest.raises(CalibrationFileError, match="has no fixed pose"):
            load_camera(path)
        T_first = _matrix(lab.truth(), "T_base_tcp")
        for x, y, z in ((-0.64, 0.02, 0.42), (-0.58, -0.05, 0.36)):
            T_base_tool = T_first.copy()
            T_base_tool[:3, 3] = (x, y, z)
            _move(lab, T_base_tool)
            truth = lab.truth()
            T_tool_camera = _matrix(truth, "T_tool_camera")
            np.testing.assert_allclose(T_tool_camera, secret_pose("tool", CAMERA_SEED), atol=1e-12)
            np.testing.assert_allclose(
                _matrix(truth, "T_base_camera"), _matrix(truth, "T_base_tcp") @ T_tool_camera, atol=1e-9
            )
            errors = corner_errors(_picture(camera), _true_camera(truth), _matrix(truth, "T_base_board"))
            print(f"\ncamera on the tool: {errors}")
            assert errors.rms < 0.15
        lab.nudge_camera((0.0, 0.005, 0.0, 0.0, 0.0, 0.0))
        errors = corner_errors(_picture(camera), _true_camera(truth), _matrix(truth, "T_base_board"))
        assert errors.rms > 3.0
        errors = corner_errors(_picture(camera), _true_camera(lab.truth()), _matrix(truth, "T_base_board"))
        assert errors.rms < 0.15


@pytest.mark.slow
def test_calibration_made_while_the_lab_runs_outlives_its_camera_process(cell_file: Path, loopback_host: str) -> None:
    with Lab(cell_file, loopback_host, restart=True, overrides={"twin.camera_seed": 3}) as running:
        path = running.directory / "camera.yaml"
        uncalibrated = load(path)
        found = replace(uncalibrated.camera, T_camera_base=inverse(secret_pose("fixed", 3)))
        calibration = Calibration.from_solution(
            found, "eye_to_hand", found.T_base_camera, None, camera_serial=uncalibrated.serial
        )
        new_id = save(path, calibration)
        killed = running.pid("camera")
        os.kill(killed, signal.SIGKILL)

        def restarted() -> bool:
            running.check()
            return running.pid("camera") != killed

        _wait_for(restarted)
        with D455(running.cell.camera) as camera:
            camera.wait(20.0)
        assert load(path).id == new_id
        directory = running.directory
    assert not directory.exists(), "the lab leaves nothing behind, kept calibrations neither"


@pytest.mark.slow
def test_lab_with_a_camera_at_its_nominal_place_writes_the_truth(cell_file: Path, loopback_host: str) -> None:
    with Lab(cell_file, loopback_host) as running, LabClient(loopback_host) as lab:
        believed = load_camera(running.directory / "camera.yaml")
        np.testing.assert_allclose(believed.T_base_camera, _matrix(lab.truth(), "T_base_camera"), atol=1e-8)


def test_overrides_that_do_not_fit_are_refused_before_anything_starts(cell_file: Path, loopback_host: str) -> None:
    with pytest.raises(CellError, match=r"twin\.camera_mount must be one of fixed, tool, got 'drone'"):
        Lab(cell_file, loopback_host, overrides={"twin.camera_mount": "drone"})
    with pytest.raises(CellError, match=r"<width>x<height>@<rate>, as 848x480@6, got 'large'"):
        Lab(cell_file, loopback_host, camera_profile="large")
    command = [sys.executable, "-m", "robot_bridge.twin.lab", "--cell", str(cell_file), "--set", "twin.camera_sed=3"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "did you mean 'camera_seed'?" in result.stderr and "Traceback" not in result.stderr
