"""A plan that compares policies: the policy node alone knows which letter is which, and moves the arm with that one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prophrl_interfaces.msg import ActionChunk
from prophrl_interfaces.srv import OperatorVerb
from prophrl_nodes.blinded import named_policies, policies_by_letter

from calibration.poses import ActionConvention
from prophrl_models.data.bag import Bag
from prophrl_models.data.episode import ACTION_NAMES, STATE_NAMES
from prophrl_models.data.normalise import Normalisation, StatisticsAccumulator
from prophrl_models.policies.interface import PolicySpec, Scaling
from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.training.checkpoint import save_policy
from prophrl_models.trials.plan import PlanError, PlanKey, TrialPlan, make_plan
from prophrl_models.trials.results import ResultLog
from robot_bridge.twin.lab import Lab
from robot_bridge.twin.tasks import get_task, held_out_placements

TASK = get_task("place_cube")
RECORDER = Path(__file__).parents[2] / "config" / "nodes" / "recorder.yaml"
LIVENESS_S = 60.0
ROWS = {"first": 6, "second": 8}
"""Actions of a chunk: by these a chunk says which policy it is of."""


def write_plan(folder: Path, *names: str, key_seed: int = 0) -> tuple[TrialPlan, PlanKey]:
    placements = [place.to_json() for place in held_out_placements(TASK.id, 1)]
    plan, key = make_plan(
        TASK.id, TASK.instruction, placements, names, seed=0, max_duration_s=1.5, key_seed=key_seed
    )  # fmt: skip
    key.save(folder / "key.json")
    plan.save(folder / "plan.json")
    return plan, key


def test_policies_are_given_by_name_with_paths_of_any_kind() -> None:
    assert named_policies("sft=runs/a rl='runs/with space/b=c' far=ws://gpu:8000/policy") == {
        "sft": "runs/a",
        "rl": "runs/with space/b=c",
        "far": "ws://gpu:8000/policy",
    }
    assert named_policies(" ") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs/a", "names no policy"),
        ("a=", "names no policy"),
        ("a=x a=y", "given twice, x and y"),
        ("a='x", "No closing"),
    ],
)
def test_policies_that_cannot_be_told_apart_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"{said}.*NAME=CHECKPOINT"):
        named_policies(text)


def test_a_letter_stands_for_what_the_sealed_key_says(tmp_path: Path) -> None:
    owners = set()
    for seed in range(8):
        _, key = write_plan(tmp_path / str(seed), "sft", "rl", key_seed=seed)
        found = policies_by_letter("rl=runs/rl sft=runs/sft", tmp_path / str(seed) / "plan.json")
        assert found == {letter: f"runs/{name}" for letter, name in key.policies.items()}
        owners.add(found["A"])
    assert owners == {"runs/rl", "runs/sft"}


def test_other_policies_or_another_key_than_the_plans_are_refused(tmp_path: Path) -> None:
    write_plan(tmp_path / "one", "sft", "rl")
    write_plan(tmp_path / "other", "sft", "rl", key_seed=1)
    plan = tmp_path / "one" / "plan.json"
    with pytest.raises(ValueError, match="the plan compares rl, sft, given are sft; name a checkpoint for each"):
        policies_by_letter("sft=runs/sft", plan)
    with pytest.raises(ValueError, match="given are rl, sft, third"):
        policies_by_letter("sft=a rl=b third=c", plan)
    with pytest.raises(PlanError, match="give its file"):
        policies_by_letter("sft=a rl=b", "")
    (tmp_path / "one" / "key.json").write_bytes((tmp_path / "other" / "key.json").read_bytes())
    with pytest.raises(PlanError, match="find the key file that was written together with the plan"):
        policies_by_letter("sft=a rl=b", plan)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two untrained policies, whose chunks are small random motions of different length."""
    accumulators = StatisticsAccumulator(STATE_NAMES), StatisticsAccumulator(ACTION_NAMES)
    for accumulator in accumulators:
        accumulator.add(np.random.default_rng(0).normal(size=(10, 7)))
    statistics = Normalisation(*(accumulator.result() for accumulator in accumulators), "none")
    made = {}
    for name, rows in ROWS.items():
        spec = PolicySpec(
            ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
            action_scaling=Scaling((0.0,) * 6 + (1.0,), (0.002,) * 3 + (1e-4,) * 3 + (1e-3,)),
            state_scaling=Scaling((0.0,) * 7, (1.0,) * 7),
            chunk=rows,
            num_steps=2,
            instructions=(TASK.instruction,),
        )
        folder = tmp_path_factory.mktemp("policies") / name
        facts = {"dataset_hash": "none", "calibration_ids": []}
        made[name] = save_policy(folder, TinyPolicy(spec), statistics, facts)
    return made


@pytest.fixture
def lab(loopback_host: str) -> Iterator[Lab]:
    with Lab("twin", loopback_host) as lab:
        yield lab


def start_cell(graph: Any, lab: Lab, folder: Path, **policy: Any) -> Any:
    """Everything of evaluate.launch.yaml but the drift check; returns the trial node."""
    for name in ("arm", "camera"):
        graph.start(f"prophrl_nodes.nodes.{name}", host=lab.host)
    graph.start("prophrl_nodes.nodes.executor")
    graph.start("prophrl_nodes.nodes.policy", **policy)
    graph.start("prophrl_nodes.nodes.recorder", "--params-file", str(RECORDER), output=folder / "bags", host=lab.host)
    return graph.start("prophrl_nodes.nodes.trials", host=lab.host, plan=folder / "plan.json", output=folder)


@pytest.mark.timeout(240)
def test_each_trial_of_a_plan_runs_the_policy_behind_its_letter_and_says_the_letter_only(
    graph: Any, lab: Lab, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    plan, key = write_plan(tmp_path, *ROWS)
    chunks: list[ActionChunk] = graph.collect(ActionChunk, "policy/chunk")
    policies = " ".join(f"{name}={folder}" for name, folder in checkpoints.items())
    trials = start_cell(graph, lab, tmp_path, policies=policies, plan=tmp_path / "plan.json")
    refused = graph.call(
        OperatorVerb, "policy/command", OperatorVerb.Request(verb="choose", argument="C"), timeout_s=LIVENESS_S
    )
    assert not refused.success and "no policy 'C' here, there are A, B" in refused.message
    graph.until(lambda: trials.process.poll() is not None, "the plan to end", 150.0)
    assert trials.process.returncode == 0, trials.log
    log = ResultLog(tmp_path / "trials.jsonl", plan)
    assert log.next_trial() is None and not log.voided and len(log.valid) == 2
    for trial in plan.trials:
        bag = Bag(tmp_path / log.valid[trial.trial_id].bag)
        recorded = [bag.decode(message) for message in bag.messages([bag.resolve("policy/chunk")])]
        assert recorded
        assert {message.policy_id for message in recorded} == {trial.label}
        assert {message.chunk_length for message in recorded} == {ROWS[key.policies[trial.label]]}
        assert bag.metadata.extra["policy_id"] == trial.label
    assert {message.policy_id for message in chunks} == {"A", "B"}
    said = "\n".join(f"{s.message} {v.key} {v.value}" for s in graph.statuses for v in s.values if "policy" in s.name)
    assert "policy A" in said and "policy B" in said
    assert "first" not in said and "second" not in said


@pytest.mark.timeout(240)
def test_a_plan_whose_policies_are_not_there_ends_before_the_arm_moves(
    graph: Any, lab: Lab, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    write_plan(tmp_path, *ROWS)
    trials = start_cell(graph, lab, tmp_path, checkpoint=checkpoints["first"])
    graph.until(lambda: trials.process.poll() is not None, "the trial node to end", 150.0)
    assert trials.process.returncode == 1
    assert "this node runs first and no other; start it with policies and plan to choose" in trials.log
    assert not (tmp_path / "trials.jsonl").exists() and not any((tmp_path / "bags").rglob("*.mcap"))
