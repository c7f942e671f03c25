"""Ablations of reinforcement: plans, differences with both kinds of noise, and the page."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from prophrl_models.rl.ablation_plan import PlanError, arm_settings, read_plan
from prophrl_models.rl.ablation_report import write_rl_ablation_report
from prophrl_models.rl.ablation_result import IMAGINED, TWIN, ArmOutcome, ArmRun, Measure, RlAblation
from prophrl_models.rl.settings import load_settings
from prophrl_models.training.settings import TrainingError
from prophrl_models.trials.paired import tango_interval
from prophrl_models.trials.statistics import SuccessRate, clopper_pearson, difference_interval

CONFIG = Path(__file__).parents[3] / "config" / "rl"
PLAN = """
common: {policy: p, world: w, judge: "classifier:j", preset: tiny, steps: 5}
settings: {watch.evaluate_every: 1}
seeds: [3, 4]
baseline: fa
twin: {task: place_cube, trials: 8}
arms:
  fa: {update.flow_scale: none}
  flow: {meaning: per step, update.objective: flow_grpo, update.flow_scale: none}
"""


def plan_file(folder: Path, text: str = PLAN) -> Path:
    file = folder / "plan.yaml"
    file.write_text(text)
    return file


def test_a_plan_says_what_every_arm_runs_with(tmp_path: Path) -> None:
    plan = read_plan(plan_file(tmp_path))
    plan.check()
    assert plan.twin is not None and (plan.twin.task, plan.twin.trials, plan.twin.execute) == ("place_cube", 8, 8)
    assert plan.seeds == (3, 4) and [arm.meaning for arm in plan.arms] == ["", "per step"]
    settings = arm_settings(plan, load_settings(CONFIG / "tiny.yaml"))
    assert [s.steps for s in settings.values()] == [5, 5] and settings["fa"].watch.evaluate_every == 1
    assert [s.update.objective for s in settings.values()] == ["fa_grpo", "flow_grpo"]
    assert {s.update.flow_scale for s in settings.values()} == {"none"}
    with pytest.raises(PlanError, match="the baseline fa must be among the arms"):
        plan.only(("flow",))


def test_the_shipped_plan_has_the_rows_it_promises_and_no_two_alike() -> None:
    plan = read_plan(CONFIG / "ablation.yaml")
    settings = arm_settings(plan, load_settings(CONFIG / "small.yaml"))
    forms = {name: s.update.flow_scale for name, s in settings.items()}
    assert settings["flow_grpo"].update.objective == "flow_grpo" and forms["flow_grpo"] == forms["fa_grpo"] == "none"
    assert {"straight_through", "tempered", "per_step", "per_step_matched"} < set(forms.values())
    assert len({s.rollout.noise_level for s in settings.values()}) >= 4
    assert len({s.rollout.num_steps for s in settings.values()}) >= 3
    with pytest.raises(PlanError, match="lacks policy, world, judge"):
        plan.check()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("baseline: fa", "baseline: fo", "'fo' is none of the arms fa, flow"),
        ("update.objective: flow_grpo, ", "", "arms fa and flow have equal settings"),
        ("seeds: [3, 4]", "seeds: [3, 3]", "different numbers"),
        ("seeds: [3, 4]", "seeds: three", "list of whole numbers"),
        ("  fa:", "  start:", "'start' cannot be an arm's name"),
        ("twin:", "twins:", "unknown key twins"),
        ("arms:", "arm:", "needs arms"),
    ],
)
def test_plans_that_cannot_be_run_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        arm_settings(read_plan(plan_file(tmp_path, PLAN.replace(old, new, 1))), load_settings(CONFIG / "tiny.yaml"))


def test_a_wrong_setting_is_named_with_its_arm(tmp_path: Path) -> None:
    plan = read_plan(plan_file(tmp_path, PLAN.replace("update.objective", "update.objektive")))
    with pytest.raises(TrainingError, match=r"arm flow.update: unknown key 'objektive'.*did you mean 'objective'"):
        arm_settings(plan, load_settings(CONFIG / "tiny.yaml"))


def outcomes(won: int, count: int = 40) -> tuple[bool, ...]:
    return tuple(k < won for k in range(count))


def arm(name: str, won: Sequence[int], imagined: Sequence[int] = ()) -> ArmOutcome:
    inside = [*imagined, *[20] * len(won)][: len(won)]
    runs = [
        ArmRun(k, SuccessRate(i, 32), SuccessRate(10, 32), 5, outcomes(w), f"runs/{name}/seed_{k}")
        for k, (w, i) in enumerate(zip(won, inside, strict=True))
    ]
    return ArmOutcome(name, "", {"update.beta": 0.1}, tuple(runs))


STUDY = RlAblation((arm("fa", (20, 21)), arm("flow", (32, 33)), arm("odd", (8, 38))), "fa", TWIN, outcomes(12), (0, 1))


def test_rates_and_paired_differences_are_pooled_over_seeds() -> None:
    fa, flow, odd = STUDY.to_start
    assert STUDY.arms[0].rate(TWIN) == SuccessRate(41, 80)
    assert STUDY.arms[0].rate(TWIN).interval == clopper_pearson(41, 80)
    assert fa.pairs is not None
    assert (fa.pairs.both, fa.pairs.only_first, fa.pairs.only_second, fa.pairs.neither) == (24, 0, 17, 39)
    assert fa.difference == pytest.approx(17 / 80) and fa.interval == tango_interval(0, 17, 80)
    against = {d.name: d for d in STUDY.to_baseline}
    assert set(against) == {"flow", "odd"} and against["flow"].difference == pytest.approx(24 / 80)
    assert flow.verdict == "better" and against["flow"].verdict == "better"
    # 8 and 38 of 40: the trials are sure of the mean, the seeds are not.
    assert odd.interval.low > 0.0 and odd.verdict == "within"


def test_the_finding_names_what_exceeds_both_kinds_of_noise() -> None:
    assert STUDY.headline == "flow +30 points against fa; 1 of 2 differences exceed the noise"
    assert re.search(r"better by more than the noise: fa \+21.*flow \+51", STUDY.sentences[0])
    assert re.search(r"within the noise: odd", STUDY.sentences[0])
    same = replace(STUDY, arms=(arm("fa", (20, 21)), arm("flow", (21, 20))))
    assert same.headline == "No arm differs from fa by more than the noise"
    single = replace(STUDY, arms=(arm("fa", (20,)), arm("flow", (39,))), seeds=(0,))
    assert single.headline == "Whether an arm differs from fa cannot be told from one seed"
    assert "the trainings' noise is unknown" in single.sentences[1]
    worse = replace(STUDY, arms=(arm("fa", (20, 21)), arm("flow", (4, 5))))
    assert "worse by more than the noise: flow" in worse.sentences[1]


def test_without_a_twin_imagined_success_is_compared_unpaired_and_the_start_counted_once_a_seed() -> None:
    study = RlAblation((arm("fa", (0, 0), (16, 17)), arm("flow", (0, 0), (30, 31))), "fa", IMAGINED, (), (0, 1))
    assert study.start_rate == SuccessRate(20, 64)
    [found] = study.to_baseline
    assert found.interval == difference_interval(33, 64, 61, 64) and found.pairs is None
    assert found.verdict == "better"


def test_trials_on_other_placements_are_not_compared() -> None:
    with pytest.raises(PlanError, match="different numbers of placements"):
        replace(STUDY, start=outcomes(5, 20))
    with pytest.raises(PlanError, match="no training of this ablation is measured"):
        replace(STUDY, arms=())


@pytest.mark.parametrize("measure", [TWIN, IMAGINED])
def test_page_and_facts_hold_what_was_measured(tmp_path: Path, measure: Measure) -> None:
    study = replace(STUDY, measure=measure, missing=("fa, seed 2",), failed={"odd <1>": "diverged"})
    page = write_rl_ablation_report(study, tmp_path, provenance={"judge": "a <b>"}, created_at="today")
    html = page.read_text()
    assert study.headline in html and "odd &lt;1&gt; failed: diverged" in html and "a &lt;b&gt;" in html
    assert "runs/flow/seed_1/report.html" in html and not re.search(r"\bnan\b", html, re.IGNORECASE)
    assert ("Tango" in html) == (measure == TWIN)
    said = json.loads((tmp_path / "report.json").read_text())
    assert said["arms"][1]["successes"] == (65 if measure == TWIN else 40)
    assert [d["verdict"] for d in said["to_baseline"]] == [d.verdict for d in study.to_baseline]
