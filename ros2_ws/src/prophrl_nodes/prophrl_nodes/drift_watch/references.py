"""References of the drift check on disk: how the cell looked when its calibration was new.

    <folder>/<calibration id>-<width>x<height>.npz        the robot's: frames and where its links were
    <folder>/<calibration id>-<width>x<height>.yaml       which episode that was, and a marker's corners

Named by the calibration, so that a new calibration starts with none and an old one, put back, finds its own again.
Each file appears in one rename; the YAML comes last, and without it there is no reference.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from calibration.board import Board
from calibration.camera import PinholeCamera
from calibration.drift import MarkerReference
from calibration.robot_drift import RobotReference
from prophrl_nodes.recorder.metadata import write_atomically

FORMAT = "prophrl-drift-reference/1"
FOLDER = "drift"
"""Beside the calibration file."""


class DriftReferenceError(ValueError):
    """A reference that cannot be used; the message names the file and the next action."""


@dataclass(frozen=True)
class DriftReference:
    """What later episodes are compared with, and the episode it was taken from."""

    calibration_id: str
    episode_id: str
    robot: RobotReference
    marker: MarkerReference | None = None

    @property
    def camera(self) -> PinholeCamera:
        """The calibrated camera, in pixels of the episodes' images."""
        return self.robot.camera


def reference_path(folder: Path, calibration_id: str, width: int, height: int) -> Path:
    """The YAML file of a calibration's reference for images of this size."""
    return folder / f"{calibration_id}-{width}x{height}.yaml"


def save_reference(path: Path, reference: DriftReference) -> None:
    """Write both files, the YAML last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    archive = path.with_suffix(".npz")
    temporary = archive.with_name(f".{archive.name}.{os.getpid()}")
    reference.robot.save(temporary)
    temporary.replace(archive)
    document: dict[str, object] = {
        "format": FORMAT,
        "calibration_id": reference.calibration_id,
        "episode_id": reference.episode_id,
    }
    if (marker := reference.marker) is not None:
        document["marker"] = {
            "board": marker.board.to_dict(),
            "T_base_board": marker.T_base_board.tolist(),
            "ids": marker.ids_N.tolist(),
            "corners_px": marker.corners_px_N2.tolist(),
            "sigma_px": marker.sigma_px_N.tolist(),
        }
    write_atomically(path, yaml.safe_dump(document, sort_keys=False, default_flow_style=None))


def load_reference(path: Path) -> DriftReference | None:
    """Read a reference; None when there is none.

    Raises:
        DriftReferenceError: damaged or foreign files.
    """
    path = path.with_suffix(".yaml")
    if not path.is_file():
        return None
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, expected {FORMAT!r}")
        robot = RobotReference.load(path.with_suffix(".npz"))
        marker = _marker(document["marker"], robot.camera) if "marker" in document else None
        return DriftReference(str(document["calibration_id"]), str(document["episode_id"]), robot, marker)
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError, zipfile.BadZipFile) as error:
        raise DriftReferenceError(
            f"{path} is no drift reference that can be used ({type(error).__name__}: {error}); delete it, the next "
            "accepted episode makes a new one"
        ) from error


def _marker(raw: dict[str, object], camera: PinholeCamera) -> MarkerReference:
    board = raw["board"]
    if not isinstance(board, dict):
        raise ValueError(f"its marker's board must be a mapping, found {board!r}")
    return MarkerReference(
        Board.from_dict(board),
        camera,
        np.array(raw["T_base_board"], dtype=np.float64),
        np.array(raw["ids"], dtype=np.int32),
        np.array(raw["corners_px"], dtype=np.float64),
        np.array(raw["sigma_px"], dtype=np.float64),
    )
