"""Clients of the lab's own ports: JSON lines, one request and one reply each.

These ports exist only on the twin. What stands behind them on a real cell is a person: someone who places the
objects, judges the outcome and moves the leader arm.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

Client = TypeVar("Client", bound="JsonLineClient")


class LabError(RuntimeError):
    """The lab cannot be reached or refused an operation; the message says which and what to do."""


class JsonLineClient:
    """One connection that speaks JSON lines; reconnects by itself on the next call after a failure.

    Args:
        host, port: where the server listens.
        server: what listens there, in words, for error messages.
        start_hint: how to start it.
        timeout_s: longest wait for one reply.
    """

    def __init__(self, host: str, port: int, *, server: str, start_hint: str, timeout_s: float = 5.0) -> None:
        self.host = host
        self.port = port
        self.timeout_s = timeout_s
        self._server = server
        self._start_hint = start_hint
        self._socket: socket.socket | None = None
        self._buffer = b""

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Run one operation and return its reply without the ``ok`` field.

        Raises:
            LabError: no server, no reply in time, a broken reply, or the operation was refused.
        """
        request = json.dumps({"op": op, **arguments}) + "\n"
        try:
            connection = self._connection()
            connection.sendall(request.encode())
            reply = json.loads(self._read_line(connection))
        except (OSError, ValueError) as error:
            self.close()
            raise LabError(
                f"{self._server} at {self.host}:{self.port} did not answer {op!r}: {error}; {self._start_hint}"
            ) from error
        if not isinstance(reply, dict) or not reply.pop("ok", False):
            reason = reply.get("error", reply) if isinstance(reply, dict) else reply
            raise LabError(f"{self._server} at {self.host}:{self.port} refused {op!r}: {reason}")
        return reply

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def __enter__(self: Client) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _connection(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection((self.host, self.port), timeout=self.timeout_s)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _read_line(self, connection: socket.socket) -> bytes:
        while b"\n" not in self._buffer:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError("the connection was closed")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


class LabClient(JsonLineClient):
    """The lab behind the controller: the scene, the truth about it, faults and the red buttons.

    Operations: ``reset_scene(task, placement)``, ``truth()``, ``status()``, ``fault(name, value)``, ``faults()``,
    ``protective_stop()``, ``emergency_stop(on)``, ``safeguard_stop(on)``, ``shutdown()``.
    """

    def __init__(self, host: str, port: int = 30900, *, timeout_s: float = 5.0) -> None:
        super().__init__(
            host,
            port,
            server="the twin's lab port",
            start_hint="start the lab with `python -m robot_bridge.twin.lab --cell twin` (its controller serves it)",
            timeout_s=timeout_s,
        )

    def reset_scene(self, task: str, placement: str | Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Lay out a task's objects. ``placement``: ``Placement.to_json()``, its mapping, or None for a random one."""
        value = json.loads(placement) if isinstance(placement, str) else placement
        return self.call("reset_scene", task=task, placement=value)

    def truth(self) -> dict[str, Any]:
        """Task, object poses by name (4x4 lists in base, metres), camera and board, and the success report.

        ``T_base_camera`` is where the camera is now; ``T_tool_camera`` comes with one on the tool; calibration scenes
        add ``board`` ("tool" or "table"), ``T_base_board`` and, when it is on the tool, ``T_tool_board``.
        """
        return self.call("truth")

    def status(self) -> dict[str, Any]:
        """Tick, robot time, modes, tick lateness percentiles, real-time ratio, script log."""
        return self.call("status")

    def fault(self, name: str, value: float | bool | Sequence[float]) -> dict[str, Any]:
        """Turn one fault switch (see ``faults.py``)."""
        return self.call("fault", name=name, value=value)

    def nudge_camera(self, delta_6: Sequence[float]) -> dict[str, Any]:
        """Knock the camera off its place by [dx, dy, dz m, rotation vector rad], optical frame; zeros mend it."""
        return self.fault("camera_nudge", [float(value) for value in delta_6])


class OperatorClient(JsonLineClient):
    """The scripted demonstrator who moves the leader arm (served by the leader's process)."""

    def __init__(self, host: str, port: int = 30901, *, timeout_s: float = 5.0) -> None:
        super().__init__(
            host,
            port,
            server="the twin's operator port",
            start_hint="start the lab with `python -m robot_bridge.twin.lab --cell twin` (its servo bus serves it)",
            timeout_s=timeout_s,
        )

    def demonstrate(self, seed: int) -> dict[str, Any]:
        """Begin one demonstration of the present task; poll ``status()`` for its end."""
        return self.call("demonstrate", seed=seed)

    def home(self) -> dict[str, Any]:
        """Move the leader back to its home pose."""
        return self.call("home")

    def stop(self) -> dict[str, Any]:
        """Stop moving and hold the leader still."""
        return self.call("stop")

    def status(self) -> dict[str, Any]:
        """``{"phase", "busy", "outcome"}``."""
        return self.call("status")
