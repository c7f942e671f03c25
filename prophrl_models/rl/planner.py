"""A policy plans whole attempts in imagination, to be executed without looking: what a judge of commands learns from.

An attempt of a policy that looks also shows what followed its fate: a hand that has missed sees it and tries again, an
arm that was stopped goes nowhere. A plan goes on as if all went well, as the imagined rollouts do that a judge has to
judge. B attempts, S chunks, N executed rows of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prophrl_models.policies.interface import FlowPolicy
from prophrl_models.prophet.rollout import ImaginedWorld, Prompt
from prophrl_models.reward.judge import Verdict, Video
from prophrl_models.rl.rollouts import RolloutWorker, Unit
from prophrl_models.rl.settings import RolloutOptions

AT_ONCE = 32
"""Attempts that are imagined together."""


class Planner:
    """Imagines attempts.

    Args:
        policy: in evaluation mode, on its device.
        world: to imagine in.
        options: calls, rows to keep of each chunk, and the noise to explore with (0: as the policy is deployed).

    Raises:
        TrainingError: policy, world and options do not go together.
    """

    def __init__(self, policy: FlowPolicy, world: ImaginedWorld, options: RolloutOptions) -> None:
        self._policy, self._world, self._options = policy, world, options
        self._worker([])

    def plans_BSN7(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> NDArray[np.float32]:
        """The executed rows of each attempt's chunks, in units of the environment.

        Args:
            prompts: one for each attempt.
            seeds: of its noise.
        """
        worker, plans = self._worker(prompts), []
        for first in range(0, len(prompts), AT_ONCE):
            rows = tuple(range(first, min(first + AT_ONCE, len(prompts))))
            unit = Unit(rows, tuple(seeds[row] for row in rows), "sde" if self._options.noise_level else "ode")
            plans.append(worker.executed_BSN7(worker.run(unit)))
        return np.concatenate(plans)

    def _worker(self, prompts: Sequence[Prompt]) -> RolloutWorker:
        return RolloutWorker(self._policy, self._world, _Unasked(), prompts, self._options)


class _Unasked:
    """Stands where a rollout has a judge: what a plan is worth, its execution will say."""

    name = "nobody"

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        return [Verdict(None, 0.5, ())] * len(videos)
