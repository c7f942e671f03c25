"""Calibration files: intrinsics, where the camera is, how certain that is, and an identity.

A dataset or checkpoint names its calibration by ``id``, the hash of the content, so a file edited by hand no longer
passes for the calibration it was. Plain YAML in one of two formats, both understood by every reader here. The short
one says where a camera stands and nothing of how that is known:

    format: prophrl-camera/1
    id: 3f0c9a51d2be
    date: 2025-06-01T12:00:00+00:00
    serial: "234322304889"
    image: {width: 424, height: 240}
    intrinsics: {fx: 212.0, fy: 212.0, cx: 211.5, cy: 119.5, distortion: null}
    T_base_camera: [[...], [...], [...], [...]]     # maps points of the optical frame to base, metres

The full one, ``prophrl-calibration/1``, is a ``Calibration`` (see ``calibration.record`` and ``calibration.document``).
Writing over a file keeps the one before in the folder ``history`` beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from calibration.camera import PinholeCamera
from calibration.document import (
    CAMERA_FORMAT,
    FULL_FORMAT,
    calibration_content,
    camera_content,
    content_hash,
    read_calibration,
    read_camera,
)
from calibration.hand_eye_types import Array, Mode
from calibration.history import HISTORY, keep_copy
from calibration.record import Calibration, GripperScale, HeldOutError

__all__ = [
    "FORMAT", "HISTORY", "Calibration", "CalibrationFileError", "CameraCalibration", "GripperScale", "HeldOutError",
    "load", "load_calibration", "load_camera", "parse", "save", "save_camera",
]  # fmt: skip

FORMAT = CAMERA_FORMAT


class CalibrationFileError(ValueError):
    """A calibration file that cannot be used; the message names the file, what is wrong and the next action."""


@dataclass(frozen=True)
class CameraCalibration:
    """One camera at one place: ``id`` (12 hex digits), ISO 8601 ``date``, ``serial`` number, model with pose.

    In ``mode`` "eye_in_hand" the camera rides on the tool: the model's pose means nothing, ``T_tool_camera`` is set.
    """

    id: str
    date: str
    serial: str
    camera: PinholeCamera
    mode: Mode = "eye_to_hand"
    T_tool_camera: Array | None = None


def save(path: str | Path, calibration: Calibration, *, date: datetime | None = None) -> str:
    """Write a calibration in one step (a reader sees the old file or the new one) and return its id.

    A file that stood there before and had other content is kept under ``history/``.

    Args:
        date: when it was calibrated (default now); must carry a time zone.
    """
    return _write(Path(path), FULL_FORMAT, calibration_content(calibration), date)


def save_camera(path: str | Path, camera: PinholeCamera, *, serial: str, date: datetime | None = None) -> str:
    """Write the short form, a camera at a place nobody measured an error for, and return its id; see ``save``.

    Args:
        camera: intrinsics and pose; pixels of the image the camera delivers.
        serial: serial number of the camera.
        date: when it was calibrated (default now); must carry a time zone.
    """
    return _write(Path(path), CAMERA_FORMAT, camera_content(camera, serial), date)


def load(path: str | Path) -> Calibration:
    """Read and check a calibration of either format; of the short one everything but camera and serial is empty.

    Raises:
        CalibrationFileError: no file, no calibration, a value missing or not finite, a rotation that is none, or
            content that does not match the id.
    """
    path = Path(path)
    if not path.is_file():
        raise CalibrationFileError(
            f"no camera calibration at {path}; calibrate the cell (prophrl calibrate), correct camera.calibration_file "
            "in the cell file, or start the lab if this is a twin"
        )
    return parse(path.read_bytes(), str(path))


def parse(content: bytes, where: str) -> Calibration:
    """A calibration from the content of its file; ``where`` names it in errors, which are those of ``load``."""
    try:
        raw = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalibrationFileError(f"{where} is not valid YAML: {error}") from error
    found = raw.get("format") if isinstance(raw, Mapping) else type(raw).__name__
    if not isinstance(raw, Mapping) or found not in (CAMERA_FORMAT, FULL_FORMAT):
        raise CalibrationFileError(
            f"{where} is not a camera calibration (format {CAMERA_FORMAT!r} or {FULL_FORMAT!r}), found {found!r}"
        )
    try:
        calibration, hashed = (read_camera if found == CAMERA_FORMAT else read_calibration)(raw)
        calibration = replace(calibration, id=str(raw["id"]), date=str(raw["date"]))
        expected = content_hash(hashed)
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationFileError(f"{where}: {type(error).__name__}: {error}; calibrate again") from error
    if expected != calibration.id:
        raise CalibrationFileError(
            f"{where} carries id {calibration.id} but its numbers hash to {expected}: it was edited after calibration; "
            "calibrate again, or save the edited values as a calibration of their own"
        )
    return calibration


def load_calibration(path: str | Path) -> CameraCalibration:
    """Camera, place and identity of a calibration of either format; errors as ``load``."""
    full = load(path)
    return CameraCalibration(full.id, full.date, full.camera_serial, full.camera, full.mode, full.T_tool_camera)


def load_camera(path: str | Path) -> PinholeCamera:
    """The camera of a calibration file, with its fixed pose in the base frame.

    Raises:
        CalibrationFileError: as ``load``, or the camera rides on the tool and has no fixed pose.
    """
    calibration = load(path)
    if calibration.mode == "eye_in_hand":
        raise CalibrationFileError(
            f"{path} is of a camera on the tool, which has no fixed pose in base; use "
            "calibration.storage.load(path).camera_at(T_base_tool)"
        )
    return calibration.camera


def _write(path: Path, form: str, content: Mapping[str, Any], date: datetime | None) -> str:
    stamp = (date or datetime.now(timezone.utc)).isoformat(timespec="seconds")
    document = {"format": form, "id": content_hash(content), "date": stamp, **content}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        yaml.safe_dump(document, file, sort_keys=False, default_flow_style=None, allow_unicode=True)
        file.flush()
        os.fsync(file.fileno())
    _keep_previous(path, str(document["id"]))
    temporary.replace(path)
    return str(document["id"])


def _keep_previous(path: Path, new_id: str) -> None:
    """Keep the file at ``path`` unless it holds the same calibration as the one about to be written."""
    if not path.is_file():
        return
    try:
        previous = load(path)
    except CalibrationFileError:  # edited, broken or foreign: somebody's work all the same
        keep_copy(
            path, datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime("%Y%m%dT%H%M%SZ-unreadable")
        )
        return
    if previous.id != new_id:
        date = previous.date.replace(":", "").replace("-", "").replace("+0000", "Z")
        keep_copy(path, f"{date}-{previous.id}")
