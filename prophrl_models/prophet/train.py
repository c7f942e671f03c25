"""Training of the world model: datasets in, a checkpoint folder out.

runs/world/                   the folder given as ``out_dir``
    prophet/                  the checkpoint, written when training has finished
    adapter/                  adapters and new modules, unmerged; only with ``train: lora``
    codec/                    the codec, where none was given
    latents/                  encoded datasets, where no other folder was given
    mixture_index/            lengths of a mixture's episodes, where its settings name no other folder
    settings.json             what the run was started with; a continued run must agree
    log.jsonl, tensorboard/   one entry for every few steps
    resume*.safetensors       only while training is unfinished; the same call goes on from it

Killed at any moment, the same call goes on where it stopped, through codec, encoding and training, and follows the
loss curve of a run that was never stopped. Several processes share the parameters by FSDP2.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.latents_build import Tell
from prophrl_models.prophet.channel_weights import channel_weights, training_latents
from prophrl_models.prophet.checkpoint import Sampling, save_prophet
from prophrl_models.prophet.clips import ClipSource, ReadAhead, vary
from prophrl_models.prophet.codec import Codec
from prophrl_models.prophet.config import ProphetConfig
from prophrl_models.prophet.history import apart, look_of
from prophrl_models.prophet.imagined_past import Look, with_imagined_past
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.noise import draw_sigma, noised, t_of_sigma, velocity_loss
from prophrl_models.prophet.train_data import open_datasets
from prophrl_models.prophet.train_open import (
    CHECKPOINT_FOLDER,
    Origin,
    Resume,
    Say,
    check_settings,
    check_start,
    identity,
    open_clips,
    open_codec,
    open_mixture,
    open_network,
    open_world,
)
from prophrl_models.prophet.train_settings import ProphetTrainConfig
from prophrl_models.training.compiled import compile_blocks
from prophrl_models.training.distributed import ALONE, Processes, whole
from prophrl_models.training.loop import Loop, LossFunction, Progress, trained
from prophrl_models.training.lora import merged_state, save_adapter
from prophrl_models.training.run_folder import claim, run_settings
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.vla import autocast

ADAPTER_FOLDER = "adapter"


def train_prophet(
    dataset_dirs: Sequence[str | Path],
    out_dir: str | Path,
    config: ProphetTrainConfig | None = None,
    *,
    origin: Origin = Origin(),  # noqa: B008 (frozen)
    resume: Resume = "automatic",
    progress: Callable[[Progress], None] | None = None,
    codec_progress: Callable[[Progress], None] | None = None,
    tell: Callable[[str], Tell] = lambda name: lambda done, total: None,
    say: Say = lambda line: None,
    processes: Processes = ALONE,
) -> Path:
    """Train a world model; an interrupted run goes on where it stopped.

    Args:
        dataset_dirs: dataset folders; none where ``config.mixture`` names a mixture.
        resume: "automatic" goes on from what is in ``out_dir`` or begins; "required" refuses to begin, "never" to go
            on.
        progress: told about every log line; ``codec_progress``: about those of a codec that is trained along.
        tell: see ``encode_datasets``.
        say: told in words what is being done.
        processes: see ``training.distributed.join``.

    Returns:
        The checkpoint folder.

    Raises:
        TrainingError: data, settings and weights do not fit together, the run is another one, or it diverged.
        DatasetError, LatentError, MixtureError, CheckpointError: damaged, foreign or unsuitable files.
    """
    config = config or ProphetTrainConfig()
    out_dir = Path(out_dir)
    config.passes(processes.world)
    check_start(out_dir, resume)
    if bool(dataset_dirs) == bool(config.mixture):
        raise TrainingError(
            "train on dataset folders or on the settings' mixture: name folders exactly if it names none"
        )
    datasets = open_datasets(dataset_dirs) if dataset_dirs else []
    check_settings(datasets, config, origin)
    mixture = open_mixture(config, processes, out_dir)
    codec = open_codec(datasets, out_dir, config, origin, say=say, report=codec_progress, processes=processes).to(
        processes.device
    )
    world = open_world(datasets, mixture, codec, config, origin)
    source, record = open_clips(
        datasets, mixture, codec, world, config, out_dir, origin, tell=tell, processes=processes
    )
    network = open_network(world, config, origin.init)
    if config.compile:
        trouble = compile_blocks(network.blocks_list(), processes.device)
        say(f"trains without compiled blocks, about half as fast: {trouble}" if trouble else "compiles the blocks")
    weight_C = None
    if config.channel_weighting == "decoder":
        weight_C = channel_weights(codec, training_latents(source))
        record = {**record, "channel_weights": [round(weight, 4) for weight in weight_C.tolist()]}
    sampling = Sampling(steps=config.sampling_steps, short_clips=config.clips.short_share > 0.0)
    run = Run(world, codec, datasets, {**record, "parent": identity(origin.init)}, sampling)
    clips = ReadAhead(source, config.read_ahead, processes.world)
    try:
        loss = step_loss(network, clips, config, processes.device, weight_C, look_of(world.network, codec))
        return fit(network, loss, run, out_dir, config, progress=progress, say=say, processes=processes)
    finally:
        clips.close()


@dataclass(frozen=True)
class Run:
    """What a run makes a checkpoint of, beside the weights.

    Attributes:
        world, codec: the checkpoint's.
        datasets: none where a mixture is trained on.
        provenance: data, codec hash and parent; with the settings it identifies the run.
        sampling: how the checkpoint is to be sampled.
    """

    world: ProphetConfig
    codec: Codec
    datasets: Sequence[Dataset]
    provenance: Mapping[str, Any]
    sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)


def fit(
    network: Prophet,
    loss: LossFunction,
    run: Run,
    out_dir: Path,
    config: ProphetTrainConfig,
    *,
    progress: Callable[[Progress], None] | None = None,
    say: Say = lambda line: None,
    processes: Processes = ALONE,
) -> Path:
    """Minimise a loss and write the checkpoint; goes on where it stopped. ``network`` is changed in place.

    Raises:
        TrainingError: the run in this folder is another one, or the loss became NaN.
        CheckpointError: its resume file is damaged.
    """
    settings = run_settings(config, run.provenance)
    for harmless in ("read_ahead", "mixture_workers", "sampling_steps", "compile"):
        del settings[harmless]
    if not config.clips.weights:
        del settings["clips.weights"]  # so that runs from before there were weights go on
    if config.clips.imagined_share == 0.0:
        for name in ("imagined_share", "imagined_chunks", "imagined_from"):
            del settings[f"clips.{name}"]
    if config.channel_weighting == "none":
        del settings["channel_weighting"]
    settings |= {name: run.provenance.get(name) for name in ("codec_hash", "latents")}
    claim(out_dir, settings, write=processes.is_main)
    if processes.world == 1:
        network.to(processes.device)
    shard_network(network, processes)
    fingerprint = json.dumps(settings, sort_keys=True)
    loop = Loop(network, config.loop, out_dir, fingerprint, processes, config.passes(processes.world))
    try:
        if loop.resume() and processes.is_main:
            say(f"goes on at step {loop.step} of {config.loop.steps}")
        loop.run(loss, progress)
        loop.save()  # should the checkpoint not be written (a full disk), nothing has to be trained again
    except FloatingPointError as error:
        raise TrainingError(str(error)) from error
    loop.average.copy_to(network)
    state = final_state(network)
    learned = {name: whole(p.detach()).cpu() for name, p in trained(network)} if config.train == "lora" else {}
    folder = out_dir / CHECKPOINT_FOLDER
    if processes.is_main:
        if learned:
            save_adapter(out_dir / ADAPTER_FOLDER, learned, config.lora, dict(run.provenance["parent"] or {}))
        record = {**run.provenance, "training": dataclasses.asdict(config), "processes": processes.world}
        statistics = run.datasets[0].normalisation() if len(run.datasets) == 1 else None
        save_prophet(
            folder,
            network,
            run.codec,
            run.world,
            record,
            normalisation=statistics,
            sampling=run.sampling,
            state=state,
        )
    processes.wait()
    loop.remove_resume_file()
    return folder


def shard_network(network: Prophet, processes: Processes) -> None:
    """Spread the parameters over all processes, block by block (FSDP2); alone, nothing happens.

    As ``training.distributed.shard``, but a world model is entered through ``forward``.
    """
    if processes.world == 1:
        return
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    as_stored = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in network.blocks_list():
        fully_shard(block, mp_policy=as_stored)
    fully_shard(network, mp_policy=as_stored)


def step_loss(
    network: nn.Module,
    clips: ClipSource,
    config: ProphetTrainConfig,
    device: torch.device,
    weight_C: Tensor | None = None,
    look: Look = apart,
) -> LossFunction:
    """The loss of one batch: velocity error of noised clips; all randomness comes from number and generator.

    Args:
        weight_C: of each latent channel's error; None: all alike.
        look: how the network sees known latents and histories.
    """
    finished_s = time.perf_counter()

    def loss(number: int, generator: torch.Generator) -> dict[str, Tensor]:
        nonlocal finished_s
        # Dropout in adapters draws from the global generator: tie that to the batch as well.
        torch.manual_seed(config.loop.seed * 1_000_003 + number)
        asked_s = time.perf_counter()
        batch = clips.batch(number).to(device)
        got_s = time.perf_counter()
        with autocast(config.precision, device):
            batch = with_imagined_past(network, batch, generator, look)
        batch = vary(batch, config.clips, generator)
        clean = batch.latent_BCLHW
        sigma = draw_sigma(len(batch), clean.shape[2], config.noise, generator, device)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        clip = noised(clean, noise, t_of_sigma(sigma))
        with autocast(config.precision, device):
            velocity = network(
                clip.input_BCLHW,
                clip.t_BL,
                actions_BAX=batch.actions_BAX,
                frame_latent_BCLHW=batch.frame_latent_BCLHW,
                history_BCMHW=batch.history_BCMHW,
            )
        losses = {"loss": velocity_loss(velocity, clip.target_BCLHW, batch.valid_BL, weight_C=weight_C)}
        losses["batch_s"] = torch.tensor(got_s - finished_s)
        losses["wait_s"] = torch.tensor(got_s - asked_s)
        if device.type == "cuda":
            losses["peak_memory_gb"] = torch.tensor(torch.cuda.max_memory_allocated(device) / 1e9)
        finished_s = got_s
        return losses

    return loss


def final_state(network: nn.Module) -> dict[str, Tensor]:
    """Weights for the checkpoint, on the CPU: gathered, adapters merged, all of one type (the frozen ones').

    All processes of a run must call this together.
    """
    adapted = any(".lora_" in name for name, _ in network.named_parameters())
    if not adapted:
        return {name: whole(value.detach()).cpu() for name, value in network.state_dict().items()}
    half = any(p.dtype is torch.bfloat16 for p in network.parameters())
    state = merged_state(network)
    return {name: value.bfloat16() if half else value for name, value in state.items()}
