"""Weights in the layout of the published Prismatic models, with random numbers: names and shapes spelled out from the
public repositories (moojink/openvla-oft, OpenHelix-Team/VLA-Adapter, timm 0.9.10), not derived from our classes."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from prophrl_models.policies.prismatic import LanguageConfig
from prophrl_models.policies.prismatic_vision import TowerConfig, VisionConfig

Shapes = dict[str, tuple[int, ...]]


def tower_shapes(prefix: str, size: TowerConfig, config: VisionConfig, registers: int = 0) -> Shapes:
    """A timm vision transformer; with registers it is DINOv2 (class token, layer scales), without it SigLIP (pool)."""
    C, M, p = size.width, size.mlp, config.patch_size
    shapes: Shapes = {
        "pos_embed": (1, config.tokens, C),
        "patch_embed.proj.weight": (C, 3, p, p),
        "patch_embed.proj.bias": (C,),
        "norm.weight": (C,),
        "norm.bias": (C,),
    }
    for i in range(size.depth):
        b = f"blocks.{i}."
        shapes |= {
            b + "norm1.weight": (C,),
            b + "norm1.bias": (C,),
            b + "attn.qkv.weight": (3 * C, C),
            b + "attn.qkv.bias": (3 * C,),
            b + "attn.proj.weight": (C, C),
            b + "attn.proj.bias": (C,),
            b + "norm2.weight": (C,),
            b + "norm2.bias": (C,),
            b + "mlp.fc1.weight": (M, C),
            b + "mlp.fc1.bias": (M,),
            b + "mlp.fc2.weight": (C, M),
            b + "mlp.fc2.bias": (C,),
        }
        if registers:
            shapes |= {b + "ls1.scale_factor": (C,), b + "ls2.scale_factor": (C,)}
    if registers:
        shapes |= {"cls_token": (1, 1, C), "reg_token": (1, registers, C)}
    else:
        a = "attn_pool."
        shapes |= {
            a + "latent": (1, 1, C),
            a + "q.weight": (C, C),
            a + "q.bias": (C,),
            a + "kv.weight": (2 * C, C),
            a + "kv.bias": (2 * C,),
            a + "proj.weight": (C, C),
            a + "proj.bias": (C,),
            a + "norm.weight": (C,),
            a + "norm.bias": (C,),
            a + "mlp.fc1.weight": (M, C),
            a + "mlp.fc1.bias": (M,),
            a + "mlp.fc2.weight": (C, M),
            a + "mlp.fc2.bias": (C,),
        }
    return {prefix + name: shape for name, shape in shapes.items()}


def language_shapes(config: LanguageConfig, lm_head: bool) -> Shapes:
    """``Qwen2ForCausalLM`` or ``LlamaForCausalLM`` under ``language_model.``."""
    E, M, KV = config.width, config.mlp, config.width // config.heads * config.kv_heads
    shapes: Shapes = {"model.embed_tokens.weight": (config.vocabulary, E), "model.norm.weight": (E,)}
    for i in range(config.depth):
        layer = f"model.layers.{i}."
        shapes |= {
            layer + "input_layernorm.weight": (E,),
            layer + "post_attention_layernorm.weight": (E,),
            layer + "self_attn.q_proj.weight": (E, E),
            layer + "self_attn.k_proj.weight": (KV, E),
            layer + "self_attn.v_proj.weight": (KV, E),
            layer + "self_attn.o_proj.weight": (E, E),
            layer + "mlp.gate_proj.weight": (M, E),
            layer + "mlp.up_proj.weight": (M, E),
            layer + "mlp.down_proj.weight": (E, M),
        }
        if config.family == "qwen2":
            shapes |= {
                layer + "self_attn.q_proj.bias": (E,),
                layer + "self_attn.k_proj.bias": (KV,),
                layer + "self_attn.v_proj.bias": (KV,),
            }
    if lm_head:
        shapes["lm_head.weight"] = (config.vocabulary, E)
    return {"language_model." + name: shape for name, shape in shapes.items()}


def main_shapes(vision: VisionConfig, language: LanguageConfig, queries: int | None, lm_head: bool) -> Shapes:
    """The safetensors files."""
    V, E = vision.dino.width + vision.siglip.width, language.width
    shapes = tower_shapes("vision_backbone.featurizer.", vision.dino, vision, vision.registers)
    shapes |= tower_shapes("vision_backbone.fused_featurizer.", vision.siglip, vision)
    shapes |= language_shapes(language, lm_head)
    for layer, shape in (("fc1", (4 * V, V)), ("fc2", (E, 4 * V)), ("fc3", (E, E))):
        shapes |= {f"projector.{layer}.weight": shape, f"projector.{layer}.bias": shape[:1]}
    if queries is not None:
        shapes["action_queries.weight"] = (queries, E)
    return shapes


def proprio_shapes(width: int, proprio_dim: int) -> Shapes:
    """``proprio_projector--*_checkpoint.pt``, without its "module."."""
    return {
        "fc1.weight": (width, proprio_dim),
        "fc1.bias": (width,),
        "fc2.weight": (width, width),
        "fc2.bias": (width,),
    }


def head_shapes(inputs: int, width: int, blocks: int, bridge: bool) -> Shapes:
    """``action_head--*_checkpoint.pt`` (L1 regression), without its "module."."""
    shapes: Shapes = {
        "layer_norm1.weight": (inputs,),
        "layer_norm1.bias": (inputs,),
        "fc1.weight": (width, inputs),
        "fc1.bias": (width,),
        "layer_norm2.weight": (width,),
        "layer_norm2.bias": (width,),
        "fc2.weight": (7, width),
        "fc2.bias": (7,),
    }
    for i in range(blocks):
        b = f"mlp_resnet_blocks.{i}."
        shapes |= {
            b + "ffn.0.weight": (width,),
            b + "ffn.0.bias": (width,),
            b + "ffn.1.weight": (width, width),
            b + "ffn.1.bias": (width,),
        }
        if bridge:
            shapes[b + "gating_factor"] = (1,)
            for x in "qkvo":
                shapes |= {b + f"{x}_proj.weight": (width, width), b + f"{x}_proj.bias": (width,)}
    return {"model." + name: shape for name, shape in shapes.items()}


def random_tensors(shapes: Shapes, seed: int = 0, scale: float = 0.2) -> dict[str, Tensor]:
    """Random numbers of these shapes."""
    g = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=g) for name, shape in shapes.items()}


def write_shards(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    """Safetensors as transformers writes them: one file, or several with an index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for k in range(shards):
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[k::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_part(folder: Path, name: str, tensors: dict[str, Tensor], module: bool = True) -> None:
    """A ``.pt`` state dict, as data-parallel training saves it."""
    torch.save({("module." if module else "") + k: v for k, v in tensors.items()}, folder / name)
