"""Through the dashboard from "powered off" or "protective stop" to "running": what a person does on the pendant.

Emergency, safeguard, violation and fault stops are not undone here: a person has to look first.
"""

from __future__ import annotations

import contextlib
import time
from typing import Protocol

from robot_bridge.arm_types import REMEDIES, SAFE_MODES, ArmError, NotInRemoteControl, RobotStopped, SafetyMode

POWER_TIMEOUT_S = 40.0
UNLOCK_TIMEOUT_S = 12.0
"""A real controller refuses to unlock for 5 s after a protective stop."""
POLL_S = 0.1


class Dashboard(Protocol):
    """The part of a dashboard client that is used here; names are ur_rtde's."""

    def isInRemoteControl(self) -> bool: ...

    def safetystatus(self) -> str: ...

    def robotmode(self) -> str: ...

    def closeSafetyPopup(self) -> None: ...

    def unlockProtectiveStop(self) -> None: ...

    def powerOn(self) -> None: ...

    def brakeRelease(self) -> None: ...


def make_running(dashboard: Dashboard, host: str) -> None:
    """Unlock a protective stop, power on, release the brakes; returns when the arm is in robot mode RUNNING.

    Raises:
        NotInRemoteControl: the pendant is in local control.
        RobotStopped: a stop that a person has to look at.
        ArmError: the arm stays in another mode, or the dashboard refuses; with the remedy.
    """
    try:
        if not dashboard.isInRemoteControl():
            raise NotInRemoteControl(
                f"the robot at {host} is in local control; switch the pendant to Remote Control "
                "(icon at the top right) and try again"
            )
        _leave_stop(dashboard)
        _power_on(dashboard)
    except ArmError:
        raise
    except RuntimeError as error:  # what the client library raises for lost connections and unexpected answers
        raise ArmError(f"dashboard of {host}: {error}; check the pendant and recover") from error


def _leave_stop(dashboard: Dashboard) -> None:
    mode = _safety_mode(dashboard)
    if mode is SafetyMode.PROTECTIVE_STOP:
        until_s = time.monotonic() + UNLOCK_TIMEOUT_S
        dashboard.closeSafetyPopup()
        while _safety_mode(dashboard) is SafetyMode.PROTECTIVE_STOP:
            if time.monotonic() > until_s:
                raise RobotStopped("the controller does not unlock its protective stop; look at the pendant")
            # It refuses during the first seconds; that refusal arrives as an exception.
            with contextlib.suppress(RuntimeError):
                dashboard.unlockProtectiveStop()
            time.sleep(POLL_S)
    elif mode not in SAFE_MODES:
        raise RobotStopped(REMEDIES.get(mode, f"safety mode {mode.name}; look at the pendant, then recover"))


def _power_on(dashboard: Dashboard) -> None:
    until_s = time.monotonic() + POWER_TIMEOUT_S
    while (mode := dashboard.robotmode().rsplit(":", 1)[-1].strip()) != "RUNNING":
        if time.monotonic() > until_s:
            raise ArmError(f"the arm stays in robot mode {mode} for {POWER_TIMEOUT_S:.0f} s; look at the pendant")
        if mode == "POWER_OFF":
            dashboard.powerOn()
        elif mode == "IDLE":
            dashboard.brakeRelease()
        time.sleep(POLL_S)


def _safety_mode(dashboard: Dashboard) -> SafetyMode:
    name = dashboard.safetystatus().rsplit(":", 1)[-1].strip()
    return SafetyMode[name] if name in SafetyMode.__members__ else SafetyMode.FAULT
