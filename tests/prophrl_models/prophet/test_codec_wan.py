"""The Wan codec at a small size, with the genuine autoencoder class and random weights."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prophrl_models.prophet.codec import build_codec, load_codec, save_codec
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.prophet.codec_wan import WanCodec, load_wan
from prophrl_models.prophet.history import History
from prophrl_models.training.checkpoint import CheckpointError

TINY = CodecConfig(kind="wan", wan_base_dim=8, wan_dim_mult=(1, 1, 1, 1), wan_res_blocks=1)


@pytest.fixture(scope="module")
def codec() -> WanCodec:
    torch.manual_seed(0)
    built = build_codec(TINY)
    assert isinstance(built, WanCodec)
    for parameter in built.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return built.eval()


def clip_of(rows: int, frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (rows, frames, 16, 24, 3), dtype=torch.uint8, generator=generator)


def test_latents_are_the_posterior_mean_in_published_units(codec: WanCodec) -> None:
    from diffusers import AutoencoderKLWan

    published = inspect.signature(AutoencoderKLWan.__init__).parameters  # defaults are Wan 2.1's
    means, stds = published["latents_mean"].default, published["latents_std"].default
    clip = clip_of(2, 9)
    latent = codec.encode(clip)
    assert latent.shape == (2, 16, 3, 2, 3)
    with torch.no_grad():
        pixels = clip.permute(0, 4, 1, 2, 3).float() / 255.0 * 2.0 - 1.0
        z = codec.vae.encode(pixels).latent_dist.mean
    for channel in (0, 7, 15):
        expected = (z[:, channel] - means[channel]) / stds[channel]
        torch.testing.assert_close(latent[:, channel], expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        back = codec.vae.decode(z).sample.clamp(-1, 1)
    expected_frames = ((back + 1.0) * 127.5).permute(0, 2, 3, 4, 1)
    difference = codec.decode(latent).float() - expected_frames
    assert float(difference.abs().max()) <= 0.51  # rounding


def test_the_first_latents_of_a_clip_decode_to_its_first_frames(codec: WanCodec) -> None:
    """Rollouts that keep few frames rely on this."""
    latent = codec.encode(clip_of(1, 13))
    whole = codec.decode(latent)
    assert torch.equal(codec.decode_generated(latent[:, :, :2]), whole[:, 1:5])
    assert torch.equal(codec.decode_last(latent, 3), whole[:, -3:])
    torch.testing.assert_close(codec.encode(clip_of(1, 13)[:, :1]), latent[:, :, :1], rtol=1e-4, atol=1e-5)


def test_rows_are_independent(codec: WanCodec) -> None:
    clip = clip_of(10, 5)  # more than are encoded at a time
    latent = codec.encode(clip)
    torch.testing.assert_close(codec.encode(clip[3:4]), latent[3:4], rtol=1e-4, atol=1e-4)
    assert codec.decode(latent).shape == clip.shape


def test_a_history_has_a_latent_for_every_four_frames(codec: WanCodec) -> None:
    clip = clip_of(1, 8)
    history = codec.encode_history(clip)
    assert history.shape == (1, 16, 2, 2, 3)
    repeated = torch.cat([clip[:, :1], clip], dim=1)
    torch.testing.assert_close(history, codec.encode(repeated)[:, :, 1:])


def test_a_history_follows_the_frames_of_the_rollout(codec: WanCodec) -> None:
    tape = clip_of(2, 14)
    history = History.begin(tape[:, 0], 8, codec)
    history = history.extended(tape[:, 0], tape[:, 1:6], torch.tensor([5, 3]), codec)
    for row, now in ((0, 5), (1, 3)):
        index = torch.arange(now - 8, now).clamp(min=0)
        torch.testing.assert_close(
            history.latents(codec)[row], codec.encode_history(tape[row : row + 1, index])[0], rtol=1e-4, atol=1e-4
        )


def test_groups_cannot_be_encoded_alone(codec: WanCodec) -> None:
    assert not codec.groupwise
    with pytest.raises(NotImplementedError, match="depend on earlier frames"):
        codec.encode_groups(clip_of(1, 4))


def test_weights_in_diffusers_format_are_loaded(codec: WanCodec, tmp_path: Path) -> None:
    codec.vae.save_pretrained(tmp_path / "vae")
    again = load_wan(tmp_path / "vae")
    clip = clip_of(1, 5)
    assert torch.equal(again.encode(clip), codec.encode(clip)) and again.config == TINY
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_wan(tmp_path)


def test_the_codec_comes_back_from_its_folder(codec: WanCodec, tmp_path: Path) -> None:
    save_codec(tmp_path, codec, {})
    again, _ = load_codec(tmp_path)
    assert torch.equal(again.encode(clip_of(1, 1)), codec.encode(clip_of(1, 1)))


def test_the_default_architecture_is_wan_2_1() -> None:
    with torch.device("meta"):
        full = WanCodec(CodecConfig(kind="wan"))
    assert sum(p.numel() for p in full.vae.parameters()) == 126_892_531
