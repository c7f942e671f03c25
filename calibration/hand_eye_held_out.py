"""Held-out error: solve without some views, then predict them. Training residuals say nothing about the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.hand_eye_chain import chain
from calibration.hand_eye_checks import check_motion
from calibration.hand_eye_residuals import CornerModel, PoseModel
from calibration.hand_eye_types import DegenerateSamples, HeldOut
from calibration.refine import NotDetermined, Refined, refine
from calibration.tangent import local

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Fold:
    """A fit without some views, and those views."""

    fit: Refined
    left_out: list[int]


def folds(fit: Refined, count: int, huber_sigmas: float) -> Iterator[Fold]:
    """Fits that each leave out every ``count``-th view; folds whose rest is degenerate are passed over."""
    views = list(range(len(fit.weights_VR)))
    for k in range(min(count, len(views))):
        left_out = views[k::count]
        rest = [v for v in views if v not in left_out]
        model = fit.model.taken(rest)
        try:
            check_motion(model.T_base_tool_V44)
            start = replace(fit.state, corrections_V6=fit.state.corrections_V6[rest])
            yield Fold(refine(model, start, huber_sigmas), left_out)
        except (DegenerateSamples, NotDetermined, np.linalg.LinAlgError):
            continue


def fold_spread_m(fit: Refined, done: Sequence[Fold]) -> float:
    """Grouped jackknife estimate of the position error of X (m); NaN with fewer than three folds."""
    if len(done) < 3:
        return float("nan")
    offsets = np.array([local(fit.state.X, fold.fit.state.X)[:3] for fold in done])
    centred = offsets - offsets.mean(axis=0)
    return float(np.sqrt((len(done) - 1) / len(done) * (centred**2).sum()))


def held_out_corners(model: CornerModel, T_camera_board_V44: Array, done: Sequence[Fold]) -> HeldOut:
    """Prediction error over all folds, with tool poses as reported."""
    pixels, millimetres, degrees = [], [], []
    for fold in done:
        part = model.taken(fold.left_out)
        state = replace(fold.fit.state, corrections_V6=np.zeros((len(fold.left_out), 6)))
        errors = np.linalg.norm(part.pixel_errors(state), axis=-1)
        focal = math.sqrt(state.intrinsics_4[0] * state.intrinsics_4[1])
        pixels.append(errors[part.mask_VN])
        millimetres.append((1e3 * errors * part.depths(state) / focal)[part.mask_VN])
        predicted = chain(part.T_base_tool_V44, state, part.mode)
        degrees.append(_angles_deg(predicted, T_camera_board_V44[fold.left_out]))
    return HeldOut(_rms(pixels), _rms(millimetres), _rms(degrees))


def held_out_poses(model: PoseModel, answers: Sequence[tuple[Array, Array, list[int]]]) -> HeldOut:
    """Prediction error of (X, Y, views left out) answers, in three dimensions."""
    millimetres, degrees = [], []
    for X, Y, left_out in answers:
        part = model.taken(left_out)
        t, r = part.pose_errors(part.start(X, Y))
        millimetres.append(1e3 * np.linalg.norm(t, axis=1))
        degrees.append(np.degrees(np.linalg.norm(r, axis=1)))
    return HeldOut(float("nan"), _rms(millimetres), _rms(degrees))


def _angles_deg(A_V44: Array, B_V44: Array) -> Array:
    relative = np.swapaxes(A_V44[:, :3, :3], 1, 2) @ B_V44[:, :3, :3]
    return np.asarray(np.degrees(Rotation.from_matrix(relative).magnitude()))


def _rms(parts: Sequence[Array]) -> float:
    return float(np.sqrt((np.concatenate(parts) ** 2).mean())) if parts else float("nan")
