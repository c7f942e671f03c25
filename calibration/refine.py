"""Joint refinement of a hand-eye calibration: X, Y and every view's tool pose at once, with covariance.

A robot reports its tool pose with an error (0.2 mm, 0.05 deg per axis, say). Solving for X and Y alone spreads these
errors over both; giving every view six corrections of its own with a Gaussian prior puts them where they belong and
is several times more accurate. The normal equations are solved by eliminating the corrections view by view (Schur
complement), so a step costs O(views) and the marginal covariance of the globals comes for free. Levenberg-Marquardt
with a Huber loss per corner.

Noise levels are re-estimated from the residuals (variance components by redundancy, Förstner 1979): with the sum of
squares S and the redundancy r of a group of residuals, sigma^2 = (n0 sigma0^2 + S) / (n0 + r), never below sigma0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.hand_eye_chain import Linearised, State
from calibration.hand_eye_residuals import CornerModel, PoseModel
from calibration.hand_eye_types import NoiseLevels

Array = NDArray[np.float64]
Model = CornerModel | PoseModel

_NOISE_PRIOR_ROWS = 4.0
"""Weight of the expected noise level, in residuals: one view outweighs the settings."""
_ITERATIONS = 60
_NOISE_ROUNDS = 30
_CONVERGED = 1e-10


class NotDetermined(ValueError):
    """The observations leave some direction of X or Y open."""


@dataclass(frozen=True)
class Refined:
    """A minimum: state, Huber cost, covariance [G, G] of the globals and of each view jointly with them."""

    model: Model
    state: State
    cost: float
    covariance_GG: Array
    view_covariances: Array
    """[V, G + 6, G + 6]: globals and the view's correction."""
    weights_VR: Array
    linearised: Linearised


@dataclass(frozen=True)
class _Normal:
    """Normal equations: Schur complement S and right side b of the globals, and what gives the corrections back."""

    S: Array
    b: Array
    view_inverse_V66: Array
    coupling_VG6: Array
    view_right_V6: Array


def refine(model: Model, start: State, huber_sigmas: float = 3.0) -> Refined:
    """Minimise the robust cost from ``start`` (within about 20 deg of the answer).

    Raises:
        NotDetermined: the information about the globals is singular at the minimum.
    """
    state, damping = start, 1e-4
    lin = model.linearise(state)
    cost, weights = _cost(model, state, lin, huber_sigmas)
    for _ in range(_ITERATIONS):
        step, views = _solve(_normal(model, state, lin, weights, damping), damping)
        candidate = model.retract(state, step, views)
        lin_new = model.linearise(candidate)
        cost_new, weights_new = _cost(model, candidate, lin_new, huber_sigmas)
        if cost_new <= cost:
            done = cost - cost_new <= _CONVERGED * (1.0 + cost)
            state, lin, cost, weights, damping = candidate, lin_new, cost_new, weights_new, max(damping / 10.0, 1e-12)
            if done:
                break
        else:
            damping *= 10.0
            if damping > 1e8:
                break
    return _with_covariance(model, state, lin, weights, cost)


def refine_with_noise(model: Model, start: State, huber_sigmas: float = 3.0) -> Refined:
    """``refine``, then raise the noise levels to what the residuals show and refine again, until they settle."""
    expected = model
    best = refine(model, start, huber_sigmas)
    for _ in range(_NOISE_ROUNDS):
        raised = _raised(best, expected)
        change = max(
            abs(np.log(np.array(raised.sigmas) / best.model.sigmas)).max(),
            abs(np.log(raised.robot_sigma_6 / best.model.robot_sigma_6)).max(),
        )
        if change < 0.003:
            break
        best = refine(raised, best.state, huber_sigmas)
    return best


def noise_levels(model: Model) -> NoiseLevels:
    """The noise a model works with."""
    return NoiseLevels(model.sigmas, float(model.robot_sigma_6[0]), float(model.robot_sigma_6[3]))


def view_information(lin: Linearised, robot_sigma_6: Array) -> Array:
    """What each view alone tells about the globals [V, G, G], its own correction marginalised."""
    J, K = lin.by_globals_VRG, lin.by_view_VR6
    J_T = np.swapaxes(J, 1, 2)
    coupling = J_T @ K
    own = np.swapaxes(K, 1, 2) @ K + np.diag(robot_sigma_6**-2.0)
    information: Array = J_T @ J - coupling @ np.linalg.solve(own, np.swapaxes(coupling, 1, 2))
    return information


def _cost(model: Model, state: State, lin: Linearised, huber: float) -> tuple[float, Array]:
    """Huber cost with both priors, and the weight of every row."""
    V = len(lin.residuals_VR)
    squares = lin.residuals_VR**2
    norms = np.sqrt(squares.reshape(V, -1, model.block_rows).sum(axis=-1))
    # A block of k residuals has norm sqrt(k) sigma at rest; the threshold follows.
    threshold = huber * np.sqrt(model.block_rows / 2.0)
    weights = threshold / np.maximum(norms, threshold)
    outside = norms > threshold
    loss = np.where(outside, 2.0 * threshold * norms - threshold**2, norms**2).sum()
    residual, information = model.prior(state)
    loss += ((state.corrections_V6 / model.robot_sigma_6) ** 2).sum() + residual @ (information * residual)
    return float(loss), np.repeat(weights, model.block_rows, axis=1)


def _normal(model: Model, state: State, lin: Linearised, weights: Array, damping: float) -> _Normal:
    J, K, r = lin.by_globals_VRG, lin.by_view_VR6, lin.residuals_VR
    J_w = np.swapaxes(J * weights[..., None], 1, 2)
    K_w = np.swapaxes(K * weights[..., None], 1, 2)
    prior_view = model.robot_sigma_6**-2.0
    residual, information = model.prior(state)
    own = K_w @ K
    own[:, range(6), range(6)] += prior_view
    own[:, range(6), range(6)] *= 1.0 + damping
    view_inverse = np.asarray(np.linalg.inv(own), dtype=np.float64)
    coupling = J_w @ K
    view_right = -(K_w @ r[..., None])[..., 0] - prior_view * state.corrections_V6
    H = (J_w @ J).sum(axis=0) + np.diag(information)
    H[np.diag_indices_from(H)] *= 1.0 + damping
    gain = coupling @ view_inverse
    S = H - (gain @ np.swapaxes(coupling, 1, 2)).sum(axis=0)
    b = -(J_w @ r[..., None])[..., 0].sum(axis=0) - information * residual - np.einsum("vgk,vk->g", gain, view_right)
    return _Normal(S, b, view_inverse, coupling, view_right)


def _solve(normal: _Normal, damping: float) -> tuple[Array, Array]:
    scale = 1.0 / np.sqrt(np.maximum(np.diag(normal.S), 1e-300))
    step = scale * np.linalg.lstsq(normal.S * np.outer(scale, scale), scale * normal.b, rcond=1e-14)[0]
    right = normal.view_right_V6 - np.einsum("vgk,g->vk", normal.coupling_VG6, step)
    return step, np.einsum("vij,vj->vi", normal.view_inverse_V66, right)


def _with_covariance(model: Model, state: State, lin: Linearised, weights: Array, cost: float) -> Refined:
    normal = _normal(model, state, lin, weights, 0.0)
    scale = 1.0 / np.sqrt(np.maximum(np.diag(normal.S), 1e-300))
    values, vectors = np.linalg.eigh(normal.S * np.outer(scale, scale))
    if values[0] < 1e-13 * values[-1]:
        raise NotDetermined("the views leave a direction of the calibration open; turn the tool about more axes")
    covariance = np.outer(scale, scale) * ((vectors / values) @ vectors.T)
    V, G = len(weights), len(covariance)
    cross = -covariance @ normal.coupling_VG6 @ normal.view_inverse_V66
    joint = np.zeros((V, G + 6, G + 6))
    joint[:, :G, :G] = covariance
    joint[:, :G, G:], joint[:, G:, :G] = cross, np.swapaxes(cross, 1, 2)
    joint[:, G:, G:] = (
        normal.view_inverse_V66 - normal.view_inverse_V66 @ np.swapaxes(normal.coupling_VG6, 1, 2) @ cross
    )
    return Refined(model, state, cost, covariance, joint, weights, lin)


def _raised(fit: Refined, expected: Model) -> Model:
    """The model with noise levels from the residuals of ``fit``, each at least what was expected."""
    model, lin = fit.model, fit.linearised
    J = np.concatenate([lin.by_globals_VRG, lin.by_view_VR6], axis=-1)
    leverage = fit.weights_VR * ((J @ fit.view_covariances) * J).sum(axis=-1)
    squares = fit.weights_VR * lin.residuals_VR**2
    sigmas = []
    for group, count in enumerate(model.counts):
        rows = model.groups_R == group
        redundancy = max(count - leverage[:, rows].sum(), 0.0)
        now = model.sigmas[group]
        sigmas.append(_level(expected.sigmas[group], now**2 * squares[:, rows].sum(), redundancy))
    # One factor for the robot's position and rotation: the settings know their ratio better than a board, whose tilt
    # is seen poorly, can tell them apart.
    posterior = np.diagonal(fit.view_covariances[:, -6:, -6:], axis1=1, axis2=2)
    redundancy = (1.0 - posterior / model.robot_sigma_6**2).sum()
    total = ((fit.state.corrections_V6 / expected.robot_sigma_6) ** 2).sum()
    robot = expected.robot_sigma_6 * _level(1.0, total, max(redundancy, 0.0))
    changes: dict[str, Any] = {"sigmas": tuple(sigmas), "robot_sigma_6": robot}
    return replace(model, **changes)


def _level(expected: float, squares: float, redundancy: float) -> float:
    variance = (_NOISE_PRIOR_ROWS * expected**2 + squares) / (_NOISE_PRIOR_ROWS + redundancy)
    return float(max(expected, np.sqrt(variance)))
