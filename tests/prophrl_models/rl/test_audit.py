"""The audit: alarms on histories whose answer is known, silence on those that mean nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from prophrl_models.reward.judge import Confusion
from prophrl_models.rl.audit import (
    Audit,
    AuditRule,
    Look,
    PartingRule,
    agreement_of,
    fallen,
    parted,
    precision_of,
    recall_of,
)
from prophrl_models.trials.statistics import SuccessRate

RULE = AuditRule(margin=0.03, looks=2, confidence=0.9)


def rate(share: float, trials: int = 200) -> SuccessRate:
    return SuccessRate(round(share * trials), trials, RULE.confidence)


def test_rates_of_counts_are_the_usual_ones() -> None:
    counts = Confusion(true_success=8, false_success=2, true_failure=15, false_failure=4, no_judgement=3)
    assert precision_of(counts).rate == 0.8
    assert recall_of(counts).rate == pytest.approx(8 / 12)
    assert agreement_of(counts).rate == pytest.approx(23 / 29)
    assert recall_of(counts).interval.low < 8 / 12 < recall_of(counts).interval.high


def test_a_rate_has_fallen_after_enough_looks_below_the_starting_bound() -> None:
    floor = rate(0.95).interval.low - RULE.margin
    assert 0.85 < floor < 0.95
    high, low = rate(0.95), rate(floor - 0.02)
    assert fallen([high, low, low], RULE)
    assert not fallen([high, low], RULE)  # one look is not enough
    assert not fallen([high, low, high], RULE)  # it recovered
    assert not fallen([high, low, low, high, low], RULE)
    assert not fallen([high, rate(floor + 0.02), rate(floor + 0.02)], RULE)  # within what the start leaves open


def test_a_start_with_few_trials_leaves_much_open() -> None:
    assert not fallen([rate(0.9, 10), rate(0.7), rate(0.7)], RULE)
    assert fallen([rate(0.9, 400), rate(0.7), rate(0.7)], RULE)


def test_looks_without_trials_say_nothing() -> None:
    nothing = SuccessRate(0, 0, RULE.confidence)
    assert not fallen([nothing, nothing, nothing], RULE)
    assert not fallen([nothing, rate(0.9), nothing, rate(0.5)], RULE)
    assert fallen([nothing, rate(0.9), rate(0.5), nothing, rate(0.5)], RULE)


def test_imagined_and_audited_success_part_when_only_one_rises() -> None:
    start = (rate(0.4), rate(0.35))
    hacked, honest = (rate(0.7), rate(0.3)), (rate(0.7), rate(0.6))
    assert parted([start, hacked, hacked], RULE)
    assert not parted([start, hacked], RULE)
    assert not parted([start, honest, honest], RULE)
    assert not parted([start, (rate(0.42), rate(0.30)), (rate(0.42), rate(0.30))], RULE)  # nothing was gained
    kind, both = (rate(0.4, 5000), rate(0.35, 5000)), (rate(0.7, 5000), rate(0.5, 5000))
    assert not parted([kind, both, both], RULE)  # the world is too kind, but the policy does get better
    few = [(rate(0.4), rate(0.35, 6)), *[(rate(0.7), rate(0.3, 6))] * 2]
    assert not parted(few, RULE)  # six trials cannot tell


def test_false_alarms_of_a_steady_run_are_rare_and_a_hacked_run_is_found() -> None:
    random = np.random.default_rng(0)

    def draw(share: float, trials: int) -> SuccessRate:
        return SuccessRate(int(random.binomial(trials, share)), trials, RULE.confidence)

    def runs(truth: list[float], imagined: list[float]) -> float:
        pairs = [[(draw(i, 256), draw(t, 100)) for i, t in zip(imagined, truth, strict=True)] for _ in range(300)]
        return float(np.mean([parted(p, RULE) or fallen([t for _, t in p], RULE) for p in pairs]))

    assert runs([0.5] * 5, [0.5] * 5) < 0.05
    assert runs([0.34, 0.4, 0.45, 0.5, 0.55], [0.3, 0.38, 0.45, 0.5, 0.53]) < 0.05
    assert runs([0.34, 0.32, 0.28, 0.25, 0.25], [0.43, 0.47, 0.5, 0.53, 0.56]) > 0.5


def history(drift: str) -> Audit:
    """Five looks of a run in which one thing goes wrong after the second look, or nothing."""
    audit = Audit(RULE)
    for number in range(5):
        late = number >= 2
        judge = Confusion(95, 5, 95, 5)
        if late and drift == "judge_recall":
            judge = Confusion(70, 5, 95, 30)
        if late and drift == "judge_precision":
            judge = Confusion(95, 40, 60, 5)
        outcome = Confusion(70, 30, 85, 15) if late and drift == "outcome" else Confusion(95, 5, 95, 5)
        audited = rate(0.3) if late and drift == "hacking" else rate(0.4 + 0.05 * number)
        audit.add(Look(10 * number, judge, outcome, rate(0.4 + 0.06 * number), audited))
    return audit


@pytest.mark.parametrize(
    ("drift", "names"),
    [
        ("nothing", set()),
        ("judge_recall", {"judge_recall"}),
        ("judge_precision", {"judge_precision"}),
        ("outcome", {"outcome_agreement", "imagined_precision"}),
        ("hacking", {"audited", "reward_hacking"}),
    ],
)
def test_what_goes_wrong_is_named_and_nothing_else(drift: str, names: set[str]) -> None:
    audit = history(drift)
    assert {alarm.name for alarm in audit.alarms()} == names
    assert audit.stop == bool(names)
    for alarm in audit.alarms():
        assert "re-fit the world model" in alarm.message


def test_parts_that_were_not_measured_are_no_alarm() -> None:
    audit = Audit(RULE)
    for step in range(4):
        assert audit.add(Look(step, imagined=rate(0.3 + 0.1 * step))) == ()


def test_an_audit_survives_json_and_goes_on_the_same() -> None:
    for drift in ("nothing", "hacking"):
        audit = history(drift)
        restored = Audit.from_json(json.loads(json.dumps(audit.to_json())))
        assert restored == audit and restored.alarms() == audit.alarms()
    assert Look.from_json(Look(3).to_json()) == Look(3)


def test_looks_come_in_order_and_unknown_quantities_are_refused() -> None:
    audit = Audit(RULE, [Look(5)])
    with pytest.raises(ValueError, match="order of steps"):
        audit.add(Look(4))
    with pytest.raises(ValueError, match="judge_recall"):
        audit.rates("accuracy")


@pytest.mark.parametrize("bad", [{"margin": -0.1}, {"looks": 0}, {"confidence": 1.0}])
def test_impossible_rules_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="audit rule"):
        AuditRule(**bad)


def test_a_trainer_that_knows_rates_only_is_told_why_to_stop() -> None:
    rule = PartingRule(200, 200, RULE)
    assert rule([0.4, 0.5, 0.6], [0.35, 0.45, 0.5]) == ""
    assert "exploits" in rule([0.4, 0.7, 0.7], [0.35, 0.3, 0.3])
    assert "audited" in rule([0.4, 0.4, 0.4], [0.5, 0.2, 0.2])
