"""Attention of the video tokens to themselves and to the memory of past frames, and their rotary positions.

Heads come as [B, H, N, d]. Memory keys and values are prepended without rotary positions (spec 4.5). A gate g in
[H] scales what memory changes: with O_s the attention to the video alone and O_c the attention to memory and video
together,

    O = O_s + g (O_c - O_s)

so that g = 0 is the network without memory and g = 1 the plain concatenation. No path needs a bias inside the
kernel, so all of them run on flash attention.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EXPLICIT_SCORES = 512 * 512
"""Queries times keys up to which a CPU that learns in half precision keeps the scores, not to compute them again."""


def rotary_tables(
    size: tuple[int, int, int], head_dim: int, rope_scale: tuple[float, float, float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine [L h w, d / 2] of the rotary angle of each token, float32.

    The channels are shared out to latent time, rows and columns, in this order; the frequencies of each axis are
    10000 ** (-2 i / d_axis) after the NTK factor of ``rope_scale``. Time counts latent frames: the frame rate does
    not enter, because the released checkpoints were trained without it (diffusers' ``fps=None``).

    Args:
        size: tokens along (L, h, w).
    """
    spatial = head_dim // 6 * 2
    dims = (head_dim - 2 * spatial, spatial, spatial)
    angles = []
    for axis, (count, dim, scale) in enumerate(zip(size, dims, rope_scale, strict=True)):
        base = 10000.0 * scale ** (dim / (dim - 2))
        frequency = 1.0 / base ** (torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim)
        angle = torch.outer(torch.arange(count, device=device, dtype=torch.float32), frequency)  # [count, dim / 2]
        shape = [1, 1, 1, dim // 2]
        shape[axis] = count
        angles.append(angle.view(shape).expand(*size, -1))
    angle_Nd = torch.cat(angles, dim=-1).flatten(0, 2)
    return angle_Nd.cos(), angle_Nd.sin()


def rotate(x_BNHd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor) -> Tensor:
    """Turn the pairs (i, i + d / 2) of each head by the token's angles, in float32; the type of ``x`` is kept."""
    a, b = x_BNHd.float().chunk(2, dim=-1)
    cos, sin = cos_Nd[:, None], sin_Nd[:, None]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).type_as(x_BNHd)


def attend(q: Tensor, k: Tensor, v: Tensor, memory: tuple[Tensor, Tensor] | None, gate_H: Tensor | None) -> Tensor:
    """Attention [B, H, N, d] to the video and, where given, to memory keys and values [B, H, M, d].

    Args:
        gate_H: see above; None is fully open and costs one kernel call.
    """
    if memory is None:
        return _attention(q, k, v)
    k_memory, v_memory = memory
    if gate_H is None:
        return _together(q, k, v, k_memory, v_memory)
    gate = gate_H.to(q.dtype)[:, None, None]
    if not torch.is_grad_enabled() and _tells_mass(q):
        video, video_mass = _with_mass(q, k, v)
        past, past_mass = _with_mass(q, k_memory, v_memory)
        share = torch.sigmoid(past_mass - video_mass).to(q.dtype)[..., None]  # of memory in the joint softmax
        return torch.addcmul(video, gate * share, past - video)
    # Kernels do not differentiate the mass they report: for training the joint attention is formed itself.
    video = _attention(q, k, v)
    return torch.addcmul(video, gate.expand_as(video), _together(q, k, v, k_memory, v_memory) - video)


def _together(q: Tensor, k: Tensor, v: Tensor, k_memory: Tensor, v_memory: Tensor) -> Tensor:
    return _attention(q, torch.cat([k_memory, k], dim=2), torch.cat([v_memory, v], dim=2))


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's kernel, or the plain products where those are faster: the CPU kernel's way back takes twice as long."""
    learns = torch.is_grad_enabled() and q.requires_grad
    if learns and q.device.type == "cpu" and q.dtype is torch.bfloat16 and _scores(q, k) <= EXPLICIT_SCORES:
        weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2)).softmax(dim=-1)
        return torch.matmul(weights, v)
    return F.scaled_dot_product_attention(q, k, v)


def _scores(q: Tensor, k: Tensor) -> int:
    return int(q.shape[-2]) * int(k.shape[-2])


def _tells_mass(q: Tensor) -> bool:
    """Whether a kernel for these queries also returns the logarithm of the softmax's denominator."""
    return q.device.type == "cpu" or (q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16))


def _with_mass(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp [B, H, N], float32."""
    if q.device.type == "cpu":
        out, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    else:
        out, mass = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    return out, mass
