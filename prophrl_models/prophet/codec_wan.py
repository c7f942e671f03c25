"""Wan 2.1's causal video autoencoder as a codec: diffusers' ``AutoencoderKLWan`` with its published normalisation.

Latents are the mean of the posterior, (z - mean) / std per channel. The autoencoder is causal in time: a latent depends
on all frames up to its own, a decoded frame on all latents up to its own, so the first latents of a clip decode to its
first frames. Source of the facts: diffusers 0.42 (``models/autoencoders/autoencoder_kl_wan.py``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from prophrl_models.prophet.codec import Codec
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.training.checkpoint import CheckpointError

_ROWS_AT_ONCE = 8  # clips; bounds the memory of the decoder's widest layer
_TEMPORAL_DOWNSAMPLE = (False, True, True)


class WanCodec(Codec):
    """See the module's docstring; ``encode`` and ``decode`` follow ``Codec``.

    A history of M frames is encoded as a clip of M + 1 frames, the oldest twice, whose first latent is dropped: so its
    groups of four are those of ``data.windows``.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: CodecConfig) -> None:
        from diffusers import AutoencoderKLWan

        super().__init__(config)
        self.vae: Any = AutoencoderKLWan(
            base_dim=config.wan_base_dim,
            z_dim=config.latent_channels,
            dim_mult=list(config.wan_dim_mult),
            num_res_blocks=config.wan_res_blocks,
            temperal_downsample=list(_TEMPORAL_DOWNSAMPLE),
        )
        published = cast(Any, self.vae).config
        plain = len(published.latents_mean) != config.latent_channels  # a codec of another size has no published ones
        mean = [0.0] * config.latent_channels if plain else published.latents_mean
        std = [1.0] * config.latent_channels if plain else published.latents_std
        self.register_buffer("latent_mean", torch.tensor(mean))
        self.register_buffer("latent_std", torch.tensor(std))
        self._channels_last = False

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and latents."""
        return self.latent_mean.dtype

    @torch.no_grad()
    def encode(self, frames_BTHW3: Tensor) -> Tensor:
        self.check_frames(frames_BTHW3)
        self.config.latent_frames(frames_BTHW3.shape[1])
        return torch.cat([self._encode(rows) for rows in frames_BTHW3.split(_ROWS_AT_ONCE)])

    @torch.no_grad()
    def encode_history(self, frames_BTHW3: Tensor) -> Tensor:
        self.check_history(frames_BTHW3)
        return self.encode(torch.cat([frames_BTHW3[:, :1], frames_BTHW3], dim=1))[:, :, 1:].contiguous()

    @torch.no_grad()
    def decode(self, latent_BCLHW: Tensor) -> Tensor:
        self.check_latent(latent_BCLHW)
        return torch.cat([self._decode(rows) for rows in latent_BCLHW.split(_ROWS_AT_ONCE)])

    def _encode(self, frames_BTHW3: Tensor) -> Tensor:
        pixels_B3THW = (frames_BTHW3.float() / 127.5 - 1.0).to(self.dtype).permute(0, 4, 1, 2, 3)
        latent: Tensor = self.vae.encode(self._laid_out(pixels_B3THW)).latent_dist.mode()
        return (latent - _channels(self.latent_mean)) / _channels(self.latent_std)

    def _decode(self, latent_BCLHW: Tensor) -> Tensor:
        raw = latent_BCLHW.to(self.dtype) * _channels(self.latent_std) + _channels(self.latent_mean)
        pixels_B3THW: Tensor = self.vae.decode(self._laid_out(raw)).sample
        levels = (pixels_B3THW.float() * 127.5 + 127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)
        return levels.permute(0, 2, 3, 4, 1).contiguous()

    def _laid_out(self, x: Tensor) -> Tensor:
        """The memory layout that GPU convolutions like best; the weights are brought to it at first use."""
        if x.device.type != "cuda":
            return x.contiguous()
        if not self._channels_last:
            self.vae.to(memory_format=torch.channels_last_3d)
            self._channels_last = True
        return x.contiguous(memory_format=torch.channels_last_3d)


def load_wan(folder: str | Path) -> WanCodec:
    """The codec with published weights, from a local folder in diffusers' format: ``vae`` of a Wan 2.1 or Cosmos model.

    Raises:
        CheckpointError: no such folder, or an autoencoder of another architecture.
    """
    from diffusers import AutoencoderKLWan

    if not (Path(folder) / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no config.json; name the local folder 'vae' of a Wan 2.1 or Cosmos-Predict2 model in "
            "diffusers' format"
        )
    vae = AutoencoderKLWan.from_pretrained(str(folder), local_files_only=True, torch_dtype=torch.float32)
    found = vae.config
    config = CodecConfig(
        kind="wan",
        latent_channels=found.z_dim,
        wan_base_dim=found.base_dim,
        wan_dim_mult=tuple(found.dim_mult),
        wan_res_blocks=found.num_res_blocks,
    )
    codec = WanCodec(config)
    wanted = codec.vae.config
    if tuple(found.temperal_downsample) != _TEMPORAL_DOWNSAMPLE or found.patch_size != wanted.patch_size:
        raise CheckpointError(
            f"{folder} is not Wan 2.1's autoencoder (temporal downsampling {list(found.temperal_downsample)}, patch "
            f"{found.patch_size}); Wan 2.2's has another stride and is not supported"
        )
    codec.vae.load_state_dict(vae.state_dict())
    codec.latent_mean.copy_(torch.tensor(found.latents_mean))
    codec.latent_std.copy_(torch.tensor(found.latents_std))
    return codec.eval()


def _channels(values_C: Tensor) -> Tensor:
    return values_C.reshape(1, -1, 1, 1, 1)
