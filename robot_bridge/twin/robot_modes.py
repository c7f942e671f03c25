"""Power and safety state of the robot: what the pendant's initialisation screen and the red buttons do.

Times of power-on, brake release and unlocking are short here; a real arm takes several seconds for each, and refuses
to unlock a protective stop in the first five (``unlock_delay_s``).
"""

from __future__ import annotations

from collections.abc import Callable

from robot_bridge.arm_types import RobotMode, SafetyMode

_STATUS_BITS = {
    SafetyMode.NORMAL: 0x001,
    SafetyMode.REDUCED: 0x002,
    SafetyMode.PROTECTIVE_STOP: 0x404,
    SafetyMode.RECOVERY: 0x008,
    SafetyMode.SAFEGUARD_STOP: 0x410,
    SafetyMode.SYSTEM_EMERGENCY_STOP: 0x4A0,
    SafetyMode.ROBOT_EMERGENCY_STOP: 0x4C0,
    SafetyMode.VIOLATION: 0x500,
    SafetyMode.FAULT: 0x600,
}


class RobotModes:
    """The state machine. Time is the controller's own (frames), handed to ``step``.

    Args:
        on_stop: called with a reason when the program must end (protective or emergency stop, power off).
        on_pause: called with True when a safeguard stop pauses the program and with False when it may resume.
    """

    def __init__(
        self,
        on_stop: Callable[[str], None],
        on_pause: Callable[[bool], None],
        *,
        power_on_s: float = 0.2,
        brake_release_s: float = 0.3,
        unlock_delay_s: float = 0.3,
    ) -> None:
        self._on_stop = on_stop
        self._on_pause = on_pause
        self._power_on_s = power_on_s
        self._brake_release_s = brake_release_s
        self.unlock_delay_s = unlock_delay_s
        self.robot_mode = RobotMode.POWER_OFF
        self.safety_mode = SafetyMode.NORMAL
        self.popup = ""
        self.stop_reason = ""
        self._time_s = 0.0
        self._next_mode: tuple[float, RobotMode] | None = None
        self._release_wanted = False
        self._stopped_at_s = 0.0

    @property
    def safety_status_bits(self) -> int:
        """RTDE ``safety_status_bits``."""
        return _STATUS_BITS[self.safety_mode]

    @property
    def drives_on(self) -> bool:
        """The arm may move: brakes released and nothing stops it."""
        return self.robot_mode is RobotMode.RUNNING and self.safety_mode in (SafetyMode.NORMAL, SafetyMode.REDUCED)

    def step(self, time_s: float) -> None:
        """Advance to the present time of the controller."""
        self._time_s = time_s
        if self._next_mode is not None and time_s >= self._next_mode[0]:
            self.robot_mode = self._next_mode[1]
            self._next_mode = None
            if self.robot_mode is RobotMode.IDLE and self._release_wanted:
                self.brake_release()

    # --- operator's verbs; each returns what the dashboard says ---

    def power_on(self) -> str:
        """POWER_OFF -> POWER_ON -> IDLE."""
        if self.robot_mode is RobotMode.POWER_OFF and not self._emergency:
            self.robot_mode = RobotMode.POWER_ON
            self._next_mode = (self._time_s + self._power_on_s, RobotMode.IDLE)
        return "Powering on"

    def brake_release(self) -> str:
        """IDLE -> RUNNING; powers the arm on first if need be."""
        if self.robot_mode is RobotMode.IDLE and self._next_mode is None:
            self._release_wanted = False
            self._next_mode = (self._time_s + self._brake_release_s, RobotMode.RUNNING)
        elif self.robot_mode in (RobotMode.POWER_OFF, RobotMode.POWER_ON) and not self._emergency:
            self._release_wanted = True
            self.power_on()
        return "Brake releasing"

    def power_off(self) -> str:
        """Brakes on, drives off."""
        self._on_stop("robot powered off")
        self._drop_power()
        return "Powering off"

    def unlock_protective_stop(self) -> str:
        """Leave a protective stop; refused in the first seconds after it."""
        if self.safety_mode is not SafetyMode.PROTECTIVE_STOP:
            return "Protective stop releasing"
        if self._time_s - self._stopped_at_s < self.unlock_delay_s:
            return (
                f"Cannot unlock protective stop until {self.unlock_delay_s:g}s after occurrence. "
                "Always inspect cause of protective stop before unlocking"
            )
        self.safety_mode = SafetyMode.NORMAL
        return "Protective stop releasing"

    def restart_safety(self) -> str:
        """After a fault or violation: safety restarts, the arm is off."""
        if self.safety_mode in (SafetyMode.FAULT, SafetyMode.VIOLATION):
            self.safety_mode = SafetyMode.NORMAL
            self._drop_power()
        return "Restarting safety"

    # --- what stops the robot ---

    def protective_stop(self, reason: str) -> None:
        """The controller's own stop: program ended, brakes stay released, unlock to go on."""
        if self.safety_mode in (SafetyMode.NORMAL, SafetyMode.REDUCED) and self.robot_mode is RobotMode.RUNNING:
            self.safety_mode = SafetyMode.PROTECTIVE_STOP
            self._stopped_at_s = self._time_s
            self.stop_reason = reason
            self.popup = f"Protective stop: {reason}"
            self._on_stop(f"protective stop ({reason})")

    def emergency_stop(self, on: bool) -> None:
        """The red button on the pendant. Released, it leaves the arm powered off."""
        if on and not self._emergency:
            self.safety_mode = SafetyMode.ROBOT_EMERGENCY_STOP
            self.stop_reason = "emergency stop"
            self._on_stop("emergency stop")
            self._drop_power()
        elif not on and self.safety_mode is SafetyMode.ROBOT_EMERGENCY_STOP:
            self.safety_mode = SafetyMode.NORMAL

    def safeguard_stop(self, on: bool) -> None:
        """A light curtain or door: pauses the program and resumes it when cleared."""
        if on and self.safety_mode in (SafetyMode.NORMAL, SafetyMode.REDUCED):
            self.safety_mode = SafetyMode.SAFEGUARD_STOP
            self.stop_reason = "safeguard stop"
            self._on_pause(True)
        elif not on and self.safety_mode is SafetyMode.SAFEGUARD_STOP:
            self.safety_mode = SafetyMode.NORMAL
            self._on_pause(False)

    @property
    def _emergency(self) -> bool:
        return self.safety_mode in (SafetyMode.ROBOT_EMERGENCY_STOP, SafetyMode.SYSTEM_EMERGENCY_STOP)

    def _drop_power(self) -> None:
        self.robot_mode = RobotMode.POWER_OFF
        self._next_mode, self._release_wanted = None, False
