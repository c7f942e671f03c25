"""What VLA-Adapter and OpenVLA-OFT share as policies: preparation of observations, the state, loading, sampling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prophrl_models.policies.backbone import BackboneMixin
from prophrl_models.policies.bridge_head import ReadingHead
from prophrl_models.policies.interface import (
    Cond,
    FlowPolicy,
    Inputs,
    ObservationBatch,
    PolicySpec,
    UnknownInstruction,
)
from prophrl_models.policies.official import LoadReport, empty_weights, load_tensors
from prophrl_models.policies.prismatic import LanguageConfig, PrismaticBackbone
from prophrl_models.policies.prismatic_prompt import PromptTokeniser
from prophrl_models.policies.prismatic_vision import VisionConfig, square_image
from prophrl_models.policies.prismatic_weights import (
    NEW,
    TOKENIZER,
    PrismaticNames,
    published,
    tokenizer_of,
)

STATE_LIMIT = 5.0
"""Normalised states are clamped here, in deviations or quantile spans: a sensor fault must not own the network."""


class StateProjector(nn.Module):
    """The published state projector: [B, proprio_dim] to [B, width], two layers."""

    def __init__(self, proprio_dim: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(proprio_dim, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, state: Tensor) -> Tensor:
        token: Tensor = self.fc2(F.gelu(self.fc1(state.to(self.fc1.weight.dtype))))
        return token


class PrismaticPolicy(BackboneMixin, FlowPolicy):
    """Base of the two policies; subclasses set ``head`` and implement ``embed``."""

    head: ReadingHead

    def __init__(
        self,
        spec: PolicySpec,
        vision: VisionConfig,
        language: LanguageConfig,
        dtype: str,
        prompts: PromptTokeniser,
        crop_area: float,
    ) -> None:
        super().__init__(spec)
        self.prompts, self.image_size, self.crop_area = prompts, vision.image_size, crop_area
        self.backbone = PrismaticBackbone(vision, language, dtype)

    def new_head(self) -> ReadingHead:
        """The flow head, untrained."""
        raise NotImplementedError

    def blocks(self) -> list[nn.Module]:
        """The layers of both towers and of the language model; the head is small and stays whole."""
        towers = self.backbone.vision
        return [*towers.dino.layers, *towers.siglip.layers, *self.backbone.language.layers]

    def lora_targets(self) -> list[str]:
        """All linear layers of towers, projector and language model, as the published fine-tuning adapts them."""
        return [*super().lora_targets(), *(f"backbone.projector.fc{i}" for i in (1, 2, 3))]

    def assets(self) -> dict[str, bytes]:
        return {TOKENIZER: self.prompts.json}

    def prepare(self, obs: ObservationBatch) -> Inputs:
        """uint8 pictures [B, 3, S, S], states, and token ids [B, prompt_length] padded (-1) behind the first token.

        Raises:
            UnknownInstruction: not one of the training set's, too long, or made of unknown words.
        """
        known = self.spec.instructions
        for text in obs.instruction_B:
            if known and text not in known:
                raise UnknownInstruction(
                    f"this policy was not trained on {text!r}; it knows {', '.join(map(repr, known))}"
                )
        instructions = [self.spec.prompt.format(instruction=text) for text in obs.instruction_B]
        image = square_image(obs.image_BHW3, self.image_size, self.crop_area)
        return Inputs(image, obs.state_B7.float(), self.prompts(instructions, image.device))

    def network_state(self, state_B7: Tensor, proprio_dim: int) -> Tensor:
        """States in the units and the order of the published state projectors [B, proprio_dim].

        Seven inputs (BRIDGE) are ours, normalised. Eight (LIBERO) are position, rotation and the positions of two
        fingers that mirror each other: our opening stands for the first, its negative for the second. LIBERO's rotation
        is an axis-angle vector, ours are Euler angles, so the published weights need fine-tuning to our state in any
        case; what this keeps is their shape and roughly the scale of their inputs.

        Raises:
            ValueError: the spec's state does not fit.
        """
        state = self.spec.state_scaling.normalise(state_B7.float()).clamp(-STATE_LIMIT, STATE_LIMIT)
        if proprio_dim == state.shape[1]:
            return state
        if proprio_dim == 8 and state.shape[1] == 7:
            return torch.cat([state, -state[:, 6:]], 1)
        raise ValueError(
            f"states of {state.shape[1]} numbers do not fit a state projector of {proprio_dim}; 7 fit 7 and 8"
        )

    def velocity(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        v: Tensor = self.head(cond, x_BCD, t_B)
        return v

    def ready(self, cond: Cond) -> Cond:
        """Keys and values of the head's cross-attentions; see ``FlowPolicy``."""
        return self.head.ready(cond)


P = TypeVar("P", bound=PrismaticPolicy)


def load_published(build: Callable[[bytes], P], folder: Path, vision: VisionConfig, tied: bool) -> tuple[P, LoadReport]:
    """Build a policy without memory for its backbone, give it the published tensors one by one, and a new head.

    Parameters that nothing filled keep no memory (they are named in ``LoadReport.missing``).
    """
    tokenizer = tokenizer_of(folder)
    with empty_weights():
        policy = build(tokenizer)
    report = load_tensors(policy, published(folder, tied), PrismaticNames(vision), NEW, materialise=True)
    policy.head = policy.new_head()
    return policy.eval(), report
