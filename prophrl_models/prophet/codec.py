"""Codecs: from pictures to the latents a world model predicts, and back.

Frames are uint8 RGB tensors [B, T, H, W, 3]; latents float tensors [B, C, L, h, w] whose channels have mean 0 and
standard deviation 1 over the codec's training pictures. A clip of T = 1 + 4 n frames has L = 1 + n latent frames: the
first frame alone, then groups of four. A history, the frames before the known one, has groups of four only, and its
number of frames is a multiple of four (60 frames, oldest first, give 15 latent frames).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prophrl_models.data.files import write_json
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.training.checkpoint import CheckpointError, sha256, write_atomically

WEIGHTS, CONFIG, PROVENANCE = "codec.safetensors", "codec.json", "codec_provenance.json"


class Codec(nn.Module, ABC):
    """Base of the codecs. Nothing here needs gradients: encoding and decoding run under ``torch.no_grad``.

    Attributes:
        config: the architecture.
        groupwise: True where every latent depends on its own four frames only, so that latents can be computed once
            for each frame and put together in any alignment.
    """

    groupwise: bool = False

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def stride(self) -> int:
        return self.config.stride

    @property
    def temporal(self) -> int:
        return self.config.temporal

    @abstractmethod
    def encode(self, frames_BTHW3: Tensor) -> Tensor:
        """Latents [B, C, L, h, w] of clips of T = 1 + 4 n frames.

        Raises:
            ValueError: not uint8 RGB, another number of frames, or sides that are no multiples of 8.
        """

    @abstractmethod
    def encode_history(self, frames_BTHW3: Tensor) -> Tensor:
        """Latents [B, C, T / 4, h, w] of the frames before the known one, oldest first; errors as ``encode``."""

    @abstractmethod
    def decode(self, latent_BCLHW: Tensor) -> Tensor:
        """Frames uint8 [B, 1 + 4 (L - 1), H, W, 3] of the latents of a clip."""

    def decode_generated(self, latent_BCLHW: Tensor) -> Tensor:
        """The frames after the first, uint8 [B, 4 (L - 1), H, W, 3]: what ``decode`` gives without its first frame."""
        return self.decode(latent_BCLHW)[:, 1:]

    def decode_last(self, latent_BCLHW: Tensor, frames: int = 1) -> Tensor:
        """The newest ``frames`` frames of a clip, uint8 [B, frames, H, W, 3], as cheaply as the codec allows.

        Raises:
            ValueError: more frames than the clip has, or none.
        """
        self._check_last(latent_BCLHW, frames)
        return self.decode(latent_BCLHW)[:, -frames:]

    def encode_groups(self, frames_B4HW3: Tensor) -> Tensor:
        """Latents [B, C, h, w] of groups of four frames; groupwise codecs only.

        Raises:
            NotImplementedError: a latent of this codec depends on what came before it.
        """
        raise NotImplementedError(f"latents of the {self.config.kind!r} codec depend on earlier frames; use encode()")

    def alone(self, known_BC1HW: Tensor) -> Tensor:
        """The known frame's latent without what was before it.

        Where it is a group of four frames: the group in which the newest of them stands still, by way of its picture.
        Other codecs' known latents are of one frame, and returned as they are.
        """
        if not self.groupwise:
            return known_BC1HW
        newest_B1HW3 = self.decode_generated(known_BC1HW.expand(-1, -1, 2, -1, -1))[:, -1:]
        still = self.encode_groups(newest_B1HW3.expand(-1, self.temporal, -1, -1, -1))
        return still[:, :, None].to(known_BC1HW)

    def check_frames(self, frames_BTHW3: Tensor) -> None:
        """Refuse what is not uint8 RGB [B, T, H, W, 3] with sides that are multiples of ``stride``."""
        shape = tuple(frames_BTHW3.shape)
        if frames_BTHW3.dtype != torch.uint8 or len(shape) != 5 or shape[4] != 3:
            raise ValueError(f"a codec reads RGB uint8 [B, T, H, W, 3], got {frames_BTHW3.dtype} {shape}")
        self.config.latent_size(shape[2], shape[3])

    def check_history(self, frames_BTHW3: Tensor) -> None:
        """Refuse a history that is not a whole number of groups."""
        self.check_frames(frames_BTHW3)
        count = frames_BTHW3.shape[1]
        if count < self.temporal or count % self.temporal:
            raise ValueError(f"a history has a multiple of {self.temporal} frames (the paper's 60), got {count}")

    def check_latent(self, latent_BCLHW: Tensor) -> None:
        """Refuse what is not a float tensor [B, C, L, h, w]."""
        shape = tuple(latent_BCLHW.shape)
        if latent_BCLHW.ndim != 5 or shape[1] != self.latent_channels or not latent_BCLHW.is_floating_point():
            raise ValueError(
                f"this codec's latents are float [B, {self.latent_channels}, L, h, w], got {latent_BCLHW.dtype} {shape}"
            )

    def _check_last(self, latent_BCLHW: Tensor, frames: int) -> None:
        self.check_latent(latent_BCLHW)
        available = 1 + self.temporal * (latent_BCLHW.shape[2] - 1)
        if not 1 <= frames <= available:
            raise ValueError(f"the clip has {available} frames, asked for the last {frames}")


def build_codec(config: CodecConfig) -> Codec:
    """A codec of this architecture with fresh weights."""
    if config.kind == "small":
        from prophrl_models.prophet.codec_small import SmallCodec

        return SmallCodec(config)
    from prophrl_models.prophet.codec_wan import WanCodec  # imports diffusers

    return WanCodec(config)


def save_codec(folder: str | Path, codec: Codec, provenance: Mapping[str, Any]) -> Path:
    """Write a codec into a folder: weights, architecture and where they come from. Returns the folder.

    The provenance file is written last and holds the hashes of the other two: without it the folder is no codec.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PROVENANCE).unlink(missing_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in codec.state_dict().items()}
    write_atomically(folder / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_json(folder / CONFIG, codec.config.to_json())
    hashes = {name: sha256(folder / name) for name in (WEIGHTS, CONFIG)}
    write_json(folder / PROVENANCE, {**provenance, "sha256": hashes})
    return folder


def load_codec(folder: str | Path, device: torch.device | str = "cpu") -> tuple[Codec, dict[str, Any]]:
    """(codec in ``eval`` mode, provenance) from a folder that ``save_codec`` wrote.

    Raises:
        CheckpointError: a file is missing, altered or does not fit the others.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG, PROVENANCE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}; train a codec with 'prophrl prophet codec'")
    provenance = _read(folder / PROVENANCE)
    for name in (WEIGHTS, CONFIG):
        if provenance.get("sha256", {}).get(name) != sha256(folder / name):
            raise CheckpointError(f"{folder / name} is not the file that was saved (SHA-256 differs); copy it again")
    try:
        codec = build_codec(CodecConfig.from_json(_read(folder / CONFIG)))
        codec.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: weights and settings do not fit: {error}; train the codec again") from error
    return codec.to(device).eval(), provenance


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
