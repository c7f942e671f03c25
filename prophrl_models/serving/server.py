"""The policy server: WebSocket ``/policy`` for robots, GET ``/health`` and ``/spec`` for people and scripts.

Without a token it listens on loopback only. Pages in a browser are turned away everywhere: they send ``Origin``, which
robots do not, and a page somebody happens to open must not drive an arm through the loopback address.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from prophrl_models.policies.interface import UnknownInstruction
from prophrl_models.serving import protocol, wire
from prophrl_models.serving.batcher import Batcher
from prophrl_models.serving.engine import PolicyEngine
from prophrl_models.serving.errors import ProtocolError
from prophrl_models.serving.protocol import Hello

SHORTEST_TOKEN = 16
SEND_TIMEOUT_S = 10.0
"""A robot that has not read its answer by then is let go."""
NOT_UNDERSTOOD = 1007
"""WebSocket close code: invalid payload."""

log = logging.getLogger(__name__)


class ServerError(ValueError):
    """A server that must not be started like this; the message says how."""


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(host: str, token: str) -> None:
    """Refuse to listen where strangers could ask.

    Raises:
        ServerError: no token off loopback, or one that is too short to keep anybody out.
    """
    if not token and not is_loopback(host):
        raise ServerError(
            f"listening on {host} needs a token: make one with: (umask 077; openssl rand -hex 32 > token) "
            "and pass --token-file token here and token_file to the policy node; or listen on 127.0.0.1"
        )
    if token and len(token) < SHORTEST_TOKEN:
        raise ServerError(f"the token has {len(token)} characters, it needs at least {SHORTEST_TOKEN}")


def hello_of(engine: PolicyEngine, warm_p50_s: float) -> Hello:
    """What this engine promises to clients."""
    return Hello(
        engine.policy_id,
        engine.checkpoint_id,
        engine.policy.kind,
        engine.spec,
        engine.sync,
        str(engine.device),
        engine.precision,
        warm_p50_s,
    )


class PolicyServer:
    """The application around one engine.

    Args:
        engine: loaded and warm; owned by the server from now on.
        hello: see ``hello_of``.
        token: bearer token; empty accepts everybody who can reach the port.
        max_clients: robots connected at once.
        window_s: see ``Batcher``.
    """

    def __init__(
        self, engine: PolicyEngine, hello: Hello, token: str = "", max_clients: int = 16, window_s: float = 0.003
    ) -> None:
        self.hello, self._token, self._max_clients = hello, token, max_clients
        self.batcher = Batcher(engine, window_s)
        self._engine = engine
        self._started_s = time.monotonic()
        self.app = FastAPI(title="prophrl policy server", docs_url=None, redoc_url=None, openapi_url=None)
        self.app.add_api_route("/health", self.health)
        self.app.add_api_route("/spec", self.spec)
        self.app.add_api_websocket_route("/policy", self.policy)

    async def health(self) -> Response:
        """200 while questions are answered, with figures; 503 when they are not. Needs no token."""
        batcher = self.batcher
        latency = {name: value for name, value in asdict(batcher.latency.summary()).items() if "budget" not in name}
        body = {
            "status": "ok" if batcher.alive else "stopped",
            "clients": batcher.clients,
            "answered": batcher.answered,
            "failed": batcher.failed,
            "latency": latency,
            "uptime_s": round(time.monotonic() - self._started_s, 1),
        }
        return JSONResponse(body, 200 if batcher.alive else 503)

    async def spec(self, request: Request) -> Response:
        """What a client is told when it connects, as JSON."""
        if refusal := self._refusal(request):
            return refusal
        return JSONResponse(self.hello.to_message())

    async def policy(self, link: WebSocket) -> None:
        """One robot's connection, from hello to its end."""
        if refusal := self._refusal(link):
            await link.send_denial_response(refusal)
            return
        if self.batcher.clients >= self._max_clients:
            await link.send_denial_response(Response(f"{self._max_clients} robots are connected already", 503))
            return
        self.batcher.clients += 1
        who = f"{link.client.host}:{link.client.port}" if link.client else "a client"
        try:
            await link.accept()
            log.info("%s connected, %d in all", who, self.batcher.clients)
            await self._send(link, self.hello.to_message())
            await self._converse(link)
        except (WebSocketDisconnect, TimeoutError, RuntimeError) as error:
            # starlette reports a peer that vanished while we send as a RuntimeError
            log.info("%s left: %s", who, type(error).__name__)
        finally:
            self.batcher.clients -= 1
            log.info("%s disconnected, %d left", who, self.batcher.clients)

    async def _converse(self, link: WebSocket) -> None:
        """Question and answer, until the client leaves or is not understood."""
        incoming = asyncio.ensure_future(link.receive())
        try:
            while True:
                message = await incoming
                # Listening while the policy thinks is how a departure is noticed before the answer is computed.
                incoming = asyncio.ensure_future(link.receive())
                reply, understood = await self._reply(message, incoming)
                await self._send(link, reply)
                if not understood:
                    await link.close(NOT_UNDERSTOOD)
                    return
        finally:
            incoming.cancel()
            with suppress(asyncio.CancelledError, RuntimeError):
                await incoming

    async def _reply(self, message: Message, incoming: asyncio.Future[Message]) -> tuple[dict[str, Any], bool]:
        """The answer or the refusal of one question, and whether the connection may go on."""
        number = None
        try:
            request, number, meant_for = protocol.request_from_message(wire.unpack(_frame(message)))
            if meant_for != self.hello.checkpoint_id:
                why = (
                    f"the question is meant for checkpoint {meant_for[:12]}, served is {self.hello.checkpoint_id[:12]}"
                )
                return protocol.error_message("wrong_checkpoint", why, number), True
            self._engine.check(request)
            answer = asyncio.wrap_future(self.batcher.ask(request))
            await asyncio.wait((answer, incoming), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.cancel()
                _frame(incoming.result())  # raises when the client has left
                why = "a second question came before the first was answered"
                return protocol.error_message("busy", why, number), False
            return protocol.answer_to_message(answer.result(), number), True
        except ProtocolError as error:
            return protocol.error_message("malformed", str(error), number), False
        except UnknownInstruction as error:
            return protocol.error_message("unknown_instruction", str(error), number), True
        except ValueError as error:
            return protocol.error_message("bad_observation", str(error), number), True
        except (WebSocketDisconnect, asyncio.CancelledError):
            raise
        except Exception as error:  # the batcher has logged it with its trace; the client is told the kind
            why = f"the policy failed: {type(error).__name__}; see the server's log"
            return protocol.error_message("internal", why, number), True

    async def _send(self, link: WebSocket, message: dict[str, Any]) -> None:
        await asyncio.wait_for(link.send_bytes(wire.pack(message)), SEND_TIMEOUT_S)

    def _refusal(self, connection: HTTPConnection) -> Response | None:
        """The answer to somebody who may not ask, None for those who may."""
        if "origin" in connection.headers:
            return Response("not for browsers", 403)
        if not self._token:
            return None
        said = connection.headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if hmac.compare_digest(said, f"Bearer {self._token}".encode()):
            return None
        return Response("this server needs its bearer token", 401, {"WWW-Authenticate": "Bearer"})


def serve(server: PolicyServer, host: str, port: int, on_ready: Callable[[str, int], None]) -> None:
    """Listen until interrupted; ``on_ready`` is told the address once connections are accepted.

    Args:
        port: 0 takes a free one.

    Raises:
        ServerError: the address cannot be listened on.
    """
    config = uvicorn.Config(
        server.app,
        host,
        port,
        ws="websockets-sansio",
        ws_max_size=wire.MAX_MESSAGE_BYTES,
        ws_ping_interval=5.0,
        ws_ping_timeout=10.0,
        ws_per_message_deflate=False,  # a picture does not shrink, and trying costs more than sending it
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
        lifespan="off",
    )
    try:
        listener = _listen(host, port)
    except OSError as error:
        raise ServerError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    with listener:
        uvicorn_server = _Announcing(config, lambda: on_ready(host, listener.getsockname()[1]))
        uvicorn_server.run(sockets=[listener])
    server.batcher.close()


class _Announcing(uvicorn.Server):
    """uvicorn's server, which says when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End in order; uvicorn's own would raise the signal again when all is closed, which reads like a crash."""
        self.force_exit = self.should_exit  # asked twice
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol_number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol_number)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restarted server takes its port again at once
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _frame(message: Message) -> bytes:
    """The bytes of a received frame.

    Raises:
        WebSocketDisconnect: the client has left.
        ProtocolError: a text frame.
    """
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005), message.get("reason"))
    data = message.get("bytes")
    if not isinstance(data, bytes):
        raise ProtocolError("messages are binary frames, this was text")
    return data
