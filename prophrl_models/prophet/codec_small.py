"""The small codec: 2-D convolutions over groups of four frames stacked in channels, for worlds that run on a CPU.

A group of four RGB frames is twelve channels; three times space-to-depth by two and a linear map bring it to 1/8 of
the size, with residual blocks in between. The decoder mirrors this. A single frame is a group of four copies, so every
latent depends on its own group only: a history never has to be encoded again because its groups moved.

``latent_mean`` and ``latent_std`` are measured after training: with them the latents of the training set's camera
pictures have mean 0 and deviation 1. There is no batch normalisation: a batch of a few crops, some of them black action
frames, is a bad measure of anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prophrl_models.prophet.codec import Codec
from prophrl_models.prophet.codec_config import CodecConfig

GROUP = 4
_DECODED_AT_ONCE = 64  # groups; bounds the memory of the widest layer


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x)))), the second convolution starting at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + y


class SmallEncoder(nn.Module):
    """Groups [N, 12, H, W] in -1 .. 1 to raw latents [N, C, H / 8, W / 8]."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3 * GROUP
        for level, (width, blocks) in enumerate(zip(config.encoder_widths, config.encoder_blocks, strict=True)):
            kernel = 3 if level == 0 else 1
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, kernel, padding=kernel // 2)]
            layers += [ResidualBlock(width) for _ in range(blocks)]
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, config.latent_channels, 1))

    def forward(self, group_NCHW: Tensor) -> Tensor:
        raw: Tensor = self.layers(group_NCHW)
        return raw


class SmallDecoder(nn.Module):
    """Latents [N, C, h, w] to groups [N, 12, 8 h, 8 w], about -1 .. 1."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        widths, blocks = config.decoder_widths[::-1], config.decoder_blocks[::-1]
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)]
        for level, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
            layers += [ResidualBlock(width) for _ in range(depth)]
            last = level == len(widths) - 1
            out, kernel = (3 * GROUP, 3) if last else (widths[level + 1], 1)
            layers += [nn.Conv2d(width, 4 * out, kernel, padding=kernel // 2), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent_NCHW: Tensor) -> Tensor:
        group: Tensor = self.layers(latent_NCHW)
        return group


class SmallCodec(Codec):
    """See the module's docstring; ``encode`` and ``decode`` follow ``Codec``."""

    groupwise = True
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.encoder = SmallEncoder(config)
        self.decoder = SmallDecoder(config)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and latents."""
        return self.latent_mean.dtype

    def raw_latents(self, group_NCHW: Tensor) -> Tensor:
        """Latents [N, C, h, w] before normalisation, float32; differentiable, used in training."""
        latent: Tensor = self.encoder(group_NCHW).float()
        return latent

    @torch.no_grad()
    def encode_groups(self, frames_B4HW3: Tensor) -> Tensor:
        """Latents [B, C, h, w] of groups of four frames.

        Raises:
            ValueError: not uint8 RGB [B, 4, H, W, 3] with sides that are multiples of 8.
        """
        self.check_frames(frames_B4HW3)
        if frames_B4HW3.shape[1] != GROUP:
            raise ValueError(f"a group has {GROUP} frames, got {frames_B4HW3.shape[1]}")
        parts = [self._encode(part) for part in frames_B4HW3.split(_DECODED_AT_ONCE)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    @torch.no_grad()
    def encode(self, frames_BTHW3: Tensor) -> Tensor:
        self.check_frames(frames_BTHW3)
        latent_frames = self.config.latent_frames(frames_BTHW3.shape[1])
        first = frames_BTHW3[:, :1].expand(-1, GROUP, -1, -1, -1)
        return self._encode_in_groups(torch.cat([first, frames_BTHW3[:, 1:]], dim=1), latent_frames)

    @torch.no_grad()
    def encode_history(self, frames_BTHW3: Tensor) -> Tensor:
        self.check_history(frames_BTHW3)
        return self._encode_in_groups(frames_BTHW3, frames_BTHW3.shape[1] // GROUP)

    @torch.no_grad()
    def decode(self, latent_BCLHW: Tensor) -> Tensor:
        frames = self._decode_all(latent_BCLHW)
        return torch.cat([frames[:, :1], frames[:, GROUP:]], dim=1)

    @torch.no_grad()
    def decode_generated(self, latent_BCLHW: Tensor) -> Tensor:
        return self._decode_all(latent_BCLHW[:, :, 1:])

    @torch.no_grad()
    def decode_last(self, latent_BCLHW: Tensor, frames: int = 1) -> Tensor:
        self._check_last(latent_BCLHW, frames)
        groups = -(-frames // GROUP)
        if groups >= latent_BCLHW.shape[2]:
            return self.decode(latent_BCLHW)[:, -frames:]
        return self._decode_all(latent_BCLHW[:, :, -groups:])[:, -frames:]

    def _encode_in_groups(self, frames_BTHW3: Tensor, groups: int) -> Tensor:
        B, _, H, W, _ = frames_BTHW3.shape
        latent_NCHW = self.encode_groups(frames_BTHW3.reshape(B * groups, GROUP, H, W, 3))
        return latent_NCHW.reshape(B, groups, *latent_NCHW.shape[1:]).transpose(1, 2)

    def _encode(self, frames_N4HW3: Tensor) -> Tensor:
        raw: Tensor = self.encoder(to_groups(frames_N4HW3, self.dtype))
        return (raw - _channels(self.latent_mean)) / _channels(self.latent_std)

    def _decode_all(self, latent_BCLHW: Tensor) -> Tensor:
        """Four frames for every latent frame [B, 4 L, H, W, 3]."""
        self.check_latent(latent_BCLHW)
        B, C, L, h, w = latent_BCLHW.shape
        latent_NCHW = latent_BCLHW.transpose(1, 2).reshape(B * L, C, h, w).to(self.dtype)
        raw = latent_NCHW * _channels(self.latent_std) + _channels(self.latent_mean)
        raw = raw.contiguous(memory_format=torch.channels_last)
        parts = [to_frames(self.decoder(part)) for part in raw.split(_DECODED_AT_ONCE)]
        return torch.cat(parts).reshape(B, L * GROUP, 8 * h, 8 * w, 3)


def to_groups(frames_N4HW3: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 groups [N, 4, H, W, 3] as network input [N, 12, H, W] in -1 .. 1, channels last in memory."""
    N, _, H, W, _ = frames_N4HW3.shape
    stacked_NHWC = frames_N4HW3.permute(0, 2, 3, 1, 4).reshape(N, H, W, 3 * GROUP)
    return (stacked_NHWC.float() / 127.5 - 1.0).to(dtype).permute(0, 3, 1, 2)


def to_frames(group_NCHW: Tensor) -> Tensor:
    """Inverse of ``to_groups``, rounded and clipped to uint8."""
    N, _, H, W = group_NCHW.shape
    levels = (group_NCHW.float() * 127.5 + 127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)
    return levels.reshape(N, GROUP, 3, H, W).permute(0, 1, 3, 4, 2)


def _channels(values_C: Tensor) -> Tensor:
    return values_C.reshape(1, -1, 1, 1)
