"""A JSON-lines server for a select loop: one object a line in, one object a line out.

Used for the twin's own controls (never for a device protocol). Nothing here blocks: the owner's loop asks for
``sockets()``, selects on them and calls ``serve`` with the readable ones.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from typing import Any

Reply = dict[str, Any]
Handler = Callable[[str, dict[str, Any]], Reply]
_LONGEST_LINE = 1 << 20


class JsonLinesServer:
    """Listens on host:port and answers each line ``{"op": name, ...}`` with ``{"ok": bool, ...}``.

    Args:
        handler: called with the op and the other keys; returns the reply's keys. A ``ValueError`` or
            ``RuntimeError`` it raises becomes ``{"ok": false, "error": message}``.

    Raises:
        OSError: the address is taken or not of this machine; the message names it and the way out.
    """

    def __init__(self, host: str, port: int, handler: Handler) -> None:
        self._handler = handler
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._clients: dict[socket.socket, bytearray] = {}
        try:
            self._listener.bind((host, port))
            self._listener.listen(8)
        except OSError as error:
            self._listener.close()
            raise OSError(
                error.errno,
                f"cannot listen on {host}:{port}: {error.strerror}; is another lab running there? Stop it, or give "
                "this one another loopback address (host:=127.0.0.2)",
            ) from error
        self._listener.setblocking(False)

    def sockets(self) -> list[socket.socket]:
        """What the owner's loop must watch for reading."""
        return [self._listener, *self._clients]

    def serve(self, readable: Iterable[socket.socket]) -> None:
        """Accept clients and answer complete lines."""
        for sock in readable:
            if sock is self._listener:
                client, _ = self._listener.accept()
                client.setblocking(False)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._clients[client] = bytearray()
            elif sock in self._clients:
                self._read(sock)

    def close(self) -> None:
        for sock in self.sockets():
            sock.close()
        self._clients.clear()

    def _read(self, client: socket.socket) -> None:
        buffer = self._clients[client]
        try:
            data = client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer += data
        if not data or len(buffer) > _LONGEST_LINE:
            self._drop(client)
            return
        while (end := buffer.find(b"\n")) >= 0:
            line = bytes(buffer[:end])
            del buffer[: end + 1]
            if not line.strip():
                continue
            try:
                client.sendall(json.dumps(self._answer(line)).encode() + b"\n")
            except OSError:
                # A client that went away or does not read its replies; the lab must not wait for it.
                self._drop(client)
                return

    def _answer(self, line: bytes) -> Reply:
        try:
            request = json.loads(line)
        except ValueError as error:
            return {"ok": False, "error": f"not a JSON object: {error}"}
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            return {"ok": False, "error": 'a request is a JSON object with the key "op"'}
        op = request.pop("op")
        try:
            return {"ok": True, **self._handler(op, request)}
        except (ValueError, RuntimeError, TypeError, KeyError) as error:
            return {"ok": False, "error": f"{op}: {error}"}

    def _drop(self, client: socket.socket) -> None:
        del self._clients[client]
        client.close()
