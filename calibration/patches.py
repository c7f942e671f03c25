"""Small pieces of image, remembered with their place in space, and found again in a later image.

Each piece moves as its link moves: where it must appear in a new frame follows from the link's points and the
calibrated camera. What is left between there and where it does appear is measured below a pixel (Lucas-Kanade with the
template's gradients), with how much each direction says: an edge tells the displacement across itself only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera

Array = NDArray[np.float64]
Grey = NDArray[np.float32]

RADIUS_PX = 5
SIDE = 2 * RADIUS_PX + 1
_CELL_PX = 7
"""At most one piece is taken in each cell of this size."""
_MIN_GRADIENT = 6.0
"""Grey values per pixel at the strongest place of a piece; less is noise."""
_BIN_PX = 6
_BORDER_PX = RADIUS_PX + 3
_OFFSETS = np.stack(np.meshgrid(np.arange(-RADIUS_PX, RADIUS_PX + 1), np.arange(-RADIUS_PX, RADIUS_PX + 1)), axis=-1)
_OFFSETS_P2 = _OFFSETS.reshape(-1, 2).astype(np.float64)
_WINDOW_P = np.exp(-0.5 * np.sum(_OFFSETS_P2**2, axis=1) / (0.55 * RADIUS_PX) ** 2).astype(np.float32)
_SHARE_P = _WINDOW_P / _WINDOW_P.sum()


@dataclass(frozen=True)
class Patches:
    """M pieces of one image: centres, points in base, link of each (-1: scenery), templates.

    Templates [M, P] are normalised to zero mean and unit deviation under the window, so light and exposure drop out.
    ``weighted_M2P`` are their gradients times the window, ``hessian_M22`` the gradients' windowed second moments.
    """

    centres_M2: Array
    points_base_M3: Array
    link_M: NDArray[np.int32]
    template_MP: Grey
    weighted_M2P: Grey
    hessian_M22: Array

    def __len__(self) -> int:
        return len(self.centres_M2)

    def chosen(self, keep: NDArray[np.bool_]) -> Patches:
        """Some of them."""
        return Patches(
            self.centres_M2[keep],
            self.points_base_M3[keep],
            self.link_M[keep],
            self.template_MP[keep],
            self.weighted_M2P[keep],
            self.hessian_M22[keep],
        )


@dataclass(frozen=True)
class Match:
    """Evidence of M pieces against one frame: least-squares system [M, 2, 2], [M, 2] of each piece's displacement.

    ``similarity_M`` is the correlation of template and image at the place compared.
    """

    hessian_M22: Array
    right_M2: Array
    similarity_M: Array


def grey_of(image: NDArray[np.uint8], blur_px: float) -> Grey:
    """Grey float image of an RGB one, a little blurred against the stairs of its edges."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return np.asarray(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), blur_px), dtype=np.float32)


class DepthBins:
    """Which robot points are in front, in coarse bins of the image: enough to tell the near side from the far one."""

    def __init__(self, camera: PinholeCamera, points_base_N3: Array) -> None:
        self.pixels, self.depth = camera.project(points_base_N3)
        with np.errstate(invalid="ignore"):
            inside = (
                (self.depth > 0.05)
                & np.all(self.pixels > -_BIN_PX, axis=1)
                & np.all(self.pixels < np.array([camera.width, camera.height]) + _BIN_PX, axis=1)
            )
        self._shape = (camera.height // _BIN_PX + 5, camera.width // _BIN_PX + 5)
        self.nearest = np.full(self._shape, np.inf)
        rows, columns = self._bins(self.pixels[inside])
        np.minimum.at(self.nearest, (rows, columns), self.depth[inside])
        self.front = np.zeros(len(self.depth), dtype=bool)
        self.front[inside] = self.depth[inside] < self.nearest[rows, columns] + 0.04

    def _bins(self, pixels_N2: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        columns, rows = (np.floor(pixels_N2 / _BIN_PX).astype(np.intp) + 2).T
        return np.clip(rows, 0, self._shape[0] - 1), np.clip(columns, 0, self._shape[1] - 1)

    def hides(self, pixels_N2: Array, depth_N: Array, margin_m: float) -> NDArray[np.bool_]:
        """Whether some part of the robot stands before points at these pixels and depths."""
        return np.asarray(self.nearest[self._bins(pixels_N2)] < depth_N - margin_m)

    def covers(self, camera: PinholeCamera, grow_px: int) -> NDArray[np.bool_]:
        """Pixels [H, W] on or near the robot."""
        mask = np.zeros((camera.height, camera.width), dtype=np.uint8)
        at = np.rint(self.pixels[self.front]).astype(int)
        at = at[np.all((at >= 0) & (at < [camera.width, camera.height]), axis=1)]
        mask[at[:, 1], at[:, 0]] = 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow_px + 1, 2 * grow_px + 1))
        return np.asarray(cv2.dilate(mask, kernel) > 0)


def candidates(grey: Grey, allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Pixels [M, 2] (x, y) of the strongest gradient in each cell of the allowed part of the image."""
    dx, dy = _gradients(grey)
    strength = np.where(allowed, np.hypot(dx, dy), 0.0)
    strength[:_BORDER_PX] = strength[-_BORDER_PX:] = 0.0
    strength[:, :_BORDER_PX] = strength[:, -_BORDER_PX:] = 0.0
    height, width = grey.shape
    rows, columns = height // _CELL_PX, width // _CELL_PX
    cells = strength[: rows * _CELL_PX, : columns * _CELL_PX].reshape(rows, _CELL_PX, columns, _CELL_PX)
    flat = cells.transpose(0, 2, 1, 3).reshape(rows, columns, -1)
    best = flat.argmax(axis=2)
    row, column = np.nonzero(flat.max(axis=2) > _MIN_GRADIENT)
    place = best[row, column]
    return np.stack([column * _CELL_PX + place % _CELL_PX, row * _CELL_PX + place // _CELL_PX], axis=1)


def cut(grey: Grey, centres_M2: NDArray[np.intp], points_base_M3: Array, link_M: NDArray[np.int32]) -> Patches:
    """Cut pieces at pixel centres out of an image."""
    dx, dy = _gradients(grey)
    x = centres_M2[:, None, 0] + _OFFSETS_P2[None, :, 0].astype(np.intp)
    y = centres_M2[:, None, 1] + _OFFSETS_P2[None, :, 1].astype(np.intp)
    values, deviation = _normalised(grey[y, x])
    gradient = np.stack([dx[y, x], dy[y, x]], axis=1) / deviation[:, None, None]
    weighted = (gradient * _WINDOW_P).astype(np.float32)
    hessian = (weighted @ gradient.transpose(0, 2, 1)).astype(np.float64)
    return Patches(centres_M2.astype(np.float64), points_base_M3, link_M, values, weighted, hessian)


def match(patches: Patches, grey: Grey, centres_M2: Array, affine_M22: Array) -> Match:
    """Compare pieces with an image where their centres should be, each turned and scaled by its 2x2 matrix."""
    at = (centres_M2[:, None, :] + _OFFSETS_P2 @ affine_M22.transpose(0, 2, 1)).astype(np.float32)
    sampled = cv2.remap(grey, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    values, _ = _normalised(np.asarray(sampled, dtype=np.float32))
    error = patches.template_MP - values
    along_template = (patches.weighted_M2P @ error[:, :, None])[:, :, 0].astype(np.float64)
    # Gradients are along the template's own axes; the displacement wanted is in the new image.
    back = np.linalg.inv(affine_M22)
    hessian = back.transpose(0, 2, 1) @ patches.hessian_M22 @ back
    right = (back.transpose(0, 2, 1) @ along_template[:, :, None])[:, :, 0]
    similarity = ((patches.template_MP * values) @ _SHARE_P).astype(np.float64)
    return Match(hessian, right, similarity)


def _gradients(grey: Grey) -> tuple[Grey, Grey]:
    kernel = np.array([[-0.5, 0.0, 0.5]], dtype=np.float32)
    return cv2.filter2D(grey, cv2.CV_32F, kernel), cv2.filter2D(grey, cv2.CV_32F, kernel.T)  # type: ignore[return-value]


def _normalised(values_MP: Grey) -> tuple[Grey, Grey]:
    centred = values_MP - (values_MP @ _SHARE_P)[:, None]
    deviation = np.sqrt(np.maximum((centred * centred) @ _SHARE_P, np.float32(1.0)))
    return centred / deviation[:, None], deviation
