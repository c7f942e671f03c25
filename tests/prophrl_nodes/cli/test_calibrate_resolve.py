"""``prophrl calibrate resolve``: other people's samples in, a verdict and better files out."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prophrl_nodes.cli import calibrate_resolve
from prophrl_nodes.cli.calibrate_resolve import ResolveError
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.easy_handeye import (
    CalibFile,
    HandeyeParameters,
    HandeyeTransform,
    SamplesFile,
    read_calib,
    sample_of_poses,
    write_calib,
    write_samples,
)
from calibration.poses import from_ur, inverse, transform
from calibration.storage import load, save_camera
from calibration.tangent import local, retract
from robot_bridge.cell_files import open_cell

X = transform((-1.2, 0.1, 0.6), Rotation.from_euler("xyz", (-2.2, 0.1, 1.5)))
Y = transform((0.01, -0.1, -0.06), Rotation.from_euler("xyz", (1.2, 0.02, 0.03)))
T_BASE_BASE_LINK = np.diag([-1.0, -1.0, 1.0, 1.0])
PARAMETERS = HandeyeParameters("lab", "eye_on_base", "base_link", "tool0", "camera_color_optical_frame", "board", True)


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    calibrate_resolve.register(parser)
    return calibrate_resolve.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Home of somebody who calibrated ``lab`` in base_link and tool0; the samples do not say which way, as usual."""
    monkeypatch.setenv("HOME", str(tmp_path))
    rng = np.random.default_rng(1)
    T_tool0_tcp = from_ur(open_cell("twin").robot.tcp_offset)
    samples = []
    for _ in range(30):
        T = transform(rng.uniform((-0.75, -0.15, 0.2), (-0.5, 0.15, 0.45)), Rotation.from_rotvec(rng.normal(0, 0.4, 3)))
        seen = retract(inverse(X) @ T @ Y, rng.normal(size=6) * ([0.0004] * 3 + [0.001] * 3))
        samples.append(sample_of_poses(inverse(T_BASE_BASE_LINK) @ T @ inverse(T_tool0_tcp), seen, "eye_to_hand"))
    folder = tmp_path / ".ros2/easy_handeye2"
    write_samples(folder / "samples/lab.samples", SamplesFile(HandeyeParameters(), tuple(samples)))
    return tmp_path


def calib_of(lab: Path, X_in_base: np.ndarray) -> Path:
    path = lab / ".ros2/easy_handeye2/calibrations/lab.calib"
    found = HandeyeTransform.from_matrix(inverse(T_BASE_BASE_LINK) @ X_in_base)
    write_calib(path, CalibFile(PARAMETERS, found))
    return path


def test_a_good_calibration_of_theirs_passes(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calib_of(lab, X)
    assert run("lab") == 0
    said = capsys.readouterr().out
    assert "30 samples, eye_on_base" in said and "FAILED" not in said
    for method in ("tsai", "park", "horaud", "andreff", "daniilidis", "shah", "li", "joint"):
        assert f"\n{method} " in said


def test_one_that_is_six_millimetres_off_does_not_and_the_new_one_does(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calib = calib_of(lab, retract(X, [0.006, 0.0, 0.0, 0.0, 0.0, 0.0]))
    samples = lab / ".ros2/easy_handeye2/samples/lab.samples"
    better = lab / "better.calib"
    assert run("--check", calib, "--samples", samples, "--output-calib", better) == 1
    said = capsys.readouterr().out
    assert "FAILED  position" in said and "use the re-solved transform instead" in said
    assert read_calib(better).parameters == replace(PARAMETERS, name="better")
    assert run("--check", better, "--samples", samples, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["accepted"] is True and len(document["closed_forms"]) == 7
    assert {gate["name"] for gate in document["check"]} == {"position", "rotation", "predicted_mm", "predicted_deg"}


def test_a_calibration_of_ours_comes_out_in_our_frames(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calib_of(lab, X)
    save_camera(lab / "old.yaml", PinholeCamera(424, 424, 423.5, 239.5, 848, 480), serial="234322304889")
    output = lab / "camera.yaml"
    assert run("lab", "--output", output, "--intrinsics", lab / "old.yaml", "--cell", "twin") == 0
    found = load(output)
    assert f"wrote {output}, id {found.id}" in capsys.readouterr().out
    assert found.sigma_mm is not None and found.Y is not None and found.covariance_66 is not None
    error = local(X, found.X)
    assert 1e3 * np.linalg.norm(error[:3]) < 4.0 * found.sigma_mm < 8.0
    assert np.linalg.norm(local(Y, found.Y)[:3]) < 0.003
    assert (found.camera_serial, found.samples, found.mode) == ("234322304889", 30, "eye_to_hand")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which samples"),
        (("lab",), "add --mode eye_on_base or --mode eye_in_hand"),
        (("lab", "--mode", "eye_on_base", "--output", "x.yaml"), "add --intrinsics"),
    ],
)
def test_what_the_files_do_not_say_is_asked_for(lab: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ResolveError, match=message):
        run(*words)


def test_the_tcp_of_a_cell_is_needed_when_the_effector_is_tool0(lab: Path) -> None:
    calib_of(lab, X)
    save_camera(lab / "old.yaml", PinholeCamera(424, 424, 423.5, 239.5, 848, 480), serial="7")
    with pytest.raises(ResolveError, match="add --cell"):
        run("lab", "--output", lab / "x.yaml", "--intrinsics", lab / "old.yaml")


def test_nothing_is_written_when_a_gate_fails_unless_forced(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = lab / "few.samples"
    whole = (lab / ".ros2/easy_handeye2/samples/lab.samples").read_text().split("- robot:")
    samples.write_text("- robot:".join(whole[:6]))
    output = lab / "new.calib"
    assert run("--samples", samples, "--mode", "eye_on_base", "--output-calib", output) == 1
    assert not output.exists() and "nothing was written" in capsys.readouterr().out
    assert run("--samples", samples, "--mode", "eye_on_base", "--output-calib", output, "--force") == 1
    assert read_calib(output).parameters.calibration_type == "eye_on_base"
