"""Pinhole camera with pose: projection between the robot base frame and pixels.

Pixel (0, 0) is the centre of the top-left pixel; x runs right, y runs down; the optical frame has z
forward (REP-103 ``*_optical_frame``). Distortion is OpenCV's (k1, k2, p1, p2, k3).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.poses import inverse

Array = NDArray[np.float64]

UNDISTORTED = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
"""When the search for a distorted pixel's ray ends. OpenCV's five rounds leave 0.3 px in the corners of a wide lens."""


@dataclass(frozen=True)
class PinholeCamera:
    """Intrinsics in pixels and ``T_camera_base`` [4, 4], which maps base-frame points into the optical frame."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    T_camera_base: Array = field(default_factory=lambda: np.eye(4))
    distortion: Array | None = None

    def __post_init__(self) -> None:
        if min(self.fx, self.fy) <= 0 or min(self.width, self.height) <= 0:
            raise ValueError(
                f"focal lengths and image size must be positive, got fx={self.fx}, fy={self.fy}, "
                f"{self.width}x{self.height}; check the camera_info this camera was built from"
            )

    @property
    def K(self) -> Array:
        """Intrinsic matrix [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def T_base_camera(self) -> Array:
        """Pose of the optical frame in the base frame [4, 4]."""
        return inverse(self.T_camera_base)

    def project(self, points_base_N3: ArrayLike) -> tuple[Array, Array]:
        """Project base-frame points [N, 3] in metres to pixels [N, 2] and depths [N] in metres.

        Points with depth <= 0 lie behind the camera: their pixels are NaN, their depths are returned as they are.
        """
        points = np.asarray(points_base_N3, dtype=np.float64).reshape(-1, 3)
        camera = points @ self.T_camera_base[:3, :3].T + self.T_camera_base[:3, 3]
        depth = camera[:, 2]
        visible = depth > 1e-9
        pixels = np.full((len(points), 2), np.nan)
        if self.distortion is None:
            pixels[visible, 0] = self.fx * camera[visible, 0] / depth[visible] + self.cx
            pixels[visible, 1] = self.fy * camera[visible, 1] / depth[visible] + self.cy
        elif visible.any():
            projected, _ = cv2.projectPoints(
                camera[visible].reshape(-1, 1, 3), np.zeros(3), np.zeros(3), self.K, self.distortion
            )
            pixels[visible] = projected.reshape(-1, 2)
        return pixels, depth

    def unproject(self, pixels_N2: ArrayLike, depth_N: ArrayLike) -> Array:
        """Base-frame points [N, 3] of pixels [N, 2] at given optical depths [N] in metres."""
        pixels = np.asarray(pixels_N2, dtype=np.float64).reshape(-1, 2)
        depth = np.asarray(depth_N, dtype=np.float64).reshape(-1)
        if self.distortion is None:
            x = (pixels[:, 0] - self.cx) / self.fx
            y = (pixels[:, 1] - self.cy) / self.fy
        else:
            eye = np.eye(3)
            rays = cv2.undistortPointsIter(pixels.reshape(-1, 1, 2), self.K, self.distortion, eye, eye, UNDISTORTED)
            rays = np.asarray(rays, dtype=np.float64).reshape(-1, 2)
            x, y = rays[:, 0], rays[:, 1]
        camera = np.stack([x * depth, y * depth, depth], axis=1)
        T = self.T_base_camera
        return camera @ T[:3, :3].T + T[:3, 3]

    def resized(self, width: int, height: int) -> PinholeCamera:
        """The same camera for an image resized to width x height (pixel centres at integers)."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
            width=width,
            height=height,
        )

    def cropped(self, left: int, top: int, width: int, height: int) -> PinholeCamera:
        """The same camera for a crop whose first pixel is (left, top)."""
        return replace(self, cx=self.cx - left, cy=self.cy - top, width=width, height=height)
