"""The hand on the leader arm: where the seven shafts are at any time.

A hand holds still, moves smoothly to a pose, or follows a stream of small steps (the scripted operator's);
between the steps the pose is interpolated, as a hand does not jump a hundred times a second.
"""

from __future__ import annotations

from collections.abc import Sequence

REACH_SPEED_RADPS = 0.8
"""Mean joint speed of a move whose duration was not given."""
SHORTEST_MOVE_S = 0.5


class LeaderHand:
    """Pose of the leader: joint angles [6] in radians and trigger opening (0 pulled, 1 released)."""

    def __init__(self, q_6: Sequence[float], opening: float = 1.0) -> None:
        self._from = [*map(float, q_6), float(opening)]
        self._to = list(self._from)
        self._start_s = 0.0
        self._end_s = 0.0
        self._smooth = True

    def pose(self, now_s: float) -> tuple[list[float], float]:
        """Joint angles [6] and trigger opening at ``now_s``."""
        values = self._values(now_s)
        return values[:6], values[6]

    def moving(self, now_s: float) -> bool:
        return now_s < self._end_s

    def move_to(self, q_6: Sequence[float], opening: float, now_s: float, seconds: float | None = None) -> float:
        """Start a minimum-jerk move from the present pose; returns its duration in seconds.

        Raises:
            ValueError: not six angles, or a duration that is not positive.
        """
        if len(q_6) != 6:
            raise ValueError(f"a leader pose has 6 joint angles in radians, got {len(q_6)}")
        values = self._values(now_s)
        if seconds is None:
            farthest = max(abs(b - a) for a, b in zip(values[:6], q_6, strict=True))
            seconds = max(SHORTEST_MOVE_S, farthest / REACH_SPEED_RADPS)
        if not seconds > 0.0:
            raise ValueError(f"a move needs a duration above 0 s, got {seconds}")
        self._begin(values, [*map(float, q_6), float(opening)], now_s, seconds, smooth=True)
        return seconds

    def follow(self, q_6: Sequence[float], opening: float, now_s: float, interval_s: float) -> None:
        """Be at a pose one interval from now: one step of a stream."""
        self._begin(self._values(now_s), [*map(float, q_6), float(opening)], now_s, interval_s, smooth=False)

    def hold(self, now_s: float) -> None:
        """Stop where the hand is."""
        values = self._values(now_s)
        self._begin(values, values, now_s, 0.0, smooth=True)

    def _begin(self, start: list[float], end: list[float], now_s: float, seconds: float, *, smooth: bool) -> None:
        self._from, self._to = start, end
        self._start_s, self._end_s = now_s, now_s + seconds
        self._smooth = smooth

    def _values(self, now_s: float) -> list[float]:
        if now_s >= self._end_s:
            return list(self._to)
        u = max(0.0, (now_s - self._start_s) / (self._end_s - self._start_s))
        if self._smooth:
            u = u * u * u * (10.0 + u * (6.0 * u - 15.0))
        return [a + u * (b - a) for a, b in zip(self._from, self._to, strict=True)]
