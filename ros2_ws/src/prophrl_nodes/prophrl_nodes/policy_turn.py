"""Whose turn is it: may the policy look and speak now, or must it wait for the executor and the arm?

Synchronous chunks: the policy observes only after the last chunk was executed and the arm has settled at its final
pose, so that the next chunk starts from where the arm really is. With a ``ChunkSchedule`` it also looks while a chunk
is in execution, early enough for the answer to come before that ends. Pure: states and times are passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from prophrl_nodes.chunk_player import PlayerState
from prophrl_nodes.chunk_schedule import ChunkSchedule, Continuation

EXECUTOR = "executor"
FOLLOWING, HOLDING = 1, 2
"""States of ``prophrl_interfaces/msg/ServoStatus`` in which the arm obeys its source."""


@dataclass(frozen=True)
class Turn:
    """Whether the policy may speak.

    Attributes:
        waiting_for: what has to happen first; empty when it may.
        not_before_ns: oldest acceptable stamp of what it looks at.
        continues: whether its chunk should continue the one in execution.
        lost: whether the arm is not the policy's before the operator engages the executor.
    """

    waiting_for: str
    not_before_ns: int = 0
    continues: bool = False
    lost: bool = False

    @property
    def mine(self) -> bool:
        """True when nothing has to be waited for."""
        return not self.waiting_for


@dataclass(frozen=True)
class _Executor:
    """The executor's last word. One object, because it arrives in another thread than the one that asks."""

    state: PlayerState
    sequence: int
    reason: str
    progress: float
    stamp_ns: int
    since_ns: int


@dataclass
class PolicyTurn:
    """Follows the executor's status and decides.

    Args:
        settle_s: pause between the end of a chunk and the observation for the next one.
        answer_s: time the executor may take to begin a chunk; one that it lost or refused (it says why on /diagnostics)
            is then replaced by a new one from a new observation.
        schedule: for real-time chunking; None: synchronous chunks.
    """

    settle_s: float
    answer_s: float = 1.0
    schedule: ChunkSchedule | None = None
    _said: _Executor | None = field(default=None, init=False)
    _sent: int | None = field(default=None, init=False)
    _sent_ns: int = field(default=0, init=False)

    def on_executor(self, state: int, sequence: int, reason: str, stamp_ns: int, progress: float = 0.0) -> None:
        """Take one executor status; ``progress`` counts actions of the chunk, with fraction, at the stamp."""
        player, before = PlayerState(state), self._said
        same = before is not None and (player, sequence) == (before.state, before.sequence)
        since_ns = before.since_ns if before is not None and same else stamp_ns
        self._said = _Executor(player, sequence, reason, progress, stamp_ns, since_ns)

    def on_sent(self, sequence: int, now_ns: int) -> None:
        """A chunk was published."""
        self._sent, self._sent_ns = sequence, now_ns

    def begin(self) -> None:
        """A new run: forget what was sent in the last one."""
        self._sent = None
        if self.schedule is not None:
            self.schedule.reset()

    @property
    def begun(self) -> bool:
        """Whether a chunk was published in this run."""
        return self._sent is not None

    def taken(self) -> bool:
        """Whether the executor began the chunk that was sent last."""
        return self._sent is not None and self._said is not None and self._said.sequence >= self._sent

    def ask(self, now_ns: int, arm_source: str | None, arm_state: int) -> Turn:
        """Decide; ``arm_source`` is whom the arm obeys, None when the arm node is silent."""
        said = self._said
        if arm_source is None:
            return Turn("the arm node, which is silent; start it")
        if said is None:
            return Turn("the executor node, which is silent; start it")
        if said.state is PlayerState.STOPPED or (said.state is PlayerState.IDLE and said.reason):
            return Turn(f"the operator: the executor stands still ({said.reason}); call executor/engage", lost=True)
        if arm_source != EXECUTOR or arm_state not in (FOLLOWING, HOLDING):
            waiting_for = f"the executor to be engaged (the arm obeys {arm_source or 'nobody'}); call executor/engage"
            return Turn(waiting_for, lost=True)
        untaken = self._sent is not None and said.sequence < self._sent
        if said.state is PlayerState.EXECUTING:
            if self.schedule is None or not self.schedule.due(said.sequence, self._progress_at(said, now_ns)):
                return Turn("the chunk in execution")
            if untaken and (now_ns - self._sent_ns) * 1e-9 < self.answer_s:
                return Turn("the executor to take the next chunk")
            return Turn("", continues=True)
        if untaken and (now_ns - self._sent_ns) * 1e-9 < self.answer_s:
            return Turn("the executor to begin the chunk")
        return Turn("", said.since_ns + round(self.settle_s * 1e9))

    def continuation(self, now_ns: int, T_reference: ArrayLike) -> Continuation | None:
        """What a chunk continues whose reference was measured at ``now_ns``; None when it begins at once, there."""
        said = self._said
        if self.schedule is None or said is None or said.state is not PlayerState.EXECUTING:
            return None
        return self.schedule.continuation(said.sequence, self._progress_at(said, now_ns), T_reference)

    def _progress_at(self, said: _Executor, now_ns: int) -> float:
        """Actions executed by then: the last word of the executor, carried on (or back) at the control rate."""
        assert self.schedule is not None
        since_s = (now_ns - said.stamp_ns) * 1e-9
        return min(max(said.progress + since_s * self.schedule.rate_hz, 0.0), float(self.schedule.chunk))
