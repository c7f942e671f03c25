"""What is sent to the arm while a plan is replayed: one action chunk, or joint targets; and the way to the first pose.

The gripper's commands can be made to wait: the arm comes behind its targets, and the gripper does not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prophrl_nodes.replaying.plan import ReplayPlan
from prophrl_nodes.replaying.track import TRACK_RATE_HZ

Array = NDArray[np.float64]


def delayed_actions(plan: ReplayPlan, delay_s: float) -> NDArray[np.float32]:
    """The plan's actions [T, 7] with each opening commanded later by ``delay_s``, in whole rows.

    An action's opening is the one commanded at the *end* of its step, and an executor commands it when the step
    *begins*: on average half a step early already, which is added.
    """
    rows = round((delay_s + 0.5 / plan.rate_hz) * plan.rate_hz) if delay_s > 0.0 else 0
    actions = plan.actions_T7.copy()
    if rows:
        first = np.full(min(rows, len(actions)), plan.target_opening_N[0], dtype=np.float32)
        actions[:, 6] = np.concatenate([first, plan.actions_T7[: len(actions) - len(first), 6]])
    return actions


@dataclass(frozen=True)
class JointStream:
    """The plan's joints as a function of time since the start."""

    q_N6: Array
    opening_N: Array

    @classmethod
    def of(cls, plan: ReplayPlan, delay_s: float = 0.0) -> JointStream:
        """The plan's stream, its openings commanded later by ``delay_s``."""
        rows = min(round(delay_s * TRACK_RATE_HZ), len(plan.target_opening_N))
        waiting = np.full(rows, plan.target_opening_N[0])
        opening = np.concatenate([waiting, plan.target_opening_N[: len(plan.target_opening_N) - rows]])
        return cls(plan.q_N6, opening)

    @property
    def duration_s(self) -> float:
        return (len(self.q_N6) - 1) / TRACK_RATE_HZ

    def at(self, time_s: float) -> tuple[Array, float]:
        """Joint angles [6] and commanded opening; before the start and after the end, those of the ends."""
        place = min(max(time_s, 0.0) * TRACK_RATE_HZ, len(self.q_N6) - 1.0)
        row = min(int(place), len(self.q_N6) - 2)
        share = place - row
        q: Array = (1.0 - share) * self.q_N6[row] + share * self.q_N6[row + 1]
        return q, float(self.opening_N[min(int(place + 1e-6), len(self.opening_N) - 1)])
