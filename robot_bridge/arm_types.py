"""What the arm's driver reports: measurements, errors with their remedies, pacing statistics."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class RobotMode(IntEnum):
    """RTDE ``robot_mode``; the dashboard uses the same names, ``prophrl_interfaces`` the same values."""

    NO_CONTROLLER = -1
    DISCONNECTED = 0
    CONFIRM_SAFETY = 1
    BOOTING = 2
    POWER_OFF = 3
    POWER_ON = 4
    IDLE = 5
    BACKDRIVE = 6
    RUNNING = 7


class SafetyMode(IntEnum):
    """RTDE ``safety_mode``."""

    NORMAL = 1
    REDUCED = 2
    PROTECTIVE_STOP = 3
    RECOVERY = 4
    SAFEGUARD_STOP = 5
    SYSTEM_EMERGENCY_STOP = 6
    ROBOT_EMERGENCY_STOP = 7
    VIOLATION = 8
    FAULT = 9


class RuntimeState(IntEnum):
    """RTDE ``runtime_state``."""

    STOPPING = 0
    STOPPED = 1
    PLAYING = 2
    PAUSING = 3
    PAUSED = 4
    RESUMING = 5


SAFE_MODES = (SafetyMode.NORMAL, SafetyMode.REDUCED)
REMEDIES = {
    SafetyMode.PROTECTIVE_STOP: "protective stop; look why, clear the arm, then recover",
    SafetyMode.RECOVERY: "safety recovery mode; move the arm back within its limits on the pendant, then recover",
    SafetyMode.SAFEGUARD_STOP: "safeguard stop; close the door or clear the light curtain, then recover",
    SafetyMode.SYSTEM_EMERGENCY_STOP: "emergency stop; release the button, then recover",
    SafetyMode.ROBOT_EMERGENCY_STOP: "emergency stop; release the button, then recover",
    SafetyMode.VIOLATION: "safety violation; restart safety on the pendant, then recover",
    SafetyMode.FAULT: "safety fault; restart safety on the pendant, then recover",
}
PROGRAM_ENDED = "the control program has ended (stopped on the pendant, watchdog or error); recover starts it again"


class ArmError(RuntimeError):
    """The arm cannot do what was asked; the message names the reason and the next action."""


class ControllerUnreachable(ArmError):
    """No controller answers at the configured address."""


class ControllerInUse(ArmError):
    """Another program owns the controller's RTDE inputs."""


class NotInRemoteControl(ArmError):
    """The pendant is in local control."""


class RobotStopped(ArmError):
    """A stop of the safety system, which a person has to look at."""


class MoveFailed(ArmError):
    """A move ended elsewhere than at its goal."""


class MoveRefused(ArmError):
    """A move that was not begun: its goal or its path is not safe."""


@dataclass(frozen=True)
class ArmState:
    """One measurement; all fields come from the same controller cycle.

    ``stamp_ns`` is this machine's ``time.time_ns()`` when the sample was taken, ``timestamp_s`` the controller's clock.
    """

    q: tuple[float, ...]
    """Joint angles [6] rad."""
    qd: tuple[float, ...]
    """Joint velocities [6] rad/s."""
    T_base_tcp: Array
    """TCP pose [4, 4] in base, by the controller's calibrated kinematics."""
    tcp_speed: tuple[float, ...]
    """TCP velocity [6] in base, m/s and rad/s."""
    robot_mode: int
    safety_mode: int
    runtime_state: int
    speed_scaling: float
    """How much of its commanded speed the controller lets the arm have, 0 to 1: slider and limiter together."""
    timestamp_s: float
    stamp_ns: int


class ArmLink(Protocol):
    """What the servo loop needs of a connected arm. All calls come from the loop's own thread."""

    def sample(self) -> ArmState | None:
        """The newest measurement, None when the controller has sent nothing new."""

    def stop_cause(self) -> str:
        """Why the arm cannot be commanded now, with the remedy; empty when it can."""

    def connected(self) -> bool:
        """Measurements arrive."""

    def reconnect(self) -> None:
        """Open the measuring connection again (never moves or powers the arm). Raises ArmError."""

    def recover(self) -> None:
        """Make the arm ready for commands after a stop. Raises ArmError when a person has to act first."""

    def servo(self, q: list[float]) -> bool:
        """Send one setpoint [6] rad; False when the controller did not take it."""

    def end_servo(self) -> None:
        """Leave servo mode at rest."""

    def keep_alive(self) -> None:
        """Feed the controller's watchdog without a command."""

    def start_move(self, q: list[float], speed_radps: float, acceleration_radps2: float) -> None:
        """Start a joint move. Raises ArmError."""

    def start_line(self, T_base_tcp: Array, speed_mps: float, acceleration_mps2: float) -> None:
        """Start a straight TCP line. Raises ArmError."""

    def moving(self) -> bool:
        """The started move goes on."""

    def stop_move(self) -> None:
        """Brake a started move; returns at once."""

    def close(self) -> None:
        """End the program and all connections."""


class PaceMeter:
    """How regularly setpoints leave: lateness against the loop's deadlines, over the last ``kept`` periods."""

    def __init__(self, period_s: float, kept: int = 30_000) -> None:
        self.period_s = period_s
        self.sent = 0
        self.skipped = 0
        self._kept = kept
        self._late_s = array("f")

    def add(self, late_s: float) -> None:
        """Book one period that started this late."""
        if len(self._late_s) < self._kept:
            self._late_s.append(late_s)
        else:
            self._late_s[self.sent % self._kept] = late_s
        self.sent += 1

    def figures(self) -> dict[str, float]:
        """Lateness p50, p99, p99.9 and maximum in milliseconds; periods sent and skipped."""
        ordered = sorted(self._late_s)
        if not ordered:
            return {"sent": 0.0, "skipped": 0.0}

        def at(share: float) -> float:
            return round(1e3 * ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))], 3)

        return {
            "late_p50_ms": at(0.5),
            "late_p99_ms": at(0.99),
            "late_p999_ms": at(0.999),
            "late_max_ms": at(1.0),
            "sent": float(self.sent),
            "skipped": float(self.skipped),
        }
