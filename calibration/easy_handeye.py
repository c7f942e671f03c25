"""Reads and writes the files of easy_handeye2, byte for byte as that package writes them.

``<name>.calib`` holds a result, ``<name>.samples`` the pairs of poses it was computed from; both are ROS messages
(``easy_handeye2_msgs/HandeyeCalibration`` and ``SampleList``) as rosidl_runtime_py's ``message_to_yaml`` prints them:
block style, fields in the order of the message, Python's shortest floats. The package keeps them under
``~/.ros2/easy_handeye2/calibrations`` and ``.../samples``.

Facts its files do not tell: a sample's robot pose is effector in base for ``eye_in_hand`` but *base in effector* for
``eye_on_base``, and its server never fills in the parameters of a sample list, so a ``.samples`` file does not say
which of the two it is.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike

from calibration.hand_eye_types import Array, Mode
from calibration.history import keep_copy
from calibration.poses import from_quaternion, inverse, to_quaternion

DIRECTORY = Path("~/.ros2/easy_handeye2")
TYPE_OF_MODE: Mapping[Mode, str] = {"eye_to_hand": "eye_on_base", "eye_in_hand": "eye_in_hand"}
_MODE_OF_TYPE: Mapping[str, Mode] = {name: mode for mode, name in TYPE_OF_MODE.items()}


class EasyHandeyeError(ValueError):
    """A file that easy_handeye2 could not have written; the message names the file, the field and the next action."""


@dataclass(frozen=True)
class HandeyeParameters:
    """``HandeyeCalibrationParameters``: which frames are meant; the two last ones are of MoveIt, unused."""

    name: str = ""
    calibration_type: str = ""
    robot_base_frame: str = ""
    robot_effector_frame: str = ""
    tracking_base_frame: str = ""
    tracking_marker_frame: str = ""
    freehand_robot_movement: bool = False
    move_group_namespace: str = "/"
    move_group: str = "manipulator"

    @property
    def mode(self) -> Mode | None:
        """The same in this house's words; None when the file does not say.

        Raises:
            EasyHandeyeError: a type that does not exist.
        """
        if not self.calibration_type:
            return None
        if self.calibration_type not in _MODE_OF_TYPE:
            raise EasyHandeyeError(
                f"unknown calibration_type {self.calibration_type!r}; choose one of {', '.join(_MODE_OF_TYPE)}"
            )
        return _MODE_OF_TYPE[self.calibration_type]


@dataclass(frozen=True)
class HandeyeTransform:
    """``geometry_msgs/Transform`` as it stands in the file: translation in metres, quaternion xyzw of any sign."""

    translation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation_xyzw: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)

    @classmethod
    def from_matrix(cls, T: ArrayLike) -> HandeyeTransform:
        """From a rigid 4x4 transform."""
        (x, y, z), (qx, qy, qz, qw) = to_quaternion(np.asarray(T, dtype=np.float64))
        return cls((float(x), float(y), float(z)), (float(qx), float(qy), float(qz), float(qw)))

    @property
    def matrix(self) -> Array:
        """As a 4x4 transform."""
        return from_quaternion(self.translation, self.rotation_xyzw)


@dataclass(frozen=True)
class HandeyeSample:
    """One pair of poses: ``robot`` see the module's docstring, ``tracking`` is marker in camera."""

    robot: HandeyeTransform = field(default_factory=HandeyeTransform)
    tracking: HandeyeTransform = field(default_factory=HandeyeTransform)


@dataclass(frozen=True)
class CalibFile:
    """Content of a ``.calib`` file; ``transform`` is camera in base (eye_on_base) or in effector (eye_in_hand)."""

    parameters: HandeyeParameters
    transform: HandeyeTransform


@dataclass(frozen=True)
class SamplesFile:
    """Content of a ``.samples`` file."""

    parameters: HandeyeParameters
    samples: tuple[HandeyeSample, ...]


def calib_path(name: str) -> Path:
    """Where easy_handeye2 looks for the calibration ``name``."""
    return DIRECTORY.expanduser() / "calibrations" / f"{name}.calib"


def samples_path(name: str) -> Path:
    """Where easy_handeye2 looks for the samples of ``name``."""
    return DIRECTORY.expanduser() / "samples" / f"{name}.samples"


def poses(samples: Sequence[HandeyeSample], mode: Mode) -> tuple[Array, Array]:
    """``T_base_tool`` [N, 4, 4] and ``T_camera_board`` [N, 4, 4] of samples; "tool" is the effector frame."""
    robot = [s.robot.matrix if mode == "eye_in_hand" else inverse(s.robot.matrix) for s in samples]
    tracking = [s.tracking.matrix for s in samples]
    return np.array(robot).reshape(-1, 4, 4), np.array(tracking).reshape(-1, 4, 4)


def sample_of_poses(T_base_tool: Array, T_camera_board: Array, mode: Mode) -> HandeyeSample:
    """Inverse of ``poses`` for one sample."""
    robot = T_base_tool if mode == "eye_in_hand" else inverse(T_base_tool)
    return HandeyeSample(HandeyeTransform.from_matrix(robot), HandeyeTransform.from_matrix(T_camera_board))


def read_calib(path: str | Path) -> CalibFile:
    """Read a ``.calib`` file.

    Raises:
        EasyHandeyeError: no file, not YAML, an unknown field, or a value of the wrong kind.
    """
    where, raw = _read(path)
    top = _fields(raw, ("parameters", "transform"), where)
    return CalibFile(_parameters(top, where), _transform(top.get("transform", {}), f"{where}: transform"))


def read_samples(path: str | Path) -> SamplesFile:
    """Read a ``.samples`` file; errors as ``read_calib``."""
    where, raw = _read(path)
    top = _fields(raw, ("parameters", "samples"), where)
    entries = top.get("samples", [])
    if not isinstance(entries, list):
        raise EasyHandeyeError(f"{where}: samples must be a list, got {type(entries).__name__}")
    samples = []
    for index, entry in enumerate(entries):
        place = f"{where}: sample {index}"
        pair = _fields(entry, ("robot", "tracking"), place)
        robot, tracking = (_transform(pair.get(name, {}), f"{place}: {name}") for name in ("robot", "tracking"))
        samples.append(HandeyeSample(robot, tracking))
    return SamplesFile(_parameters(top, where), tuple(samples))


def write_calib(path: str | Path, calib: CalibFile) -> None:
    """Write a ``.calib`` file as easy_handeye2 would; another one at that place is kept in ``history/``."""
    _write(path, {"parameters": asdict(calib.parameters), "transform": _mapping(calib.transform)})


def write_samples(path: str | Path, content: SamplesFile) -> None:
    """Write a ``.samples`` file as easy_handeye2 would; another one at that place is kept in ``history/``."""
    samples = [{"robot": _mapping(s.robot), "tracking": _mapping(s.tracking)} for s in content.samples]
    _write(path, {"parameters": asdict(content.parameters), "samples": samples})


def _write(path: str | Path, document: Mapping[str, Any]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump(document, allow_unicode=True, width=sys.maxsize, default_flow_style=False, sort_keys=False)
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != text:
        keep_copy(path, datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime("%Y%m%dT%H%M%SZ"))
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _mapping(transform: HandeyeTransform) -> dict[str, dict[str, float]]:
    return {
        "translation": dict(zip("xyz", transform.translation, strict=True)),
        "rotation": dict(zip("xyzw", transform.rotation_xyzw, strict=True)),
    }


def _read(path: str | Path) -> tuple[str, Any]:
    try:
        return str(path), yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise EasyHandeyeError(
            f"cannot read {path}: {error.strerror}; easy_handeye2 keeps its files in {DIRECTORY}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EasyHandeyeError(f"{path} is not valid YAML: {error}") from error


def _fields(raw: Any, known: Sequence[str], where: str) -> Mapping[str, Any]:
    """A mapping without unknown keys: easy_handeye2 refuses those too; missing ones keep the message's defaults."""
    if not isinstance(raw, Mapping):
        raise EasyHandeyeError(f"{where}: expected the fields {', '.join(known)}, got {type(raw).__name__}")
    unknown = [str(key) for key in raw if key not in known]
    if unknown:
        raise EasyHandeyeError(f"{where}: unknown field {unknown[0]!r}; easy_handeye2 knows {', '.join(known)}")
    return raw


def _parameters(top: Mapping[str, Any], where: str) -> HandeyeParameters:
    kinds = {f.name: type(f.default) for f in fields(HandeyeParameters)}
    raw = _fields(top.get("parameters", {}), tuple(kinds), f"{where}: parameters")
    for name, value in raw.items():
        if not isinstance(value, kinds[name]):
            raise EasyHandeyeError(f"{where}: parameters: {name} must be a {kinds[name].__name__}, got {value!r}")
    return HandeyeParameters(**raw)


def _transform(raw: Any, where: str) -> HandeyeTransform:
    parts = _fields(raw, ("translation", "rotation"), where)
    x, y, z = _numbers(parts.get("translation", {}), {"x": 0.0, "y": 0.0, "z": 0.0}, f"{where}: translation")
    turn = {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0}
    qx, qy, qz, qw = _numbers(parts.get("rotation", {}), turn, f"{where}: rotation")
    if abs(math.hypot(qx, qy, qz, qw) - 1.0) > 1e-3:
        raise EasyHandeyeError(f"{where}: the quaternion's norm is {math.hypot(qx, qy, qz, qw):.4f}, must be 1")
    return HandeyeTransform((x, y, z), (qx, qy, qz, qw))


def _numbers(raw: Any, defaults: Mapping[str, float], where: str) -> list[float]:
    values = {**defaults, **_fields(raw, tuple(defaults), where)}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise EasyHandeyeError(f"{where}: {name} must be a finite number, got {value!r}")
    return [float(values[name]) for name in defaults]
