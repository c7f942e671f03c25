"""The noise that a world model is trained on, and the schedules it is sampled along.

One convention (learning notes, section 2.2): t = 1 is noise, t = 0 the clip, and the network predicts the velocity
v = noise - clip. The base model was written in terms of sigma = t / (1 - t), with x_sigma = clip + sigma * noise; its
input c_in * x_sigma is (1 - t) * clip + t * noise, so both say the same. Its loss, (1 + sigma)^2 / sigma^2 times the
squared error of the predicted clip, is the squared error of the velocity; ten times that is what it was trained on.

The first latent frame of a clip is known: it enters clean, with a time label of its own (``T_CONDITION``), and has no
loss. Latents are [B, C, L, h, w], time labels [B, L].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SIGMA_CONDITION = 1e-4
T_CONDITION = SIGMA_CONDITION / (1.0 + SIGMA_CONDITION)
"""Time label of the known frame."""
LOSS_SCALE = 10.0


@dataclass(frozen=True)
class NoiseOptions:
    """How training draws sigma: log-normal, times the square root of the clip's latent frames.

    Attributes:
        log_mean, log_std: of the logarithm of the log-normal factor.
        high_sigma_share: fraction of clips whose sigma is log-uniform in ``high_sigma`` instead.
        high_sigma: its limits.
    """

    log_mean: float = 0.0
    log_std: float = 1.0
    high_sigma_share: float = 0.0
    high_sigma: tuple[float, float] = (200.0, 1e5)

    def __post_init__(self) -> None:
        low, high = self.high_sigma
        if self.log_std <= 0.0 or not 0.0 <= self.high_sigma_share <= 1.0 or not 0.0 < low <= high:
            raise ValueError(f"need log_std > 0, a share in 0..1 and 0 < low <= high of high_sigma; got {self}")


@dataclass(frozen=True)
class NoisedClip:
    """Network input and target of one training step.

    Attributes:
        input_BCLHW: noised latents, frame 0 clean.
        t_BL: time labels, ``T_CONDITION`` at frame 0.
        target_BCLHW: velocity; of no meaning at frame 0.
    """

    input_BCLHW: Tensor
    t_BL: Tensor
    target_BCLHW: Tensor


def t_of_sigma(sigma: Tensor) -> Tensor:
    """Time label of a noise level, 0 .. 1."""
    return sigma / (1.0 + sigma)


def sigma_of_t(t: Tensor) -> Tensor:
    """Noise level of a time label; infinite at t = 1."""
    return t / (1.0 - t)


def draw_sigma(
    count: int,
    latent_frames: int,
    options: NoiseOptions = NoiseOptions(),
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Noise levels [count] of training clips with L latent frames; all randomness comes from ``generator``."""
    normal = torch.randn(count, generator=generator, device=device)
    share = torch.rand(count, generator=generator, device=device)
    place = torch.rand(count, generator=generator, device=device)
    sigma = (options.log_mean + options.log_std * normal).exp() * math.sqrt(latent_frames)
    low, high = (math.log(value) for value in options.high_sigma)
    return torch.where(share < options.high_sigma_share, (low + (high - low) * place).exp(), sigma)


def noised(clip_BCLHW: Tensor, noise_BCLHW: Tensor, t_B: Tensor) -> NoisedClip:
    """Network input, labels and target of clips at noise levels t [B]; frame 0 stays clean."""
    B, _, L = clip_BCLHW.shape[:3]
    t_BL = t_B.reshape(B, 1).repeat(1, L)
    t = t_BL[:, None, :, None, None].to(clip_BCLHW.dtype)
    mixed = (1.0 - t) * clip_BCLHW + t * noise_BCLHW
    t_BL[:, 0] = T_CONDITION
    return NoisedClip(with_condition(mixed, clip_BCLHW[:, :, :1]), t_BL, noise_BCLHW - clip_BCLHW)


def with_condition(latent_BCLHW: Tensor, condition_BC1HW: Tensor) -> Tensor:
    """Latents whose first frame is replaced by the known one, unscaled."""
    return torch.cat([condition_BC1HW.to(latent_BCLHW.dtype), latent_BCLHW[:, :, 1:]], dim=2)


def clip_of_velocity(input_BCLHW: Tensor, velocity_BCLHW: Tensor, t: Tensor | float) -> Tensor:
    """The clip that a predicted velocity implies: input - t * v (input in network scale)."""
    return input_BCLHW - t * velocity_BCLHW


def velocity_loss(
    predicted_BCLHW: Tensor,
    target_BCLHW: Tensor,
    valid_BL: Tensor | None = None,
    scale: float = LOSS_SCALE,
    weight_C: Tensor | None = None,
) -> Tensor:
    """Ten times the mean squared velocity error over the predicted latent frames, a scalar in float32.

    Args:
        valid_BL: weight of each latent frame (0: padding); frame 0 never counts.
        weight_C: of each channel's squared error, mean 1; None: all alike.

    Raises:
        ValueError: shapes differ, or the clip has no frame to predict.
    """
    if predicted_BCLHW.shape != target_BCLHW.shape or predicted_BCLHW.ndim != 5 or predicted_BCLHW.shape[2] < 2:
        raise ValueError(
            f"prediction {tuple(predicted_BCLHW.shape)} and target {tuple(target_BCLHW.shape)} must be the same "
            "[B, C, L, h, w] with at least two latent frames"
        )
    error = (predicted_BCLHW.float() - target_BCLHW.float()).square()
    if weight_C is not None:
        error = error * weight_C.to(error)[None, :, None, None, None]
    error_BL = error.mean(dim=(1, 3, 4))[:, 1:]
    if valid_BL is None:
        return scale * error_BL.mean()
    weight = valid_BL[:, 1:].to(error_BL.dtype)
    return scale * (error_BL * weight).sum() / weight.sum().clamp_min(1e-6)


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Falling noise levels [steps], both ends included, evenly spaced in sigma^(1 / rho); float64."""
    _check_levels(steps, sigma_min, sigma_max)
    ramp = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
    return torch.tensor([sigma_max], dtype=torch.float64) if steps == 1 else (high + ramp * (low - high)) ** rho


def flow_sigmas(steps: int, sigma_min: float, sigma_max: float, shift: float = 1.0) -> Tensor:
    """Noise levels [steps] of t = 1 - k / steps, moved towards noise by ``shift`` > 1 and kept within both limits.

    The last level is that of t = 1 / steps (shifted): the network's prediction there is taken for the clip.
    """
    _check_levels(steps, sigma_min, sigma_max)
    if shift <= 0.0:
        raise ValueError(f"shift must be positive (1 leaves the levels alone), got {shift}")
    t = 1.0 - torch.arange(steps, dtype=torch.float64) / steps
    t = shift * t / (1.0 + (shift - 1.0) * t)
    return sigma_of_t(t).clamp(sigma_min, sigma_max)


def _check_levels(steps: int, sigma_min: float, sigma_max: float) -> None:
    if steps < 1 or not 0.0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"a schedule needs at least one step and 0 < sigma_min < sigma_max, got {steps} steps, "
            f"{sigma_min} .. {sigma_max}; the base model's are 0.002 .. 80"
        )
