"""Slows a stream of setpoints down as the robot slows the arm down.

With the pendant's speed slider at 50 % a UR makes half of the way that each servoj asks for (ROS's driver for these
arms has controllers of their own for that reason). Setpoints that go on at full speed run away from the arm; when the
slider is raised, it hurries after them. So the motion's own time runs as slowly as the arm's, and the setpoints between
two of its steps are filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

SLOWEST = 0.01
"""A slider at zero leaves this share, so that time limits and stale targets are still noticed."""


class Pacer:
    """Between two setpoints [6] rad of the motion; ``moving`` while they differ."""

    def __init__(self) -> None:
        self._before: list[float] = []
        self._after: list[float] = []
        self._progress = 1.0

    def start(self, q: Sequence[float]) -> None:
        """Begin at rest at joints q [6] rad."""
        self._before = self._after = list(q)
        self._progress = 1.0

    @property
    def moving(self) -> bool:
        """The setpoint handed out last was on its way to another one, or came from one."""
        return self._before != self._after

    def next(self, share: float, step: Callable[[], list[float]]) -> list[float]:
        """The setpoint [6] of this period, ``share`` (0 to 1) of a step of the motion after the last one."""
        self._progress += min(max(share, SLOWEST), 1.0)
        if self._progress > 1.0:
            self._progress -= 1.0
            self._before, self._after = self._after, step()
        if self._progress == 1.0:
            return list(self._after)
        return [a + self._progress * (b - a) for a, b in zip(self._before, self._after, strict=True)]
