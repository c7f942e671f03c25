"""Prismatic vision-language models: a picture's features spliced into a language model's tokens behind the first one.

Only what action policies read is built: the language model without its output layer. One loop over its stock layers
serves causal attention (Qwen2) and full attention (OpenVLA-OFT's Llama), with all hidden states on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model

from prophrl_models.policies.prismatic_vision import FusedVision, Projector, VisionConfig

FAMILIES = ("qwen2", "llama")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LanguageConfig:
    """Size of a language model.

    Attributes:
        family: "qwen2" or "llama".
        vocabulary: rows of the embedding table, padding included.
        width, depth, heads, kv_heads, mlp: layer sizes.
        rope_theta, norm_eps: rotary base and RMS-norm epsilon.
    """

    family: str
    vocabulary: int
    width: int
    depth: int
    heads: int
    kv_heads: int
    mlp: int
    rope_theta: float
    norm_eps: float

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"unknown language model family {self.family!r}; known: {', '.join(FAMILIES)}")

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> LanguageConfig:
        """From what ``dataclasses.asdict`` made of one."""
        return cls(**raw)

    def build(self) -> Any:
        """The transformers model, without an output layer."""
        sizes: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.mlp,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "pad_token_id": None,  # one would freeze a row of the embedding table
            "use_cache": False,
            "attn_implementation": "sdpa",
        }
        if self.family == "qwen2":
            return Qwen2Model(Qwen2Config(**sizes))
        return LlamaModel(LlamaConfig(**sizes))


QWEN2_05B = LanguageConfig("qwen2", 151936, 896, 24, 14, 2, 4864, 1e6, 1e-6)
LLAMA2_7B = LanguageConfig("llama", 32064, 4096, 32, 32, 32, 11008, 1e4, 1e-6)


class PrismaticBackbone(nn.Module):
    """Vision towers, projector and language model, in one dtype.

    Args:
        dtype: "float32" or "bfloat16". Rotary frequencies and image statistics stay float32 either way; converting a
            finished model with ``.to(torch.bfloat16)`` would round them too.
    """

    def __init__(self, vision: VisionConfig, language: LanguageConfig, dtype: str = "float32") -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
        self.language: Any  # Qwen2Model or LlamaModel; transformers' modules are untyped
        with default_dtype(DTYPES[dtype]):
            self.vision = FusedVision(vision)
            self.projector = Projector(vision.width, language.width)
            self.language = language.build()

    @property
    def dtype(self) -> torch.dtype:
        return self.projector.fc1.weight.dtype

    def image_tokens(self, image_B3HW: Tensor) -> Tensor:
        """uint8 pictures to tokens [B, patches, width]."""
        tokens: Tensor = self.projector(self.vision(image_B3HW))
        return tokens

    def embed_text(self, ids_BL: Tensor) -> Tensor:
        """Token ids to embeddings [B, L, width]; padding (-1) gets some embedding, which nobody may look at."""
        embeddings: Tensor = self.language.embed_tokens(ids_BL.clamp_min(0))
        return embeddings

    def read(self, tokens_BNE: Tensor, visible_BN: Tensor, causal: bool, every_layer: bool = False) -> list[Tensor]:
        """Run the language model over embedded tokens.

        Args:
            visible_BN: False at padding: no token sees it, and it takes no position.
            causal: each token sees itself and what is before; otherwise everything visible.
            every_layer: return the embeddings and each layer's output, the last one normed: depth + 1 states, as
                transformers' ``hidden_states``. Otherwise only the last one.

        Returns:
            Hidden states [B, N, width].
        """
        mask = attention_mask(visible_BN, causal)
        position = (visible_BN.long().cumsum(1) - 1).clamp_min(0)
        rotary = self.language.rotary_emb(tokens_BNE, position_ids=position)
        x, states = tokens_BNE, []
        for layer in self.language.layers:
            if every_layer:
                states.append(x)
            x = layer(x, attention_mask=mask, position_ids=position, position_embeddings=rotary)
        states.append(self.language.norm(x))
        return states


def attention_mask(visible_BN: Tensor, causal: bool) -> Tensor:
    """Who may look at whom, bool [B, 1, query, key]; the first token must be visible, then no query sees nothing."""
    N = visible_BN.shape[1]
    mask = visible_BN[:, None, None, :].expand(-1, 1, N, N)
    if causal:
        mask = mask & torch.ones(N, N, dtype=torch.bool, device=visible_BN.device).tril()
    return mask


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build modules in a dtype at once, without a float32 copy that may not fit into memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
