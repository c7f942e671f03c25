"""The calibration board in an image: its corners, its pose, and why it was not found.

Corners carry the ids of ``Board.corners_board_N3``. Pixel (0, 0) is the centre of the top-left pixel.

A ChArUco board is found by its markers, small ones too (1.5 pixels a module): the markers give the plane, the plane
says where every corner must be, and each corner that really is a corner there is refined on the image itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.board_pattern import DEFAULT_BOARD, Board, charuco_of, dictionary
from calibration.camera import PinholeCamera

__all__ = ["DEFAULT_BOARD", "MIN_CORNERS", "Board", "BoardView", "board_pose", "detect", "explain_absence", "to_grey"]

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Ids = NDArray[np.int32]

MIN_CORNERS = 6
"""A view with fewer corners says too little about tilt to be worth keeping."""
_MIN_MARKERS = 3
"""Fewer markers on one plane may be an accident of the scenery."""
_LARGE_IMAGE_PX = 1200
"""Images from this width on are searched as they are; smaller ones enlarged, for markers need 3 pixels a module."""
_REFINE_UPSCALE = 2
"""Corners are refined in an image enlarged this much, so that a small window still holds enough gradients."""
_OTHER_DICTIONARIES = (
    *(f"DICT_{bits}X{bits}_{size}" for bits in (4, 5, 6, 7) for size in (100, 1000)),
    "DICT_ARUCO_ORIGINAL",
    "DICT_APRILTAG_36h11",
)


@dataclass(frozen=True)
class BoardView:
    """Corners found in one image of width x height pixels: ids int32 [N] and positions float64 [N, 2]."""

    ids_N: Ids
    corners_px_N2: Array
    width: int
    height: int


def detect(image: Image, board: Board) -> BoardView | None:
    """Find the board in an image [H, W] or [H, W, 3] (RGB or BGR) uint8.

    Returns:
        Corners refined below a pixel; None when fewer than six can be trusted (``explain_absence`` says why).

    Raises:
        ValueError: the image has another shape or type.
    """
    grey = to_grey(image)
    found = _find_chessboard(grey, board) if board.kind == "chessboard" else _find_charuco(grey, board)
    if found is None:
        return None
    ids, corners = found
    height, width = grey.shape
    return BoardView(ids, corners, width, height) if len(ids) >= MIN_CORNERS else None


def board_pose(view: BoardView, board: Board, camera: PinholeCamera) -> tuple[Array, float]:
    """Pose ``T_camera_board`` [4, 4] in the optical frame and the rms reprojection error in pixels.

    The camera's own pose plays no part. A plane has two poses of similar error; the better one is returned.

    Raises:
        ValueError: view and camera differ in image size, or no pose explains the corners.
    """
    if (view.width, view.height) != (camera.width, camera.height):
        raise ValueError(
            f"the view is {view.width}x{view.height}, the camera {camera.width}x{camera.height}; use camera.resized"
        )
    points = board.corners_board_N3[view.ids_N]
    _, rotations, translations, errors = cv2.solvePnPGeneric(
        points, view.corners_px_N2, camera.K, camera.distortion, flags=cv2.SOLVEPNP_IPPE
    )
    if not rotations:
        raise ValueError(f"no pose of {board.name} explains its {len(view.ids_N)} corners; are they on one line?")
    best = int(np.argmin(np.ravel(errors)))
    rvec, tvec = cv2.solvePnPRefineLM(
        points, view.corners_px_N2, camera.K, camera.distortion, rotations[best], translations[best]
    )
    T_camera_board = np.eye(4)
    T_camera_board[:3, :3] = cv2.Rodrigues(rvec)[0]
    T_camera_board[:3, 3] = tvec.ravel()
    projected, _ = cv2.projectPoints(points, rvec, tvec, camera.K, camera.distortion)
    residuals = projected.reshape(-1, 2) - view.corners_px_N2
    return T_camera_board, float(np.sqrt(np.mean(np.sum(residuals**2, axis=1))))


def explain_absence(image: Image, board: Board) -> str:
    """Why ``detect`` found too little of the board in this image, and what to do about it."""
    grey = to_grey(image)
    if (spread := float(np.percentile(grey, 99)) - float(np.percentile(grey, 1))) < 25.0:
        return f"the image has almost no contrast (grey values span {spread:.0f}); check exposure, light and lens cap"
    if board.kind == "chessboard":
        return f"no complete {board.name} in view; every inner corner must be visible, sharp and free of glare"
    seen = _markers(grey, board.dictionary)
    if len(seen) < _MIN_MARKERS:
        return _explain_foreign(grey, board)
    on_board = board.columns * board.rows // 2
    if max(seen) >= on_board:
        return (
            f"marker id {max(seen)} is in view but a {board.columns} x {board.rows} board ends at {on_board - 1}: "
            "the board in view is larger; correct the board settings or show the right board"
        )
    side_px = float(np.median([cv2.arcLength(quad, True) / 4.0 for quad in seen.values()]))
    if side_px < 1.5 * (dictionary(board.dictionary).markerSize + 2):
        return f"the markers are only {side_px:.0f} pixels wide: bring the board closer or raise the resolution"
    return (
        f"{len(seen)} of {on_board} markers found, but under {MIN_CORNERS} corners where {board.name} would have them: "
        "show more of the board; if all of it is in view, its layout is another (count columns and rows; boards "
        "printed by OpenCV before 4.6 need legacy_pattern: true)"
    )


def to_grey(image: Image) -> Image:
    """Grey image [H, W] uint8 of a grey or three-channel one (channel order makes no difference to corners).

    Raises:
        ValueError: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"an image is uint8 [H, W] or [H, W, 3], got {image.dtype} {image.shape}")
    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _explain_foreign(grey: Image, board: Board) -> str:
    for name in _OTHER_DICTIONARIES:
        if name != board.dictionary and len(_markers(grey, name, error_correction=0.3)) >= _MIN_MARKERS:
            return (
                f"the board in view carries {name} markers, {board.dictionary} was asked for; correct the board "
                "settings or show the right board"
            )
    smooth = cv2.GaussianBlur(grey.astype(np.float64), (0, 0), 1.5)  # noise is no detail
    if float(cv2.Laplacian(smooth, cv2.CV_64F).std()) < 0.03 * float(smooth.std()):
        return "the image is blurred; wait until the arm stands still, and check the focus and the exposure time"
    return "no board in view; bring it into the image, closer, and free of glare"


# --- ChArUco ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _detector(name: str, error_correction: float) -> Any:
    settings = cv2.aruco.DetectorParameters()
    # Small markers: correct every bit the dictionary can; a wrong id does not survive the fit of the plane.
    settings.errorCorrectionRate = error_correction
    settings.perspectiveRemovePixelPerCell = 8
    settings.perspectiveRemoveIgnoredMarginPerCell = 0.3
    return cv2.aruco.ArucoDetector(dictionary(name), settings)


def _markers(grey: Image, name: str, error_correction: float = 1.0) -> dict[int, NDArray[np.float32]]:
    """Corners [4, 2] in pixels of every marker of a dictionary in the image, by id."""
    height, width = grey.shape
    seen: dict[int, NDArray[np.float32]] = {}
    for scale in (1,) if max(grey.shape) >= _LARGE_IMAGE_PX else (2, 4):
        large = cv2.resize(grey, (scale * width, scale * height), interpolation=cv2.INTER_CUBIC) if scale > 1 else grey
        quads, ids, _ = _detector(name, error_correction).detectMarkers(large)
        if ids is not None and len(ids) > len(seen):
            seen = {
                int(i): ((quad.reshape(4, 2) + 0.5) / scale - 0.5).astype(np.float32)
                for i, quad in zip(ids.ravel(), quads, strict=True)
            }
        if len(seen) >= 12:
            break
    return seen


def _find_charuco(grey: Image, board: Board) -> tuple[Ids, Array] | None:
    seen = _markers(grey, board.dictionary)
    known = dict(zip(charuco_of(board).getIds().ravel().tolist(), charuco_of(board).getObjPoints(), strict=True))
    ids = [i for i in seen if i in known]
    if len(ids) < _MIN_MARKERS:
        return None
    points = np.concatenate([known[i][:, :2] for i in ids]).astype(np.float64)
    pixels = np.concatenate([seen[i] for i in ids]).astype(np.float64)
    side_px = float(np.median([cv2.arcLength(seen[i], True) / 4.0 for i in ids])) * board.square_m / board.marker_m
    H, inliers = cv2.findHomography(points, pixels, cv2.RANSAC, 0.15 * side_px)
    if H is None or inliers.sum() < 4 * _MIN_MARKERS:
        return None
    predicted = _apply(H, board.corners_board_N3[:, :2])
    height, width = grey.shape
    inside = np.all((predicted > 4.0) & (predicted < np.array([width, height]) - 5.0), axis=1)
    every = np.flatnonzero(inside).astype(np.int32)
    if len(every) < MIN_CORNERS:
        return None
    refined = _refined(grey, predicted[every], _square_px(H, every, board), board)
    kept = np.linalg.norm(refined - predicted[every], axis=1) < 0.2 * side_px
    kept &= _are_corners(grey, H, refined, every, board)
    return _without_strays(every[kept], refined[kept], board)


def _are_corners(grey: Image, H: NDArray[Any], corners_px_N2: Array, ids_N: Ids, board: Board) -> NDArray[np.bool_]:
    """Whether dark and bright squares really meet at each corner: not where something covers the board."""
    # Close enough to the corner to stay out of the markers, on both diagonals.
    near = 0.35 * (board.square_m - board.marker_m)
    here = board.corners_board_N3[ids_N, :2]
    offsets = np.array([[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]]) * near
    shifts = np.stack([_apply(H, here + offset) - _apply(H, here) for offset in offsets])
    at = (corners_px_N2[None] + shifts).astype(np.float32)
    values = cv2.remap(grey, at[..., 0], at[..., 1], cv2.INTER_LINEAR).astype(np.float64)
    column, row = ids_N % (board.columns - 1), ids_N // (board.columns - 1)
    sign = np.where((column + row) % 2 == 0, 1.0, -1.0)
    contrast = sign * (values[2:].sum(axis=0) - values[:2].sum(axis=0)) / 2.0
    if np.median(contrast) < 0.0:  # a legacy pattern starts with a bright square
        contrast, values = -contrast, values[[2, 3, 0, 1]]
    unequal = np.maximum(np.abs(values[0] - values[1]), np.abs(values[2] - values[3]))
    return np.asarray((contrast > 0.35 * np.median(contrast)) & (unequal < 0.8 * contrast))


# --- chessboard ------------------------------------------------------------------------------------------------------


def _find_chessboard(grey: Image, board: Board) -> tuple[Ids, Array] | None:
    columns, rows = board.columns - 1, board.rows - 1
    found, corners = cv2.findChessboardCornersSB(
        grey, (columns, rows), flags=cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_EXHAUSTIVE
    )
    if not found:
        return None
    grid = corners.reshape(rows, columns, 2).astype(np.float64)
    # Seen from the printed side the order right, then down, turns clockwise in the image.
    across, down = grid[0, -1] - grid[0, 0], grid[-1, 0] - grid[0, 0]
    if across[0] * down[1] - across[1] * down[0] < 0.0:
        grid = grid[:, ::-1]
    if _starts_bright(grey, grid.reshape(-1, 2), board):
        grid = grid[::-1, ::-1]
    ids = np.arange(board.corner_count, dtype=np.int32)
    flat = grid.reshape(-1, 2)
    H, _ = cv2.findHomography(board.corners_board_N3[:, :2], flat)
    return _without_strays(ids, _refined(grey, flat, _square_px(H, ids, board), board), board)


def _starts_bright(grey: Image, corners_px_N2: Array, board: Board) -> bool:
    """Whether the squares on the diagonal from the top left are the bright ones, as after half a turn."""
    H, _ = cv2.findHomography(board.corners_board_N3[:, :2], corners_px_N2)
    column, row = np.meshgrid(np.arange(1, board.columns - 1), np.arange(1, board.rows - 1))
    centres = (np.stack([column.ravel(), row.ravel()], axis=1) + 0.5) * board.square_m
    x, y = np.rint(_apply(H, centres)).astype(int).T
    values = grey[y, x].astype(np.float64)
    even = (column + row).ravel() % 2 == 0
    return bool(values[even].mean() > values[~even].mean())


# --- both ------------------------------------------------------------------------------------------------------------


def _refined(grey: Image, corners_px_N2: Array, square_px: float, board: Board) -> Array:
    """Corners moved to the saddle of the image, in a window that stays clear of other corners and of the markers."""
    clear = 0.45 if board.kind == "chessboard" else 0.5 * (1.0 - board.marker_m / board.square_m)
    half_window = int(np.clip(clear * square_px * _REFINE_UPSCALE, 3, 11))
    height, width = grey.shape
    large = cv2.resize(grey, (width * _REFINE_UPSCALE, height * _REFINE_UPSCALE), interpolation=cv2.INTER_CUBIC)
    start = ((corners_px_N2 + 0.5) * _REFINE_UPSCALE - 0.5).astype(np.float32).reshape(-1, 1, 2)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 0.005)
    refined = cv2.cornerSubPix(large, start, (half_window, half_window), (-1, -1), criteria)
    return (refined.reshape(-1, 2).astype(np.float64) + 0.5) / _REFINE_UPSCALE - 0.5


def _square_px(H: NDArray[Any], ids_N: Ids, board: Board) -> float:
    """Side of the smaller squares in this view, in pixels."""
    here = board.corners_board_N3[ids_N, :2]
    sides = [np.linalg.norm(_apply(H, here + step) - _apply(H, here), axis=1) for step in _steps(board)]
    return float(np.percentile(np.concatenate(sides), 10))


def _steps(board: Board) -> Array:
    return np.array([[board.square_m, 0.0], [0.0, board.square_m]])


def _without_strays(ids_N: Ids, corners_px_N2: Array, board: Board) -> tuple[Ids, Array]:
    """Drop corners far from where the plane of all others puts them (a refinement that ran to another edge)."""
    if len(ids_N) < MIN_CORNERS:
        return ids_N, corners_px_N2
    here = board.corners_board_N3[ids_N, :2]
    H, _ = cv2.findHomography(here, corners_px_N2, cv2.LMEDS)
    if H is None:
        return ids_N[:0], corners_px_N2[:0]
    error = np.linalg.norm(_apply(H, here) - corners_px_N2, axis=1)
    # Lens distortion bends the plane by a pixel or so; a stray corner is off by a good part of a square.
    keep = error < max(0.5, 8.0 * float(np.median(error)))
    return ids_N[keep], corners_px_N2[keep]


def _apply(H: NDArray[Any], points_N2: NDArray[Any]) -> Array:
    mapped = np.column_stack([points_N2, np.ones(len(points_N2))]) @ H.T
    return np.asarray(mapped[:, :2] / mapped[:, 2:])
