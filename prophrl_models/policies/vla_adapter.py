"""VLA-Adapter-0.5B with a flow head: a small language model, 64 learned queries, and a head that reads every layer.

    picture  -> DINOv2 + SigLIP -> projector -> 256 tokens behind the prompt's first token
    prompt, picture, 64 queries -> Qwen2.5-0.5B (causal) -> hidden states of all layers
    layer i's picture part and query part, and the robot's state -> block i of the flow head

The published head regresses actions (L1) through bridge attention. Ours keeps the bridge, block i reads layer i, and
predicts a velocity; the published head's weights have no place in it. The state enters the head, not the language
model, as published.

Which positions are read follows the published code to the token: it reads where a token would be predicted, so both
windows begin one position before the tokens they are named after. The picture part is the first token and all patches
but the last; the query part is the prompt's last token and all queries but the last, which therefore has no influence.

Source: OpenHelix-Team/VLA-Adapter (modeling_prismatic.py, action_heads.py), arXiv 2509.09372.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prophrl_models.policies.bridge_head import BridgeHead, SharedCond
from prophrl_models.policies.interface import Cond, Inputs, PolicySpec
from prophrl_models.policies.official import LoadReport
from prophrl_models.policies.prismatic import QWEN2_05B, LanguageConfig
from prophrl_models.policies.prismatic_policy import PrismaticPolicy, StateProjector, load_published
from prophrl_models.policies.prismatic_prompt import QWEN_PROMPT, PromptTokeniser
from prophrl_models.policies.prismatic_vision import VisionConfig


@dataclass(frozen=True)
class VlaAdapterConfig:
    """Sizes of VLA-Adapter; the defaults are the published ones, the head's are ours.

    Attributes:
        queries: learned action queries.
        proprio_dim: inputs of the published state projector: 8 (LIBERO, CALVIN) or 7 (BRIDGE).
        prompt, prompt_length: text around ``{task}``, and the tokens it may have at most.
        crop_area: fraction of the picture that is kept, see ``prismatic_vision.square_image``.
        width, heads, mlp_ratio, spread: flow head; it has one block for each layer of the language model.
        dtype: of the backbone; the head's weights are float32.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    language: LanguageConfig = QWEN2_05B
    queries: int = 64
    proprio_dim: int = 8
    prompt: str = QWEN_PROMPT
    prompt_length: int = 96
    crop_area: float = 1.0
    width: int = 512
    heads: int = 8
    mlp_ratio: int = 2
    spread: float = 0.4
    dtype: str = "float32"

    @classmethod
    def full(cls, dtype: str = "bfloat16") -> VlaAdapterConfig:
        """The published sizes."""
        return cls(dtype=dtype)

    @classmethod
    def tiny(cls) -> VlaAdapterConfig:
        """Under 300,000 parameters, for tests."""
        language = LanguageConfig("qwen2", 96, 32, 3, 4, 2, 48, 1e6, 1e-6)
        return cls(VisionConfig.tiny(), language, queries=5, prompt_length=24, width=32, heads=4)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> VlaAdapterConfig:
        """From what ``dataclasses.asdict`` made of one."""
        return cls(**{**raw, "vision": VisionConfig.of(raw["vision"]), "language": LanguageConfig.of(raw["language"])})


class VlaAdapterPolicy(PrismaticPolicy):
    """See the file's head."""

    kind = "vla_adapter"
    head_prefixes = ("head.", "proprio.", "action_queries.")

    def __init__(self, spec: PolicySpec, config: VlaAdapterConfig, tokenizer_json: bytes) -> None:
        c = config
        prompts = PromptTokeniser(tokenizer_json, c.prompt, c.prompt_length, c.language.vocabulary)
        super().__init__(spec, c.vision, c.language, c.dtype, prompts, c.crop_area)
        self.architecture = c
        self.action_queries = nn.Embedding(c.queries, c.language.width)
        nn.init.normal_(self.action_queries.weight, std=0.02)
        self.proprio = StateProjector(c.proprio_dim, c.language.width)
        self.head = self.new_head()

    def new_head(self) -> BridgeHead:
        """The flow head, untrained."""
        c = self.architecture
        depth, patches = c.language.depth, c.vision.tokens
        chunk, action_dim = self.chain_shape
        return BridgeHead(action_dim, chunk, c.language.width, depth, patches, c.width, c.heads, c.mlp_ratio, c.spread)

    def config(self) -> dict[str, object]:
        return asdict(self.architecture)

    def embed(self, inputs: Inputs) -> Cond:
        """``tokens_BNE``: layer by layer the picture part, the query part and the state's token, in the backbone's
        dtype; ``vector_BE``: mean of the last layer's query part, then the state's token, float32."""
        B, P, Q = len(inputs), self.architecture.vision.tokens, self.architecture.queries
        text = self.backbone.embed_text(inputs.text)
        picture = self.backbone.image_tokens(inputs.image)
        queries = self.action_queries.weight.to(picture.dtype).expand(B, -1, -1)
        tokens = torch.cat([text[:, :1], picture, text[:, 1:], queries], 1)
        shown = inputs.text >= 0
        visible = torch.cat([shown[:, :1], shown.new_ones(B, P), shown[:, 1:], shown.new_ones(B, Q)], 1)
        # No stop token behind the queries, unlike the published code: attention is causal, nothing would see it.
        states = self.backbone.read(tokens, visible, causal=True, every_layer=True)[1:]
        state = self.proprio(self.network_state(inputs.state_B7, self.architecture.proprio_dim))[:, None]
        start = P + inputs.text.shape[1] - 1  # of the query part, one before the first query
        parts = [torch.cat([h[:, :P], h[:, start : start + Q], state.to(h.dtype)], 1) for h in states]
        summary = states[-1][:, start : start + Q].float().mean(1)
        return SharedCond(torch.cat(parts, 1), torch.cat([summary, state[:, 0].float()], 1))


def build(spec: PolicySpec, architecture: Mapping[str, Any], assets: Mapping[str, bytes]) -> VlaAdapterPolicy:
    """See ``policies.load.Builder``."""
    return VlaAdapterPolicy(spec, VlaAdapterConfig.of(architecture), assets["tokenizer.json"])


def from_official(
    folder: Path, spec: PolicySpec, config: VlaAdapterConfig | None = None, **changes: Any
) -> tuple[VlaAdapterPolicy, LoadReport]:
    """A policy with the published weights of a VLA-Adapter folder (safetensors, ``proprio_projector--*.pt``,
    ``tokenizer.json``) and an untrained flow head.

    Args:
        config: architecture; the published sizes in bfloat16 when omitted.
        changes: fields of ``config`` to set otherwise.

    Raises:
        OfficialWeightsError: files are missing or damaged. What does not fit is in the report.
    """
    c = replace(config or VlaAdapterConfig.full(), **changes)
    return load_published(lambda tokenizer: VlaAdapterPolicy(spec, c, tokenizer), Path(folder), c.vision, tied=True)
