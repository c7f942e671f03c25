"""The whole run in the dot world: success rises, the best policy is kept, and a run knows when to stop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from prophrl_models.policies.interface import FlowPolicy
from prophrl_models.policies.load import load_policy
from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.reward.judge import Confusion, Verdict
from prophrl_models.rl.audit import AuditRule, Look
from prophrl_models.rl.executor import InProcessExecutor
from prophrl_models.rl.report import write_report
from prophrl_models.rl.rollouts import Rollouts, RolloutWorker, Unit
from prophrl_models.rl.run_state import RESUME_FILE, ROLLOUT_FOLDER
from prophrl_models.rl.trainer import JudgeUnavailable, StepReport, notable
from prophrl_models.training.settings import TrainingError
from prophrl_models.trials.statistics import SuccessRate
from tests.helpers.dot_runs import HELD_OUT, SETTINGS, TRAINING, dot_trainer, dot_worker, reopened
from tests.helpers.dot_world import DotJudge, new_policy

BRIEF = replace(SETTINGS, rollout=replace(SETTINGS.rollout, prompts=2, max_rounds=1, video_every=0))
LEARNING = replace(
    SETTINGS,
    steps=6,
    rollout=replace(SETTINGS.rollout, prompts=8, group_size=8, groups_at_once=8, max_rounds=2),
    update=replace(SETTINGS.update, learning_rate=8e-4, mini_batch=32, micro_batch=96, epochs=2),
    watch=replace(SETTINGS.watch, evaluate_every=6, evaluate_rollouts=4, save_every=0),
)


def test_success_rises_on_starts_never_trained_on(taught: TinyPolicy, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    trainer = dot_trainer(taught, tmp_path / "run", LEARNING)
    folder = trainer.run()
    first, last = trainer.facts.evaluations[0], trainer.facts.evaluations[-1]
    assert (first["step"], last["step"]) == (0.0, 6.0)
    assert last["success"] > first["success"] + 0.1
    assert trainer.facts.best_step == 6
    reinforced = load_policy(folder)
    for (name, a), b in zip(reinforced.named_parameters(), taught.parameters(), strict=True):
        assert torch.equal(a, b), name
    last_one = load_policy(tmp_path / "run" / "last")
    assert all(torch.equal(a, b) for a, b in zip(last_one.parameters(), reinforced.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "objective,form", [("fa_grpo", "none"), ("fa_grpo", "straight_through"), ("flow_grpo", "none")]
)
def test_every_objective_learns(taught: TinyPolicy, tmp_path: Path, objective: Any, form: Any) -> None:
    settings = replace(
        LEARNING,
        steps=20,
        update=replace(LEARNING.update, objective=objective, flow_scale=form, learning_rate=4e-4, epochs=4),
        watch=replace(LEARNING.watch, evaluate_every=20, evaluate_rollouts=8),
    )
    trainer = dot_trainer(taught, tmp_path / "run", settings)
    trainer.run()
    first, last = trainer.facts.evaluations[0], trainer.facts.evaluations[-1]
    assert last["success"] > first["success"] + 0.2


def test_the_log_says_what_happened(taught: TinyPolicy, tmp_path: Path) -> None:
    reports: list[StepReport] = []
    trainer = dot_trainer(taught, tmp_path / "run", replace(SETTINGS, steps=2), watch=reports.append)
    folder = trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "imagined_success" in line]
    assert [line["step"] for line in steps] == [1, 2] and len(reports) == 2
    for name in ("kept_fraction", "clip_fraction", "ratio_max", "kl_reference", "gradient_k/0", "kl_reference_k/4"):
        assert name in steps[0]
    assert steps[0]["ratio_off_first"] == 0.0 and steps[0]["updates"] >= 4.0
    evaluated = [line for line in lines if "held_out/success" in line]
    assert [line["step"] for line in evaluated] == [0, 2]
    # What was only there to resume is gone; videos, checkpoints and provenance stay.
    assert not (tmp_path / "run" / RESUME_FILE).exists() and not (tmp_path / "run" / ROLLOUT_FOLDER).exists()
    assert len(list((tmp_path / "run" / "videos").glob("step_000001_*.mp4"))) == 3
    assert load_policy(tmp_path / "run" / "steps" / "000002").spec == taught.spec
    record = json.loads((folder / "provenance.json").read_text())
    assert record["parent"] == "taught" and record["reinforcement"]["seed"] == SETTINGS.seed
    assert record["stopped"] == ""


class Recording(InProcessExecutor):
    """Remembers what it was asked for."""

    def __init__(self, worker: RolloutWorker) -> None:
        super().__init__(worker)
        self.units: list[Unit] = []

    def run(self, units: Sequence[Unit]) -> Iterator[tuple[int, Rollouts]]:
        self.units += units
        return super().run(units)


class Unsure(DotJudge):
    """Calls nothing a success, and is surer of it the farther the dot is."""

    def judge(self, videos: Sequence[NDArray[np.uint8]], tasks: Sequence[str]) -> list[Verdict]:
        said = super().judge(videos, tasks)
        return [Verdict(False, 0.9 * verdict.score, (False,), reason=verdict.reason) for verdict in said]


def test_scores_tell_rollouts_apart_that_have_the_same_verdict(taught: TinyPolicy, tmp_path: Path) -> None:
    found, best = {}, {}
    for reward in ("verdict", "score"):
        rollout = replace(LEARNING.rollout, reward=reward, keep_low=0.0, keep_high=1.0)
        policy = new_policy()
        policy.load_state_dict(taught.state_dict())
        trainer = dot_trainer(policy, tmp_path / reward, replace(LEARNING, rollout=rollout), judge=Unsure())
        trainer.run()
        lines = [json.loads(line) for line in (tmp_path / reward / "log.jsonl").read_text().splitlines()]
        found[reward] = [line for line in lines if "kept_fraction" in line]
        best[reward] = trainer.facts.best_step
    assert [line["kept_fraction"] for line in found["verdict"]] == [0.0] * SETTINGS.watch.patience_empty
    scores = [line["judge/score"] for line in found["score"]]
    assert len(scores) == LEARNING.steps and all(line["kept_fraction"] == 1.0 for line in found["score"])
    assert all(line["imagined_success"] == 0.0 for line in found["score"])
    assert np.mean(scores[-2:]) > np.mean(scores[:2]) + 0.05
    assert best == {"verdict": 0, "score": 6}, "held-out scores tell policies apart, too"
    write_report(tmp_path / "score", trainer.facts)
    write_report(tmp_path / "score")  # again, by the log, which does not say which was the best
    assert json.loads((tmp_path / "score" / "report.json").read_text())["best_step"] == 6


def test_held_out_starts_are_never_trained_on(taught: TinyPolicy, tmp_path: Path) -> None:
    executor = Recording(dot_worker(taught))
    dot_trainer(taught, tmp_path / "run", executor=executor).run()
    trained_on = {s for unit in executor.units if unit.mode == "sde" for s in unit.starts}
    evaluated = [unit for unit in executor.units if unit.mode == "ode"]
    assert max(trained_on) < TRAINING
    assert {s for unit in evaluated for s in unit.starts} == set(range(TRAINING, TRAINING + HELD_OUT))
    halves = len(evaluated) // 3  # at steps 0, 2 and 3: the same seeds every time
    assert evaluated[:halves] == evaluated[halves : 2 * halves] == evaluated[2 * halves :]
    every = [seed for unit in executor.units if unit.mode == "sde" for seed in unit.seeds]
    assert len(set(every)) == len(every)


class Constant:
    """Always says the same."""

    name = "constant"

    def __init__(self, success: bool | None) -> None:
        self.success = success

    def judge(self, videos: Sequence[NDArray[np.uint8]], tasks: Sequence[str]) -> list[Verdict]:
        return [Verdict(self.success, 0.5, (self.success,), reason="as always") for _ in videos]


def test_a_judge_that_always_agrees_teaches_nothing_and_ends_the_run(taught: TinyPolicy, tmp_path: Path) -> None:
    before = [p.detach().clone() for p in taught.parameters()]
    trainer = dot_trainer(taught, tmp_path / "run", replace(BRIEF, steps=9), judge=Constant(True))
    trainer.run()
    assert trainer.facts.step == SETTINGS.watch.patience_empty
    assert "without one group of mixed outcome" in trainer.facts.stopped
    assert all(torch.equal(a, b) for a, b in zip(before, taught.parameters(), strict=True))


def test_an_outage_is_no_failure_and_the_run_goes_on_after_it(taught: TinyPolicy, tmp_path: Path) -> None:
    with pytest.raises(JudgeUnavailable, match="repeat the command"):
        dot_trainer(taught, tmp_path / "run", judge=Constant(None)).run()
    trainer = dot_trainer(taught, tmp_path / "run")
    trainer.settings = replace(SETTINGS, steps=1)
    trainer.run()
    assert trainer.facts.step == 1
    # Single silences: their groups go on without them.
    quiet = dot_trainer(taught, tmp_path / "quiet", replace(SETTINGS, steps=1), judge=DotJudge(silent=(14, 20)))
    quiet.run()
    line = json.loads((tmp_path / "quiet" / "log.jsonl").read_text().splitlines()[1])
    assert line["judge/unjudged"] == 2.0


def test_a_run_stops_when_imagined_and_audited_success_part_ways(taught: TinyPolicy, tmp_path: Path) -> None:
    def examiner(policy: FlowPolicy, step: int) -> Look:
        return Look(step, audited=SuccessRate(max(0, 30 - 15 * step), 40))

    settings = replace(BRIEF, steps=5, watch=replace(BRIEF.watch, evaluate_every=1, audit_every=1, save_every=0))
    trainer = dot_trainer(taught, tmp_path / "run", settings, examiner=examiner, rule=AuditRule(looks=2))
    trainer.run()
    assert trainer.facts.step < 5 and "audited" in trainer.facts.stopped
    assert trainer.facts.evaluations[1]["audited"] == pytest.approx(15 / 40)


class Kinder:
    """Sees more successes with every step, whatever was done: a quarter, a half, then three quarters of them."""

    name = "kinder"

    def __init__(self) -> None:
        self.calls = 0

    def judge(self, videos: Sequence[NDArray[np.uint8]], tasks: Sequence[str]) -> list[Verdict]:
        level = min(3, 1 + self.calls // 3)  # a step of BRIEF asks three times: two evaluations, one batch
        self.calls += 1
        return [Verdict(i % 4 < level, 0.5, (i % 4 < level,)) for i in range(len(videos))]


@pytest.mark.parametrize(
    ("looks", "published"),
    [
        ([Look(0, audited=SuccessRate(n, 40)) for n in (30, 34, 5, 5)], 1),  # by ground truth
        ([Look(0, judge=Confusion(r, 2, 38, 40 - r)) for r in (39, 39, 12, 12)], 0),  # nothing audits the policies
    ],
)
def test_a_run_stopped_by_its_audit_delivers_the_policy_from_before_the_parting(
    taught: TinyPolicy, tmp_path: Path, looks: list[Look], published: int
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def examiner(policy: FlowPolicy, step: int) -> Look:
        seen.append({name: value.clone() for name, value in policy.state_dict().items()})
        return replace(looks[step], step=step)

    settings = replace(BRIEF, steps=9, watch=replace(BRIEF.watch, evaluate_every=1, audit_every=1, save_every=0))
    trainer = dot_trainer(
        taught, tmp_path / "run", settings, examiner=examiner, judge=Kinder(), write_report=write_report
    )
    folder = trainer.run()
    imagined = [entry["success"] for entry in trainer.facts.evaluations]
    assert trainer.facts.step == 3 and imagined == sorted(imagined) and imagined[3] > imagined[1]
    record = json.loads((folder / "provenance.json").read_text())
    assert record["step"] == published and record["stopped"] == trainer.facts.stopped != ""
    delivered = load_policy(folder).state_dict()
    assert all(torch.equal(delivered[name], value) for name, value in seen[published].items())
    assert any(not torch.equal(delivered[name], value) for name, value in seen[3].items())
    for _ in range(2):  # the second time from the folder alone
        facts = json.loads((tmp_path / "run" / "report.json").read_text())
        assert (facts["best_step"], facts["best_success"]) == (published, imagined[published])
        write_report(tmp_path / "run")


def test_a_run_goes_on_only_with_the_audit_it_was_begun_with(taught_file: Path, tmp_path: Path) -> None:
    def examiner(policy: FlowPolicy, step: int) -> Look:
        return Look(step, audited=SuccessRate(20, 40))

    def stop(report: StepReport) -> None:
        raise KeyboardInterrupt

    for name, begun, other in (("audited", "--audit-trials 20", ""), ("plain", "", "--audit-trials 20")):
        folder, settings = tmp_path / name, replace(BRIEF, steps=2)
        with pytest.raises(KeyboardInterrupt):
            dot_trainer(
                reopened(taught_file), folder, settings, examiner=examiner if begun else None, audit=begun, watch=stop
            ).run()
        words = f"with {f'the audit {begun!r}' if begun else 'no audit'}, and was now asked to go on with"
        with pytest.raises(TrainingError, match=words):
            dot_trainer(reopened(taught_file), folder, settings, audit=other).run()
    with pytest.raises(TrainingError, match="go on with the audit '--audit-trials 40'"):
        dot_trainer(reopened(taught_file), tmp_path / "audited", settings, audit="--audit-trials 40").run()
    trainer = dot_trainer(reopened(taught_file), tmp_path / "plain", settings)
    trainer.run()
    assert trainer.facts.step == 2


def test_a_second_judge_looks_at_evaluations(taught: TinyPolicy, tmp_path: Path) -> None:
    worker = dot_worker(taught)
    worker.auditor = Constant(False)
    trainer = dot_trainer(taught, tmp_path / "run", replace(BRIEF, steps=1), executor=InProcessExecutor(worker))
    trainer.run()
    assert [e["audited"] for e in trainer.facts.evaluations] == [0.0, 0.0]


def test_a_policy_that_strays_too_far_ends_the_run(taught: TinyPolicy, tmp_path: Path) -> None:
    settings = replace(
        SETTINGS,
        steps=9,
        update=replace(SETTINGS.update, learning_rate=5e-3),
        watch=replace(SETTINGS.watch, max_reference_kl=0.01),
    )
    trainer = dot_trainer(taught, tmp_path / "run", settings)
    trainer.run()
    assert trainer.facts.step < 9 and "max_reference_kl" in trainer.facts.stopped


def test_a_finished_folder_and_impossible_runs_are_refused(taught: TinyPolicy, tmp_path: Path) -> None:
    dot_trainer(taught, tmp_path / "run", replace(BRIEF, steps=1)).run()
    with pytest.raises(TrainingError, match="holds a finished training"):
        dot_trainer(taught, tmp_path / "run", replace(BRIEF, steps=1)).run()
    for name, value, words in (
        ("keep_low", 0.95, "keep_low < keep_high"),
        ("group_size", 1, "group_size must be at least 2"),
        ("noise_level", 0.0, "noise_level must be a positive number"),
    ):
        with pytest.raises(TrainingError, match=words):
            replace(SETTINGS, rollout=replace(SETTINGS.rollout, **{name: value}))


def test_notable_rollouts_are_those_a_reader_wants(taught: TinyPolicy) -> None:
    found = dot_worker(taught).run(Unit((0, 1, 2, 3), (0, 1, 2, 3)))
    found = replace(found, success_B=torch.tensor([1.0, 0.0, 1.0, 0.0]), score_B=torch.tensor([0.9, 0.1, 0.55, 0.2]))
    assert notable(found) == {"best": 0, "worst": 1, "borderline": 2}
