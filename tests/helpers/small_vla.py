"""A policy built like the big ones, with a transformer backbone of 20 thousand weights: for tests of the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prophrl_models.policies.backbone import BackboneMixin
from prophrl_models.policies.flow_head import FlowHead
from prophrl_models.policies.interface import Cond, FlowPolicy, Inputs, ObservationBatch, PolicySpec
from prophrl_models.policies.text import tokenise

KIND = "small_vla"
GRID = (6, 8)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        hidden = 2 * width
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x_BNE: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x_BNE)).chunk(3, dim=-1)
        x = x_BNE + self.out(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])
        after: Tensor = x + self.mlp(x)
        return after


class SmallVla(BackboneMixin, FlowPolicy):
    """Pictures as 6x8 patches of mean colour, words, state; three blocks; a flow head."""

    kind = KIND

    def __init__(self, spec: PolicySpec, width: int = 32, depth: int = 3) -> None:
        super().__init__(spec)
        self.sizes = {"width": width, "depth": depth}
        self.patch = nn.Linear(3, width)
        self.place = nn.Parameter(0.1 * torch.randn(GRID[0] * GRID[1], width))
        self.word = nn.Embedding(1024, width)
        self.state = nn.Linear(7, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = FlowHead(spec.action_dim, spec.chunk, width, 32, 2, 2, 2, 0.5)

    def config(self) -> dict[str, object]:
        return dict(self.sizes)

    def prepare(self, obs: ObservationBatch) -> Inputs:
        image = F.adaptive_avg_pool2d(obs.image_BHW3.permute(0, 3, 1, 2).float(), GRID).round().to(torch.uint8)
        return Inputs(image, obs.state_B7.float(), tokenise(obs.instruction_B))

    def embed(self, inputs: Inputs) -> Cond:
        colours = inputs.image.flatten(2).transpose(1, 2).float() / 127.5 - 1.0
        x = torch.cat([self.patch(colours) + self.place, self.word(inputs.text)], 1)
        for layer in self.layers:
            x = layer(x)
        vector = x.mean(1) + self.state(self.spec.state_scaling.normalise(inputs.state_B7))
        return Cond(x, vector)

    def velocity(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        v: Tensor = self.head(cond, x_BCD, t_B)
        return v


def build(spec: PolicySpec, architecture: Mapping[str, Any], assets: Mapping[str, bytes]) -> SmallVla:
    return SmallVla(spec, **architecture)
