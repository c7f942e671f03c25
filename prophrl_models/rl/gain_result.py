"""What reinforcement gained, task by task: paired trials of the first policy and of reinforced ones, and their mean.

Each task is an ablation of one arm (``ablation_result``): differences are paired by placement, with Tango's interval,
and exceed the noise only if they are larger than the deviation between trainings, too. The mean over tasks weighs tasks
alike; its interval takes placements as independent and tasks and trainings as given: it says how well these policies
were measured, not what another training or task would give.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from prophrl_models.rl.ablation_result import TWIN, ArmOutcome, ArmRun, Difference, RlAblation
from prophrl_models.trials.results import Comparison
from prophrl_models.trials.statistics import Interval, SuccessRate

REINFORCED = "reinforced"
Z_95 = 1.959964


@dataclass(frozen=True)
class TaskGain:
    """One task.

    Attributes:
        task: its name.
        start: outcomes of the first policy in the fast lane, in the order of the placements.
        runs: reinforced policies, a training each, on the same placements.
        robot: the first policy against a reinforced one through the whole stack; None where that was not run.
        robot_rates: successes of these two there.
        verdicts: what ``prophrl rl enact`` summed up, before and after.
    """

    task: str
    start: tuple[bool, ...]
    runs: tuple[ArmRun, ...]
    robot: Comparison | None = None
    robot_rates: tuple[SuccessRate, SuccessRate] | None = None
    verdicts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def ablation(self) -> RlAblation:
        """The same as an ablation of one arm."""
        arm = ArmOutcome(REINFORCED, "", {}, self.runs)
        return RlAblation((arm,), REINFORCED, TWIN, self.start, tuple(run.seed for run in self.runs))

    @property
    def difference(self) -> Difference:
        """All reinforced policies together, minus the first one."""
        (found,) = self.ablation.to_start
        return found

    @property
    def by_placement(self) -> np.ndarray:
        """Mean outcome of the reinforced policies minus that of the first, at each placement."""
        after = np.mean([run.trials for run in self.runs], axis=0)
        return np.asarray(after - np.asarray(self.start, float))


@dataclass(frozen=True)
class Gain:
    """All tasks that are measured so far.

    Attributes:
        tasks: at least one.
        missing, failed: what is not there yet, and what went wrong.
    """

    tasks: tuple[TaskGain, ...]
    missing: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("no task is measured yet; there is nothing to report")

    @property
    def mean(self) -> float:
        """Mean difference over tasks, in 0..1."""
        return float(np.mean([task.difference.difference for task in self.tasks]))

    @property
    def interval(self) -> Interval:
        """95 % of the mean, see the module's docstring; no wider than -1 .. 1. NaN with a single placement."""
        parts = [np.var(task.by_placement, ddof=1) / len(task.start) for task in self.tasks if len(task.start) > 1]
        if len(parts) < len(self.tasks):
            return Interval(math.nan, math.nan)
        half = Z_95 * math.sqrt(sum(parts)) / len(self.tasks)
        return Interval(max(-1.0, self.mean - half), min(1.0, self.mean + half))

    @property
    def headline(self) -> str:
        """The finding in a line, made of the numbers."""
        ends = self.interval
        words = "on one task" if len(self.tasks) == 1 else f"on average over {len(self.tasks)} tasks"
        return f"{_points(self.mean)} points {words} (95 %: {_points(ends.low)} to {_points(ends.high)})"

    @property
    def sentences(self) -> tuple[str, ...]:
        """The finding in words."""
        names: dict[str, list[str]] = {}
        for task in self.tasks:
            names.setdefault(task.difference.verdict, []).append(task.task)
        words = {
            "better": "Better by more than the noise of trials and trainings",
            "worse": "Worse by more than that noise",
            "unknown": "Outside the noise of trials, but with one training its noise is unknown",
            "within": "No difference beyond the noise",
        }
        said = [f"{text}: {', '.join(names[verdict])}." for verdict, text in words.items() if verdict in names]
        unchanged = [f"{t.task} {run.seed}" for t in self.tasks for run in t.runs if run.best_step == 0]
        if unchanged:
            said.append(f"No step beat the first policy in imagination, so it is the result: {', '.join(unchanged)}.")
        for task in self.tasks:
            if task.robot is not None:
                r = task.robot
                said.append(
                    f"Through ROS, {task.task}: {_points(r.difference)} points in {r.pairs} pairs, only the first "
                    f"{r.only_a}, only the reinforced {r.only_b}, p {r.p_value:.2g} (McNemar)."
                )
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Every number."""
        return {
            "headline": self.headline,
            "sentences": list(self.sentences),
            "mean": self.mean,
            "interval_95": [self.interval.low, self.interval.high],
            "tasks": [
                {
                    "task": task.task,
                    **task.ablation.to_json(),
                    "robot": asdict(task.robot) if task.robot else None,
                    "verdicts": {name: dict(found) for name, found in task.verdicts.items()},
                }
                for task in self.tasks
            ],
            "missing": list(self.missing),
            "failed": dict(self.failed),
        }


def _points(share: float) -> str:
    return f"{100 * share:+.0f}" if math.isfinite(share) else "unknown"
