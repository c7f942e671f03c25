"""Instructions as hashed word tokens: a text encoder small enough to learn from a handful of sentences."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BUCKETS = 1024
MAX_WORDS = 16


def tokenise(instructions: Sequence[str]) -> Tensor:
    """Word ids [B, MAX_WORDS], 0 where the sentence has ended.

    A word's id is its CRC-32 folded into the buckets: stable over processes and machines, no vocabulary file.
    """
    ids = torch.zeros(len(instructions), MAX_WORDS, dtype=torch.long)
    for row, text in enumerate(instructions):
        words = re.findall(r"[a-z0-9]+", text.lower())[:MAX_WORDS]
        for column, word in enumerate(words):
            ids[row, column] = 1 + zlib.crc32(word.encode()) % (BUCKETS - 1)
    return ids


class WordEncoder(nn.Module):
    """Word ids [B, MAX_WORDS] to one vector [B, width]: mean of position-scaled embeddings, then a layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(BUCKETS, width, padding_idx=0)
        self.order = nn.Parameter(1.0 + 0.1 * torch.randn(MAX_WORDS, width))
        self.out = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, ids_BW: Tensor) -> Tensor:
        present = (ids_BW > 0).float()[..., None]
        mean = (self.words(ids_BW) * self.order * present).sum(1) / present.sum(1).clamp_min(1.0)
        vector: Tensor = self.out(mean)
        return vector
