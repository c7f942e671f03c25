"""Names of published Prismatic weights (timm towers, transformers 4.40 language models) in our module tree.

    vision_backbone.featurizer.*         backbone.vision.dino.*      DINOv2 as timm names it, LayerScale renamed
    vision_backbone.fused_featurizer.*   backbone.vision.siglip.*    SigLIP as timm names it
    projector.fc{1,2,3}.*                backbone.projector.*
    language_model.model.*               backbone.language.*
    action_queries.weight                action_queries.weight       VLA-Adapter only
    proprio_projector.fc{1,2}.*          proprio.*                   proprio_projector--*.pt

Unused by design: the last layer and the final norm of both towers, SigLIP's ``attn_pool`` (features are read before
them), ``language_model.lm_head`` (no token is predicted), rotary tables that old versions stored, and ``action_head.*``
(an L1 regression in place of our flow head).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from prophrl_models.policies.official import (
    OfficialWeightsError,
    Pairs,
    part_file,
    read_part,
    read_safetensors,
)
from prophrl_models.policies.prismatic_vision import VisionConfig

DINO, SIGLIP = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
EMBEDDING, OUTPUT = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
TOKENIZER = "tokenizer.json"
PARTS = {"proprio_projector": "proprio_projector.", "action_head": "action_head.", "vision_backbone": ""}
"""Files ``<part>--*checkpoint.pt`` and what their names are put under here."""

NEW = ("head.*",)
"""What no publication has: the flow head."""

Named = list[tuple[str, Tensor]]


class PrismaticNames:
    """Translates published names; see ``official.Translate``."""

    def __init__(self, vision: VisionConfig) -> None:
        self.vision = vision

    def __call__(self, name: str, tensor: Tensor) -> Named | None:
        if name.startswith(DINO):
            return _under("backbone.vision.dino.", self.dino(name.removeprefix(DINO), tensor))
        if name.startswith(SIGLIP):
            return _under("backbone.vision.siglip.", self.siglip(name.removeprefix(SIGLIP), tensor))
        if name == OUTPUT or name.endswith("rotary_emb.inv_freq") or name.startswith("action_head.model."):
            return []
        for theirs, ours in (
            ("language_model.model.", "backbone.language."),
            ("projector.", "backbone.projector."),
            ("proprio_projector.", "proprio."),
            ("action_queries.", "action_queries."),
        ):
            if name.startswith(theirs):
                return [(ours + name.removeprefix(theirs), tensor)]
        return None

    def dino(self, name: str, tensor: Tensor) -> Named | None:
        """timm's ``vit_large_patch14_reg4_dinov2`` to ``prismatic_vision.DinoTower``."""
        simple = {
            "cls_token": "embeddings.cls_token",
            "reg_token": "embeddings.register_tokens",
            "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
            "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        }
        if name in simple:
            return [(simple[name], tensor)]
        if name == "pos_embed":  # timm gives the class token no position, transformers adds one: zero
            return [("embeddings.position_embeddings", F.pad(tensor, (0, 0, 1, 0)))]
        inner = {
            "norm1": "norm1",
            "norm2": "norm2",
            "attn.proj": "attention.o_proj",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }
        return _layer(name, tensor, self.vision.dino.depth - 1, inner, "attention", scales=True)

    def siglip(self, name: str, tensor: Tensor) -> Named | None:
        """timm's ``vit_so400m_patch14_siglip_224`` to ``prismatic_vision.SiglipTower``."""
        simple = {
            "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
            "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
        }
        if name in simple:
            return [(simple[name], tensor)]
        if name == "pos_embed":
            return [("embeddings.position_embedding.weight", tensor.squeeze(0))]
        if name.startswith("attn_pool."):
            return []
        inner = {
            "norm1": "layer_norm1",
            "norm2": "layer_norm2",
            "attn.proj": "self_attn.out_proj",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        }
        return _layer(name, tensor, self.vision.siglip.depth - 1, inner, "self_attn", scales=False)


def _layer(name: str, tensor: Tensor, built: int, inner: dict[str, str], attention: str, scales: bool) -> Named | None:
    """A tensor of a timm transformer layer, or of the final norm."""
    if name in ("norm.weight", "norm.bias"):
        return []
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias|scale_factor|gamma)", name)
    if match is None:
        return None
    index, part, kind = int(match[1]), match[2], match[3]
    prefix = f"layers.{index}."
    found: Named | None = None
    if part == "attn.qkv" and kind in ("weight", "bias"):
        thirds = tensor.chunk(3, dim=0)
        found = [(f"{prefix}{attention}.{x}_proj.{kind}", third) for x, third in zip("qkv", thirds, strict=True)]
    elif scales and part in ("ls1", "ls2") and kind in ("scale_factor", "gamma"):
        found = [(f"{prefix}layer_scale{part[-1]}.lambda1", tensor)]
    elif part in inner and kind in ("weight", "bias"):
        found = [(f"{prefix}{inner[part]}.{kind}", tensor)]
    return [] if found is not None and index == built else found


def _under(prefix: str, named: Named | None) -> Named | None:
    return None if named is None else [(prefix + name, tensor) for name, tensor in named]


def published(folder: Path, tied: bool) -> Iterator[tuple[str, Tensor]]:
    """All published tensors of a folder under full names: safetensors and the ``.pt`` parts beside them.

    A ``vision_backbone--*`` part replaces the towers of the safetensors files: it was trained further.

    Args:
        tied: input and output embeddings are one tensor, of which the files may hold either name.
    """
    parts = {part: part_file(folder, part) for part in PARTS}
    vision = parts.pop("vision_backbone")
    output: Tensor | None = None
    seen_embedding = False
    for name, tensor in read_safetensors(folder):
        seen_embedding |= name == EMBEDDING
        if name == OUTPUT and tied:
            output = tensor
        elif vision is None or not name.startswith("vision_backbone."):
            yield name, tensor
    if output is not None:
        yield (OUTPUT if seen_embedding else EMBEDDING), output
    for part, path in parts.items():
        if path is not None:
            for name, tensor in read_part(path):
                yield PARTS[part] + name, tensor
    if vision is not None:
        yield from _vision_part(vision)


def _vision_part(path: Path) -> Pairs:
    for name, tensor in read_part(path):
        name = name if name.startswith("vision_backbone.") else f"vision_backbone.{name}"
        if ".scale." in name or ".shift." in name or ".lora_" in name:
            raise OfficialWeightsError(
                f"{path} holds {name}: a vision backbone with language modulation (FiLM) or unmerged LoRA, which this "
                "policy has not; take a model without FiLM, or merge the adapters first"
            )
        yield name, tensor


def tokenizer_of(folder: Path) -> bytes:
    """Contents of a published folder's ``tokenizer.json``.

    Raises:
        OfficialWeightsError: there is none.
    """
    path = Path(folder) / TOKENIZER
    if not path.is_file():
        raise OfficialWeightsError(
            f"{folder} has no {TOKENIZER}; it lies beside the published weights, download it too"
        )
    return path.read_bytes()
