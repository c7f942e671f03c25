"""What can go wrong with the leader, by name.

Lasting faults of the wire come from two places that add up: the operator port (``fault`` operation of the
leader's process) and the lab's shared fault file. The larger value counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robot_bridge.twin.dynamixel_bus import DynamixelBus
from robot_bridge.twin.faults import Faults
from robot_bridge.twin.xl330 import HARDWARE_ERROR, TORQUE_ENABLE

NAMES = {
    "silent": "true: no servo answers anything (power supply off, wrong cable)",
    "missing": "list of servo ids that do not answer (a broken cable: name one and all after it)",
    "crc": "share 0..1 of status packets with a flipped bit",
    "timeout": "share 0..1 of instructions that get no answer",
    "no_fast_read": "true: old firmware, fast sync read is not understood",
    "power_cycle": "seconds without power; position registers restart within one turn, RAM is lost",
    "torque": "list of ids whose torque someone left on (an empty list releases all)",
    "hardware_error": "list of ids that report an overload and drop their torque (an empty list clears it)",
}
_OVERLOAD = 0x20
_POWER_OFF_S = 0.3


class LeaderFaults:
    """Applies faults to one bus."""

    def __init__(self, bus: DynamixelBus, directory: str | Path) -> None:
        self._bus = bus
        self._shared = Faults(directory)
        self._crc = 0.0
        self._timeout = 0.0

    def poll(self, now_s: float) -> None:
        """Take over the shared fault file when it changed."""
        if self._shared.poll():
            self._update_rates()
        if self._shared.strikes("leader_power_cycle"):
            self.power_cycle(now_s, _POWER_OFF_S)

    def apply(self, name: str, value: Any, now_s: float) -> None:
        """Turn one fault on or off.

        Raises:
            ValueError: unknown name or unusable value; the message lists the names.
        """
        faults = self._bus.faults
        if name == "silent":
            faults.silent = bool(value)
        elif name == "missing":
            faults.missing = self._ids(value)
        elif name == "no_fast_read":
            faults.no_fast_read = bool(value)
        elif name == "crc":
            self._crc = _share(name, value)
        elif name == "timeout":
            self._timeout = _share(name, value)
        elif name == "power_cycle":
            self.power_cycle(now_s, float(value))
        elif name == "torque":
            self._poke_each(TORQUE_ENABLE, self._ids(value), 1, now_s)
        elif name == "hardware_error":
            ids = self._ids(value)
            self._poke_each(HARDWARE_ERROR, ids, _OVERLOAD, now_s)
            self._poke_each(TORQUE_ENABLE, set(), 0, now_s)
        else:
            listing = "; ".join(f"{key}: {text}" for key, text in NAMES.items())
            raise ValueError(f"no leader fault named {name!r}; {listing}")
        self._update_rates()

    def power_cycle(self, now_s: float, off_s: float) -> None:
        """Cut the power of all servos for a while."""
        for servo in self._bus.servos:
            servo.power_cycle(now_s, off_s)

    def _update_rates(self) -> None:
        self._bus.faults.crc_error_rate = max(self._crc, self._shared.value("servo_crc"))
        self._bus.faults.timeout_rate = max(self._timeout, self._shared.value("servo_timeout"))

    def _poke_each(self, address: int, ids: set[int], value: int, now_s: float) -> None:
        for servo in self._bus.servos:
            if address == TORQUE_ENABLE and servo.servo_id in ids:
                servo.write(TORQUE_ENABLE, bytes([1]))
            else:
                servo.poke(address, value if servo.servo_id in ids else 0)

    def _ids(self, value: Any) -> set[int]:
        known = [servo.servo_id for servo in self._bus.servos]
        if not isinstance(value, list) or any(item not in known for item in value):
            raise ValueError(f"expected a list of servo ids out of {known}, got {value!r}")
        return set(value)


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"leader fault {name!r} is a share between 0 and 1, got {value!r}")
    return float(value)
