"""The audit: alarms on histories whose answer is known, silence on those that mean nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from prophrl_models.reward.judge import Confusion
from prophrl_models.rl.audit import (
    Audit,
    AuditRule,
    Look,
    OutcomeRate,
    PartingRule,
    agreement_of,
    fallen,
    gain,
    parted,
    precision_of,
    recall_of,
)
from prophrl_models.rl.settings import load_settings
from prophrl_models.trials.statistics import SuccessRate

PRESETS = Path(__file__).parents[3] / "config" / "rl"
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


def attempts(random: np.random.Generator, shares: list[float], count: int) -> list[OutcomeRate]:
    """Looks at policies of these success rates on the same placements, which make half of the difference."""
    placement = random.normal(size=count) * 0.5**0.5
    draws = [placement + random.normal(size=count) * 0.5**0.5 < ndtri(share) for share in shares]
    return [OutcomeRate.of(draw.tolist(), RULE.confidence) for draw in draws]


def alarms(imagined: list[float], truth: list[float], rollouts: int, trials: int, *, pairs: bool = True) -> float:
    """Share of 400 runs that are stopped by a parting at one of their looks."""
    random, stopped = np.random.default_rng(0), 0
    for _ in range(400):
        looks: list[tuple[SuccessRate, SuccessRate]] = list(
            zip(attempts(random, imagined, rollouts), attempts(random, truth, trials), strict=True)
        )
        if not pairs:
            looks = [
                (SuccessRate(i.successes, i.trials, 0.9), SuccessRate(a.successes, a.trials, 0.9)) for i, a in looks
            ]
        stopped += any(parted(looks[: n + 1], RULE) for n in range(len(looks)))
    return stopped / 400


HACKED = ([0.45, 0.55, 0.65, 0.7, 0.75], [0.45, 0.45, 0.42, 0.4, 0.4])
"""Imagined and true success at the five looks of the small preset (16 steps, an audit every 4)."""


def test_at_the_small_presets_sizes_a_hacked_run_is_mostly_found_and_an_honest_one_rarely_stopped() -> None:
    preset = load_settings(PRESETS / "small.yaml")
    rollouts = preset.watch.held_out * preset.watch.evaluate_rollouts
    assert (preset.steps // preset.watch.audit_every + 1, rollouts) == (5, 32)
    found = {(n, p): alarms(*HACKED, rollouts, n, pairs=p) for n in (20, 80) for p in (True, False)}
    assert found[80, True] > 0.6 and found[20, False] < 0.35  # docs/rl.md has these figures
    assert found[80, True] > found[80, False] + 0.1 and found[80, True] > found[20, True] + 0.1
    assert alarms([0.45] * 5, [0.45] * 5, rollouts, 80) < 0.02
    assert alarms(HACKED[0], [0.45, 0.52, 0.6, 0.63, 0.66], rollouts, 80) < 0.05


def test_pairs_are_looks_at_the_same_placements_and_what_was_not_judged_is_left_out() -> None:
    old = OutcomeRate.of([True] * 10 + [False] * 30)
    new = OutcomeRate.of([True] * 18 + [False] * 22)
    paired, (difference, alone) = gain(old, new, RULE)[1], gain(rate(0.25, 40), rate(0.45, 40), RULE)
    assert difference == pytest.approx(0.2)
    assert alone.low < paired.low < 0.2 < paired.high < alone.high
    quiet = OutcomeRate.of([*new.outcomes[:38], None, None])
    assert gain(old, quiet, RULE)[0] == pytest.approx(8 / 38)
    assert gain(old, OutcomeRate.of(new.outcomes[:20]), RULE)[0] == pytest.approx(18 / 20 - 10 / 40)  # other placements
    assert gain(OutcomeRate.of([None, True]), OutcomeRate.of([True, None]), RULE)[0] == 0.0  # no pair
    assert Look.from_json(json.loads(json.dumps(Look(3, imagined=new, audited=quiet).to_json()))) == Look(
        3, imagined=new, audited=quiet
    )


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
