"""The language models of Prismatic policies against plain algebra: who sees whom, what counts, which states."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prophrl_models.policies.openvla_oft import OpenVlaOftConfig
from prophrl_models.policies.prismatic import PrismaticBackbone, attention_mask
from prophrl_models.policies.prismatic_vision import VisionConfig
from prophrl_models.policies.vla_adapter import VlaAdapterConfig
from tests.helpers.prismatic_layout import language_shapes, random_tensors

CONFIGS = {"qwen2": VlaAdapterConfig.tiny().language, "llama": OpenVlaOftConfig.tiny().language}


def reference_states(
    w: dict[str, Tensor], tokens: Tensor, visible: list[bool], family: str, causal: bool
) -> list[Tensor]:
    """All hidden states [N, E] of one row, written from the papers: RMS norm, rotary attention with grouped keys,
    gated MLP. Hidden tokens do not exist for the others and take no position."""
    c = CONFIGS[family]
    F = c.width // c.heads
    position, seen = [], 0
    for shown in visible:
        position.append(max(seen + int(shown) - 1, 0))
        seen += int(shown)
    frequency = c.rope_theta ** (-torch.arange(0, F, 2, dtype=torch.float64) / F)
    angle = torch.tensor(position, dtype=torch.float64)[:, None] * frequency  # [N, F/2]

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt() * w[f"{name}.weight"]

    def linear(x: Tensor, name: str) -> Tensor:
        bias = w.get(f"{name}.bias")
        return x @ w[f"{name}.weight"].T + (0.0 if bias is None else bias)

    def rotate(x: Tensor) -> Tensor:  # [N, heads, F]: pairs (i, i + F/2) turn by the angle
        a, b = x[..., : F // 2], x[..., F // 2 :]
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    N = len(tokens)
    x, states = tokens, [tokens]
    for i in range(c.depth):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm")
        q = rotate(linear(h, p + "self_attn.q_proj").reshape(N, c.heads, F))
        k = rotate(linear(h, p + "self_attn.k_proj").reshape(N, c.kv_heads, F))
        v = linear(h, p + "self_attn.v_proj").reshape(N, c.kv_heads, F)
        mixed = torch.zeros(N, c.heads, F, dtype=torch.float64)
        for head in range(c.heads):
            group = head // (c.heads // c.kv_heads)
            scores = torch.einsum("qf,kf->qk", q[:, head], k[:, group]) / math.sqrt(F)
            for a in range(N):
                for b in range(N):
                    if not visible[b] or (causal and b > a):
                        scores[a, b] = -math.inf
            mixed[:, head] = torch.einsum("qk,kf->qf", scores.softmax(-1), v[:, group])
        x = x + linear(mixed.reshape(N, -1), p + "self_attn.o_proj")
        h = norm(x, p + "post_attention_layernorm")
        gate = linear(h, p + "mlp.gate_proj")
        x = x + linear(gate * gate.sigmoid() * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
        states.append(x)
    states[-1] = norm(x, "model.norm")
    return states


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def weights(family: str) -> dict[str, Tensor]:
    tensors = random_tensors(language_shapes(CONFIGS[family], lm_head=False), seed=5, scale=0.3)
    return {name.removeprefix("language_model."): value for name, value in tensors.items()}


@pytest.fixture(scope="module")
def backbone(family: str, weights: dict[str, Tensor]) -> PrismaticBackbone:
    made = PrismaticBackbone(VisionConfig.tiny(), CONFIGS[family]).eval()
    made.language.load_state_dict({name.removeprefix("model."): value for name, value in weights.items()})
    return made


VISIBLE = [[True, True, False, False, True, True, True], [True] * 7]


@pytest.mark.parametrize("causal", [True, False])
def test_hidden_states_agree_with_plain_algebra(
    backbone: PrismaticBackbone, weights: dict[str, Tensor], family: str, causal: bool
) -> None:
    tokens = torch.randn(2, 7, CONFIGS[family].width, generator=torch.Generator().manual_seed(1))
    visible = torch.tensor(VISIBLE)
    with torch.no_grad():
        states = backbone.read(tokens, visible, causal, every_layer=True)
        assert torch.equal(backbone.read(tokens, visible, causal)[0], states[-1])
    assert len(states) == CONFIGS[family].depth + 1
    double = {name: value.double() for name, value in weights.items()}
    for row in range(2):
        expected = reference_states(double, tokens[row].double(), VISIBLE[row], family, causal)
        shown = torch.tensor(VISIBLE[row])
        for ours, theirs in zip(states, expected, strict=True):
            torch.testing.assert_close(ours[row][shown].double(), theirs[shown], atol=1e-4, rtol=0)


def test_padding_changes_nothing_for_the_other_tokens(backbone: PrismaticBackbone, family: str) -> None:
    g = torch.Generator().manual_seed(2)
    tokens = torch.randn(1, 5, CONFIGS[family].width, generator=g)
    junk = 50.0 * torch.randn(1, 3, CONFIGS[family].width, generator=g)
    padded = torch.cat([tokens[:, :2], junk, tokens[:, 2:]], 1)
    visible = torch.tensor([[True, True, False, False, False, True, True, True]])
    with torch.no_grad():
        for causal in (True, False):
            plain = backbone.read(tokens, torch.ones(1, 5, dtype=torch.bool), causal)[0]
            longer = backbone.read(padded, visible, causal)[0]
            torch.testing.assert_close(longer[:, [0, 1, 5, 6, 7]], plain, atol=1e-5, rtol=1e-5)


def test_the_future_matters_exactly_when_attention_looks_both_ways(backbone: PrismaticBackbone, family: str) -> None:
    tokens = torch.randn(1, 6, CONFIGS[family].width, generator=torch.Generator().manual_seed(3))
    other = tokens.clone()
    other[:, 4:] += 1.0
    visible = torch.ones(1, 6, dtype=torch.bool)
    with torch.no_grad():
        causal = [backbone.read(x, visible, True)[0][:, :4] for x in (tokens, other)]
        both = [backbone.read(x, visible, False)[0][:, :4] for x in (tokens, other)]
    assert torch.equal(*causal)
    assert ((both[0] - both[1]).abs().amax(dim=(0, 2)) > 1e-3).all()


def test_no_query_sees_nothing() -> None:
    visible = torch.tensor([[True, False, False, True]])
    for causal in (True, False):
        assert attention_mask(visible, causal).any(-1).all()


def test_rotary_frequencies_stay_float32_in_a_bfloat16_backbone(family: str) -> None:
    low = PrismaticBackbone(VisionConfig.tiny(), CONFIGS[family], "bfloat16")
    assert low.dtype is torch.bfloat16 and low.language.rotary_emb.inv_freq.dtype is torch.float32
    with pytest.raises(ValueError, match="float32, bfloat16"):
        PrismaticBackbone(VisionConfig.tiny(), CONFIGS[family], "float16")
