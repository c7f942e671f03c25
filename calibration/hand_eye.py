"""Hand-eye calibration: samples in, transform with covariance, held-out error and gates out.

``solve`` takes views of a board with their corners and is the accurate way; ``solve_poses`` takes board poses only
(other people's sample files). Both refuse degenerate sets with ``DegenerateSamples``; a result that is merely poor
comes back with ``accepted`` False and the gates that failed. Frames and tangent: ``hand_eye_types``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.camera import PinholeCamera
from calibration.closed_form import METHODS, closed_form
from calibration.hand_eye_checks import (
    board_poses,
    check_board_size,
    check_motion,
    check_numbering,
    check_printed_side,
    check_samples,
)
from calibration.hand_eye_fit import closed_forms, fit_from, without_outliers
from calibration.hand_eye_gates import Figures, coverage, judge
from calibration.hand_eye_held_out import Fold, fold_spread_m, folds, held_out_corners, held_out_poses
from calibration.hand_eye_residuals import CornerModel, PoseModel
from calibration.hand_eye_types import (
    MODES,
    DegenerateSamples,
    Gate,
    GateLimits,
    HandEyeResult,
    HandEyeSample,
    HandEyeSettings,
    HeldOut,
    Mode,
    NoiseLevels,
)
from calibration.poses import inverse
from calibration.refine import Model, Refined, noise_levels, refine_with_noise

__all__ = [
    "MODES",
    "DegenerateSamples",
    "Gate",
    "GateLimits",
    "HandEyeResult",
    "HandEyeSample",
    "HandEyeSettings",
    "HeldOut",
    "Mode",
    "NoiseLevels",
    "solve",
    "solve_poses",
]

Array = NDArray[np.float64]


def solve(
    samples: Sequence[HandEyeSample],
    corners_board_N3: ArrayLike,
    camera: PinholeCamera,
    mode: Mode,
    settings: HandEyeSettings | None = None,
) -> HandEyeResult:
    """Calibrate a camera against a robot from views of a board.

    Args:
        samples: views; their ``ids_N`` index ``corners_board_N3`` [N, 3] (board frame, metres, z = 0).
        camera: intrinsics and distortion; its pose is ignored.
        mode: where camera and board are, see ``hand_eye_types``.

    Raises:
        DegenerateSamples: the set determines no calibration or contradicts the board; its reasons say why.
        ValueError: malformed samples or an unknown mode.
    """
    settings = settings or HandEyeSettings()
    corners = np.asarray(corners_board_N3, dtype=np.float64)
    _check_mode(mode)
    check_samples(samples, len(corners), settings.minimum_corners)
    T_base_tool = np.array([sample.T_base_tool for sample in samples], dtype=np.float64).reshape(-1, 4, 4)
    check_motion(T_base_tool)
    check_printed_side(samples, corners)
    T_camera_board = board_poses(samples, corners, camera)
    check_numbering(T_base_tool, T_camera_board)
    forms = closed_forms(T_base_tool, T_camera_board, mode)
    focal_sigma = settings.focal_sigma_fraction * np.array([camera.fx, camera.fy])
    model = CornerModel.of(
        samples,
        corners,
        camera,
        mode,
        sigmas=(settings.corner_sigma_px,),
        robot_sigma_6=_robot_sigma(settings),
        intrinsics_sigma_4=np.append(focal_sigma, [settings.centre_sigma_px] * 2),
        refine_intrinsics=settings.refine_intrinsics,
    )
    fit, kept, removed, scale, scale_sigma = _fit(model, forms, settings)
    used = cast(CornerModel, fit.model)
    done = list(folds(fit, settings.held_out_folds, settings.huber_sigmas))
    held_out = held_out_corners(model.taken(kept), T_camera_board[kept], done)
    per_view = _per_view_rms(used, fit)
    fx, fy, cx, cy = (float(value) for value in fit.state.intrinsics_4)
    refined = replace(camera, fx=fx, fy=fy, cx=cx, cy=cy)
    if mode == "eye_to_hand":
        refined = replace(refined, T_camera_base=inverse(fit.state.X))
    pixels = np.concatenate([np.asarray(samples[v].corners_px_N2) for v in kept])
    rms = float(np.sqrt((used.pixel_errors(fit.state) ** 2).sum() / used.mask_VN.sum()))
    result = _result(fit, mode, refined, held_out, done, forms, kept, removed, len(samples), (scale, scale_sigma))
    result = replace(result, training_rms_px=rms, per_sample_rms_px=_spread(per_view, kept, len(samples)))
    seen = coverage(pixels, camera.width, camera.height)
    return _judged(result, T_base_tool[kept], settings, seen, result.noise.observation[0])


def solve_poses(
    T_base_tool_N44: ArrayLike,
    T_camera_board_N44: ArrayLike,
    mode: Mode,
    method: str = "joint",
    settings: HandEyeSettings | None = None,
) -> HandEyeResult:
    """Calibrate from poses alone: the tool's as the robot reported it, the board's as the camera saw it.

    Less certain than ``solve``, because a board pose does not tell which of its six numbers are poorly seen.

    Args:
        method: "joint", or one of ``closed_form.METHODS`` for that closed form's answer, judged by the same figures
            (its covariance is then the joint solution's at that answer and too small).

    Raises:
        DegenerateSamples, ValueError: as ``solve``; ValueError also for an unknown method.
    """
    settings = settings or HandEyeSettings()
    _check_mode(mode)
    if method != "joint" and method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose joint, {', '.join(METHODS)}")
    T_base_tool = np.asarray(T_base_tool_N44, dtype=np.float64).reshape(-1, 4, 4)
    T_camera_board = np.asarray(T_camera_board_N44, dtype=np.float64).reshape(-1, 4, 4)
    if len(T_base_tool) != len(T_camera_board):
        raise ValueError(f"{len(T_base_tool)} tool poses but {len(T_camera_board)} board poses; they go in pairs")
    if not (np.isfinite(T_base_tool).all() and np.isfinite(T_camera_board).all()):
        raise ValueError("poses contain values that are not finite; remove those samples")
    check_motion(T_base_tool)
    forms = closed_forms(T_base_tool, T_camera_board, mode)
    sigmas = (settings.camera_sigma_m, settings.camera_sigma_rad)
    model = PoseModel(T_base_tool, T_camera_board, mode, sigmas, _robot_sigma(settings))
    fit, kept, removed, scale, scale_sigma = _fit(model, forms, settings)
    done = list(folds(fit, settings.held_out_folds, settings.huber_sigmas))
    if method == "joint":
        answers = [(fold.fit.state.X, fold.fit.state.Y, fold.left_out) for fold in done]
    else:
        X, Y = closed_form(T_base_tool[kept], T_camera_board[kept], mode, method)
        fit = replace(fit, state=replace(fit.state, X=X, Y=Y))
        answers = []
        for fold in done:
            rest = [v for i, v in enumerate(kept) if i not in fold.left_out]
            answers.append((*closed_form(T_base_tool[rest], T_camera_board[rest], mode, method), fold.left_out))
    held_out = held_out_poses(model.taken(kept), answers)
    result = _result(fit, mode, None, held_out, done, forms, kept, removed, len(T_base_tool), (scale, scale_sigma))
    return _judged(result, T_base_tool[kept], settings, None, None)


def _fit(
    model: Model, forms: dict[str, tuple[Array, Array] | None], settings: HandEyeSettings
) -> tuple[Refined, list[int], list[tuple[int, str]], float, float]:
    """Fit, views kept, views removed, and the board's size with its sigma.

    The size is fitted first and together with everything else, before views are judged and noise is estimated: a
    wrong size would otherwise pass for bad views or for robot noise.
    """
    free = fit_from(replace(model, refine_scale=True), forms, settings.huber_sigmas)
    free, kept, removed = without_outliers(free, settings.huber_sigmas)
    if settings.estimate_noise:
        free = refine_with_noise(free.model, free.state, settings.huber_sigmas)
    scale, scale_sigma = free.state.scale, math.sqrt(free.covariance_GG[-1, -1])
    check_board_size(scale, scale_sigma)
    plain = replace(model.taken(kept), refine_scale=False)
    start = replace(free.state, scale=1.0)
    if settings.estimate_noise:
        return refine_with_noise(plain, start, settings.huber_sigmas), kept, removed, scale, scale_sigma
    return fit_from(plain, {"free": (start.X, start.Y)}, settings.huber_sigmas), kept, removed, scale, scale_sigma


def _result(
    fit: Refined,
    mode: Mode,
    camera: PinholeCamera | None,
    held_out: HeldOut,
    done: Sequence[Fold],
    forms: dict[str, tuple[Array, Array] | None],
    kept: list[int],
    removed: list[tuple[int, str]],
    count: int,
    scale: tuple[float, float],
) -> HandEyeResult:
    """The result without its gates and pixel figures."""
    return HandEyeResult(
        X=fit.state.X,
        Y=fit.state.Y,
        covariance_X_66=fit.covariance_GG[:6, :6],
        covariance_Y_66=fit.covariance_GG[6:12, 6:12],
        camera=camera,
        mode=mode,
        held_out=held_out,
        training_rms_px=float("nan"),
        per_sample_rms_px=np.full(count, np.nan),
        robot_corrections_N6=_spread(fit.state.corrections_V6, kept, count),
        closed_forms={name: None if form is None else form[0] for name, form in forms.items()},
        gates=(),
        noise=noise_levels(fit.model),
        board_scale=scale[0],
        board_scale_sigma=scale[1],
        fold_spread_mm=1e3 * fold_spread_m(fit, done),
        removed=tuple(removed),
    )


def _judged(
    result: HandEyeResult,
    T_base_tool_V44: Array,
    settings: HandEyeSettings,
    image_coverage: float | None,
    corner_noise_px: float | None,
) -> HandEyeResult:
    figures = Figures(
        T_base_tool_V44=T_base_tool_V44,
        removed=len(result.removed),
        noise=result.noise,
        scale=result.board_scale,
        scale_sigma=result.board_scale_sigma,
        held_out=result.held_out,
        fold_spread_mm=result.fold_spread_mm,
        sigma_mm=result.sigma_mm,
        sigma_deg=result.sigma_deg,
        coverage=image_coverage,
        corner_noise_px=corner_noise_px,
    )
    return replace(result, gates=judge(figures, settings.gates))


def _per_view_rms(model: CornerModel, fit: Refined) -> Array:
    squares = (model.pixel_errors(fit.state) ** 2).sum(axis=(1, 2))
    return np.asarray(np.sqrt(squares / model.mask_VN.sum(axis=1)))


def _spread(values: Array, kept: list[int], count: int) -> Array:
    """Values of the kept views at their places among all; NaN for the others."""
    full = np.full((count, *values.shape[1:]), np.nan)
    full[kept] = values
    return full


def _robot_sigma(settings: HandEyeSettings) -> Array:
    return np.repeat([settings.robot_sigma_m, settings.robot_sigma_rad], 3)


def _check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; choose {' or '.join(MODES)}")
