"""Has the camera moved? The check with a board that stands fixed in the cell (without one: ``robot_drift``).

A reference is taken right after calibration; each later view of the same, untouched board is compared with it corner by
corner. What it cannot tell is whether the camera moved or the board; the robot's own check can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.board import MIN_CORNERS, Board, BoardView, board_pose
from calibration.camera import PinholeCamera
from calibration.camera_shift import PRIOR_SIGMA_6, DriftLimits, DriftReport, Shift, judge, shift_jacobian

Array = NDArray[np.float64]

MARKER_LIMITS = DriftLimits(pixels=0.25)
_CORNER_SIGMA_PX = 0.15
"""Noise of one corner in one view when a single view cannot show it."""
_CORNER_FLOOR_PX = 0.06
"""What averaging does not remove: the refinement's pull by the pixel grid, the same in every view of a pose."""
_COMMON_FLOOR_PX = 0.06
"""What all corners may share (rms): exposure, temperature of the lens."""


@dataclass(frozen=True)
class MarkerReference:
    """Where the corners of the fixed board were when the calibration was good.

    ``T_base_board`` [4, 4] follows from the calibration; ``ids_N``, ``corners_px_N2`` and ``sigma_px_N`` are means
    over the views and their uncertainty.
    """

    board: Board
    camera: PinholeCamera
    T_base_board: Array
    ids_N: NDArray[np.int32]
    corners_px_N2: Array
    sigma_px_N: Array


def make_marker_reference(views: Sequence[BoardView], board: Board, camera: PinholeCamera) -> MarkerReference:
    """Take the reference from a few views of the standing board, with the freshly calibrated camera.

    Raises:
        ValueError: no view, views of another image size, or the board moved between them.
    """
    if not views:
        raise ValueError("no view of the board; show the fixed board to the camera while the arm is out of the way")
    ids, mean, sigma = _averaged(views)
    if len(ids) < MIN_CORNERS:
        raise ValueError(f"only {len(ids)} corners were seen in every view; free the board's sight")
    if float(np.median(sigma)) > 0.5:
        raise ValueError(f"corners scatter by {np.median(sigma):.1f} px between views: board or camera is not at rest")
    T_camera_board, _ = board_pose(BoardView(ids, mean, views[0].width, views[0].height), board, camera)
    return MarkerReference(board, camera, camera.T_base_camera @ T_camera_board, ids, mean, sigma)


def check_marker(
    reference: MarkerReference, views: Sequence[BoardView], limits: DriftLimits = MARKER_LIMITS
) -> DriftReport:
    """Compare views of an episode with the reference.

    Returns:
        A report at the distance of the board; verdict ``unknown`` when too few corners are in view.
    """
    camera, board = reference.camera, reference.board
    for view in views:
        if (view.width, view.height) != (camera.width, camera.height):
            raise ValueError(
                f"the reference is of a {camera.width}x{camera.height} image, a view of {view.width}x{view.height}; "
                "take a reference at the resolution of the episodes"
            )
    ids, mean, sigma = _averaged(views) if views else (np.zeros(0, np.int32), np.zeros((0, 2)), np.zeros(0))
    common, now, then = np.intersect1d(ids, reference.ids_N, return_indices=True)
    points = board.corners_board_N3 @ reference.T_base_board[:3, :3].T + reference.T_base_board[:3, 3]
    if len(common) < MIN_CORNERS:
        nothing = Shift(np.zeros(6), np.diag(PRIOR_SIGMA_6**2), 0)
        return judge(nothing, camera, points, limits, "marker", "")
    displacement = mean[now] - reference.corners_px_N2[then]
    variance = sigma[now] ** 2 + reference.sigma_px_N[then] ** 2
    shift = _shift(shift_jacobian(camera, points[common]), displacement, variance)
    return judge(
        shift, camera, points, limits, "marker", "the camera (or the board) was moved: calibrate again, or put it back"
    )


def _shift(J_N26: Array, displacement_N2: Array, variance_N: Array) -> Shift:
    """Weighted least squares with the prior; corners that disagree with the others lose their weight (Cauchy)."""
    prior = np.diag(PRIOR_SIGMA_6**-2)
    delta = np.zeros(6)
    for _ in range(10):
        residual = displacement_N2 - J_N26 @ delta
        weight = 1.0 / variance_N / (1.0 + np.sum(residual**2, axis=1) / (9.0 * variance_N))
        information = np.einsum("n,nki,nkj->ij", weight, J_N26, J_N26) + prior
        delta = np.linalg.solve(information, np.einsum("n,nki,nk->i", weight, J_N26, displacement_N2))
    residual = displacement_N2 - J_N26 @ delta
    scale = max(1.0, float(np.sum(weight[:, None] * residual**2) / max(2 * len(residual) - 6, 1)))
    common = np.linalg.inv(6.0 * np.einsum("nki,nkj->ij", J_N26, J_N26) / len(J_N26) / _COMMON_FLOOR_PX**2 + prior)
    return Shift(delta, scale * np.linalg.inv(information) + common, len(residual))


def _averaged(views: Sequence[BoardView]) -> tuple[NDArray[np.int32], Array, Array]:
    """Corners seen in at least half of the views: ids, median position, standard deviation of it."""
    every = np.concatenate([view.ids_N for view in views])
    where = np.concatenate([view.corners_px_N2 for view in views])
    ids, counts = np.unique(every, return_counts=True)
    ids = ids[counts >= 0.5 * len(views)]
    mean, sigma = np.empty((len(ids), 2)), np.empty(len(ids))
    for i, corner in enumerate(ids):
        seen = where[every == corner]
        mean[i] = np.median(seen, axis=0)
        spread = float(np.sqrt(np.mean(np.var(seen, axis=0, ddof=1)))) if len(seen) > 3 else _CORNER_SIGMA_PX
        sigma[i] = np.hypot(max(spread, 0.02) / np.sqrt(len(seen)), _CORNER_FLOOR_PX)
    return ids.astype(np.int32), mean, sigma
