"""A tiny pi0.5 with weights that all say something, and the names of its published files."""

from __future__ import annotations

from dataclasses import replace

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from torch import Tensor

from calibration.poses import ActionConvention
from prophrl_models.policies.interface import ObservationBatch, PolicySpec, Scaling
from prophrl_models.policies.pi05 import Pi05Policy
from prophrl_models.policies.pi05_config import Pi05Config

INSTRUCTIONS = ("put the red cube into the bowl", "grasp the bottle and lift it", "fold the towel")
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")


def tokenizer_json() -> bytes:
    """A byte-fallback BPE of Gemma's construction, trained on a few sentences: 300 tokens, ids as in Gemma."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL]
        + [AddedToken(f"<0x{byte:02X}>", special=False) for byte in range(256)],
        show_progress=False,
        max_token_length=6,
    )
    tokenizer.train_from_iterator([*INSTRUCTIONS, "Task: , State: 0 1 2 3 4 5 6 7 8 9;\nAction: "], trainer)
    return tokenizer.to_str().encode()


def spec(**changes: object) -> PolicySpec:
    action = Scaling((0.0,) * 6 + (0.5,), (0.01,) * 3 + (0.02,) * 3 + (0.5,))
    state = Scaling((-0.65, 0.0, 0.2, 3.1, 0.0, 1.57, 0.5), (0.3,) * 6 + (0.5,))
    values = {"chunk": 6, "num_steps": 10, **changes}
    return PolicySpec(ActionConvention.ABSOLUTE_POSE_DIFFERENCE, action, state, **values)  # type: ignore[arg-type]


def config(**changes: object) -> Pi05Config:
    return replace(Pi05Config.tiny(), **changes)  # type: ignore[arg-type]


def policy(seed: int = 0, **changes: object) -> Pi05Policy:
    """In evaluation mode; every weight is moved away from its start, where norms and gates are zero."""
    torch.manual_seed(seed)
    made = Pi05Policy(spec(), config(**changes), tokenizer_json()).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.add_((0.5 if "dense" in name else 0.05) * torch.randn_like(parameter))
    return made


def observations(rows: int, seed: int = 1) -> ObservationBatch:
    g = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (rows, 240, 320, 3), dtype=torch.uint8, generator=g)
    state = torch.tensor([-0.65, 0.0, 0.3, 3.1, 0.0, 1.57, 1.0]).repeat(rows, 1)
    state[:, :3] += 0.05 * torch.randn(rows, 3, generator=g)
    return ObservationBatch(image, state, tuple(INSTRUCTIONS[i % 3] for i in range(rows)))


def published_shapes(c: Pi05Config, embedding: str = "head") -> dict[str, tuple[int, ...]]:
    """Names and shapes of openpi's converted files, written down from the published classes, not from our map.

    Args:
        embedding: "head", "tokens" or "both": under which names the tied embedding is saved.
    """
    vlm, expert = "paligemma_with_expert.paligemma.", "paligemma_with_expert.gemma_expert."
    shapes: dict[str, tuple[int, ...]] = {expert + "lm_head.weight": (c.vocabulary, c.expert_width)}
    if embedding in ("head", "both"):
        shapes[vlm + "lm_head.weight"] = (c.vocabulary, c.width)
    if embedding in ("tokens", "both"):
        shapes[vlm + "model.language_model.embed_tokens.weight"] = (c.vocabulary, c.width)

    tower = vlm + "model.vision_tower.vision_model."
    shapes[tower + "embeddings.patch_embedding.weight"] = (c.vision_width, 3, c.patch, c.patch)
    shapes[tower + "embeddings.patch_embedding.bias"] = (c.vision_width,)
    shapes[tower + "embeddings.position_embedding.weight"] = ((c.image_size // c.patch) ** 2, c.vision_width)
    for i in range(c.vision_depth):
        layer = f"{tower}encoder.layers.{i}."
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{norm}.{kind}": (c.vision_width,) for kind in ("weight", "bias")}
        for proj in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}self_attn.{proj}.weight"] = (c.vision_width, c.vision_width)
            shapes[f"{layer}self_attn.{proj}.bias"] = (c.vision_width,)
        shapes[layer + "mlp.fc1.weight"] = (c.vision_mlp, c.vision_width)
        shapes[layer + "mlp.fc1.bias"] = (c.vision_mlp,)
        shapes[layer + "mlp.fc2.weight"] = (c.vision_width, c.vision_mlp)
        shapes[layer + "mlp.fc2.bias"] = (c.vision_width,)
    shapes |= {f"{tower}post_layernorm.{kind}": (c.vision_width,) for kind in ("weight", "bias")}
    shapes[vlm + "model.multi_modal_projector.linear.weight"] = (c.width, c.vision_width)
    shapes[vlm + "model.multi_modal_projector.linear.bias"] = (c.width,)

    norms = ("input_layernorm", "post_attention_layernorm")
    for i in range(c.depth):
        layer = f"{vlm}model.language_model.layers.{i}."
        shapes |= _gemma_layer(layer, c, c.width, c.mlp)
        shapes |= {f"{layer}{norm}.weight": (c.width,) for norm in norms}
        layer = f"{expert}model.layers.{i}."
        shapes |= _gemma_layer(layer, c, c.expert_width, c.expert_mlp)
        for norm in norms:
            shapes[f"{layer}{norm}.dense.weight"] = (3 * c.expert_width, c.expert_width)
            shapes[f"{layer}{norm}.dense.bias"] = (3 * c.expert_width,)
    shapes[vlm + "model.language_model.norm.weight"] = (c.width,)
    shapes[expert + "model.norm.dense.weight"] = (3 * c.expert_width, c.expert_width)
    shapes[expert + "model.norm.dense.bias"] = (3 * c.expert_width,)

    for name, outputs, inputs in (
        ("action_in_proj", c.expert_width, c.action_width),
        ("action_out_proj", c.action_width, c.expert_width),
        ("time_mlp_in", c.expert_width, c.expert_width),
        ("time_mlp_out", c.expert_width, c.expert_width),
    ):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)
    return shapes


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=g) for name, shape in shapes.items()}


def _gemma_layer(prefix: str, c: Pi05Config, width: int, mlp: int) -> dict[str, tuple[int, ...]]:
    return {
        prefix + "self_attn.q_proj.weight": (c.heads * c.head_dim, width),
        prefix + "self_attn.k_proj.weight": (c.kv_heads * c.head_dim, width),
        prefix + "self_attn.v_proj.weight": (c.kv_heads * c.head_dim, width),
        prefix + "self_attn.o_proj.weight": (width, c.heads * c.head_dim),
        prefix + "mlp.gate_proj.weight": (mlp, width),
        prefix + "mlp.up_proj.weight": (mlp, width),
        prefix + "mlp.down_proj.weight": (width, mlp),
    }
