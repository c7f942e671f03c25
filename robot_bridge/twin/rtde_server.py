"""RTDE, protocol version 2: real-time data exchange on port 30004.

Framing, big-endian: u16 size (header included), u8 type, payload. Rules that clients depend on: input recipe ids count
1, 2, 3... per connection; the reply to START precedes the first data package; a register belongs to one connection
(IN_USE for others); input packages are accepted before START, too. A package longer than its recipe is cut, a
shorter one dropped (how the real controller treats wrong sizes is not documented).
"""

from __future__ import annotations

import random
import socket
import struct
from collections import deque
from collections.abc import Callable

from robot_bridge.twin.controller_state import PERIOD_S, ControllerState
from robot_bridge.twin.faults import Faults
from robot_bridge.twin.rtde_fields import InputRecipe, input_type, make_packer, output_type
from robot_bridge.twin.wire import Connection

PORT = 30004
POLYSCOPE_VERSION = (5, 15, 2, 0)
MAX_RATE_HZ = 500.0
REQUEST_VERSION, GET_VERSION = ord("V"), ord("v")
TEXT_MESSAGE, DATA = ord("M"), ord("U")
SETUP_OUTPUTS, SETUP_INPUTS = ord("O"), ord("I")
START, PAUSE = ord("S"), ord("P")
_HEADER = struct.Struct(">HB")


class RtdeServer:
    """What all RTDE connections of one controller share: the state, the faults and who owns which input."""

    def __init__(self, state: ControllerState, faults: Faults) -> None:
        self.state = state
        self.faults = faults
        self.owners: dict[str, RtdeConnection] = {}
        self.connections: list[RtdeConnection] = []

    def connect(self, sock: socket.socket) -> RtdeConnection:
        """A new client (for ``Listener``)."""
        return RtdeConnection(sock, self)

    def publish(self, tick: int) -> None:
        """Send this frame's state to everyone who asked for it."""
        for connection in tuple(self.connections):
            connection.publish(tick)


class RtdeConnection(Connection):
    """One client: its recipes and its stream."""

    def __init__(self, sock: socket.socket, server: RtdeServer) -> None:
        super().__init__(sock)
        self._server = server
        self._incoming = bytearray()
        self._recipes: list[InputRecipe] = []
        self._pack: Callable[[ControllerState], bytes] | None = None
        self._every = 1
        self._started = False
        self._late: deque[tuple[float, bytes]] = deque()

    def opened(self) -> None:
        self._server.connections.append(self)

    def lost(self) -> None:
        self._server.connections.remove(self)
        for name in [name for name, owner in self._server.owners.items() if owner is self]:
            del self._server.owners[name]

    # --- state to the client ---

    def publish(self, tick: int) -> None:
        """Send one data package if the stream runs and this tick is due."""
        if not self._started or self._pack is None or tick % self._every:
            return
        faults = self._server.faults
        if self.outgoing or (faults.on("rtde_drop") and random.random() < faults.value("rtde_drop")):
            return  # a client that does not keep up misses packages, the controller does not queue them
        state = self._server.state
        package = self._pack(state)
        late_s = faults.value("rtde_late")
        if not late_s and not self._late:
            self.send(package)
            return
        self._late.append((state.timestamp + late_s, package))
        while self._late and self._late[0][0] <= state.timestamp:
            self.send(self._late.popleft()[1])

    # --- requests from the client ---

    def received(self, data: bytes) -> None:
        incoming = self._incoming
        incoming += data
        start, available = 0, len(incoming)
        while available - start >= 3 and not self.closed:
            size, kind = _HEADER.unpack_from(incoming, start)
            if size < 3:
                self.close()
                return
            if available - start < size:
                break
            self._request(kind, bytes(incoming[start + 3 : start + size]))
            start += size
        del incoming[:start]

    def _request(self, kind: int, payload: bytes) -> None:
        if kind == DATA:
            if payload and 1 <= payload[0] <= len(self._recipes):
                self._recipes[payload[0] - 1].apply(memoryview(payload)[1:], self._server.state)
        elif kind == REQUEST_VERSION:
            (version,) = struct.unpack(">H", payload[:2])
            self._reply(kind, bytes([version == 2]))
        elif kind == GET_VERSION:
            self._reply(kind, struct.pack(">4I", *POLYSCOPE_VERSION))
        elif kind == SETUP_OUTPUTS:
            self._setup_outputs(payload)
        elif kind == SETUP_INPUTS:
            self._setup_inputs(payload)
        elif kind == START:
            self._reply(kind, b"\x01")
            self._started = True
        elif kind == PAUSE:
            self._started = False
            self._reply(kind, b"\x01")
        elif kind != TEXT_MESSAGE:
            self._text(f"unknown package type {kind}")

    def _setup_outputs(self, payload: bytes) -> None:
        (rate_hz,) = struct.unpack(">d", payload[:8])
        names = _names(payload[8:])
        types = [output_type(name) for name in names]
        self._reply(SETUP_OUTPUTS, b"\x01" + ",".join(types).encode())
        if "NOT_FOUND" not in types:
            rate_hz = min(max(rate_hz, 1.0), MAX_RATE_HZ)
            self._every = max(1, round(1.0 / (rate_hz * PERIOD_S)))
            self._pack = make_packer(names, recipe=1)

    def _setup_inputs(self, payload: bytes) -> None:
        names, owners = _names(payload), self._server.owners
        types = []
        for name in names:
            taken = owners.get(name, self) is not self or self._server.faults.on("rtde_in_use")
            kind = input_type(name)
            types.append("IN_USE" if taken and kind != "NOT_FOUND" else kind)
        if "IN_USE" in types or "NOT_FOUND" in types:
            self._reply(SETUP_INPUTS, b"\x00" + ",".join(types).encode())
            return
        owners.update(dict.fromkeys(names, self))
        self._recipes.append(InputRecipe(names))
        self._reply(SETUP_INPUTS, bytes([len(self._recipes)]) + ",".join(types).encode())

    def _reply(self, kind: int, payload: bytes) -> None:
        self.send(_HEADER.pack(len(payload) + 3, kind) + payload)

    def _text(self, text: str) -> None:
        message, source = text.encode()[:255], b"RTDE"
        self._reply(TEXT_MESSAGE, bytes([len(message)]) + message + bytes([len(source)]) + source + b"\x01")


def _names(payload: bytes) -> list[str]:
    # Clients end the list with a comma.
    return [name for name in payload.decode("ascii", errors="replace").split(",") if name]
