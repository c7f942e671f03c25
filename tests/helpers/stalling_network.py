"""A network between a robot client and the twin's controller that can stall: nothing passes, nothing is lost.

A process of its own: ur_rtde's constructors hold the interpreter while they wait for what must come through here.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from types import TracebackType

PORTS = (29999, 30001, 30002, 30003, 30004)


class StallingNetwork:
    """Forwards the controller's ports from one loopback address to another."""

    def __init__(self, host: str, controller_host: str) -> None:
        self.host = host
        command = [sys.executable, "-m", "tests.helpers.stalling_network", host, controller_host]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> StallingNetwork:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "forwarding\n"
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def stall(self, seconds: float) -> None:
        """Let nothing pass from now on, for so long; returns at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()


def _accept(listener: socket.socket, controller_host: str, passing: threading.Event) -> None:
    while True:
        client, _ = listener.accept()
        try:
            controller = socket.create_connection((controller_host, listener.getsockname()[1]))
        except OSError:
            client.close()
            continue
        for source, sink in ((client, controller), (controller, client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_forward, args=(source, sink, passing), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket, passing: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            passing.wait()
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def main(host: str, controller_host: str) -> None:
    """Forward until killed; a number of seconds on standard input stalls for so long."""
    passing = threading.Event()
    passing.set()
    for port in PORTS:
        arguments = (socket.create_server((host, port)), controller_host, passing)
        threading.Thread(target=_accept, args=arguments, daemon=True).start()
    print("forwarding", flush=True)
    for line in sys.stdin:
        passing.clear()
        time.sleep(float(line))
        passing.set()


if __name__ == "__main__":
    main(*sys.argv[1:])
