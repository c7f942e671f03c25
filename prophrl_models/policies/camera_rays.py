"""The camera as two tensors: where pixels look, and where points appear. For policies that know their camera."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from calibration.camera import PinholeCamera


class CameraRays(nn.Module):
    """A calibrated camera for image positions (right, down) in -1 ... 1 over the image's full extent.

    Lens distortion is ignored (a D455 at this resolution: below a fifth of a pixel).
    """

    K: Tensor
    T_camera_base: Tensor

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.register_buffer("K", torch.eye(3))
        self.register_buffer("T_camera_base", torch.eye(4))

    def set(self, camera: PinholeCamera) -> None:
        """Take over a calibrated camera.

        Raises:
            ValueError: its image size is not this policy's.
        """
        if (camera.width, camera.height) != (self.width, self.height):
            raise ValueError(
                f"the policy sees {self.width}x{self.height} images, the camera gives {camera.width}x{camera.height}; "
                "crop the camera as the images were cropped (PinholeCamera.cropped)"
            )
        self.K.copy_(torch.from_numpy(np.asarray(camera.K, dtype=np.float32)))
        self.T_camera_base.copy_(torch.from_numpy(np.asarray(camera.T_camera_base, dtype=np.float32)))

    def project(self, points_B3: Tensor) -> Tensor:
        """Image positions [B, 2] of base-frame points [B, 3] m; points behind the camera land far outside."""
        camera = points_B3 @ self.T_camera_base[:3, :3].T + self.T_camera_base[:3, 3]
        pixel = camera @ self.K.T
        pixel = pixel[:, :2] / pixel[:, 2:].clamp_min(1e-3)
        size = pixel.new_tensor([self.width, self.height])
        return (2.0 * pixel + 1.0) / size - 1.0

    def at_height(self, position_B2: Tensor, z_B: Tensor) -> Tensor:
        """Base-frame points [B, 3] m where the rays through image positions reach heights z [B] m."""
        size = position_B2.new_tensor([self.width, self.height])
        pixel = ((position_B2 + 1.0) * size - 1.0) / 2.0
        ones = torch.ones_like(pixel[:, :1])
        R = self.T_camera_base[:3, :3]
        direction = torch.cat([pixel, ones], 1) @ torch.linalg.inv(self.K).T @ R
        origin = -R.T @ self.T_camera_base[:3, 3]
        # A ray that hardly falls never meets the table: keep its reach finite.
        fall = direction[:, 2]
        fall = torch.where(fall.abs() < 0.05, torch.full_like(fall, -0.05), fall)
        points: Tensor = origin + direction * ((z_B - origin[2]) / fall)[:, None]
        return points
