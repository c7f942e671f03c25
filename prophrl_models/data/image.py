"""From a camera image to the policy's image: one crop rule for the live node, the dataset and the overlay.

The policy sees the largest centred 4:3 crop, area-resized to 240x320. A D455 at 424x240 therefore gives
its centre 320x240 untouched: pixels are never interpolated on the usual path.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera

Image = NDArray[np.uint8]
Depth = NDArray[np.uint16]
"""Depth in millimetres; 0 means that nothing was measured there."""

POLICY_HEIGHT = 240
POLICY_WIDTH = 320


def policy_crop(width: int, height: int) -> tuple[int, int, int, int]:
    """Largest centred 4:3 crop of a width x height image as (left, top, crop_width, crop_height) in pixels.

    Raises:
        ValueError: the image has no area.
    """
    if width < 4 or height < 3:
        raise ValueError(f"an image of {width}x{height} pixels has no 4:3 crop; check the camera profile")
    scale = min(width / POLICY_WIDTH, height / POLICY_HEIGHT)
    crop_width, crop_height = round(POLICY_WIDTH * scale), round(POLICY_HEIGHT * scale)
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def policy_image(rgb_HW3: Image) -> Image:
    """Crop and resize one RGB image [H, W, 3] uint8 to the policy's [240, 320, 3]; always a fresh array.

    Raises:
        ValueError: not an H x W x 3 uint8 array.
    """
    if rgb_HW3.ndim != 3 or rgb_HW3.shape[2] != 3 or rgb_HW3.dtype != np.uint8:
        raise ValueError(
            f"the policy image is made from RGB uint8 [H, W, 3], got {rgb_HW3.dtype} {rgb_HW3.shape}; "
            "convert the image with prophrl_models.data.cdr.rgb_image first"
        )
    left, top, width, height = policy_crop(rgb_HW3.shape[1], rgb_HW3.shape[0])
    crop = rgb_HW3[top : top + height, left : left + width]
    if (width, height) == (POLICY_WIDTH, POLICY_HEIGHT):
        return np.array(crop, order="C")
    resized = cv2.resize(crop, (POLICY_WIDTH, POLICY_HEIGHT), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, dtype=np.uint8)


def policy_depth(depth_HW: Depth) -> Depth:
    """Crop one depth image [H, W] uint16 as ``policy_image`` crops its colour image; always a fresh array [240, 320].

    Where the crop has to be resized, the nearest pixel is taken: a mean of near and far is a depth nothing has.

    Raises:
        ValueError: not an H x W uint16 array.
    """
    if depth_HW.ndim != 2 or depth_HW.dtype != np.uint16:
        raise ValueError(f"depth is uint16 millimetres [H, W], got {depth_HW.dtype} {depth_HW.shape}")
    left, top, width, height = policy_crop(depth_HW.shape[1], depth_HW.shape[0])
    crop = depth_HW[top : top + height, left : left + width]
    if (width, height) == (POLICY_WIDTH, POLICY_HEIGHT):
        return np.array(crop, order="C")
    resized = cv2.resize(crop, (POLICY_WIDTH, POLICY_HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=np.uint16)


def policy_camera(camera: PinholeCamera) -> PinholeCamera:
    """The camera model whose pixels are those of ``policy_image`` for images taken by ``camera``."""
    left, top, width, height = policy_crop(camera.width, camera.height)
    return camera.cropped(left, top, width, height).resized(POLICY_WIDTH, POLICY_HEIGHT)
