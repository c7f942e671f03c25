"""FlowScale: a weight for each denoising step, so that the last, nearly noiseless steps do not own the gradient.

The log-density of a step has a gradient of expected norm ~ 1 / std with respect to its mean, and std falls by a factor
of ten over a chain. Weights proportional to std make the expected norms equal. Where a weight may act, and why the
published objective does nothing, is told in ``rl.losses`` and docs/flowscale.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def flow_scale_weights(
    std_BSK: Tensor,
    *,
    power: float = 0.5,
    alpha: float = 0.3,
    w_min: float = 0.3,
    w_max: float = 2.0,
    eps: float = 1e-6,
) -> Tensor:
    """Weights of the denoising steps, without gradient:

        w~_k = (std_k^2 + eps)^power,   w_k = clip((1 - alpha) w~_k / mean_j w~_j + alpha, w_min, w_max)

    Their mean over k is 1 before the clip, and nothing is renormalised after it. Source: arXiv 2511.20633; power,
    alpha, clip and eps from its development code. ``power`` acts on the variance, so 0.5 makes weights proportional to
    std, which is what equal expected gradient norms ask for; alpha = 0 does so exactly, alpha = 1 means no weights.

    Args:
        std_BSK: standard deviation of each step [..., K]. Steps without noise (0) take part in the mean; where only
            some steps are stochastic, pass those alone.

    Raises:
        ValueError: a setting out of range.
    """
    if not math.isfinite(power):
        raise ValueError(f"power must be finite, got {power}; 0.5 makes weights proportional to std")
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must lie in [0, 1] (0 full weighting, 1 none), got {alpha}")
    if not 0.0 <= w_min <= w_max:
        raise ValueError(f"weights need 0 <= w_min <= w_max, got w_min={w_min}, w_max={w_max}")
    if eps < 0.0:
        raise ValueError(f"eps must not be negative, got {eps}")
    std = std_BSK.detach()
    if std.dtype not in (torch.float32, torch.float64):
        std = std.float()
    raw = (std.square() + eps).pow(power)
    mixed = (1.0 - alpha) * raw / raw.mean(dim=-1, keepdim=True) + alpha
    return mixed.clamp(w_min, w_max)


def step_gradient_norms(loss: Tensor, v_BSKCD: Tensor) -> Tensor:
    """Norm of the gradient of ``loss`` with respect to the velocity of each denoising step [K].

    The quantity FlowScale is meant to flatten. It needs no backward pass through the network: ``v_BSKCD`` is the
    network's output inside the graph of ``loss``, or the means, which leave out the factor d mean / d v.
    """
    (gradient,) = torch.autograd.grad(loss, v_BSKCD, retain_graph=True)
    return gradient.square().sum(dim=(0, 1, 3, 4)).sqrt()


def step_shares(values_K: Tensor) -> Tensor:
    """Each step's share of the sum of squares [K]: how much of the gradient's energy it has."""
    squares = values_K.square()
    total = squares.sum()
    return squares / torch.where(total > 0.0, total, torch.ones_like(total))
