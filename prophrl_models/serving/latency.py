"""How long answers take, and how often they took longer than they may."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

KEPT = 2000
"""Latest samples that the percentiles are taken of; the counts are of all."""


@dataclass(frozen=True)
class LatencySummary:
    """Percentiles in seconds, zero before the first answer; ``over_budget`` of ``count`` answers came too late."""

    count: int
    p50_s: float
    p99_s: float
    worst_s: float
    budget_s: float
    over_budget: int


class LatencyMeter:
    """Takes the duration of every answer.

    Args:
        budget_s: the longest an answer may take; infinite when nobody waits for it.
    """

    def __init__(self, budget_s: float = float("inf")) -> None:
        if not budget_s > 0.0:
            raise ValueError(f"a latency budget is a positive number of seconds, got {budget_s}")
        self.budget_s = budget_s
        self._latest: deque[float] = deque(maxlen=KEPT)
        self._count = self._over = 0
        self._worst_s = 0.0

    def add(self, seconds: float) -> None:
        """One answer took so long."""
        self._latest.append(seconds)
        self._count += 1
        self._over += seconds > self.budget_s
        self._worst_s = max(self._worst_s, seconds)

    def summary(self) -> LatencySummary:
        """All so far."""
        latest = list(self._latest)
        p50, p99 = np.quantile(latest, [0.5, 0.99]) if latest else (0.0, 0.0)
        return LatencySummary(self._count, float(p50), float(p99), self._worst_s, self.budget_s, self._over)
