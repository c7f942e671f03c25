"""Intrinsics on disk: what was accepted comes back, what was refused is not written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.camera import PinholeCamera
from calibration.intrinsics import IntrinsicsResult
from calibration.intrinsics_file import IntrinsicsFileError, load_intrinsics, save_intrinsics

RESULT = IntrinsicsResult(
    camera=PinholeCamera(424.1, 424.2, 423.0, 240.0, 848, 480, distortion=np.array([0.01, -0.02, 0.0, 0.0, 0.0])),
    model="radial",
    rms_px=0.1,
    per_view_rms_px=np.full(9, 0.1),
    held_out_rms_px=0.12,
    coverage=np.ones((3, 4), dtype=np.int64),
    tilts_deg=np.full(9, 20.0),
    standard_errors={"fx": 0.2},
    refusals=(),
    warnings=(),
)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    save_intrinsics(tmp_path / "lens.yaml", RESULT, serial="1")
    camera = load_intrinsics(tmp_path / "lens.yaml")
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (424.1, 424.2, 423.0, 240.0)
    assert (camera.width, camera.height) == (848, 480)
    assert RESULT.camera.distortion is not None and camera.distortion is not None
    np.testing.assert_allclose(camera.distortion, RESULT.camera.distortion)


def test_refused_intrinsics_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too few"):
        save_intrinsics(tmp_path / "lens.yaml", replace(RESULT, refusals=("too few views",)), serial="1")
    assert not (tmp_path / "lens.yaml").exists()


@pytest.mark.parametrize("text", ["", "[1, 2", "format: prophrl-intrinsics/1\n", "format: other\n"])
def test_a_file_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lens.yaml"
    path.write_text(text)
    with pytest.raises(IntrinsicsFileError, match=r"lens\.yaml"):
        load_intrinsics(path)
    with pytest.raises(IntrinsicsFileError, match="calibrate intrinsics"):
        load_intrinsics(tmp_path / "none.yaml")
