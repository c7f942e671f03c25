"""The result log: nothing is lost, nothing is replaced, nothing is told before the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from prophrl_models.data.lines import LineError
from prophrl_models.trials.plan import PlanKey, TrialPlan, make_plan
from prophrl_models.trials.results import (
    ResultError,
    ResultLog,
    TrialResult,
    compare,
    failure_reasons,
    policy_outcomes,
)
from prophrl_models.trials.statistics import mcnemar_exact

Sealed = tuple[TrialPlan, PlanKey]


@pytest.fixture
def sealed() -> Sealed:
    return make_plan("t", "i", [{"k": k} for k in range(10)], ["sft", "rl"], seed=3, key_seed=3)


def run_all(log: ResultLog, key: PlanKey) -> None:
    """rl succeeds at placements 0..7, sft at 2..5."""
    while (trial := log.next_trial()) is not None:
        policy = key.policies[trial.label]
        success = trial.placement < 8 if policy == "rl" else 2 <= trial.placement < 6
        log.append(TrialResult(trial.trial_id, True, success, "success" if success else f"{policy} dropped it"))


def test_trials_are_asked_for_in_planned_order_and_voided_ones_again(sealed: Sealed, tmp_path: Path) -> None:
    plan, _ = sealed
    log = ResultLog(tmp_path / "results.jsonl", plan)
    first, second = plan.trials[0], plan.trials[1]
    assert log.next_trial() == first
    log.append(TrialResult(first.trial_id, False, False, "protective stop before the start"))
    assert log.next_trial() == first
    log.append(TrialResult(first.trial_id, True, False, "time is up"))
    assert log.next_trial() == second
    assert len(log.voided) == 1


def test_a_log_is_continued_where_it_stopped(sealed: Sealed, tmp_path: Path) -> None:
    plan, key = sealed
    log = ResultLog(tmp_path / "results.jsonl", plan)
    for trial in plan.trials[:3]:
        log.append(TrialResult(trial.trial_id, True, True, "success", 4.5, {"z_m": 0.1}, "bag-7", {"inference_s": 0.2}))
    again = ResultLog(tmp_path / "results.jsonl", plan)
    assert again.results == log.results
    assert again.next_trial() == plan.trials[3]
    run_all(again, key)
    assert again.next_trial() is None


def test_a_line_cut_off_by_a_crash_is_run_again(sealed: Sealed, tmp_path: Path) -> None:
    plan, _ = sealed
    path = tmp_path / "results.jsonl"
    log = ResultLog(path, plan)
    for trial in plan.trials[:2]:
        log.append(TrialResult(trial.trial_id, True, True))
    path.write_bytes(path.read_bytes()[:-20])
    again = ResultLog(path, plan)
    assert again.next_trial() == plan.trials[1]
    again.append(TrialResult(plan.trials[1].trial_id, True, False))
    assert len(ResultLog(path, plan).results) == 2


def test_a_line_damaged_in_the_middle_is_an_error(sealed: Sealed, tmp_path: Path) -> None:
    plan, _ = sealed
    path = tmp_path / "results.jsonl"
    ResultLog(path, plan).append(TrialResult("t001", True, True))
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(LineError, match=r"line 1 is damaged .*plan_hash"):
        ResultLog(path, plan)


def test_a_valid_result_is_never_replaced(sealed: Sealed, tmp_path: Path) -> None:
    log = ResultLog(tmp_path / "results.jsonl", sealed[0])
    log.append(TrialResult("t001", True, False))
    with pytest.raises(ResultError, match="already has a valid result"):
        log.append(TrialResult("t001", True, True))


def test_results_outside_the_plan_are_refused(sealed: Sealed, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no trial 't021' in this plan"):
        ResultLog(tmp_path / "results.jsonl", sealed[0]).append(TrialResult("t021", True, True))


def test_a_log_of_another_plan_is_refused(sealed: Sealed, tmp_path: Path) -> None:
    ResultLog(tmp_path / "results.jsonl", sealed[0]).append(TrialResult("t001", True, True))
    other, _ = make_plan("t", "i", [{"k": 0}], ["sft"], seed=4)
    with pytest.raises(ResultError, match="one log per plan"):
        ResultLog(tmp_path / "results.jsonl", other)


def test_nothing_is_told_before_the_last_trial(sealed: Sealed, tmp_path: Path) -> None:
    plan, key = sealed
    log = ResultLog(tmp_path / "results.jsonl", plan)
    for trial in plan.trials[:-1]:
        log.append(TrialResult(trial.trial_id, True, True))
    for ask in (lambda: policy_outcomes(log, key), lambda: compare(log, key, "sft", "rl")):
        with pytest.raises(ResultError, match="1 of 20 trials are still to be run"):
            ask()


def test_rates_and_the_paired_comparison_come_out_right(sealed: Sealed, tmp_path: Path) -> None:
    plan, key = sealed
    log = ResultLog(tmp_path / "results.jsonl", plan)
    run_all(log, key)
    rates = {outcome.policy: (outcome.rate.successes, outcome.rate.trials) for outcome in policy_outcomes(log, key)}
    assert rates == {"sft": (4, 10), "rl": (8, 10)}
    found = compare(log, key, "sft", "rl")
    assert found.difference == pytest.approx(0.4)
    assert (found.only_a, found.only_b, found.pairs) == (0, 4, 10)
    assert found.p_value == mcnemar_exact(0, 4)
    assert found.interval.low < 0.4 < found.interval.high
    assert compare(log, key, "rl", "sft").difference == pytest.approx(-0.4)


def test_comparing_with_an_unknown_policy_lists_the_known_ones(sealed: Sealed, tmp_path: Path) -> None:
    plan, key = sealed
    log = ResultLog(tmp_path / "results.jsonl", plan)
    run_all(log, key)
    with pytest.raises(ResultError, match="it compares rl, sft"):
        compare(log, key, "sft", "pi0")


def test_failure_reasons_are_counted_for_valid_failures_only(sealed: Sealed, tmp_path: Path) -> None:
    plan, key = sealed
    log = ResultLog(tmp_path / "results.jsonl", plan)
    log.append(TrialResult(plan.trials[0].trial_id, False, False, "voided"))
    run_all(log, key)
    assert list(failure_reasons(log.results).items()) == [("sft dropped it", 6), ("rl dropped it", 2)]
