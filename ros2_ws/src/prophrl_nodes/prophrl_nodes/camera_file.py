"""The camera's calibration as the running nodes see it: intrinsics and pose in the base frame, from a YAML file.

On the twin the renderer writes the file when the lab starts; on hardware it is the result of hand-eye calibration.
Nodes may start before it exists and follow it when it is replaced.
"""

from __future__ import annotations

from pathlib import Path

from calibration.camera import PinholeCamera
from calibration.storage import CalibrationFileError, CameraCalibration, load_calibration
from robot_bridge.cell import CellConfig


class CameraFile:
    """Watches one camera file.

    Attributes:
        calibration: newest valid one, None before the first.
        camera: its camera with a fixed pose; None before the first, and when the camera rides on the tool.
        calibration_id: its name, empty before the first.
        problem: why there is none or why the newest file could not be used; empty when all is well.
    """

    def __init__(self, cell: CellConfig) -> None:
        self.path = camera_path(cell)
        self.calibration: CameraCalibration | None = None
        self.camera: PinholeCamera | None = None
        self.calibration_id = ""
        self.problem = "not read yet"
        self._modified_ns = -1

    def reload_if_changed(self) -> bool:
        """Read the file again if it was replaced; True when ``calibration`` is new."""
        try:
            modified_ns = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            self._modified_ns = -1
            self.problem = f"no camera calibration at {self.path}; calibrate the camera, or start the twin's lab"
            return False
        if modified_ns == self._modified_ns:
            return False
        self._modified_ns = modified_ns
        try:
            calibration = load_calibration(self.path)
        except CalibrationFileError as error:
            self.problem = str(error)
            return False
        self.calibration, self.calibration_id, self.problem = calibration, calibration.id, ""
        self.camera = calibration.camera if calibration.mode == "eye_to_hand" else None
        return True


def camera_path(cell: CellConfig) -> Path:
    """Where the cell's camera calibration lies."""
    if cell.camera.calibration_file:
        return Path(cell.camera.calibration_file).expanduser()
    return Path(cell.camera.frames_path) / "camera.yaml"
