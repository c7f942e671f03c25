"""How many CPU threads to train with: what is fastest on this machine at this moment.

A full team of threads is nearly twice as fast as half of one on an idle machine, and half as fast where anything else
runs: all wait for the one that was interrupted. Which of the two it is can only be tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

TRY_AGAIN_AFTER = 8
"""Laps on the faster choice before all are tried again: another program may have come or gone."""


class ThreadChoice:
    """Tries each number of threads for a lap and stays with the fastest for a while.

    Args:
        counts: the numbers to choose from; the first is in use already.
        use: sets the number of threads.
        clock: seconds, for tests.
    """

    def __init__(
        self, counts: Sequence[int], use: Callable[[int], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counts = list(dict.fromkeys(counts))
        self._use, self._clock = use, clock
        self._pace: dict[int, float] = {}
        self._plan: list[int] = []
        self._now = self._counts[0]
        self._step, self._since_s = -1, 0.0

    def lap(self, step: int) -> None:
        """So many steps are done: note how fast the last ones were and set the threads of the next ones."""
        if len(self._counts) < 2:
            return
        now_s = self._clock()
        if step > self._step >= 0:
            self._pace[self._now] = (now_s - self._since_s) / (step - self._step)
        self._step, self._since_s = step, now_s
        if not self._plan:
            measured = len(self._pace) == len(self._counts)
            best = [min(self._pace, key=self._pace.__getitem__)] * TRY_AGAIN_AFTER if measured else []
            self._plan = [*best, *reversed(self._counts)]
        self._now = self._plan.pop(0)
        self._use(self._now)
