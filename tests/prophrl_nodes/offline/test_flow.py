"""The flow's own judgement: which gates failed, what came out, how far a stage is; and a plan it cannot run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prophrl_nodes.cli import dataset, rl
from prophrl_nodes.offline.child import ChildFailed
from prophrl_nodes.offline.flow import Flow, outcome, sentences
from prophrl_nodes.offline.plan import VIDEO, OfflinePlan, PlanError
from prophrl_nodes.offline.result import FlowResult, is_finished, read_result, write_result
from prophrl_nodes.offline.stages import (
    CHECK_ANSWERS,
    Folders,
    Stage,
    check_stage,
    dataset_stage,
    judge_of,
    judge_stage,
    last_step,
    planned_stage,
    read_findings,
    reinforce_stage,
    replay_stage,
    world_stage,
)

from prophrl_models.data.build import build_dataset
from tests.helpers.recording import record


def finding(gate: str, status: str) -> dict[str, Any]:
    return {"gate": gate, "status": status, "message": f"{gate} is {status}", "advice": "change it"}


def checkpoint(folder: Path, step: int, success: list[float]) -> Path:
    folder.mkdir()
    evaluations = [{"step": 5.0 * i, "success": rate, "rollouts": 32.0} for i, rate in enumerate(success)]
    (folder / "provenance.json").write_text(json.dumps({"step": step, "evaluations": evaluations}))
    return folder


def flow_of(folder: Path) -> Flow:
    for name in ("bags", "policy"):
        (folder / name).mkdir(parents=True)
    return Flow(OfflinePlan((str(folder / "bags"),), str(folder / "policy")), folder / "out")


def check_that(at: Folders, prints: str, code: int) -> Stage:
    """A check as its stage sees it: a process that prints and ends."""
    script = f"print({prints!r}); raise SystemExit({code})"
    return Stage("check", "checks", [sys.executable, "-c", script], lambda: False, tolerated=CHECK_ANSWERS)


def test_only_failed_gates_speak_against_a_run(tmp_path: Path) -> None:
    findings = [finding("noise", "pass"), finding("judge", "fail"), finding("world", "not enough")]
    said = json.dumps({"passed": False, "failed": True, "findings": findings}, indent=1)
    (tmp_path / "check.json").write_text(f"a library warns {{of something}}\n{{}} 100%{said}\nand says good-bye {{}}\n")
    assert read_findings(tmp_path / "check.json") == findings
    assert sentences(findings, "fail") == ["judge: judge is fail change it"]
    assert sentences(findings, "not enough") == ["world: world is not enough change it"]


@pytest.mark.parametrize("code", [0, 3, 4])
def test_an_answer_of_the_check_is_kept_and_not_asked_for_again(tmp_path: Path, code: int) -> None:
    flow, said = flow_of(tmp_path), [finding("judge", "fail")]
    (tmp_path / "out").mkdir()
    answer = json.dumps({"findings": said}, indent=2)
    assert flow._checked(check_that(flow.at, f"loading\n{answer}", code)) == said
    assert json.loads(flow.at.check.read_text()) == {"findings": said}
    assert flow._checked(check_that(flow.at, "error: must not be run again", 1)) == said


def test_a_check_that_crashes_is_a_failure_and_leaves_nothing_behind(tmp_path: Path) -> None:
    flow = flow_of(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(ChildFailed, match=r"ended with 1: error: no such judge \{x\}"):
        flow._checked(check_that(flow.at, "error: no such judge {x}", 1))
    with pytest.raises(ChildFailed, match="its answer holds no findings"):
        flow._checked(check_that(flow.at, "cut off", 3))
    assert not flow.at.check.exists()
    flow.at.check.write_text("error: what an older flow kept as an answer\n")
    said = [finding("judge", "pass")]
    assert flow._checked(check_that(flow.at, json.dumps({"findings": said}), 0)) == said


def test_bags_without_any_outcome_are_refused_before_hours_of_work(tmp_path: Path) -> None:
    flow = flow_of(tmp_path)
    for name in "ab":
        replace(record(0.6, width=64, height=48), episode_id=name, outcome="unknown").write(tmp_path / "bags")
    dataset = tmp_path / "dataset"
    build_dataset([tmp_path / "bags"], dataset, outcomes=("success", "failure", "unknown"), progress=False)
    with pytest.raises(PlanError, match=r"marked success or failure \(2 unknown\)"):
        flow._look_at([dataset])


def test_a_better_checkpoint_is_accepted_with_both_numbers(tmp_path: Path) -> None:
    result = outcome(checkpoint(tmp_path / "policy", 10, [0.25, 0.5, 0.75]))
    assert result.accepted and (result.imagined_before, result.imagined_after) == (0.25, 0.75)
    assert "25% before, 75% after, at step 10" in result.message


def test_what_was_reinforced_by_scores_is_better_by_scores(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "policy", 5, [0.5, 0.5])
    record = json.loads((folder / "provenance.json").read_text())
    for entry, score in zip(record["evaluations"], (0.4, 0.6), strict=True):
        entry["score"] = score
    for reward, accepted in (("score", True), ("verdict", False)):
        said = {**record, "reinforcement": {"rollout": {"reward": reward}}}
        (folder / "provenance.json").write_text(json.dumps(said))
        assert outcome(folder).accepted is accepted
        assert ("mean score 0.40 and 0.60" in outcome(folder).message) is accepted


@pytest.mark.parametrize(("step", "success"), [(0, [0.5, 0.4]), (5, [0.5, 0.5])])
def test_no_gain_is_not_accepted(tmp_path: Path, step: int, success: list[float]) -> None:
    result = outcome(checkpoint(tmp_path / "policy", step, success))
    assert not result.accepted and "no step was better than the start" in result.message


def test_the_reason_of_a_stop_is_told_and_the_promise_is_that_of_the_delivered_step(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "policy", 5, [0.25, 0.5, 0.9])
    record = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps({**record, "stopped": "the two have parted"}))
    result = outcome(folder)
    assert result.accepted and result.imagined_after == 0.5 and result.stopped == "the two have parted"
    assert result.message.endswith("at step 5: " + str(folder) + "; stopped early: the two have parted")
    flow = flow_of(tmp_path / "flow")
    flow.at.root.mkdir()
    assert flow._ended(result) == result == read_result(flow.at.root)


def test_results_come_back_from_disk(tmp_path: Path) -> None:
    result = FlowResult(True, "better", "somewhere", 0.25, 0.5)
    write_result(tmp_path, result)
    assert read_result(tmp_path) == result


def test_a_finished_flow_gives_its_result_again_and_one_its_check_stopped_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "bags").mkdir()
    (tmp_path / "policy").mkdir()
    plan = OfflinePlan((str(tmp_path / "bags"),), str(tmp_path / "policy"))  # no bags in it: any stage would fail
    write_result(tmp_path, FlowResult(False, "the check says no"))
    assert not is_finished(tmp_path)
    result = FlowResult(True, "better", "somewhere", 0.25, 0.5)
    write_result(tmp_path, result)
    assert is_finished(tmp_path) and Flow(plan, tmp_path).run() == result


def test_the_step_of_a_stage_is_that_of_its_last_whole_line(tmp_path: Path) -> None:
    assert last_step(tmp_path) == 0
    (tmp_path / "log.jsonl").write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "loss": 0.5}\n{"step": 3')
    assert last_step(tmp_path) == 20


def test_stages_are_the_commands_a_user_would_type(tmp_path: Path) -> None:
    for name in ("bags", "policy", "world"):
        (tmp_path / name).mkdir()
    at, bags = Folders(tmp_path / "out"), str(tmp_path / "bags")
    plan = OfflinePlan((bags,), str(tmp_path / "policy"), str(tmp_path / "world"), "place_cube", world_steps=50, seed=3)
    words = dataset_stage(plan, at).command[3:]
    assert words[:4] == ["dataset", "build", bags, str(at.dataset)] and "--discarded" in words
    assert "--image-region" not in words
    (tmp_path / "policy" / "provenance.json").write_text('{"sync": null}')
    assert "--image-region" not in dataset_stage(plan, at).command
    record = {"sync": {"image_region": [0.2, 0.3, 0.5]}}
    (tmp_path / "policy" / "provenance.json").write_text(json.dumps(record))
    parser = argparse.ArgumentParser()
    dataset.register(parser)
    understood = parser.parse_args(dataset_stage(plan, at).command[4:])
    assert understood.image_region == [0.2, 0.3, 0.5]  # that of the policy's own pictures
    words = world_stage(plan, at, [at.dataset]).command[3:]
    assert " ".join(words[4:]) == f"--seed 3 --preset small_adapt --init {tmp_path / 'world'} --steps 50"
    assert judge_of(plan, at) == f"trajectory:{at.judge / 'classifier'}"
    judge = judge_stage(plan, at, [at.dataset])
    assert judge.command[3:9] == ["reward", "train", str(at.judge), str(at.dataset), "--kind", "trajectory"]
    planned = planned_stage(replace(plan, planned=(bags, bags)), at)
    parser = argparse.ArgumentParser()
    dataset.register(parser)
    understood = parser.parse_args(planned.command[4:])
    assert (understood.verb, understood.bags, understood.out) == ("commanded", [Path(bags)] * 2, at.planned)
    assert understood.image_region == [0.2, 0.3, 0.5]
    of_videos = replace(plan, judge=VIDEO)
    assert judge_of(of_videos, at) == f"classifier:{at.judge / 'classifier'}"
    replay, judge = replay_stage(of_videos, at, [at.dataset]), judge_stage(of_videos, at, [at.dataset])
    assert judge.command[3:8] == ["reward", "train", str(at.judge), str(at.dataset), str(at.imagined)]
    assert judge.command[8:10] == ["--kind", "video"]
    parser = argparse.ArgumentParser()
    rl.register(parser)
    understood = parser.parse_args(replay.command[4:])
    assert (understood.datasets, understood.out) == ([at.dataset], at.imagined)
    assert (understood.world, understood.preset, understood.seed) == (at.refitted, "small", 3)


def test_a_judge_learns_from_planned_attempts_of_all_rounds_where_there_are_some(tmp_path: Path) -> None:
    flow = flow_of(tmp_path)
    assert flow._planned(flow.plan, []) == [], "then from the bags"
    earlier = SimpleNamespace(at=Folders(tmp_path / "earlier"))
    earlier.at.planned.mkdir(parents=True)
    flow.at.planned.mkdir(parents=True)
    assert flow._planned(flow.plan, [earlier]) == [earlier.at.planned, flow.at.planned]


def test_the_audit_of_a_plan_reaches_the_reinforcement(tmp_path: Path) -> None:
    for name in ("bags", "policy", "other"):
        (tmp_path / name).mkdir()
    at = Folders(tmp_path / "out")
    plan = OfflinePlan((str(tmp_path / "bags"),), str(tmp_path / "policy"))
    for audit, words in (
        ("none", ""),
        ("twin", " --audit-twin place_cube"),
        (str(tmp_path / "other"), f" --second-judge classifier:{tmp_path / 'other'}"),
    ):
        plan = replace(plan, audit=audit)
        stage = reinforce_stage(plan, at, [at.dataset], judge_of(plan, at), ["put it there"], "place_cube")
        assert " ".join(stage.command).endswith(f"--seed 0 --task put it there{words}")
        parser = argparse.ArgumentParser()
        rl.register(parser)
        understood = parser.parse_args(stage.command[4:])
        assert (understood.audit_twin, understood.second_judge) == (
            "place_cube" if audit == "twin" else None, words.split()[-1] if "judge" in words else None
        )  # fmt: skip


def test_a_task_that_the_twin_lacks_is_refused_before_the_world_is_trained(tmp_path: Path) -> None:
    flow = flow_of(tmp_path)
    replace(record(0.6, width=64, height=48), task="fold_towel", outcome="success").write(tmp_path / "bags")
    build_dataset([tmp_path / "bags"], tmp_path / "dataset", progress=False)
    assert flow._look_at([tmp_path / "dataset"])[0] == "fold_towel"
    flow.plan = replace(flow.plan, audit="twin")
    with pytest.raises(
        PlanError, match=r"the digital twin has no task 'fold_towel' to audit with, it has .*place_cube"
    ):
        flow._look_at([tmp_path / "dataset"])


def test_every_stage_that_computes_is_given_the_threads(tmp_path: Path) -> None:
    for name in ("bags", "policy"):
        (tmp_path / name).mkdir()
    at, data = Folders(tmp_path / "out"), [tmp_path / "data"]
    plan = OfflinePlan((str(tmp_path / "bags"),), str(tmp_path / "policy"), threads=3)
    for threads, words in ((3, "--threads 3"), (0, None)):
        plan = replace(plan, threads=threads)
        stages = (
            world_stage(plan, at, data),
            replay_stage(plan, at, data),
            judge_stage(plan, at, data),
            check_stage(plan, at, data, judge_of(plan, at), ["put it there"]),
            reinforce_stage(plan, at, data, judge_of(plan, at), ["put it there"], "place_cube"),
        )
        for stage in stages:
            said = " ".join(stage.command)
            assert (words in said) if words else ("--threads" not in said), stage.name
