"""The plan of an offline reinforcement: refused at the door, and the same folder means the same plan."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from prophrl_nodes.offline.plan import OfflinePlan, PlanError, read_plan


@pytest.fixture
def plan(tmp_path: Path) -> OfflinePlan:
    (tmp_path / "bags").mkdir()
    (tmp_path / "policy").mkdir()
    return OfflinePlan(bags=(str(tmp_path / "bags"),), policy=str(tmp_path / "policy"), task="place_cube", steps=4)


def test_what_does_not_exist_is_refused_by_name(plan: OfflinePlan) -> None:
    with pytest.raises(PlanError, match="not found: /nowhere"):
        dataclasses.replace(plan, bags=("/nowhere",))
    with pytest.raises(PlanError, match="no bags given"):
        dataclasses.replace(plan, bags=())
    with pytest.raises(PlanError, match="steps cannot be negative, got -1"):
        dataclasses.replace(plan, steps=-1)
    with pytest.raises(PlanError, match="not found: /planned"):
        dataclasses.replace(plan, planned=("/planned",))
    with pytest.raises(PlanError, match="judge video is asked for; leave one of the two out"):
        dataclasses.replace(plan, planned=plan.bags, judge="video")


@pytest.mark.parametrize("kind", ["classifier", "local"])
def test_a_judge_is_named_as_in_prophrl_rl_and_its_folder_becomes_absolute(
    plan: OfflinePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "judge").mkdir()
    monkeypatch.chdir(tmp_path)
    assert dataclasses.replace(plan, judge=f"{kind}:judge").judge == f"{kind}:{tmp_path / 'judge'}"
    assert dataclasses.replace(plan, judge="judge").judge == f"classifier:{tmp_path / 'judge'}"
    server = "server:http://127.0.0.1:8000/v1,some/model"
    assert dataclasses.replace(plan, judge=server).judge == server
    with pytest.raises(PlanError, match=f"not found: {kind}:{tmp_path / 'nowhere'} .no such folder"):
        dataclasses.replace(plan, judge=f"{kind}:nowhere")


@pytest.mark.parametrize(
    ("judge", "said"),
    [("oracle:x", "classifier:FOLDER"), ("server:http://host/v1", "a judge of kind server needs a model")],
)
def test_a_judge_that_cannot_be_understood_is_refused_at_the_door(plan: OfflinePlan, judge: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        dataclasses.replace(plan, judge=judge)


def test_an_audit_is_none_the_twin_or_a_second_judge(plan: OfflinePlan, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert dataclasses.replace(plan, audit="none").audit == ""
    assert dataclasses.replace(plan, audit="twin").audit == "twin"
    other = f"classifier:{tmp_path / 'other'}"
    assert dataclasses.replace(plan, audit=other).audit == other
    with pytest.raises(PlanError, match=r"an audit is none, twin or a second judge: .*classifier:FOLDER"):
        dataclasses.replace(plan, audit="oracle:x")
    with pytest.raises(PlanError, match=r"not found: classifier:.*nowhere .no such folder"):
        dataclasses.replace(plan, audit="nowhere")
    with pytest.raises(PlanError, match="the digital twin has no task 'fold_towel' to audit with"):
        dataclasses.replace(plan, audit="twin", task="fold_towel")


def test_a_plan_from_before_judges_had_kinds_is_still_the_same_plan(plan: OfflinePlan, tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    plan = dataclasses.replace(plan, judge=f"classifier:{tmp_path / 'judge'}")
    plan.settle(tmp_path / "out")
    file = tmp_path / "out" / "plan.json"
    older = {**json.loads(file.read_text()), "judge": str(tmp_path / "judge")}
    del older["audit"]
    file.write_text(json.dumps(older))
    plan.settle(tmp_path / "out")
    assert read_plan(tmp_path / "out") == plan


def test_a_plan_comes_back_from_its_folder(plan: OfflinePlan, tmp_path: Path) -> None:
    plan.settle(tmp_path / "out")
    assert read_plan(tmp_path / "out") == plan


def test_a_folder_with_another_plan_is_refused_and_says_what_differs(plan: OfflinePlan, tmp_path: Path) -> None:
    plan.settle(tmp_path / "out")
    with pytest.raises(PlanError, match="steps was 4, now 5"):
        dataclasses.replace(plan, steps=5).settle(tmp_path / "out")


def test_threads_and_gates_may_change_between_runs(plan: OfflinePlan, tmp_path: Path) -> None:
    plan.settle(tmp_path / "out")
    dataclasses.replace(plan, threads=2, gates=False).settle(tmp_path / "out")
    assert read_plan(tmp_path / "out").threads == 2 and not read_plan(tmp_path / "out").gates


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"no plan\.json"):
        read_plan(tmp_path)
