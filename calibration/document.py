"""The content of calibration files as plain mappings: numbers rounded once, hashed, and read back with checks."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from calibration.camera import PinholeCamera
from calibration.hand_eye_types import Array, Mode
from calibration.poses import inverse
from calibration.record import Calibration, GripperScale, HeldOutError, check_rigid

CAMERA_FORMAT = "prophrl-camera/1"
FULL_FORMAT = "prophrl-calibration/1"
_CAMERA_KEYS = ("serial", "image", "intrinsics", "T_base_camera")
_UNHASHED = ("format", "id", "date")
_TRANSFORMS = ("T_base_camera", "T_tool_camera", "T_tool_board", "T_base_board")


def camera_content(camera: PinholeCamera, serial: str) -> dict[str, Any]:
    """What the id of the short format covers, rounded to a nanometre and a millionth of a pixel."""
    return {"serial": serial, **_intrinsics(camera), "T_base_camera": _matrix(camera.T_base_camera)}


def calibration_content(calibration: Calibration) -> dict[str, Any]:
    """What the id of the full format covers: everything but format, id and date."""
    poses = {name: getattr(calibration, name) for name in _TRANSFORMS}
    covariance = calibration.covariance_66
    held_out, gripper = calibration.held_out, calibration.gripper
    return {
        "mode": calibration.mode,
        "serials": {
            "camera": calibration.camera_serial,
            "robot": calibration.robot_serial,
            "leader": calibration.leader_serial,
        },
        **_intrinsics(calibration.camera),
        **{name: _matrix(T) for name, T in poses.items() if T is not None},
        "covariance": None if covariance is None else [[_significant(v) for v in row] for row in covariance],
        "sigma": {"millimetres": _significant(calibration.sigma_mm), "degrees": _significant(calibration.sigma_deg)},
        "failed_gates": list(calibration.failed_gates),
        "held_out": None if held_out is None else {k: _significant(v) for k, v in asdict(held_out).items()},
        "board": dict(calibration.board),
        "samples": int(calibration.samples),
        "gripper": None if gripper is None else {k: int(v) for k, v in asdict(gripper).items()},
        "created_by": calibration.created_by,
    }


def content_hash(content: Mapping[str, Any]) -> str:
    """Identity of some content: 12 hex digits, the same for any order of keys.

    Raises:
        ValueError: a number is not finite.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()[:12]


def read_camera(raw: Mapping[str, Any]) -> tuple[Calibration, dict[str, Any]]:
    """A calibration of the short format, and the content its id must match.

    Raises:
        KeyError, TypeError, ValueError: a value is missing, of the wrong kind, or no rigid transform.
    """
    T_base_camera = _read_transform(raw, "T_base_camera")
    camera = _read_intrinsics(raw, T_base_camera)
    return Calibration(camera, str(raw["serial"]), T_base_camera=T_base_camera), {key: raw[key] for key in _CAMERA_KEYS}


def read_calibration(raw: Mapping[str, Any]) -> tuple[Calibration, dict[str, Any]]:
    """A calibration of the full format, and the content its id must match; errors as ``read_camera``."""
    mode: Mode = raw["mode"]
    T_base_camera = _read_transform(raw, "T_base_camera") if mode == "eye_to_hand" else None
    serials, sigma, held_out, gripper = raw["serials"], raw["sigma"], raw["held_out"], raw["gripper"]
    covariance = raw["covariance"]
    calibration = Calibration(
        camera=_read_intrinsics(raw, np.eye(4) if T_base_camera is None else T_base_camera),
        camera_serial=str(serials["camera"]),
        mode=mode,
        T_base_camera=T_base_camera,
        T_tool_camera=_read_optional(raw, "T_tool_camera"),
        T_tool_board=_read_optional(raw, "T_tool_board"),
        T_base_board=_read_optional(raw, "T_base_board"),
        covariance_66=None if covariance is None else np.array(covariance, dtype=np.float64),
        held_out=None if held_out is None else HeldOutError(**{k: _or_nan(v) for k, v in held_out.items()}),
        failed_gates=tuple(str(name) for name in raw["failed_gates"]),
        sigma_mm=_optional(sigma["millimetres"]),
        sigma_deg=_optional(sigma["degrees"]),
        board=dict(raw["board"]),
        samples=int(raw["samples"]),
        robot_serial=str(serials["robot"]),
        leader_serial=str(serials["leader"]),
        gripper=None if gripper is None else GripperScale(int(gripper["closed_count"]), int(gripper["open_count"])),
        created_by=str(raw["created_by"]),
    )
    return calibration, {key: value for key, value in raw.items() if key not in _UNHASHED}


def _intrinsics(camera: PinholeCamera) -> dict[str, Any]:
    distortion = None if camera.distortion is None else [round(float(k), 12) for k in np.ravel(camera.distortion)]
    return {
        "image": {"width": camera.width, "height": camera.height},
        "intrinsics": {
            "fx": round(camera.fx, 6),
            "fy": round(camera.fy, 6),
            "cx": round(camera.cx, 6),
            "cy": round(camera.cy, 6),
            "distortion": distortion,
        },
    }


def _read_intrinsics(raw: Mapping[str, Any], T_base_camera: Array) -> PinholeCamera:
    intrinsics, image = raw["intrinsics"], raw["image"]
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


def _matrix(T: ArrayLike) -> list[list[float]]:
    return [[round(float(v), 9) + 0.0 for v in row] for row in np.asarray(T, dtype=np.float64)]


def _read_transform(raw: Mapping[str, Any], name: str) -> Array:
    T = np.array(raw[name], dtype=np.float64)
    check_rigid(name, T)
    return T


def _read_optional(raw: Mapping[str, Any], name: str) -> Array | None:
    return _read_transform(raw, name) if name in raw else None


def _significant(value: float | None) -> float | None:
    """Seven digits are more than any error figure is known to; what could not be determined (NaN) becomes null."""
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.6e}")


def _or_nan(value: Any) -> float:
    return math.nan if value is None else float(value)


def _optional(value: Any) -> float | None:
    number = None if value is None else float(value)
    if number is not None and not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {value!r}")
    return number
