"""Intrinsics: the true camera within its stated errors, and poor sets of views refused with reasons."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.board import DEFAULT_BOARD, BoardView, detect
from calibration.camera import PinholeCamera
from calibration.intrinsics import PoorViews, calibrate_intrinsics, coverage_map
from tests.helpers.board_pictures import facing, take_picture, true_corners

Array = NDArray[np.float64]

TRUE = PinholeCamera(424.0, 423.0, 428.0, 236.0, 848, 480, distortion=np.array([-0.055, 0.06, 0.0, 0.0, 0.0]))


def _poses(count: int, rng: np.random.Generator, *, tilt: float = 0.6, spread: float = 1.0) -> list[Array]:
    """Boards all over the image, at changing distances, tilted about random axes."""
    poses = []
    for i in range(count):
        distance = rng.uniform(0.30, 0.55)
        centre = spread * np.array([(i % 4 - 1.5) / 1.5 * 0.62, (i // 4 % 3 - 1.0) * 0.30]) * distance
        angle, lean = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.0) * tilt
        rotvec = np.array([lean * np.cos(angle), lean * np.sin(angle), rng.uniform(-0.3, 0.3)])
        poses.append(facing(DEFAULT_BOARD, distance, rotvec, (float(centre[0]), float(centre[1]))))
    return poses


def _views(poses: list[Array], rng: np.random.Generator, noise_px: float = 0.1) -> list[BoardView]:
    views = []
    for T in poses:
        pixels = true_corners(DEFAULT_BOARD, T, TRUE)
        inside = np.all((pixels > 3) & (pixels < [TRUE.width - 3, TRUE.height - 3]), axis=1)
        ids = np.flatnonzero(inside).astype(np.int32)
        noisy = pixels[ids] + rng.normal(0, noise_px, (len(ids), 2))
        views.append(BoardView(ids, noisy, TRUE.width, TRUE.height))
    return [view for view in views if len(view.ids_N) >= 6]


def test_camera_is_found_within_its_stated_errors() -> None:
    scores = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        result = calibrate_intrinsics(_views(_poses(24, rng), rng), DEFAULT_BOARD)
        assert result.ok, result.reasons
        for name in ("fx", "fy", "cx", "cy"):
            scores.append((getattr(result.camera, name) - getattr(TRUE, name)) / result.standard_errors[name])
        assert result.rms_px == pytest.approx(0.1 * np.sqrt(2), rel=0.15)
        assert 0.12 < result.held_out_rms_px < 0.25
        assert result.camera.fx == pytest.approx(TRUE.fx, rel=0.005)
    assert 0.5 < float(np.sqrt(np.mean(np.square(scores)))) < 1.7


def test_pictures_of_the_board_give_the_camera() -> None:
    rng = np.random.default_rng(3)
    views = [detect(take_picture(DEFAULT_BOARD, T, TRUE, rng), DEFAULT_BOARD) for T in _poses(12, rng)]
    found = [view for view in views if view is not None]
    assert len(found) >= 10
    result = calibrate_intrinsics(found, DEFAULT_BOARD)
    assert result.ok, result.reasons
    assert result.camera.fx == pytest.approx(TRUE.fx, rel=0.003)
    assert result.camera.cx == pytest.approx(TRUE.cx, abs=1.5)
    assert result.rms_px < 0.2
    grid = np.stack(np.meshgrid(np.linspace(40, 800, 9), np.linspace(40, 440, 5)), axis=-1).reshape(-1, 2)
    seen, _ = result.camera.project(TRUE.unproject(grid, np.ones(len(grid))))
    assert float(np.abs(seen - grid).max()) < 2.5


def test_too_few_views_are_refused() -> None:
    rng = np.random.default_rng(0)
    few = _views(_poses(5, rng), rng)
    result = calibrate_intrinsics(few, DEFAULT_BOARD, model="pinhole")
    assert not result.ok
    assert any("5 usable views" in reason for reason in result.refusals)
    with pytest.raises(PoorViews, match="at least 3"):
        calibrate_intrinsics(few[:2], DEFAULT_BOARD)


def test_views_in_the_middle_only_are_refused_and_the_empty_part_named() -> None:
    rng = np.random.default_rng(0)
    result = calibrate_intrinsics(_views(_poses(16, rng, spread=0.1), rng), DEFAULT_BOARD)
    assert any("% of the image" in reason and "show the board at the" in reason for reason in result.refusals)


def test_views_without_tilt_are_refused() -> None:
    rng = np.random.default_rng(0)
    views = _views(_poses(16, rng, tilt=0.02), rng)
    try:
        reasons: tuple[str, ...] = calibrate_intrinsics(views, DEFAULT_BOARD).refusals
    except PoorViews as error:
        reasons = error.reasons
    assert any("tilt" in reason for reason in reasons)


def test_one_view_of_a_moving_board_is_left_out_and_named() -> None:
    rng = np.random.default_rng(0)
    views = _views(_poses(16, rng), rng)
    bad = views[4]
    views[4] = BoardView(bad.ids_N, bad.corners_px_N2 + rng.normal(0, 4.0, bad.corners_px_N2.shape), 848, 480)
    result = calibrate_intrinsics(views, DEFAULT_BOARD)
    assert np.flatnonzero(np.isnan(result.per_view_rms_px)).tolist() == [4]
    assert any(warning.startswith("view 4 ") for warning in result.warnings)
    assert result.camera.fx == pytest.approx(TRUE.fx, rel=0.003)


def test_bent_board_shows_in_the_held_out_error() -> None:
    rng = np.random.default_rng(0)
    views = []
    bent = DEFAULT_BOARD.corners_board_N3.copy()
    bent[:, 2] = 0.012 * np.cos(bent[:, 0] / 0.27 * 2 * np.pi)
    for T in _poses(24, rng):
        points = bent @ T[:3, :3].T + T[:3, 3]
        pixels, _ = TRUE.project(points)
        ids = np.flatnonzero(np.all((pixels > 3) & (pixels < [845, 477]), axis=1)).astype(np.int32)
        views.append(BoardView(ids, pixels[ids], 848, 480))
    result = calibrate_intrinsics([view for view in views if len(view.ids_N) >= 6], DEFAULT_BOARD)
    assert result.held_out_rms_px > 0.5
    assert any("left out are missed" in reason for reason in result.refusals)


def test_mixed_image_sizes_are_refused() -> None:
    rng = np.random.default_rng(0)
    views = _views(_poses(8, rng), rng)
    views[0] = BoardView(views[0].ids_N, views[0].corners_px_N2 / 2, 424, 240)
    with pytest.raises(PoorViews, match="different image sizes"):
        calibrate_intrinsics(views, DEFAULT_BOARD)


def test_coverage_counts_every_corner_once() -> None:
    rng = np.random.default_rng(0)
    views = _views(_poses(9, rng), rng)
    assert coverage_map(views).sum() == sum(len(view.ids_N) for view in views)


def test_result_equals_opencv_on_the_same_views() -> None:
    rng = np.random.default_rng(5)
    views = _views(_poses(12, rng), rng)
    corners = DEFAULT_BOARD.corners_board_N3.astype(np.float32)
    rms, K, *_ = cv2.calibrateCamera(
        [corners[view.ids_N] for view in views],
        [view.corners_px_N2.astype(np.float32) for view in views],
        (848, 480),
        np.eye(3),
        np.zeros(5),
        flags=cv2.CALIB_FIX_K1 | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3 | cv2.CALIB_ZERO_TANGENT_DIST,
    )
    result = calibrate_intrinsics(views, DEFAULT_BOARD, model="pinhole")
    assert pytest.approx(K, abs=1e-6) == result.camera.K
    assert result.rms_px == pytest.approx(rms, rel=0.05)
