"""Attention that pi0.5's language model and its action expert share: grouped queries, rotary positions, key masks.

Nothing is causal: the prefix sees all of itself, the actions see prefix and each other. So the only mask says which
keys are padding, and the query heads that share a key head can be folded into the query axis: keys are read once, not
copied for every head, and every fused kernel of ``scaled_dot_product_attention`` applies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine [B, T, 1, head_dim / 2], float32."""

MAX_WAVELENGTH = 10_000.0


def rotation(positions_BT: Tensor, head_dim: int) -> Rotation:
    """Rotary angles of token positions; channel pairs are (i, i + head_dim / 2), as in Gemma."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions_BT.device) / head_dim
    angle = positions_BT.float()[:, :, None, None] / MAX_WAVELENGTH**exponent
    return angle.cos(), angle.sin()


def rotate(x_BTHD: Tensor, by: Rotation) -> Tensor:
    """Turn queries or keys to their positions, in float32, and return them in their own dtype."""
    cos, sin = by
    first, second = x_BTHD.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x_BTHD.dtype)


def attend(q_BTHD: Tensor, k_BKND: Tensor, v_BKND: Tensor, valid_B11N: Tensor) -> Tensor:
    """Read values: [B, T, H * D]. Query head h uses key head h // (H / K).

    Args:
        valid_B11N: True for keys that may be seen; at least one in each row.
    """
    B, T, H, D = q_BTHD.shape
    K = k_BKND.shape[1]
    q = q_BTHD.reshape(B, T, K, H // K, D).permute(0, 2, 3, 1, 4).reshape(B, K, H // K * T, D)
    read = F.scaled_dot_product_attention(q, k_BKND, v_BKND, attn_mask=valid_B11N, scale=D**-0.5)
    return read.reshape(B, K, H // K, T, D).permute(0, 3, 1, 2, 4).reshape(B, T, H * D)


class Attention(nn.Module):
    """Projections of one layer, without biases; names as in Gemma."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)

    def keys_values(self, x_BTE: Tensor, by: Rotation) -> tuple[Tensor, Tensor]:
        """Keys, turned to their positions, and values of tokens: [B, K, T, D] each."""
        k, v = (proj(x_BTE).unflatten(-1, (-1, self.head_dim)) for proj in (self.k_proj, self.v_proj))
        return rotate(k, by).transpose(1, 2), v.transpose(1, 2)

    def forward(self, x_BTE: Tensor, k_BKND: Tensor, v_BKND: Tensor, valid_B11N: Tensor, by: Rotation) -> Tensor:
        """What the tokens read from keys and values: [B, T, E]."""
        q = rotate(self.q_proj(x_BTE).unflatten(-1, (-1, self.head_dim)), by)
        read: Tensor = self.o_proj(attend(q, k_BKND, v_BKND, valid_B11N))
        return read
