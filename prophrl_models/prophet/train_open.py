"""What a world model's training starts from: codec, configuration, first weights and clips, each found or refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from calibration.camera import PinholeCamera
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import json_sha256
from prophrl_models.data.latents_build import Tell, check_cameras
from prophrl_models.data.mixture import Mixture
from prophrl_models.data.mixture_config import load_mixture
from prophrl_models.data.split import held_out_of_each
from prophrl_models.prophet.checkpoint import WEIGHTS, is_prophet, load_prophet, read_config, state_sha256
from prophrl_models.prophet.clips import CachedClips, ClipSource
from prophrl_models.prophet.clips_mixture import MixtureClips
from prophrl_models.prophet.codec import PROVENANCE as CODEC_PROVENANCE
from prophrl_models.prophet.codec import Codec, load_codec
from prophrl_models.prophet.codec_train import CodecTrainOptions, train_codec
from prophrl_models.prophet.config import ProphetConfig, preset
from prophrl_models.prophet.network import MEMORY_GATE, NEW_MODULES, Prophet
from prophrl_models.prophet.train_data import (
    EncodedData,
    action_scaling,
    continued_world,
    dataset_cameras,
    encode_datasets,
    latent_spec,
    network_config,
    new_world,
)
from prophrl_models.prophet.train_settings import ProphetTrainConfig
from prophrl_models.prophet.trained_on import CODEC_RECORD as CODEC_TRAINED_ON
from prophrl_models.prophet.trained_on import RECORD as TRAINED_ON
from prophrl_models.prophet.trained_on import TrainedOn
from prophrl_models.training.distributed import ALONE, Processes
from prophrl_models.training.loop import Progress
from prophrl_models.training.lora import choose_trained
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.vla import set_precision

CHECKPOINT_FOLDER, CODEC_FOLDER, LATENTS_FOLDER = "prophet", "codec", "latents"
INDEX_FOLDER = "mixture_index"

Resume = Literal["automatic", "required", "never"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Origin:
    """What a run starts from.

    Attributes:
        init: checkpoint whose weights and codec to go on from; None: from scratch.
        codec: folder of a codec; None: the checkpoint's, or one is trained.
        latents: folder for encoded datasets, for use by several runs; None: in the run's own.
        camera: camera of the policy images (240 x 320), for episodes that were recorded without a calibration.
    """

    init: Path | None = None
    codec: Path | None = None
    latents: Path | None = None
    camera: PinholeCamera | None = None


def check_start(out_dir: Path, resume: Resume) -> None:
    """Whether a run may begin or go on in this folder.

    Raises:
        TrainingError: it has finished, or ``resume`` forbids what would happen.
    """
    unfinished = any(out_dir.glob("resume*.safetensors"))
    if (out_dir / CHECKPOINT_FOLDER).exists() and not unfinished:
        raise TrainingError(
            f"{out_dir} holds a finished training; use a new output folder, and --init {out_dir / CHECKPOINT_FOLDER} "
            "to go on from its weights"
        )
    if unfinished and resume == "never":
        raise TrainingError(
            f"{out_dir} holds an unfinished run; leave --resume out to continue it, or use a new folder"
        )
    if not unfinished and resume == "required":
        raise TrainingError(f"{out_dir} holds no unfinished run to continue; leave --resume out to begin one")


def check_settings(datasets: Sequence[Dataset], config: ProphetTrainConfig, origin: Origin) -> None:
    """Refuse, before a codec is trained for an hour, what would be refused after it.

    Raises:
        TrainingError, LatentError, SplitError: see ``new_world`` and ``encode_datasets``.
    """
    if origin.init is not None:
        return  # no codec is trained then, and the checkpoint is compared with the data soon enough
    try:
        base = preset(config.size)
        world = dataclasses.replace(base, network=network_config(base.network, config.network))
    except ValueError as error:
        raise TrainingError(str(error)) from error
    latent_spec(world, config, "")
    if datasets:
        held_out_of_each(datasets, config.held_out, config.split_seed)
    for dataset in datasets:
        if world.network.action_frames != "none":
            check_cameras(dataset, dataset_cameras(dataset, origin.camera))


def open_codec(
    datasets: Sequence[Dataset],
    out_dir: Path,
    config: ProphetTrainConfig,
    origin: Origin,
    *,
    say: Say = lambda line: None,
    report: Callable[[Progress], None] | None = None,
    processes: Processes = ALONE,
) -> Codec:
    """The codec of a run: the one given, the checkpoint's, the run's own, or a new one that is trained now.

    Args:
        report: told about every log line of the codec's training.

    Raises:
        TrainingError: there is none and none can be trained here.
        CheckpointError: it cannot be read.
    """
    if origin.codec is not None:
        if origin.init is not None:
            raise TrainingError("--init brings its own codec, whose latents its weights know; leave --codec out")
        return load_prophet(origin.codec)[1] if is_prophet(origin.codec) else load_codec(origin.codec)[0]
    if origin.init is not None:
        return load_prophet(origin.init)[1]
    own = out_dir / CODEC_FOLDER
    if (own / CODEC_PROVENANCE).is_file():
        return load_codec(own)[0]
    if not datasets or processes.world > 1:
        raise TrainingError(
            "no codec: give one with --codec (a folder made by 'prophrl prophet codec' or a world model's checkpoint); "
            "it is trained along only from dataset folders, by a run of one process"
        )
    say(f"trains a codec in {own}")
    folders = [dataset.folder for dataset in datasets]
    train_codec(
        folders,
        own,
        preset(config.size).codec,
        codec_options(config),
        camera=origin.camera,
        held_out=config.held_out,
        split_seed=config.split_seed,
        device=processes.device,
        report=report,
    )
    return load_codec(own)[0]


def codec_options(config: ProphetTrainConfig) -> CodecTrainOptions:
    """The codec's training settings for pictures of the preset's size.

    Raises:
        TrainingError: unknown preset, or a crop that does not fit.
    """
    try:
        base = preset(config.size)
        return dataclasses.replace(config.codec, image_height=base.image_height, image_width=base.image_width)
    except ValueError as error:
        raise TrainingError(f"codec: {error}") from error


def open_mixture(
    config: ProphetTrainConfig, processes: Processes = ALONE, out_dir: Path | None = None
) -> Mixture | None:
    """The mixture of the settings, with their batch size; all processes work on one dataset at a time.

    Args:
        out_dir: the run's folder, which keeps the lengths of the episodes where the mixture names no place for them.
    """
    if not config.mixture:
        return None
    settings = load_mixture(config.mixture)
    if settings.index is None and out_dir is not None:
        settings = dataclasses.replace(settings, index=out_dir / INDEX_FOLDER)
    return Mixture(dataclasses.replace(settings, batch_size=config.micro_batch, run_length=processes.world))


def mixture_episodes(mixture: Mixture) -> TrainedOn:
    """The episodes that a mixture has windows of."""
    return TrainedOn.of(
        source.dataset.lasting_name(int(number))
        for source in mixture.sources
        for number in np.flatnonzero(source.rule.count(source.index.frames_E))
    )


def open_world(
    datasets: Sequence[Dataset], mixture: Mixture | None, codec: Codec, config: ProphetTrainConfig, origin: Origin
) -> ProphetConfig:
    """The configuration of the run's world model; errors as ``new_world`` and ``continued_world``."""
    if origin.init is not None:
        return continued_world(read_config(origin.init), config, datasets)
    if mixture is not None:
        first = mixture.sources[0]  # that the others mean the same is checked where clips are drawn
        return new_world(config, codec, first.convention, first.rate_hz, action_scaling((), "none"))
    scaling, first_of = action_scaling(datasets, config.action_scaling), datasets[0]
    return new_world(config, codec, first_of.convention, first_of.control_rate_hz, scaling, first_of.image_region)


def open_network(world: ProphetConfig, config: ProphetTrainConfig, init: Path | None) -> Prophet:
    """A network with first weights, in which exactly what trains requires a gradient.

    Raises:
        CheckpointError: the weights to start from cannot be read.
        TrainingError: they lack more than the streams that were switched on.
    """
    if init is None:
        network = Prophet(world.network)
        network.init_weights(torch.Generator().manual_seed(config.loop.seed))
    else:
        network, _, stored, _ = load_prophet(init)
        if stored.network != world.network:
            network = _switched(network, world)
    with torch.random.fork_rng():
        torch.manual_seed(config.loop.seed)
        choose_trained(network, config.train, config.lora)
    for name, parameter in network.named_parameters():
        if ".attn2." in name or ".norm2." in name:
            parameter.requires_grad_(False)  # cross-attention to the zero text: never reached
    set_precision(network, config.precision)
    if config.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def _switched(network: Prophet, world: ProphetConfig) -> Prophet:
    """The same weights in a network with other conditioning streams; new streams start without effect."""
    other = Prophet(world.network)
    had, wanted = network.state_dict(), other.state_dict()
    differing = {name for name in {*had, *wanted} if name not in had or name not in wanted}
    differing |= {name for name in had if name not in differing and had[name].shape != wanted[name].shape}
    foreign = sorted(n for n in differing if not n.startswith(NEW_MODULES) and not n.endswith(MEMORY_GATE))
    if foreign:
        raise TrainingError(
            f"the weights to start from are of another architecture: {len(foreign)} differ, such as {foreign[:3]}; "
            "only memory, scalar_actions and action_frames can be switched"
        )
    other.load_state_dict({name: value for name, value in had.items() if name not in differing}, strict=False)
    return other


def identity(init: Path | None) -> dict[str, Any] | None:
    """Which weights a run starts from, for its provenance."""
    if init is None:
        return None
    provenance = json.loads((init / "provenance.json").read_text())
    return {"checkpoint": init.name, "sha256": provenance["sha256"][WEIGHTS]}


def trained_before(init: Path | None) -> TrainedOn:
    """The episodes behind the weights a run starts from."""
    if init is None:
        return TrainedOn()
    return TrainedOn.of_provenance(json.loads((init / "provenance.json").read_text()), init.name)


def codec_trained_on(out_dir: Path, origin: Origin) -> TrainedOn:
    """The episodes behind the codec that ``open_codec`` opens."""
    folder = origin.init or origin.codec or out_dir / CODEC_FOLDER
    if is_prophet(folder):
        return TrainedOn.of_codec(json.loads((folder / "provenance.json").read_text()), folder.name)
    return TrainedOn.of_provenance(json.loads((folder / CODEC_PROVENANCE).read_text()), f"the codec {folder.name}")


def open_clips(
    datasets: Sequence[Dataset],
    mixture: Mixture | None,
    codec: Codec,
    world: ProphetConfig,
    config: ProphetTrainConfig,
    out_dir: Path,
    origin: Origin,
    *,
    tell: Callable[[str], Tell] = lambda name: lambda done, total: None,
    processes: Processes = ALONE,
) -> tuple[ClipSource, dict[str, Any]]:
    """Where the run's clips come from, and what its provenance says of them; errors as ``train_prophet``."""
    codec_hash = state_sha256(codec.state_dict())
    of_codec = {"codec_hash": codec_hash, CODEC_TRAINED_ON: codec_trained_on(out_dir, origin).to_json()}
    if mixture is not None:
        if config.clips.weights:
            raise TrainingError("clips.weights is for dataset folders; a mixture's settings have weights of their own")
        workers, rank, count = config.mixture_workers, processes.rank, processes.world
        source = MixtureClips(mixture, codec, world, workers=workers, rank=rank, world_size=count)
        plan = mixture.plan()
        return source, {
            "dataset_hash": json_sha256(plan),
            "dataset_hashes": [],
            "datasets": [entry.label for entry in mixture.sources],
            "windows": mixture.windows,
            "mixture": plan,
            "calibration_ids": [],
            **of_codec,
            TRAINED_ON: mixture_episodes(mixture).joined(trained_before(origin.init)).to_json(),
        }
    folder = origin.latents or out_dir / LATENTS_FOLDER

    def encoded() -> EncodedData:
        return encode_datasets(datasets, codec, codec_hash, world, config, folder, camera=origin.camera, tell=tell)

    # The main process makes the latents, the others then only open them.
    data = encoded() if processes.is_main else None
    processes.wait()
    data = data or encoded()
    clips = CachedClips(
        data.caches,
        world,
        config.clips,
        batch_size=config.micro_batch,
        seed=config.loop.seed,
        left_out=data.left_out,
        together=processes.world,
        leads_after=round(config.clips.imagined_from * config.loop.steps) * config.passes(processes.world),
    )
    trained_on = TrainedOn.of_provenance(data.record, str(out_dir)).joined(trained_before(origin.init))
    return clips, {**data.record, **of_codec, TRAINED_ON: trained_on.to_json()}
