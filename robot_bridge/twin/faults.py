"""Faults at every wire of the twin: named switches that tests and operators turn while the lab runs.

All processes of one lab share ``<directory>/faults.json``, a flat mapping from fault name to value. The controller
writes it (lab operation ``fault``), everyone reads it: ``poll()`` costs one ``stat`` call while nothing changes.

Kinds of values: ``fraction`` 0..1, ``seconds``, ``number``, ``switch`` true/false, ``count``: a one-shot fault
that strikes once whenever its number grows (``set(name, True)`` adds one), and ``pose``: six numbers [dx, dy, dz m,
rotation vector rad], all zero when off.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE_NAME = "faults.json"


class FaultError(ValueError):
    """A fault that does not exist or a value it cannot take; the message lists what is possible."""


@dataclass(frozen=True)
class FaultSpec:
    """One switch: its name, the wire it sits on, what it takes and what it does."""

    name: str
    wire: str
    kind: str
    description: str


FAULTS: dict[str, FaultSpec] = {
    spec.name: spec
    for spec in (
        FaultSpec("rtde_drop", "rtde", "fraction", "this share of the controller's RTDE state packets is never sent"),
        FaultSpec("rtde_late", "rtde", "seconds", "RTDE state packets are sent this much later than they were made"),
        FaultSpec("rtde_in_use", "rtde", "switch", "input registers are taken, as by an enabled EtherNet/IP adapter"),
        FaultSpec("freeze", "controller", "seconds", "after each rise of this value the controller hangs that long"),
        FaultSpec("not_in_remote", "dashboard", "switch", "the pendant is in local control: remote commands refused"),
        FaultSpec("script_error", "urscript", "count", "the running robot program dies of a run-time error"),
        FaultSpec("gripper_unknown", "gripper", "switch", "the gripper cap answers every GET with '?'"),
        FaultSpec("gripper_fault", "gripper", "number", "the FLT code that the gripper reports (0: none)"),
        FaultSpec("gripper_silent", "gripper", "switch", "the gripper cap accepts connections but never answers"),
        FaultSpec("servo_timeout", "leader", "fraction", "this share of the leader's servo replies never comes"),
        FaultSpec("servo_crc", "leader", "fraction", "this share of the leader's servo replies has a wrong CRC"),
        FaultSpec("leader_power_cycle", "leader", "count", "the leader's servos lose power: multi-turn counts wrap"),
        FaultSpec("frame_drop", "camera", "fraction", "this share of the camera's frames is lost"),
        FaultSpec("frame_freeze", "camera", "switch", "the camera stops delivering frames"),
        FaultSpec("camera_nudge", "camera", "pose", "somebody bumped the camera: moved by this in its optical frame"),
    )
}

Value = float | bool | Sequence[float]


class Faults:
    """The switches of one lab.

    Args:
        directory: the lab's directory (``twin.directory`` of the cell file); need not exist before ``set``.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / FILE_NAME
        self._name = str(self.path)
        self._seen: tuple[int, int] | None = None
        self._values: dict[str, Value] = {}
        self._struck: dict[str, float] = {}
        self.poll()
        self._struck = {name: self.value(name) for name, spec in FAULTS.items() if spec.kind != "pose"}

    def poll(self) -> bool:
        """Read the file again if it changed; True when it did."""
        try:
            status = os.stat(self._name)
        except FileNotFoundError:
            changed = self._seen != (0, 0)
            self._seen, self._values = (0, 0), {}
            return changed
        # Each write is a new file: its number tells two writes apart that fall into one tick of the file clock.
        seen = (status.st_mtime_ns, status.st_ino)
        if seen == self._seen:
            return False
        self._seen = seen
        self._values = {name: value for name, value in json.loads(self.path.read_text()).items() if name in FAULTS}
        return True

    def value(self, name: str) -> float:
        """The switch's present value as a number (0 when it was never set)."""
        value = self._values.get(name, 0.0)
        if not isinstance(value, bool | int | float):
            raise TypeError(f"fault {name!r} holds a pose; read it with pose()")
        return float(value)

    def pose(self, name: str) -> NDArray[np.float64]:
        """A ``pose`` fault's six numbers, zeros when it was never set."""
        return np.array(self._values.get(name, [0.0] * 6), dtype=np.float64)

    def on(self, name: str) -> bool:
        """Whether a switch is turned on."""
        return bool(self._values.get(name, False))

    def strikes(self, name: str) -> bool:
        """True once after each growth of a ``count`` (or a rise of ``freeze``) since the last call."""
        value = self.value(name)
        before = self._struck.get(name, 0.0)
        self._struck[name] = value
        return value > before

    def set(self, name: str, value: Value) -> None:
        """Turn a switch and write the file atomically, so that no reader sees half of it; ``poll`` reports the change.

        Raises:
            FaultError: unknown name, or a value outside what its kind allows.
        """
        spec = fault_spec(name)
        self.poll()
        if spec.kind == "pose":
            self._values[name] = _checked_pose(spec, value)
        else:
            number = _checked(spec, value)
            if spec.kind == "count" and value is True:
                number = self.value(name) + 1.0
            self._values[name] = bool(number) if spec.kind == "switch" else number
        self._write()

    def clear(self) -> None:
        """Turn every switch off; counts keep their number, so that nothing strikes."""
        self.poll()
        self._values = {name: value for name, value in self._values.items() if FAULTS[name].kind == "count"}
        self._write()

    def describe(self) -> list[dict[str, object]]:
        """One entry a fault, ready for a table: name, wire, kind, description, value."""
        return [
            {"name": s.name, "wire": s.wire, "kind": s.kind, "description": s.description, "value": self._shown(s)}
            for s in FAULTS.values()
        ]

    def _shown(self, spec: FaultSpec) -> float | list[float]:
        return self.pose(spec.name).tolist() if spec.kind == "pose" else self.value(spec.name)

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self._values, indent=1, sort_keys=True) + "\n")
        temporary.replace(self.path)


def fault_spec(name: str) -> FaultSpec:
    """The switch of that name.

    Raises:
        FaultError: there is none; the message lists all of them and the nearest.
    """
    if name in FAULTS:
        return FAULTS[name]
    near = difflib.get_close_matches(name, FAULTS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise FaultError(f"no fault named {name!r}{hint} Faults are: {', '.join(FAULTS)}")


def _checked(spec: FaultSpec, value: Value) -> float:
    if not isinstance(value, bool | int | float):
        raise FaultError(f"fault {spec.name!r} takes a {spec.kind}, got {value!r}")
    number = float(value)
    if spec.kind == "fraction" and not 0.0 <= number <= 1.0:
        raise FaultError(f"fault {spec.name!r} is a share between 0 and 1, got {value!r}")
    if not 0.0 <= number < float("inf"):
        raise FaultError(f"fault {spec.name!r} takes a number that is not negative, got {value!r}")
    return number


def _checked_pose(spec: FaultSpec, value: Value) -> list[float]:
    numbers = [] if isinstance(value, bool | int | float | str) else [float(number) for number in value]
    if len(numbers) != 6 or not np.isfinite(numbers).all():
        raise FaultError(
            f"fault {spec.name!r} takes six numbers, [dx, dy, dz] in metres and a rotation vector in radians, "
            f"got {value!r}"
        )
    return numbers
