#!/usr/bin/env python3
"""Hand-eye calibration on random cells: error beside every closed form, honesty of the covariance, rank correlations.

Three tables, on the same simulated data for every method:

1. Cells with 0.3 px corner noise and 0.2 mm / 0.05 deg robot noise per axis, views chosen by ``next_pose``.
2. NEES of the reported covariance over those cells, with its 95 % band.
3. Cells of mixed quality (5-15 random views, 8-35 deg tilt, 0.5-4 times the noise that the solver is told): how well
   each quality figure ranks the cells by their true error (Spearman).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import chi2, spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from calibration.hand_eye import (
    DegenerateSamples,
    HandEyeResult,
    HandEyeSample,
    HandEyeSettings,
    solve,
    solve_poses,
)
from calibration.hand_eye_checks import board_poses
from calibration.hand_eye_types import MODES, Mode
from calibration.poses import inverse, transform
from calibration.synthetic_cell import SyntheticCell
from calibration.tangent import local

SETTINGS = HandEyeSettings()
OPENCV_AX_XB = ("TSAI", "PARK", "HORAUD", "ANDREFF", "DANIILIDIS")
OPENCV_AX_YB = ("SHAH", "LI")


def opencv_closed_forms(samples: list[HandEyeSample], T_camera_board: np.ndarray, mode: Mode) -> dict[str, np.ndarray]:
    """X by each of OpenCV's closed forms."""
    T = np.array([sample.T_base_tool for sample in samples])
    gripper = np.array([inverse(T_i) for T_i in T]) if mode == "eye_to_hand" else T
    answers = {}
    for name in OPENCV_AX_XB:
        R, t = cv2.calibrateHandEye(
            gripper[:, :3, :3],
            gripper[:, :3, 3],
            T_camera_board[:, :3, :3],
            T_camera_board[:, :3, 3],
            method=getattr(cv2, f"CALIB_HAND_EYE_{name}"),
        )
        answers[f"OpenCV {name.title()}"] = _rigid(R, t)
    back = np.array([inverse(T_i) for T_i in gripper])
    for name in OPENCV_AX_YB:
        *_, R, t = cv2.calibrateRobotWorldHandEye(
            T_camera_board[:, :3, :3],
            T_camera_board[:, :3, 3],
            back[:, :3, :3],
            back[:, :3, 3],
            method=getattr(cv2, f"CALIB_ROBOT_WORLD_HAND_EYE_{name}"),
        )
        answers[f"OpenCV {name.title()}"] = inverse(_rigid(R, t))
    return answers


def accuracy(mode: Mode, cells: int, views: int, first_seed: int) -> None:
    """Tables 1 and 2."""
    errors: dict[str, list[tuple[float, float]]] = defaultdict(list)
    nees, seconds, held_out, scales = [], [], [], []
    for seed in range(cells):
        rng = np.random.default_rng(first_seed + seed)
        cell = SyntheticCell.draw(mode, rng)
        samples = cell.views(views, SETTINGS, rng)
        start = time.perf_counter()
        result = solve(samples, cell.corners_N3, cell.camera, mode, SETTINGS)
        seconds.append(time.perf_counter() - start)
        T_camera_board = board_poses(samples, cell.corners_N3, cell.camera)
        T_base_tool = np.array([sample.T_base_tool for sample in samples])
        answers = {"joint, corners": result.X, "joint, poses only": solve_poses(T_base_tool, T_camera_board, mode).X}
        answers |= {f"ours {name}": X for name, X in result.closed_forms.items() if X is not None}
        answers |= opencv_closed_forms(samples, T_camera_board, mode)
        for name, X in answers.items():
            delta = local(X, cell.X)
            errors[name].append((1e3 * np.linalg.norm(delta[:3]), np.degrees(np.linalg.norm(delta[3:]))))
        delta = local(result.X, cell.X)
        nees.append(delta @ np.linalg.solve(result.covariance_X_66, delta))
        held_out.append(result.held_out)
        scales.append(result.accepted)
    print(f"\n{mode}: {cells} cells, {views} views chosen by next_pose")
    print("| method | median mm | p95 mm | median deg | p95 deg |\n|---|---|---|---|---|")
    for name, pairs in errors.items():
        mm, deg = np.array(pairs).T
        row = (np.median(mm), np.percentile(mm, 95), np.median(deg), np.percentile(deg, 95))
        print(f"| {name} | {row[0]:.2f} | {row[1]:.2f} | {row[2]:.3f} | {row[3]:.3f} |")
    low, high = chi2.ppf([0.025, 0.975], 6 * cells) / cells
    verdict = "inside" if low <= np.mean(nees) <= high else "OUTSIDE"
    inside = np.mean(np.array(nees) <= chi2.ppf(0.95, 6))
    print(f"\nmean NEES {np.mean(nees):.2f}, 95 % band {low:.2f}..{high:.2f}: {verdict}")
    print(f"{inside:.0%} of the cells below the 95 % point of one cell")
    figures = [np.median([getattr(h, n) for h in held_out]) for n in ("pixels_rms", "millimetres_rms", "degrees_rms")]
    print("median held-out {:.2f} px, {:.2f} mm, {:.2f} deg".format(*figures), end="; ")
    print(f"{np.mean(scales):.0%} of the cells passed every gate; solve took {np.median(seconds):.2f} s (median)")


def ranking(mode: Mode, cells: int, first_seed: int) -> None:
    """Table 3."""
    truth: list[float] = []
    figures: dict[str, list[float]] = defaultdict(list)
    accepted: list[bool] = []
    nees: list[float] = []
    refused: dict[str, int] = defaultdict(int)
    for seed in range(cells):
        rng = np.random.default_rng(first_seed + 4000 + seed)
        cell = SyntheticCell.draw(mode, rng, tilt_deg=float(rng.uniform(8.0, 35.0)))
        corner, robot = 0.3 * 2.0 ** rng.uniform(-1, 2), 2.0 ** rng.uniform(-1, 2)
        noise = HandEyeSettings(
            corner_sigma_px=corner,
            robot_sigma_m=SETTINGS.robot_sigma_m * robot,
            robot_sigma_rad=SETTINGS.robot_sigma_rad * robot,
        )
        seen = (view for T in cell.candidates_M44 if (view := cell.view(T, noise, rng)) is not None)
        samples = [view for _, view in zip(range(int(rng.integers(5, 16))), seen, strict=False)]
        try:
            result = solve(samples, cell.corners_N3, cell.camera, mode, SETTINGS)
        except DegenerateSamples as error:
            refused[error.reasons[0].split(":")[0]] += 1
            continue
        truth.append(1e3 * float(np.linalg.norm(local(result.X, cell.X)[:3])))
        accepted.append(result.accepted)
        delta = local(result.X, cell.X)
        nees.append(delta @ np.linalg.solve(result.covariance_X_66, delta))
        for name, value in quality(result).items():
            figures[name].append(value)
    print(f"\n{mode}: {cells} cells of mixed quality, {sum(refused.values())} refused {dict(refused)}")
    print("| figure | Spearman with the true error (mm) |\n|---|---|")
    for name, values in figures.items():
        known = np.isfinite(values)
        print(f"| {name} | {spearmanr(np.array(values)[known], np.array(truth)[known]).statistic:+.2f} |")
    error, good = np.array(truth), np.array(accepted)
    print(f"\nNEES mean {np.mean(nees):.2f}, median {np.median(nees):.2f} (expected 6 and {chi2.ppf(0.5, 6):.2f})")
    print(f"accepted {good.sum()} with errors up to {max(error[good], default=0):.2f} mm, ", end="")
    print(f"median {np.median(error[good]):.2f}; failed gates {(~good).sum()}, median {np.median(error[~good]):.2f} mm")


def quality(result: HandEyeResult) -> dict[str, float]:
    """The figures that could rank calibrations."""
    return {
        "training reprojection (px)": result.training_rms_px,
        "held-out (px)": result.held_out.pixels_rms,
        "held-out (mm)": result.held_out.millimetres_rms,
        "held-out (deg)": result.held_out.degrees_rms,
        "spread of the folds' answers (mm)": result.fold_spread_mm,
        "sigma_mm: covariance at the noise found": result.sigma_mm,
        "geometric mean of the last two": float(np.sqrt(result.fold_spread_mm * result.sigma_mm)),
    }


def _rigid(R: np.ndarray, t: np.ndarray) -> np.ndarray:
    T = transform(np.ravel(t))
    T[:3, :3] = R
    return T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=40, help="cells per mode for tables 1 and 2 (default 40)")
    parser.add_argument("--views", type=int, default=15, help="views per cell (default 15)")
    parser.add_argument("--mode", choices=MODES, help="one mode only (default both)")
    parser.add_argument("--mixed", type=int, default=120, help="cells per mode for table 3 (default 120)")
    parser.add_argument("--seed", type=int, default=1000, help="seed of the first cell (default 1000)")
    options = parser.parse_args()
    for mode in [options.mode] if options.mode else MODES:
        accuracy(mode, options.cells, options.views, options.seed)
        ranking(mode, options.mixed, options.seed)


if __name__ == "__main__":
    main()
