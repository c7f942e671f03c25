"""What a codec is made of: the settings from which ``codec.build_codec`` builds one, as ``config.json`` holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args
from typing import Literal as OneOf

CodecKind = OneOf["small", "wan"]


@dataclass(frozen=True)
class CodecConfig:
    """A codec's architecture.

    Attributes:
        kind: "small" (own, 2-D convolutions over four stacked frames) or "wan" (Wan 2.1's causal video autoencoder).
        latent_channels: channels C of a latent.
        stride: pixels along each side of a latent position.
        temporal: frames of a latent frame after the first.
        encoder_widths, decoder_widths: channels of the small codec at 1/2, 1/4 and 1/8 of the picture.
        encoder_blocks, decoder_blocks: residual blocks of the small codec at those three sizes.
        wan_base_dim, wan_dim_mult, wan_res_blocks: widths and depth of the Wan codec; the defaults are Wan 2.1's.
    """

    kind: CodecKind = "small"
    latent_channels: int = 16
    stride: int = 8
    temporal: int = 4
    encoder_widths: tuple[int, int, int] = (48, 64, 128)
    encoder_blocks: tuple[int, int, int] = (1, 1, 2)
    decoder_widths: tuple[int, int, int] = (48, 64, 128)
    decoder_blocks: tuple[int, int, int] = (1, 1, 2)
    wan_base_dim: int = 96
    wan_dim_mult: tuple[int, int, int, int] = (1, 2, 4, 4)
    wan_res_blocks: int = 2

    def __post_init__(self) -> None:
        if self.kind not in get_args(CodecKind):
            raise ValueError(f"unknown codec {self.kind!r}; choose one of {', '.join(get_args(CodecKind))}")
        if self.stride != 8 or self.temporal != 4:
            raise ValueError(
                f"both codecs have stride 8 and 4 frames a latent, got {self.stride} and {self.temporal}; "
                "leave these fields at their defaults"
            )
        sizes = (self.latent_channels, *self.encoder_widths, *self.decoder_widths, self.wan_base_dim)
        depths = (*self.encoder_blocks, *self.decoder_blocks, self.wan_res_blocks)
        if min(sizes) < 1 or min(depths) < 0:
            raise ValueError(f"widths must be at least 1 and depths at least 0, got {sizes} and {depths}")

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the latents of pictures of this size.

        Raises:
            ValueError: a side is no multiple of ``stride``.
        """
        if height < self.stride or width < self.stride or height % self.stride or width % self.stride:
            raise ValueError(
                f"pictures need sides that are multiples of {self.stride} pixels, got {height} x {width}; "
                "choose another image size in the configuration"
            )
        return height // self.stride, width // self.stride

    def latent_frames(self, frames: int) -> int:
        """Latent frames L of a clip of T = 1 + 4 n frames: the first alone, then four by four.

        Raises:
            ValueError: another number of frames.
        """
        if frames < 1 or (frames - 1) % self.temporal:
            raise ValueError(f"a clip has 1 + {self.temporal} n frames (1, 5, 9 .. 21), got {frames}")
        return 1 + (frames - 1) // self.temporal

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``config.json`` holds them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> CodecConfig:
        """Inverse of ``to_json``; absent fields have their defaults.

        Raises:
            ValueError: an unknown field or a value out of range.
        """
        known = {f.name for f in fields(CodecConfig)}
        unknown = sorted(set(raw) - known)
        if unknown:
            raise ValueError(f"unknown codec settings {unknown}; known are {sorted(known)}")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in raw.items()}
        return CodecConfig(**values)
