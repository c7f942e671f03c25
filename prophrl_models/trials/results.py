"""What came out of the trials: an append-only log that survives crashes, and its evaluation after the last trial.

A trial that could not be run (a protective stop before the start, a misplaced object) is voided: it is logged, counted
and run again. A result, once valid, is never replaced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prophrl_models.data.lines import LineError, append_line, read_lines
from prophrl_models.trials.plan import PlanError, PlanKey, PlannedTrial, TrialPlan
from prophrl_models.trials.statistics import Interval, SuccessRate, difference_interval, mcnemar_exact


class ResultError(ValueError):
    """A result that does not belong into this log; the message says why."""


@dataclass(frozen=True)
class TrialResult:
    """One trial as it was judged.

    Attributes:
        valid: False when it could not be run; that says nothing about the policy.
        success: the verdict of a valid trial.
        stop_reason: why it ended: "success", "time is up", "object dropped", "protective stop" ...
        verdict: what the judge saw, term by term.
        bag: name of the recording.
        timing: named figures measured during the trial (seconds, hertz, ratios).
    """

    trial_id: str
    valid: bool
    success: bool
    stop_reason: str = ""
    duration_s: float = 0.0
    verdict: Mapping[str, Any] = field(default_factory=dict)
    bag: str = ""
    timing: Mapping[str, float] = field(default_factory=dict)
    started_at: str = ""


class ResultLog:
    """Results of one plan, one JSON object per line; opening an existing file continues it."""

    def __init__(self, path: str | Path, plan: TrialPlan) -> None:
        """Open or create the log.

        Raises:
            ResultError: the file belongs to another plan.
            LineError: it is damaged (half a line at the end, of a program that died, is no damage).
        """
        self.path, self.plan = Path(path), plan
        self.results: list[TrialResult] = []
        self._read()

    def append(self, result: TrialResult) -> None:
        """Log a result; on return it is on the disk.

        Raises:
            ResultError: the trial is not planned, or already has a valid result.
        """
        self._check(result)
        append_line(self.path, {"plan_hash": self.plan.plan_hash, **asdict(result)})
        self.results.append(result)

    @property
    def valid(self) -> dict[str, TrialResult]:
        """The valid result of each finished trial, by trial id."""
        return {result.trial_id: result for result in self.results if result.valid}

    @property
    def voided(self) -> list[TrialResult]:
        return [result for result in self.results if not result.valid]

    def next_trial(self) -> PlannedTrial | None:
        """The first planned trial without a valid result; None when all are done."""
        done = self.valid
        return next((trial for trial in self.plan.trials if trial.trial_id not in done), None)

    def _check(self, result: TrialResult) -> None:
        try:
            self.plan.trial(result.trial_id)
        except PlanError as error:
            raise ResultError(str(error)) from error
        if result.trial_id in self.valid:
            raise ResultError(f"trial {result.trial_id} already has a valid result; results are never replaced")

    def _read(self) -> None:
        for number, raw in read_lines(self.path):
            try:
                plan_hash = raw.pop("plan_hash")
                result = TrialResult(**raw)
            except (KeyError, TypeError) as error:
                raise LineError(self.path, number, error) from error
            if plan_hash != self.plan.plan_hash:
                raise ResultError(
                    f"{self.path}, line {number} belongs to plan {str(plan_hash)[:12]}, this is plan "
                    f"{self.plan.plan_hash[:12]}; use one log per plan"
                )
            self._check(result)
            self.results.append(result)


@dataclass(frozen=True)
class PolicyOutcome:
    """All valid trials of one policy."""

    label: str
    policy: str
    rate: SuccessRate


@dataclass(frozen=True)
class Comparison:
    """Policy ``b`` against policy ``a``, on the same placements.

    Attributes:
        difference: rate of b minus rate of a, with its interval for independent samples (conservative for pairs).
        only_a, only_b: pairs in which one alone succeeded.
        p_value: exact McNemar test of the pairs, two-sided.
    """

    a: str
    b: str
    difference: float
    interval: Interval
    only_a: int
    only_b: int
    pairs: int
    p_value: float


def policy_outcomes(log: ResultLog, key: PlanKey) -> list[PolicyOutcome]:
    """Success rate of each policy; only after the last trial, so that nobody stops when it looks good.

    Raises:
        ResultError: trials are still to be run.
        PlanError: the key does not belong to the plan.
    """
    _all_done(log)
    key.check(log.plan)
    outcomes = []
    for label in log.plan.labels:
        results = [log.valid[trial.trial_id] for trial in log.plan.trials if trial.label == label]
        rate = SuccessRate(sum(result.success for result in results), len(results))
        outcomes.append(PolicyOutcome(label, key.policies[label], rate))
    return outcomes


def compare(log: ResultLog, key: PlanKey, policy_a: str, policy_b: str) -> Comparison:
    """Policy b against policy a.

    Raises:
        ResultError: trials are still to be run, or a policy is not in the plan.
        PlanError: the key does not belong to the plan.
    """
    rates = {outcome.policy: outcome for outcome in policy_outcomes(log, key)}
    for policy in (policy_a, policy_b):
        if policy not in rates:
            raise ResultError(f"policy {policy!r} is not in this plan, it compares {', '.join(sorted(rates))}")
    a, b = rates[policy_a], rates[policy_b]
    seen_a, seen_b = (_by_pair(log, outcome.label) for outcome in (a, b))
    return Comparison(
        a=policy_a,
        b=policy_b,
        difference=b.rate.rate - a.rate.rate,
        interval=difference_interval(a.rate.successes, a.rate.trials, b.rate.successes, b.rate.trials),
        only_a=(only_a := sum(seen_a[pair] and not seen_b[pair] for pair in seen_a)),
        only_b=(only_b := sum(seen_b[pair] and not seen_a[pair] for pair in seen_a)),
        pairs=len(seen_a),
        p_value=mcnemar_exact(only_a, only_b),
    )


def failure_reasons(results: Sequence[TrialResult]) -> dict[str, int]:
    """How often valid trials failed for which reason, most frequent first."""
    counts: dict[str, int] = {}
    for result in results:
        if result.valid and not result.success:
            reason = result.stop_reason or "no reason given"
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _by_pair(log: ResultLog, label: str) -> dict[tuple[int, int], bool]:
    trials = [trial for trial in log.plan.trials if trial.label == label]
    return {(trial.placement, trial.run): log.valid[trial.trial_id].success for trial in trials}


def _all_done(log: ResultLog) -> None:
    missing = len(log.plan.trials) - len(log.valid)
    if missing:
        raise ResultError(
            f"{missing} of {len(log.plan.trials)} trials are still to be run; results stay sealed until then"
        )
