"""pi0.5's action expert: a small Gemma over the noisy actions that reads the prefix' keys and values.

Flow time enters through every norm (adaRMS): from the embedded time each norm makes scale, shift and gate.

    norm(x) * (1 + scale) + shift -> sublayer -> x + gate * that

Actions see the whole prefix and each other; the prefix never sees them, which is why it can be cached over the
denoising steps. Written after the published description and checked against plain einsum code in the tests; facts from
Physical-Intelligence/openpi (models/pi0.py, models/gemma.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import GemmaConfig
from transformers.models.gemma.modeling_gemma import GemmaMLP

from prophrl_models.policies.pi05_attention import Attention, Rotation, rotation
from prophrl_models.policies.pi05_config import Pi05Config

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0


def time_features(t_B: Tensor, width: int) -> Tensor:
    """Sines, then cosines [B, width] of flow time (1 noise, 0 action); periods 0.004 ... 4, geometric.

    Angles reach 1571 rad, too many for float32 to place well, so they are computed in float64.
    """
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=t_B.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    angle = t_B.double()[:, None] * (2.0 * math.pi / period)
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def rms_normalise(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x over its root mean square along the last axis, float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class AdaptiveNorm(nn.Module):
    """RMS norm whose scale, shift and gate are linear in the embedded time; zero at first, so layers add nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x_BCE: Tensor, time_BE: Tensor) -> tuple[Tensor, Tensor]:
        """Modulated tokens and the gate [B, 1, E] of what is made of them, in the tokens' dtype."""
        with torch.autocast(x_BCE.device.type, enabled=False):
            scale, shift, gate = self.dense(time_BE.to(self.dense.weight.dtype)).float()[:, None].chunk(3, dim=-1)
        return (rms_normalise(x_BCE) * (1.0 + scale) + shift).to(x_BCE.dtype), gate.to(x_BCE.dtype)


class ExpertLayer(nn.Module):
    """Attention and MLP, each behind an adaptive norm and a gate."""

    def __init__(self, c: Pi05Config) -> None:
        super().__init__()
        self.input_layernorm = AdaptiveNorm(c.expert_width)
        self.self_attn = Attention(c.expert_width, c.heads, c.kv_heads, c.head_dim)
        self.post_attention_layernorm = AdaptiveNorm(c.expert_width)
        self.mlp = GemmaMLP(GemmaConfig(hidden_size=c.expert_width, intermediate_size=c.expert_mlp))

    def forward(self, x_BCE: Tensor, time_BE: Tensor, cache_B2KND: Tensor, valid_B11M: Tensor, by: Rotation) -> Tensor:
        """One layer; ``valid_B11M`` covers the prefix' N keys, then the chunk's."""
        h, gate = self.input_layernorm(x_BCE, time_BE)
        k, v = self.self_attn.keys_values(h, by)
        k = torch.cat([cache_B2KND[:, 0].to(k.dtype), k], 2)
        v = torch.cat([cache_B2KND[:, 1].to(v.dtype), v], 2)
        x = x_BCE + gate * self.self_attn(h, k, v, valid_B11M, by)
        h, gate = self.post_attention_layernorm(x, time_BE)
        after: Tensor = x + gate * self.mlp(h)
        return after


class Expert(nn.Module):
    """All layers and the final adaptive norm."""

    def __init__(self, c: Pi05Config) -> None:
        super().__init__()
        self.head_dim = c.head_dim
        self.layers = nn.ModuleList(ExpertLayer(c) for _ in range(c.depth))
        self.norm = AdaptiveNorm(c.expert_width)

    @property
    def dtype(self) -> torch.dtype:
        """What the layers compute in."""
        return next(self.layers[0].get_submodule("self_attn.q_proj").parameters()).dtype

    def forward(self, x_BCE: Tensor, time_BE: Tensor, cache_BL2KND: Tensor, valid_BN: Tensor) -> Tensor:
        """Hidden states [B, C, E] of action tokens at the embedded time.

        Args:
            cache_BL2KND: keys and values of the prefix for each layer.
            valid_BN: prefix tokens that are not padding. The actions' positions go on where those end.
        """
        steps = torch.arange(x_BCE.shape[1], device=x_BCE.device)
        by = rotation(valid_BN.sum(1, keepdim=True) + steps, self.head_dim)
        visible = torch.cat([valid_BN, valid_BN.new_ones(x_BCE.shape[:2])], 1)[:, None, None, :]
        for i, layer in enumerate(self.layers):
            x_BCE = layer(x_BCE, time_BE, cache_BL2KND[:, i], visible, by)
        hidden: Tensor = self.norm(x_BCE, time_BE)[0]
        return hidden
