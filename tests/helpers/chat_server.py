"""A server of the chat protocol that misbehaves on request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler", int, dict[str, Any]], None]
"""(handler, number of the request, its JSON) -> writes a reply, or does not."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            number = self.server.count
            self.server.count += 1
            self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        try:
            self.server.behave(self, number, json.loads(body))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up, as it should

    def say(self, text: str | None, **message: Any) -> None:
        """A well-formed reply with that content."""
        choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
        self.raw(200, json.dumps({"choices": [choice]}).encode())

    def raw(self, status: int, data: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def drip(self, seconds_each: float) -> None:
        """A reply that never ends, a byte at a time."""
        self.raw(200, b"{", length=10_000)
        while not self.server.stopping.is_set():
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(seconds_each)

    def log_message(self, *_: Any) -> None:
        pass


class StubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, behave: Behaviour) -> None:
        super().__init__((host, 0), Handler)
        self.behave, self.count, self.lock, self.stopping = behave, 0, threading.Lock(), threading.Event()
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_address[1]}/v1"


@contextmanager
def serving(host: str, behave: Behaviour) -> Iterator[StubServer]:
    server = StubServer(host, behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
