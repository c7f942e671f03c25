"""Robotiq 2F gripper behind the UR cap's socket (port 63352), polled by a thread of its own.

The cap speaks text: ``GET VAR``/``SET VAR value ...``; a SET is answered with ``ack`` without a line end. A round trip
over the real tool bus takes about 10 ms, which is why no caller ever waits for it: ``set_opening`` and ``state``
return at once, the thread talks. After a lost connection it reconnects and sends the wanted opening again.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from robot_bridge.cell import GripperConfig
from robot_bridge.gripper_scale import GripperScaleError, calibrated

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 1.0
POLL_PERIOD_S = 0.02
RECONNECT_EVERY_S = 0.5
STALE_S = 0.5
ACTIVATION_TIMEOUT_S = 15.0
RESET_TIMEOUT_S = 3.0
STATUS_ACTIVE = 3
OBJECT_WHILE_OPENING, OBJECT_WHILE_CLOSING = 1, 2
POLLED = ("POS", "PRE", "OBJ", "FLT", "STA")
FAULTS = {
    5: "action delayed: activation has to be completed first",
    7: "the activation bit must be set first",
    8: "maximum temperature exceeded; let it cool down",
    9: "no communication for a second",
    10: "under voltage (below 24 V)",
    11: "automatic release in progress",
    12: "internal fault; contact the maker",
    13: "activation fault; look for something between the fingers and activate again",
    14: "overcurrent triggered",
    15: "automatic release completed",
}


class GripperError(RuntimeError):
    """The gripper cannot be reached or does not obey; the message names the next action."""


@dataclass(frozen=True)
class GripperReading:
    """One reading; openings are fractions of the stroke, 0 closed, 1 open."""

    opening: float
    target_opening: float
    moving: bool
    object_detected: bool
    fault: int
    """Robotiq FLT register, 0 for none (see ``FAULTS``)."""
    stamp_ns: int
    """``time.time_ns()`` when the answer came."""


class RobotiqGripper:
    """One gripper. Safe to call from any thread.

    Args:
        config: gripper section of the cell: address, counts at the ends, speed and force (0..255).
    """

    def __init__(self, config: GripperConfig) -> None:
        if config.open_count == config.closed_count:
            raise ValueError(f"open_count and closed_count must differ, both are {config.open_count}; calibrate them")
        self.config = config
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._wanted: float | None = None
        self._sent: float | None = None
        self._reading: GripperReading | None = None
        self._status = 0
        self._trouble = "not connected; call connect first"
        self._job: tuple[Callable[[], None], threading.Event, list[BaseException]] | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="robotiq", daemon=True)

    # --- for callers ---

    def connect(self) -> None:
        """Read the counts that were calibrated (if the cell names a file), open the connection, start polling.

        Raises:
            GripperError: no usable calibration file, or nobody answers.
        """
        try:
            self.config = calibrated(self.config)
        except GripperScaleError as error:
            raise GripperError(str(error)) from error
        self._open()
        self._poll()
        self._thread.start()

    def close(self) -> None:
        """Stop polling; the gripper keeps its grip."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._drop()

    @property
    def trouble(self) -> str:
        """Why commands have no effect now; empty when they have."""
        if self._trouble:
            return self._trouble
        if self._status != STATUS_ACTIVE:
            return "the gripper is not activated; activate it (it will open and close)"
        return ""

    def state(self) -> GripperReading:
        """The newest reading.

        Raises:
            GripperError: there is none, or it is older than ``STALE_S``.
        """
        reading = self._reading
        if reading is None or (time.time_ns() - reading.stamp_ns) * 1e-9 > STALE_S:
            raise GripperError(self._trouble or "the gripper does not answer; check the tool connector")
        return reading

    def set_opening(self, opening: float) -> None:
        """Ask for an opening, 0 closed .. 1 open; returns at once, the newest request wins.

        Raises:
            ValueError: not a number between 0 and 1.
        """
        if not (math.isfinite(opening) and 0.0 <= opening <= 1.0):
            raise ValueError(f"opening must lie between 0 (closed) and 1 (open), got {opening}")
        with self._lock:
            self._wanted = float(opening)
        self._wake.set()

    def activate(self, *, force: bool = False) -> None:
        """Activate the gripper and wait for it; it opens and closes once. An active one is left alone unless forced.

        Raises:
            GripperError: no connection, or it does not become active in time.
        """
        done, errors = threading.Event(), list[BaseException]()
        if not self._thread.is_alive():
            raise GripperError("the gripper's driver is not running; connect first")
        self._job = (lambda: self._activate(force), done, errors)
        self._wake.set()
        if not done.wait(ACTIVATION_TIMEOUT_S + RESET_TIMEOUT_S + 2.0):
            raise GripperError(f"activation was not finished within {ACTIVATION_TIMEOUT_S:.0f} s; {self._trouble}")
        if errors:
            raise errors[0]

    # --- the thread ---

    def _run(self) -> None:
        while not self._closing.is_set():
            started_s = time.monotonic()
            self._wake.clear()
            try:
                if self._socket is None:
                    self._open()
                    self._sent = None
                self._run_job()
                self._send_wanted()
                self._poll()
            except GripperError as error:
                if self._trouble != str(error):
                    logger.warning("gripper: %s", error)
                self._trouble = str(error)
                self._drop()
                self._closing.wait(RECONNECT_EVERY_S)
                continue
            if self._wanted == self._sent:
                self._wake.wait(max(0.0, POLL_PERIOD_S - (time.monotonic() - started_s)))

    def _run_job(self) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        work, done, errors = job
        try:
            work()
        except GripperError as error:  # handed to the caller who waits for it
            errors.append(error)
        finally:
            done.set()

    def _send_wanted(self) -> None:
        with self._lock:
            wanted = self._wanted
        if wanted is None or wanted == self._sent or self._status != STATUS_ACTIVE:
            return
        config = self.config
        self._set(POS=self._count(wanted), SPE=config.speed, FOR=config.force, GTO=1)
        self._sent = wanted

    def _poll(self) -> None:
        values = self._get(*POLLED)
        self._status = values["STA"]
        if self._status != STATUS_ACTIVE:
            self._sent = None  # after a loss of power the request has to be made again
        target = self._wanted if self._wanted is not None else self._fraction(values["PRE"])
        # Until the unit echoes our request, OBJ speaks of the one before.
        pending = self._wanted is not None and values["PRE"] != self._count(self._wanted)
        held = values["OBJ"] in (OBJECT_WHILE_OPENING, OBJECT_WHILE_CLOSING)
        self._reading = GripperReading(
            opening=self._fraction(values["POS"]),
            target_opening=target,
            moving=pending or values["OBJ"] == 0,
            object_detected=held and not pending,
            fault=values["FLT"],
            stamp_ns=time.time_ns(),
        )
        fault = values["FLT"]
        self._trouble = f"gripper fault {fault}: {FAULTS.get(fault, 'see the manual')}" if fault else ""

    def _activate(self, force: bool) -> None:
        if not force and self._get("STA")["STA"] == STATUS_ACTIVE:
            return
        self._set(ACT=0, ATR=0)
        self._await(lambda v: v["ACT"] == 0 and v["STA"] == 0, RESET_TIMEOUT_S, "did not reset")
        self._set(ACT=1)
        self._await(lambda v: v["ACT"] == 1 and v["STA"] == STATUS_ACTIVE, ACTIVATION_TIMEOUT_S, "did not activate")
        self._sent = None
        self._poll()

    def _await(self, condition: Callable[[dict[str, int]], bool], timeout_s: float, failure: str) -> None:
        until_s = time.monotonic() + timeout_s
        while not condition(values := self._get("ACT", "STA", "FLT")):
            if time.monotonic() > until_s or self._closing.is_set():
                fault = values["FLT"]
                raise GripperError(
                    f"the gripper {failure} within {timeout_s:.0f} s (ACT {values['ACT']}, STA {values['STA']}, "
                    f"fault {fault} {FAULTS.get(fault, '')}); clear the fingers and activate again"
                )
            self._poll()  # readings go on while the fingers make their strokes
            time.sleep(POLL_PERIOD_S)

    # --- counts and the wire ---

    def _count(self, opening: float) -> int:
        config = self.config
        return round(config.closed_count + opening * (config.open_count - config.closed_count))

    def _fraction(self, count: int) -> float:
        config = self.config
        return min(max((count - config.closed_count) / (config.open_count - config.closed_count), 0.0), 1.0)

    def _open(self) -> None:
        address = (self.config.host, self.config.port)
        try:
            self._socket = socket.create_connection(address, timeout=REQUEST_TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            raise GripperError(
                f"no gripper cap answers at {address[0]}:{address[1]} ({error}). Hardware: install the Robotiq cap and "
                "switch the robot on. Twin: start the lab with `python -m robot_bridge.twin.lab --cell twin`"
            ) from error

    def _drop(self) -> None:
        self._status = 0
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _get(self, *names: str) -> dict[str, int]:
        """Several variables in one request: one round trip on the tool bus instead of one each."""
        lines = self._exchange("".join(f"GET {name}\n" for name in names), lambda data: data.count(b"\n") >= len(names))
        values: dict[str, int] = {}
        for name, line in zip(names, lines.decode("ascii", errors="replace").splitlines(), strict=False):
            answer = line.split()
            if len(answer) != 2 or answer[0] != name or not answer[1].isdigit():
                raise GripperError(
                    f"the gripper answered {line!r} to GET {name}; it has no power or the cap lost it: "
                    "check that the arm is powered on and the tool connector is seated"
                )
            values[name] = int(answer[1])
        return values

    def _set(self, **values: int) -> None:
        request = "SET " + " ".join(f"{name} {value}" for name, value in values.items()) + "\n"
        answer = self._exchange(request, lambda data: data.startswith(b"ack") or data.endswith(b"\n"))
        if answer != b"ack":
            raise GripperError(f"the gripper answered {answer!r} to {request.strip()!r}; is the arm powered on?")

    def _exchange(self, request: str, complete: Callable[[bytes], bool]) -> bytes:
        if self._socket is None:
            raise GripperError("the connection to the gripper is closed")
        answer = b""
        try:
            self._socket.sendall(request.encode())
            while not complete(answer):
                data = self._socket.recv(1024)
                if not data:
                    raise ConnectionError("closed by the robot")
                answer += data
        except OSError as error:
            raise GripperError(
                f"the gripper at {self.config.host}:{self.config.port} does not answer ({error}); "
                "check the tool connector and the cap on the pendant"
            ) from error
        return answer
