"""What the robot's drift check remembers of a time when the calibration was good, and its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera
from calibration.camera_shift import DriftLimits

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RobotDriftSettings:
    """What is compared, and what counts as a shift.

    ``table_z_m``: height of the table in the base frame, on which scenery is assumed to lie (else at ``far_m``).
    ``max_motion_px``: a piece that the robot carried farther than this looks too different; ``motion_error``: part of
    the carried distance by which its prediction may err (the outline of a turning tube does not turn with it).
    ``timing_s``: uncertainty of the frame's time against the robot's.
    ``systematic_px``: what all pieces may have in common, however many they are.
    """

    limits: DriftLimits = field(default_factory=DriftLimits)
    frames: int = 12
    reference_frames: int = 24
    table_z_m: float = 0.0
    far_m: float = 2.5
    max_motion_px: float = 12.0
    motion_error: float = 0.15
    timing_s: float = 0.015
    min_similarity: float = 0.7
    min_pieces: int = 40
    systematic_px: float = 0.05


@dataclass(frozen=True)
class RobotReference:
    """Frames [K, H, W] grey, robot points [K, N, 3] at their times with links [N], and the camera of that time."""

    camera: PinholeCamera
    grey_KHW: NDArray[np.uint8]
    points_base_KN3: Array
    link_N: NDArray[np.int32]

    def save(self, path: str | Path) -> None:
        """Write it as a NumPy archive."""
        camera = self.camera
        distortion = np.zeros(0) if camera.distortion is None else np.asarray(camera.distortion)
        with Path(path).open("wb") as file:  # NumPy would add a suffix to a bare path
            np.savez_compressed(
                file,
                intrinsics=[camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height],
                distortion=distortion,
                T_camera_base=camera.T_camera_base,
                grey_KHW=self.grey_KHW,
                points_base_KN3=self.points_base_KN3,
                link_N=self.link_N,
            )

    @classmethod
    def load(cls, path: str | Path) -> RobotReference:
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as file:
            fx, fy, cx, cy, width, height = (float(value) for value in file["intrinsics"])
            distortion = file["distortion"] if len(file["distortion"]) else None
            camera = PinholeCamera(fx, fy, cx, cy, int(width), int(height), file["T_camera_base"], distortion)
            return cls(camera, file["grey_KHW"], file["points_base_KN3"], file["link_N"])
