"""The steps of a hand-eye solve that corners and poses share: starting values, outlying views, held-out folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calibration.closed_form import METHODS, ClosedFormFailed, closed_form
from calibration.hand_eye_types import DegenerateSamples, Mode
from calibration.refine import Model, NotDetermined, Refined, refine

Array = NDArray[np.float64]

CHI2_6_MEDIAN = 5.348
OUTLYING_CHI2 = 40.0
"""Chi-square with 6 degrees of freedom exceeds this once in two million views."""
OUTLYING_RMS = 4.0
"""A view whose residuals are this many times the median view's was seen badly."""
REMOVABLE_FRACTION = 0.25


def closed_forms(
    T_base_tool_V44: Array, T_camera_board_V44: Array, mode: Mode
) -> dict[str, tuple[Array, Array] | None]:
    """(X, Y) of every closed form; None where one has no answer."""
    answers: dict[str, tuple[Array, Array] | None] = {}
    for method in METHODS:
        try:
            answers[method] = closed_form(T_base_tool_V44, T_camera_board_V44, mode, method)
        except (ClosedFormFailed, np.linalg.LinAlgError):
            answers[method] = None
    return answers


def fit_from(model: Model, starts: dict[str, tuple[Array, Array] | None], huber_sigmas: float) -> Refined:
    """Refine from the closed form with the smallest median residual, then from the second, and keep the better.

    Raises:
        DegenerateSamples: no closed form has an answer, or the views leave a direction open.
    """
    ranked = []
    for name, start in starts.items():
        if start is not None:
            residuals = np.abs(model.linearise(model.start(*start)).residuals_VR)
            ranked.append((float(np.median(residuals[residuals > 0.0])) if residuals.any() else 0.0, name, start))
    fits = []
    for _, _, start in sorted(ranked, key=lambda entry: entry[0])[:2]:
        try:
            fits.append(refine(model, model.start(*start), huber_sigmas))
        except (NotDetermined, np.linalg.LinAlgError):
            continue
    if not fits:
        raise DegenerateSamples(
            ["the views leave a direction of the calibration open; tilt the tool about two axes between views"]
        )
    return min(fits, key=lambda fit: fit.cost)


def without_outliers(fit: Refined, huber_sigmas: float) -> tuple[Refined, list[int], list[tuple[int, str]]]:
    """Take away views that contradict the others, worst first.

    Returns:
        the fit of the rest, the indices kept, and (index, reason) of those removed.
    """
    full, kept = fit.model, list(range(len(fit.weights_VR)))
    removed: list[tuple[int, str]] = []
    limit = int(REMOVABLE_FRACTION * len(kept))
    while len(removed) < limit and len(kept) > 4:
        worst = _outlying(fit)
        if worst is None:
            break
        view, reason = worst
        removed.append((kept.pop(view), reason))
        start = replace(fit.state, corrections_V6=np.delete(fit.state.corrections_V6, view, axis=0))
        fit = refine(full.taken(kept), start, huber_sigmas)
    return fit, kept, sorted(removed)


def _outlying(fit: Refined) -> tuple[int, str] | None:
    """The view that contradicts the others most, if it does, with the reason."""
    model, corrections = fit.model, fit.state.corrections_V6
    # An estimated correction has the prior's covariance less its own posterior's.
    spread = np.diag(model.robot_sigma_6**2) - fit.view_covariances[:, -6:, -6:]
    inverses = np.linalg.pinv(spread, rcond=1e-6, hermitian=True)
    chi2 = np.array([c @ S @ c for c, S in zip(corrections, inverses, strict=True)])
    chi2 /= max(1.0, float(np.median(chi2)) / CHI2_6_MEDIAN)
    squares = fit.linearised.residuals_VR**2
    rms = np.sqrt(squares.sum(axis=1) / np.maximum((squares > 0.0).sum(axis=1), 1))
    ratio = rms / max(float(np.median(rms)), 1e-12)
    if chi2.max() > OUTLYING_CHI2:
        view = int(np.argmax(chi2))
        mm, deg = 1e3 * np.linalg.norm(corrections[view, :3]), np.degrees(np.linalg.norm(corrections[view, 3:]))
        return view, (
            f"its tool pose contradicts the others by {mm:.1f} mm / {deg:.2f} deg; did the arm or the board's mount "
            "still move when it was taken?"
        )
    if ratio.max() > OUTLYING_RMS and rms.max() > 2.0:
        view = int(np.argmax(ratio))
        return view, f"its residuals are {ratio[view]:.1f} times the usual; blurred, or the board partly hidden?"
    return None
