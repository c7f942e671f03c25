"""A Robotiq 2F gripper behind the URCap's socket (port 63352), and the gripper unit itself.

Text: ``GET VAR`` -> ``VAR value``, ``SET VAR value [VAR value ...]`` -> ``ack`` without a line end (clients compare the
bytes); unknown variables are answered with ``?``. The real tool bus takes about 10 ms for a round trip, so answers
here are held back for a few frames. The unit takes its power from the arm: with the arm off everything reads ``?``.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from robot_bridge.arm_types import RobotMode
from robot_bridge.twin.controller_state import PERIOD_S
from robot_bridge.twin.faults import Faults
from robot_bridge.twin.ur_controller import UrController
from robot_bridge.twin.wire import LineConnection

PORT = 63352
OPEN_COUNT, CLOSED_COUNT = 3, 228
"""POS counts at the mechanical ends of a real 2F-85."""
BUS_LATENCY_S = 0.006
ACTIVATION_STROKE_S = 0.8
AT_TARGET_COUNTS = 3
OBJECT_DELAY_S = 0.06
"""After a new request the unit reports "moving" at least this long."""
WRITABLE = ("ACT", "GTO", "ATR", "ARD", "ADR", "FOR", "SPE", "POS")


class GripperUnit:
    """Registers of one gripper and the opening it drives the fingers to."""

    def __init__(self, controller: UrController, faults: Faults) -> None:
        self._controller = controller
        self._faults = faults
        self._registers = dict.fromkeys(WRITABLE, 0) | {"FOR": 100, "SPE": 255}
        self._target = 1.0
        self._requested_s = 0.0
        self._activating_until_s = 0.0
        self._stroke = 0
        self._status = 0

    @property
    def powered(self) -> bool:
        """The tool connector carries power."""
        return self._controller.modes.robot_mode >= RobotMode.POWER_ON

    def frame(self) -> None:
        """Once per controller frame: activation strokes, loss of power, the target for the physics."""
        if not self.powered:
            self._status, self._stroke = 0, 0
            self._registers["ACT"] = self._registers["GTO"] = 0
            return
        if self._stroke and self._now_s >= self._activating_until_s:
            self._stroke -= 1
            self._activating_until_s = self._now_s + ACTIVATION_STROKE_S
            self._target = 1.0
            if not self._stroke:
                self._status = 3
        drive = self._controller.world.gripper
        drive.speed_fraction = self._registers["SPE"] / 255.0
        drive.force_fraction = self._registers["FOR"] / 255.0
        self._controller.gripper_target = self._target

    def set(self, name: str, value: int) -> bool:
        """Write a register; False when there is none of that name."""
        if name not in WRITABLE or not 0 <= value <= 255 or not self.powered:
            return False
        before = dict(self._registers)
        self._registers[name] = value
        if name == "ACT":
            self._activate(value, before["ACT"])
        if self._status == 3 and self._registers["GTO"] and (name == "POS" or (name == "GTO" and not before["GTO"])):
            self._target = _opening(self._registers["POS"])
            self._requested_s = self._now_s
        elif name == "GTO" and not value:
            self._target = self._controller.world.gripper_opening
        return True

    def get(self, name: str) -> str:
        """A register as text, ``?`` when it cannot be read."""
        if not self.powered or self._faults.on("gripper_unknown"):
            return "?"
        values: dict[str, Callable[[], int]] = {
            "STA": lambda: self._status,
            "PRE": lambda: self._registers["POS"],
            "POS": self._position,
            "OBJ": self._object,
            "FLT": lambda: int(self._faults.value("gripper_fault")),
        }
        if name in values:
            return str(values[name]())
        return str(self._registers[name]) if name in self._registers else "?"

    @property
    def _now_s(self) -> float:
        return self._controller.state.timestamp

    def _activate(self, value: int, before: int) -> None:
        if not value:
            self._status, self._stroke = 0, 0
            self._target = self._controller.world.gripper_opening
        elif not before:
            # A real unit closes and opens once to find its ends.
            self._status, self._stroke = 1, 2
            self._target = 0.0
            self._activating_until_s = self._now_s + ACTIVATION_STROKE_S

    def _position(self) -> int:
        opening = self._controller.world.gripper_opening
        return round(CLOSED_COUNT + (OPEN_COUNT - CLOSED_COUNT) * opening)

    def _object(self) -> int:
        if self._status != 3 or self._now_s - self._requested_s < OBJECT_DELAY_S:
            return 0
        world = self._controller.world
        opening = world.gripper_opening
        if abs(opening - self._target) * (CLOSED_COUNT - OPEN_COUNT) <= AT_TARGET_COUNTS:
            return 3
        if world.gripper_object_detected:
            return 2 if self._target < opening else 1
        return 0


class RobotiqConnection(LineConnection):
    """One client of the gripper cap."""

    def __init__(self, sock: socket.socket, unit: GripperUnit, controller: UrController, faults: Faults) -> None:
        super().__init__(sock)
        self._unit = unit
        self._controller = controller
        self._faults = faults
        self._answers: deque[tuple[float, bytes]] = deque()

    def line(self, text: str) -> None:
        """Act at once, answer after the tool bus's latency."""
        if text and not self._faults.on("gripper_silent"):
            due_s = self._controller.state.timestamp + BUS_LATENCY_S
            self._answers.append((due_s, self._answer(text.split())))

    def frame(self) -> None:
        """Send answers that are due."""
        now_s = self._controller.state.timestamp + 0.5 * PERIOD_S
        while self._answers and self._answers[0][0] <= now_s:
            self.send(self._answers.popleft()[1])

    def _answer(self, words: list[str]) -> bytes:
        if words[0] == "GET" and len(words) == 2:
            return f"{words[1]} {self._unit.get(words[1])}\n".encode()
        if words[0] == "SET" and len(words) >= 3 and len(words) % 2:
            pairs = list(zip(words[1::2], words[2::2], strict=True))
            if all(value.isdigit() and self._unit.set(name, int(value)) for name, value in pairs):
                return b"ack"
        return b"?\n"


def _opening(count: int) -> float:
    """Opening fraction of a requested POS count; the ends lie inside 0..255."""
    return min(max((CLOSED_COUNT - count) / (CLOSED_COUNT - OPEN_COUNT), 0.0), 1.0)
