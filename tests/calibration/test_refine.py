"""Joint refinement: derivatives against finite differences, the minimum and covariance against dense least squares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import least_squares

from calibration.hand_eye_chain import State, chain
from calibration.hand_eye_residuals import CornerModel, PoseModel
from calibration.hand_eye_types import MODES, HandEyeSettings, Mode
from calibration.refine import Model, refine, refine_with_noise
from calibration.synthetic_cell import SyntheticCell
from calibration.tangent import (
    adjoint,
    inverses,
    left_jacobian_inverse,
    local,
    motion,
    quaternion_left,
    quaternion_right,
    retract,
    right_jacobian,
    skew,
)

SETTINGS = HandEyeSettings()
ROBOT = np.repeat([SETTINGS.robot_sigma_m, SETTINGS.robot_sigma_rad], 3)


def _corner_model(mode: Mode, seed: int = 0, views: int = 6, distortion: bool = False, **options: bool) -> CornerModel:
    rng = np.random.default_rng(seed)
    cell = SyntheticCell.draw(mode, rng)
    camera = replace(cell.camera, distortion=np.array([0.1, -0.05, 1e-3, -2e-3, 0.01])) if distortion else cell.camera
    cell = replace(cell, camera=camera)
    samples = [s for T in cell.candidates_M44 if (s := cell.view(T, SETTINGS, rng)) is not None][:views]
    return CornerModel.of(
        samples,
        cell.corners_N3,
        camera,
        mode,
        sigmas=(0.3,),
        robot_sigma_6=ROBOT,
        intrinsics_sigma_4=np.array([2.0, 2.0, 3.0, 3.0]),
        **options,
    )


def _truth(mode: Mode, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    cell = SyntheticCell.draw(mode, np.random.default_rng(seed))
    return cell.X, cell.Y


def _pose_model(mode: Mode, seed: int = 0, **options: bool) -> PoseModel:
    corners = _corner_model(mode, seed)
    rng = np.random.default_rng(seed)
    C = chain(corners.T_base_tool_V44, corners.start(*_truth(mode, seed)), mode)
    C = retract(C, rng.normal(0.0, [1e-3] * 3 + [4e-3] * 3, (len(C), 6)))
    return PoseModel(corners.T_base_tool_V44, C, mode, (1e-3, 4e-3), ROBOT, **options)


def _models(mode: Mode) -> list[Model]:
    return [
        _corner_model(mode),
        _corner_model(mode, refine_intrinsics=True, refine_scale=True),
        _corner_model(mode, distortion=True, refine_intrinsics=True),
        _pose_model(mode),
        _pose_model(mode, refine_scale=True),
    ]


def _off(model: Model, mode: Mode) -> State:
    """A state some way off the truth, where no derivative is trivial."""
    rng = np.random.default_rng(5)
    X, Y = _truth(mode)
    state = model.start(retract(X, rng.normal(0, 0.02, 6)), retract(Y, rng.normal(0, 0.02, 6)))
    return replace(state, corrections_V6=rng.normal(0.0, 0.02, state.corrections_V6.shape), scale=1.01)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", range(5))
def test_jacobians_equal_finite_differences(mode: Mode, which: int) -> None:
    model = _models(mode)[which]
    state = _off(model, mode)
    lin = model.linearise(state)
    G, V = lin.by_globals_VRG.shape[2], len(lin.residuals_VR)
    steps = np.full(G + 6, 1e-6)
    if isinstance(model, CornerModel) and model.refine_intrinsics:
        steps[12:16] = 1e-3  # pixels
    for k in range(G + 6):
        plus = _moved(model, state, k, steps[k], G, V).residuals_VR
        minus = _moved(model, state, k, -steps[k], G, V).residuals_VR
        numeric = (plus - minus) / (2.0 * steps[k])
        analytic = lin.by_globals_VRG[..., k] if k < G else lin.by_view_VR6[..., k - G]
        assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-5 * max(1.0, float(np.abs(numeric).max())))


def _moved(model: Model, state: State, k: int, step: float, G: int, V: int):  # type: ignore[no-untyped-def]
    delta = np.zeros(G + 6)
    delta[k] = step
    return model.linearise(model.retract(state, delta[:G], np.tile(delta[G:], (V, 1))))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", range(5))
def test_minimum_and_covariance_equal_dense_least_squares(mode: Mode, which: int) -> None:
    """Second derivation: every unknown in one vector, numeric derivatives, dense inverse of J^T J."""
    model = _models(mode)[which]
    start = model.start(*_truth(mode))
    fit = refine(model, start, huber_sigmas=1e6)
    G, V = len(fit.covariance_GG), len(fit.weights_VR)

    def residuals(vector: np.ndarray) -> np.ndarray:
        state = model.retract(start, vector[:G], vector[G:].reshape(V, 6))
        prior, information = model.prior(state)
        robot = state.corrections_V6 / model.robot_sigma_6
        return np.concatenate([model.linearise(state).residuals_VR.ravel(), robot.ravel(), information**0.5 * prior])

    dense = least_squares(residuals, np.zeros(G + 6 * V), x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert fit.cost == pytest.approx(2.0 * dense.cost, rel=1e-8)
    best = model.retract(start, dense.x[:G], dense.x[G:].reshape(V, 6))
    sigma = np.sqrt(np.diag(fit.covariance_GG))
    assert np.abs(local(fit.state.X, best.X) / sigma[:6]).max() < 1e-3
    assert np.abs(local(fit.state.Y, best.Y) / sigma[6:12]).max() < 1e-3
    # Tangents at start and at the minimum differ by the small turn between them, hence one percent.
    covariance = np.linalg.inv(dense.jac.T @ dense.jac)[:G, :G]
    assert fit.covariance_GG / np.outer(sigma, sigma) == pytest.approx(covariance / np.outer(sigma, sigma), abs=0.03)


@pytest.mark.parametrize("mode", MODES)
def test_exact_data_lead_to_the_exact_answer_from_far_away(mode: Mode) -> None:
    X, Y = _truth(mode)
    model = _corner_model(mode)
    predicted = model.pixel_errors(model.start(X, Y))
    model = replace(model, pixels_VN2=model.pixels_VN2 + predicted)
    rng = np.random.default_rng(3)
    fit = refine(model, model.start(retract(X, rng.normal(0, 0.1, 6)), retract(Y, rng.normal(0, 0.1, 6))))
    assert pytest.approx(X, abs=1e-6) == fit.state.X
    assert pytest.approx(Y, abs=1e-6) == fit.state.Y


def test_wild_corners_hardly_move_the_answer() -> None:
    model = _corner_model("eye_to_hand", views=10)
    start = model.start(*_truth("eye_to_hand"))
    clean = refine(model, start)
    pixels = model.pixels_VN2.copy()
    pixels[:, 3] += 25.0  # one misread corner in every view
    robust = refine(replace(model, pixels_VN2=pixels), start)
    plain = refine(replace(model, pixels_VN2=pixels), start, huber_sigmas=1e6)
    moved = [np.linalg.norm(local(clean.state.X, fit.state.X)[:3]) for fit in (robust, plain)]
    assert moved[0] < 0.35 * moved[1]


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_noise_levels_rise_to_what_the_residuals_show(factor: float) -> None:
    rng = np.random.default_rng(0)
    cell = SyntheticCell.draw("eye_to_hand", rng)
    noise = HandEyeSettings(
        corner_sigma_px=0.3 * factor, robot_sigma_m=2e-4 * factor, robot_sigma_rad=SETTINGS.robot_sigma_rad * factor
    )
    samples = [s for T in cell.candidates_M44 if (s := cell.view(T, noise, rng)) is not None][:25]
    model = CornerModel.of(
        samples,
        cell.corners_N3,
        cell.camera,
        "eye_to_hand",
        sigmas=(0.3,),
        robot_sigma_6=ROBOT,
        intrinsics_sigma_4=np.ones(4),
    )
    fit = refine_with_noise(model, model.start(cell.X, cell.Y))
    assert fit.model.sigmas[0] == pytest.approx(0.3 * factor, rel=0.1)
    assert fit.model.robot_sigma_6 == pytest.approx(ROBOT * factor, rel=0.35)
    assert (fit.model.robot_sigma_6 >= ROBOT).all()


@pytest.mark.parametrize("seed", range(4))
def test_tangent_mathematics_holds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    r = rng.normal(0.0, 10.0 ** rng.uniform(-5, 0.2), (7, 3))
    d = rng.normal(0.0, 1e-6, (7, 6))
    zero = np.zeros((7, 3))
    small = np.einsum("nij,nj->ni", right_jacobian(r), d[:, 3:])
    moved = motion(np.hstack([zero, r + d[:, 3:]]))
    first = motion(np.hstack([zero, r])) @ motion(np.hstack([zero, small]))
    assert moved == pytest.approx(first, abs=1e-11)
    turned = motion(np.hstack([zero, d[:, 3:]])) @ motion(np.hstack([zero, r]))
    shifted = r + np.einsum("nij,nj->ni", left_jacobian_inverse(r), d[:, 3:])
    assert turned == pytest.approx(motion(np.hstack([zero, shifted])), abs=1e-11)
    T = motion(np.hstack([rng.normal(size=(7, 3)), r]))
    carried = motion(np.einsum("nij,nj->ni", adjoint(T), d)) @ T
    assert T @ motion(d) == pytest.approx(carried, abs=1e-10)
    assert T @ inverses(T) == pytest.approx(np.tile(np.eye(4), (7, 1, 1)), abs=1e-12)
    a, b = rng.normal(size=(2, 3))
    assert skew(a) @ b == pytest.approx(np.cross(a, b))
    q, p = rng.normal(size=(2, 4))
    assert quaternion_left(q) @ p == pytest.approx(quaternion_right(p) @ q)
