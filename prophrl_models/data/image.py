"""From a camera image to the policy's image: one crop rule for the live node, the dataset and the overlay.

The policy sees the largest centred 4:3 crop, or a region of it, resized to 240x320. A D455 at 424x240 therefore gives
its centre 320x240 untouched: pixels are never interpolated on the usual path. A region is for cells whose work takes up
a part of the picture: what is learned from small pictures then sees more of what matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera

Image = NDArray[np.uint8]
Depth = NDArray[np.uint16]
"""Depth in millimetres; 0 means that nothing was measured there."""

POLICY_HEIGHT = 240
POLICY_WIDTH = 320


LEAST_REGION = 0.2
"""Of a camera at 424x240, 64 x 48 pixels."""


@dataclass(frozen=True)
class ImageRegion:
    """The part of the largest centred 4:3 crop that a policy sees: shares of the crop's width and height, also 4:3.

    Attributes:
        left, top: its upper left corner, 0 .. 1.
        size: its width and height, 0.2 .. 1.
    """

    left: float = 0.0
    top: float = 0.0
    size: float = 1.0

    def __post_init__(self) -> None:
        corner, reach = min(self.left, self.top), max(self.left, self.top) + self.size
        if not (LEAST_REGION <= self.size <= 1.0 and corner >= 0.0 and reach <= 1.0 + 1e-9):
            raise ValueError(
                f"an image region is LEFT TOP SIZE, shares of the 4:3 picture with 0 <= LEFT, TOP, {LEAST_REGION} <= "
                f"SIZE and LEFT + SIZE, TOP + SIZE <= 1; got {self.left:g} {self.top:g} {self.size:g}"
            )

    def __str__(self) -> str:
        return "the whole picture" if self == WHOLE else f"the region {self.left:g} {self.top:g} {self.size:g}"

    def to_json(self) -> list[float]:
        return [self.left, self.top, self.size]

    @staticmethod
    def from_json(raw: Sequence[float]) -> ImageRegion:
        """Inverse of ``to_json``.

        Raises:
            ValueError: not three numbers, or no region.
        """
        try:
            left, top, size = map(float, raw)
        except (TypeError, ValueError) as error:
            raise ValueError(f"an image region is three numbers, LEFT TOP SIZE; got {raw!r}") from error
        return ImageRegion(left, top, size)


WHOLE = ImageRegion()


def policy_crop(width: int, height: int, region: ImageRegion = WHOLE) -> tuple[int, int, int, int]:
    """The region of the largest centred 4:3 crop of a width x height image: (left, top, width, height) in pixels.

    Raises:
        ValueError: the image has no area.
    """
    if width < 4 or height < 3:
        raise ValueError(f"an image of {width}x{height} pixels has no 4:3 crop; check the camera profile")
    scale = min(width / POLICY_WIDTH, height / POLICY_HEIGHT)
    crop_width, crop_height = round(POLICY_WIDTH * scale), round(POLICY_HEIGHT * scale)
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return (
        left + round(region.left * crop_width),
        top + round(region.top * crop_height),
        max(1, round(region.size * crop_width)),
        max(1, round(region.size * crop_height)),
    )


def policy_image(rgb_HW3: Image, region: ImageRegion = WHOLE) -> Image:
    """Crop and resize one RGB image [H, W, 3] uint8 to the policy's [240, 320, 3]; always a fresh array.

    Raises:
        ValueError: not an H x W x 3 uint8 array.
    """
    if rgb_HW3.ndim != 3 or rgb_HW3.shape[2] != 3 or rgb_HW3.dtype != np.uint8:
        raise ValueError(
            f"the policy image is made from RGB uint8 [H, W, 3], got {rgb_HW3.dtype} {rgb_HW3.shape}; "
            "convert the image with prophrl_models.data.cdr.rgb_image first"
        )
    left, top, width, height = policy_crop(rgb_HW3.shape[1], rgb_HW3.shape[0], region)
    crop = rgb_HW3[top : top + height, left : left + width]
    if (width, height) == (POLICY_WIDTH, POLICY_HEIGHT):
        return np.array(crop, order="C")
    how = cv2.INTER_AREA if width > POLICY_WIDTH else cv2.INTER_LINEAR
    resized = cv2.resize(crop, (POLICY_WIDTH, POLICY_HEIGHT), interpolation=how)
    return np.asarray(resized, dtype=np.uint8)


def policy_depth(depth_HW: Depth, region: ImageRegion = WHOLE) -> Depth:
    """Crop one depth image [H, W] uint16 as ``policy_image`` crops its colour image; always a fresh array [240, 320].

    Where the crop has to be resized, the nearest pixel is taken: a mean of near and far is a depth nothing has.

    Raises:
        ValueError: not an H x W uint16 array.
    """
    if depth_HW.ndim != 2 or depth_HW.dtype != np.uint16:
        raise ValueError(f"depth is uint16 millimetres [H, W], got {depth_HW.dtype} {depth_HW.shape}")
    left, top, width, height = policy_crop(depth_HW.shape[1], depth_HW.shape[0], region)
    crop = depth_HW[top : top + height, left : left + width]
    if (width, height) == (POLICY_WIDTH, POLICY_HEIGHT):
        return np.array(crop, order="C")
    resized = cv2.resize(crop, (POLICY_WIDTH, POLICY_HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=np.uint16)


def policy_camera(camera: PinholeCamera, region: ImageRegion = WHOLE) -> PinholeCamera:
    """The camera model whose pixels are those of ``policy_image`` for images taken by ``camera``."""
    left, top, width, height = policy_crop(camera.width, camera.height, region)
    return camera.cropped(left, top, width, height).resized(POLICY_WIDTH, POLICY_HEIGHT)
