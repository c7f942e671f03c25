"""hand_eye.solve: accurate and honest about it, refuses what cannot be solved, names what contradicts the rest."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from calibration.hand_eye import (
    MODES,
    DegenerateSamples,
    GateLimits,
    HandEyeSample,
    HandEyeSettings,
    Mode,
    solve,
    solve_poses,
)
from calibration.hand_eye_checks import board_poses
from calibration.poses import inverse, transform
from calibration.synthetic_cell import SyntheticCell
from calibration.tangent import local, retract

SETTINGS = HandEyeSettings()


def _case(mode: Mode, seed: int = 0, views: int = 12) -> tuple[SyntheticCell, list[HandEyeSample]]:
    """A cell and views at random poses."""
    rng = np.random.default_rng(seed)
    cell = SyntheticCell.draw(mode, rng)
    seen = [s for T in cell.candidates_M44[:200] if (s := cell.view(T, SETTINGS, rng)) is not None]
    return cell, seen[:views]


def _errors(X: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    delta = local(truth, X)
    return 1e3 * float(np.linalg.norm(delta[:3])), float(np.degrees(np.linalg.norm(delta[3:])))


@pytest.mark.parametrize("mode", MODES)
def test_random_cells_are_solved_to_a_millimetre_and_the_covariance_is_true(mode: Mode) -> None:
    cells, nees, errors = 30, [], []
    for seed in range(cells):
        rng = np.random.default_rng(seed)
        cell = SyntheticCell.draw(mode, rng, candidates=200)
        samples = cell.views(12, SETTINGS, rng)
        result = solve(samples, cell.corners_N3, cell.camera, mode, replace(SETTINGS, held_out_folds=3))
        delta = local(result.X, cell.X)
        nees.append(delta @ np.linalg.solve(result.covariance_X_66, delta))
        errors.append(_errors(result.X, cell.X))
        assert result.accepted, result.failures
    mm, deg = np.array(errors).T
    assert np.median(mm) <= 0.8
    assert np.median(deg) <= 0.15
    assert np.percentile(mm, 95) <= 2.0
    low, high = chi2.ppf([0.025, 0.975], 6 * cells) / cells
    assert low <= np.mean(nees) <= high


@pytest.mark.parametrize("mode", MODES)
def test_result_carries_what_is_needed_to_judge_it(mode: Mode) -> None:
    cell, samples = _case(mode)
    start = time.perf_counter()
    result = solve(samples, cell.corners_N3, cell.camera, mode)
    assert time.perf_counter() - start < 20.0
    assert result.accepted, result.failures
    assert set(result.closed_forms) == {"tsai", "park", "horaud", "andreff", "daniilidis", "shah", "li"}
    for X in result.closed_forms.values():
        assert X is not None
        assert _errors(X, cell.X)[0] < 30.0
    assert 0.2 < result.training_rms_px < 0.6
    assert result.training_rms_px < result.held_out.pixels_rms < 2.0
    assert 0.1 < result.held_out.millimetres_rms < 3.0
    assert result.per_sample_rms_px.shape == (12,)
    assert np.abs(result.robot_corrections_N6[:, :3]).max() < 2e-3
    assert result.board_scale == pytest.approx(1.0, abs=4.0 * result.board_scale_sigma + 1e-3)
    assert _errors(result.Y, cell.Y)[0] < 3.0
    if mode == "eye_to_hand":
        assert result.T_base_camera is result.X
        assert result.camera is not None
        assert pytest.approx(inverse(result.X)) == result.camera.T_camera_base
    else:
        with pytest.raises(ValueError, match="no fixed T_base_camera"):
            _ = result.T_base_camera


@pytest.mark.parametrize("mode", MODES)
def test_order_of_the_samples_changes_nothing(mode: Mode) -> None:
    cell, samples = _case(mode)
    order = np.random.default_rng(1).permutation(len(samples))
    first = solve(samples, cell.corners_N3, cell.camera, mode)
    again = solve([samples[k] for k in order], cell.corners_N3, cell.camera, mode)
    assert _errors(again.X, first.X)[0] < 1e-3 * first.sigma_mm + 1e-3
    assert again.per_sample_rms_px == pytest.approx(first.per_sample_rms_px[order], rel=1e-3)


def test_a_known_change_of_frames_changes_x_and_y_accordingly() -> None:
    rng = np.random.default_rng(4)
    base = transform(rng.uniform(-1, 1, 3), Rotation.random(rng=rng))
    cell, samples = _case("eye_to_hand")
    first = solve(samples, cell.corners_N3, cell.camera, "eye_to_hand")
    moved = [replace(s, T_base_tool=base @ s.T_base_tool) for s in samples]
    other = solve(moved, cell.corners_N3, cell.camera, "eye_to_hand")
    assert _errors(other.X, base @ first.X)[0] < 1e-3
    assert other.covariance_X_66 == pytest.approx(first.covariance_X_66, rel=1e-3, abs=1e-12)
    # Another tool frame far from the first turns its rotation noise into translation: same answer within the noise.
    renamed = [replace(s, T_base_tool=s.T_base_tool @ transform([0, 0, 0.01])) for s in samples]
    other = solve(renamed, cell.corners_N3, cell.camera, "eye_to_hand")
    assert _errors(other.X, first.X)[0] < first.sigma_mm
    assert _errors(other.Y, transform([0, 0, -0.01]) @ first.Y)[0] < first.sigma_mm


def test_distorted_lens_and_wrong_intrinsics_are_refined_with_their_priors() -> None:
    rng = np.random.default_rng(2)
    cell = SyntheticCell.draw("eye_to_hand", rng)
    cell = replace(cell, camera=replace(cell.camera, distortion=np.array([-0.05, 0.05, 1e-3, -1e-3, 0.0])))
    samples = cell.views(15, SETTINGS, rng)
    nominal = replace(cell.camera, fx=427.0, fy=427.0, cx=425.5, cy=238.0)
    settings = HandEyeSettings(refine_intrinsics=True)
    result = solve(samples, cell.corners_N3, nominal, "eye_to_hand", settings)
    assert result.camera is not None
    assert result.camera.fx == pytest.approx(424.0, abs=1.0)
    assert result.camera.cx == pytest.approx(423.5, abs=1.0)
    assert _errors(result.X, cell.X)[0] < 2.5


def _views(cell: SyntheticCell, poses: list[np.ndarray]) -> list[HandEyeSample]:
    rng = np.random.default_rng(0)
    return [s for T in poses if (s := cell.view(T, SETTINGS, rng)) is not None]


@pytest.mark.parametrize("mode", MODES)
def test_degenerate_motions_are_refused_with_the_reason(mode: Mode) -> None:
    cell, samples = _case(mode)
    args = (cell.corners_N3, cell.camera, mode)
    with pytest.raises(DegenerateSamples, match="2 view"):
        solve(samples[:2], *args)
    with pytest.raises(DegenerateSamples, match="0 view"):
        solve([], *args)
    rng = np.random.default_rng(0)
    seen = [T for T in cell.candidates_M44 if cell.view(T, SETTINGS, rng) is not None]
    slid = [transform(rng.uniform(-0.05, 0.05, 3)) @ seen[0] for _ in range(30)]
    with pytest.raises(DegenerateSamples, match="pure translation"):
        solve(_views(cell, slid)[:10], *args)
    turned = [
        slid[k % 2] @ transform([0, 0, 0], Rotation.from_euler("x", angle, degrees=True))
        for k, angle in enumerate(rng.uniform(-12.0, 12.0, 60))
    ]
    with pytest.raises(DegenerateSamples, match="parallel rotation axes"):
        solve(_views(cell, turned)[:12], *args)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("factor", [0.97, 1.03, 1.25])
def test_wrong_board_size_is_refused_with_the_size_that_fits(mode: Mode, factor: float) -> None:
    for seed in range(4):
        cell, samples = _case(mode, seed)
        with pytest.raises(DegenerateSamples, match="wrong board size") as refusal:
            solve(samples, cell.corners_N3 * factor, cell.camera, mode)
        fits = re.search(r"fits a board ([0-9.]+) \+-", str(refusal.value))
        assert fits is not None
        assert float(fits.group(1)) == pytest.approx(1.0 / factor, rel=0.012)


@pytest.mark.parametrize("mode", MODES)
def test_flipped_boards_are_refused_and_the_views_named(mode: Mode) -> None:
    cell, samples = _case(mode)
    grid = np.arange(40).reshape(5, 8)
    args = (cell.corners_N3, cell.camera, mode)
    mirrored = [replace(s, ids_N=grid[:, ::-1].ravel()[s.ids_N]) for s in samples]
    with pytest.raises(DegenerateSamples, match="mirror-wise"):
        solve(mirrored, *args)
    with pytest.raises(DegenerateSamples, match=r"mirror-wise in view\(s\) 3;"):
        solve([mirrored[k] if k == 3 else s for k, s in enumerate(samples)], *args)
    turned = [replace(s, ids_N=39 - s.ids_N) for s in samples]
    for bad in ([5], [0, 2], [1, 4, 7, 9]):
        mixed = [turned[k] if k in bad else s for k, s in enumerate(samples)]
        with pytest.raises(DegenerateSamples, match=rf"flipped board: view\(s\) {', '.join(map(str, bad))} number"):
            solve(mixed, *args)
    # All alike is only another name for the board's frame.
    assert _errors(solve(turned, *args).X, cell.X)[0] < 2.5


@pytest.mark.parametrize("mode", MODES)
def test_views_that_contradict_the_rest_are_removed_and_named(mode: Mode) -> None:
    cell, samples = _case(mode, views=14)
    samples[4] = replace(samples[4], T_base_tool=retract(samples[4].T_base_tool, [0.008, 0, 0.004, 0, 0.01, 0]))
    samples[9] = replace(samples[9], T_base_tool=retract(samples[9].T_base_tool, [0, -0.02, 0, 0.02, 0, 0]))
    result = solve(samples, cell.corners_N3, cell.camera, mode)
    assert [view for view, _ in result.removed] == [4, 9]
    assert "contradicts the others" in result.removed[0][1]
    assert np.isnan(result.per_sample_rms_px[[4, 9]]).all()
    assert np.isfinite(np.delete(result.per_sample_rms_px, [4, 9])).all()
    assert _errors(result.X, cell.X)[0] < 2.5


def test_poor_sets_come_back_with_the_gates_that_failed() -> None:
    cell, samples = _case("eye_to_hand", views=4)
    result = solve(samples, cell.corners_N3, cell.camera, "eye_to_hand")
    assert not result.accepted
    names = {gate.name for gate in result.failures}
    assert "views" in names
    assert all("; " in gate.reason for gate in result.failures)
    strict = HandEyeSettings(gates=GateLimits(sigma_mm=0.01))
    cell, samples = _case("eye_to_hand")
    failures = solve(samples, cell.corners_N3, cell.camera, "eye_to_hand", strict).failures
    assert [gate.name for gate in failures] == ["sigma_mm"]


def test_three_views_are_solved_but_nothing_can_be_held_out() -> None:
    cell, samples = _case("eye_to_hand", views=3)
    result = solve(samples, cell.corners_N3, cell.camera, "eye_to_hand")
    assert np.isnan(result.held_out.millimetres_rms)
    assert {"views", "held_out_mm", "fold_spread_mm"} <= {gate.name for gate in result.failures}
    assert _errors(result.X, cell.X)[0] < 5.0 * result.sigma_mm


def test_noisier_data_are_reported_as_less_certain() -> None:
    sigmas = []
    for factor in (1.0, 4.0):
        rng = np.random.default_rng(3)
        cell = SyntheticCell.draw("eye_to_hand", rng)
        noise = HandEyeSettings(0.3 * factor, 2e-4 * factor, SETTINGS.robot_sigma_rad * factor)
        samples = [s for T in cell.candidates_M44 if (s := cell.view(T, noise, rng)) is not None][:15]
        sigmas.append(solve(samples, cell.corners_N3, cell.camera, "eye_to_hand").sigma_mm)
    assert 2.5 < sigmas[1] / sigmas[0] < 6.0


@pytest.mark.parametrize("mode", MODES)
def test_poses_alone_are_solved_better_than_by_the_closed_forms(mode: Mode) -> None:
    joint, park = [], []
    for seed in range(10):
        cell, samples = _case(mode, seed, views=15)
        T, C = np.array([s.T_base_tool for s in samples]), board_poses(samples, cell.corners_N3, cell.camera)
        result = solve_poses(T, C, mode)
        joint.append(_errors(result.X, cell.X)[0])
        park.append(_errors(solve_poses(T, C, mode, "park").X, cell.X)[0])
        assert joint[-1] < 5.0 * result.sigma_mm
        assert np.isfinite(result.held_out.millimetres_rms)
        assert np.isnan(result.held_out.pixels_rms)
        assert result.camera is None
    assert np.median(joint) < np.median(park)


def test_poses_alone_are_refused_for_the_same_reasons() -> None:
    cell, samples = _case("eye_to_hand")
    T, C = np.array([s.T_base_tool for s in samples]), board_poses(samples, cell.corners_N3, cell.camera)
    with pytest.raises(DegenerateSamples, match="2 view"):
        solve_poses(T[:2], C[:2], "eye_to_hand")
    shrunk = C.copy()
    shrunk[:, :3, 3] *= 0.9
    with pytest.raises(DegenerateSamples, match="wrong board size"):
        solve_poses(T, shrunk, "eye_to_hand")
    with pytest.raises(ValueError, match="choose joint, tsai"):
        solve_poses(T, C, "eye_to_hand", "newton")
    with pytest.raises(ValueError, match="choose eye_to_hand or eye_in_hand"):
        solve_poses(T, C, "sideways")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="go in pairs"):
        solve_poses(T, C[:-1], "eye_to_hand")


def test_malformed_samples_are_refused_by_number() -> None:
    cell, samples = _case("eye_to_hand")
    args = (cell.corners_N3, cell.camera, "eye_to_hand")
    bad = replace(samples[2], ids_N=samples[2].ids_N + 40)
    with pytest.raises(ValueError, match=r"sample 2: corner ids must be distinct and within 0\.\.39"):
        solve([*samples[:2], bad], *args)  # type: ignore[arg-type]
    few = HandEyeSample(samples[0].T_base_tool, samples[0].ids_N[:4], samples[0].corners_px_N2[:4])
    with pytest.raises(ValueError, match="sample 0 has 4 corners"):
        solve([few, *samples], *args)  # type: ignore[arg-type]
    nan = replace(samples[1], corners_px_N2=samples[1].corners_px_N2 * np.nan)
    with pytest.raises(ValueError, match="sample 1 contains values that are not finite"):
        solve([samples[0], nan, *samples[2:]], *args)  # type: ignore[arg-type]
