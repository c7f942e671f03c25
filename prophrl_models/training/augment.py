"""What is varied in a training batch: light, sharpness, and where the hand happens to be.

The hand's place is varied together with the actions: a displaced state gets the demonstrated motion plus the way back
to it. So the policy learns to return to the demonstrated path, which no flawless demonstration shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from calibration.poses import ActionConvention
from prophrl_models.policies.interface import Inputs, TrainingBatch
from prophrl_models.training.settings import TrainingError


@dataclass(frozen=True)
class AugmentOptions:
    """Strength of the variations; zeros turn them off.

    Attributes:
        brightness, contrast, colour: relative standard deviations of gain, contrast and per-channel gain.
        pixel_noise: standard deviation of pixel noise (0-255 scale).
        position_m: standard deviation of the hand's displacement, along each axis.
        return_steps: steps over which the way back is spread.
        coarse_share: part of the rows whose picture is resampled coarsely, as a world model of small pictures shows it;
            for policies that are to be reinforced in one.
        coarse_scale: the coarsest such picture, relative to the policy's.
    """

    brightness: float = 0.1
    contrast: float = 0.1
    colour: float = 0.04
    pixel_noise: float = 3.0
    position_m: float = 0.008
    return_steps: int = 6
    coarse_share: float = 0.0
    coarse_scale: float = 0.5


def check_augment(options: AugmentOptions, convention: ActionConvention) -> None:
    """Refuse variations that would teach the wrong motion.

    Raises:
        TrainingError: hands are to be displaced, but actions are not in the base frame.
    """
    if convention is ActionConvention.LOCAL_FRAME_DELTA and options.position_m > 0.0:
        raise TrainingError(
            f"augment.position_m ({options.position_m:g}) displaces hands in the base frame, local deltas need 0; set "
            "it to 0"
        )


def vary_light(image_BCHW: Tensor, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """Images (any range 0-255) with each row's own exposure, contrast and tint; float32."""
    B, C = image_BCHW.shape[:2]
    image = image_BCHW.float()
    draws = torch.randn(B, 2 + C, 1, 1, generator=generator)
    gain = 1.0 + options.brightness * draws[:, :1] + options.colour * draws[:, 2:]
    contrast = 1.0 + options.contrast * draws[:, 1:2]
    middle = 112.0
    image = image * (gain * contrast) + middle * (1.0 - contrast)
    if options.pixel_noise > 0.0:
        # One field of noise for the batch, shifted for each row: a full draw would cost as much as a convolution.
        field = options.pixel_noise * torch.randn(1, *image.shape[1:], generator=generator)
        shifts = torch.randint(0, image.shape[-1], (B,), generator=generator).tolist()
        image = image + torch.cat([field.roll(shift, dims=-1) for shift in shifts])
    return image


def coarsen(image_BCHW: Tensor, options: AugmentOptions, generator: torch.Generator) -> Tensor:
    """Images of which ``coarse_share`` went through a smaller size, between ``coarse_scale`` and their own."""
    height, width = image_BCHW.shape[2:]
    scale = options.coarse_scale + (1.0 - options.coarse_scale) * float(torch.rand((), generator=generator))
    chosen = torch.rand(len(image_BCHW), generator=generator) < options.coarse_share
    if not chosen.any():
        return image_BCHW
    small = F.interpolate(
        image_BCHW[chosen], (max(1, round(scale * height)), max(1, round(scale * width))), mode="area"
    )
    image = image_BCHW.clone()
    image[chosen] = F.interpolate(small, (height, width), mode="bilinear", align_corners=False)
    return image


def displace_hand(
    state_B7: Tensor, chunk_BCD: Tensor, options: AugmentOptions, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Displace TCP positions and lead the chunks back over the first ``return_steps`` steps.

    A row whose gripper moves within its first half chunk keeps its place: an error there must not be imitated.
    """
    B, CH, _ = chunk_BCD.shape
    opening = chunk_BCD[:, : CH // 2, 6]
    still = (opening.amax(1) - opening.amin(1) < 0.2) & ((opening[:, 0] - state_B7[:, 6]).abs() < 0.6)
    offset = options.position_m * torch.randn(B, 3, generator=generator) * still.float()[:, None]
    back = torch.zeros(CH)
    back[: options.return_steps] = 1.0 / options.return_steps
    state, chunk = state_B7.clone(), chunk_BCD.clone()
    state[:, :3] += offset
    chunk[:, :, :3] -= offset[:, None] * back[None, :, None]
    return state, chunk


def augment(batch: TrainingBatch, options: AugmentOptions, generator: torch.Generator) -> TrainingBatch:
    """A varied copy of a batch (positions must be additive: any convention whose deltas are in the base frame)."""
    image = vary_light(batch.inputs.image, options, generator)
    if options.coarse_share > 0.0:
        image = coarsen(image, options, generator)
    state, chunk = batch.inputs.state_B7, batch.actions_BCD
    if options.position_m > 0.0:
        state, chunk = displace_hand(state, chunk, options, generator)
    return replace(batch, inputs=Inputs(image, state, batch.inputs.text), actions_BCD=chunk)
