"""Non-blocking TCP for the controller's select loop: listeners, and connections with an output buffer."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable

OUTPUT_LIMIT_BYTES = 1 << 20
"""A client that reads nothing for this long a backlog is cut off, as its TCP window would do on the robot."""


class Connection:
    """One client. Subclasses implement ``received``; ``send`` never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.closed = False
        self.outgoing = bytearray()
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # the client may already be gone
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        raise TypeError(f"{type(self).__name__} must say what to do with received data")

    def opened(self) -> None:
        """Called once, when the connection is established."""

    def lost(self) -> None:
        """Called once, when the connection is gone."""

    def read(self) -> None:
        """Take in what has arrived; called when the socket is readable."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.received(data)
        else:
            self.close()

    def send(self, data: bytes) -> None:
        """Send now what the kernel takes, keep the rest."""
        if self.closed:
            return
        if not self.outgoing:
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return
            if sent == len(data):
                return
            data = data[sent:]
        self.outgoing += data
        if len(self.outgoing) > OUTPUT_LIMIT_BYTES:
            self.close()

    def flush(self) -> None:
        """Send kept data; called when the socket is writable."""
        try:
            sent = self.socket.send(self.outgoing)
            del self.outgoing[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def close(self) -> None:
        """End the connection."""
        if not self.closed:
            self.closed = True
            self.socket.close()
            self.lost()


class Listener:
    """A listening port that makes a connection object for every client.

    Raises:
        OSError: the address is taken or does not exist; the message names host, port and what usually holds it.
    """

    def __init__(self, host: str, port: int, make: Callable[[socket.socket], Connection]) -> None:
        self._make = make
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind((host, port))
            self.socket.listen(16)
        except OSError as error:
            self.socket.close()
            if error.errno == errno.EADDRINUSE:
                hint = "another twin controller (or a robot simulator) runs there; stop it or use host:=127.0.0.2"
            else:
                hint = "use a loopback address of this machine, 127.0.0.1 .. 127.255.255.254"
            raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}; {hint}") from error
        self.socket.setblocking(False)

    def accept(self) -> Connection | None:
        """The next client, None when it gave up before we came."""
        try:
            sock, _ = self.socket.accept()
        except (BlockingIOError, ConnectionError):
            return None
        connection = self._make(sock)
        connection.opened()
        return None if connection.closed else connection

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()


class LineConnection(Connection):
    """A connection that speaks text lines; subclasses implement ``line``."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._incoming = b""

    def line(self, text: str) -> None:
        """One received line without its end."""
        raise TypeError(f"{type(self).__name__} must say what to do with a line")

    def received(self, data: bytes) -> None:
        """Split into lines."""
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        for line in lines:
            if not self.closed:
                self.line(line.decode("ascii", errors="replace").strip())
