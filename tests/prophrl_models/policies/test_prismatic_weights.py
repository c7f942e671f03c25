"""Published folders of VLA-Adapter and OpenVLA-OFT load without a gap, every number at its place."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prophrl_models.policies import openvla_oft, vla_adapter
from prophrl_models.policies.official import OFFICIAL, LoadReport, OfficialWeightsError, load_tensors
from prophrl_models.policies.openvla_oft import OpenVlaOftConfig
from prophrl_models.policies.prismatic_policy import PrismaticPolicy
from prophrl_models.policies.prismatic_weights import NEW, PrismaticNames
from prophrl_models.policies.vla_adapter import VlaAdapterConfig
from tests.helpers import prismatic_policies as tiny
from tests.helpers.prismatic_layout import head_shapes, main_shapes, proprio_shapes, write_part

kinds = pytest.mark.parametrize("kind", tiny.KINDS)


def load(folder: Path, kind: str, **changes: object) -> tuple[PrismaticPolicy, LoadReport]:
    c = tiny.config(kind)
    if isinstance(c, VlaAdapterConfig):
        return vla_adapter.from_official(folder, tiny.spec(), c, **changes)
    return openvla_oft.from_official(folder, tiny.spec(), c, **changes)


@kinds
def test_a_published_folder_loads_without_gaps(tmp_path: Path, kind: str) -> None:
    published = tiny.publish(tmp_path, kind)
    policy, report = load(tmp_path, kind)
    report.raise_for_gaps()
    assert report.missing == () and report.unexpected == ()
    assert report.new == tuple(name for name in policy.state_dict() if name.startswith("head."))
    assert report.loaded + len(report.new) == len(policy.state_dict())
    last = ("vision_backbone.featurizer.blocks.2.", "vision_backbone.fused_featurizer.blocks.2.")
    for name in report.unused:
        assert name.startswith((*last, "action_head.")) or ".norm." in name or "attn_pool" in name or "lm_head" in name
    assert not any(p.is_meta for p in policy.parameters()) and not any(b.is_meta for b in policy.buffers())
    assert set(report.unused) < set(published)
    chunk, _ = policy.sample_actions(tiny.observations(2))
    assert chunk.shape == (2, 6, 7) and chunk.isfinite().all()


@kinds
def test_every_number_arrives_at_its_place(tmp_path: Path, kind: str) -> None:
    """Loading into a policy that has other weights, and into one without memory, gives the same network; features
    agree with those of a policy whose state was set tensor by tensor from the published names."""
    published = tiny.publish(tmp_path, kind)
    policy, _ = load(tmp_path, kind)
    language = policy.backbone.language.state_dict()
    for name, value in language.items():
        assert torch.equal(value, published[f"language_model.model.{name}"]), name
    for name, value in policy.backbone.projector.state_dict().items():
        assert torch.equal(value, published[f"projector.{name}"]), name
    other = tiny.policy(kind, seed=3)
    c = tiny.config(kind)
    load_tensors(other, published.items(), PrismaticNames(c.vision), NEW).raise_for_gaps()
    obs = tiny.observations(3)
    assert torch.equal(other.encode(obs).tokens_BNE, policy.encode(obs).tokens_BNE)
    qkv = published["vision_backbone.fused_featurizer.blocks.1.attn.qkv.weight"]
    layer = policy.backbone.vision.siglip.layers[1].self_attn
    assert torch.equal(torch.cat([layer.q_proj.weight, layer.k_proj.weight, layer.v_proj.weight]), qkv)


@kinds
def test_the_backbone_is_loaded_in_the_wanted_precision(tmp_path: Path, kind: str) -> None:
    tiny.publish(tmp_path, kind)
    policy, report = load(tmp_path, kind, dtype="bfloat16")
    report.raise_for_gaps()
    assert {p.dtype for p in policy.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in policy.head.parameters()} == {torch.float32}
    assert policy.backbone.language.rotary_emb.inv_freq.dtype is torch.float32
    assert policy.act(tiny.observations(2)).isfinite().all()


def test_a_tied_embedding_is_found_under_either_of_its_names(tmp_path: Path) -> None:
    published = tiny.publish(tmp_path, "vla_adapter")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors.pop("language_model.model.embed_tokens.weight")
    save_file({**tensors, "language_model.lm_head.weight": embedding}, file)
    policy, report = load(tmp_path, "vla_adapter")
    report.raise_for_gaps()
    assert torch.equal(
        policy.backbone.language.embed_tokens.weight, published["language_model.model.embed_tokens.weight"]
    )
    both = {**tensors, "language_model.model.embed_tokens.weight": embedding}
    save_file({**both, "language_model.lm_head.weight": embedding.clone()}, file)
    _, report = load(tmp_path, "vla_adapter")
    report.raise_for_gaps()
    assert "language_model.lm_head.weight" in report.unused


def test_a_vision_backbone_file_replaces_the_towers(tmp_path: Path) -> None:
    published = tiny.publish(tmp_path, "openvla_oft")
    towers = {
        n.removeprefix("vision_backbone."): v + 1 for n, v in published.items() if n.startswith("vision_backbone.")
    }
    write_part(tmp_path, "vision_backbone--150000_checkpoint.pt", towers)
    policy, report = load(tmp_path, "openvla_oft")
    report.raise_for_gaps()
    bias = policy.backbone.vision.dino.layers[0].mlp.fc1.bias
    assert torch.equal(bias, published["vision_backbone.featurizer.blocks.0.mlp.fc1.bias"] + 1)


def test_language_modulated_vision_is_refused(tmp_path: Path) -> None:
    tiny.publish(tmp_path, "openvla_oft")
    film = {"featurizer.blocks.0.scale.weight": torch.zeros(16, 32)}
    write_part(tmp_path, "vision_backbone--150000_checkpoint.pt", film)
    with pytest.raises(OfficialWeightsError, match="FiLM"):
        load(tmp_path, "openvla_oft")


@kinds
def test_a_folder_without_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    tiny.publish(tmp_path, kind)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(OfficialWeightsError, match=r"tokenizer\.json"):
        load(tmp_path, kind)


@kinds
def test_what_does_not_fit_is_named(tmp_path: Path, kind: str) -> None:
    tiny.publish(tmp_path, kind)
    file = sorted(tmp_path.glob("*.safetensors"))[0]
    tensors = load_file(file)
    spoiled = next(name for name in tensors if name.endswith("mlp.gate_proj.weight"))
    tensors[spoiled] = torch.zeros(3, 3)
    save_file(tensors, file)
    _, report = load(tmp_path, kind)
    assert any(spoiled in line and "(3, 3)" in line for line in report.unexpected)
    assert len(report.missing) == 1
    with pytest.raises(OfficialWeightsError, match="1 missing"):
        report.raise_for_gaps()


@kinds
def test_a_state_projector_of_seven_inputs_loads(tmp_path: Path, kind: str) -> None:
    """BRIDGE's."""
    tiny.publish(tmp_path, kind)
    part = next(tmp_path.glob("proprio_projector--*"))
    state = torch.load(part, weights_only=True)
    state["module.fc1.weight"] = state["module.fc1.weight"][:, :7].clone()
    torch.save(state, part)
    policy, report = load(tmp_path, kind, proprio_dim=7)
    report.raise_for_gaps()
    assert policy.act(tiny.observations(1)).isfinite().all()


COUNTS = {
    # dino, siglip with pool, projector, language with output layer; from learning notes that counted timm's and HF's
    "vla_adapter": (303_230_976, 427_680_704, 27_552_000, 494_032_768),
    "openvla_oft": (303_230_976, 427_680_704, 71_385_600, 6_738_939_904),
}


@kinds
def test_the_published_size_loads_without_memory_and_counts_to_the_last_module(kind: str) -> None:
    c = tiny.config(kind, full=True)
    adapter = isinstance(c, VlaAdapterConfig)
    E = c.language.width
    shapes = main_shapes(c.vision, c.language, 64 if adapter else None, lm_head=not adapter)
    shapes |= {f"proprio_projector.{n}": s for n, s in proprio_shapes(E, 8).items()}
    blocks = 24 if adapter else 2
    shapes |= {f"action_head.{n}": s for n, s in head_shapes(7 * E, E, blocks, adapter).items()}
    with torch.device("meta"):
        policy = tiny.policy(kind, stirred=False, full=True)
        published = [(name, torch.empty(shape, dtype=torch.bfloat16)) for name, shape in shapes.items()]
    report = load_tensors(policy, published, PrismaticNames(c.vision), NEW)
    report.raise_for_gaps()
    assert all(p.is_meta for p in policy.parameters())

    def published_count(*prefixes: str) -> int:
        return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefixes))

    groups = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.", "projector.", "language_model.")
    assert tuple(map(published_count, groups)) == COUNTS[kind]
    unused = sum(math.prod(shapes[name]) for name in report.unused if not name.startswith("action_head."))
    extra = sum(map(published_count, ("proprio_projector.", "action_queries.")))
    head = sum(p.numel() for p in policy.head.parameters())
    total = sum(p.numel() for p in policy.parameters())
    assert total == sum(COUNTS[kind]) - unused + extra + head + c.vision.dino.width  # + a zero position
    assert round(published_count("action_head.") / 1e5) == (1021 if adapter else 1511)


@kinds
def test_the_kind_is_registered_for_published_weights(kind: str) -> None:
    assert OFFICIAL[kind].rsplit(".", 1)[1] == kind


def test_an_index_of_another_size_is_a_gap_not_a_crash(tmp_path: Path) -> None:
    tiny.publish(tmp_path, "openvla_oft")
    c = tiny.config("openvla_oft")
    assert isinstance(c, OpenVlaOftConfig)
    deeper = replace(c, language=replace(c.language, depth=4))
    _, report = openvla_oft.from_official(tmp_path, tiny.spec(), deeper)
    assert len(report.missing) == 9 and all("layers.3." in name for name in report.missing)
    assert json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
