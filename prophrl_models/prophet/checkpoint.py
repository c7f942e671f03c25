"""Checkpoints of the world model: a folder that is complete or absent, and checked when it is read.

model.safetensors   weights of the network, adapters merged
codec.safetensors   weights of the codec that its latents belong to
config.json         architecture of both, picture size, rate, convention, scaling of actions, and how to sample
normalisation.json  statistics of the data the scaling was made from; absent for converted weights
provenance.json     data, cameras, source revision, parent, and the SHA-256 of all other files
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prophrl_models.data.files import publish_tree, write_json
from prophrl_models.data.normalise import FILE_NAME as NORMALISATION
from prophrl_models.data.normalise import Normalisation
from prophrl_models.prophet.codec import Codec, build_codec
from prophrl_models.prophet.config import ProphetConfig
from prophrl_models.prophet.network import Prophet
from prophrl_models.training.checkpoint import CheckpointError, git_revision, sha256

FORMAT = 1
WEIGHTS, CODEC_WEIGHTS, CONFIG, PROVENANCE = (
    "model.safetensors",
    "codec.safetensors",
    "config.json",
    "provenance.json",
)
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
    network_state = _on_cpu(network.state_dict() if state is None else state)
    codec_state = _on_cpu(codec.state_dict())
    for name, value in (*network_state.items(), *codec_state.items()):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"weight {name} holds NaN or infinity; this training has failed, nothing is saved")
    with torch.device("meta"):
        _compare(network_state, Prophet(config.network).state_dict(), "the network's weights")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file(network_state, temporary / WEIGHTS, metadata={"format": "pt"})
        save_file(codec_state, temporary / CODEC_WEIGHTS, metadata={"format": "pt"})
        write_json(
            temporary / CONFIG,
            {"format": FORMAT, "prophet": config.to_json(), "sampling": asdict(sampling or Sampling())},
        )
        files = [WEIGHTS, CODEC_WEIGHTS, CONFIG]
        if normalisation is not None:
            normalisation.save(temporary)
            files.append(NORMALISATION)
        record = {
            "git_revision": git_revision(),
            "created_ns": time.time_ns(),
            "torch": torch.__version__,
            "parent": None,
            "codec_hash": state_sha256(codec_state),
            **provenance,
            "sha256": {name: sha256(temporary / name) for name in files},
        }
        write_json(temporary / PROVENANCE, record)
        older = folder.with_name(f".{folder.name}.old.{os.getpid()}")
        if folder.exists():
            os.replace(folder, older)
        publish_tree(temporary, folder)
        shutil.rmtree(older, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_prophet(
    folder: str | Path, device: torch.device | str = "cpu"
) -> tuple[Prophet, Codec, ProphetConfig, dict[str, Any]]:
    """Network and codec (both in ``eval`` mode, in their stored types), configuration and provenance of a checkpoint.

    Raises:
        CheckpointError: a file is missing or was altered, is of another format, or weights do not fit the
            configuration; names the file and what differs.
    """
    folder = Path(folder)
    provenance = _verified(folder)
    config = read_config(folder)
    with torch.device("meta"):
        network = Prophet(config.network)
    _fill(network, _weights(folder / WEIGHTS), folder / WEIGHTS, device)
    codec = build_codec(config.codec)
    _fill(codec, _weights(folder / CODEC_WEIGHTS), folder / CODEC_WEIGHTS, device)
    return network.eval(), codec.eval(), config, provenance


def read_config(folder: str | Path) -> ProphetConfig:
    """The configuration of a checkpoint, without its weights; errors as ``load_prophet``."""
    path = Path(folder) / CONFIG
    try:
        return ProphetConfig.from_json(_field(_config(path), "prophet", path))
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error!r}; was it written by another version?") from error


def read_sampling(folder: str | Path) -> Sampling:
    """How a checkpoint wants to be sampled; errors as ``load_prophet``."""
    path = Path(folder) / CONFIG
    raw = _field(_config(path), "sampling", path)
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


def _verified(folder: Path) -> dict[str, Any]:
    for name in (WEIGHTS, CODEC_WEIGHTS, CONFIG, PROVENANCE):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} has no {name}; a world model is a folder with {WEIGHTS}, {CODEC_WEIGHTS}, {CONFIG} and "
                f"{PROVENANCE}, as 'prophrl prophet train' writes it"
            )
    provenance = _read_json(folder / PROVENANCE)
    recorded = _field(provenance, "sha256", folder / PROVENANCE)
    for name in sorted({WEIGHTS, CODEC_WEIGHTS, CONFIG, *recorded}):
        if not (folder / name).is_file() or recorded.get(name) != sha256(folder / name):
            raise CheckpointError(f"{folder / name} is not the file that was saved (SHA-256 differs); copy it again")
    return provenance


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no {path.name} in {path.parent}; is it a world model's checkpoint folder?")
    config = _read_json(path)
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {config.get('format')!r}, this version reads {FORMAT}")
    return config


def _fill(module: nn.Module, state: Mapping[str, Tensor], path: Path, device: torch.device | str) -> None:
    """Give a module these tensors as they are; nothing may be missing or left over."""
    _compare(state, module.state_dict(), str(path))
    module.load_state_dict({name: value.to(device) for name, value in state.items()}, assign=True)
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


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _weights(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}; train the world model again") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def _field(values: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in values:
        raise CheckpointError(f"{path} has no field {name!r}; was it edited by hand? Train the world model again")
    return values[name]
