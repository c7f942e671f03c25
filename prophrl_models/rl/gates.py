"""Gates of the pre-flight check: what must hold before a night of computing, and what to change if not.

Measured reasons (a toy problem where the truth is known; docs/flowscale.md names them):

- Noise that costs the policy its skill leaves nothing to reinforce: with K = 4 and a = 1 success fell from 37 % to 8 %
  and nothing was learned. SDE success must be at least 85 % of ODE success.
- Groups of equal outcome carry no signal.
- A judge that misses successes (recall) or invents them (precision) teaches the wrong thing.
- With a poor world model imagined success rose while true success fell.

Every gate is a proportion with an interval: it is passed when the whole interval lies above what is needed, failed when
it lies below, and otherwise there is "not enough" data to say.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from scipy.special import ndtri
from torch import Tensor

from prophrl_models.reward.judge import Confusion
from prophrl_models.rl.advantages import group_advantages
from prophrl_models.rl.audit import agreement_of, precision_of, recall_of
from prophrl_models.trials.paired import PairedOutcomes
from prophrl_models.trials.statistics import Interval, SuccessRate, wilson

Status = Literal["pass", "fail", "not enough"]
NOTHING = Confusion(0, 0, 0, 0)
HOPELESS = 0.1
"""An ODE success that is surely below this is too little to start from."""


@dataclass(frozen=True)
class CheckSettings:
    """What is demanded, and how much is measured.

    Attributes:
        sde_share: SDE success must be at least this share of ODE success.
        mixed_groups: share of groups that must carry signal (mixed outcomes, inside the group filter).
        recall, precision: of the judge on labelled videos.
        agreement: share of replayed logs whose imagined outcome is the logged one.
        answers: share of videos that the judge must answer at all.
        failures, successes: recorded ones that were judged, at least, before a precision or an agreement can pass: a
            judge that always says yes has a precision of 1 where nothing ever failed.
        confidence: of the two-sided intervals.
        starts: start states that are rolled out, each in a group of the run's size, once per sampler.
        lower_noise: factors on the noise level that are tried, in this order, where the SDE costs too much.
    """

    sde_share: float = 0.85
    mixed_groups: float = 0.1
    recall: float = 0.8
    precision: float = 0.8
    agreement: float = 0.85
    answers: float = 0.9
    failures: int = 5
    successes: int = 5
    confidence: float = 0.9
    starts: int = 16
    lower_noise: tuple[float, ...] = (0.7, 0.5, 0.3)

    def __post_init__(self) -> None:
        demands = (self.sde_share, self.mixed_groups, self.recall, self.precision, self.agreement, self.answers)
        counts = (self.failures, self.successes, self.starts)
        if not all(0.0 <= x <= 1.0 for x in demands) or not 0.0 < self.confidence < 1.0 or min(counts) < 1:
            raise ValueError(
                "demands and confidence are shares between 0 and 1, failures, successes and starts at least 1; "
                f"got {self}"
            )
        if not all(0.0 < factor < 1.0 for factor in self.lower_noise):
            raise ValueError(f"lower_noise needs factors between 0 and 1, got {self.lower_noise}")


@dataclass(frozen=True)
class Finding:
    """What one gate says.

    Attributes:
        gate: its name.
        status: pass, fail, or not enough data.
        measured, low, high: the quantity and its interval; NaN where nothing could be measured.
        needed: what it must reach.
        message: the numbers in a sentence.
        advice: what to change or collect; empty where it passed.
    """

    gate: str
    status: Status
    measured: float
    low: float
    high: float
    needed: float
    message: str
    advice: str = ""


@dataclass(frozen=True)
class CheckReport:
    """All findings of a check."""

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Does some gate speak against the run?"""
        return any(finding.status == "fail" for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Did all gates pass?"""
        return bool(self.findings) and all(finding.status == "pass" for finding in self.findings)

    def text(self) -> str:
        """For people, one paragraph a gate."""
        lines = []
        for f in self.findings:
            lines.append(f"{f.status:>10}  {f.gate}: {f.message}")
            if f.advice:
                lines.append(f"{'':>12}{f.advice}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values; null for what could not be measured."""
        findings = [
            {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in dataclasses.asdict(f).items()}
            for f in self.findings
        ]
        return {"passed": self.passed, "failed": self.failed, "findings": findings}


def share_gate(gate: str, counted: SuccessRate, needed: float, what: str, advice: str) -> Finding:
    """Is a proportion at least ``needed``? ``what`` names what was counted, ``advice`` what to change if it is not."""
    numbers = f"{counted.successes} of {counted.trials} {what}"
    if not counted.trials:
        return Finding(gate, "not enough", math.nan, 0.0, 1.0, needed, numbers, f"nothing to count; {advice}")
    interval = counted.interval
    message = f"{numbers} ({counted.rate:.2f}, interval {interval.low:.2f} to {interval.high:.2f}, need {needed:.2f})"
    status = _status(interval, needed)
    more = _more(counted.rate, needed, counted.rate * (1.0 - counted.rate), counted.trials, counted.confidence)
    return Finding(gate, status, counted.rate, interval.low, interval.high, needed, message, _say(status, advice, more))


def correlation_of(pairs: PairedOutcomes) -> float:
    """Correlation of the outcomes of one start and seed, with Newcombe's correction towards 0; 0 if one is constant."""
    both, a, b, neither = pairs.both, pairs.only_first, pairs.only_second, pairs.neither
    spread = math.sqrt((both + a) * (b + neither) * (both + b) * (a + neither))
    product = both * neither - a * b
    if product > 0:
        product = max(product - pairs.trials // 2, 0)
    return product / spread if spread else 0.0


def sde_gate(
    sde: SuccessRate, ode: SuccessRate, share: float, noise_level: float, num_steps: int, correlation: float = 0.0
) -> Finding:
    """Does the policy keep ``share`` of its ODE success when it is sampled with noise?

    The interval is that of ``p_sde - share * p_ode``, from the Wilson intervals of both (Zou and Donner's MOVER, which
    for a share of 1 is Newcombe's difference), told as one of the ratio. ``correlation`` is that of the outcomes where
    both samplers were given the same starts and seeds (``correlation_of``): what they have in common falls out of the
    difference, and the interval is the shorter for it.
    """
    gate = "SDE keeps the skill"
    if not sde.trials or not ode.trials or not ode.successes:
        hopeless = ode.trials > 0 and ode.interval.high < HOPELESS
        numbers = (
            f"success {ode.successes} of {ode.trials} with the ODE and {sde.successes} of {sde.trials} with the SDE"
        )
        advice = "a policy must succeed now and then to be reinforced: more rollouts, demonstrations, or easier starts"
        return Finding(gate, "fail" if hopeless else "not enough", math.nan, 0.0, math.inf, share, numbers, advice)
    p, q = sde.rate, ode.rate
    of_p, of_q = (wilson(rate.successes, rate.trials, sde.confidence) for rate in (sde, ode))
    gap = p - share * q
    low = share + (gap - _joint(p - of_p.low, share * (of_q.high - q), correlation)) / q
    high = share + (gap + _joint(of_p.high - p, share * (q - of_q.low), correlation)) / q
    status = _status(Interval(low, high), share)
    message = (
        f"with K = {num_steps} and noise {noise_level:g} success is {p:.2f} ({sde.successes}/{sde.trials}), with the "
        f"ODE {q:.2f} ({ode.successes}/{ode.trials}): {p / q:.0%} (interval {low:.0%} to {high:.0%}), need {share:.0%}"
    )
    advice = (
        "lower rollout.noise_level, or raise rollout.num_steps: each step then adds less noise "
        "(measured limits: K = 10 up to 1, K = 4 up to 0.3)"
    )
    spread = _joint(math.sqrt(p * (1.0 - p)), share * math.sqrt(q * (1.0 - q)), correlation) ** 2
    more = _more(gap, 0.0, spread, min(sde.trials, ode.trials), sde.confidence)
    return Finding(gate, status, p / q, low, high, share, message, _say(status, advice, more))


def _joint(a: float, b: float, correlation: float) -> float:
    """Length of the difference of two errors of lengths a and b."""
    return math.sqrt(max(a * a + b * b - 2.0 * correlation * a * b, 0.0))


def signal_gate(
    reward_B: Tensor, group_size: int, keep_between: tuple[float, float], settings: CheckSettings
) -> Finding:
    """Do enough groups have mixed outcomes?"""
    _, keep_B = group_advantages(reward_B, group_size=group_size, keep_between=keep_between)
    groups = keep_B.reshape(-1, group_size).any(1)
    rate = SuccessRate(int(groups.sum()), len(groups), settings.confidence)
    mean = float(reward_B[~reward_B.isnan()].mean()) if bool((~reward_B.isnan()).any()) else math.nan
    if mean > 0.5:
        advice = "most starts are solved already: choose harder starts, or stop here"
    else:
        advice = "most starts are never solved: more demonstrations, easier starts, or larger groups"
    return share_gate("groups with signal", rate, settings.mixed_groups, "groups have mixed outcomes", advice)


def judge_gates(confusion: Confusion, seen: Confusion, settings: CheckSettings) -> list[Finding]:
    """Recall, precision and answers of the judge on labelled videos; ``seen``: on those it was trained on."""
    fresh, known = _judge_findings(confusion, settings), _judge_findings(seen, settings)
    count = seen.judged + seen.no_judgement
    return [_flattered(a, b, count, "the judge") for a, b in zip(fresh, known, strict=True)]


def _judge_findings(confusion: Confusion, settings: CheckSettings) -> list[Finding]:
    c = settings.confidence
    videos = confusion.judged + confusion.no_judgement
    return [
        share_gate(
            "judge recall", recall_of(confusion, c), settings.recall, "true successes were seen",
            "label more videos of this set-up and train or prompt the judge on the successes it misses",
        ),
        _both_outcomes(share_gate(
            "judge precision", precision_of(confusion, c), settings.precision, "seen successes were true",
            "add the failures it takes for successes to its training set, or make the prompt's conditions stricter",
        ), confusion, settings),
        share_gate(
            "judge answers", SuccessRate(confusion.judged, videos, c), settings.answers, "videos got a judgement",
            "look at the judge's server and at how its answers are parsed; silence is not counted as failure",
        ),
    ]  # fmt: skip


def outcome_gate(
    imagined: Confusion,
    real: Confusion,
    settings: CheckSettings,
    seen: Confusion = NOTHING,
    seen_real: Confusion = NOTHING,
) -> Finding:
    """Do replayed logs end in the imagination as they did in truth?

    Args:
        imagined: verdicts on the replays.
        real: verdicts on the real pictures of the same episodes, to say whether judge or world is to blame.
        seen, seen_real: the same for episodes that judge or world were trained on.
    """
    fresh, known = _outcome_finding(imagined, real, settings), _outcome_finding(seen, seen_real, settings)
    return _flattered(fresh, known, seen.judged + seen.no_judgement, "the judge or the world model")


def _outcome_finding(imagined: Confusion, real: Confusion, settings: CheckSettings) -> Finding:
    counted = agreement_of(imagined, settings.confidence)
    kind = imagined.false_success >= imagined.false_failure
    mistakes = "successes that never were (it is too kind)" if kind else "failures of what did succeed"
    advice = (
        f"most of the world model's mistakes are {mistakes}; adapt it on more bags of this set-up, failures and play "
        "included"
    )
    if real.judged and imagined.judged:
        own, total = 1.0 - agreement_of(real).rate, 1.0 - counted.rate
        shares = f"the judge is wrong on {own:.0%} of the real videos and on {total:.0%} of the imagined ones"
        if own > total / 2:
            advice = f"{shares}: most mistakes are its own, improve the judge first"
        else:
            advice = f"{advice} ({shares})"
    finding = share_gate("outcome agreement", counted, settings.agreement, "replayed logs ended as they did", advice)
    return _both_outcomes(finding, imagined, settings)


def _both_outcomes(finding: Finding, confusion: Confusion, settings: CheckSettings) -> Finding:
    """A finding that may pass only where enough of either outcome was recorded; one that fails without stays failed."""
    recorded = {
        "failures": (confusion.false_success + confusion.true_failure, settings.failures),
        "successes": (confusion.true_success + confusion.false_failure, settings.successes),
    }
    few = [
        f"{count or 'no'} recorded {outcome}, need {least}"
        for outcome, (count, least) in recorded.items()
        if count < least
    ]
    if not few or finding.status == "fail":
        return finding
    advice = (
        "a judge and a world that always say the same could pass without: take a dataset with both outcomes, "
        "'prophrl dataset build BAGS OUT --outcome success --outcome failure --discarded'"
    )
    return dataclasses.replace(
        finding, status="not enough", message=f"{finding.message}; {' and '.join(few)}", advice=advice
    )


def _flattered(fresh: Finding, seen: Finding, count: int, who: str) -> Finding:
    """What counts where ``count`` episodes were seen in training: those can fail a gate, but never pass it."""
    if not count:
        return fresh
    if fresh.status != "fail" and seen.status == "fail":
        return dataclasses.replace(seen, message=f"{seen.message}; and {who} was trained on these {count}")
    advice = fresh.advice
    if fresh.status == "not enough":
        advice = f"{advice}; record episodes that {who} is not trained on, or hold more of them out"
    message = f"{fresh.message}; {count} more were seen in training by {who} and do not count"
    return dataclasses.replace(fresh, message=message, advice=advice)


def _status(interval: Interval, needed: float) -> Status:
    if interval.low >= needed:
        return "pass"
    return "fail" if interval.high < needed else "not enough"


def _more(measured: float, needed: float, variance: float, trials: int, confidence: float) -> str:
    """How many further trials would decide, if the measured value is the true one."""
    distance = abs(measured - needed)
    z = float(ndtri(0.5 + confidence / 2.0))
    if distance < 1e-3:
        return "it is too close to the limit for any number of trials to decide"
    total = math.ceil(max(variance, 0.01) * (z / distance) ** 2)
    return f"about {max(total - trials, 1)} more trials would decide if this is the true value"


def _say(status: Status, advice: str, more: str) -> str:
    return {"pass": "", "fail": advice, "not enough": f"{more}; if in doubt: {advice}"}[status]
