"""How much a latent channel shows, on a codec whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prophrl_models.prophet.channel_weights import channel_weights
from prophrl_models.prophet.codec import Codec
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.training.settings import TrainingError
from tests.helpers.prophet_data import new_codec

GAINS = (4.0, 16.0, 0.0)


class GainCodec(Codec):
    """Every pixel is 128 and, for each channel, its gain in grey levels for a latent of one."""

    groupwise = True

    def __init__(self, gains: tuple[float, ...] = GAINS) -> None:
        super().__init__(CodecConfig(latent_channels=len(gains)))
        self.register_buffer("gains", torch.tensor(gains))

    def encode(self, frames_BTHW3: Tensor) -> Tensor:
        raise NotImplementedError("it is only decoded here")

    encode_history = encode

    def decode(self, latent_BCLHW: Tensor) -> Tensor:
        level = 128.0 + (latent_BCLHW * self.gains[:, None, None, None]).sum(dim=1)
        frames = level.round().clamp(0, 255).to(torch.uint8).repeat_interleave(4, dim=1)[:, 3:]
        big = frames.repeat_interleave(8, 2).repeat_interleave(8, 3)
        return big[..., None].expand(*big.shape, 3)


def test_a_channel_weighs_as_much_as_it_shows() -> None:
    latent = torch.zeros(6, 3, 4, 6)  # whole grey levels: no rounding in the way
    torch.testing.assert_close(channel_weights(GainCodec(), latent), torch.tensor([0.6, 2.4, 0.0]))


def test_the_same_codec_and_latents_give_the_same_weights_with_mean_one() -> None:
    latent = torch.randn(4, 16, 4, 6, generator=torch.Generator().manual_seed(0))
    found = channel_weights(new_codec(), latent)
    assert found.shape == (16,) and float(found.mean()) == pytest.approx(1.0) and float(found.min()) > 0.0
    assert torch.equal(found, channel_weights(new_codec(), latent))


def test_codecs_that_cannot_be_weighed_are_refused() -> None:
    blind = GainCodec((0.0, 0.0))
    with pytest.raises(TrainingError, match="no latent channel changes"):
        channel_weights(blind, torch.zeros(2, 2, 4, 6))
    blind.groupwise = False
    with pytest.raises(TrainingError, match="channel_weighting: none"):
        channel_weights(blind, torch.zeros(2, 2, 4, 6))
