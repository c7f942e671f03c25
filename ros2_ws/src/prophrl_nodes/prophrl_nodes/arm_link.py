"""What teleop, executor and policy know of the arm node: its servo status, and how to ask it for the arm."""

from __future__ import annotations

import math
import time

from prophrl_interfaces.msg import ServoStatus
from prophrl_interfaces.srv import OperatorVerb

from prophrl_nodes import qos
from prophrl_nodes.messages import to_nanoseconds
from prophrl_nodes.node_base import NoAnswer, ProphNode, Refused

STATUS_TIMEOUT_S = 0.5
"""The arm node publishes its status at 20 Hz and on every change; longer silence means it is gone."""

STATE_NAMES = {
    ServoStatus.IDLE: "idle",
    ServoStatus.FOLLOWING: "following",
    ServoStatus.HOLDING: "holding",
    ServoStatus.STOPPED: "stopped",
}


class ArmLink:
    """One source's view of the arm node.

    Args:
        node: the node that speaks; call in its ``setup``.
        source: name under which it engages, as in ``ServoTarget.source``.
    """

    def __init__(self, node: ProphNode, source: str) -> None:
        self._node = node
        self._source = source
        self._status: ServoStatus | None = None
        self._received_s = -math.inf
        self._engaged_at_ns: int | None = None
        self._command = node.client(OperatorVerb, "arm/command")
        node.subscribe(ServoStatus, "servo/status", self._on_status, qos.STATE)

    @property
    def status(self) -> ServoStatus | None:
        """Newest servo status, None while the arm node is silent."""
        return self._status if self.silent_s() <= STATUS_TIMEOUT_S else None

    def silent_s(self) -> float:
        """Seconds since the arm node last said something; infinite when it never did."""
        return time.monotonic() - self._received_s

    async def engage(self) -> str:
        """Ask the arm to obey this source; returns the arm's answer.

        Raises:
            Refused: no arm node, or it refused; the message says why.
        """
        message = await self._ask("engage", self._source)
        self._engaged_at_ns = time.time_ns()
        return message

    async def disengage(self) -> str:
        """Ask the arm to let go of this source, if it is the one it obeys.

        Raises:
            Refused: no arm node.
        """
        self._engaged_at_ns = None
        status = self.status
        if status is not None and status.source not in ("", self._source):
            return f"the arm obeys {status.source!r}, which is left alone"
        return await self._ask("disengage", "")

    def let_go(self) -> None:
        """Disengage without waiting for the answer: for a node that stops, or that lost what it needs."""
        engaged_at_ns, self._engaged_at_ns = self._engaged_at_ns, None
        status = self.status
        if engaged_at_ns is None or status is None:
            return
        unheard = to_nanoseconds(status.header.stamp) < engaged_at_ns  # said before the arm heard of us
        if (unheard or status.source == self._source) and self._command.service_is_ready():
            self._command.call_async(OperatorVerb.Request(verb="disengage"))

    def lost_reason(self) -> str:
        """Why the arm no longer obeys this source although it was engaged; empty while it does."""
        if self._engaged_at_ns is None:
            return ""
        status = self.status
        if status is None:
            silent_s = min(self.silent_s(), (time.time_ns() - self._engaged_at_ns) * 1e-9)
            return f"arm node silent for {silent_s:.1f} s; start it and engage again" if silent_s > 0.5 else ""
        if to_nanoseconds(status.header.stamp) < self._engaged_at_ns:
            return ""  # said before it heard of us
        if status.source == self._source:
            return ""
        state = STATE_NAMES.get(status.state, str(status.state))
        return f"arm is {state}: {status.reason or 'it was disengaged'}; engage again when it is ready"

    def _on_status(self, message: ServoStatus) -> None:
        self._status, self._received_s = message, time.monotonic()

    async def _ask(self, verb: str, argument: str) -> str:
        request = OperatorVerb.Request(verb=verb, argument=argument)
        try:
            answer = await self._node.call(self._command, request, timeout_s=2.0)
        except NoAnswer:
            # A server that was started a moment ago may lose its first answer; these verbs may be said twice.
            answer = await self._node.call(self._command, request)
        if not answer.success:
            raise Refused(f"arm refused to {verb}: {answer.message}")
        return str(answer.message)
