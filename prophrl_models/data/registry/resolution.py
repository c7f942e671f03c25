"""From a dataset's own image size to the size the world model is trained at; the camera matrix follows the image.

The sizes are the paper's (design specification 4.8): AgiBot and the own robot 240x320, DROID 240x416, LIBERO and BRIDGE
256x256, Open-X to a height of 240 and then padded with black left and right, or cropped around the centre, to 320.
How DROID's 16:9 images become 240x416 is not stated: here like Open-X (426.7 pixels of width cropped to 416), which
keeps pixels square. BRIDGE and LIBERO are stretched, as their published 256x256 versions were.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np

from calibration.camera import PinholeCamera
from prophrl_models.data.image import Image
from prophrl_models.data.registry.errors import RegistryError


class Fit(Enum):
    """How an image of another shape is brought to the target."""

    STRETCH = "stretch"
    """Height and width scaled independently."""
    HEIGHT = "height, then pad or crop"
    """Scaled to the target's height with square pixels, then padded or cropped left and right."""


@dataclass(frozen=True)
class ResolutionRule:
    """Target size in pixels and the way there."""

    height: int
    width: int
    fit: Fit

    def __str__(self) -> str:
        return f"{self.height}x{self.width} ({self.fit.value})"

    def scaled_width(self, height: int, width: int) -> int:
        """Width in pixels after scaling and before padding or cropping."""
        if height < 1 or width < 1:
            raise RegistryError(f"an image of {height}x{width} pixels cannot be resized; check the source's files")
        return self.width if self.fit is Fit.STRETCH else max(1, round(width * self.height / height))

    def left_margin(self, scaled_width: int) -> int:
        """Columns of black added on the left; negative: columns cut off there."""
        difference = self.width - scaled_width
        return difference // 2 if difference >= 0 else -((-difference) // 2)

    def image(self, rgb_HW3: Image) -> Image:
        """One RGB image [H, W, 3] uint8 at the target size; always a fresh array."""
        height, width = rgb_HW3.shape[:2]
        scaled_width = self.scaled_width(height, width)
        scaled = rgb_HW3
        if (height, width) != (self.height, scaled_width):
            shrinks = self.height < height or scaled_width < width
            method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            scaled = np.asarray(cv2.resize(rgb_HW3, (scaled_width, self.height), interpolation=method), dtype=np.uint8)
        left = self.left_margin(scaled_width)
        if left < 0:
            scaled = scaled[:, -left : -left + self.width]
        result = np.zeros((self.height, self.width, 3), np.uint8)
        start = max(left, 0)
        result[:, start : start + scaled.shape[1]] = scaled
        return result

    def camera(self, camera: PinholeCamera) -> PinholeCamera:
        """The camera whose pixels are those of ``image`` for images taken by ``camera``."""
        scaled_width = self.scaled_width(camera.height, camera.width)
        scaled = camera.resized(scaled_width, self.height)
        return scaled.cropped(-self.left_margin(scaled_width), 0, self.width, self.height)
