"""Rates, ages and gaps of a stream of samples, for diagnostics. Pure: the time of each sample is passed in."""

from __future__ import annotations

import threading
from collections import deque
from itertools import pairwise


class RateMeter:
    """Counts samples; knows the mean rate and the largest gap of the last ``window_s`` seconds.

    Fed from one thread and read from another, hence the lock. Times are seconds of any one monotonic clock.
    """

    def __init__(self, window_s: float = 2.0) -> None:
        self._window_s = window_s
        self._times: deque[float] = deque()
        self._count = 0
        self._last_s: float | None = None
        self._lock = threading.Lock()

    def tick(self, now_s: float) -> None:
        """Record one sample."""
        with self._lock:
            self._count += 1
            self._last_s = now_s
            self._times.append(now_s)
            self._trim(now_s)

    @property
    def count(self) -> int:
        """Samples since the start."""
        return self._count

    def age_s(self, now_s: float) -> float:
        """Seconds since the last sample; infinite before the first."""
        with self._lock:
            return float("inf") if self._last_s is None else now_s - self._last_s

    def rate_hz(self, now_s: float) -> float:
        """Mean rate over the window, 0 with fewer than two samples in it."""
        with self._lock:
            self._trim(now_s)
            if len(self._times) < 2:
                return 0.0
            span_s = self._times[-1] - self._times[0]
            return (len(self._times) - 1) / span_s if span_s > 0 else 0.0

    def largest_gap_s(self, now_s: float) -> float:
        """Longest pause between samples of the window, the pause still running included."""
        with self._lock:
            self._trim(now_s)
            times = [*self._times, now_s] if self._times else []
            return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def _trim(self, now_s: float) -> None:
        while self._times and now_s - self._times[0] > self._window_s:
            self._times.popleft()
