"""Group advantages: against a loop, and every group that carries no signal."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from prophrl_models.rl.advantages import group_advantages

NAN = math.nan


def test_advantages_are_standard_scores_within_each_group() -> None:
    rewards = torch.rand(24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    advantage_B, keep_B = group_advantages(rewards, group_size=8)
    for start in range(0, 24, 8):
        group = rewards[start : start + 8].tolist()
        for i, reward in enumerate(group):
            expected = (reward - statistics.mean(group)) / (statistics.stdev(group) + 1e-6)  # stdev divides by n - 1
            assert advantage_B[start + i].item() == pytest.approx(expected, abs=1e-12)
    assert keep_B.all() and advantage_B.dtype == torch.float64


def test_eight_rollouts_with_two_successes() -> None:
    advantage_B, keep_B = group_advantages(torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]), group_size=8)
    std = math.sqrt((2 * 0.75**2 + 6 * 0.25**2) / 7)
    assert advantage_B.tolist() == pytest.approx([0.75 / std] * 2 + [-0.25 / std] * 6, rel=1e-4)
    assert keep_B.all()


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero_and_are_dropped_even_inside_the_interval(
    reward: float, dtype: torch.dtype
) -> None:
    for interval in ((0.1, 0.9), (0.0, 1.0)):
        advantage_B, keep_B = group_advantages(
            torch.full((14,), reward, dtype=dtype), group_size=7, keep_between=interval
        )
        assert torch.equal(advantage_B, torch.zeros(14, dtype=dtype)) and not keep_B.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ends_of_the_interval_are_kept(dtype: torch.dtype) -> None:
    ordered = [float(i < k) for k in range(11) for i in range(10)]  # group k has k successes
    rewards = torch.tensor(ordered, dtype=dtype)
    for low in range(1, 6):
        _, keep_B = group_advantages(rewards, group_size=10, keep_between=(low / 10, 1 - low / 10))
        kept = [k for k in range(11) if keep_B[10 * k : 10 * k + 10].all()]
        assert kept == list(range(low, 11 - low))


def test_groups_that_the_filter_drops_still_have_their_advantage() -> None:
    rewards = torch.tensor([0.0, 0.0, 0.0, 0.2])
    advantage_B, keep_B = group_advantages(rewards, group_size=4)
    assert not keep_B.any() and advantage_B[3] > 1.0


def test_a_rollout_without_a_verdict_counts_for_nothing() -> None:
    with_gap = torch.tensor([1.0, NAN, 0.0, 0.0, 1.0, 1.0, 1.0, NAN])
    advantage_B, keep_B = group_advantages(with_gap, group_size=4)
    without = group_advantages(torch.tensor([1.0, 0.0, 0.0]), group_size=3)[0]
    torch.testing.assert_close(advantage_B[[0, 2, 3]], without)
    assert advantage_B[1] == 0.0 and keep_B.tolist() == [True, False, True, True] + [False] * 4


@pytest.mark.parametrize("group", [[NAN, NAN, NAN, NAN], [1.0, NAN, NAN, NAN]])
def test_a_group_with_fewer_than_two_verdicts_is_dropped(group: list[float]) -> None:
    advantage_B, keep_B = group_advantages(torch.tensor(group), group_size=4, keep_between=(0.0, 1.0))
    assert advantage_B.tolist() == [0.0] * 4 and not keep_B.any()


def test_pooled_a_group_that_hardly_differs_hardly_counts() -> None:
    wide, narrow, dropped = [0.1, 0.5, 0.6, 0.8], [0.80, 0.82, 0.84, 0.86], [0.0, 0.0, 0.1, 0.2]
    rewards = torch.tensor([*wide, *narrow, *dropped], dtype=torch.float64)
    advantage_B, keep_B = group_advantages(rewards, group_size=4, keep_between=(0.1, 0.9), deviation="pooled")
    pooled = math.sqrt((3 * statistics.variance(wide) + 3 * statistics.variance(narrow)) / 6)
    expected = [(r - statistics.mean(group)) / (pooled + 1e-6) for group in (wide, narrow, dropped) for r in group]
    assert advantage_B.tolist() == pytest.approx(expected, abs=1e-12), "groups that are dropped are not pooled"
    assert keep_B.tolist() == [True] * 8 + [False] * 4
    own, _ = group_advantages(rewards, group_size=4, deviation="group")
    assert advantage_B[4:8].abs().max() < 0.2 * own[4:8].abs().max()


def test_pooled_over_groups_that_are_alike_is_the_same_as_each_by_itself() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
    own, pooled = (group_advantages(rewards, group_size=4, deviation=d)[0] for d in ("group", "pooled"))
    torch.testing.assert_close(own, pooled)


def test_pooled_with_rollouts_that_were_not_judged() -> None:
    rewards = torch.tensor([0.9, NAN, 0.1, 0.5, NAN, NAN, NAN, NAN], dtype=torch.float64)
    advantage_B, keep_B = group_advantages(rewards, group_size=4, deviation="pooled")
    assert advantage_B.tolist() == pytest.approx([1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0], abs=1e-5)
    assert keep_B.tolist() == [True, False, True, True, False, False, False, False]


def test_bools_and_integers_are_rewards_too() -> None:
    expected = group_advantages(torch.tensor([1.0, 0.0, 1.0, 1.0]), group_size=4)[0]
    for rewards in (torch.tensor([True, False, True, True]), torch.tensor([1, 0, 1, 1])):
        assert torch.equal(group_advantages(rewards, group_size=4)[0], expected)


def test_bad_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        group_advantages(torch.zeros(4), group_size=1)
    with pytest.raises(ValueError, match="groups"):
        group_advantages(torch.zeros(7), group_size=4)
    with pytest.raises(ValueError, match="NaN"):
        group_advantages(torch.tensor([1.0, math.inf]), group_size=2)
    with pytest.raises(ValueError, match="keep_between"):
        group_advantages(torch.zeros(4), group_size=4, keep_between=(0.9, 0.1))
    with pytest.raises(ValueError, match="group, pooled"):
        group_advantages(torch.zeros(4), group_size=4, deviation="batch")  # type: ignore[arg-type]
