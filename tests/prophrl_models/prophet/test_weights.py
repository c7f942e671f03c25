"""Published layouts find their places, and what does not fit is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import CosmosTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from prophrl_models.prophet.config import MemoryConfig, NetworkConfig, preset
from prophrl_models.prophet.network import GATE_SPEED, Prophet
from prophrl_models.prophet.weights import (
    NVIDIA_ACTIONS,
    OFFICIAL,
    RELEASED,
    WeightsError,
    load_into,
    match,
    read_weights,
)

STRIDES = ((1, 2, 2), (1, 2, 3), (1, 4, 6))
DOWN = {"width": 64, "heads": 2, "head_dim": 32, "blocks": 2, "adaln_lora_dim": 16, "text_dim": 24}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def diffusers_state(config: NetworkConfig) -> dict[str, Tensor]:
    return CosmosTransformer3DModel(
        in_channels=17,
        out_channels=16,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        num_layers=config.blocks,
        text_embed_dim=config.text_dim,
        adaln_lora_dim=config.adaln_lora_dim,
        rope_scale=config.rope_scale,
        extra_pos_embed_type=None,
    ).state_dict()


def published_names(config: NetworkConfig, *, agi: bool, frames: bool, memory: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a .pt file, written down from the published module definitions."""
    D, d, A, T = config.width, config.head_dim, config.adaln_lora_dim, config.text_dim
    X = config.actions * config.action_dim
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.1.weight": (D, 72),
        "t_embedder.1.linear_1.weight": (D, D),
        "t_embedder.1.linear_2.weight": (3 * D, D),
        "t_embedding_norm.weight": (D,),
        "final_layer.linear.weight": (64, D),
        "final_layer.adaln_modulation.1.weight": (A, D),
        "final_layer.adaln_modulation.2.weight": (2 * D, A),
        "pos_embedder.seq": (240,),
        "pos_embedder.dim_spatial_range": (d // 6,),
        "pos_embedder.dim_temporal_range": (d // 2 - 2 * (d // 6),),
        "accum_iteration": (),
        "t_embedding_norm._extra_state": (0,),
    }
    for i in range(config.blocks):
        block = f"blocks.{i}."
        for part, width in (("self_attn", D), ("cross_attn", T)):
            shapes |= {
                f"{block}{part}.q_proj.weight": (D, D),
                f"{block}{part}.k_proj.weight": (D, width),
                f"{block}{part}.v_proj.weight": (D, width),
                f"{block}{part}.output_proj.weight": (D, D),
                f"{block}{part}.q_norm.weight": (d,),
                f"{block}{part}.k_norm.weight": (d,),
                f"{block}{part}.q_norm._extra_state": (0,),
            }
        for part in ("self_attn", "cross_attn", "mlp"):
            shapes[f"{block}adaln_modulation_{part}.1.weight"] = (A, D)
            shapes[f"{block}adaln_modulation_{part}.2.weight"] = (3 * D, A)
        shapes[f"{block}mlp.layer1.weight"] = (4 * D, D)
        shapes[f"{block}mlp.layer2.weight"] = (D, 4 * D)
    end = "_agi" if agi else ""
    for name, width in (("action_embedder_B_D", D), ("action_embedder_B_3D", 3 * D)):
        shapes |= {
            f"{name}{end}.fc1.weight": (4 * D, X),
            f"{name}{end}.fc1.bias": (4 * D,),
            f"{name}{end}.fc2.weight": (width, 4 * D),
            f"{name}{end}.fc2.bias": (width,),
        }
    if frames:
        shapes |= {
            "action_latent_cond.proj_in.weight": (D, 16, 1, 1, 1),
            "action_latent_cond.proj_in.bias": (D,),
            "action_latent_cond.dw_spatial.weight": (D, 1, 1, 3, 3),
            "action_latent_cond.pw_spatial.weight": (D, D, 1, 1, 1),
        }
        for name, width in (("to_D", D), ("to_3D", 3 * D)):
            shapes |= {
                f"action_latent_cond.{name}.0.weight": (D,),
                f"action_latent_cond.{name}.0.bias": (D,),
                f"action_latent_cond.{name}.1.weight": (width, D),
                f"action_latent_cond.{name}.1.bias": (width,),
            }
    if memory:
        for level in range(3):
            shapes[f"framepack_mem.proj.{level}.1.weight"] = (D, 16, 1, 1, 1)
            shapes[f"framepack_mem.proj.{level}.1.bias"] = (D,)
        shapes |= {"mem_to_k.weight": (D, D), "mem_to_v.weight": (D, D)}
    return {f"net.{name}": shape for name, shape in shapes.items()}


def test_official_2b_weights_load_key_by_key() -> None:
    with torch.device("meta"):
        stored = diffusers_state(OFFICIAL)
        exact, prophet = Prophet(OFFICIAL), Prophet(preset("2b").network)
        without_text = Prophet(replace(preset("2b").network, text=False))
    assert len(stored) == 567 and sum(value.numel() for value in stored.values()) == 1_956_413_440
    state, loaded = match(exact, stored)
    assert set(state) == set(dict(exact.named_parameters())) and loaded.fresh == () and loaded.left_out == ()
    state, loaded = match(prophet, stored)
    assert set(dict(prophet.named_parameters())) - set(state) == set(prophet.new_parameters())
    assert loaded.fresh == ("scalar_actions", "action_frames", "memory")
    _, loaded = match(without_text, stored)
    assert loaded.left_out and all(".attn2." in name or ".norm2." in name for name in loaded.left_out)


def test_published_pt_files_load_key_by_key_at_full_size() -> None:
    for config, streams in (
        (NVIDIA_ACTIONS, {"agi": False, "frames": False, "memory": False}),
        (RELEASED, {"agi": True, "frames": True, "memory": True}),
    ):
        with torch.device("meta"):
            network = Prophet(config)
            stored = {name: torch.empty(shape) for name, shape in published_names(config, **streams).items()}
        state, loaded = match(network, stored)
        assert set(state) == set(dict(network.named_parameters()))
        assert loaded.fresh == () and loaded.left_out == ()
        one_arm = 2 * (84 * 8192 + 8192) + 8192 * 2048 + 2048 + 8192 * 6144 + 6144
        expected = 2_057_668_608 if streams["agi"] else 1_956_413_440 + one_arm
        assert sum(value.numel() for value in state.values()) == expected


class PublishedConditioner(nn.Module):
    """The released action frame layers in their own layout, written from the specification (4.4)."""

    def __init__(self, raw: dict[str, Tensor]) -> None:
        super().__init__()
        self.raw = {n.removeprefix("net.action_latent_cond."): v for n, v in raw.items() if "action_latent_cond" in n}

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        raw, F = self.raw, torch.nn.functional
        x = F.conv3d(latent, raw["proj_in.weight"], raw["proj_in.bias"])
        x = F.conv3d(x, raw["dw_spatial.weight"], padding=(0, 1, 1), groups=x.shape[1])
        x = F.conv3d(x, raw["pw_spatial.weight"])
        x[:, :, 0] = 0.0
        a = x.mean(dim=(3, 4)).transpose(1, 2).clone()
        width = a.shape[2]
        for place in range(a.shape[1]):
            for i in range(0, width, 2):
                angle = torch.tensor(place * 10000.0 ** (-i / width))
                a[:, place, i] += torch.sin(angle)
                a[:, place, i + 1] += torch.cos(angle)
        out = []
        for name in ("to_D", "to_3D"):
            normed = F.layer_norm(a, (width,), raw[f"{name}.0.weight"], raw[f"{name}.0.bias"])
            out.append(F.linear(normed, raw[f"{name}.1.weight"], raw[f"{name}.1.bias"]))
        return out[0], out[1]


def test_released_values_arrive_where_they_act() -> None:
    config = replace(RELEASED, **DOWN, memory=MemoryConfig(order="oldest_fine", strides=STRIDES))
    stored = {
        name: torch.randn(shape) * 0.3
        for name, shape in published_names(config, agi=True, frames=True, memory=True).items()
    }
    network = Prophet(config)
    loaded = load_into(network, stored)
    assert len(loaded.loaded) == len(list(network.parameters()))
    block = network.transformer_blocks[1]
    for ours, theirs in (
        (network.patch_embed.proj.weight, "x_embedder.proj.1.weight"),
        (network.time_embed.norm.weight, "t_embedding_norm.weight"),
        (network.time_embed.t_embedder.linear_1.weight, "t_embedder.1.linear_1.weight"),
        (network.proj_out.weight, "final_layer.linear.weight"),
        (block.attn1.to_q.weight, "blocks.1.self_attn.q_proj.weight"),
        (block.attn1.to_k.weight, "blocks.1.self_attn.k_proj.weight"),
        (block.attn1.to_v.weight, "blocks.1.self_attn.v_proj.weight"),
        (block.attn1.norm_q.weight, "blocks.1.self_attn.q_norm.weight"),
        (block.attn2.to_v.weight, "blocks.1.cross_attn.v_proj.weight"),
        (block.norm1.linear_1.weight, "blocks.1.adaln_modulation_self_attn.1.weight"),
        (block.ff.net[2].weight, "blocks.1.mlp.layer2.weight"),
        (network.scalar_actions.to_time.fc1.weight, "action_embedder_B_D_agi.fc1.weight"),
        (block.attn1.to_out[0].weight, "blocks.1.self_attn.output_proj.weight"),
        (block.attn2.norm_k.weight, "blocks.1.cross_attn.k_norm.weight"),
        (block.norm2.linear_2.weight, "blocks.1.adaln_modulation_cross_attn.2.weight"),
        (block.norm3.linear_1.weight, "blocks.1.adaln_modulation_mlp.1.weight"),
        (block.ff.net[0].proj.weight, "blocks.1.mlp.layer1.weight"),
        (network.norm_out.linear_2.weight, "final_layer.adaln_modulation.2.weight"),
        (network.time_embed.t_embedder.linear_2.weight, "t_embedder.1.linear_2.weight"),
        (network.scalar_actions.to_adaln.fc2.bias, "action_embedder_B_3D_agi.fc2.bias"),
        (network.memory.to_v.weight, "mem_to_v.weight"),
    ):
        assert torch.equal(ours, stored[f"net.{theirs}"]), theirs
    latent, condition = torch.randn(2, 16, 6, 4, 6), torch.tensor([1.0, 0, 0, 0, 0, 0])
    expected = PublishedConditioner(stored)(latent)
    for mine, theirs in zip(network.action_frames(latent, condition), expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    # Memory: the oldest frame through the first 1 x 1 x 1 convolution, and so on.
    history = torch.randn(2, 16, 15, 4, 6)
    parts = []
    for level, frames in enumerate(([0], [1], list(range(2, 15)))):
        pooled = torch.nn.functional.avg_pool3d(history[:, :, frames], STRIDES[level])
        weight, bias = (stored[f"net.framepack_mem.proj.{level}.1.{leaf}"] for leaf in ("weight", "bias"))
        parts.append(torch.nn.functional.conv3d(pooled, weight, bias).flatten(2).transpose(1, 2))
    torch.testing.assert_close(network.memory.tokens(history), torch.cat(parts, 1), atol=1e-5, rtol=1e-5)


def test_memory_that_comes_from_a_file_is_open_and_new_memory_is_closed() -> None:
    memory = MemoryConfig(order="oldest_fine", strides=STRIDES, gated=True)
    config = replace(RELEASED, **DOWN, memory=memory)
    stored = {n: torch.randn(s) for n, s in published_names(config, agi=True, frames=True, memory=True).items()}
    network = Prophet(config)
    load_into(network, stored)
    assert all(torch.equal(b.memory_gate, torch.full((2,), 1 / GATE_SPEED)) for b in network.transformer_blocks)
    network = Prophet(config)
    loaded = load_into(network, diffusers_state(config))
    assert loaded.fresh == ("scalar_actions", "action_frames", "memory")
    assert all(block.memory_gate.abs().max() == 0 for block in network.transformer_blocks)


def test_averaged_weights_are_taken_on_request() -> None:
    config = replace(NVIDIA_ACTIONS, **DOWN)
    names = published_names(config, agi=False, frames=False, memory=False)
    both = {n: torch.zeros(s) for n, s in names.items()}
    both |= {n.replace("net.", "net_ema.", 1): torch.ones(s) for n, s in names.items()}
    for ema in (False, True):
        network = Prophet(config)
        load_into(network, both, ema=ema)
        assert all(bool((p == float(ema)).all()) for p in network.parameters())
    with pytest.raises(WeightsError, match=r"no tensor under 'net_ema\.'"):
        load_into(Prophet(config), {n: v for n, v in both.items() if n.startswith("net.")}, ema=True)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    config = replace(RELEASED, **DOWN, memory=MemoryConfig(strides=STRIDES))
    good = {n: torch.randn(s) for n, s in published_names(config, agi=True, frames=True, memory=True).items()}
    network = Prophet(config)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def without(name: str) -> dict[str, Tensor]:
        return {n: v for n, v in good.items() if n != f"net.{name}"}

    for words, bad in (
        ("lacks 1 tensors.*attn1.to_q", without("blocks.0.self_attn.q_proj.weight")),
        ("lacks 1 tensors.*memory.to_k", without("mem_to_k.weight")),
        ("belong to no known layout", good | {"net.state_head.weight": torch.zeros(1)}),
        ("no place for.*transformer_blocks.2", good | {"net.blocks.2.mlp.layer1.weight": torch.zeros(1)}),
        (r"is \[256, 140\] in the file", good | {"net.action_embedder_B_D_agi.fc1.weight": torch.zeros(256, 140)}),
    ):
        with pytest.raises(WeightsError, match=words):
            load_into(network, bad)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(WeightsError, match="no place for"):
        load_into(Prophet(replace(config, memory=None)), good)
    with torch.device("meta"):
        hollow = Prophet(config)
    with pytest.raises(WeightsError, match="no storage"):
        load_into(hollow, good)


def test_files_of_all_kinds_are_read(tmp_path: Path) -> None:
    tensors = {"net.a.weight": torch.randn(3), "net.b._extra_state": torch.zeros(0)}
    torch.save(tensors, tmp_path / "model.pt")
    save_file(tensors, tmp_path / "model.safetensors")
    parts = tmp_path / "transformer"
    parts.mkdir()
    files = {}
    for number, (name, value) in enumerate(tensors.items()):
        files[name] = f"diffusion_pytorch_model-{number}.safetensors"
        save_file({name: value}, parts / files[name])
    for path in (tmp_path / "model.pt", tmp_path / "model.safetensors", parts):
        read = read_weights(path)
        assert set(read) == set(tensors) and torch.equal(read["net.a.weight"], tensors["net.a.weight"])
    # With an index, files that it does not list (another precision beside it) are left alone.
    save_file({"net.a.weight": torch.zeros(9)}, parts / "diffusion_pytorch_model.fp16.safetensors")
    (parts / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert torch.equal(read_weights(parts)["net.a.weight"], tensors["net.a.weight"])


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"x": Path("runs code")}, tmp_path / "pickle.pt")
    (tmp_path / "empty").mkdir()
    for name in ("broken.safetensors", "list.pt", "pickle.pt", "empty", "absent.pt", "model.bin"):
        with pytest.raises(WeightsError, match=name):
            read_weights(tmp_path / name)
