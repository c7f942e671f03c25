"""OpenVLA-OFT-7B with a flow head: all action tokens in one pass of a language model that looks both ways.

    picture -> DINOv2 + SigLIP -> projector -> 256 tokens behind <s>, then one token of the robot's state
    <s>, picture, state, prompt, chunk * 7 zero tokens, </s> -> Llama-2-7B, full attention -> last hidden state
    seven states for each step of the chunk -> flow head

The published head regresses actions (L1) from the same states; its weights have no place in ours. Action tokens carry
nothing but their position, so a chunk of any length reads the published weights (LIBERO's was 8 steps).

The states are read, as published, one position before the tokens they belong to: the prompt's last token and all
action tokens but the last. Padding stands between <s> with its picture and the prompt; no token sees it, and rotary
positions skip it.

Source: moojink/openvla-oft (modeling_prismatic.py) and moojink/transformers-openvla-oft (the attention mask),
arXiv 2502.19645.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from prophrl_models.policies.bridge_head import SharedCond, StepHead
from prophrl_models.policies.interface import Cond, Inputs, PolicySpec
from prophrl_models.policies.official import LoadReport
from prophrl_models.policies.prismatic import LLAMA2_7B, LanguageConfig
from prophrl_models.policies.prismatic_policy import PrismaticPolicy, StateProjector, load_published
from prophrl_models.policies.prismatic_prompt import OPENVLA_PROMPT, PromptTokeniser
from prophrl_models.policies.prismatic_vision import VisionConfig


@dataclass(frozen=True)
class OpenVlaOftConfig:
    """Sizes of OpenVLA-OFT; the defaults are the published ones, the head's are ours.

    Attributes:
        proprio_dim: inputs of the published state projector: 8 (LIBERO) or 7 (BRIDGE).
        prompt, prompt_length: text around ``{task}``, and the tokens it may have at most.
        first, suffix, stop: token ids of <s>, of the empty word that ends every prompt in training, and of </s>.
        crop_area: fraction of the picture that is kept, see ``prismatic_vision.square_image``.
        width, head_depth, heads, mlp_ratio, spread: flow head.
        dtype: of the backbone; the head's weights are float32.
    """

    vision: VisionConfig = field(default_factory=VisionConfig)
    language: LanguageConfig = LLAMA2_7B
    proprio_dim: int = 8
    prompt: str = OPENVLA_PROMPT
    prompt_length: int = 64
    first: int = 1
    suffix: tuple[int, ...] = (29871,)
    stop: int = 2
    crop_area: float = 1.0
    width: int = 512
    head_depth: int = 8
    heads: int = 8
    mlp_ratio: int = 4
    spread: float = 0.4
    dtype: str = "float32"

    @classmethod
    def full(cls, dtype: str = "bfloat16") -> OpenVlaOftConfig:
        """The published sizes."""
        return cls(dtype=dtype)

    @classmethod
    def tiny(cls) -> OpenVlaOftConfig:
        """Under 300,000 parameters, for tests."""
        language = LanguageConfig("llama", 96, 32, 3, 4, 4, 48, 1e4, 1e-6)
        return cls(
            VisionConfig.tiny(), language, prompt_length=24, suffix=(3,), width=32, head_depth=2, heads=4, mlp_ratio=2
        )

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> OpenVlaOftConfig:
        """From what ``dataclasses.asdict`` made of one."""
        nested = {"vision": VisionConfig.of(raw["vision"]), "language": LanguageConfig.of(raw["language"])}
        return cls(**{**raw, **nested, "suffix": tuple(raw["suffix"])})


class OpenVlaOftPolicy(PrismaticPolicy):
    """See the file's head."""

    kind = "openvla_oft"
    head_prefixes = ("head.", "proprio.")

    def __init__(self, spec: PolicySpec, config: OpenVlaOftConfig, tokenizer_json: bytes) -> None:
        c = config
        prompts = PromptTokeniser(tokenizer_json, c.prompt, c.prompt_length, c.language.vocabulary, c.first, c.suffix)
        super().__init__(spec, c.vision, c.language, c.dtype, prompts, c.crop_area)
        self.architecture = c
        self.proprio = StateProjector(c.proprio_dim, c.language.width)
        self.head = self.new_head()

    def new_head(self) -> StepHead:
        """The flow head, untrained."""
        c = self.architecture
        chunk, action_dim = self.chain_shape
        E = c.language.width
        return StepHead(action_dim, chunk, action_dim * E, 2 * E, c.width, c.head_depth, c.heads, c.mlp_ratio, c.spread)

    def config(self) -> dict[str, object]:
        return asdict(self.architecture)

    def embed(self, inputs: Inputs) -> Cond:
        """``tokens_BNE`` [B, chunk, action_dim * width], in the backbone's dtype; ``vector_BE``: mean of these states,
        then the state's token, float32."""
        B, P = len(inputs), self.architecture.vision.tokens
        chunk, action_dim = self.chain_shape
        A = chunk * action_dim
        picture = self.backbone.image_tokens(inputs.image)
        state = self.proprio(self.network_state(inputs.state_B7, self.architecture.proprio_dim))[:, None]
        text = self.backbone.embed_text(inputs.text)
        stop = self.backbone.embed_text(torch.full_like(inputs.text[:, :1], self.architecture.stop))
        blank = text.new_zeros(B, A, text.shape[2])
        tokens = torch.cat([text[:, :1], picture, state.to(text.dtype), text[:, 1:], blank, stop], 1)
        shown = inputs.text >= 0
        visible = torch.cat([shown[:, :1], shown.new_ones(B, P + 1), shown[:, 1:], shown.new_ones(B, A + 1)], 1)
        last = self.backbone.read(tokens, visible, causal=False)[0]
        start = P + inputs.text.shape[1]  # one before the first action token
        window = last[:, start : start + A]
        vector = torch.cat([window.float().mean(1), state[:, 0].float()], 1)
        return SharedCond(window.reshape(B, chunk, -1), vector)


def build(spec: PolicySpec, architecture: Mapping[str, Any], assets: Mapping[str, bytes]) -> OpenVlaOftPolicy:
    """See ``policies.load.Builder``."""
    return OpenVlaOftPolicy(spec, OpenVlaOftConfig.of(architecture), assets["tokenizer.json"])


def from_official(
    folder: Path, spec: PolicySpec, config: OpenVlaOftConfig | None = None, **changes: Any
) -> tuple[OpenVlaOftPolicy, LoadReport]:
    """A policy with the published weights of a ``moojink/openvla-7b-oft-finetuned-*`` folder (merged safetensors
    shards, ``proprio_projector--*.pt``, ``tokenizer.json``) and an untrained flow head.

    Args:
        config: architecture; the published sizes in bfloat16 when omitted.
        changes: fields of ``config`` to set otherwise.

    Raises:
        OfficialWeightsError: files are missing or damaged. What does not fit is in the report.
    """
    c = replace(config or OpenVlaOftConfig.full(), **changes)
    return load_published(lambda tokenizer: OpenVlaOftPolicy(spec, c, tokenizer), Path(folder), c.vision, tied=False)
