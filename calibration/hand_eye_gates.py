"""Gates of a hand-eye calibration: every figure with its limit, what it means and what to do when it fails."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.hand_eye_checks import rotation_spreads_deg
from calibration.hand_eye_types import Gate, GateLimits, HeldOut, NoiseLevels

Array = NDArray[np.float64]

COVERAGE_GRID = (4, 4)


@dataclass(frozen=True)
class Figures:
    """What the gates judge. NaN figures fail; None figures are left out (poses have no pixels)."""

    T_base_tool_V44: Array
    removed: int
    noise: NoiseLevels
    scale: float
    scale_sigma: float
    held_out: HeldOut
    fold_spread_mm: float
    sigma_mm: float
    sigma_deg: float
    coverage: float | None = None
    corner_noise_px: float | None = None


def coverage(pixels_M2: Array, width: int, height: int) -> float:
    """Share of the image's 4x4 fields in which a corner was seen."""
    columns, rows = COVERAGE_GRID
    x = np.clip((pixels_M2[:, 0] * columns / width).astype(int), 0, columns - 1)
    y = np.clip((pixels_M2[:, 1] * rows / height).astype(int), 0, rows - 1)
    return len(set(zip(x.tolist(), y.tolist(), strict=True))) / (columns * rows)


def judge(figures: Figures, limits: GateLimits) -> tuple[Gate, ...]:
    """All gates, in the order in which a person would look at them."""
    views = len(figures.T_base_tool_V44)
    rotation = float(rotation_spreads_deg(figures.T_base_tool_V44)[1])
    positions = figures.T_base_tool_V44[:, :3, 3]
    spread = float(np.sqrt(((positions - positions.mean(axis=0)) ** 2).sum(axis=1).mean()))
    removed = figures.removed / max(1, views + figures.removed)
    scale = max(abs(figures.scale - 1.0), 2.0 * figures.scale_sigma)
    held, noise = figures.held_out, figures.noise
    gates = [
        _at_least("views", views, limits.views, "views used", "take more views"),
        _at_least(
            "rotation_spread",
            rotation,
            limits.rotation_spread_deg,
            "deg RMS about the second axis",
            "tilt the tool more",
        ),
        _at_least(
            "translation_spread",
            spread,
            limits.translation_spread_m,
            "m RMS of tool positions",
            "spread the views more",
        ),
    ]
    if figures.coverage is not None:
        gates.append(
            _at_least(
                "image_coverage", figures.coverage, limits.image_coverage, "of the image's fields seen",
                "bring the board into the corners of the image too",
            )
        )  # fmt: skip
    gates.append(
        _at_most("removed_views", removed, limits.removed_fraction, "of the views contradict the rest",
                 "wait longer for stillness, check the board's mount and take the set again")
    )  # fmt: skip
    if figures.corner_noise_px is not None:
        gates.append(
            _at_most("corner_noise", figures.corner_noise_px, limits.corner_noise_px, "px per axis",
                     "check focus, light and the intrinsics (prophrl calibrate intrinsics)")
        )  # fmt: skip
    gates += [
        _at_most("robot_noise", noise.robot_m, limits.robot_noise_m, "m per axis between tool poses and views",
                 "check the board's mount, stillness and the robot's own calibration (kinematics of this arm)"),
        _at_most("robot_rotation_noise", noise.robot_rad, limits.robot_noise_rad, "rad per axis",
                 "check the board's mount, stillness and the robot's own calibration (kinematics of this arm)"),
        _at_most("board_scale", scale, limits.board_scale, "deviation of the board's size from the robot's motion",
                 "measure the printed squares; if they are right, spread the views more, nearer and farther too"),
    ]  # fmt: skip
    if figures.coverage is not None:
        gates.append(
            _at_most("held_out_px", held.pixels_rms, limits.held_out_px, "px RMS on views left out", "take more views")
        )
    gates += [
        _at_most("held_out_mm", held.millimetres_rms, limits.held_out_mm, "mm RMS on views left out",
                 "take more views, with more tilt"),
        _at_most("held_out_deg", held.degrees_rms, limits.held_out_deg, "deg RMS on views left out",
                 "bring the board nearer or tilt it more: its attitude is seen too poorly"),
        _at_most("fold_spread_mm", figures.fold_spread_mm, limits.fold_spread_mm, "mm between answers of the folds",
                 "take more views; if it stays, the robot or the board's mount errs more than the covariance knows"),
        _at_most("sigma_mm", figures.sigma_mm, limits.sigma_mm, "mm expected error of the position",
                 "take more views where next_pose points"),
        _at_most("sigma_deg", figures.sigma_deg, limits.sigma_deg, "deg expected error of the rotation",
                 "take more views where next_pose points"),
    ]  # fmt: skip
    return tuple(gates)


def _at_least(name: str, value: float, limit: float, meaning: str, action: str) -> Gate:
    return _gate(name, value >= limit, value, limit, f"{value:.3g} {meaning}, at least {limit:.3g} wanted", action)


def _at_most(name: str, value: float, limit: float, meaning: str, action: str) -> Gate:
    if math.isnan(value):
        text = f"{meaning}: not known from so few views, at most {limit:.3g} wanted"
        return _gate(name, False, value, limit, text, "take more views")
    return _gate(name, value <= limit, value, limit, f"{value:.3g} {meaning}, at most {limit:.3g} wanted", action)


def _gate(name: str, passed: bool, value: float, limit: float, text: str, action: str) -> Gate:
    return Gate(name, bool(passed), float(value), float(limit), text if passed else f"{text}; {action}")
