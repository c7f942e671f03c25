"""A twin controller in a process of its own, on a loopback address of this test process."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import yaml

from robot_bridge.cell import CellConfig, load_cell
from robot_bridge.twin.lab_client import LabClient, LabError

TWIN_CELL = Path(__file__).parents[2] / "config" / "cells" / "twin.yaml"
HOME_Q = [0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0]

# The root fixture counts upwards from 2 and belongs to one test; these live as long as a module and count from the top.
_next_host = itertools.cycle(range(250, 255))

T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 15.0) -> T:
    """Poll until a condition is true; its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.005)
    return value


def new_host() -> str:
    pid = os.getpid()
    return f"127.{1 + pid // 250 % 250}.{1 + pid % 250}.{next(_next_host)}"


class RunningController:
    """Handle on one controller process."""

    def __init__(self, directory: Path, host: str) -> None:
        self.host = host
        raw = yaml.safe_load(TWIN_CELL.read_text())
        raw["twin"]["directory"] = str(directory / "lab")
        raw["camera"]["frames_path"] = str(directory / "lab")
        raw["leader"]["port"] = str(directory / "leader")
        self.cell_path = directory / "cell.yaml"
        self.cell_path.write_text(yaml.safe_dump(raw))
        self.cell: CellConfig = load_cell(self.cell_path, host=host)
        assert self.cell.twin is not None
        self.lab = LabClient(host, self.cell.twin.lab_port)
        self.start()

    def start(self) -> None:
        with socket.socket() as probe:
            assert probe.connect_ex((self.host, self.lab.port)) != 0, f"a controller already runs on {self.host}"
        command = [sys.executable, "-m", "robot_bridge.twin.controller", "--cell", str(self.cell_path)]
        self.process = subprocess.Popen([*command, "--host", self.host], stderr=subprocess.PIPE, text=True)
        wait_for(self._answers, "the controller's lab port", 30.0)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.process.communicate()[1]
        try:
            return bool(self.lab.status())
        except LabError:
            return False

    def kill(self) -> None:
        """As a crash does: no goodbye on any connection."""
        os.kill(self.process.pid, signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        self.process.terminate()
        self._reap()

    def _reap(self) -> None:
        self.process.communicate(timeout=10.0)
        self.lab.close()

    def status(self, key: str) -> object:
        return self.lab.status()[key]

    def dashboard(self, command: str) -> str:
        """One command over a bare socket (the genuine client holds the interpreter while it waits)."""
        with socket.create_connection((self.host, 29999), timeout=5.0) as connection:
            stream = connection.makefile("rw", newline="\n")
            assert stream.readline().startswith("Connected")
            stream.write(command + "\n")
            stream.flush()
            return stream.readline().strip()

    def power_on(self) -> None:
        """As an operator does on the pendant."""
        self.dashboard("brake release")
        wait_for(lambda: self.status("robot_mode") == "RUNNING", "brake release")

    def calm(self) -> None:
        """Undo what a test did: faults, stops; the arm powered on."""
        self.lab.call("clear_faults")
        self.lab.call("emergency_stop", on=False)
        self.lab.call("safeguard_stop", on=False)
        if self.status("safety_mode") == "PROTECTIVE_STOP":
            wait_for(lambda: self.dashboard("unlock protective stop") == "Protective stop releasing", "unlocking")
        self.power_on()
