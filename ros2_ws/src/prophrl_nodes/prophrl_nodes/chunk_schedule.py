"""When to look again while a chunk is still in execution, and what of it is committed by then.

Pure: progress and times are passed in. Used by the policy node and by the fast lane alike. Why the committed rows begin
one lag of the arm before the present is derived in ``prophrl_models.policies.committed``.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prophrl_models.policies.committed import Committed, committed_actions
from prophrl_nodes.chunk_player import Chunk, path_pose

Array = NDArray[np.float64]

TRACKING_LAG_S = 0.08
"""How far the measured TCP runs behind the commanded one: 65 ms in the fast lane at any speed, the wire adds to it."""
MARGIN_S = 0.05
"""The answer should be there this long before the rows run out."""
KEPT_CHUNKS = 4


class LatencyBudget:
    """Measured times from observation to answer, and what to expect of the next one.

    Args:
        count: how many of the last latencies count.
        quantile: which of them is expected: high, because a chunk that comes after the last row makes the arm stand.
    """

    def __init__(self, count: int = 20, quantile: float = 0.9) -> None:
        self._last: deque[float] = deque(maxlen=count)
        self._quantile = quantile
        self.overruns = 0

    def add(self, latency_s: float) -> None:
        """One more latency; one above what was expected counts as an overrun."""
        self.overruns += bool(self._last) and latency_s > self.expected_s + MARGIN_S
        self._last.append(latency_s)

    @property
    def expected_s(self) -> float:
        """The quantile of the last latencies; 0 before the first."""
        return float(np.quantile(self._last, self._quantile, method="higher")) if self._last else 0.0

    @property
    def typical_s(self) -> float:
        """The median of the last latencies; 0 before the first."""
        return float(np.quantile(self._last, 0.5, method="higher")) if self._last else 0.0

    @property
    def worst_s(self) -> float:
        """The longest of the last latencies."""
        return max(self._last, default=0.0)


@dataclass(frozen=True)
class Continuation:
    """Which chunk the next one continues, from which step of it, and the rows it already holds."""

    follows: int
    start_step: float
    committed: Committed


class ChunkSchedule:
    """Follows the chunks that were sent and answers two questions: look now? and, what is committed?

    Args:
        chunk: rows of a chunk.
        rate_hz: rows per second.
        execute_length: rows to execute before looking again, 1..chunk; a long latency makes it look earlier.
        tracking_lag_s: how far the measured TCP runs behind the commanded one.
        budget: what is known of the latency; kept up to date by whoever measures it.
    """

    def __init__(
        self, chunk: int, rate_hz: float, execute_length: int, tracking_lag_s: float, budget: LatencyBudget
    ) -> None:
        self.chunk, self.rate_hz = chunk, rate_hz
        self.execute_length, self.tracking_lag_s = execute_length, tracking_lag_s
        self.budget = budget
        self._sent: dict[int, tuple[Chunk, Array]] = {}

    def reset(self) -> None:
        """A new run: forget the chunks of the last one; what is known of latency stays."""
        self._sent.clear()

    def sent(self, chunk: Chunk) -> None:
        """A chunk went to the executor."""
        self._sent[chunk.sequence] = (chunk, chunk.path())
        for old in sorted(self._sent)[:-KEPT_CHUNKS]:
            del self._sent[old]

    @property
    def look_at(self) -> float:
        """Progress of a chunk at which to look again: after ``execute_length`` rows, yet in time for the answer."""
        wanted = self.execute_length + self.tracking_lag_s * self.rate_hz
        latest = self.chunk - (self.budget.expected_s + MARGIN_S) * self.rate_hz
        return max(min(wanted, latest), self.tracking_lag_s * self.rate_hz)

    def due(self, sequence: int, progress: float) -> bool:
        """Whether it is time to look, with the executor at this progress of a chunk that we sent."""
        return sequence in self._sent and progress >= self.look_at

    def continuation(self, sequence: int, progress: float, T_reference: ArrayLike) -> Continuation | None:
        """What a chunk from an observation now has to continue; None when no whole row is left to continue.

        As many rows are frozen as usually pass until the answer. One that comes later joins a row further on, where it
        was still drawn to the old chunk; freezing for the slowest answers would let every other one act on an older
        plan than it has to.

        Args:
            sequence, progress: chunk in execution, and its progress, when the pose was measured.
            T_reference: measured TCP pose [4, 4] of the observation.
        """
        if sequence not in self._sent:
            return None
        chunk, path = self._sent[sequence]
        start = max(0.0, progress - self.tracking_lag_s * self.rate_hz)
        left = int(chunk.execute_length - start + 1e-6)
        if left < 1:
            return None
        poses = [path_pose(path, start + k + 1) for k in range(left)]
        # A new row takes the opening of the old row that fills most of it.
        rows = np.minimum((start + np.arange(left) + 0.5).astype(int), chunk.execute_length - 1)
        actions = committed_actions(T_reference, np.array(poses), chunk.actions_CHD[rows, 6], chunk.convention)
        frozen = math.ceil((progress - start) + self.budget.typical_s * self.rate_hz - 1e-6)
        return Continuation(sequence, start, Committed(actions, min(frozen, left)))
