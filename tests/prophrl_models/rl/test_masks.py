"""Masks: which actions of a rollout count."""

from __future__ import annotations

import pytest
import torch

from prophrl_models.rl.masks import NEVER, finish_mask, masked_mean


@pytest.mark.parametrize("chunk", [1, 4, 5])
def test_slots_up_to_the_finish_count_and_none_after_it(chunk: int) -> None:
    steps = 3
    finishes = list(range(steps * chunk + 1))
    mask_BSC = finish_mask(finishes, steps=steps, chunk=chunk)
    for f in finishes:
        for s in range(steps):
            for c in range(chunk):
                # as published: whole calls before the one that ends, then its first actions
                expected = s < f // chunk or (s == f // chunk and c < f % chunk)
                assert bool(mask_BSC[f, s, c]) == expected
    assert mask_BSC.sum(dim=(1, 2)).tolist() == finishes


def test_no_finish_keeps_the_whole_horizon() -> None:
    assert finish_mask([None, NEVER], steps=2, chunk=3).all()
    assert finish_mask(torch.tensor([NEVER, 6]), steps=2, chunk=3).all()


@pytest.mark.parametrize("finish", [-2, 7])
def test_finish_steps_that_cannot_be_are_refused(finish: int) -> None:
    with pytest.raises(ValueError, match=r"0 to S\*CH = 6"):
        finish_mask([finish], steps=2, chunk=3)


def test_a_rollout_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        finish_mask([0], steps=0, chunk=3)


def test_masked_mean_ignores_whatever_is_masked() -> None:
    values = torch.tensor([[1.0, float("nan")], [3.0, float("inf")]], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False]))
    mean.backward()
    assert mean == 2.0
    assert values.grad is not None and values.grad.tolist() == [[0.5, 0.0], [0.5, 0.0]]


def test_masked_mean_of_nothing_is_zero_without_gradient() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = masked_mean(values, torch.zeros(2))
    mean.backward()
    assert mean == 0.0 and values.grad is not None and values.grad.tolist() == [0.0, 0.0]


def test_parts_with_a_common_count_add_up_to_the_mean_of_all() -> None:
    values, mask = torch.arange(12.0).reshape(6, 2), torch.rand(6, 2, generator=torch.Generator().manual_seed(0)) > 0.4
    parts = [masked_mean(v, m, count=mask.sum()) for v, m in zip(values.split(2), mask.split(2), strict=True)]
    torch.testing.assert_close(torch.stack(parts).sum(), masked_mean(values, mask))
