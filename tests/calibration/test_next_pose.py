"""Next-best pose: its forecast is what the solver then reports, and following it beats chance."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.hand_eye import MODES, HandEyeSettings, Mode, solve
from calibration.hand_eye_chain import chain
from calibration.hand_eye_residuals import State
from calibration.next_pose import choose_next, expected_covariance, visible_corners
from calibration.synthetic_cell import SyntheticCell

SETTINGS = HandEyeSettings()


def _cell(mode: Mode, seed: int = 0) -> SyntheticCell:
    return SyntheticCell.draw(mode, np.random.default_rng(seed))


@pytest.mark.parametrize("mode", MODES)
def test_forecast_covariance_is_what_the_solver_reports(mode: Mode) -> None:
    cell, rng = _cell(mode), np.random.default_rng(1)
    samples = cell.views(13, SETTINGS, rng)
    T = [sample.T_base_tool for sample in samples]
    forecast = expected_covariance(T[:-1], cell.X, cell.Y, T[-1], cell.corners_N3, cell.camera, mode, SETTINGS)
    settings = HandEyeSettings(estimate_noise=False)
    reported = solve(samples, cell.corners_N3, cell.camera, mode, settings).covariance_X_66
    scale = np.sqrt(np.outer(np.diag(reported), np.diag(reported)))
    assert forecast / scale == pytest.approx(reported / scale, abs=0.08)


@pytest.mark.parametrize("mode", MODES)
def test_every_further_view_makes_the_camera_more_certain(mode: Mode) -> None:
    cell, taken, sigmas = _cell(mode), [], []
    candidates = list(cell.candidates_M44[:150])
    for _ in range(8):
        choice = choose_next(candidates, taken, cell.X, cell.Y, cell.corners_N3, cell.camera, mode)
        assert choice.index is not None
        taken.append(candidates.pop(choice.index))
        sigmas.append(choice.sigma_mm)
    assert (np.diff(sigmas) < 0.0).all()
    assert sigmas[-1] < 1.5


@pytest.mark.parametrize("mode", MODES)
def test_chosen_views_beat_random_ones(mode: Mode) -> None:
    chosen, chance = [], []
    for seed in range(3):
        cell, rng = _cell(mode, seed), np.random.default_rng(seed)
        best = cell.views(8, SETTINGS, rng)
        random = [s for T in cell.candidates_M44 if (s := cell.view(T, SETTINGS, rng)) is not None][:8]
        for samples, sigmas in ((best, chosen), (random, chance)):
            T = [sample.T_base_tool for sample in samples]
            covariance = expected_covariance(T[:-1], cell.X, cell.Y, T[-1], cell.corners_N3, cell.camera, mode)
            sigmas.append(np.sqrt(np.trace(covariance[:3, :3])))
    assert np.mean(chosen) < 0.8 * np.mean(chance)


@pytest.mark.parametrize("mode", MODES)
def test_a_corner_counts_as_seen_where_the_camera_projects_it_into_the_image(mode: Mode) -> None:
    cell = _cell(mode)
    poses = cell.candidates_M44[:50]
    seen = visible_corners(poses, cell.X, cell.Y, cell.corners_N3, cell.camera, mode, margin_px=20.0)
    assert seen.any()
    assert not seen.all()
    boards = chain(poses, State(cell.X, cell.Y, np.zeros((50, 6))), mode)
    for T, row in zip(boards, seen, strict=True):
        points = cell.corners_N3 @ T[:3, :3].T + T[:3, 3]
        pixels, _ = cell.camera.project(points)
        inside = ((pixels >= 20.0) & (pixels <= [827.0, 459.0])).all(axis=1) & (points[:, 2] > 0.0)
        assert not (row & ~inside).any()
        if row.any():
            assert (row == inside).all()
            assert T[2, 2] > 0.3  # the printed side looks at the camera


def test_a_board_seen_from_behind_or_not_at_all_is_no_candidate() -> None:
    cell = _cell("eye_to_hand")
    behind = cell.X.copy()
    behind[:3, 3] += 2.0 * behind[:3, 2]
    behind[:3, :3] = behind[:3, :3] @ np.diag([-1.0, 1.0, -1.0])  # looks back from the other side
    choice = choose_next(cell.candidates_M44[:50], [], behind, cell.Y, cell.corners_N3, cell.camera, "eye_to_hand")
    assert choice.index is None
    assert (choice.visible_fraction_N == 0.0).all()
    assert np.isnan(choice.sigma_mm_N).all()
