"""Sets of samples that no solver can save: refused with the reason and the next action, before or after the fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.hand_eye_types import DegenerateSamples, HandEyeSample
from calibration.poses import transform

Array = NDArray[np.float64]

MINIMUM_VIEWS = 3
MINIMUM_ROTATION_DEG = 3.0
"""Spread of tool rotations below which the tool only moved in translation; also that of the second axis."""
SCALE_REFUSED = 0.012
"""A board this much larger or smaller than stated puts a camera at 0.8 m about 10 mm off."""


def rotation_spreads_deg(T_base_tool_N44: Array) -> Array:
    """Spread [3] of tool rotations about three perpendicular axes, largest first: RMS over all pairs of views."""
    pairs = list(combinations(range(len(T_base_tool_N44)), 2))
    R = T_base_tool_N44[:, :3, :3]
    relative = np.array([R[i].T @ R[j] for i, j in pairs])
    vectors = Rotation.from_matrix(relative).as_rotvec()
    spreads = np.sqrt(np.linalg.eigvalsh(vectors.T @ vectors / len(vectors)).clip(0.0)[::-1])
    return np.asarray(np.degrees(spreads))


def check_motion(T_base_tool_N44: Array) -> None:
    """Refuse too few views, pure translation and rotations about parallel axes.

    Raises:
        DegenerateSamples: with the reason.
    """
    count = len(T_base_tool_N44)
    if count < MINIMUM_VIEWS:
        raise DegenerateSamples(
            [f"{count} view(s), at least {MINIMUM_VIEWS} are needed and 12-15 are good; take more views"]
        )
    first, second, _ = rotation_spreads_deg(T_base_tool_N44)
    if first < MINIMUM_ROTATION_DEG:
        raise DegenerateSamples(
            [
                f"pure translation: the tool turned by {first:.1f} deg (RMS between views), {MINIMUM_ROTATION_DEG:.0f} "
                "or more are needed and 20 are good; tilt the tool between views"
            ]
        )
    if second < MINIMUM_ROTATION_DEG:
        raise DegenerateSamples(
            [
                f"parallel rotation axes: the tool turned by {first:.1f} deg about one axis and {second:.1f} deg about "
                "any other, which leaves the position along that axis open; tilt the tool about a second axis"
            ]
        )


def check_samples(samples: Sequence[HandEyeSample], corner_count: int, minimum_corners: int) -> None:
    """Refuse malformed samples, naming the one.

    Raises:
        ValueError: wrong shapes, values that are not finite, ids the board does not have, too few corners.
    """
    for index, sample in enumerate(samples):
        ids, pixels, T = np.asarray(sample.ids_N), np.asarray(sample.corners_px_N2), np.asarray(sample.T_base_tool)
        if T.shape != (4, 4) or pixels.shape != (len(ids), 2):
            raise ValueError(
                f"sample {index}: T_base_tool {T.shape} must be (4, 4) and corners {pixels.shape} ({len(ids)}, 2)"
            )
        if not (np.isfinite(T).all() and np.isfinite(pixels).all()):
            raise ValueError(f"sample {index} contains values that are not finite; remove it")
        if len(ids) < minimum_corners:
            raise ValueError(f"sample {index} has {len(ids)} corners, at least {minimum_corners} are needed; remove it")
        if len(set(ids.tolist())) != len(ids) or ids.min() < 0 or ids.max() >= corner_count:
            raise ValueError(
                f"sample {index}: corner ids must be distinct and within 0..{corner_count - 1}: wrong board?"
            )


def check_printed_side(samples: Sequence[HandEyeSample], corners_board_N3: Array) -> None:
    """Refuse views in which the corner numbering runs the other way round, as in a mirror.

    A printed board is seen from one side only, so board and image coordinates always have the same handedness.

    Raises:
        DegenerateSamples: naming the views.
    """
    mirrored = []
    for index, sample in enumerate(samples):
        plane = corners_board_N3[sample.ids_N, :2]
        design = np.column_stack([plane - plane.mean(axis=0), np.ones(len(plane))])
        affine, *_ = np.linalg.lstsq(design, sample.corners_px_N2, rcond=None)
        if np.linalg.det(affine[:2]) < 0.0:
            mirrored.append(index)
    if mirrored:
        raise DegenerateSamples(
            [
                f"flipped board: corners are numbered mirror-wise in view(s) {_names(mirrored)}; check that the image "
                "is not mirrored and that the corner order is the board's (x right, y down on the printed side)"
            ]
        )


def board_poses(samples: Sequence[HandEyeSample], corners_board_N3: Array, camera: PinholeCamera) -> Array:
    """``T_camera_board`` [N, 4, 4] of every view by itself (planar PnP, the better of its two answers)."""
    poses = []
    for index, sample in enumerate(samples):
        points = corners_board_N3[sample.ids_N].reshape(-1, 1, 3)
        pixels = sample.corners_px_N2.reshape(-1, 1, 2).astype(np.float64)
        count, rotations, translations, errors = cv2.solvePnPGeneric(
            points, pixels, camera.K, camera.distortion, flags=cv2.SOLVEPNP_IPPE
        )
        if count == 0:
            raise ValueError(f"sample {index}: no board pose fits its corners (on one line?); remove it")
        best = int(np.argmin(np.ravel(errors)))
        r, t = cv2.solvePnPRefineLM(points, pixels, camera.K, camera.distortion, rotations[best], translations[best])
        poses.append(transform(np.ravel(t), Rotation.from_rotvec(np.ravel(r))))
    return np.array(poses)


def check_numbering(T_base_tool_N44: Array, T_camera_board_N44: Array) -> None:
    """Refuse sets in which some views number the corners from the opposite end of the board.

    The board turned between two views by the same angle as the tool, in every frame. Where that fails but holds after
    half a turn about the board's normal, one of the two views is numbered the other way round. A signed vote over all
    pairs (leading eigenvector) finds the smaller camp. All views turned alike do no harm: only Y differs.

    Raises:
        DegenerateSamples: naming the views.
    """
    n = len(T_base_tool_N44)
    half_turn = np.diag([-1.0, -1.0, 1.0])
    votes = np.zeros((n, n))
    R_T, R_C = T_base_tool_N44[:, :3, :3], T_camera_board_N44[:, :3, :3]
    for i, j in combinations(range(n), 2):
        turned = _angle(R_T[i].T @ R_T[j])
        plain = abs(_angle(R_C[i] @ R_C[j].T) - turned)
        flipped = abs(_angle(R_C[i] @ half_turn @ R_C[j].T) - turned)
        votes[i, j] = votes[j, i] = flipped - plain
    camps = np.sign(np.linalg.eigh(votes)[1][:, -1])
    minority = [int(v) for v in np.flatnonzero(camps == (-1.0 if (camps > 0).sum() * 2 >= n else 1.0))]
    # Only where the flip explains what the views show by far better than the plain reading.
    guilty = [v for v in minority if votes[v, [u for u in range(n) if u not in minority]].mean() < -math.radians(10.0)]
    if guilty:
        raise DegenerateSamples(
            [
                f"flipped board: view(s) {_names(guilty)} number the corners from the opposite end (half a turn "
                "off the others); use a ChArUco board, or a chessboard with one odd and one even side"
            ]
        )


def check_board_size(scale: float, sigma: float, square_note: str = "") -> None:
    """Refuse a board whose stated size contradicts the robot's motion, which is metric.

    Args:
        scale, sigma: size that fits best relative to the size stated, and its standard deviation.

    Raises:
        DegenerateSamples: with the size that fits.
    """
    if abs(scale - 1.0) > max(SCALE_REFUSED, 4.0 * sigma):
        raise DegenerateSamples(
            [
                f"wrong board size: the robot's motion fits a board {scale:.3f} +- {sigma:.3f} times as large as "
                f"stated{square_note}; measure the printed squares and correct the board's square size"
            ]
        )


def _angle(R: Array) -> float:
    return float(math.acos(min(1.0, max(-1.0, (np.trace(R) - 1.0) / 2.0))))


def _names(views: Sequence[int]) -> str:
    return ", ".join(str(v) for v in views)
