"""From dataset folders to what a world model trains on: cameras, latents, scaling of actions, and the record of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention
from calibration.storage import parse
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import json_sha256
from prophrl_models.data.image import WHOLE, ImageRegion, policy_camera
from prophrl_models.data.latents import LatentCache, LatentSpec
from prophrl_models.data.latents_build import Tell, build_latents
from prophrl_models.data.split import held_out_of_each
from prophrl_models.data.windows import WindowRule
from prophrl_models.policies.interface import Scaling
from prophrl_models.prophet.codec import Codec
from prophrl_models.prophet.config import MemoryConfig, NetworkConfig, ProphetConfig, preset
from prophrl_models.prophet.train_settings import ProphetTrainConfig
from prophrl_models.prophet.trained_on import RECORD as TRAINED_ON
from prophrl_models.prophet.trained_on import TrainedOn
from prophrl_models.training.settings import TrainingError


def open_datasets(folders: Sequence[str | Path]) -> list[Dataset]:
    """The datasets, all of the same convention, rate and image region.

    Raises:
        TrainingError: none, or they differ.
        DatasetError: one cannot be read.
    """
    datasets = [Dataset(folder) for folder in folders]
    if not datasets:
        raise TrainingError("no dataset to train on; name one or more folders made by 'prophrl dataset build'")
    for name in ("convention", "control_rate_hz", "image_region"):
        values = {getattr(dataset, name): dataset.folder for dataset in datasets}
        if len(values) > 1:
            said = ", ".join(f"{folder}: {getattr(value, 'name', value)}" for value, folder in values.items())
            raise TrainingError(f"datasets of different {name} ({said}); build them anew with the same one")
    return datasets


def dataset_cameras(dataset: Dataset, given: PinholeCamera | None = None) -> list[PinholeCamera | None]:
    """The camera of the policy images (240 x 320) of every episode.

    Args:
        given: camera of the policy images for episodes that were recorded without a calibration.

    Returns:
        None where no fixed camera is known: no calibration, or one that rides on the tool.
    """
    cameras: list[PinholeCamera | None] = []
    for position, row in enumerate(dataset.table):
        text = dataset.calibration_yaml(position)
        if text is None:
            cameras.append(given)
            continue
        calibration = parse(text.encode(), f"the calibration of episode {row.episode_id!r}")
        fixed = calibration.mode == "eye_to_hand"
        cameras.append(policy_camera(calibration.camera, dataset.image_region) if fixed else None)
    return cameras


def action_scaling(datasets: Sequence[Dataset], mode: str) -> Scaling:
    """Units of the scalar action stream: the range that holds each dataset's 1st .. 99th percentile as -1 .. 1.

    The opening stays as it is; channels that hardly vary are only shifted (see ``FeatureStatistics.scaling``).
    """
    if mode == "none":
        return Scaling((0.0,) * 7, (1.0,) * 7)
    found = [dataset.normalisation().action for dataset in datasets]
    widest = dataclasses.replace(
        found[0],
        q01=tuple(np.min([statistics.q01 for statistics in found], axis=0).tolist()),
        q99=tuple(np.max([statistics.q99 for statistics in found], axis=0).tolist()),
    )
    return Scaling(*widest.scaling("quantile"))


def network_config(base: NetworkConfig, changes: Mapping[str, Any]) -> NetworkConfig:
    """A network's configuration with some fields changed; ``memory`` may name some fields of ``MemoryConfig``.

    Raises:
        TrainingError: unknown fields or values.
    """
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
    }
    try:
        if isinstance(values.get("memory"), Mapping):
            memory = dict(values["memory"])
            if "strides" in memory:
                memory["strides"] = tuple(tuple(stride) for stride in memory["strides"])
            values["memory"] = dataclasses.replace(base.memory or MemoryConfig(), **memory)
        return dataclasses.replace(base, **values)
    except (TypeError, ValueError) as error:
        raise TrainingError(f"network: {error}") from error


def new_world(
    config: ProphetTrainConfig,
    codec: Codec,
    convention: ActionConvention,
    rate_hz: float,
    scaling: Scaling,
    region: ImageRegion = WHOLE,
) -> ProphetConfig:
    """The configuration of a world model that is trained from scratch.

    Raises:
        TrainingError: unknown preset, or sizes that do not go together.
    """
    try:
        base = preset(config.size)
        network = network_config(base.network, config.network)
        return dataclasses.replace(
            base,
            network=network,
            codec=codec.config,
            convention=convention,
            control_rate_hz=rate_hz,
            action_scaling=scaling,
            image_region=region,
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error


def continued_world(stored: ProphetConfig, config: ProphetTrainConfig, datasets: Sequence[Dataset]) -> ProphetConfig:
    """The configuration of a world model that goes on from a checkpoint: the stored one, with streams switched.

    Raises:
        TrainingError: the data means something else than what the checkpoint was trained on.
    """
    network = network_config(stored.network, config.network)
    if network.actions != stored.network.actions or network.action_dim != stored.network.action_dim:
        raise TrainingError(
            f"the checkpoint takes {stored.network.actions} actions of {stored.network.action_dim} numbers, the "
            f"settings ask for {network.actions} of {network.action_dim}; leave network.actions and action_dim out"
        )
    for dataset in datasets:
        if dataset.image_region != stored.image_region:
            raise TrainingError(
                f"{dataset.folder} shows {dataset.image_region} of the camera's picture, the checkpoint "
                f"{stored.image_region}; build the dataset with that region, or train from scratch"
            )
        if dataset.convention is not stored.convention:
            raise TrainingError(
                f"{dataset.folder} has actions in {dataset.convention.name}, the checkpoint reads "
                f"{stored.convention.name}; build the dataset with that convention, or train from scratch"
            )
        if abs(dataset.control_rate_hz / stored.control_rate_hz - 1.0) > 0.01:
            raise TrainingError(
                f"{dataset.folder} has {dataset.control_rate_hz:g} actions per second, the checkpoint was trained on "
                f"{stored.control_rate_hz:g}; build the dataset at that rate, or train from scratch"
            )
    return dataclasses.replace(stored, network=network)


def window_rule(world: ProphetConfig, config: ProphetTrainConfig) -> WindowRule:
    """The windows of a training run.

    Raises:
        TrainingError: windows that cannot be.
    """
    history = world.network.memory.frames if world.network.memory else 0
    try:
        return WindowRule(
            history=history,
            actions=world.network.actions,
            min_actions=min(config.clips.min_actions, world.network.actions),
            step=config.clips.step,
        )
    except ValueError as error:
        raise TrainingError(f"clips: {error}") from error


def latent_spec(world: ProphetConfig, config: ProphetTrainConfig, codec_hash: str) -> LatentSpec:
    """What is encoded for a training run.

    Raises:
        TrainingError: see ``window_rule``.
        LatentError: a history or chunk that is no whole number of latent frames.
    """
    return LatentSpec(
        image_height=world.image_height,
        image_width=world.image_width,
        codec_hash=codec_hash,
        action_frames=world.network.action_frames != "none",
        rule=window_rule(world, config),
        plumb_line=world.network.plumb_line and world.network.action_frames != "none",
    )


@dataclass(frozen=True)
class EncodedData:
    """Latent caches of the datasets, and what is to be remembered about them.

    Attributes:
        left_out: for each cache, the episodes that are kept from training.
        record: for the checkpoint's provenance.
    """

    caches: tuple[LatentCache, ...]
    left_out: tuple[tuple[int, ...], ...]
    record: Mapping[str, Any]


def encode_datasets(
    datasets: Sequence[Dataset],
    codec: Codec,
    codec_hash: str,
    world: ProphetConfig,
    config: ProphetTrainConfig,
    folder: Path,
    *,
    camera: PinholeCamera | None = None,
    tell: Callable[[str], Tell] = lambda name: lambda done, total: None,
) -> EncodedData:
    """Build or open the latent caches of all datasets; can be interrupted at any time.

    Args:
        folder: holds caches of any number of datasets and codecs.
        camera: of the policy images, for episodes recorded without a calibration.
        tell: gives, for a dataset's name, what is told about its progress.

    Raises:
        TrainingError: see ``window_rule``.
        LatentError: an episode without a camera where action frames are on.
        SplitError: nothing to hold out, or nothing left to train on.
    """
    spec = latent_spec(world, config, codec_hash)
    splits = held_out_of_each(datasets, config.held_out, config.split_seed)
    caches = []
    for dataset in datasets:
        cameras = dataset_cameras(dataset, camera)
        half = config.precision == "bf16" and codec.groupwise  # a big codec was made in float32 or knows its own type
        progress = tell(dataset.folder.name)
        caches.append(build_latents(dataset, codec, spec, folder, cameras=cameras, bfloat16=half, tell=progress))
    hashes = [dataset.content_hash for dataset in datasets]
    record = {
        "dataset_hash": hashes[0] if len(hashes) == 1 else json_sha256(hashes),
        "dataset_hashes": hashes,
        "datasets": [dataset.folder.name for dataset in datasets],
        "episodes": [len(dataset) for dataset in datasets],
        "windows": sum(len(cache) for cache in caches),
        "latents": [cache.folder.name for cache in caches],
        "calibration_ids": sorted({row.calibration_id for dataset in datasets for row in dataset.table}),
        "held_out": {"fraction": config.held_out, "seed": config.split_seed},
        TRAINED_ON: TrainedOn.of(
            dataset.table[position].episode_id
            for dataset, split in zip(datasets, splits, strict=True)
            for position in split.train
        ).to_json(),
    }
    return EncodedData(tuple(caches), tuple(split.held_out for split in splits), record)
