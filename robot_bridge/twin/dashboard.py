"""The dashboard server of PolyScope 5 on port 29999: one text command a line, one answer a line.

Commands that change something are refused in local control. That refusal's wording, unlike the answers, is ours.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from robot_bridge.arm_types import SafetyMode
from robot_bridge.twin.rtde_server import POLYSCOPE_VERSION
from robot_bridge.twin.ur_controller import UrController
from robot_bridge.twin.wire import LineConnection

PORT = 29999
BANNER = "Connected: Universal Robots Dashboard Server"
SERIAL_NUMBER = "20233000015"
ROBOT_MODEL = "UR30"


class Dashboard:
    """Commands of one controller; a command is the longest known beginning of the line, the rest its argument."""

    def __init__(self, controller: UrController) -> None:
        self._controller = controller
        self._program = ""
        self._role = ""
        modes = controller.modes
        version = ".".join(str(part) for part in POLYSCOPE_VERSION)
        self._queries: dict[str, Callable[[str], str]] = {
            "PolyscopeVersion": lambda _: f"URSoftware {version} (Nov 20 2023)",
            "version": lambda _: version,
            "get serial number": lambda _: SERIAL_NUMBER,
            "get robot model": lambda _: ROBOT_MODEL,
            "get operational mode": lambda _: "AUTOMATIC",
            "is in remote control": lambda _: _text(controller.remote_control),
            "robotmode": lambda _: f"Robotmode: {modes.robot_mode.name}",
            "safetymode": lambda _: f"Safetymode: {modes.safety_mode.name}",
            "safetystatus": lambda _: f"Safetystatus: {modes.safety_mode.name}",
            "running": lambda _: f"Program running: {_text(self._playing)}",
            "programState": lambda _: self._program_state(),
            "isProgramSaved": lambda _: f"true {self._program or '<unnamed>'}",
            "get loaded program": lambda _: (
                f"Loaded program: {self._program}" if self._program else "No program loaded"
            ),
            "addToLog": lambda argument: self._log(argument),
            "setUserRole": lambda argument: self._set_role(argument),
            "getUserRole": lambda _: self._role or "LOCKED",
            "close popup": lambda _: self._close_popup("closing popup"),
            "close safety popup": lambda _: self._close_popup("closing safety popup"),
            "popup": lambda argument: self._popup(argument),
        }
        self._commands: dict[str, Callable[[str], str]] = {
            "power on": lambda _: modes.power_on(),
            "power off": lambda _: modes.power_off(),
            "brake release": lambda _: modes.brake_release(),
            "unlock protective stop": lambda _: modes.unlock_protective_stop(),
            "restart safety": lambda _: modes.restart_safety(),
            "load": self._load,
            "play": lambda _: self._play(),
            "stop": lambda _: self._stop(),
            "pause": lambda _: self._pause(),
            "shutdown": lambda _: "Shutting down",
        }

    def answer(self, line: str) -> str:
        """The answer to one command line."""
        for table in (self._queries, self._commands):
            matches = [name for name in table if line == name or line.startswith(name + " ")]
            if matches:
                name = max(matches, key=len)
                if table is self._commands and not self._controller.remote_control:
                    return f"Command '{name}' is not allowed: the robot is in local control"
                return table[name](line[len(name) :].strip())
        return f"could not understand: '{line}'"

    @property
    def _playing(self) -> bool:
        interpreter = self._controller.interpreter
        return interpreter.running and not interpreter.paused

    def _program_state(self) -> str:
        interpreter = self._controller.interpreter
        name = interpreter.program.name if interpreter.program is not None else self._program
        state = "STOPPED" if not interpreter.running else "PAUSED" if interpreter.paused else "PLAYING"
        return f"{state} {name}".strip()

    def _log(self, text: str) -> str:
        self._controller.interpreter.write_log(f"dashboard: {text}")
        return "Added log message"

    def _set_role(self, role: str) -> str:
        self._role = role
        return f"Setting user role: {role}"

    def _popup(self, text: str) -> str:
        self._controller.modes.popup = text
        return "showing popup"

    def _close_popup(self, answer: str) -> str:
        self._controller.modes.popup = ""
        return answer

    def _load(self, name: str) -> str:
        # Pendant programs (.urp) cannot run here; the name is kept, because clients ask for it.
        if not name.endswith((".urp", ".installation")):
            return f"File not found: {name}"
        self._program = name
        return f"Loading program: {name}"

    def _play(self) -> str:
        interpreter = self._controller.interpreter
        if interpreter.running and self._controller.modes.safety_mode is SafetyMode.NORMAL:
            self._controller.pause_program(False)
            return "Starting program"
        return "Failed to execute: play"

    def _stop(self) -> str:
        self._controller.stop_program()
        return "Stopped"

    def _pause(self) -> str:
        if not self._playing:
            return "Failed to execute: pause"
        self._controller.pause_program(True)
        return "Pausing program"


class DashboardConnection(LineConnection):
    """One client of the dashboard."""

    def __init__(self, sock: socket.socket, dashboard: Dashboard) -> None:
        super().__init__(sock)
        self._dashboard = dashboard

    def opened(self) -> None:
        self.send(f"{BANNER}\n".encode())

    def line(self, text: str) -> None:
        if text == "quit":
            self.send(b"Disconnected\n")
            self.close()
        elif text:
            self.send(f"{self._dashboard.answer(text)}\n".encode())


def _text(value: bool) -> str:
    return "true" if value else "false"
