"""Starts the processes of a launch file, watches them, and takes all of them down together.

Signals arrive here once: SIGINT or SIGTERM makes every process get SIGINT, the last started first, as soon as those
after it have ended or a moment has passed; after its deadline SIGTERM, then SIGKILL. A second Ctrl-C skips the waiting.
Children live in process groups of their own (so a terminal's Ctrl-C does not hit them directly) and are told to end by
the kernel should this process be killed.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TextIO

from prophrl_nodes.launch_files.plan import ProcessSpec

_POLL_S = 0.05
_ORPHAN_GRACE_S = 2.0
_STAGGER_S = 0.3
_PR_SET_PDEATHSIG = 1
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Child:
    """One process through its lives."""

    spec: ProcessSpec
    colour: int
    process: subprocess.Popen[bytes] | None = None
    retries: int = 0
    restart_at_s: float | None = None
    signal_at_s: dict[signal.Signals, float] = field(default_factory=dict)
    partial: bytes = b""

    @property
    def alive(self) -> bool:
        return self.process is not None


class Runner:
    """Runs one plan in the calling thread, which must be the main one."""

    def __init__(self, specs: Sequence[ProcessSpec], out: TextIO | None = None, colour: bool | None = None) -> None:
        """Prepare; nothing starts before ``run``.

        Args:
            specs: from ``make_plan``.
            out: where prefixed output goes, standard output when omitted.
            colour: colour the prefixes; when omitted, if ``out`` is a terminal.
        """
        self._out = out or sys.stdout
        self._coloured = self._out.isatty() if colour is None else colour
        self._children = [_Child(s, _COLOURS[i % len(_COLOURS)]) for i, s in enumerate(specs)]
        self._selector = selectors.DefaultSelector()
        self._reason = ""
        self._exit_code = 0
        self._interrupts = 0
        self._signal_seen = ""

    def run(self) -> int:
        """Run until all processes have ended.

        Returns:
            0 when everything was asked to end or ended well; else the code of the first process that failed.
        """
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            for child in self._children:
                self._start(child)
            while any(c.alive or c.restart_at_s is not None for c in self._children):
                self._step()
        finally:
            self._kill_rest()
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._selector.close()
        return self._exit_code

    def _step(self) -> None:
        if self._signal_seen:
            self._shut_down(self._signal_seen)
            self._signal_seen = ""
        for key, _ in self._selector.select(_POLL_S):
            self._read(key.data)
        now_s = time.monotonic()
        self._advance_last(now_s)
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, now_s)
            if child.restart_at_s is not None and now_s >= child.restart_at_s:
                child.restart_at_s = None
                self._start(child)
            self._send_due(child, now_s)

    # ---- start

    def _start(self, child: _Child) -> None:
        environment = {"PYTHONUNBUFFERED": "1", **child.spec.environment}
        try:
            child.process = subprocess.Popen(
                child.spec.command,
                env=_with_colour(environment, self._coloured),
                cwd=child.spec.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                preexec_fn=_prepare_child(os.getpid()),
            )
        except OSError as error:
            self._say(child, f"cannot start: {error}")
            self._fail(127)
            self._shut_down(f"{child.spec.name} could not be started")
            return
        pipe = child.process.stdout
        assert pipe is not None
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe, selectors.EVENT_READ, child)
        self._say(child, f"started with pid {child.process.pid}")

    # ---- output

    def _read(self, child: _Child) -> None:
        pipe = child.process.stdout if child.process else None
        if pipe is None:
            return
        data = _read_available(pipe)
        if data is None:
            self._selector.unregister(pipe)
            pipe.close()
            if child.process:
                child.process.stdout = None
            return
        *lines, child.partial = (child.partial + data).split(b"\n")
        for line in lines:
            self._line(child, line.decode(errors="replace"))

    def _line(self, child: _Child, text: str) -> None:
        prefix = f"[{child.spec.name}]"
        if self._coloured:
            prefix = f"\x1b[{child.colour}m{prefix}\x1b[0m"
        try:
            self._out.write(f"{prefix} {text}\n")
            self._out.flush()
        except OSError:  # the terminal or the pipe behind it is gone
            self._out = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
            self._shut_down("nobody reads the output any more")

    def _say(self, child: _Child, text: str) -> None:
        self._line(child, f"-- {text}")

    # ---- end

    def _ended(self, child: _Child, now_s: float) -> None:
        process = child.process
        assert process is not None
        while child.process is not None and process.stdout is not None and _has_data(process.stdout):
            self._read(child)
        if process.stdout is not None:
            self._selector.unregister(process.stdout)
            process.stdout.close()
        if child.partial:
            self._line(child, child.partial.decode(errors="replace"))
            child.partial = b""
        child.process = None
        child.signal_at_s.clear()
        _end_group(process.pid)
        code = process.returncode
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        self._say(child, "finished" if code == 0 else f"died: {how}")
        if self._reason:
            return
        limit = child.spec.respawn_max_retries
        if child.spec.respawn and (limit < 0 or child.retries < limit):
            child.retries += 1
            child.restart_at_s = now_s + child.spec.respawn_delay_s
            return
        if code != 0:
            self._fail(code if code > 0 else 128 - code)
        if child.spec.required:
            self._shut_down(f"{child.spec.name} ended and is required")

    def _fail(self, code: int) -> None:
        self._exit_code = self._exit_code or code

    def _shut_down(self, reason: str) -> None:
        """Begin, or on a repeated request hasten, the end of everything."""
        now_s = time.monotonic()
        repeated, self._reason = bool(self._reason), self._reason or reason
        self._interrupts += 1
        turn_s = now_s
        for child in reversed(self._children):
            child.restart_at_s = None
            if not child.alive:
                continue
            if not repeated:
                term_s = turn_s + child.spec.sigterm_timeout_s
                kill_s = term_s + child.spec.sigkill_timeout_s
                child.signal_at_s = {signal.SIGINT: turn_s, signal.SIGTERM: term_s, signal.SIGKILL: kill_s}
                turn_s += _STAGGER_S
            elif self._interrupts == 2:
                child.signal_at_s = {signal.SIGTERM: now_s, signal.SIGKILL: now_s + child.spec.sigkill_timeout_s}
            else:
                child.signal_at_s = {signal.SIGKILL: now_s}
        self._out.write(f"-- shutting down: {reason}\n")
        self._out.flush()

    def _advance_last(self, now_s: float) -> None:
        """While shutting down: the last process still alive need not wait for its turn."""
        last = next((c for c in reversed(self._children) if c.alive), None)
        if last is not None and last.signal_at_s.get(signal.SIGINT, 0.0) > now_s:
            last.signal_at_s[signal.SIGINT] = now_s

    def _send_due(self, child: _Child, now_s: float) -> None:
        for number in [s for s, at_s in child.signal_at_s.items() if now_s >= at_s]:
            del child.signal_at_s[number]
            if child.process is None:
                return
            if number is not signal.SIGINT:
                self._say(child, f"still running, sending {number.name}")
            if number is signal.SIGKILL:
                _signal_group(child.process.pid, number)
            else:
                child.process.send_signal(number)

    def _kill_rest(self) -> None:
        """Only after an error in this very loop: leave nothing behind."""
        for child in self._children:
            if child.process is not None:
                _signal_group(child.process.pid, signal.SIGKILL)
                child.process.wait()

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signal_seen = signal.Signals(number).name


def _prepare_child(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        os.setpgid(0, 0)
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # the runner died in between
            os._exit(1)

    return prepare


def _with_colour(environment: Mapping[str, str], coloured: bool) -> dict[str, str]:
    return {**({"RCUTILS_COLORIZED_OUTPUT": "1"} if coloured else {}), **environment}


def _read_available(pipe: IO[bytes]) -> bytes | None:
    """What is there to read; b"" for nothing yet, None at the end."""
    try:
        return os.read(pipe.fileno(), 65536) or None
    except BlockingIOError:
        return b""


def _has_data(pipe: IO[bytes]) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(0))


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group (0 only asks); False when nobody is left in it."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _end_group(group: int) -> None:
    """End what a process left behind in its group."""
    deadline_s = time.monotonic() + _ORPHAN_GRACE_S
    left = _signal_group(group, signal.SIGTERM)
    while left and time.monotonic() < deadline_s:
        time.sleep(0.02)
        left = _signal_group(group, 0)
    if left:
        _signal_group(group, signal.SIGKILL)
