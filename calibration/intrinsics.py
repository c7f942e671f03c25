"""Focal lengths, centre and distortion of a camera from views of the calibration board.

A set of views can fit well and still say nothing about the camera: all flat to it, all in the middle, too few. So the
result carries what such a set cannot hide (standard errors, coverage, tilts, error on views left out), and a set that
is too poor is refused with what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.board import Board, BoardView
from calibration.camera import PinholeCamera

Array = NDArray[np.float64]

Model = Literal["pinhole", "radial", "brown"]

_FLAGS: dict[Model, int] = {
    "pinhole": cv2.CALIB_FIX_K1 | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3 | cv2.CALIB_ZERO_TANGENT_DIST,
    "radial": cv2.CALIB_FIX_K3 | cv2.CALIB_ZERO_TANGENT_DIST,
    "brown": 0,
}
_DISTORTION_TERMS: dict[Model, int] = {"pinhole": 0, "radial": 2, "brown": 5}
GRID_ROWS, GRID_COLUMNS = 4, 6
"""Cells of the coverage map."""
_FOLDS = 5


class PoorViews(ValueError):
    """Views from which no camera can be computed; ``reasons`` say why and what to do."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True)
class IntrinsicsLimits:
    """What a set of views must reach to be accepted."""

    views: int = 8
    covered_fraction: float = 0.6
    """Of the cells of the coverage map."""
    tilt_deg: float = 15.0
    tilted_views: int = 3
    """Views whose board is tilted at least ``tilt_deg``, about each of two axes across each other."""
    focal_error: float = 0.005
    """Standard error of the focal length, as a fraction of it."""
    held_out_px: float = 0.5
    view_px: float = 1.0
    """A view with a larger rms than this, and than three times the median view's, is left out."""


@dataclass(frozen=True)
class IntrinsicsResult:
    """A camera (its pose is the identity) and how far to trust it.

    ``per_view_rms_px`` [V] in the order of the views; NaN for views left out. ``coverage`` [rows, columns] counts
    corners in each part of the image. ``held_out_rms_px``: the camera computed from some views predicts half of another
    view's corners from the other half. ``tilts_deg`` [views used]: how far the board leans from facing the camera.
    ``standard_errors``: fx, fy, cx, cy in pixels, then the distortion terms.
    ``refusals`` and ``warnings`` are sentences; ``ok`` means no refusal.
    """

    camera: PinholeCamera
    model: Model
    rms_px: float
    per_view_rms_px: Array
    held_out_rms_px: float
    coverage: NDArray[np.int64]
    tilts_deg: Array
    standard_errors: dict[str, float]
    refusals: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the camera may be used."""
        return not self.refusals

    @property
    def reasons(self) -> tuple[str, ...]:
        """Refusals, then warnings."""
        return self.refusals + self.warnings


def calibrate_intrinsics(
    views: Sequence[BoardView], board: Board, *, model: Model = "radial", limits: IntrinsicsLimits | None = None
) -> IntrinsicsResult:
    """Estimate the camera from views of the board.

    Args:
        views: from ``detect``, all of one image size.
        model: "pinhole" (no distortion), "radial" (k1, k2) or "brown" (k1, k2, p1, p2, k3).

    Raises:
        PoorViews: fewer than three views, mixed image sizes, or views that determine no camera at all.
    """
    limits = limits or IntrinsicsLimits()
    if model not in _FLAGS:
        raise ValueError(f"model must be one of {', '.join(_FLAGS)}, got {model!r}")
    if len(views) < 3:
        raise PoorViews([f"{len(views)} views, at least 3 are needed for any answer and {limits.views} for a good one"])
    sizes = {(view.width, view.height) for view in views}
    if len(sizes) > 1:
        raise PoorViews([f"views of different image sizes: {sorted(sizes)}; take all at the resolution to calibrate"])
    used = np.ones(len(views), dtype=bool)
    fit = _fit(views, board, model)
    bad = (fit.per_view > limits.view_px) & (fit.per_view > 3.0 * np.median(fit.per_view))
    warnings = [
        f"view {i} does not fit the others ({fit.per_view[i]:.1f} px) and was left out: moved or blurred board?"
        for i in np.flatnonzero(bad)
    ]
    if bad.any() and int((~bad).sum()) >= 3:
        used = ~bad
        fit = _fit([view for view, use in zip(views, used, strict=True) if use], board, model)
    kept = [view for view, use in zip(views, used, strict=True) if use]
    per_view = np.full(len(views), np.nan)
    per_view[used] = fit.per_view
    coverage = coverage_map(kept)
    held_out = _held_out(kept, board, model)
    width, height = next(iter(sizes))
    refusals = _refusals(fit, kept, coverage, held_out, limits)
    warnings += _warnings(fit, model, width, height)
    return IntrinsicsResult(
        fit.camera(width, height, model),
        model,
        float(np.sqrt(np.mean(fit.per_view**2))),
        per_view,
        held_out,
        coverage,
        np.degrees(np.linalg.norm(fit.tilts, axis=1)),
        fit.errors(model),
        tuple(refusals),
        tuple(warnings),
    )


def coverage_map(views: Sequence[BoardView]) -> NDArray[np.int64]:
    """Corners [rows, columns] seen in each part of the image, over all views."""
    counts = np.zeros((GRID_ROWS, GRID_COLUMNS), dtype=np.int64)
    for view in views:
        column = np.clip(view.corners_px_N2[:, 0] / view.width * GRID_COLUMNS, 0, GRID_COLUMNS - 1).astype(int)
        row = np.clip(view.corners_px_N2[:, 1] / view.height * GRID_ROWS, 0, GRID_ROWS - 1).astype(int)
        np.add.at(counts, (row, column), 1)
    return counts


@dataclass(frozen=True)
class _Fit:
    K: Array
    distortion: Array
    deviations: Array
    per_view: Array
    tilts: Array
    """[V, 2]: how far the board's normal leans from the line of sight to it, about the image's x and y, radians."""

    def camera(self, width: int, height: int, model: Model) -> PinholeCamera:
        K, terms = self.K, _DISTORTION_TERMS[model]
        # OpenCV's order is k1 k2 p1 p2 k3; terms that the model lacks are zero.
        distortion = None if terms == 0 else self.distortion[:5].copy()
        return PinholeCamera(K[0, 0], K[1, 1], K[0, 2], K[1, 2], width, height, np.eye(4), distortion)

    def errors(self, model: Model) -> dict[str, float]:
        names = ["fx", "fy", "cx", "cy", *("k1", "k2", "p1", "p2", "k3")[: _DISTORTION_TERMS[model]]]
        return {name: float(value) for name, value in zip(names, self.deviations, strict=False)}


def _fit(views: Sequence[BoardView], board: Board, model: Model) -> _Fit:
    corners = board.corners_board_N3.astype(np.float32)
    points = [corners[view.ids_N].reshape(-1, 1, 3) for view in views]
    pixels = [view.corners_px_N2.astype(np.float32).reshape(-1, 1, 2) for view in views]
    size = (views[0].width, views[0].height)
    try:
        _, K, distortion, rotations, translations, deviations, _, per_view = cv2.calibrateCameraExtended(
            points, pixels, size, np.eye(3), np.zeros(5), flags=_FLAGS[model]
        )
    except cv2.error as error:
        raise PoorViews(
            [f"these {len(views)} views determine no camera ({str(error).strip().splitlines()[-1]}); tilt the board"]
        ) from error
    if not np.isfinite(K).all() or not (0.05 < K[0, 0] / max(size) < 50.0):
        raise PoorViews([f"these {len(views)} views determine no focal length; tilt the board in several directions"])
    tilts = [_tilt(rvec, tvec, board) for rvec, tvec in zip(rotations, translations, strict=True)]
    return _Fit(
        np.asarray(K, dtype=np.float64), np.ravel(distortion), np.ravel(deviations), np.ravel(per_view), np.array(tilts)
    )


def _tilt(rvec: NDArray[Any], tvec: NDArray[Any], board: Board) -> Array:
    R = cv2.Rodrigues(rvec)[0]
    width, height = board.size_m
    sight = R @ np.array([width / 2, height / 2, 0.0]) + np.ravel(tvec)
    sight /= np.linalg.norm(sight)
    axis = np.cross(sight, R[:, 2])
    angle = float(np.arctan2(np.linalg.norm(axis), sight @ R[:, 2]))
    return np.asarray(angle * axis[:2] / max(float(np.linalg.norm(axis)), 1e-12))


def _held_out(views: Sequence[BoardView], board: Board, model: Model) -> float:
    """Rms in pixels of corners predicted by cameras that never saw their view (NaN with fewer than six views).

    A view's pose comes from every other corner of it, the error from those between.
    """
    folds = min(_FOLDS, len(views) // 2)
    if folds < 2 or len(views) < 6:
        return float("nan")
    squares: list[Array] = []
    for k in range(folds):
        training = [view for i, view in enumerate(views) if i % folds != k]
        try:
            fit = _fit(training, board, model)
        except PoorViews:
            return float("nan")
        for view in views[k::folds]:
            points = board.corners_board_N3[view.ids_N]
            for half in (np.arange(len(points)) % 2 == 0, np.arange(len(points)) % 2 == 1):
                if half.sum() < 4 or (~half).sum() < 1:
                    continue
                found, rvec, tvec = cv2.solvePnP(
                    points[half], view.corners_px_N2[half], fit.K, fit.distortion, flags=cv2.SOLVEPNP_ITERATIVE
                )
                if not found:
                    continue
                projected, _ = cv2.projectPoints(points[~half], rvec, tvec, fit.K, fit.distortion)
                squares.append(np.sum((projected.reshape(-1, 2) - view.corners_px_N2[~half]) ** 2, axis=1))
    return float(np.sqrt(np.mean(np.concatenate(squares)))) if squares else float("nan")


def _refusals(
    fit: _Fit, views: Sequence[BoardView], coverage: NDArray[np.int64], held_out: float, limits: IntrinsicsLimits
) -> list[str]:
    reasons = []
    if len(views) < limits.views:
        reasons.append(f"{len(views)} usable views, {limits.views} are needed; take more")
    covered = float((coverage > 0).mean())
    if covered < limits.covered_fraction:
        reasons.append(
            f"corners in {100 * covered:.0f} % of the image, {100 * limits.covered_fraction:.0f} % are needed; "
            f"show the board {_where_empty(coverage)}"
        )
    tilt = np.radians(limits.tilt_deg)
    # Leaning about x and leaning about y; either sign serves.
    for axis, name in ((0, "up and down"), (1, "left and right")):
        count = int((np.abs(fit.tilts[:, axis]) > tilt * np.sqrt(0.5)).sum())
        if count < limits.tilted_views:
            reasons.append(
                f"{count} views tilted {name} by about {limits.tilt_deg:.0f} deg, {limits.tilted_views} are needed; "
                f"without tilt, focal length and distance cannot be told apart"
            )
    error = float(np.max(fit.deviations[:2] / np.diag(fit.K)[:2]))
    if not error < limits.focal_error:
        reasons.append(
            f"the focal length is uncertain by {100 * error:.2f} %, {100 * limits.focal_error:.2f} % is allowed; add "
            "views that are tilted more and fill the image"
        )
    if held_out > limits.held_out_px:
        reasons.append(
            f"views left out are missed by {held_out:.2f} px rms, {limits.held_out_px:.2f} is allowed; is the board "
            "flat and fixed, and the image sharp?"
        )
    return reasons


def _warnings(fit: _Fit, model: Model, width: int, height: int) -> list[str]:
    warnings = []
    K = fit.K
    if abs(K[0, 0] / K[1, 1] - 1.0) > 0.02:
        warnings.append(
            f"fx and fy differ by {100 * abs(K[0, 0] / K[1, 1] - 1):.1f} %; pixels of this sensor are square"
        )
    away = float(np.hypot(K[0, 2] - (width - 1) / 2, K[1, 2] - (height - 1) / 2))
    if away > 0.08 * width:
        warnings.append(f"the principal point lies {away:.0f} px off the image centre; check for a cropped image")
    if model == "brown" and len(fit.per_view) < 20:
        warnings.append(f"{len(fit.per_view)} views for five distortion terms; 20 are advisable, or use model 'radial'")
    return warnings


def _where_empty(coverage: NDArray[np.int64]) -> str:
    empty = coverage == 0
    rows, columns = coverage.shape
    parts = {
        "at the upper left": empty[: rows // 2, : columns // 2],
        "at the upper right": empty[: rows // 2, columns // 2 :],
        "at the lower left": empty[rows // 2 :, : columns // 2],
        "at the lower right": empty[rows // 2 :, columns // 2 :],
    }
    worst = sorted(parts, key=lambda name: -int(parts[name].sum()))
    return " and ".join(name for name in worst[:2] if parts[name].any())
