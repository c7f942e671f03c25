"""Names of published pi0.5 weights to ours.

Two layouts, which differ in a prefix: lerobot/pi05_* (``model.paligemma_with_expert...``) and what openpi's converter
writes (``paligemma_with_expert...``). Both save tied weights once: the embedding is there under the name of the
language model's output layer, ``paligemma.lm_head.weight``; files saved again by other tools hold it under
``embed_tokens`` too. The only tensor without use is ``gemma_expert.lm_head.weight`` (263 M numbers that the published
classes carry along; no action ever passes through it).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

LEROBOT_PREFIX = "model."
EMBEDDING = "prefix.embed_tokens.weight"
HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
UNUSED = "paligemma_with_expert.gemma_expert.lm_head.weight"
SAMPLED_ROWS = 64

_PALIGEMMA = r"paligemma_with_expert\.paligemma\.model\."
_EXPERT = r"paligemma_with_expert\.gemma_expert\.model\."
_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        # Files written with transformers 5 lack the level "vision_model".
        (_PALIGEMMA + r"vision_tower\.(?:vision_model\.)?encoder\.layers\.", "vision.layers."),
        (_PALIGEMMA + r"vision_tower\.(?:vision_model\.)?(?=embeddings\.|post_layernorm\.)", "vision."),
        (_PALIGEMMA + r"multi_modal_projector\.linear\.", "projector."),
        (_PALIGEMMA + r"language_model\.", "prefix."),
        (_EXPERT, "expert."),
        (r"(?=(?:action_in_proj|action_out_proj|time_mlp_in|time_mlp_out)\.)", ""),
    )
)


class Translation:
    """``official.Translate`` for one file set: it remembers under which name the embedding came first."""

    def __init__(self) -> None:
        self._embedding: Tensor | None = None

    def __call__(self, name: str, tensor: Tensor) -> list[tuple[str, Tensor]] | None:
        """Our name of a published tensor; [] for what has no use, None for what is unknown."""
        name = name.removeprefix(LEROBOT_PREFIX)
        if name == UNUSED:
            return []
        ours = EMBEDDING if name == HEAD else our_name(name)
        if ours != EMBEDDING:
            return None if ours is None else [(ours, tensor)]
        sample = tensor[:: max(1, len(tensor) // SAMPLED_ROWS)].clone()
        if self._embedding is None:
            self._embedding = sample
            return [(EMBEDDING, tensor)]
        if sample.is_meta or torch.equal(self._embedding, sample):
            return []
        return None  # embedding and output layer were trained apart: not this model


def our_name(name: str) -> str | None:
    """Our name for a published one without lerobot's prefix, None when no rule knows it."""
    for pattern, ours in _RULES:
        match = pattern.match(name)
        if match:
            return ours + name[match.end() :]
    return None
