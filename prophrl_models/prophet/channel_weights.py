"""How much each latent channel matters to the pictures: weights for a world model's loss.

A codec's channels all have deviation 1, and a plain loss counts an error in each alike. But one channel moves edges by
many grey levels and another hardly shows: what is to be right are the pictures. The weight of a channel is the root of
the mean squared change of the pixels for a change of one in that channel, at latents of real clips; their mean is 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prophrl_models.prophet.clips import ClipSource
from prophrl_models.prophet.codec import Codec
from prophrl_models.training.settings import TrainingError

GROUPS = 24
"""Latent frames it is measured on; each is decoded once for every channel."""
CHANGE = 0.5
"""Of a channel, in deviations: far above the rounding of pixels, and still where latents are."""


@torch.no_grad()
def channel_weights(codec: Codec, latent_NChw: Tensor) -> Tensor:
    """Weights [C] with mean 1, float32 on the CPU; the same numbers for the same codec and latents.

    Args:
        latent_NChw: latent frames of real clips, of a groupwise codec.

    Raises:
        TrainingError: the codec is not groupwise, or no channel changes the pictures.
    """
    if not codec.groupwise:
        raise TrainingError(
            f"channel weights need a codec whose latent frames are decoded one by one, and the {codec.config.kind!r} "
            "codec's are not; set channel_weighting: none"
        )
    device = next(codec.buffers()).device
    latent = latent_NChw.float().to(device)
    generator = torch.Generator().manual_seed(0)
    sign_N1hw = torch.randint(0, 2, (len(latent), 1, *latent.shape[2:]), generator=generator).to(device) * 2.0 - 1.0
    before = _decoded(codec, latent)
    squares = []
    for channel in range(latent.shape[1]):
        changed = latent.clone()
        changed[:, channel : channel + 1] += CHANGE * sign_N1hw
        squares.append(float((_decoded(codec, changed) - before).square().mean()) / CHANGE**2)
    root = torch.tensor(squares).sqrt()
    if not float(root.mean()) > 0.0:
        raise TrainingError("no latent channel changes the decoded pictures; this codec is not trained")
    return root / root.mean()


def training_latents(clips: ClipSource, groups: int = GROUPS) -> Tensor:
    """Latent frames [N, C, h, w] that training learns to predict, from its first batches."""
    found: list[Tensor] = []
    number = 0
    while sum(map(len, found)) < groups:
        batch = clips.batch(number)
        found.append(batch.latent_BCLHW.transpose(1, 2)[batch.valid_BL])
        number += 1
    return torch.cat(found)[:groups].float()


def _decoded(codec: Codec, latent_NChw: Tensor) -> Tensor:
    """Pictures of each latent frame [N, 4, H, W, 3], float."""
    pair_NC2hw = latent_NChw[:, :, None].expand(-1, -1, 2, -1, -1)
    return codec.decode_generated(pair_NC2hw).float()
