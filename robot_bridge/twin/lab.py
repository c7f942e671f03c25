"""The digital lab: starts controller, leader and camera of a twin cell, watches over them, and stops them.

    python -m robot_bridge.twin.lab --cell twin [--host 127.0.0.2] [--restart]

or, in a program, ``with Lab("twin", host) as lab: ...``. The three are processes of their own, as the devices of a
real cell are; they share nothing but the lab's directory. What they print goes to ``log/<name>.log`` there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from calibration.storage import HISTORY
from robot_bridge.cell import CellConfig, CellError, load_cell
from robot_bridge.cell_files import find_cell
from robot_bridge.cell_overrides import (
    Overrides,
    add_override_argument,
    override_arguments,
    overrides_of,
    profile_overrides,
)
from robot_bridge.twin.port_check import busy_ports

UR_PORTS = (29999, 30001, 30002, 30003, 30004)
"""Fixed by the maker of the robot, which is why every lab needs an address of its own."""
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
RESTART_PAUSE_S = 1.0
_TAIL_LINES = 15
_OWN_FILES = ("world.bin", "frames.bin", "camera.yaml", "faults.json", "leader")


class LabFailed(RuntimeError):
    """The lab cannot start or one of its processes died; the message names it and ends with its last words."""


@dataclass(frozen=True)
class _Role:
    """One process: what it runs, and whether the lab may go on while it is started again."""

    name: str
    module: str
    restartable: bool


ROLES = (
    _Role("controller", "robot_bridge.twin.controller", restartable=False),
    _Role("leader", "robot_bridge.twin.servo_bus", restartable=True),
    _Role("camera", "robot_bridge.twin.frames", restartable=True),
)


class Lab:
    """All processes of one twin cell.

    Args:
        cell: name or path of a cell file with a ``twin`` section.
        host: loopback address of this lab; two labs need two.
        restart: start leader and camera again when they die, instead of failing.
        report: called with one line whenever a process becomes ready or is started again.
        camera_profile, overrides: values used instead of the cell file's, see ``load_cell``; whoever opens the lab's
            camera must be given the same profile.

    Raises:
        CellError: no such cell, one without a twin, or an override that does not fit.
    """

    def __init__(
        self,
        cell: str | Path,
        host: str = "127.0.0.1",
        *,
        restart: bool = False,
        report: Callable[[str], None] | None = None,
        camera_profile: str = "",
        overrides: Overrides | None = None,
    ) -> None:
        self.host = host
        self.cell_path = find_cell(cell)
        self._overrides: Overrides = overrides or {}
        self.cell: CellConfig = load_cell(
            self.cell_path, host=host, camera_profile=camera_profile, overrides=self._overrides
        )
        self._overrides = {**profile_overrides(camera_profile), **self._overrides}
        if self.cell.twin is None:
            raise CellError(f"{self.cell_path} has no twin section: this cell is real hardware, it needs no lab")
        self.directory = Path(self.cell.twin.directory)
        self._restart = restart
        self._report = report or (lambda line: None)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started_s: dict[str, float] = {}
        self._claim: socket.socket | None = None

    def start(self) -> None:
        """Start everything; returns when robot, leader and camera can be used.

        Raises:
            LabFailed: ports in use, another lab in the same directory, or a process that did not become ready.
        """
        try:
            self._check_free()
            self._clean()
            (self.directory / "log").mkdir(parents=True, exist_ok=True)
            for role in ROLES:
                self._launch(role)
            for role in ROLES:
                self._await_ready(role)
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Look after the processes; call it now and then.

        Raises:
            LabFailed: a process died (and may not be started again).
        """
        for role in ROLES:
            process = self._processes.get(role.name)
            if process is None or process.poll() is None:
                continue
            if not (self._restart and role.restartable):
                raise LabFailed(self._obituary(role, process))
            if time.monotonic() - self._started_s[role.name] < RESTART_PAUSE_S:
                continue  # dies as soon as it is started: do not spin
            self._report(f"{role.name} died ({_status(process)}), starting it again")
            self._launch(role)

    def pid(self, name: str) -> int:
        """Process id of "controller", "leader" or "camera" (for tests that kill it).

        Raises:
            KeyError: not running, or no such name.
        """
        return self._processes[name].pid

    def stop(self) -> None:
        """Stop everything and remove the lab's files; harmless when stopped."""
        processes, self._processes = self._processes, {}
        for process in processes.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in processes.values():
            try:
                process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
        if self._claim is not None:
            self._clean()
            self._claim.close()
            self._claim = None

    def __enter__(self) -> Lab:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    # --- starting ---

    def _check_free(self) -> None:
        twin = self.cell.twin
        assert twin is not None
        host = self.cell.robot.host
        ports = [(host, port) for port in (*UR_PORTS, twin.lab_port, twin.operator_port)]
        try:
            problems = busy_ports([*ports, (self.cell.gripper.host, self.cell.gripper.port)])
        except OSError as error:
            raise LabFailed(f"{error.strerror}; use a loopback address, 127.0.0.1 to 127.255.255.254") from error
        if problems:
            raise LabFailed(
                f"the lab's ports are in use: {'; '.join(problems)}. Stop that, or start this lab on another "
                "address (host:=127.0.0.2)"
            )
        # An abstract socket is a lock that vanishes with its process and leaves no file behind.
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0prophrl-lab:{self.directory.resolve()}")
        except OSError as error:
            claim.close()
            raise LabFailed(
                f"another lab uses the directory {self.directory}; give twin.directory in {self.cell_path} a {{host}}"
            ) from error
        self._claim = claim

    def _launch(self, role: _Role) -> None:
        command = [sys.executable, "-m", "robot_bridge.twin.leashed", role.module]
        command += ["--cell", str(self.cell_path.resolve()), "--host", self.host]
        command += override_arguments(self._overrides)
        # Small matrices only: threads of the linear algebra library would fight the 500 Hz loop for two cores.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self._log(role).open("ab") as log:
            self._processes[role.name] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # its other end is the leash, see leashed.py
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the lab, which then stops them in order
            )
        self._started_s[role.name] = time.monotonic()

    def _await_ready(self, role: _Role) -> None:
        process, began = self._processes[role.name], self._started_s[role.name]
        while " ready" not in self._log(role).read_text(errors="replace"):
            if process.poll() is not None:
                raise LabFailed(self._obituary(role, process))
            if time.monotonic() - began > READY_TIMEOUT_S:
                raise LabFailed(
                    f"the lab's {role.name} is not ready after {READY_TIMEOUT_S:.0f} s; its last words:\n"
                    + self._last_words(role)
                )
            time.sleep(0.02)
        line = next(line for line in self._log(role).read_text(errors="replace").splitlines() if " ready" in line)
        self._report(f"{line} ({time.monotonic() - began:.1f} s)")

    # --- dying ---

    def _obituary(self, role: _Role, process: subprocess.Popen[bytes]) -> str:
        return f"the lab's {role.name} ended ({_status(process)}); its last words:\n" + self._last_words(role)

    def _last_words(self, role: _Role) -> str:
        lines = [line for line in self._log(role).read_text(errors="replace").splitlines() if line.strip()]
        return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:]) or "  (none)"

    def _log(self, role: _Role) -> Path:
        return self.directory / "log" / f"{role.name}.log"

    def _clean(self) -> None:
        """Remove what an earlier lab left (a killed one cannot); only files this lab owns."""
        for name in _OWN_FILES:
            (self.directory / name).unlink(missing_ok=True)
        for role in ROLES:
            self._log(role).unlink(missing_ok=True)
        for kept in (HISTORY, "drift"):  # calibrations of a camera that is no more, and what it saw
            shutil.rmtree(self.directory / kept, ignore_errors=True)
        with contextlib.suppress(OSError):  # other files are there: the directory stays
            (self.directory / "log").rmdir()
            self.directory.rmdir()


def _status(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 when asked to stop, 1 when a process failed."""
    parser = argparse.ArgumentParser(prog="python -m robot_bridge.twin.lab", description=__doc__)
    parser.add_argument("--cell", default="twin", help="name or path of a cell file (default twin)")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address of this lab (default 127.0.0.1)")
    parser.add_argument("--restart", action="store_true", help="start leader and camera again when they die")
    parser.add_argument("--camera-profile", default="", help="size and rate of the camera, as 848x480@6")
    add_override_argument(parser)
    options = parser.parse_args(arguments)
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def say(line: str) -> None:
        print(line, flush=True)

    def stop(*_: object) -> None:
        for number in signals:  # a second Ctrl-C must not interrupt the stopping
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, stop)
    try:
        changes = {"camera_profile": options.camera_profile, "overrides": overrides_of(options)}
        with Lab(options.cell, options.host, restart=options.restart, report=say, **changes) as lab:
            say(f"lab ready on {lab.host}, directory {lab.directory}")
            while True:
                lab.check()
                time.sleep(0.1)
    except KeyboardInterrupt:
        return 0
    except (LabFailed, ValueError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
