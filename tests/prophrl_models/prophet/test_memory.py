"""Memory tokens: which frame is pooled how, how many there are, and that keeping them changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils import _pytree

from prophrl_models.prophet import attention
from prophrl_models.prophet.attention import attend
from prophrl_models.prophet.config import MemoryConfig, NetworkConfig, ProphetConfig, preset
from prophrl_models.prophet.memory import HistoryMemory, frame_levels, position_code, token_count
from prophrl_models.prophet.network import GATE_SPEED, Prophet

STRIDES = ((1, 2, 2), (1, 2, 3), (1, 4, 6))
SMALLEST = NetworkConfig(
    width=64, heads=2, head_dim=32, blocks=2, adaln_lora_dim=16, text=False, memory=MemoryConfig(strides=STRIDES)
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_recent_frames_are_pooled_least_unless_the_released_order_is_asked_for() -> None:
    assert frame_levels(15, 3, "recent_fine") == [[14], [13], list(range(13))]
    assert frame_levels(15, 3, "oldest_fine") == [[0], [1], list(range(2, 15))]
    assert frame_levels(1, 3, "recent_fine") == [[0], [], []]
    # The rule itself, for more levels than the released network has.
    expected: list[list[int]] = [[] for _ in range(5)]
    for place in range(40):
        expected[min(int(np.rint(np.log2(place + 1))), 4)].append(place)
    assert frame_levels(40, 5, "oldest_fine") == expected


@pytest.mark.parametrize(("height", "width", "expected"), [(256, 256, 528), (240, 320, 565), (240, 416, 715)])
def test_token_counts_of_the_specification(height: int, width: int, expected: int) -> None:
    for order in ("oldest_fine", "recent_fine"):
        config = MemoryConfig(order=order)
        assert token_count(15, height // 8, width // 8, config) == expected
        with torch.device("meta"):
            memory = HistoryMemory(config, 16, 32)
            tokens = memory.tokens(torch.empty(2, 16, 15, height // 8, width // 8))
        assert tokens.shape == (2, expected, 32)


def test_tokens_are_the_means_of_their_windows() -> None:
    """Against numpy, with pooling over time: 13 frames in windows of 2 repeat the oldest of the level."""
    config = MemoryConfig(strides=((1, 2, 2), (1, 2, 3), (2, 4, 6)))
    memory = HistoryMemory(config, 16, 8)
    history = torch.randn(2, 16, 15, 4, 6)
    found = memory.tokens(history).detach().numpy()
    h = history.numpy()
    coarse = np.concatenate([h[:, :, :1], h[:, :, :13]], axis=2)
    windows = (
        [h[:, :, 14, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for i in range(2) for j in range(3)],
        [h[:, :, 13, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].mean((2, 3)) for i in range(2) for j in range(2)],
        [coarse[:, :, 2 * k : 2 * k + 2].mean((2, 3, 4)) for k in range(7)],
    )
    expected = []
    for level, values in zip(memory.levels, windows, strict=True):
        weight, bias = level.weight.detach().numpy(), level.bias.detach().numpy()
        expected += [value @ weight.T + bias for value in values]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-5)
    assert token_count(15, 4, 6, config) == found.shape[1]


def test_tokens_beyond_the_limit_are_dropped_from_the_coarsest_level() -> None:
    config = MemoryConfig(strides=STRIDES, max_tokens=12)
    memory = HistoryMemory(config, 16, 8)
    history = torch.randn(1, 16, 15, 4, 6)
    unlimited = HistoryMemory(replace(config, max_tokens=1024), 16, 8)
    unlimited.load_state_dict(memory.state_dict())
    assert torch.equal(memory.tokens(history), unlimited.tokens(history)[:, :12])
    assert token_count(15, 4, 6, config) == 12


@pytest.mark.parametrize("gated", [False, True])
def test_kept_memory_equals_memory_made_in_the_call(gated: bool) -> None:
    network = Prophet(replace(SMALLEST, memory=MemoryConfig(strides=STRIDES, gated=gated)))
    network.init_weights()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        latent, t_BL, history = torch.randn(3, 16, 6, 4, 6), torch.rand(3, 6), torch.randn(3, 16, 15, 4, 6)
        memory = network.remember(history)
        whole = network(latent, t_BL, history_BCMHW=history)
        assert (whole - network(latent, t_BL)).abs().max() > 1e-3
        for step in range(2):  # the same memory at another time and latent
            expected = network(latent + step, t_BL, history_BCMHW=history)
            torch.testing.assert_close(network(latent + step, t_BL, memory=memory), expected, atol=1e-6, rtol=1e-5)
        rows = torch.tensor([2, 0])
        few = network(latent[rows], t_BL[rows], memory=memory.select(rows))
        torch.testing.assert_close(few, whole[rows], atol=1e-5, rtol=1e-5)
        twice = network(latent.repeat_interleave(2, 0), t_BL.repeat_interleave(2, 0), memory=memory.repeat(2))
        torch.testing.assert_close(twice, whole.repeat_interleave(2, 0), atol=1e-5, rtol=1e-5)
    assert memory.tokens == token_count(15, 4, 6, network.config.memory) and memory.batch == 3


def test_memory_is_a_tree_of_tensors() -> None:
    network = Prophet(SMALLEST)
    memory = network.remember(torch.randn(1, 16, 15, 4, 6))
    leaves, spec = _pytree.tree_flatten(memory)
    assert len(leaves) == 4
    again = _pytree.tree_unflatten(leaves, spec)
    assert all(a is b for a, b in zip(memory.keys + memory.values, again.keys + again.values, strict=True))
    half = _pytree.tree_map(lambda x: x.bfloat16(), memory)
    assert half.keys[1].dtype == torch.bfloat16 and half.tokens == memory.tokens


@pytest.mark.parametrize("gate", [None, "random", "closed", "open"])
@pytest.mark.parametrize("with_gradient", [False, True])
def test_attention_equals_its_definition(gate: str | None, with_gradient: bool) -> None:
    """Fast path and training path against softmax written out, gradients included."""
    q, k, v = (torch.randn(2, 3, n, 16, dtype=torch.float32) for n in (7, 7, 7))
    k_m, v_m = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 5, 16)
    values = {None: torch.ones(3), "random": torch.rand(3), "closed": torch.zeros(3), "open": torch.ones(3)}
    g = values[gate].clone()
    inputs = [x.requires_grad_(with_gradient) for x in (q, k, v, k_m, v_m, g)]

    def naive(q, k, v, k_m, v_m, g):  # type: ignore[no-untyped-def]
        scores = q @ torch.cat([k_m, k], 2).transpose(2, 3) / math.sqrt(16)
        mass = scores.exp()
        joint = mass @ torch.cat([v_m, v], 2) / mass.sum(-1, keepdim=True)
        alone = mass[..., 5:] @ v / mass[..., 5:].sum(-1, keepdim=True)
        return (1 - g[:, None, None]) * alone + g[:, None, None] * joint

    with torch.set_grad_enabled(with_gradient):
        expected = naive(*inputs)
        found = attend(q, k, v, (k_m, v_m), None if gate is None else g)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if with_gradient:
        weights = torch.randn_like(found)
        used = inputs if gate is not None else inputs[:-1]
        mine = torch.autograd.grad((found * weights).sum(), used)
        theirs = torch.autograd.grad((expected * weights).sum(), used)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("largest", [0, attention.EXPLICIT_SCORES])
def test_half_precision_on_a_cpu_learns_the_same_by_kernel_and_by_products(
    largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "EXPLICIT_SCORES", largest)
    torch.manual_seed(0)
    half = [torch.randn(2, 3, n, 16).bfloat16().requires_grad_() for n in (7, 9, 9)]
    exact = [x.detach().float().requires_grad_() for x in half]
    weights = torch.randn(2, 3, 7, 16)
    found, expected = attend(*half, None, None), attend(*exact, None, None)
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    mine = torch.autograd.grad((found * weights).sum(), half)
    theirs = torch.autograd.grad((expected * weights).sum(), exact)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.float(), b, atol=3e-2, rtol=3e-2)


def test_a_closed_gate_hears_from_the_first_gradient_that_it_should_open() -> None:
    network = Prophet(replace(SMALLEST, memory=MemoryConfig(strides=STRIDES, gated=True)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for block in network.transformer_blocks:
            block.memory_gate.zero_()
    latent, t_BL, history = torch.randn(2, 16, 6, 4, 6), torch.rand(2, 6), torch.randn(2, 16, 15, 4, 6)
    network(latent, t_BL, history_BCMHW=history).square().mean().backward()
    assert all(block.memory_gate.grad.abs().min() > 0 for block in network.transformer_blocks)
    network.init_weights()
    assert all(bool((GATE_SPEED * block.memory_gate == 1).all()) for block in network.transformer_blocks)


def test_unusable_memory_settings_are_refused() -> None:
    for words, bad in (
        ("unknown memory order 'newest'", {"order": "newest"}),
        ("must be triples", {"strides": ((2, 2),)}),
        ("must be positive", {"frames": 0}),
    ):
        with pytest.raises(ValueError, match=words):
            MemoryConfig(**bad)


def test_with_positions_tokens_of_equal_content_are_told_apart_by_when_and_where() -> None:
    plain = HistoryMemory(MemoryConfig(strides=STRIDES), 16, 64)
    placed = HistoryMemory(MemoryConfig(strides=STRIDES, positions=True), 16, 64)
    placed.load_state_dict(plain.state_dict())  # no parameters of its own: published layouts stay as they are
    history = torch.ones(1, 16, 15, 4, 6)
    level = slice(10, 23)  # the coarsest level: 13 frames of one token
    assert len(plain.tokens(history)[0, level].unique(dim=0)) == 1
    tokens = placed.tokens(history)[0]
    assert len(tokens.unique(dim=0)) == len(tokens) == 23
    code = tokens - plain.tokens(history)[0]
    newest = position_code(torch.zeros(1), torch.tensor([0.5, 2.5]), torch.tensor([0.5, 2.5, 4.5]), 64)
    torch.testing.assert_close(code[:6], newest)  # centres of windows of 2 x 2
    oldest = position_code(torch.tensor([14.0]), torch.tensor([1.5]), torch.tensor([2.5]), 64)
    torch.testing.assert_close(code[level][:1], oldest)


def test_positions_count_from_the_newest_frame() -> None:
    memory = HistoryMemory(MemoryConfig(strides=STRIDES, positions=True), 16, 64)
    history = torch.randn(1, 16, 15, 4, 6)
    torch.testing.assert_close(memory.tokens(history)[:, :10], memory.tokens(history[:, :, 5:])[:, :10])


def test_only_the_small_world_has_positions_and_older_files_have_none() -> None:
    for name in ("tiny", "small", "base", "2b"):
        config = preset(name)
        assert config.network.memory is not None and config.network.memory.positions == (name == "small")
    stored = preset("tiny").to_json()
    del stored["network"]["memory"]["positions"]
    assert ProphetConfig.from_json(stored) == preset("tiny")
