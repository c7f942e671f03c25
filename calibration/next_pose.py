"""Which view to take next: the candidate that makes the camera's pose most certain.

The expected covariance of X after a view follows from the Jacobians alone, before anything is measured: the view's
information about X and Y, its own robot error marginalised, is added to that of the views taken so far. The candidate
with the smallest expected error wins (A-optimal, position and rotation weighed by a lever arm).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.camera import PinholeCamera
from calibration.hand_eye_chain import State, chain
from calibration.hand_eye_residuals import CornerModel
from calibration.hand_eye_types import HandEyeSettings, Mode
from calibration.refine import view_information

Array = NDArray[np.float64]

LEVER_ARM_M = 0.4
"""One radian of rotation error counts as this many metres: about the reach of a workspace around its centre."""
GUESS_SIGMA_M = 0.1
GUESS_SIGMA_RAD = np.radians(15.0)
"""How wrong X and Y may be before the first view; keeps the covariance finite until the views determine it."""
MINIMUM_VISIBLE_FRACTION = 0.6
"""Candidates that show less of the board are passed over as long as others show more."""


@dataclass(frozen=True)
class NextPose:
    """The choice: ``index`` into the candidates, or None when none of them shows the board.

    ``sigma_mm``, ``sigma_deg`` are the expected errors of X after that view; ``sigma_mm_N`` those of every candidate
    (NaN where the board is not seen) and ``visible_fraction_N`` the share of corners each shows.
    """

    index: int | None
    sigma_mm: float
    sigma_deg: float
    sigma_mm_N: Array
    visible_fraction_N: Array


def visible_corners(
    T_base_tool_N44: ArrayLike,
    X: Array,
    Y: Array,
    corners_board_M3: ArrayLike,
    camera: PinholeCamera,
    mode: Mode,
    *,
    margin_px: float = 12.0,
    max_tilt_deg: float = 60.0,
    min_spacing_px: float = 7.0,
) -> NDArray[np.bool_]:
    """Which corners [N, M] a camera sees at each tool pose [N, 4, 4].

    Seen means: in front of the camera, at least ``margin_px`` inside the image, the printed side turned to the camera
    by no more than ``max_tilt_deg`` off the line of sight, and not so far away that neighbouring corners come closer
    than ``min_spacing_px``.
    """
    T, corners = _poses(T_base_tool_N44), np.asarray(corners_board_M3, dtype=np.float64)
    board = chain(T, State(X, Y, np.zeros((len(T), 6))), mode)
    points = corners @ np.swapaxes(board[:, :3, :3], 1, 2) + board[:, None, :3, 3]
    pixels, depth = _own_frame(camera).project(points.reshape(-1, 3))
    pixels, depth = pixels.reshape(len(T), -1, 2), depth.reshape(len(T), -1)
    with np.errstate(invalid="ignore"):
        inside = (depth > 0.05) & (pixels >= margin_px).all(axis=-1)
        inside &= (pixels[..., 0] <= camera.width - 1 - margin_px) & (pixels[..., 1] <= camera.height - 1 - margin_px)
    sight = points.mean(axis=1)
    sight /= np.linalg.norm(sight, axis=1, keepdims=True)
    cosine = (sight * board[:, :3, 2]).sum(axis=1)  # the board's z points away from the viewer
    spacing_m = np.sort(np.linalg.norm(corners[1:] - corners[:-1], axis=1))[0]
    spacing = camera.fx * spacing_m * np.maximum(cosine, 0.0) / np.maximum(points[:, :, 2].mean(axis=1), 0.05)
    facing = (cosine > np.cos(np.radians(max_tilt_deg))) & (spacing >= min_spacing_px)
    seen: NDArray[np.bool_] = inside & facing[:, None]
    return seen


def expected_covariance(
    T_base_tool_so_far_N44: ArrayLike,
    X: Array,
    Y: Array,
    T_base_tool_candidate: Array,
    corners_board_M3: ArrayLike,
    camera: PinholeCamera,
    mode: Mode,
    settings: HandEyeSettings | None = None,
) -> Array:
    """Covariance [6, 6] of X to expect from the views so far and one more.

    Corners that fall outside the image count for nothing. X and Y need only be roughly right.
    """
    taken = _information(_poses(T_base_tool_so_far_N44), X, Y, corners_board_M3, camera, mode, settings, 0.0)[0]
    more = _information(_poses(T_base_tool_candidate), X, Y, corners_board_M3, camera, mode, settings, 0.0)[0]
    covariance: Array = np.linalg.inv(_guess() + taken.sum(axis=0) + more.sum(axis=0))[:6, :6]
    return covariance


def choose_next(
    candidates_N44: ArrayLike,
    T_base_tool_so_far_N44: ArrayLike,
    X: Array,
    Y: Array,
    corners_board_M3: ArrayLike,
    camera: PinholeCamera,
    mode: Mode,
    settings: HandEyeSettings | None = None,
    *,
    margin_px: float = 12.0,
) -> NextPose:
    """The candidate tool pose [N, 4, 4] that leaves the smallest expected error of X.

    Args:
        T_base_tool_so_far_N44: tool poses of the views taken, [N, 4, 4]; may be empty.
        X, Y: newest estimate, or the nominal placement before there is one.
        margin_px: distance of the board from the image's edge; take about 60 while X and Y are nominal.
    """
    candidates = _poses(candidates_N44)
    taken = _information(_poses(T_base_tool_so_far_N44), X, Y, corners_board_M3, camera, mode, settings, 0.0)[0]
    gains, visible = _information(candidates, X, Y, corners_board_M3, camera, mode, settings, margin_px)
    sigma_mm, cost = np.full(len(candidates), np.nan), np.full(len(candidates), np.inf)
    sigma_deg = sigma_mm.copy()
    seen = np.flatnonzero(visible > 0.0)
    if len(seen) == 0:
        return NextPose(None, float("nan"), float("nan"), sigma_mm, visible)
    covariances = np.linalg.inv(_guess() + taken.sum(axis=0) + gains[seen])
    position = np.trace(covariances[:, :3, :3], axis1=1, axis2=2)
    rotation = np.trace(covariances[:, 3:6, 3:6], axis1=1, axis2=2)
    sigma_mm[seen], sigma_deg[seen] = 1e3 * np.sqrt(position), np.degrees(np.sqrt(rotation))
    cost[seen] = position + LEVER_ARM_M**2 * rotation
    enough = visible >= MINIMUM_VISIBLE_FRACTION
    index = int(np.argmin(np.where(enough, cost, np.inf) if enough.any() else cost))
    return NextPose(index, float(sigma_mm[index]), float(sigma_deg[index]), sigma_mm, visible)


def _information(
    T_N44: Array,
    X: Array,
    Y: Array,
    corners_board_M3: ArrayLike,
    camera: PinholeCamera,
    mode: Mode,
    settings: HandEyeSettings | None,
    margin_px: float,
) -> tuple[Array, Array]:
    """Information of each view about X and Y [N, 12, 12] and the share of corners it shows [N]."""
    settings = settings or HandEyeSettings()
    if len(T_N44) == 0:
        return np.zeros((0, 12, 12)), np.zeros(0)
    corners = np.asarray(corners_board_M3, dtype=np.float64)
    # Views already taken were seen, whatever a rough X says: no margin, and tilt or spacing do not matter.
    loose = {} if margin_px > 0.0 else {"max_tilt_deg": 85.0, "min_spacing_px": 0.0}
    mask = visible_corners(T_N44, X, Y, corners, camera, mode, margin_px=margin_px, **loose)
    shape = (len(T_N44), len(corners))
    sigma_6 = np.repeat([settings.robot_sigma_m, settings.robot_sigma_rad], 3)
    model = CornerModel(
        T_base_tool_V44=T_N44,
        points_VN3=np.broadcast_to(corners, (*shape, 3)),
        pixels_VN2=np.zeros((*shape, 2)),
        mask_VN=mask,
        camera=camera,
        mode=mode,
        sigmas=(settings.corner_sigma_px,),
        robot_sigma_6=sigma_6,
        intrinsics_sigma_4=np.ones(4),
    )
    return view_information(model.linearise(model.start(X, Y)), sigma_6), mask.mean(axis=1)


def _guess() -> Array:
    """Information of the first guess of X and Y [12, 12]."""
    sigmas = np.repeat([GUESS_SIGMA_M, GUESS_SIGMA_RAD], 3)
    return np.diag(np.tile(sigmas**-2.0, 2))


def _own_frame(camera: PinholeCamera) -> PinholeCamera:
    return PinholeCamera(
        camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, distortion=camera.distortion
    )


def _poses(T: ArrayLike) -> Array:
    return np.asarray(T, dtype=np.float64).reshape(-1, 4, 4)
