"""Causal attention over the frames of a video or a trajectory, without positions: how many were seen is no evidence.

Scores fall with distance in time (ALiBi, Press et al. 2022). B rows, T frames, M width of a frame's token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TimeBlock(nn.Module):
    """Causal self-attention whose scores fall with distance in time, and a feed-forward layer; pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x_BTM: Tensor) -> Tensor:
        B, T, M = x_BTM.shape
        q, k, v = self.qkv(self.norm1(x_BTM)).view(B, T, 3, self.heads, M // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=_recency(T, self.heads, x_BTM))
        x = x_BTM + self.merge(mixed.transpose(1, 2).reshape(B, T, M))
        return x + self.feed(self.norm2(x))  # type: ignore[no-any-return]


def _recency(T: int, heads: int, like: Tensor) -> Tensor:
    """Additive mask [heads, T, T]: minus infinity on the future, a slope per head on the past; one head has none."""
    age = torch.arange(T, device=like.device)[:, None] - torch.arange(T, device=like.device)[None]
    slopes = torch.tensor([0.0, *(2.0**-n for n in range(heads - 1))], device=like.device, dtype=like.dtype)
    penalty = -slopes[:, None, None] * age
    return penalty.masked_fill(age < 0, float("-inf"))
