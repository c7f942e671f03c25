"""Whose turn is it: may the policy look and speak now, or must it wait for the executor and the arm?

Chunks are synchronous: the policy observes only after the last chunk was executed and the arm has settled at its final
pose, so that the next chunk starts from where the arm really is. Pure: states and times are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prophrl_nodes.chunk_player import PlayerState

EXECUTOR = "executor"
FOLLOWING, HOLDING = 1, 2
"""States of ``prophrl_interfaces/msg/ServoStatus`` in which the arm obeys its source."""


@dataclass(frozen=True)
class Turn:
    """Whether the policy may speak; ``not_before_ns`` is the oldest acceptable stamp of what it looks at."""

    waiting_for: str
    not_before_ns: int = 0

    @property
    def mine(self) -> bool:
        """True when nothing has to be waited for."""
        return not self.waiting_for


@dataclass
class PolicyTurn:
    """Follows the executor's status and decides.

    Args:
        settle_s: pause between the end of a chunk and the observation for the next one.
        answer_s: time the executor may take to begin a chunk; one that it lost or refused (it says why on /diagnostics)
            is then replaced by a new one from a new observation.
    """

    settle_s: float
    answer_s: float = 1.0
    _state: PlayerState | None = field(default=None, init=False)
    _sequence: int = field(default=0, init=False)
    _reason: str = field(default="", init=False)
    _since_ns: int = field(default=0, init=False)
    _sent: int | None = field(default=None, init=False)
    _sent_ns: int = field(default=0, init=False)

    def on_executor(self, state: int, sequence: int, reason: str, stamp_ns: int) -> None:
        """Take one executor status."""
        player = PlayerState(state)
        if (player, sequence) != (self._state, self._sequence):
            self._since_ns = stamp_ns
        self._state, self._sequence, self._reason = player, sequence, reason

    def on_sent(self, sequence: int, now_ns: int) -> None:
        """A chunk was published."""
        self._sent, self._sent_ns = sequence, now_ns

    def begin(self) -> None:
        """A new run: forget what was sent in the last one."""
        self._sent = None

    def ask(self, now_ns: int, arm_source: str | None, arm_state: int) -> Turn:
        """Decide; ``arm_source`` is whom the arm obeys, None when the arm node is silent."""
        if arm_source is None:
            return Turn("the arm node, which is silent; start it")
        if self._state is None:
            return Turn("the executor node, which is silent; start it")
        if self._state is PlayerState.STOPPED or (self._state is PlayerState.IDLE and self._reason):
            return Turn(f"the operator: the executor stands still ({self._reason}); call executor/engage")
        if arm_source != EXECUTOR or arm_state not in (FOLLOWING, HOLDING):
            return Turn(f"the executor to be engaged (the arm obeys {arm_source or 'nobody'}); call executor/engage")
        if self._state is PlayerState.EXECUTING:
            return Turn("the chunk in execution")
        untaken = self._sent is not None and self._sequence < self._sent
        if untaken and (now_ns - self._sent_ns) * 1e-9 < self.answer_s:
            return Turn("the executor to begin the chunk")
        return Turn("", self._since_ns + round(self.settle_s * 1e9))
