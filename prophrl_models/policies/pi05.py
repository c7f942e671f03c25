"""pi0.5: PaliGemma reads picture and prompt once, a small Gemma denoises the action chunk beside it.

    picture, prompt with state -> SigLIP, Gemma 2B -> keys and values of 18 layers   (``embed``, once)
    noisy chunk, flow time, those keys and values -> Gemma 300M with adaRMS -> velocity   (``velocity``, K times)

Source: pi0.5 (arXiv 2504.16054) and the public code of Physical-Intelligence/openpi; weights of openpi and of
lerobot/pi05_* load through ``from_official``. Flow time runs as there: 1 is noise, 0 the action, v = noise - action.

The published model has three camera slots and masks the empty ones. A masked token is seen by nobody, takes no position
and its own output is dropped, so slots without a camera are left out here: same result, half the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from typing_extensions import Self

from prophrl_models.policies.backbone import BackboneMixin
from prophrl_models.policies.interface import Cond, FlowPolicy, Inputs, ObservationBatch, PolicySpec
from prophrl_models.policies.official import LoadReport, load_tensors, read_safetensors
from prophrl_models.policies.pi05_config import Pi05Config
from prophrl_models.policies.pi05_expert import AdaptiveNorm, Expert, time_features
from prophrl_models.policies.pi05_prefix import PrefixModel, VisionTower
from prophrl_models.policies.pi05_prompt import TOKENIZER, Prompts, read_tokenizer
from prophrl_models.policies.pi05_weights import Translation
from prophrl_models.training.checkpoint import CheckpointError

SMALLEST_TIME = 1e-3
"""Flow times of training start here."""


class Pi05Policy(BackboneMixin, FlowPolicy):
    """See the file's head.

    Args:
        tokenizer: content of PaliGemma's ``tokenizer.json``.

    Raises:
        ValueError: a tokeniser that does not fit, or more action numbers than the model pads to.
    """

    kind = "pi05"
    head_prefixes = ("expert.", "action_in_proj.", "action_out_proj.", "time_mlp_in.", "time_mlp_out.")

    def __init__(self, spec: PolicySpec, config: Pi05Config, tokenizer: bytes) -> None:
        super().__init__(spec)
        c = self.pi05 = config
        if spec.action_dim > c.action_width:
            raise ValueError(f"pi0.5 denoises {c.action_width} numbers a step, the spec has {spec.action_dim} of them")
        self.prompts = Prompts(tokenizer, c.prompt_tokens, c.vocabulary)
        self.vision = VisionTower(c)
        self.projector = nn.Linear(c.vision_width, c.width)
        self.prefix = PrefixModel(c)
        self.expert = Expert(c)
        self.action_in_proj = nn.Linear(c.action_width, c.expert_width)
        self.action_out_proj = nn.Linear(c.expert_width, c.action_width)
        self.time_mlp_in = nn.Linear(c.expert_width, c.expert_width)
        self.time_mlp_out = nn.Linear(c.expert_width, c.expert_width)
        if c.weights == "bfloat16":
            self.to_bfloat16()

    def to_bfloat16(self) -> None:
        """Matrices in bfloat16. Norms, and all that touches time, noise or velocity, stay float32."""
        self.to(torch.bfloat16)
        kept: list[nn.Module] = [self.action_in_proj, self.action_out_proj, self.time_mlp_in, self.time_mlp_out]
        kept += [m for m in self.modules() if isinstance(m, (GemmaRMSNorm, AdaptiveNorm))]
        for module in kept:
            module.float()

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As in torch, but weights that nothing depends on stay frozen: distributed training waits for gradients."""
        super().requires_grad_(requires_grad)
        for parameter in self.prefix.idle_parameters():
            parameter.requires_grad_(False)
        return self

    @property
    def chain_shape(self) -> tuple[int, int]:
        return self.spec.chunk, self.pi05.action_width

    def config(self) -> dict[str, object]:
        return asdict(self.pi05)

    def assets(self) -> dict[str, bytes]:
        return {TOKENIZER: self.prompts.content}

    def lora_targets(self) -> list[str]:
        """Linear layers of vision and language, without those of the last language layer that nothing depends on."""
        idle = {id(parameter) for parameter in self.prefix.idle_parameters()}
        return [n for n in super().lora_targets() if id(self.get_submodule(n).weight) not in idle]

    def prepare(self, obs: ObservationBatch) -> Inputs:
        """Letterboxed pictures uint8 [B, 3, S, S], states, prompts as token ids [B, prompt_tokens].

        Raises:
            ValueError: the state has another width than the spec's or is not finite.
            UnknownInstruction: an instruction is empty or too long.
        """
        if tuple(obs.state_B7.shape) != (len(obs), self.spec.state_dim):
            raise ValueError(f"states need shape {(len(obs), self.spec.state_dim)}, got {tuple(obs.state_B7.shape)}")
        image = resize_with_pad(obs.image_BHW3.permute(0, 3, 1, 2), self.pi05.image_size)
        state = obs.state_B7.float()
        normalised = self.spec.state_scaling.normalise(state) if self.pi05.state_in_prompt else None
        instructions = [self.spec.prompt.format(instruction=text) for text in obs.instruction_B]
        return Inputs(image, state, self.prompts.encode(instructions, normalised).to(image.device))

    def embed(self, inputs: Inputs) -> Cond:
        """Keys and values of the prefix.

        ``extras`` holds ``cache`` [B, depth, 2, kv_heads, N, head_dim] and ``valid`` [B, N]. Nothing attends to tokens
        but through the cache, so ``tokens_BNE`` is empty; ``vector_BE`` is the mean hidden state, for who wants one.
        """
        pixels = self.projector(self.vision(inputs.image.float() / 127.5 - 1.0))
        words = self.prefix.embed(inputs.text)
        valid = torch.cat([inputs.text.new_ones(pixels.shape[:2], dtype=torch.bool), inputs.text >= 0], 1)
        hidden, cache = self.prefix(torch.cat([pixels, words.to(pixels.dtype)], 1), valid)
        weight = valid.float()[..., None] / valid.sum(1).float()[:, None, None]
        return Cond(hidden[:, :0], (hidden.float() * weight).sum(1), {"cache": cache, "valid": valid})

    def velocity(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        """See ``FlowPolicy``. Static shapes, no branch on values: compiles to one graph.

        Padding is zero in the action, so its velocity is known: x = t noise gives x / t. Left to the network, whom no
        loss of ours teaches it, padding would drift at run time to where training never was, and the likelihood of the
        chain would depend on the weights through numbers that log-probabilities leave out.
        """
        columns = self.spec.action_dim
        v = self.network_velocity(cond, x_BCD, t_B)
        padding = x_BCD[:, :, columns:].float() / t_B.clamp_min(SMALLEST_TIME)[:, None, None]
        return torch.cat([v[:, :, :columns], padding], 2)

    def network_velocity(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        """What the network itself says, padding included [B, CH, action_width], as the published model would."""
        with self.as_stored(x_BCD.device):
            x = self.action_in_proj(x_BCD.to(self.action_in_proj.weight.dtype)).to(self.expert.dtype)
            time = self.embed_time(t_B)
        hidden = self.expert(x, time, cond.extras["cache"], cond.extras["valid"])
        with self.as_stored(x_BCD.device):
            v: Tensor = self.action_out_proj(hidden.to(self.action_out_proj.weight.dtype))
        return v.float()

    def embed_time(self, t_B: Tensor) -> Tensor:
        """Flow time as the vector [B, expert_width] that modulates the expert's norms."""
        features = time_features(t_B, self.pi05.expert_width).to(self.time_mlp_in.weight.dtype)
        return F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(features))))

    @staticmethod
    def as_stored(device: torch.device) -> torch.autocast:
        """Ignore autocast and compute in the weights' dtype: bfloat16 is too coarse for time and velocity."""
        return torch.autocast(device.type, enabled=False)


def resize_with_pad(image_B3HW: Tensor, size: int) -> Tensor:
    """Pictures uint8 [B, 3, size, size]: shrunk or grown as a whole, black bars around.

    Bilinear with the filter widened when shrinking, as Pillow and JAX do and the published models were trained with.
    """
    height, width = image_B3HW.shape[2:]
    if (height, width) == (size, size):
        return image_B3HW.contiguous()
    ratio = max(height / size, width / size)
    inner = (int(height / ratio), int(width / ratio))
    image = F.interpolate(image_B3HW.float(), inner, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    bars = (left, size - inner[1] - left, top, size - inner[0] - top)
    return F.pad(image.round().clamp(0, 255), bars).to(torch.uint8)


def build(spec: PolicySpec, architecture: Mapping[str, Any], assets: Mapping[str, bytes]) -> Pi05Policy:
    """See ``policies.load.Builder``.

    Raises:
        CheckpointError: the tokeniser is missing.
    """
    if TOKENIZER not in assets:
        raise CheckpointError(f"pi0.5 needs the asset {TOKENIZER}, got {', '.join(assets) or 'none'}; restore the file")
    return Pi05Policy(spec, Pi05Config(**architecture), assets[TOKENIZER])


def from_official(
    folder: Path,
    spec: PolicySpec,
    *,
    config: Pi05Config | None = None,
    tokenizer: Path | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Pi05Policy, LoadReport]:
    """A policy with published weights, whose names and shapes must fit one to one.

    Args:
        folder: ``model.safetensors`` or shards with an index, of lerobot/pi05_* or of openpi's converter.
        config: sizes; the published ones when omitted. Set ``state_in_prompt`` as the weights were trained.
        tokenizer: file or folder of PaliGemma's tokeniser when it is not in ``folder``.
        device: where the weights go, tensor by tensor; "meta" checks names and shapes only.

    Raises:
        OfficialWeightsError: weights are missing, damaged, or do not fit.
        FileNotFoundError: there is no tokeniser.
    """
    content = read_tokenizer(Path(tokenizer) if tokenizer is not None else Path(folder))
    with torch.device("meta"):
        policy = Pi05Policy(spec, config or Pi05Config.full(), content)
    policy.to_empty(device=device)
    report = load_tensors(policy, read_safetensors(folder), Translation())
    report.raise_for_gaps()  # what nothing filled is uninitialised memory: never hand that out
    return policy.eval(), report
