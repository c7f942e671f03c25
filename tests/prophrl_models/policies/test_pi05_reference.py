"""pi0.5 against other code for the same sums: transformers' models, and the whole model in plain einsum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache, GemmaConfig, GemmaModel, PI0Config, SiglipVisionConfig, SiglipVisionModel
from transformers.models.pi0.modeling_pi0 import PI0Model

from prophrl_models.policies.interface import Inputs
from prophrl_models.policies.pi05 import Pi05Policy, resize_with_pad
from prophrl_models.policies.pi05_config import Pi05Config
from prophrl_models.policies.pi05_expert import time_features
from tests.helpers import pi05 as helper

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", params=[1, 2], ids=["one key head", "two key heads"])
def policy(request: pytest.FixtureRequest) -> Pi05Policy:
    return helper.policy(kv_heads=request.param)


@pytest.fixture(scope="module")
def inputs(policy: Pi05Policy) -> Inputs:
    return policy.prepare(helper.observations(3))


def vision_config(c: Pi05Config) -> dict[str, object]:
    return {
        "hidden_size": c.vision_width,
        "intermediate_size": c.vision_mlp,
        "num_hidden_layers": c.vision_depth,
        "num_attention_heads": c.vision_heads,
        "image_size": c.image_size,
        "patch_size": c.patch,
        "vision_use_head": False,
    }


def gemma_config(c: Pi05Config, width: int, mlp: int) -> dict[str, object]:
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "vocab_size": c.vocabulary,
    }


def pixels_of(inputs: Inputs) -> Tensor:
    return inputs.image.float() / 255.0 * 2.0 - 1.0


def state_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return module.state_dict()


def vision_reference(policy: Pi05Policy) -> dict[str, Tensor]:
    """Our vision weights under the names of transformers' SiglipVisionModel."""
    return {
        ("encoder." + name if name.startswith("layers.") else name): value
        for name, value in state_of(policy.vision).items()
    }


def test_vision_tower_agrees_with_transformers(policy: Pi05Policy, inputs: Inputs) -> None:
    reference = SiglipVisionModel(SiglipVisionConfig(**vision_config(policy.pi05))).eval()
    reference.load_state_dict(vision_reference(policy), strict=True)
    with torch.no_grad():
        expected = reference(pixels_of(inputs)).last_hidden_state
        torch.testing.assert_close(policy.vision(pixels_of(inputs)), expected, **TOLERANCE)


def test_prefix_cache_agrees_with_the_paligemma_inside_transformers_pi0(policy: Pi05Policy, inputs: Inputs) -> None:
    c = policy.pi05
    vlm = {
        "model_type": "paligemma",
        "text_config": {"model_type": "gemma", **gemma_config(c, c.width, c.mlp)},
        "vision_config": {"model_type": "siglip_vision_model", **vision_config(c)},
        "projection_dim": c.width,
        "image_token_id": c.vocabulary,
    }
    vlm["vision_config"]["projection_dim"] = c.width  # type: ignore[index]
    dit = {"model_type": "gemma", **gemma_config(c, c.expert_width, c.expert_mlp)}
    pi0 = PI0Model(PI0Config(vlm_config=vlm, dit_config=dit)).eval()
    pi0.vlm.vision_tower.load_state_dict(vision_reference(policy), strict=True)
    pi0.vlm.multi_modal_projector.linear.load_state_dict(state_of(policy.projector))
    pi0.vlm.language_model.load_state_dict(state_of(policy.prefix), strict=True)

    # One camera of three is there: transformers, too, gives tokens to that one only.
    cameras = torch.full((3, 3, *inputs.image.shape[1:]), -1.0)
    cameras[:, 0] = pixels_of(inputs)
    present = torch.tensor([[True, False, False]]).expand(3, 3)
    placeholders = torch.full((3, c.image_tokens), c.vocabulary)
    ids = torch.cat([placeholders, inputs.text.clamp_min(0)], 1)
    valid = torch.cat([torch.ones_like(placeholders), (inputs.text >= 0).long()], 1)
    with torch.no_grad():
        embeds = pi0.embed_prefix(ids, cameras, present)
        cache = pi0.vlm(
            inputs_embeds=embeds,
            attention_mask=valid,
            position_ids=valid.cumsum(-1) - 1,
            token_type_ids=torch.zeros_like(ids),
            use_cache=True,
        ).past_key_values
        cond = policy.embed(inputs)
    assert torch.equal(cond.extras["valid"], valid.bool())
    seen = valid.bool()[:, None, :, None]
    for i, layer in enumerate(cache.layers):
        for j, expected in enumerate((layer.keys, layer.values)):
            torch.testing.assert_close(cond.extras["cache"][:, i, j] * seen, expected * seen, **TOLERANCE)


def test_expert_with_constant_modulation_is_transformers_gemma_behind_a_cache(policy: Pi05Policy) -> None:
    """With scale w, shift 0 and gate 1 for every time an adaptive norm is Gemma's own."""
    c = policy.pi05
    torch.manual_seed(5)
    reference = GemmaModel(GemmaConfig(**gemma_config(c, c.expert_width, c.expert_mlp), attn_implementation="sdpa"))
    reference.eval()
    expert = helper.policy(kv_heads=c.kv_heads).expert
    with torch.no_grad():
        for ours, theirs in zip(expert.layers, reference.layers, strict=True):
            for part in ("self_attn", "mlp"):
                getattr(theirs, part).load_state_dict(state_of(getattr(ours, part)), strict=True)
        for name, norm in [*expert.named_modules()]:
            if name.endswith("norm"):
                weight = 0.3 * torch.randn(c.expert_width)
                reference.get_submodule(name).weight.copy_(weight)
                norm.dense.weight.zero_()
                norm.dense.bias.copy_(torch.cat([weight, torch.zeros_like(weight), torch.ones_like(weight)]))
    B, N, C = 2, 11, 6
    cache = torch.randn(B, c.depth, 2, c.kv_heads, N, c.head_dim)
    valid = torch.ones(B, N, dtype=torch.bool)
    valid[1, 7:] = False
    x = torch.randn(B, C, c.expert_width)
    past = DynamicCache(config=reference.config)
    for i in range(c.depth):
        past.update(cache[:, i, 0], cache[:, i, 1], i)
    hidden = torch.cat([~valid, torch.zeros(B, C, dtype=torch.bool)], 1)[:, None, None]
    mask = torch.zeros(B, 1, C, N + C).masked_fill(hidden, -torch.inf)
    positions = valid.sum(1, keepdim=True) + torch.arange(C)
    with torch.no_grad():
        expected = reference(
            inputs_embeds=x, attention_mask=mask, position_ids=positions, past_key_values=past
        ).last_hidden_state
        got = expert(x, torch.randn(B, c.expert_width), cache, valid)
    torch.testing.assert_close(got, expected, **TOLERANCE)


# ---- the whole model once more: no cache, no fused kernels, three camera slots, in einsum and float64 ----


def joint_velocity(policy: Pi05Policy, inputs: Inputs, x_BCD: Tensor, t_B: Tensor) -> Tensor:
    """Velocity from one pass over camera slots, prompt and actions, with the mask rule of openpi's training pass."""
    c = policy.pi05
    w = {name: value.double() for name, value in policy.state_dict().items()}
    pixels, ids = pixels_of(inputs).double(), inputs.text
    B, C = x_BCD.shape[:2]

    first = siglip(w, c, pixels) @ w["projector.weight"].T + w["projector.bias"]
    empty = siglip(w, c, torch.full_like(pixels, -1.0)) @ w["projector.weight"].T + w["projector.bias"]
    words = w["prefix.embed_tokens.weight"][ids.clamp_min(0)] * math.sqrt(c.width)
    prefix = torch.cat([first, empty, empty, words], 1)
    n = c.image_tokens
    valid = torch.cat([torch.ones(B, n), torch.zeros(B, 2 * n), (ids >= 0).double(), torch.ones(B, C)], 1).bool()
    block = torch.cat([torch.zeros(prefix.shape[1]), torch.ones(C)])
    mask = (block[None, None, :] <= block[None, :, None]) & valid[:, None, :] & valid[:, :, None]
    position = valid.double().cumsum(1) - 1

    period = 4e-3 * 1000.0 ** (torch.arange(c.expert_width // 2).double() / (c.expert_width // 2 - 1))
    angle = 2 * math.pi * t_B.double()[:, None] / period
    time = torch.cat([torch.sin(angle), torch.cos(angle)], 1)
    for name in ("time_mlp_in", "time_mlp_out"):
        time = time @ w[f"{name}.weight"].T + w[f"{name}.bias"]
        time = time * torch.sigmoid(time)

    streams = [prefix, x_BCD.double() @ w["action_in_proj.weight"].T + w["action_in_proj.bias"]]
    for i in range(c.depth):
        names = [f"prefix.layers.{i}.", f"expert.layers.{i}."]
        normed, gates = zip(
            *(norm(w, f"{name}input_layernorm", x, time) for name, x in zip(names, streams, strict=True)), strict=True
        )
        q, k, v = (
            torch.cat(
                [
                    torch.einsum(
                        "bte,hde->bthd", x, w[f"{name}self_attn.{p}_proj.weight"].unflatten(0, (-1, c.head_dim))
                    )
                    for name, x in zip(names, normed, strict=True)
                ],
                1,
            )
            for p in "qkv"
        )
        q, k = turn(q, position), turn(k, position)
        k, v = (y.repeat_interleave(c.heads // c.kv_heads, dim=2) for y in (k, v))
        score = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(c.head_dim)
        weight = score.masked_fill(~mask[:, None], -2.3819763e38).softmax(-1)
        read = torch.einsum("bhts,bshd->bthd", weight, v).flatten(2)
        reads = read.split([prefix.shape[1], C], 1)
        for s, name in enumerate(names):
            y = streams[s] + gates[s] * (reads[s] @ w[f"{name}self_attn.o_proj.weight"].T)
            h, gate = norm(w, f"{name}post_attention_layernorm", y, time)
            up, down = h @ w[f"{name}mlp.up_proj.weight"].T, w[f"{name}mlp.down_proj.weight"].T
            streams[s] = y + gate * ((gelu(h @ w[f"{name}mlp.gate_proj.weight"].T) * up) @ down)
    hidden = norm(w, "expert.norm", streams[1], time)[0]
    return hidden @ w["action_out_proj.weight"].T + w["action_out_proj.bias"]


def siglip(w: dict[str, Tensor], c: Pi05Config, pixels: Tensor) -> Tensor:
    B, side, p = len(pixels), c.image_size // c.patch, c.patch
    patches = pixels.reshape(B, 3, side, p, side, p).permute(0, 2, 4, 1, 3, 5).reshape(B, side * side, -1)
    x = patches @ w["vision.embeddings.patch_embedding.weight"].flatten(1).T
    x = x + w["vision.embeddings.patch_embedding.bias"] + w["vision.embeddings.position_embedding.weight"]

    def affine(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def layer_norm(name: str, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    for i in range(c.vision_depth):
        name = f"vision.layers.{i}."
        h = layer_norm(name + "layer_norm1", x)
        q, k, v = (affine(f"{name}self_attn.{s}_proj", h).unflatten(-1, (c.vision_heads, -1)) for s in "qkv")
        weight = (torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + affine(f"{name}self_attn.out_proj", torch.einsum("bhts,bshd->bthd", weight, v).flatten(2))
        x = x + affine(f"{name}mlp.fc2", gelu(affine(f"{name}mlp.fc1", layer_norm(name + "layer_norm2", x))))
    return layer_norm("vision.post_layernorm", x)


def norm(w: dict[str, Tensor], name: str, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    x = x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    if f"{name}.weight" in w:
        return x * (1.0 + w[f"{name}.weight"]), torch.ones(())
    scale, shift, gate = (time @ w[f"{name}.dense.weight"].T + w[f"{name}.dense.bias"])[:, None].split(x.shape[-1], -1)
    return x * (1.0 + scale) + shift, gate


def turn(x: Tensor, position: Tensor) -> Tensor:
    """Rotary positions as products of complex numbers."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-torch.arange(half).double() / half)
    angle = position[:, :, None, None] * frequency
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def test_cached_prefix_and_suffix_equal_one_joint_pass_with_masked_cameras(policy: Pi05Policy, inputs: Inputs) -> None:
    torch.manual_seed(2)
    x, t = torch.randn(3, *policy.chain_shape), torch.tensor([1.0, 0.37, 0.001])
    with torch.no_grad():
        got = policy.network_velocity(policy.embed(inputs), x, t)
        expected = joint_velocity(policy, inputs, x, t)
    assert expected.abs().mean() > 0.1  # the comparison is of something
    torch.testing.assert_close(got, expected.float(), **TOLERANCE)


def test_joint_pass_tells_every_part_apart(policy: Pi05Policy, inputs: Inputs) -> None:
    """The reference has power: it moves with the picture, the prompt, time and each single action."""
    torch.manual_seed(3)
    x, t = torch.randn(3, *policy.chain_shape), torch.tensor([0.9, 0.5, 0.1])
    base = joint_velocity(policy, inputs, x, t)
    darker = Inputs(inputs.image // 2, inputs.state_B7, inputs.text)
    other = Inputs(inputs.image, inputs.state_B7, inputs.text.roll(1, 0))
    nudged = x.clone()
    nudged[:, -1, -1] += 0.5
    for changed in (
        joint_velocity(policy, darker, x, t),
        joint_velocity(policy, other, x, t),
        joint_velocity(policy, inputs, x, t + 0.05),
        joint_velocity(policy, inputs, nudged, t)[:, :1],
    ):
        assert (changed - base[:, : changed.shape[1]]).abs().amax((1, 2)).min() > 1e-3


def test_length_of_padding_does_not_change_the_velocity(inputs: Inputs) -> None:
    short, long = helper.policy(prompt_tokens=90), helper.policy(prompt_tokens=140)
    torch.manual_seed(4)
    x, t, obs = torch.randn(3, *short.chain_shape), torch.tensor([1.0, 0.5, 0.2]), helper.observations(3)
    with torch.no_grad():
        torch.testing.assert_close(
            short.velocity(short.encode(obs), x, t), long.velocity(long.encode(obs), x, t), atol=1e-5, rtol=1e-5
        )


def test_time_features_are_openpis_at_both_ends_of_the_spectrum() -> None:
    t = torch.tensor([0.0, 0.25, 1.0])
    features = time_features(t, 8)
    for column, period in ((0, 4e-3), (3, 4.0)):
        for row in range(3):
            angle = 2.0 * math.pi * t[row].item() / period
            assert features[row, column].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert features[row, column + 4].item() == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize("size", [(240, 320), (320, 240), (100, 80), (224, 224)])
def test_pictures_are_letterboxed_as_pillow_does(size: tuple[int, int]) -> None:
    g = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8, generator=g).float()
    image = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)
    got = resize_with_pad(image, 224)
    height, width = size
    ratio = max(height / 224, width / 224)
    inner = (int(width / ratio), int(height / ratio))
    shrunk = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize(inner, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (224, 224))
    canvas.paste(shrunk, ((224 - inner[0]) // 2, (224 - inner[1]) // 2))
    difference = np.abs(np.asarray(canvas).astype(int) - got[0].permute(1, 2, 0).numpy().astype(int))
    assert got.dtype == torch.uint8 and got.shape == (1, 3, 224, 224)
    assert difference.max() <= 2
