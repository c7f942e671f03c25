"""Calibration files: what goes in comes out, nothing replaced is lost, a file that was tampered with is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.poses import inverse, transform
from calibration.storage import (
    Calibration,
    CalibrationFileError,
    GripperScale,
    HeldOutError,
    load,
    load_calibration,
    load_camera,
    save,
    save_camera,
)

DATE = datetime(2025, 6, 1, 12, 0, tzinfo=timezone.utc)


def _camera(seed: int = 0, distortion: bool = True) -> PinholeCamera:
    rng = np.random.default_rng(seed)
    T_base_camera = transform(rng.uniform(-1, 1, 3), Rotation.random(random_state=seed))
    k = rng.uniform(-0.1, 0.1, 5) if distortion else None
    return PinholeCamera(212.3456789, 211.9, 210.77, 120.1, 424, 240, inverse(T_base_camera), k)


@pytest.mark.parametrize("seed", range(20))
def test_a_saved_camera_projects_to_the_same_pixels(tmp_path: Path, seed: int) -> None:
    camera = _camera(seed, distortion=seed % 2 == 0)
    save_camera(tmp_path / "camera.yaml", camera, serial="234322304889")
    points = camera.unproject([[10.0, 20.0], [400.0, 200.0]], [0.5, 1.5])
    pixels, depths = load_camera(tmp_path / "camera.yaml").project(points)
    expected, expected_depths = camera.project(points)
    assert pixels == pytest.approx(expected, abs=1e-3)
    assert depths == pytest.approx(expected_depths, abs=1e-6)


def test_identity_is_the_hash_of_the_numbers_and_not_of_the_date(tmp_path: Path) -> None:
    first = save_camera(tmp_path / "a.yaml", _camera(), serial="1", date=DATE)
    again = save_camera(tmp_path / "b.yaml", _camera(), serial="1")
    other = save_camera(tmp_path / "c.yaml", _camera(), serial="2")
    assert first == again != other
    loaded = load_calibration(tmp_path / "a.yaml")
    assert (loaded.id, loaded.date, loaded.serial) == (first, "2025-06-01T12:00:00+00:00", "1")


def test_file_edited_by_hand_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    save_camera(path, _camera(), serial="1")
    path.write_text(path.read_text().replace("211.9", "215.9"))
    with pytest.raises(CalibrationFileError, match="was edited after calibration"):
        load_camera(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("parameters: {}", "is not a camera calibration"),
        ("format: prophrl-camera/1", "KeyError"),
    ],
)
def test_foreign_or_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "camera.yaml").write_text(text)
    with pytest.raises(CalibrationFileError, match=message):
        load_camera(tmp_path / "camera.yaml")


def test_sheared_rotation_is_refused(tmp_path: Path) -> None:
    camera = _camera()
    sheared = camera.T_camera_base.copy()
    sheared[0, :3] *= 1.1
    path = tmp_path / "camera.yaml"
    save_camera(path, PinholeCamera(200, 200, 100, 100, 200, 200, sheared), serial="1")
    with pytest.raises(CalibrationFileError, match="not orthonormal"):
        load_camera(path)


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CalibrationFileError, match="prophrl calibrate"):
        load_camera(tmp_path / "none.yaml")


def _pose(seed: int) -> np.ndarray:
    return transform(np.random.default_rng(seed).uniform(-1, 1, 3), Rotation.random(random_state=seed))


def _calibration(mode: str, seed: int = 3) -> Calibration:
    root = np.random.default_rng(seed).normal(size=(6, 6)) * [1e-4, 1e-4, 2e-4, 1e-3, 1e-3, 1e-3]
    return Calibration.from_solution(
        _camera(seed),
        mode,  # type: ignore[arg-type]
        _pose(seed),
        _pose(seed + 1),
        camera_serial="234322304889",
        robot_serial="20245500123",
        leader_serial="set-7",
        covariance_66=root.T @ root,
        held_out=HeldOutError(0.41, 0.93, 0.112),
        sigma_mm=0.61,
        sigma_deg=0.081,
        board={"kind": "charuco", "columns": 9, "rows": 6, "square_m": 0.03},
        samples=15,
        gripper=GripperScale(closed_count=228, open_count=3),
        created_by="prophrl calibrate hand-eye",
    )


@pytest.mark.parametrize("mode", ["eye_to_hand", "eye_in_hand"])
def test_a_full_calibration_comes_back_as_it_was(tmp_path: Path, mode: str) -> None:
    written = _calibration(mode)
    identity = save(tmp_path / "c.yaml", written, date=DATE)
    read = load(tmp_path / "c.yaml")
    assert (read.id, read.date, read.mode) == (identity, "2025-06-01T12:00:00+00:00", mode)
    assert read.Y is not None and written.Y is not None
    np.testing.assert_allclose(read.X, _pose(3), atol=2e-9)
    np.testing.assert_allclose(read.Y, _pose(4), atol=2e-9)
    np.testing.assert_allclose(read.covariance_66, written.covariance_66, rtol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_allclose(read.camera.K, written.camera.K, atol=1e-6)
    np.testing.assert_allclose(read.camera.distortion, written.camera.distortion, atol=1e-12)  # type: ignore[arg-type]
    for name in ("held_out", "sigma_mm", "sigma_deg", "samples", "gripper", "created_by", "board", "serial"):
        assert getattr(read, name) == getattr(written, name), name
    assert (read.robot_serial, read.leader_serial) == ("20245500123", "set-7")


def test_writing_what_was_read_keeps_the_identity(tmp_path: Path) -> None:
    for seed in range(20):
        path = tmp_path / f"{seed}.yaml"
        identity = save(path, _calibration("eye_to_hand", seed))
        assert save(path, load(path)) == identity
    assert not (tmp_path / "history").exists()


def test_every_reader_understands_both_formats(tmp_path: Path) -> None:
    short, full = tmp_path / "short.yaml", tmp_path / "full.yaml"
    save_camera(short, _camera(3), serial="7")
    save(full, replace(_calibration("eye_to_hand"), camera=_camera(3), T_base_camera=None))
    for path in (short, full):
        np.testing.assert_allclose(load_camera(path).T_base_camera, _camera(3).T_base_camera, atol=2e-9)
        assert load_calibration(path).id == load(path).id
    bare = load(short)
    assert bare.camera_serial == load_calibration(short).serial == "7"
    assert bare.covariance_66 is bare.held_out is bare.sigma_mm is bare.Y is None


def test_a_file_of_before_the_full_format_keeps_its_id(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(
        "format: prophrl-camera/1\nid: 7259a87a891a\ndate: '2025-06-01T12:00:00+00:00'\nserial: '234322304889'\n"
        "image: {height: 240, width: 424}\n"
        "intrinsics: {cx: 211.5, cy: 119.5, distortion: null, fx: 212.0, fy: 212.0}\n"
        "T_base_camera:\n- [1.0, 0.0, 0.0, 0.5]\n- [0.0, 1.0, 0.0, 0.0]\n- [0.0, 0.0, 1.0, 0.25]\n"
        "- [0.0, 0.0, 0.0, 1.0]\n"
    )
    assert load(path).id == "7259a87a891a"
    camera = load_camera(path)
    assert save_camera(tmp_path / "again.yaml", camera, serial="234322304889") == "7259a87a891a"


def test_a_camera_on_the_tool_goes_where_the_tool_goes_and_has_no_fixed_pose(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    save(path, _calibration("eye_in_hand"))
    T_base_tool = _pose(9)
    np.testing.assert_allclose(load(path).camera_at(T_base_tool).T_base_camera, T_base_tool @ _pose(3), atol=1e-8)
    with pytest.raises(CalibrationFileError, match="camera_at"):
        load_camera(path)
    seen = load_calibration(path)
    assert seen.mode == "eye_in_hand" and seen.T_tool_camera is not None
    fixed = _calibration("eye_to_hand")
    assert fixed.camera_at(T_base_tool) is fixed.camera


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("samples: 15", "samples: 30"),
        ("mode: eye_to_hand", "mode: eye_in_hand"),
        ("robot: '20245500123'", "robot: '20245500124'"),
        ("pixels: 0.41", "pixels: 0.14"),
        ("closed_count: 228", "closed_count: 230"),
    ],
)
def test_no_figure_of_a_calibration_can_be_improved_by_hand(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "c.yaml"
    save(path, _calibration("eye_to_hand"))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(CalibrationFileError, match=r"was edited after calibration|calibrate again"):
        load(path)


def test_what_a_new_calibration_replaces_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    contents = []
    save_camera(path, _camera(0), serial="1")
    for seed in (1, 2):
        contents.append(path.read_bytes())
        save(path, _calibration("eye_to_hand", seed), date=DATE)
    contents.append(path.read_bytes() + b"# a note by hand\nsamples: 99\n")
    path.write_bytes(contents[-1])
    save(path, _calibration("eye_to_hand", 5))
    kept = sorted((tmp_path / "history").iterdir())
    assert sorted(file.read_bytes() for file in kept) == sorted(contents)
    assert load(path).id == save(path, load(path))
    assert len(list((tmp_path / "history").iterdir())) == 3  # the same calibration again replaces nothing
    readable = [file for file in kept if "unreadable" not in file.name]
    assert all(load(file).id in file.name for file in readable) and len(readable) == 2


def test_figures_that_could_not_be_determined_are_written_as_unknown(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    save(path, replace(_calibration("eye_to_hand"), held_out=HeldOutError(math.nan, 1.5, 0.2), sigma_mm=math.nan))
    assert yaml.safe_load(path.read_text())["held_out"]["pixels"] is None
    read = load(path)
    assert read.held_out is not None and math.isnan(read.held_out.pixels) and read.held_out.millimetres == 1.5
    assert read.sigma_mm is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "eye_on_base"}, "choose one of eye_to_hand, eye_in_hand"),
        ({"mode": "eye_in_hand"}, "T_tool_camera belongs to eye_in_hand"),
        ({"T_tool_camera": np.eye(4)}, "T_tool_camera belongs to eye_in_hand"),
        ({"mode": "eye_in_hand", "T_tool_camera": np.eye(4)}, "has no T_base_camera"),
        ({"T_base_camera": np.eye(4)}, "own pose differ"),
        ({"T_tool_board": np.diag([1.0, 1.0, -1.0, 1.0])}, "T_tool_board is not orthonormal and right-handed"),
        ({"T_tool_board": np.eye(3)}, "T_tool_board must be 4x4"),
        ({"covariance_66": np.diag([1.0, 1.0, 1.0, 1.0, 1.0, -1.0])}, "positive semi-definite"),
        ({"covariance_66": np.eye(3)}, "covariance_66 must be 6x6"),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(_calibration("eye_to_hand"), **change)  # type: ignore[arg-type]


def test_the_gripper_scale_maps_its_two_ends_to_closed_and_open() -> None:
    scale = GripperScale(closed_count=228, open_count=3)
    np.testing.assert_allclose(scale.opening([228, 3, 115.5, 240, 0]), [0.0, 1.0, 0.5, 0.0, 1.0])
    with pytest.raises(ValueError, match="same count"):
        GripperScale(closed_count=5, open_count=5)
