"""Tiny VLA-Adapter and OpenVLA-OFT policies, their observations, and published folders that fit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from calibration.poses import ActionConvention
from prophrl_models.policies.interface import ObservationBatch, PolicySpec, Scaling
from prophrl_models.policies.openvla_oft import OpenVlaOftConfig, OpenVlaOftPolicy
from prophrl_models.policies.prismatic_policy import PrismaticPolicy
from prophrl_models.policies.prismatic_prompt import OPENVLA_PROMPT
from prophrl_models.policies.vla_adapter import VlaAdapterConfig, VlaAdapterPolicy
from tests.helpers.prismatic_layout import (
    head_shapes,
    main_shapes,
    proprio_shapes,
    random_tensors,
    write_part,
    write_shards,
)
from tests.helpers.tiny_tokenizer import tokenizer_json

KINDS = ("vla_adapter", "openvla_oft")
KNOWN = ("pick up the red cube", "push the blue block to the bowl", "open drawer")
Config = VlaAdapterConfig | OpenVlaOftConfig


def spec(**changes: Any) -> PolicySpec:
    """Chunks of six steps on 36 x 48 pictures."""
    action = Scaling((0.0,) * 6 + (0.5,), (0.01,) * 3 + (0.02,) * 3 + (0.5,))
    state = Scaling((-0.65, 0.0, 0.2, 3.1, 0.0, 1.57, 0.5), (0.1,) * 6 + (0.5,))
    values: Mapping[str, Any] = {"chunk": 6, "image_height": 36, "image_width": 48, "instructions": KNOWN, **changes}
    return PolicySpec(ActionConvention.ABSOLUTE_POSE_DIFFERENCE, action, state, **values)


def config(kind: str, full: bool = False) -> Config:
    """The tiny architecture of a kind, with a prompt that the tiny tokenizer can read; or the published one."""
    if full:
        return VlaAdapterConfig.full() if kind == "vla_adapter" else OpenVlaOftConfig.full()
    if kind == "vla_adapter":
        return replace(VlaAdapterConfig.tiny(), prompt=OPENVLA_PROMPT)
    return OpenVlaOftConfig.tiny()


def policy(kind: str, seed: int = 0, stirred: bool = True, full: bool = False, **changes: Any) -> PrismaticPolicy:
    """A policy with random weights; ``stirred``: also those that start at zero."""
    torch.manual_seed(seed)
    c, tokenizer = config(kind, full), tokenizer_json(bos=kind == "openvla_oft")
    made: PrismaticPolicy
    if isinstance(c, VlaAdapterConfig):
        made = VlaAdapterPolicy(spec(), replace(c, **changes), tokenizer)
    else:
        made = OpenVlaOftPolicy(spec(), replace(c, **changes), tokenizer)
    if stirred:
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def observations(rows: int, seed: int = 1) -> ObservationBatch:
    """Noise pictures, states near the typical one, all instructions in turn."""
    g = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (rows, 36, 48, 3), dtype=torch.uint8, generator=g)
    state = torch.tensor([-0.65, 0.0, 0.2, 3.1, 0.0, 1.57, 0.5]).repeat(rows, 1)
    state += torch.tensor([0.1] * 6 + [0.5]) * torch.randn(rows, 7, generator=g)
    return ObservationBatch(image, state, tuple(KNOWN[i % len(KNOWN)] for i in range(rows)))


def publish(folder: Path, kind: str, seed: int = 7) -> dict[str, torch.Tensor]:
    """Write a published folder for the tiny architecture; returns all tensors under full names."""
    c = config(kind)
    adapter = isinstance(c, VlaAdapterConfig)
    E = c.language.width
    queries = c.queries if isinstance(c, VlaAdapterConfig) else None
    main = random_tensors(main_shapes(c.vision, c.language, queries, lm_head=not adapter), seed)
    proprio = random_tensors(proprio_shapes(E, c.proprio_dim), seed + 1)
    head = random_tensors(head_shapes(7 * E, E, c.language.depth if adapter else 2, adapter), seed + 2)
    write_shards(folder, main, 1 if adapter else 3)
    step = "" if adapter else "150000_"
    write_part(folder, f"proprio_projector--{step}checkpoint.pt", proprio)
    write_part(folder, f"action_head--{step}checkpoint.pt", head)
    (folder / "tokenizer.json").write_bytes(tokenizer_json(bos=not adapter))
    proprio = {f"proprio_projector.{name}": value for name, value in proprio.items()}
    return {**main, **proprio, **{f"action_head.{name}": value for name, value in head.items()}}
