"""Camera calibration files: intrinsics and the camera's pose in the robot base, with an identity.

A dataset or checkpoint names its calibration by ``id``, the hash of the numbers, so a file edited by hand no longer
passes for the calibration it was. The format is plain YAML:

    format: prophrl-camera/1
    id: 3f0c9a51d2be
    date: 2025-06-01T12:00:00+00:00
    serial: "234322304889"
    image: {width: 424, height: 240}
    intrinsics: {fx: 212.0, fy: 212.0, cx: 211.5, cy: 119.5, distortion: null}
    T_base_camera: [[...], [...], [...], [...]]     # maps points of the optical frame to base, metres
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from calibration.camera import PinholeCamera
from calibration.poses import inverse

FORMAT = "prophrl-camera/1"
_HASHED = ("serial", "image", "intrinsics", "T_base_camera")


class CalibrationFileError(ValueError):
    """A calibration file that cannot be used; the message names the file, what is wrong and the next action."""


@dataclass(frozen=True)
class CameraCalibration:
    """One camera at one place: ``id`` (12 hex digits), ISO 8601 ``date``, ``serial`` number, model with pose."""

    id: str
    date: str
    serial: str
    camera: PinholeCamera


def save_camera(path: str | Path, camera: PinholeCamera, *, serial: str, date: datetime | None = None) -> str:
    """Write a calibration file in one step (a reader sees the old one or the new one) and return its id.

    Args:
        camera: intrinsics and pose; pixels of the image the camera delivers.
        serial: serial number of the camera.
        date: when it was calibrated (default now); must carry a time zone.
    """
    path = Path(path)
    content = _content(camera, serial)
    stamp = (date or datetime.now(timezone.utc)).isoformat(timespec="seconds")
    document = {"format": FORMAT, "id": _hash(content), "date": stamp, **content}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        yaml.safe_dump(document, file, sort_keys=False, default_flow_style=None)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return str(document["id"])


def load_camera(path: str | Path) -> PinholeCamera:
    """The camera of a calibration file; see ``load_calibration`` for errors."""
    return load_calibration(path).camera


def load_calibration(path: str | Path) -> CameraCalibration:
    """Read and check a calibration file.

    Raises:
        CalibrationFileError: no file, not this format, a value missing or not finite, a rotation that is none, or
            numbers that do not match the id.
    """
    path = Path(path)
    if not path.is_file():
        raise CalibrationFileError(
            f"no camera calibration at {path}; calibrate the cell (prophrl calibrate), correct camera.calibration_file "
            "in the cell file, or start the lab if this is a twin"
        )
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise CalibrationFileError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, Mapping) else type(raw).__name__
        raise CalibrationFileError(f"{path} is not a camera calibration (format {FORMAT!r}), found {found!r}")
    try:
        camera = _camera(raw)
        calibration = CameraCalibration(str(raw["id"]), str(raw["date"]), str(raw["serial"]), camera)
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationFileError(f"{path}: {type(error).__name__}: {error}; calibrate again") from error
    expected = _hash({key: raw[key] for key in _HASHED})
    if expected != calibration.id:
        raise CalibrationFileError(
            f"{path} carries id {calibration.id} but its numbers hash to {expected}: it was edited after calibration; "
            "calibrate again, or save the edited values as a calibration of their own"
        )
    return calibration


def _camera(raw: Mapping[str, Any]) -> PinholeCamera:
    intrinsics, image = raw["intrinsics"], raw["image"]
    T_base_camera = np.array(raw["T_base_camera"], dtype=np.float64)
    if T_base_camera.shape != (4, 4) or not np.isfinite(T_base_camera).all():
        raise ValueError(f"T_base_camera must be 4x4 finite numbers, got shape {T_base_camera.shape}")
    R = T_base_camera[:3, :3]
    if not np.allclose(R @ R.T, np.eye(3), atol=1e-6) or np.linalg.det(R) < 0.0:
        raise ValueError("the rotation in T_base_camera is not orthonormal and right-handed")
    distortion = intrinsics["distortion"]
    return PinholeCamera(
        fx=float(intrinsics["fx"]),
        fy=float(intrinsics["fy"]),
        cx=float(intrinsics["cx"]),
        cy=float(intrinsics["cy"]),
        width=int(image["width"]),
        height=int(image["height"]),
        T_camera_base=inverse(T_base_camera),
        distortion=None if distortion is None else np.array(distortion, dtype=np.float64),
    )


def _content(camera: PinholeCamera, serial: str) -> dict[str, Any]:
    """What the id covers, rounded to a nanometre and a millionth of a pixel."""
    distortion = None if camera.distortion is None else [round(float(k), 12) for k in np.ravel(camera.distortion)]
    return {
        "serial": serial,
        "image": {"width": camera.width, "height": camera.height},
        "intrinsics": {
            "fx": round(camera.fx, 6),
            "fy": round(camera.fy, 6),
            "cx": round(camera.cx, 6),
            "cy": round(camera.cy, 6),
            "distortion": distortion,
        },
        "T_base_camera": [[round(float(v), 9) + 0.0 for v in row] for row in camera.T_base_camera],
    }


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
