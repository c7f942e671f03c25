"""The flow's own judgement: which gates failed, what came out, how far a stage is; and a plan it cannot run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prophrl_nodes.offline.flow import Flow, failed_gates, outcome
from prophrl_nodes.offline.plan import OfflinePlan
from prophrl_nodes.offline.result import FlowResult, is_finished, read_result, write_result
from prophrl_nodes.offline.stages import Folders, dataset_stage, judge_of, last_step, world_stage


def finding(gate: str, status: str) -> dict[str, Any]:
    return {"gate": gate, "status": status, "message": f"{gate} is {status}", "advice": "change it"}


def checkpoint(folder: Path, step: int, success: list[float]) -> Path:
    folder.mkdir()
    evaluations = [{"step": 5.0 * i, "success": rate, "rollouts": 32.0} for i, rate in enumerate(success)]
    (folder / "provenance.json").write_text(json.dumps({"step": step, "evaluations": evaluations}))
    return folder


def test_only_failed_gates_speak_against_a_run(tmp_path: Path) -> None:
    findings = [finding("noise", "pass"), finding("judge", "fail"), finding("world", "not enough")]
    said = json.dumps({"passed": False, "failed": True, "findings": findings}, indent=1)
    (tmp_path / "check.json").write_text(f"a library warns\n{said}\nand says good-bye {{}}\n")
    assert failed_gates(tmp_path / "check.json") == ["judge: judge is fail change it"]


def test_a_better_checkpoint_is_accepted_with_both_numbers(tmp_path: Path) -> None:
    result = outcome(checkpoint(tmp_path / "policy", 10, [0.25, 0.5, 0.75]))
    assert result.accepted and (result.imagined_before, result.imagined_after) == (0.25, 0.75)
    assert "25% before, 75% after, at step 10" in result.message


@pytest.mark.parametrize(("step", "success"), [(0, [0.5, 0.4]), (5, [0.5, 0.5])])
def test_no_gain_is_not_accepted(tmp_path: Path, step: int, success: list[float]) -> None:
    result = outcome(checkpoint(tmp_path / "policy", step, success))
    assert not result.accepted and "no step was better than the start" in result.message


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
    words = world_stage(plan, at, [at.dataset]).command[3:]
    assert " ".join(words[4:]) == f"--seed 3 --preset small_adapt --init {tmp_path / 'world'} --steps 50"
    assert judge_of(plan, at) == f"classifier:{at.judge / 'classifier'}"
