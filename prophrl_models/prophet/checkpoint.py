"""Checkpoints of the world model: a folder that is complete or absent, and checked when it is read.

model.safetensors   weights of the network, adapters merged
codec.safetensors   weights of the codec that its latents belong to
config.json         architecture of both, picture size, rate, convention, scaling of actions, and how to sample
normalisation.json  statistics of the data the scaling was made from; absent for converted weights
provenance.json     data, cameras, source revision, parent, and the SHA-256 of all other files
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from prophrl_models.data.files import write_json
from prophrl_models.data.normalise import FILE_NAME as NORMALISATION
from prophrl_models.data.normalise import Normalisation
from prophrl_models.prophet.codec import Codec, build_codec
from prophrl_models.prophet.config import ProphetConfig
from prophrl_models.prophet.network import Prophet
from prophrl_models.training.checkpoint import (
    CONFIG,
    PROVENANCE,
    WEIGHTS,
    CheckpointError,
    field_of,
    on_cpu,
    publish_folder,
    read_config_json,
    read_tensors,
    verified_provenance,
)

__all__ = [
    "CODEC_WEIGHTS",
    "CONFIG",
    "PROVENANCE",
    "WEIGHTS",
    "Sampling",
    "is_prophet",
    "load_prophet",
    "read_config",
    "read_sampling",
    "save_prophet",
    "state_sha256",
]

FORMAT = 1
CODEC_WEIGHTS = "codec.safetensors"
NEEDED = ("dataset_hashes", "calibration_ids")

Solver = Literal["ab2", "euler"]


@dataclass(frozen=True)
class Sampling:
    """How a checkpoint wants to be sampled.

    Attributes:
        steps: passes of the network for a chunk; 10 for a network trained as it is, at most 4 for a distilled one.
        solver: "ab2" or "euler"; a distilled network was taught the Euler steps between ``times``.
        times: the noise levels t it was distilled for, falling, ``steps`` of them (the last step ends at 0); empty:
            any schedule.
        short_clips: it was trained on clips of any length, so it need not imagine frames that nobody keeps.
    """

    steps: int = 10
    solver: Solver = "ab2"
    times: tuple[float, ...] = ()
    short_clips: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.solver not in get_args(Solver):
            raise ValueError(f"sampling needs at least one step and a solver of {get_args(Solver)}, got {self}")
        if self.times:
            falling = all(a > b for a, b in zip(self.times, self.times[1:], strict=False))
            if len(self.times) != self.steps or not falling or not 0.0 < self.times[-1] <= self.times[0] <= 1.0:
                raise ValueError(f"times must be {self.steps} falling numbers in (0, 1], got {self.times}")


def save_prophet(
    folder: str | Path,
    network: Prophet,
    codec: Codec,
    config: ProphetConfig,
    provenance: Mapping[str, Any],
    *,
    normalisation: Normalisation | None = None,
    sampling: Sampling | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint folder; an older one at the same place is replaced only when the new one is complete.

    Args:
        provenance: at least ``dataset_hashes`` and ``calibration_ids`` (lists; empty for converted weights); git
            revision, time, torch version and hashes are added.
        normalisation: statistics of the training data.
        sampling: how to sample it.
        state: the network's weights where they are not simply ``network.state_dict()``: gathered from several
            processes, or with adapters merged.

    Raises:
        CheckpointError: ``provenance`` lacks a key, a weight is not finite, or weights do not fit ``config``.
    """
    for key in NEEDED:
        if key not in provenance:
            raise CheckpointError(f"provenance needs the key {key!r}; pass what the world model was trained on")
    network_state = on_cpu(network.state_dict() if state is None else state)
    codec_state = on_cpu(codec.state_dict())
    for name, value in (*network_state.items(), *codec_state.items()):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"weight {name} holds NaN or infinity; this training has failed, nothing is saved")
    with torch.device("meta"):
        _compare(network_state, Prophet(config.network).state_dict(), "the network's weights")

    def fill(temporary: Path) -> list[str]:
        save_file(network_state, temporary / WEIGHTS, metadata={"format": "pt"})
        save_file(codec_state, temporary / CODEC_WEIGHTS, metadata={"format": "pt"})
        write_json(
            temporary / CONFIG,
            {"format": FORMAT, "prophet": config.to_json(), "sampling": asdict(sampling or Sampling())},
        )
        if normalisation is None:
            return [WEIGHTS, CODEC_WEIGHTS, CONFIG]
        normalisation.save(temporary)
        return [WEIGHTS, CODEC_WEIGHTS, CONFIG, NORMALISATION]

    return publish_folder(folder, fill, {"codec_hash": state_sha256(codec_state), **provenance})


def load_prophet(
    folder: str | Path, device: torch.device | str = "cpu"
) -> tuple[Prophet, Codec, ProphetConfig, dict[str, Any]]:
    """Network and codec, configuration and provenance of a checkpoint.

    Both are in ``eval`` mode and in their stored types, except that float16 becomes float32.

    Raises:
        CheckpointError: a file is missing or was altered, is of another format, or weights do not fit the
            configuration; names the file and what differs.
    """
    folder = Path(folder)
    what = (
        f"a world model is a folder with {WEIGHTS}, {CODEC_WEIGHTS}, {CONFIG} and {PROVENANCE}, as "
        "'prophrl prophet train' writes it"
    )
    provenance = verified_provenance(folder, (WEIGHTS, CODEC_WEIGHTS, CONFIG), what)
    config = read_config(folder)
    with torch.device("meta"):
        network = Prophet(config.network)
    _fill(network, read_tensors(folder / WEIGHTS), folder / WEIGHTS, device)
    codec = build_codec(config.codec)
    _fill(codec, read_tensors(folder / CODEC_WEIGHTS), folder / CODEC_WEIGHTS, device)
    return network.eval(), codec.eval(), config, provenance


def read_config(folder: str | Path) -> ProphetConfig:
    """The configuration of a checkpoint, without its weights; errors as ``load_prophet``."""
    path = Path(folder) / CONFIG
    try:
        return ProphetConfig.from_json(field_of(_config(path), "prophet", path))
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error!r}; was it written by another version?") from error


def read_sampling(folder: str | Path) -> Sampling:
    """How a checkpoint wants to be sampled; errors as ``load_prophet``."""
    path = Path(folder) / CONFIG
    raw = field_of(_config(path), "sampling", path)
    try:
        return Sampling(**{**raw, "times": tuple(raw["times"])})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: sampling {raw!r} cannot be used: {error}") from error


def is_prophet(folder: str | Path) -> bool:
    """Whether a folder looks like a world model's checkpoint."""
    return all((Path(folder) / name).is_file() for name in (WEIGHTS, CODEC_WEIGHTS, CONFIG, PROVENANCE))


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of tensors by name, type, shape and content: identifies weights whatever file holds them."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else b"")
    return digest.hexdigest()


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no {path.name} in {path.parent}; is it a world model's checkpoint folder?")
    return read_config_json(path, FORMAT)


def _fill(module: nn.Module, state: Mapping[str, Tensor], path: Path, device: torch.device | str) -> None:
    """Give a module these tensors as they are, packed ones unpacked; nothing may be missing or left over."""
    _compare(state, module.state_dict(), str(path))
    whole = {name: value.float() if value.dtype is torch.float16 else value for name, value in state.items()}
    module.load_state_dict({name: value.to(device) for name, value in whole.items()}, assign=True)
    module.to(device)
    missing = [name for name, value in module.named_buffers() if value.is_meta]
    if missing:
        raise CheckpointError(f"{path} does not hold the buffers {missing[:5]} and nothing else defines them")


def _compare(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> None:
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    other = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    if missing or unknown or other:
        raise CheckpointError(
            f"{where}: do not fit the configuration: {len(missing)} missing {missing[:4]}, {len(unknown)} unknown "
            f"{unknown[:4]}, other shapes {other[:4]}"
        )
