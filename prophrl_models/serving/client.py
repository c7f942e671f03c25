"""The policy node's end of the line: one question at a time, bounded waiting, and no silent change of policy.

The first server that answers fixes what is agreed on: convention, spec and checkpoint. A server that comes back with
anything else is refused, for its actions would mean something else than the executor believes.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from calibration.poses import ActionConvention
from prophrl_models.policies.interface import UnknownInstruction
from prophrl_models.serving import protocol, wire
from prophrl_models.serving.engine import PolicyAnswer, PolicyRequest
from prophrl_models.serving.errors import (
    ProtocolError,
    RequestRefused,
    ServerMismatch,
    ServerUnavailable,
    Unauthorised,
)
from prophrl_models.serving.latency import LatencyMeter
from prophrl_models.serving.protocol import Hello

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True)
class ClientSettings:
    """How to reach a server, and what it must be.

    Attributes:
        token: bearer token; empty when the server listens on loopback only.
        timeout_s: longest wait for an answer, connecting and connecting again included.
        connect_timeout_s: longest wait for the server when a client begins.
        convention, checkpoint_id: what the server must serve; None takes what the first server says.
    """

    token: str = ""
    timeout_s: float = 2.0
    connect_timeout_s: float = 10.0
    convention: ActionConvention | None = None
    checkpoint_id: str | None = None


class PolicyClient:
    """Asks a policy server. Not thread-safe.

    Args:
        url: ``ws://host:port/policy``.
        settings: see ``ClientSettings``.
    """

    def __init__(self, url: str, settings: ClientSettings | None = None) -> None:
        self.url = url
        self.settings = settings or ClientSettings()
        self.hello: Hello | None = None
        """What was agreed on; None before the first connection."""
        self.round_trip = LatencyMeter()
        self.reconnects = 0
        self._connection: ClientConnection | None = None
        self._opened = ExitStack()
        self._number = 0
        self._pause_s = FIRST_PAUSE_S

    def connect(self) -> Hello:
        """Connect, if not connected; what the server serves.

        Raises:
            ServerUnavailable: nobody answers within ``connect_timeout_s``.
            Unauthorised, ServerMismatch: see there; asking again does not help.
        """
        if self._connection is None:
            self._reach(time.monotonic() + self.settings.connect_timeout_s)
        assert self.hello is not None
        return self.hello

    def infer(self, request: PolicyRequest) -> PolicyAnswer:
        """The answer, with ``round_trip_ms`` and ``network_ms`` (round trip less the server's own time) added.

        A broken connection is made again and the question repeated, until ``timeout_s`` has passed; the seed travels
        with it, so a repeated question has the same answer.

        Raises:
            ServerUnavailable: no answer in time. The late one is never mistaken for the next: the connection is closed.
            Unauthorised, ServerMismatch: the server that came back is not the one that was agreed on.
            UnknownInstruction, ValueError: the policy was not made for this observation.
            RequestRefused: the server could not answer for another reason.
        """
        deadline_s = time.monotonic() + self.settings.timeout_s
        while True:
            if self._connection is None:
                self._reach(deadline_s)
            try:
                return self._ask(request, deadline_s)
            except (ConnectionClosed, OSError) as error:
                self.close()
                self._rest(deadline_s, f"connection to {self.url} broke: {error}")

    def close(self) -> None:
        """Close the connection; the next question opens a new one."""
        self._connection = None
        with suppress(ConnectionClosed, OSError):  # a dead server does not say goodbye
            self._opened.close()

    def _ask(self, request: PolicyRequest, deadline_s: float) -> PolicyAnswer:
        assert self._connection is not None and self.hello is not None
        self._number += 1
        message = protocol.request_to_message(request, self._number, self.hello.checkpoint_id)
        began_s = time.perf_counter()
        self._connection.send(wire.pack(message))
        try:
            reply = self._receive(self._connection, deadline_s)
        except TimeoutError:
            self.close()
            waited_s = time.perf_counter() - began_s
            raise ServerUnavailable(
                f"{self.url} did not answer within {waited_s:.2f} s; is the server overloaded? See its /health"
            ) from None
        except ProtocolError:
            self.close()
            raise
        took_s = time.perf_counter() - began_s
        if reply.get("type") == "error":
            raise self._refusal(reply)
        answer, number = protocol.answer_from_message(reply)
        wanted = (self.hello.spec.chunk, self.hello.spec.action_dim)
        if number != self._number or answer.actions_CHD.shape != wanted:
            self.close()
            raise ProtocolError(
                f"answer {number} of shape {answer.actions_CHD.shape} to question {self._number}, which wants {wanted}"
            )
        self.round_trip.add(took_s)
        server_ms = answer.timing.get("queue_ms", 0.0) + answer.timing.get("total_ms", 0.0)
        answer.timing.update(round_trip_ms=1e3 * took_s, network_ms=1e3 * took_s - server_ms)
        return answer

    def _refusal(self, reply: dict[str, Any]) -> Exception:
        code, why = protocol.error_from_message(reply)
        if code == "unknown_instruction":
            return UnknownInstruction(why)
        if code == "bad_observation":
            return ValueError(why)
        if code == "wrong_checkpoint":
            self.close()
            return ServerMismatch(why)
        if code in ("malformed", "busy"):
            self.close()
        return RequestRefused(code, f"{self.url}: {why}")

    def _reach(self, deadline_s: float) -> None:
        """Connect and shake hands, again and again until the deadline."""
        while True:
            try:
                self._connection = self._open(deadline_s)
                break
            except (OSError, ConnectionClosed, InvalidHandshake) as error:
                self._refuse_for_good(error)
                self._rest(deadline_s, f"no policy server at {self.url}: {error or type(error).__name__}")
        self._pause_s = FIRST_PAUSE_S

    def _open(self, deadline_s: float) -> ClientConnection:
        headers = {"Authorization": f"Bearer {self.settings.token}"} if self.settings.token else {}
        left_s = max(deadline_s - time.monotonic(), 0.01)
        try:
            opening = connect(
                self.url,
                additional_headers=headers,
                open_timeout=left_s,
                close_timeout=0.5,
                max_size=wire.MAX_MESSAGE_BYTES,
                compression=None,  # a picture does not shrink, and trying costs more than sending it
                proxy=None,
            )
            connection = self._opened.enter_context(opening)
        except InvalidURI as error:
            raise ServerMismatch(f"{self.url} is not an address; write ws://host:port/policy") from error
        try:
            hello = Hello.from_message(self._receive(connection, deadline_s))
            self._agree(hello)
        except BaseException:
            self.close()
            raise
        self.reconnects += self.hello is not None
        self.hello = self.hello or hello
        return connection

    def _agree(self, hello: Hello) -> None:
        settings, agreed = self.settings, self.hello
        convention = settings.convention
        if convention is None and agreed is not None:
            convention = agreed.spec.convention
        checkpoint = settings.checkpoint_id or (agreed.checkpoint_id if agreed else None)
        if convention is not None and hello.spec.convention != convention:
            raise ServerMismatch(
                f"{self.url} acts in convention {hello.spec.convention.name}, agreed was "
                f"{ActionConvention(convention).name}; serve the right checkpoint or change what the node expects"
            )
        if checkpoint is not None and hello.checkpoint_id != checkpoint:
            raise ServerMismatch(
                f"{self.url} serves {hello.policy_id!r} ({hello.checkpoint_id[:12]}), agreed was checkpoint "
                f"{checkpoint[:12]}; serve that one, or restart the policy node to accept the new one"
            )
        if agreed is not None and hello.spec != agreed.spec:
            raise ServerMismatch(f"{self.url} promises another spec than before; restart the policy node to accept it")

    def _receive(self, connection: ClientConnection, deadline_s: float) -> dict[str, Any]:
        data = connection.recv(timeout=max(deadline_s - time.monotonic(), 0.0))
        if isinstance(data, str):
            raise ProtocolError(f"{self.url} sent text where binary frames are expected; is it a policy server?")
        return wire.unpack(data)

    def _refuse_for_good(self, error: Exception) -> None:
        if not isinstance(error, InvalidStatus):
            return
        status = error.response.status_code
        if status == 401:
            raise Unauthorised(
                f"{self.url} does not accept our token; give the policy node the file that prophrl serve was given"
            ) from error
        if status in (403, 404):
            raise ServerMismatch(
                f"{self.url} answers {status}; the address of a policy is ws://host:port/policy"
            ) from error

    def _rest(self, deadline_s: float, why: str) -> None:
        """Wait before the next attempt, longer each time.

        Raises:
            ServerUnavailable: the deadline would pass.
        """
        if time.monotonic() + self._pause_s >= deadline_s:
            raise ServerUnavailable(f"{why}; start it with prophrl serve, or look at the network")
        time.sleep(self._pause_s)
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)
