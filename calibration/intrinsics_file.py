"""A lens calibration on disk, apart from where the camera stands: what hand-eye calibration may use instead of the
factory's values.

    format: prophrl-intrinsics/1
    date: 2025-06-01T12:00:00+00:00
    serial: "234322304889"
    image: {width: 848, height: 480}
    intrinsics: {fx: 424.1, fy: 424.0, cx: 423.2, cy: 240.1, distortion: [0.01, -0.02, 0.0, 0.0, 0.0]}
    rms_px: 0.12
    held_out_rms_px: 0.14
    views: 14
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import yaml

from calibration.camera import PinholeCamera
from calibration.intrinsics import IntrinsicsResult

FORMAT = "prophrl-intrinsics/1"


class IntrinsicsFileError(ValueError):
    """A file that holds no usable intrinsics; the message names it and what is wrong."""


def save_intrinsics(path: str | Path, result: IntrinsicsResult, *, serial: str) -> None:
    """Write an accepted result in one step.

    Raises:
        ValueError: the result was refused; its reasons.
    """
    if not result.ok:
        raise ValueError(f"refused intrinsics are not written: {'; '.join(result.refusals)}")
    path, camera = Path(path), result.camera
    distortion = None if camera.distortion is None else [round(float(k), 12) for k in np.ravel(camera.distortion)]
    document = {
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "serial": serial,
        "image": {"width": camera.width, "height": camera.height},
        "intrinsics": {
            "fx": round(float(camera.fx), 6),
            "fy": round(float(camera.fy), 6),
            "cx": round(float(camera.cx), 6),
            "cy": round(float(camera.cy), 6),
            "distortion": distortion,
        },
        "rms_px": round(float(result.rms_px), 6),
        "held_out_rms_px": round(float(result.held_out_rms_px), 6) if math.isfinite(result.held_out_rms_px) else None,
        "views": int(np.isfinite(result.per_view_rms_px).sum()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(yaml.safe_dump(document, sort_keys=False, default_flow_style=None))
    temporary.replace(path)


def load_intrinsics(path: str | Path) -> PinholeCamera:
    """The camera of such a file, without a pose.

    Raises:
        IntrinsicsFileError: no file, not this format, or values no camera can have.
    """
    path = Path(path)
    if not path.is_file():
        raise IntrinsicsFileError(f"no intrinsics at {path}; `prophrl calibrate intrinsics` writes them")
    try:
        raw = yaml.safe_load(path.read_text())
        if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
            raise ValueError(f"not of format {FORMAT!r}")
        values, image = raw["intrinsics"], raw["image"]
        distortion = values["distortion"]
        camera = PinholeCamera(
            fx=float(values["fx"]),
            fy=float(values["fy"]),
            cx=float(values["cx"]),
            cy=float(values["cy"]),
            width=int(image["width"]),
            height=int(image["height"]),
            distortion=None if distortion is None else np.array(distortion, dtype=np.float64),
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise IntrinsicsFileError(f"{path}: {type(error).__name__}: {error}; calibrate the lens again") from error
    if not np.isfinite(camera.K).all():
        raise IntrinsicsFileError(f"{path}: values that are not finite; calibrate the lens again")
    return camera
