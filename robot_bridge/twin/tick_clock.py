"""Absolute deadlines for the controller's loop, and how well they are kept."""

from __future__ import annotations

import time
from array import array
from collections import deque

KEPT_TICKS = 30_000
"""One minute of lateness at 500 Hz."""
MAX_DEBT_TICKS = 3
"""A short hiccup is caught up; beyond this the world falls behind the wall clock instead of rushing after it."""
RATIO_WINDOW_S = 10.0


class TickClock:
    """Tells the loop when its next tick is due.

    Args:
        period_s: of one tick.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.ticks = 0
        self.slowed_s = 0.0
        self._lateness_s = array("f")
        self._windows: deque[tuple[float, int]] = deque(maxlen=int(RATIO_WINDOW_S) + 1)
        self.restart()

    def restart(self) -> None:
        """Forget debts: the next tick is due one period from now (after a scene was rebuilt)."""
        self._deadline_s = time.monotonic() + self.period_s

    def remaining_s(self) -> float:
        """Time until the next tick; negative when it is late."""
        return self._deadline_s - time.monotonic()

    def start_tick(self) -> None:
        """Call when a tick starts: books its lateness and sets the next deadline."""
        now = time.monotonic()
        late_s = now - self._deadline_s
        if self.ticks < KEPT_TICKS:
            self._lateness_s.append(late_s)
        else:
            self._lateness_s[self.ticks % KEPT_TICKS] = late_s
        if self.ticks % round(1.0 / self.period_s) == 0:
            self._windows.append((now, self.ticks))
        self.ticks += 1
        self._deadline_s += self.period_s
        debt_s = now - self._deadline_s
        if debt_s > MAX_DEBT_TICKS * self.period_s:
            self.slowed_s += debt_s
            self._deadline_s = now

    def statistics(self) -> dict[str, float]:
        """Lateness percentiles (microseconds, last minute), real-time ratio (last ten seconds), time lost (seconds)."""
        ordered = sorted(self._lateness_s)
        if not ordered:
            return {"real_time_ratio": 1.0, "slowed_s": 0.0}

        def percentile(share: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e6, 1)

        since_s, since_tick = self._windows[0]
        elapsed_s = time.monotonic() - since_s
        ratio = (self.ticks - since_tick) * self.period_s / elapsed_s if elapsed_s > 0.0 else 1.0
        return {
            "late_p50_us": percentile(0.5),
            "late_p99_us": percentile(0.99),
            "late_p999_us": percentile(0.999),
            "late_max_us": percentile(1.0),
            "real_time_ratio": round(ratio, 4),
            "slowed_s": round(self.slowed_s, 3),
        }
