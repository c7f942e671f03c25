"""Memory of past frames: latent frames of the history pooled at several strides into tokens (spec 4.5).

Recent frames keep most detail ("recent_fine", FramePack's order), or the oldest ones do ("oldest_fine", the order in
which the released weights were trained). The tokens become keys and values that every block's self-attention sees
beside the video; they do not change over denoising steps, so ``Memory`` keeps them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree

from prophrl_models.prophet.config import MemoryConfig


@dataclass(frozen=True)
class Memory:
    """Keys and values of the memory tokens for every block: two tuples of tensors [B, H, M, d]."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def batch(self) -> int:
        return int(self.keys[0].shape[0])

    @property
    def tokens(self) -> int:
        """M."""
        return int(self.keys[0].shape[2])

    def select(self, rows: Tensor | slice) -> Memory:
        """The same memory for some rows of the batch."""
        return Memory(tuple(k[rows] for k in self.keys), tuple(v[rows] for v in self.values))

    def repeat(self, times: int) -> Memory:
        """Each row ``times`` times in succession."""
        return Memory(
            tuple(k.repeat_interleave(times, dim=0) for k in self.keys),
            tuple(v.repeat_interleave(times, dim=0) for v in self.values),
        )


def _flatten(memory: Memory) -> tuple[list[Tensor], None]:
    return [*memory.keys, *memory.values], None


def _unflatten(leaves: Iterable[Any], context: Any) -> Memory:
    tensors = tuple(leaves)
    half = len(tensors) // 2
    return Memory(tensors[:half], tensors[half:])


_pytree.register_pytree_node(Memory, _flatten, _unflatten, serialized_type_name="prophrl_models.prophet.memory.Memory")


def frame_levels(frames: int, levels: int, order: str) -> list[list[int]]:
    """Latent frames of each pooling level, finest first, ascending; frame 0 is the oldest.

    A frame i places from the fine end belongs to level min(round(log2(i + 1)), levels - 1): one frame to the first,
    one to the second, the others to the third.
    """
    chosen: list[list[int]] = [[] for _ in range(levels)]
    for frame in range(frames):
        place = frame if order == "oldest_fine" else frames - 1 - frame
        chosen[min(round(math.log2(place + 1)), levels - 1)].append(frame)
    return chosen


def token_count(frames: int, height: int, width: int, config: MemoryConfig) -> int:
    """M for a history of ``frames`` latent frames of ``height`` x ``width``."""
    total = 0
    levels = frame_levels(frames, len(config.strides), config.order)
    for chosen, (time, rows, columns) in zip(levels, config.strides, strict=True):
        total += -(-len(chosen) // time) * (height // rows) * (width // columns)
    return min(total, config.max_tokens)


def position_code(age_T: Tensor, row_R: Tensor, column_C: Tensor, width: int) -> Tensor:
    """Sines and cosines of when and where tokens are [T * R * C, width], by time, row and column; float32.

    Each axis has a third of the width, at wavelengths from 2 pi to 200 pi latent frames or pixels; the rest is 0.

    Args:
        age_T: latent frames before the newest of the history.
        row_R, column_C: latent pixels; centres of pooling windows may lie between two.
    """
    count = width // 6
    frequency = 100.0 ** -(torch.arange(count, device=age_T.device) / max(count, 1))

    def waves(place_P: Tensor) -> Tensor:
        angle = place_P.float()[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    size = (len(age_T), len(row_R), len(column_C), -1)
    parts = [
        waves(age_T)[:, None, None].expand(size),
        waves(row_R)[None, :, None].expand(size),
        waves(column_C)[None, None].expand(size),
    ]
    return F.pad(torch.cat(parts, dim=-1), (0, width - 6 * count)).flatten(0, 2)


class HistoryMemory(nn.Module):
    """Latent history to the inputs of every block's memory keys and values."""

    def __init__(self, config: MemoryConfig, channels: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.levels = nn.ModuleList(nn.Linear(channels, width) for _ in config.strides)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)

    def tokens(self, history_BCMHW: Tensor) -> Tensor:
        """Memory tokens [B, M', D]: finest level first, inside a level by time, row and column.

        Rows and columns that do not fill a pooling window are left out, as in the released network. Where a level
        pools over time and its frames do not fill a window, its oldest frame is repeated.
        """
        parts = []
        chosen = frame_levels(history_BCMHW.shape[2], len(self.levels), self.config.order)
        for frames, stride, project in zip(chosen, self.config.strides, self.levels, strict=True):
            if not frames:
                continue
            # The frames of a level are neighbours: a slice copies less than an index.
            level = history_BCMHW[:, :, frames[0] : frames[-1] + 1]
            if missing := -len(frames) % stride[0]:
                level = torch.cat([level[:, :, :1].expand(-1, -1, missing, -1, -1), level], dim=2)
            pooled = F.avg_pool3d(level.float(), stride, stride).to(self.to_k.weight.dtype)
            tokens = project(pooled.flatten(2).transpose(1, 2))
            if self.config.positions:
                shown = torch.tensor([frames[0]] * missing + frames, device=tokens.device, dtype=torch.float32)
                age = history_BCMHW.shape[2] - 1 - shown.unflatten(0, (-1, stride[0])).mean(dim=1)
                row, column = (
                    torch.arange(number, device=tokens.device) * step + (step - 1) / 2
                    for number, step in zip(pooled.shape[3:], stride[1:], strict=True)
                )
                tokens = tokens + position_code(age, row, column, tokens.shape[2]).to(tokens.dtype)
            parts.append(tokens)
        return torch.cat(parts, dim=1)[:, : self.config.max_tokens]

    def forward(self, history_BCMHW: Tensor) -> tuple[Tensor, Tensor]:
        """What the blocks project to their own memory keys and values: two tensors [B, M', D]."""
        tokens = self.tokens(history_BCMHW)
        return self.to_k(tokens), self.to_v(tokens)
