"""Does what the judge sees in the imagination still agree with what is true? Tracked over a run, with a rule to stop.

A policy that learns in a world model learns its mistakes, too: imagined success goes on rising while true success
falls (docs/flowscale.md has a measured case). Four quantities tell, each a proportion with an exact interval:

    judge recall, judge precision    on videos whose outcome somebody knows
    outcome agreement                verdict on an imagined replay of logged actions = what happened
    imagined precision               share of imagined successes that were successes
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prophrl_models.reward.judge import Confusion
from prophrl_models.trials.paired import PairedOutcomes
from prophrl_models.trials.statistics import Interval, SuccessRate, difference_interval

ADVICE = (
    "go back to a checkpoint from before, collect a few episodes of this policy, re-fit the world model (and the "
    "judge) on them and continue"
)


@dataclass(frozen=True)
class AuditRule:
    """When a run is to be stopped.

    Attributes:
        margin: a rate may fall this far below the lower bound of its first measurement.
        looks: so many measurements in a row must say the same, so that one unlucky look stops nothing.
        confidence: of all intervals.
    """

    margin: float = 0.03
    looks: int = 2
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if self.margin < 0.0 or self.looks < 1 or not 0.0 < self.confidence < 1.0:
            raise ValueError(
                f"an audit rule needs margin >= 0, looks >= 1 and 0 < confidence < 1, got {self.margin}, {self.looks}, "
                f"{self.confidence}"
            )


@dataclass(frozen=True)
class OutcomeRate(SuccessRate):
    """A success rate whose single outcomes are known, so that it can be compared in pairs.

    Attributes:
        outcomes: of the same placements (or starts and seeds) in the same order at every look; None: not judged.
    """

    outcomes: tuple[bool | None, ...] = ()

    @staticmethod
    def of(outcomes: Sequence[bool | None], confidence: float = 0.9) -> OutcomeRate:
        """Count those that were judged."""
        judged = [outcome for outcome in outcomes if outcome is not None]
        return OutcomeRate(sum(judged), len(judged), confidence, tuple(outcomes))


@dataclass(frozen=True)
class Look:
    """What one audit measured; parts that were not measured are None.

    Attributes:
        step: of the run; 0 is before it.
        judge: verdicts on labelled videos.
        outcome: verdicts on imagined replays of logged episodes, against what happened there.
        imagined: success of the policy in the world model, by the run's judge.
        audited: its success by ground truth (robot, digital twin) or by an independent second judge.

    ``imagined`` and ``audited`` as ``OutcomeRate`` make ``parted`` compare looks in pairs.
    """

    step: int
    judge: Confusion | None = None
    outcome: Confusion | None = None
    imagined: SuccessRate | None = None
    audited: SuccessRate | None = None

    @property
    def speaks(self) -> bool:
        """Did it measure anything but imagined success?"""
        return any(part is not None for part in (self.judge, self.outcome, self.audited))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def agreement(self) -> dict[str, float]:
        """Those of ``QUANTITIES`` that were measured, 0..1 by name."""
        parts = {name: (getattr(self, part), rate_of) for name, (part, rate_of) in QUANTITIES.items()}
        rates = {name: rate_of(part) for name, (part, rate_of) in parts.items() if part is not None}
        return {name: rate.rate for name, rate in rates.items() if rate.trials}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Look:
        """Inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: fields are missing, unknown or impossible.
        """
        judge, outcome = (None if raw[name] is None else Confusion(**raw[name]) for name in ("judge", "outcome"))
        imagined, audited = (None if raw[name] is None else _rate(raw[name]) for name in ("imagined", "audited"))
        return Look(int(raw["step"]), judge, outcome, imagined, audited)


@dataclass(frozen=True)
class Alarm:
    """Something that speaks for stopping: its name, and a sentence with the numbers and what to do."""

    name: str
    message: str


def recall_of(confusion: Confusion, confidence: float = 0.9) -> SuccessRate:
    """Seen successes among true ones."""
    return SuccessRate(confusion.true_success, confusion.true_success + confusion.false_failure, confidence)


def precision_of(confusion: Confusion, confidence: float = 0.9) -> SuccessRate:
    """True successes among seen ones."""
    return SuccessRate(confusion.true_success, confusion.true_success + confusion.false_success, confidence)


def agreement_of(confusion: Confusion, confidence: float = 0.9) -> SuccessRate:
    """Right verdicts among all that were given."""
    return SuccessRate(confusion.true_success + confusion.true_failure, confusion.judged, confidence)


QUANTITIES = {
    "judge_recall": ("judge", recall_of),
    "judge_precision": ("judge", precision_of),
    "outcome_agreement": ("outcome", agreement_of),
    "imagined_precision": ("outcome", precision_of),
}


def fallen(rates: Sequence[SuccessRate], rule: AuditRule) -> bool:
    """Have the last ``rule.looks`` rates all been below the first one's lower bound minus the margin?

    Rates without trials say nothing and are left out.
    """
    measured = [rate for rate in rates if rate.trials]
    if len(measured) <= rule.looks:
        return False
    floor = measured[0].interval.low - rule.margin
    return all(rate.rate < floor for rate in measured[-rule.looks :])


def parted(pairs: Sequence[tuple[SuccessRate, SuccessRate]], rule: AuditRule) -> bool:
    """Reward hacking: does imagined success gain what audited success does not?

    ``pairs`` are (imagined, audited) measurements of the same policies, oldest first. Gains over the first pair get
    the interval of ``gain``, the difference of the two gains Newcombe's construction from these. The two have parted
    when, at each of the last ``rule.looks`` measurements, imagined success has surely risen, audited success has not,
    and the difference surely exceeds ``rule.margin``.
    """
    measured = [(a, b) for a, b in pairs if a.trials and b.trials]
    if len(measured) <= rule.looks:
        return False
    (imagined_0, audited_0) = measured[0]
    for imagined, audited in measured[-rule.looks :]:
        (gain_i, of_i), (gain_a, of_a) = gain(imagined_0, imagined, rule), gain(audited_0, audited, rule)
        apart = gain_i - gain_a - math.hypot(gain_i - of_i.low, of_a.high - gain_a)
        if not (of_i.low > 0.0 and of_a.low <= 0.0 and apart > rule.margin):
            return False
    return True


def gain(old: SuccessRate, new: SuccessRate, rule: AuditRule) -> tuple[float, Interval]:
    """``new`` minus ``old`` and its interval: Tango's for outcomes of the same placements, otherwise Newcombe's.

    What is hard about a placement is so at both looks, so pairs tell smaller gains apart.
    """
    if isinstance(old, OutcomeRate) and isinstance(new, OutcomeRate) and len(old.outcomes) == len(new.outcomes):
        both = [(a, b) for a, b in zip(old.outcomes, new.outcomes, strict=True) if a is not None and b is not None]
        if both:
            pairs = PairedOutcomes.of([a for a, _ in both], [b for _, b in both])
            return pairs.difference, pairs.interval(rule.confidence)
    interval = difference_interval(old.successes, old.trials, new.successes, new.trials, rule.confidence)
    return new.rate - old.rate, interval


@dataclass
class Audit:
    """All looks of a run and what they amount to."""

    rule: AuditRule = field(default_factory=AuditRule)
    looks: list[Look] = field(default_factory=list)

    def add(self, look: Look) -> tuple[Alarm, ...]:
        """Take a look into account; returns the alarms that now stand.

        Raises:
            ValueError: a look at a step before the last one.
        """
        if self.looks and look.step < self.looks[-1].step:
            raise ValueError(f"looks come in the order of steps: got {look.step} after {self.looks[-1].step}")
        self.looks.append(look)
        return self.alarms()

    def rates(self, quantity: str) -> list[SuccessRate]:
        """All measurements of one of ``QUANTITIES``, "imagined" or "audited", oldest first.

        Raises:
            ValueError: another name.
        """
        if quantity in ("imagined", "audited"):
            found: Iterable[SuccessRate | None] = (getattr(look, quantity) for look in self.looks)
            return [rate for rate in found if rate is not None]
        if quantity not in QUANTITIES:
            raise ValueError(f"unknown quantity {quantity!r}; choose one of {', '.join(QUANTITIES)}, imagined, audited")
        part, rate_of = QUANTITIES[quantity]
        confusions = (getattr(look, part) for look in self.looks)
        return [rate_of(confusion, self.rule.confidence) for confusion in confusions if confusion is not None]

    def alarms(self) -> tuple[Alarm, ...]:
        """Everything that speaks for stopping now; empty while all is well."""
        found = []
        for quantity in (*QUANTITIES, "audited"):
            rates = [rate for rate in self.rates(quantity) if rate.trials]
            if fallen(rates, self.rule):
                found.append(Alarm(quantity, fall_message(quantity, rates, self.rule)))
        pairs = [(k.imagined, k.audited) for k in self.looks if k.imagined is not None and k.audited is not None]
        if parted(pairs, self.rule):
            found.append(Alarm("reward_hacking", parting_message(pairs)))
        return tuple(found)

    def doubts(self) -> tuple[Alarm, ...]:
        """What the newest measurements say by themselves: an alarm needs ``rule.looks`` such in a row."""
        return Audit(dataclasses.replace(self.rule, looks=1), self.looks).alarms()

    @property
    def stop(self) -> bool:
        return bool(self.alarms())

    def to_json(self) -> dict[str, Any]:
        """The whole audit, for a run's state file."""
        return {"rule": dataclasses.asdict(self.rule), "looks": [look.to_json() for look in self.looks]}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Audit:
        """Inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: fields are missing, unknown or impossible.
        """
        return Audit(AuditRule(**raw["rule"]), [Look.from_json(look) for look in raw["looks"]])


@dataclass(frozen=True)
class PartingRule:
    """The rule for a trainer that knows rates only: why to stop, or an empty string.

    Attributes:
        imagined_trials, audited_trials: rollouts and trials behind each rate.
        rule: margin, looks and confidence.
    """

    imagined_trials: int
    audited_trials: int
    rule: AuditRule = field(default_factory=AuditRule)

    def __call__(self, imagined: Sequence[float], audited: Sequence[float]) -> str:
        """Judge the success rates (0..1) of the same policies in the imagination and in truth, oldest first."""
        pairs = [
            (self._rate(i, self.imagined_trials), self._rate(a, self.audited_trials))
            for i, a in zip(imagined, audited, strict=True)
        ]
        if parted(pairs, self.rule):
            return parting_message(pairs)
        truth = [pair[1] for pair in pairs]
        return fall_message("audited", truth, self.rule) if fallen(truth, self.rule) else ""

    def _rate(self, rate: float, trials: int) -> SuccessRate:
        return SuccessRate(round(rate * trials), trials, self.rule.confidence)


def fall_message(quantity: str, rates: Sequence[SuccessRate], rule: AuditRule) -> str:
    """A sentence about a rate that fell."""
    first, floor = rates[0], rates[0].interval.low - rule.margin
    latest = ", ".join(f"{rate.rate:.2f}" for rate in rates[-rule.looks :])
    return (
        f"{quantity.replace('_', ' ')} was {_tell(first)} and is now {latest}, below {floor:.2f} "
        f"for {rule.looks} looks; {ADVICE}"
    )


def parting_message(pairs: Sequence[tuple[SuccessRate, SuccessRate]]) -> str:
    """A sentence about imagined and audited success that have parted."""
    (imagined, audited), (imagined_now, audited_now) = pairs[0], pairs[-1]
    return (
        f"imagined success rose from {_tell(imagined)} to {_tell(imagined_now)} while audited success went from "
        f"{_tell(audited)} to {_tell(audited_now)}: the policy exploits the world model or the judge; {ADVICE}"
    )


def _rate(raw: Mapping[str, Any]) -> SuccessRate:
    return OutcomeRate(**{**raw, "outcomes": tuple(raw["outcomes"])}) if "outcomes" in raw else SuccessRate(**raw)


def _tell(rate: SuccessRate) -> str:
    return f"{rate.rate:.2f} ({rate.successes}/{rate.trials})"
