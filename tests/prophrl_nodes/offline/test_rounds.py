"""Further rounds: what they take from the ones before, which bags are new, what was promised, and what is refused."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prophrl_nodes.cli import rl_offline
from prophrl_nodes.offline.flow import about, chain_of
from prophrl_nodes.offline.plan import OfflinePlan, PlanError, read_plan
from prophrl_nodes.offline.reality import compare, sentence
from prophrl_nodes.offline.result import FlowResult, read_result, write_result
from prophrl_nodes.offline.rounds import NewBags, begin, earlier_rounds, new_bags, weights_of, work_of
from prophrl_nodes.offline.stages import Folders, judge_of, world_stage

from prophrl_models.data.build import build_dataset
from prophrl_models.data.dataset import Dataset
from tests.helpers.recording import record

EVERYTHING = ("success", "failure", "unknown")


def write_bag(root: Path, name: str, outcome: str, *, note: str = "", **said: Any) -> Path:
    """A genuine bag; with ``trial`` (id, policy label) one that a trial would leave."""
    trial = said.pop("trial", None)
    metadata = {"trial_id": trial[0], "policy_id": trial[1]} if trial else {}
    recording = replace(record(0.6, width=64, height=48), episode_id=name, outcome=outcome, metadata=metadata, **said)
    folder = recording.write(root)
    sidecar = json.loads((folder / "episode.json").read_text())
    (folder / "episode.json").write_text(json.dumps({**sidecar, "note": note}))
    return folder


def finished(
    folder: Path, bags: Path, *, plan: OfflinePlan | None = None, success: Sequence[float] = (0.25, 0.75), **result: Any
) -> Path:
    """What a finished flow leaves, as far as the next round reads it."""
    build_dataset([bags], folder / "dataset", outcomes=EVERYTHING, discarded=True, progress=False)
    at = Folders(folder)
    for place, record_ in (
        (at.refitted, {"held_out": {"fraction": 0.1, "seed": 0}}),
        (
            at.policy,
            {"evaluations": [{"step": 5.0 * i, "success": s, "rollouts": 32.0} for i, s in enumerate(success)]},
        ),
    ):
        place.mkdir(parents=True)
        (place / "provenance.json").write_text(json.dumps(record_))
    (plan or OfflinePlan((str(bags),), str(at.policy))).settle(folder)
    write_result(folder, FlowResult(True, "better", str(at.policy), success[0], success[-1], **result))
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bags of a first round and of trials of its policy, one of them broken off; do not write to it."""
    home = tmp_path_factory.mktemp("home")
    write_bag(home / "bags", "demo", "success")
    write_bag(home / "bags", "slip", "failure")
    write_bag(home / "trials", "t1", "success", trial=("t1", "A"), note="task done; in the bowl")
    write_bag(home / "trials", "t2", "failure", trial=("t2", "A"), note="time limit of 30 s; beside the bowl")
    write_bag(home / "trials", "t3", "failure", trial=("t3", "A"), note="cancelled; beside the bowl")
    write_bag(home / "trials", "play", "unknown")
    finished(home / "round1", home / "bags")
    return home


def second(home: Path, *bags: str, **more: Any) -> OfflinePlan:
    return OfflinePlan(tuple(str(home / name) for name in bags or ("trials",)), after=str(home / "round1"), **more)


def test_trials_are_read_with_their_verdicts_and_known_bags_are_left_out(home: Path, tmp_path: Path) -> None:
    plan = second(home, "bags", "trials")
    found = new_bags(plan, earlier_rounds(plan))
    assert [Path(path).name for path in found.paths] == ["play", "t1", "t2", "t3"]
    assert found.known == 2
    assert found.trials == {"A": (1, 2)}  # what somebody broke off says nothing about the policy
    build_dataset(found.paths, tmp_path / "new", outcomes=EVERYTHING, discarded=True, progress=False)
    outcomes = {row.episode_id: row.outcome for row in Dataset(tmp_path / "new").table}
    assert outcomes == {"play": "unknown", "t1": "success", "t2": "failure", "t3": "failure"}


def test_a_round_works_on_what_the_last_one_made(home: Path) -> None:
    plan = second(home, seed=3)
    rounds = earlier_rounds(plan)
    work, at = work_of(plan, rounds, new_bags(plan, rounds)), Folders(home / "round2")
    assert (work.policy, work.task) == (str(home / "round1" / "rl" / "policy"), "place_cube")
    words = world_stage(work, at, [rounds[0].at.dataset, at.dataset], (1.0, 2.5)).command[3:]
    assert words[2:5] == [str(home / "round1" / "dataset"), str(at.dataset), str(at.world)]
    assert " ".join(words[5:]).endswith(f"--init {home / 'round1' / 'world' / 'prophet'} --weight 1 --weight 2.5")
    assert judge_of(work, at) == f"trajectory:{at.judge / 'classifier'}"  # trained anew


def test_a_judge_that_was_given_serves_all_rounds(home: Path, tmp_path: Path) -> None:
    policy = str(home / "round1" / "rl" / "policy")
    given = OfflinePlan((str(home / "bags"),), policy, judge="server:http://host/v1,model")
    plan = OfflinePlan((str(home / "trials"),), after=str(finished(tmp_path / "round1", home / "bags", plan=given)))
    rounds = earlier_rounds(plan)
    assert work_of(plan, rounds, NewBags(plan.bags)).judge == "server:http://host/v1,model"
    other = "server:http://host/v1,other"
    assert work_of(replace(plan, judge=other), rounds, NewBags(plan.bags)).judge == other
    planned = replace(plan, planned=plan.bags)
    assert work_of(planned, rounds, NewBags(plan.bags)).judge == "", "one is trained on the planned attempts"


def test_new_bags_weigh_as_much_as_all_others_within_limits() -> None:
    assert weights_of((100, 300, 200)) == (1.0, 1.0, 2.0)
    assert weights_of((1000, 10)) == (1.0, 4.0)
    assert weights_of((100, 500)) == (1.0, 1.0)


def test_the_chain_of_three_rounds_says_what_each_promised_and_what_came(home: Path, tmp_path: Path) -> None:
    middle = second(home)
    found = compare(Folders(home / "round1").policy, {"A": (1, 2)})
    finished(tmp_path / "round2", home / "trials", plan=middle, success=(0.5,), reality=found)
    plan = OfflinePlan(middle.bags, after=str(tmp_path / "round2"))
    rounds = earlier_rounds(plan)
    assert [(entry.number, entry.folder.name) for entry in rounds] == [(1, "round1"), (2, "round2")]
    chain = chain_of(rounds, NewBags((), 4, {"A": (9, 20)}))
    assert (chain.round, chain.after, chain.known_bags) == (3, str(tmp_path / "round2"), 4)
    first, last = chain.earlier
    assert first["reality"] == found and (first["imagined_before"], first["imagined_after"]) == (0.25, 0.75)
    assert last["reality"]["promised"] == 0.5 and last["reality"]["trials"]["A"]["successes"] == 9
    write_result(tmp_path, chain)
    assert read_result(tmp_path) == chain
    said = about(rounds[-1], chain)
    assert "4 bags are left out" in said and "round 2 promised 50%" in said


def test_a_promise_is_set_against_the_trials_with_the_interval_of_each(home: Path) -> None:
    policy = Folders(home / "round1").policy
    row = compare(policy, {"A": (9, 20)})["trials"]["A"]
    assert (row["low"], row["high"]) == pytest.approx((0.2306, 0.6847), abs=1e-4)  # Clopper-Pearson, from tables
    assert row["difference"] == pytest.approx(-0.3) and row["difference_low"] < -0.3 < row["difference_high"] < 0.0
    said = sentence(1, compare(policy, {"A": (9, 20)}))
    assert said.startswith(
        "round 1 promised 75% in imagination (32 rollouts); in the new bags 9 of 20 trials succeeded"
    )
    assert "45% (95 %: 23% to 68%): -30 points" in said and said.endswith("imagination was too kind")
    assert sentence(1, compare(policy, {"A": (14, 20)})).endswith("no more than chance may do")
    assert "the plan's key says which" in sentence(1, compare(policy, {"A": (1, 2), "B": (2, 2)}))
    assert "no labelled trials" in sentence(1, compare(policy, {}))


def test_what_cannot_be_continued_is_refused_with_the_reason(home: Path, tmp_path: Path) -> None:
    def refused(words: str, after: Path) -> None:
        with pytest.raises(PlanError, match=words):
            begin(OfflinePlan((str(home / "trials"),), after=str(after)), tmp_path / "out")

    refused("not found", tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    refused("no folder of an offline reinforcement", tmp_path / "other")
    begun = tmp_path / "begun"
    OfflinePlan((str(home / "bags"),), str(home / "bags")).settle(begun)
    refused("is unfinished; give its own command again", begun)
    write_result(begun, FlowResult(False, "the check says no: noise"))
    refused(r"stopped by its check and has no policy .*the check says no: noise", begun)
    write_result(begun, FlowResult(True, "better", str(tmp_path), 0.2, 0.5))
    refused(r"lacks .*dataset\.json", begun)
    (tmp_path / "out").mkdir()
    refused("cannot continue itself", tmp_path / "out")
    assert not (tmp_path / "out" / "plan.json").exists()


def test_bags_without_news_and_other_tasks_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"none of the bags is new \(2 of them are in earlier rounds\)"):
        begin(second(home, "bags"), tmp_path / "out")
    with pytest.raises(PlanError, match="is about 'place_cube', not 'pull_tissue'"):
        begin(second(home, task="pull_tissue"), tmp_path / "out")
    write_bag(tmp_path / "bags", "tissue", "success", task="pull_tissue")
    with pytest.raises(PlanError, match="1 are of task 'pull_tissue', not 'place_cube'"):
        begin(replace(second(home), bags=(str(tmp_path / "bags"),)), tmp_path / "out")


def test_a_world_preset_with_another_split_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("held_out: 0.2\n")
    with pytest.raises(PlanError, match=r"held_out 0\.1 and split_seed 0, .*mine.yaml has 0\.2 and 0"):
        begin(second(home, world_preset=str(tmp_path / "mine.yaml")), tmp_path / "out")
    begin(second(home), tmp_path / "out")  # small_adapt has the same
    assert read_plan(tmp_path / "out").after == str(home / "round1")


def test_a_further_round_brings_neither_policy_nor_world(home: Path) -> None:
    with pytest.raises(PlanError, match=r"come from .*round1, the round before; leave .*bags out"):
        second(home, policy=str(home / "bags"))
    with pytest.raises(PlanError, match="no policy checkpoint given"):
        OfflinePlan((str(home / "bags"),))


def test_a_plan_from_before_there_were_rounds_goes_on(home: Path, tmp_path: Path) -> None:
    plan = OfflinePlan((str(home / "bags"),), str(home / "bags"))
    plan.settle(tmp_path)
    old = json.loads((tmp_path / "plan.json").read_text())
    del old["after"]
    (tmp_path / "plan.json").write_text(json.dumps(old))
    plan.settle(tmp_path)
    assert read_plan(tmp_path) == plan
    with pytest.raises(PlanError, match="after was ''"):
        second(home).settle(tmp_path)


def test_paths_of_the_command_are_told_apart() -> None:
    parser = argparse.ArgumentParser()
    rl_offline.register(parser)

    def told(*words: str) -> tuple[list[str], str, str]:
        bags, policy, out = rl_offline.told_apart(parser.parse_args(words))
        return [str(path) for path in bags], str(policy or ""), str(out)

    assert told("a", "b", "policy", "out") == (["a", "b"], "policy", "out")
    assert told("a", "b", "out", "--after", "round1") == (["a", "b"], "", "out")
    assert told("--after", "round1", "a", "out") == (["a"], "", "out")
    with pytest.raises(PlanError, match="expected BAGS POLICY OUT, got a out"):
        told("a", "out")
    with pytest.raises(PlanError, match="expected BAGS OUT, got out"):
        told("out", "--after", "round1")
