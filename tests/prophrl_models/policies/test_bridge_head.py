"""Flow heads of the large policies: conditions shared by rows, what is read, and the velocity they start from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from prophrl_models.policies.bridge_head import KEYS, MEAN, VALUES, BridgeHead, ReadingHead, SharedCond, StepHead
from prophrl_models.policies.interface import Cond

CH, D, E, GROUPS, PATCHES, QUERIES = 5, 7, 12, 3, 4, 3
N = PATCHES + QUERIES + 1


def bridge() -> BridgeHead:
    return BridgeHead(D, CH, E, GROUPS, PATCHES, width=16, heads=4, mlp_ratio=2, spread=0.4)


def step() -> StepHead:
    return StepHead(D, CH, E, 2 * E, width=16, depth=2, heads=4, mlp_ratio=2, spread=0.4)


def stir(head: ReadingHead) -> ReadingHead:
    """An untrained head answers zero: give it something to say."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return head.eval()


def condition(head: ReadingHead, rows: int, seed: int = 1) -> SharedCond:
    g = torch.Generator().manual_seed(seed)
    count = GROUPS * N if isinstance(head, BridgeHead) else CH
    return SharedCond(3.0 * torch.randn(rows, count, E, generator=g), torch.randn(rows, 2 * E, generator=g))


def chunks(rows: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, CH, D, generator=g), torch.rand(rows, generator=g)


both = pytest.mark.parametrize("make", [bridge, step])
Make = Callable[[], ReadingHead]


@both
def test_repeated_conditions_share_their_tokens_and_give_the_same_velocity(make: Make) -> None:
    head = stir(make())
    cond, (x, t) = condition(head, 2), chunks(6)
    for made in (cond, head.ready(cond)):
        shared = made.repeat(3)
        assert shared.tokens_BNE.data_ptr() == cond.tokens_BNE.data_ptr() and len(shared.vector_BE) == 6
        copied = Cond(cond.tokens_BNE.repeat_interleave(3, 0), cond.vector_BE.repeat_interleave(3, 0))
        torch.testing.assert_close(head(shared, x, t), head(copied, x, t), atol=1e-5, rtol=1e-5)


@both
def test_rows_of_a_repeated_condition_can_be_selected(make: Make) -> None:
    head = stir(make())
    cond, (x, t) = head.ready(condition(head, 2)).repeat(2).repeat(2), chunks(8)
    rows = torch.tensor([7, 2, 3])
    torch.testing.assert_close(head(cond.select(rows), x[rows], t[rows]), head(cond, x, t)[rows], atol=1e-5, rtol=1e-5)


@both
def test_what_does_not_depend_on_the_chunk_is_computed_once(make: Make) -> None:
    head = stir(make())
    ready = head.ready(condition(head, 2))
    assert head.ready(ready) is ready
    assert ready.extras[KEYS].shape[0] == 2 and ready.extras[MEAN].shape == (2, CH, D)


@both
def test_an_untrained_head_answers_with_the_velocity_of_a_gaussian_at_rest(make: Make) -> None:
    fresh = make()
    x, t = chunks(4)
    s = t[:, None, None]
    expected = x * (s - (1 - s) * 0.16) / (s.square() + 0.16 * (1 - s).square())
    torch.testing.assert_close(fresh(condition(fresh, 4), x, t), expected)


@both
def test_every_parameter_learns(make: Make) -> None:
    head = stir(make())
    x, t = chunks(2)
    head(condition(head, 2), x, t).square().sum().backward()
    silent = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_block_i_reads_layer_i_alone() -> None:
    head = stir(bridge())
    assert isinstance(head, BridgeHead)
    cond = condition(head, 1)
    base = head.ready(cond)
    for layer in range(GROUPS):
        tokens = cond.tokens_BNE.clone()
        tokens[:, layer * N : (layer + 1) * N] += torch.randn(1, N, E)
        changed = head.ready(SharedCond(tokens, cond.vector_BE))
        for name in (KEYS, VALUES):
            differs = (changed.extras[name] - base.extras[name]).abs().amax(dim=(0, 2, 3, 4)) > 0
            assert differs.tolist() == [g == layer for g in range(GROUPS)]


def test_picture_scores_are_scaled_by_the_tanh_of_the_gate() -> None:
    head = stir(bridge())
    assert isinstance(head, BridgeHead)
    cond = condition(head, 1)
    with torch.no_grad():
        head.gate.fill_(0.7)
        open_keys = head.ready(cond).extras[KEYS]
        head.gate.zero_()
        shut_keys = head.ready(cond).extras[KEYS]
        head.gate.fill_(20.0)
        full_keys = head.ready(cond).extras[KEYS]
    assert (shut_keys[..., :PATCHES, :] == 0).all() and torch.equal(
        shut_keys[..., PATCHES:, :], open_keys[..., PATCHES:, :]
    )
    scale = torch.tensor(0.7).tanh()
    torch.testing.assert_close(open_keys[..., :PATCHES, :], scale * full_keys[..., :PATCHES, :])


def test_the_head_runs_on_a_bfloat16_backbone_with_float32_weights() -> None:
    for head in (stir(bridge()), stir(step())):
        cond, (x, t) = condition(head, 2), chunks(2)
        low = SharedCond(cond.tokens_BNE.bfloat16(), cond.vector_BE)
        exact, rough = head(cond, x, t), head(low, x, t)
        assert rough.dtype is torch.float32 and head.ready(low).extras[KEYS].dtype is torch.bfloat16
        assert 0 < (rough - exact).norm() / exact.norm() < 0.05
