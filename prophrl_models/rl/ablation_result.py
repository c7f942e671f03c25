"""What a reinforcement ablation found: success of every arm, differences, and which of them exceed the noise.

There are two kinds of noise. Trials are few: a paired difference has Tango's interval. Trainings differ: another seed
gives another policy, which no number of trials tells. A difference *exceeds the noise* if its 95 % interval leaves out
zero and it is larger than the standard deviation such a difference has between trainings, sqrt(s_a^2 + s_b^2), which
takes at least two seeds of each arm; the policy that all start from is one policy and has none.

Intervals of an arm take all trials of its seeds as independent. They are of the same placements, so they are a little
too short; that is why the interval alone decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from prophrl_models.prophet.scores import Spread
from prophrl_models.rl.ablation_plan import START, PlanError
from prophrl_models.trials.paired import METHOD, PairedOutcomes
from prophrl_models.trials.statistics import Interval, SuccessRate, difference_interval

Measure = Literal["twin", "imagined"]
TWIN: Measure = "twin"
IMAGINED: Measure = "imagined"
Verdict = Literal["better", "worse", "within", "unknown"]


@dataclass(frozen=True)
class ArmRun:
    """One training of an arm, measured.

    Attributes:
        seed: of the training.
        imagined: success of the best policy on held-out starts in the world model. It is the best of several looks, so
            it flatters; None where the run made none.
        imagined_start: the first look, before any update.
        best_step: of the run, at which that policy was found; 0 is the policy it started from.
        trials: outcomes on the twin, in the order of the placements; empty without a twin.
        folder: of the run, relative to the study's.
    """

    seed: int
    imagined: SuccessRate | None
    imagined_start: SuccessRate | None
    best_step: int
    trials: tuple[bool, ...] = ()
    folder: str = ""

    def rate(self, measure: Measure) -> SuccessRate:
        if measure == TWIN:
            return SuccessRate(sum(self.trials), len(self.trials))
        return self.imagined or SuccessRate(0, 0)


@dataclass(frozen=True)
class ArmOutcome:
    """All measured trainings of an arm, at least one."""

    name: str
    meaning: str
    changes: Mapping[str, Any]
    runs: tuple[ArmRun, ...]

    def rate(self, measure: Measure) -> SuccessRate:
        """All seeds together."""
        rates = [run.rate(measure) for run in self.runs]
        return SuccessRate(sum(rate.successes for rate in rates), sum(rate.trials for rate in rates))

    def spread(self, measure: Measure) -> Spread:
        """Of the seeds' rates."""
        return Spread.of([run.rate(measure).rate for run in self.runs])


@dataclass(frozen=True)
class Difference:
    """Success of an arm minus that of another policy or arm.

    Attributes:
        name, against: of the two.
        difference: in 0..1.
        interval: 95 %.
        spread: standard deviation of the difference between trainings; NaN where it is unknown.
        pairs: counts, where trials are paired.
        p_value: exact McNemar; NaN where trials are not paired.
    """

    name: str
    against: str
    difference: float
    interval: Interval
    spread: float
    pairs: PairedOutcomes | None = None
    p_value: float = math.nan

    @property
    def verdict(self) -> Verdict:
        low, high = self.interval.low, self.interval.high
        if low <= 0.0 <= high:
            return "within"
        if not math.isfinite(self.spread):
            return "unknown"
        if abs(self.difference) <= self.spread:
            return "within"
        return "better" if self.difference > 0.0 else "worse"


@dataclass(frozen=True)
class RlAblation:
    """The study so far.

    Attributes:
        arms: with at least one measured training.
        baseline: name of the arm that others are compared with.
        measure: "twin" where there are trials, else "imagined".
        start: outcomes of the policy that all start from, on the twin.
        seeds, missing, failed: what was asked for, what is not there yet, and what went wrong.
    """

    arms: tuple[ArmOutcome, ...]
    baseline: str
    measure: Measure
    start: tuple[bool, ...] = ()
    seeds: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()
    failed: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.arms:
            raise PlanError("no training of this ablation is measured yet; there is nothing to report")
        if self.measure == TWIN:
            lengths = {len(self.start), *(len(run.trials) for arm in self.arms for run in arm.runs)}
            if len(lengths) > 1 or 0 in lengths:
                raise PlanError(
                    f"policies were tried on different numbers of placements ({', '.join(map(str, sorted(lengths)))}); "
                    "delete the files twin.json of the runs and repeat the command"
                )

    @property
    def start_rate(self) -> SuccessRate:
        """Of the policy that all start from: on the twin, or its first looks; arms of one seed share theirs."""
        if self.measure == TWIN:
            return SuccessRate(sum(self.start), len(self.start))
        runs = [run for arm in self.arms for run in arm.runs]
        looks = {run.seed: run.imagined_start for run in runs if run.imagined_start is not None}
        return SuccessRate(sum(look.successes for look in looks.values()), sum(look.trials for look in looks.values()))

    @cached_property
    def to_start(self) -> tuple[Difference, ...]:
        """Each arm against the policy that it started from."""
        found = []
        for arm in self.arms:
            spread = arm.spread(self.measure).deviation
            if self.measure == TWIN:
                pairs = _pooled([(self.start, run.trials) for run in arm.runs])
                found.append(_paired(arm.name, START, pairs, spread))
            else:
                found.append(_apart(arm.name, START, self.start_rate, arm.rate(self.measure), spread))
        return tuple(found)

    @cached_property
    def to_baseline(self) -> tuple[Difference, ...]:
        """Each other arm against the baseline, seed by seed; empty while the baseline is not measured."""
        base = next((arm for arm in self.arms if arm.name == self.baseline), None)
        if base is None:
            return ()
        found = []
        for arm in self.arms:
            if arm is base:
                continue
            spread = math.hypot(base.spread(self.measure).deviation, arm.spread(self.measure).deviation)
            if self.measure == TWIN:
                theirs = {run.seed: run.trials for run in base.runs}
                both = [(theirs[run.seed], run.trials) for run in arm.runs if run.seed in theirs]
                if both:
                    found.append(_paired(arm.name, base.name, _pooled(both), spread))
            else:
                found.append(_apart(arm.name, base.name, base.rate(self.measure), arm.rate(self.measure), spread))
        return tuple(found)

    @property
    def headline(self) -> str:
        """The finding in a line, made of the numbers."""
        if not self.to_baseline:
            return f"Reinforcement against the start: {_tally(self.to_start)}"
        clear = [d for d in self.to_baseline if d.verdict in ("better", "worse")]
        if not clear:
            if any(d.verdict == "unknown" for d in self.to_baseline):
                return f"Whether an arm differs from {self.baseline} cannot be told from one seed"
            return f"No arm differs from {self.baseline} by more than the noise"
        best = max(clear, key=lambda d: abs(d.difference))
        return f"{best.name} {100 * best.difference:+.0f} points against {self.baseline}; {_tally(self.to_baseline)}"

    @property
    def sentences(self) -> tuple[str, ...]:
        """The finding in words."""
        said = [_finding(START, self.to_start)]
        if self.to_baseline:
            said.append(_finding(self.baseline, self.to_baseline))
        comparisons = len(self.to_start) + len(self.to_baseline)
        said.append(
            f"These are {comparisons} comparisons at 95 %: by chance alone about {0.05 * comparisons:.1f} intervals "
            "would leave out zero."
        )
        unchanged = [f"{arm.name} {run.seed}" for arm in self.arms for run in arm.runs if run.best_step == 0]
        if unchanged:
            said.append(f"No step beat the policy it started from in: {', '.join(unchanged)}.")
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Every number."""

        def rate(value: SuccessRate | None) -> dict[str, Any] | None:
            if value is None:
                return None
            ends = value.interval if value.trials else Interval(math.nan, math.nan)
            return {**asdict(value), "rate": value.rate, "interval_95": [ends.low, ends.high]}

        def difference(d: Difference) -> dict[str, Any]:
            return {**asdict(d), "interval": [d.interval.low, d.interval.high], "verdict": d.verdict}

        return {
            "headline": self.headline,
            "sentences": list(self.sentences),
            "measure": self.measure,
            "paired_interval": METHOD if self.measure == TWIN else "Newcombe's hybrid score interval, unpaired",
            "baseline": self.baseline,
            "start": {**(rate(self.start_rate) or {}), "outcomes": list(self.start)},
            "arms": [
                {
                    "name": arm.name,
                    "meaning": arm.meaning,
                    "changes": dict(arm.changes),
                    **(rate(arm.rate(self.measure)) or {}),
                    "seeds": asdict(arm.spread(self.measure)),
                    "runs": [
                        {
                            "seed": run.seed,
                            "folder": run.folder,
                            "best_step": run.best_step,
                            "imagined": rate(run.imagined),
                            "imagined_start": rate(run.imagined_start),
                            "twin": rate(run.rate(TWIN)) if run.trials else None,
                            "outcomes": list(run.trials),
                        }
                        for run in arm.runs
                    ],
                }
                for arm in self.arms
            ],
            "to_start": [difference(d) for d in self.to_start],
            "to_baseline": [difference(d) for d in self.to_baseline],
            "seeds": list(self.seeds),
            "missing": list(self.missing),
            "failed": dict(self.failed or {}),
        }


def _pooled(outcomes: Sequence[tuple[Sequence[bool], Sequence[bool]]]) -> PairedOutcomes:
    """Counts over several pairs of policies."""
    counts = [PairedOutcomes.of(first, second) for first, second in outcomes]
    names = ("both", "only_first", "only_second", "neither")
    return PairedOutcomes(**{name: sum(getattr(count, name) for count in counts) for name in names})


def _paired(name: str, against: str, pairs: PairedOutcomes, spread: float) -> Difference:
    return Difference(name, against, pairs.difference, pairs.interval(), spread, pairs, pairs.p_value)


def _apart(name: str, against: str, first: SuccessRate, second: SuccessRate, spread: float) -> Difference:
    if not first.trials or not second.trials:
        return Difference(name, against, math.nan, Interval(-1.0, 1.0), spread)
    interval = difference_interval(first.successes, first.trials, second.successes, second.trials)
    return Difference(name, against, second.rate - first.rate, interval, spread)


def _tally(found: Sequence[Difference]) -> str:
    clear = sum(d.verdict in ("better", "worse") for d in found)
    return f"{clear} of {len(found)} differences exceed the noise"


def _finding(against: str, found: Sequence[Difference]) -> str:
    who = "the start policy" if against == START else against
    parts = []
    for verdict, words in (
        ("better", "better by more than the noise"),
        ("worse", "worse by more than the noise"),
        ("unknown", "outside the trials' noise, but with one seed the trainings' noise is unknown"),
        ("within", "within the noise"),
    ):
        these = [d for d in found if d.verdict == verdict]
        if these:
            parts.append(f"{words}: {', '.join(_amount(d) for d in these)}")
    return f"Against {who}: {'; '.join(parts)}."


def _amount(d: Difference) -> str:
    if not math.isfinite(d.difference):
        return f"{d.name} (not measured)"
    low, high = 100 * d.interval.low, 100 * d.interval.high
    spread = f", seeds ± {100 * d.spread:.0f}" if math.isfinite(d.spread) else ""
    return f"{d.name} {100 * d.difference:+.0f} points ({low:+.0f} .. {high:+.0f}{spread})"
