"""Plans: balanced, interleaved, sealed, and frozen before the first trial."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prophrl_models.trials.plan import PlanError, PlanKey, TrialPlan, make_plan

PLACEMENTS = [{"objects": {"cube": [-0.6, 0.02 * k, 0.0]}, "cell": [k // 5, k % 5]} for k in range(20)]


def plan_of(policies: list[str], **options: int) -> tuple[TrialPlan, PlanKey]:
    return make_plan("place_cube", "place the cube in the bowl", PLACEMENTS, policies, **{"seed": 1, **options})


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 4), runs=st.integers(1, 3), seed=st.integers(0, 1000))
def test_every_policy_meets_every_placement_once_a_run_and_pairs_stay_together(
    count: int, runs: int, seed: int
) -> None:
    plan, key = plan_of([f"policy-{k}" for k in range(count)], runs=runs, seed=seed)
    assert set(Counter((t.placement, t.label, t.run) for t in plan.trials).values()) == {1}
    assert len(plan.trials) == 20 * count * runs
    assert set(key.policies) == set(plan.labels)
    for first in range(0, len(plan.trials), count):
        block = plan.trials[first : first + count]
        assert len({(t.placement, t.run) for t in block}) == 1, "one placement is tried by all before the next"
        assert len({t.label for t in block}) == count
    assert [t.trial_id for t in plan.trials] == sorted(t.trial_id for t in plan.trials)


def test_order_is_random_within_and_across_placements() -> None:
    plan, _ = plan_of(["a", "b"])
    firsts = [plan.trials[k].label for k in range(0, 40, 2)]
    assert 4 <= firsts.count("A") <= 16, "no policy always goes first"
    assert [t.placement for t in plan.trials[::2]] != list(range(20))


def test_the_same_seed_gives_the_same_order_and_another_seed_another_one() -> None:
    assert plan_of(["a", "b"])[0].trials == plan_of(["a", "b"])[0].trials
    assert plan_of(["a", "b"], seed=2)[0].trials != plan_of(["a", "b"], seed=1)[0].trials


def test_the_plan_does_not_tell_who_is_who() -> None:
    plans = [plan_of(["sft-checkpoint", "rl-checkpoint"], key_seed=k) for k in range(40)]
    assert {key.policies["A"] for _, key in plans} == {"sft-checkpoint", "rl-checkpoint"}
    assert len({plan.trials for plan, _ in plans}) == 1
    assert "checkpoint" not in json.dumps(plans[0][0]._body())
    assert plan_of(["x"])[1].salt != plan_of(["x"])[1].salt, "without a key seed the salt cannot be guessed"


def test_a_plan_survives_storage(tmp_path: Path) -> None:
    plan, key = plan_of(["a", "b"])
    plan.save(tmp_path / "plan.json")
    key.save(tmp_path / "plan.key.json")
    again = TrialPlan.load(tmp_path / "plan.json")
    assert again == plan and again.plan_hash == plan.plan_hash
    assert PlanKey.load(tmp_path / "plan.key.json", again) == key
    assert (tmp_path / "plan.key.json").stat().st_mode & 0o077 == 0


def test_a_frozen_plan_is_not_replaced_by_another(tmp_path: Path) -> None:
    plan_of(["a", "b"])[0].save(tmp_path / "plan.json")
    with pytest.raises(PlanError, match="plans are frozen"):
        plan_of(["a", "b"], seed=2)[0].save(tmp_path / "plan.json")


def test_saving_the_same_plan_again_changes_nothing(tmp_path: Path) -> None:
    plan = plan_of(["a"])[0]
    plan.save(tmp_path / "plan.json")
    before = (tmp_path / "plan.json").stat().st_mtime_ns
    plan.save(tmp_path / "plan.json")
    assert (tmp_path / "plan.json").stat().st_mtime_ns == before


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    plan_of(["a"])[1].save(tmp_path / "key.json")
    with pytest.raises(PlanError, match="never overwritten"):
        plan_of(["a"])[1].save(tmp_path / "key.json")


def test_a_plan_edited_after_freezing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan_of(["a", "b"])[0].save(path)
    raw = json.loads(path.read_text())
    raw["trials"][0], raw["trials"][5] = raw["trials"][5], raw["trials"][0]
    path.write_text(json.dumps(raw))
    with pytest.raises(PlanError, match="changed after it was frozen"):
        TrialPlan.load(path)


def test_letters_swapped_in_the_key_are_noticed(tmp_path: Path) -> None:
    plan, key = plan_of(["a", "b"])
    swapped = PlanKey({"A": key.policies["B"], "B": key.policies["A"]}, key.salt)
    swapped.save(tmp_path / "key.json")
    with pytest.raises(PlanError, match="the plan was sealed with"):
        PlanKey.load(tmp_path / "key.json", plan)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"placements": []}, "at least one placement"),
        ({"policies": []}, "different policies"),
        ({"policies": ["a", "a"]}, "different policies"),
        ({"runs": 0}, "runs >= 1"),
        ({"max_duration_s": float("nan")}, "time limit"),
    ],
)
def test_plans_that_make_no_sense_are_refused(arguments: dict[str, object], match: str) -> None:
    usual: dict[str, object] = {"placements": PLACEMENTS, "policies": ["a"], "seed": 0}
    with pytest.raises(PlanError, match=match):
        make_plan("t", "i", **{**usual, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "something"}'])
def test_other_files_are_not_plans(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(PlanError, match=r"plan\.json"):
        TrialPlan.load(tmp_path / "plan.json")


def test_an_unknown_trial_is_named_with_the_known_range() -> None:
    with pytest.raises(PlanError, match="t001 to t020"):
        plan_of(["a"])[0].trial("t999")
