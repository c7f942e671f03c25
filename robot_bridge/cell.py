"""The cell file: which devices stand where, and how fast they may move.

One YAML per cell (``config/cells/*.yaml``). The twin and a real cell differ here only in addresses:
host name, tty path and the camera's device factory. Nothing else in the house may ask which one it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from robot_bridge.cell_overrides import Overrides, override, profile_overrides

T = TypeVar("T")
CAMERA_MOUNTS = ("fixed", "tool")


class CellError(ValueError):
    """A cell file that cannot be used; the message names the field, the value and the next action."""


@dataclass(frozen=True)
class RobotConfig:
    """The follower arm. ``host`` is an IP address: RTDE ports are fixed, so two robots need two addresses."""

    model: str
    host: str
    dashboard: bool = True
    home_rad: tuple[float, ...] = (0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0)
    tcp_offset: tuple[float, ...] = (0.0, 0.0, 0.174, 0.0, 0.0, 0.0)
    payload_kg: float = 1.0
    payload_cog_m: tuple[float, ...] = (0.0, 0.0, 0.06)
    servo_rate_hz: float = 500.0
    servo_lookahead_s: float = 0.03
    servo_gain: float = 600.0


@dataclass(frozen=True)
class GripperConfig:
    """Robotiq 2F on the URCap socket; counts at the two ends come from gripper calibration."""

    host: str
    port: int = 63352
    open_count: int = 3
    closed_count: int = 228
    speed: int = 255
    force: int = 120
    calibration_file: str = ""
    """Measured counts, written by the gripper's calibration; they replace the two above."""


@dataclass(frozen=True)
class LeaderConfig:
    """GELLO leader arm on a serial port; offsets are looked up by servo-set name in ``offsets_file``."""

    port: str
    baud_rate: int = 1_000_000
    servo_ids: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
    offsets_file: str = ""
    rate_hz: float = 100.0


@dataclass(frozen=True)
class CameraConfig:
    """Fixed third-person D455. ``device`` is "realsense" or "twin" (a device factory in ``d455.py``)."""

    device: str
    serial: str = ""
    frames_path: str = ""
    width: int = 424
    height: int = 240
    rate_hz: int = 30
    calibration_file: str = ""


@dataclass(frozen=True)
class SafetyConfig:
    """Soft envelope; far inside the robot's own safety configuration, which stays the safety function."""

    workspace_min_m: tuple[float, ...] = (-0.90, -0.45, 0.016)
    workspace_max_m: tuple[float, ...] = (-0.35, 0.45, 0.60)
    tcp_speed_mps: float = 0.25
    tcp_rotation_speed_radps: float = 1.5
    joint_speed_radps: float = 1.2
    joint_acceleration_radps2: float = 6.0
    hold_deceleration_radps2: float = 12.0
    jump_rad: float = 0.5
    stale_s: float = 0.06
    engage_difference_rad: float = 0.2


@dataclass(frozen=True)
class TwinConfig:
    """The digital lab behind this cell, absent on real hardware.

    ``task`` is the scene at the start. ``camera_seed`` 0 leaves the camera at its nominal place, any other moves it by
    a secret offset of centimetres and degrees; ``camera_mount`` says whether it is fixed or rides on the tool.
    """

    directory: str
    lab_port: int = 30900
    operator_port: int = 30901
    task: str = "place_cube"
    seed: int = 0
    dh_deltas: bool = True
    leader_baud_timing: bool = True
    camera_seed: int = 0
    camera_mount: str = "fixed"

    def __post_init__(self) -> None:
        if self.camera_mount not in CAMERA_MOUNTS:
            raise CellError(f"twin.camera_mount must be one of {', '.join(CAMERA_MOUNTS)}, got {self.camera_mount!r}")
        if self.camera_seed < 0:
            raise CellError(f"twin.camera_seed must not be negative, got {self.camera_seed}")

    leader_seed: int = 0
    """0: the leader's servos sit on their marks; else secret offsets and directions, to be calibrated."""


@dataclass(frozen=True)
class CellConfig:
    """One robot cell; ``twin`` is None on hardware."""

    name: str
    robot: RobotConfig
    gripper: GripperConfig
    leader: LeaderConfig
    camera: CameraConfig
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    control_rate_hz: float = 10.0
    twin: TwinConfig | None = None


def load_cell(
    path: str | Path, *, host: str = "", camera_profile: str = "", overrides: Overrides | None = None
) -> CellConfig:
    """Read and check a cell file.

    Args:
        path: YAML file.
        host: replaces ``{host}`` in the file, so that several labs can run from one cell file
            (default 127.0.0.1). The twin's cell file uses it; hardware files name their own address.
        camera_profile: size and rate of the camera instead of the file's, as ``848x480@6``; empty: as in the file.
        overrides: further values instead of the file's, as ``{"twin.camera_seed": 5}``.

    Raises:
        CellError: missing file, YAML error, unknown or missing key, wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise CellError(f"no cell file at {path}; pass cell:=twin, cell:=ur30e or the path of a YAML file")
    try:
        raw = yaml.safe_load(path.read_text().replace("{host}", host or "127.0.0.1"))
    except yaml.YAMLError as error:
        raise CellError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, Mapping):
        raise CellError(f"{path} must hold a mapping with the keys {_names(CellConfig)}, got {type(raw).__name__}")
    try:
        raw = override(raw, {**profile_overrides(camera_profile), **(overrides or {})})
    except ValueError as error:
        raise CellError(f"{path.name}: {error}") from error
    return _build(CellConfig, raw, where=path.name)


def _names(cls: type) -> str:
    return ", ".join(f.name for f in fields(cls))


def _build(cls: type[T], raw: Any, where: str) -> T:
    """Turn a mapping into a dataclass, refusing unknown keys and wrong types with the field's path."""
    if not isinstance(raw, Mapping):
        raise CellError(f"{where} must be a mapping with the keys {_names(cls)}, got {raw!r}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise CellError(f"{where}: unknown key {key!r}, known keys are {_names(cls)}{hint}")
    for name, spec in known.items():
        if name not in raw and spec.default is MISSING and spec.default_factory is MISSING:
            raise CellError(f"{where}: key {name!r} is missing; add it")
    hints = get_type_hints(cls)
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in raw.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if type(None) in get_args(hint):
        return None if value is None else _convert(next(a for a in get_args(hint) if a is not type(None)), value, where)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise CellError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(get_args(hint)[0], item, where) for item in value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise CellError(f"{where} must be of type {hint.__name__}, got {value!r}")
