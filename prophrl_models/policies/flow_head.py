"""A light diffusion-transformer head: the velocity field of an action chunk, given a condition.

Tokens are the chunk's steps. Time and the condition's summary vector modulate every block (adaLN); the condition's
tokens enter by cross-attention. Output and modulation layers start at zero: training starts from identity blocks and
from the velocity of a Gaussian around rest.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prophrl_models.policies.interface import Cond


def time_features(t_B: Tensor, width: int) -> Tensor:
    """Sinusoidal features [B, width] of flow time in [0, 1]; periods from 2 pi / 1000 to 2 pi."""
    half = width // 2
    frequency = torch.exp(-math.log(1000.0) * torch.arange(half, device=t_B.device, dtype=torch.float32) / half)
    angle = 1000.0 * t_B.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class Attention(nn.Module):
    """Multi-head attention from queries [B, L, E] to a context [B, N, C]; no mask, no bias in the projections."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(context_width or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        B, L, E = x.shape
        N = context.shape[1]
        q = self.q(x).reshape(B, L, self.heads, -1).transpose(1, 2)
        k, v = self.kv(context).reshape(B, N, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        read: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, L, E))
        return read


class HeadBlock(nn.Module):
    """Self-attention, cross-attention and MLP, each shifted, scaled and gated by the modulation vector."""

    def __init__(self, width: int, heads: int, cond_width: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads, cond_width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * width, width)
        )
        self.modulation = nn.Linear(width, 9 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_BLE: Tensor, modulation_BE: Tensor, tokens_BNE: Tensor) -> Tensor:
        parts = self.modulation(modulation_BE)[:, None].chunk(9, dim=-1)
        x = x_BLE
        h = self.norm(x) * (1.0 + parts[1]) + parts[0]
        x = x + parts[2] * self.self_attention(h, h)
        h = self.norm(x) * (1.0 + parts[4]) + parts[3]
        x = x + parts[5] * self.cross_attention(h, tokens_BNE)
        h = self.norm(x) * (1.0 + parts[7]) + parts[6]
        after: Tensor = x + parts[8] * self.mlp(h)
        return after


class FlowHead(nn.Module):
    """Velocity [B, CH, D] of a noisy chunk [B, CH, D] at time t [B].

    Were actions distributed as N(mean, spread^2), the velocity would be known in closed form. The head predicts that
    mean from the condition alone, and the transformer corrects the closed form where actions are distributed otherwise
    (several modes, correlations). With x_t = t noise + (1 - t) action:

        variance = t^2 + (1 - t)^2 spread^2,   r = x_t - (1 - t) mean
        v = -mean + r (t - (1 - t) spread^2) / variance + (spread / sqrt(variance)) F(r / sqrt(variance), t)

    The factors around F are its conditional mean and deviation under that Gaussian, so F sees and answers numbers of
    size one at every t. The mean is learned by the same flow-matching loss, as fast as plain regression would learn it;
    a head that has to find it through the noise needs many times the steps.

    Args:
        cond_width: width of ``Cond.tokens_BNE`` and ``Cond.vector_BE``.
        width, depth, heads, mlp_ratio: size of the transformer.
        spread: deviation of actions about their mean that F starts from, in normalised units.
    """

    def __init__(
        self,
        action_dim: int,
        chunk: int,
        cond_width: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: int = 4,
        spread: float = 0.4,
    ) -> None:
        super().__init__()
        self.width, self.spread = width, spread
        self.mean = nn.Sequential(
            nn.Linear(cond_width, 2 * cond_width), nn.SiLU(), nn.Linear(2 * cond_width, chunk * action_dim)
        )
        self.embed = nn.Linear(action_dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, chunk, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.cond = nn.Linear(cond_width, width)
        self.blocks = nn.ModuleList(HeadBlock(width, heads, cond_width, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, action_dim)
        for layer in (self.mean[-1], self.modulation, self.out):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        t = t_B[:, None, None]
        mean = self.mean(cond.vector_BE).reshape(x_BCD.shape)
        variance = t.square() + ((1.0 - t) * self.spread).square()
        residual = x_BCD - (1.0 - t) * mean
        gain = (t - (1.0 - t) * self.spread**2) / variance
        correction = self.transform(cond, residual / variance.sqrt(), t_B)
        velocity: Tensor = gain * residual - mean + self.spread / variance.sqrt() * correction
        return velocity

    def transform(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        """The transformer F alone."""
        modulation = F.silu(self.time(time_features(t_B, self.width)) + self.cond(cond.vector_BE))
        x = self.embed(x_BCD) + self.position
        for block in self.blocks:
            x = block(x, modulation, cond.tokens_BNE)
        shift, scale = self.modulation(modulation)[:, None].chunk(2, dim=-1)
        correction: Tensor = self.out(self.norm(x) * (1.0 + scale) + shift)
        return correction
