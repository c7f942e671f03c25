"""The variables of RTDE: their types, where the controller keeps them, and packers for client-chosen recipes.

A recipe is a list of names the client picks once. For each we generate one Python function that packs (or unpacks)
exactly that list: at 500 Hz and 110 numbers a packet, a loop over getters would cost more than the physics.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from robot_bridge.twin.controller_state import ControllerState

FORMATS = {
    "DOUBLE": "d",
    "VECTOR6D": "6d",
    "VECTOR3D": "3d",
    "VECTOR6INT32": "6i",
    "INT32": "i",
    "UINT32": "I",
    "UINT64": "Q",
    "UINT8": "B",
    "BOOL": "?",
}
REGISTERS = 48

_VECTORS = [
    "target_q",
    "target_qd",
    "target_qdd",
    "target_current",
    "target_moment",
    "actual_q",
    "actual_qd",
    "actual_current",
    "joint_control_output",
    "actual_TCP_pose",
    "actual_TCP_speed",
    "actual_TCP_force",
    "target_TCP_pose",
    "target_TCP_speed",
    "joint_temperatures",
    "actual_joint_voltage",
    "ft_raw_wrench",
    "payload_inertia",
]
_DOUBLES = [
    "timestamp",
    "actual_execution_time",
    "speed_scaling",
    "target_speed_fraction",
    "actual_momentum",
    "actual_main_voltage",
    "actual_robot_voltage",
    "actual_robot_current",
    "standard_analog_input0",
    "standard_analog_input1",
    "standard_analog_output0",
    "standard_analog_output1",
    "payload",
]
OUTPUT_TYPES: dict[str, str] = (
    dict.fromkeys(_VECTORS, "VECTOR6D")
    | dict.fromkeys(_DOUBLES, "DOUBLE")
    | dict.fromkeys(("actual_tool_accelerometer", "payload_cog"), "VECTOR3D")
    | dict.fromkeys(("actual_digital_input_bits", "actual_digital_output_bits"), "UINT64")
    | dict.fromkeys(("robot_mode", "safety_mode"), "INT32")
    | dict.fromkeys(("runtime_state", "robot_status_bits", "safety_status_bits"), "UINT32")
    | {"joint_mode": "VECTOR6INT32"}
)
"""What PolyScope 5.15 offers and clients of this robot ask for; all attributes of ``ControllerState``."""

IO_TYPES: dict[str, str] = {
    "speed_slider_mask": "UINT32",
    "speed_slider_fraction": "DOUBLE",
    "external_force_torque": "VECTOR6D",
    "standard_analog_output_0": "DOUBLE",
    "standard_analog_output_1": "DOUBLE",
} | dict.fromkeys(
    (
        "standard_digital_output_mask",
        "standard_digital_output",
        "configurable_digital_output_mask",
        "configurable_digital_output",
        "tool_digital_output_mask",
        "tool_digital_output",
        "standard_analog_output_mask",
        "standard_analog_output_type",
    ),
    "UINT8",
)
"""Inputs that act on the controller's input/output board instead of a register."""

_REGISTER = re.compile(r"(input|output)_(int|double)_register_(\d+)$|(input|output)_bit_register_(\d+)$")


def register(name: str) -> tuple[str, int, str] | None:
    """(attribute of ControllerState, index, type) of a general purpose register, None for other names."""
    found = _REGISTER.match(name)
    if found is None:
        return None
    if found.group(1):
        index = int(found.group(3))
        if index >= REGISTERS:
            return None
        kind = found.group(2)
        return f"{found.group(1)}_{kind}_registers", index, "INT32" if kind == "int" else "DOUBLE"
    index = int(found.group(5))
    return (f"{found.group(4)}_bit_registers", index, "BOOL") if 64 <= index < 128 else None


def output_type(name: str) -> str:
    """RTDE type of a variable that can be read, or NOT_FOUND. Input registers can be read back."""
    found = register(name)
    return found[2] if found else OUTPUT_TYPES.get(name, "NOT_FOUND")


def input_type(name: str) -> str:
    """RTDE type of a variable that can be written, or NOT_FOUND."""
    found = register(name)
    if found:
        return found[2] if found[0].startswith("input") else "NOT_FOUND"
    return IO_TYPES.get(name, "NOT_FOUND")


def make_packer(names: Sequence[str], recipe: int) -> Callable[[ControllerState], bytes]:
    """A function that packs one data package (header included) of the given output names."""
    parts, layout = [], ">HBB"
    for name in names:
        kind, found = output_type(name), register(name)
        layout += FORMATS[kind]
        if found:
            parts.append(f"s.{found[0]}[{found[1]}]")
        else:
            parts.append(f"*s.{name}" if kind.startswith("VECTOR") else f"s.{name}")
    packing = struct.Struct(layout)
    source = f"lambda s: pack({packing.size}, 85, {recipe}, {', '.join(parts)})"
    packer: Callable[[ControllerState], bytes] = eval(source, {"pack": packing.pack})
    return packer


class InputRecipe:
    """One input recipe of a connection: names in order, and how its packages reach the controller."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = frozenset(names)
        self._packing = struct.Struct(">" + "".join(FORMATS[input_type(name)] for name in names))
        self._io: list[tuple[str, int, int]] = []
        position = 0
        by_array: dict[str, tuple[list[int], list[int]]] = {}
        for name in names:
            found = register(name)
            width = 6 if input_type(name) == "VECTOR6D" else 1
            if found:
                indices, positions = by_array.setdefault(found[0], ([], []))
                indices.append(found[1])
                positions.append(position)
            else:
                self._io.append((name, position, width))
            position += width
        self._arrays = [(array, indices, positions) for array, (indices, positions) in by_array.items()]

    @property
    def size(self) -> int:
        """Bytes of a package after the recipe id."""
        return self._packing.size

    def apply(self, data: bytes | memoryview, state: ControllerState) -> bool:
        """Store a package. A longer one is cut; False for a shorter one, which is dropped."""
        if len(data) < self._packing.size:
            return False
        values = self._packing.unpack_from(data)
        for array, indices, positions in self._arrays:
            registers = getattr(state, array)
            for index, position in zip(indices, positions, strict=True):
                registers[index] = values[position]
        if self._io:
            state.apply_io({name: values[at] if w == 1 else values[at : at + w] for name, at, w in self._io})
        if state.watchdog_variable in self.names:
            state.watchdog_fed_s = state.timestamp
        return True
