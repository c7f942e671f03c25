"""Camera calibration files: what goes in comes out, and a file that was tampered with is refused."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.poses import inverse, transform
from calibration.storage import CalibrationFileError, load_calibration, load_camera, save_camera

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
