"""Supervised fine-tuning of the policies with a large backbone: rows in, a policy checkpoint out.

runs/cube/                    the folder given as ``out_dir``
    policy/                   the checkpoint with merged weights, written when training has finished
    adapter/                  what was trained, unmerged (adapters and head), for going on; only with ``train: lora``
    settings.json             what the run was started with; a continued run must agree
    log.jsonl, tensorboard/   one entry for every few steps
    resume*.safetensors       only while training is unfinished; the same call goes on from it

Trained weights and their optimiser state are float32, frozen matrices bfloat16, and arithmetic is bfloat16 where
autocast allows (``precision: bf16``). Several processes (torchrun, accelerate launch) share the parameters by FSDP2.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.normalise import Normalisation
from prophrl_models.policies.camera_rays import CameraRays
from prophrl_models.policies.interface import FlowPolicy
from prophrl_models.policies.load import builder
from prophrl_models.training.augment import AugmentOptions, check_augment
from prophrl_models.training.checkpoint import save_policy
from prophrl_models.training.distributed import ALONE, Processes, shard, whole
from prophrl_models.training.frames import FrameOptions
from prophrl_models.training.loop import Loop, LoopOptions, Progress, trained
from prophrl_models.training.lora import LoraOptions, What, choose_trained, merged_state, save_adapter, trainable
from prophrl_models.training.memory import estimate, try_activations
from prophrl_models.training.published_scaling import PublishedStatistics
from prophrl_models.training.rows import DatasetRows, RowSource
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER, claim, run_settings
from prophrl_models.training.settings import TrainingError, read_settings
from prophrl_models.training.sft import dataset_camera
from prophrl_models.training.stream import BatchStream
from prophrl_models.training.vla_policy import (
    Origin,
    ScalingMode,
    check_fits,
    check_statistics,
    new_spec,
    open_policy,
)

ADAPTER_FOLDER = "adapter"

Say = Callable[[str], None]


@dataclass(frozen=True)
class VlaConfig:
    """One training run of a big policy; the defaults are the paper's real-robot settings (section 9.7 of the notes).

    Attributes:
        batch_size: rows of an optimiser step, over all cards and passes.
        micro_batch: rows that go through a card at once; ``batch_size`` is a multiple of it times the cards.
        train: "full", "lora" (adapters in the backbone, head in full) or "head".
        lora: sizes of the adapters.
        precision: "bf16" or "fp32".
        gradient_checkpointing: recompute blocks in the backward pass; a third more time, a fraction of the memory.
        noise_samples, cumulative_weight: see ``TrainingBatch``.
        num_steps: denoising steps K that the policy deploys with.
        scaling: units of actions and states inside the policy, see ``vla_policy.vla_scalings``.
        statistics: with ``scaling: published``, where the units of the first weights are.
        state_source: "measured", "commanded_opening" or "integrated", see ``state_source``.
        workers: threads that read rows.
        policy_options: sizes that differ from the published ones, by field of the policy's configuration.
        loop, frames, augment: see there.
    """

    batch_size: int = 16
    micro_batch: int = 16
    train: What = "full"
    lora: LoraOptions = field(default_factory=LoraOptions)
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = True
    noise_samples: int = 1
    cumulative_weight: float = 0.0
    num_steps: int = 10
    scaling: ScalingMode = "quantile"
    statistics: PublishedStatistics = field(default_factory=PublishedStatistics)
    state_source: Literal["measured", "commanded_opening", "integrated"] = "measured"
    workers: int = 4
    policy_options: Mapping[str, Any] = field(default_factory=dict)
    loop: LoopOptions = field(
        default_factory=lambda: LoopOptions(
            steps=50_000,
            learning_rate=2.5e-5,
            warmup=1000,
            weight_decay=0.1,
            ema=0.0,
            save_every=500,
            final_fraction=0.1,
            betas=(0.9, 0.95),
            tensorboard=True,
        )
    )
    frames: FrameOptions = field(default_factory=lambda: FrameOptions(event_weight=0.0))
    augment: AugmentOptions = field(default_factory=lambda: AugmentOptions(position_m=0.0))


def load_vla_config(path: str | Path) -> VlaConfig:
    """Read settings from YAML; what is left out keeps its default.

    Raises:
        TrainingError: see ``settings.read_settings``.
    """
    return read_settings(VlaConfig, path)


def train_vla(
    dataset_dir: str | Path,
    out_dir: str | Path,
    origin: Origin,
    config: VlaConfig | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
    say: Say = lambda line: None,
    processes: Processes = ALONE,
) -> Path:
    """Train a big policy on a dataset folder; an interrupted run goes on where it stopped.

    Args:
        origin: the first weights.
        progress: told about every log line.
        say: told in words what is being done (memory, continuation).
        processes: see ``distributed.join``.

    Returns:
        The checkpoint folder.

    Raises:
        TrainingError: data, settings and policy do not fit together, or the run is another one.
        DatasetError, NormalisationError, CheckpointError, OfficialWeightsError: damaged or foreign files.
    """
    config = config or VlaConfig()
    dataset = Dataset(dataset_dir)
    normalisation = dataset.normalisation()
    if origin.resume_from is not None:
        check_statistics(origin.resume_from, normalisation)
    source = DatasetRows(dataset, config.frames, config.state_source)
    published = config.statistics if config.scaling == "published" else None
    if config.statistics != PublishedStatistics() and published is None:
        raise TrainingError(f"statistics are given, but scaling is {config.scaling}; say scaling: published")
    spec = new_spec(source.format, normalisation, dataset.instructions, config.num_steps, config.scaling, published)
    policy = open_policy(origin, spec, config.policy_options, config.loop.seed)
    if isinstance(rays := getattr(policy, "camera", None), CameraRays):
        rays.set(dataset_camera(dataset))  # refuses a dataset without calibration
    provenance = {
        "dataset_hash": dataset.content_hash,
        "dataset": dataset.folder.name,
        "episodes": len(dataset),
        "rows": len(source),
        "sync": dataset.sync.to_json(),
        "calibration_ids": sorted({row.calibration_id for row in dataset.table}),
        "parent": {**origin.identity(), **(published.identity() if published else {})},
    }
    return fit(
        policy,
        source,
        normalisation,
        out_dir,
        config,
        provenance,
        progress=progress,
        say=say,
        processes=processes,
    )


def fit(
    policy: FlowPolicy,
    source: RowSource,
    normalisation: Normalisation,
    out_dir: str | Path,
    config: VlaConfig,
    provenance: Mapping[str, Any],
    *,
    progress: Callable[[Progress], None] | None = None,
    say: Say = lambda line: None,
    processes: Processes = ALONE,
) -> Path:
    """Train a policy on any source of rows; ``policy`` is changed in place and must not be used afterwards.

    Args:
        normalisation: what the policy's scalings were made from.
        provenance: what the data and first weights are; at least ``dataset_hash`` and ``calibration_ids``. Together
            with the settings it identifies the run.
        progress, say, processes: see ``train_vla``.

    Raises:
        TrainingError, CheckpointError: see ``train_vla``.
    """
    out_dir = Path(out_dir)
    check_fits(policy.spec, source.format)
    check_augment(config.augment, policy.spec.convention)
    accumulate = passes(config, processes.world)
    settings = run_settings(config, provenance)
    claim(out_dir, settings, write=processes.is_main)

    parts = trainable(policy)
    halved = stored_in_bf16(policy, config)
    with torch.random.fork_rng():
        torch.manual_seed(config.loop.seed)
        choose_trained(policy, config.train, config.lora)
    set_precision(policy, config.precision)
    stream = BatchStream(
        source,
        policy,
        config.micro_batch,
        seed=config.loop.seed,
        augment=config.augment,
        workers=config.workers,
        stride=processes.world,
        noise_samples=config.noise_samples,
        cumulative_weight=config.cumulative_weight,
    )
    try:
        if processes.is_main:
            say(memory_line(policy, stream, config, processes))
        if config.gradient_checkpointing:
            parts.enable_gradient_checkpointing()
        if processes.world == 1:
            policy.to(processes.device)
        shard(policy, parts.blocks(), processes)
        loop = Loop(policy, config.loop, out_dir, json.dumps(settings, sort_keys=True), processes, accumulate)
        if loop.resume() and processes.is_main:
            say(f"goes on at step {loop.step} of {config.loop.steps}")
        loop.run(step_loss(policy, stream, config, processes.device), progress)
        loop.save()  # should the checkpoint not be written (a full disk), nothing has to be trained again
    finally:
        stream.close()
    loop.average.copy_to(policy)

    folder = out_dir / CHECKPOINT_FOLDER
    state = merged_state(policy, halve=halved)
    learned = {name: whole(p.detach()).cpu() for name, p in trained(policy)} if config.train == "lora" else {}
    if processes.is_main:
        record = {**provenance, "training": dataclasses.asdict(config), "processes": processes.world}
        if learned:
            save_adapter(out_dir / ADAPTER_FOLDER, learned, config.lora, dict(provenance.get("parent") or {}))
        save_policy(folder, without_adapters(policy, state), normalisation, record)
    processes.wait()
    loop.remove_resume_file()
    return folder


def step_loss(
    policy: FlowPolicy, stream: BatchStream, config: VlaConfig, device: torch.device
) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    """The loss of one batch, with what it cost: seconds for each batch, of which waiting for rows, and peak memory."""
    finished_s = time.perf_counter()

    def loss(number: int, generator: torch.Generator) -> dict[str, Tensor]:
        nonlocal finished_s
        # Dropout, where a backbone has it, draws from the global generator: tie that to the batch as well.
        torch.manual_seed(config.loop.seed * 1_000_003 + number)
        asked_s = time.perf_counter()
        batch = stream.batch(number).to(device)
        got_s = time.perf_counter()
        with autocast(config.precision, device):
            losses = dict(policy.sft_loss(batch, generator))
        losses["batch_s"] = torch.tensor(got_s - finished_s)
        losses["wait_s"] = torch.tensor(got_s - asked_s)
        if device.type == "cuda":
            losses["peak_memory_gb"] = torch.tensor(torch.cuda.max_memory_allocated(device) / 1e9)
        finished_s = got_s
        return losses

    return loss


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Arithmetic of the forward pass."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


@torch.no_grad()
def set_precision(policy: torch.nn.Module, precision: str) -> None:
    """Trained parameters become float32 (small steps would be lost otherwise), frozen matrices bfloat16.

    Frozen vectors (norms, biases) keep their type: they are small, and norms need their digits. With "fp32" everything
    becomes float32. Parameters stay the same objects.
    """
    for parameter in policy.parameters():
        if precision == "fp32" or parameter.requires_grad:
            parameter.data = parameter.data.float()
        elif parameter.ndim >= 2:
            parameter.data = parameter.data.bfloat16()


def stored_in_bf16(policy: FlowPolicy, config: VlaConfig) -> frozenset[str]:
    """Names of parameters that the checkpoint holds in bfloat16: matrices of the backbone; none with "fp32"."""
    if config.precision == "fp32":
        return frozenset()
    heads = set(trainable(policy).head_parameters())
    return frozenset(name for name, p in policy.named_parameters() if p.ndim >= 2 and name not in heads)


def without_adapters(policy: FlowPolicy, state: Mapping[str, Tensor]) -> FlowPolicy:
    """The same policy in a fresh module that holds ``state``: no adapters, no shards."""
    with torch.device("meta"):
        plain = builder(policy.kind)(policy.spec, policy.config(), policy.assets())
    plain.load_state_dict(dict(state), strict=True, assign=True)
    return plain


def memory_line(policy: FlowPolicy, stream: BatchStream, config: VlaConfig, processes: Processes) -> str:
    """What a step will need, estimated, beside what the card has."""
    cast = autocast(config.precision, torch.device("cpu"))
    found, reason = try_activations(policy, trainable(policy).blocks(), stream.batch(0), cast)
    kept = None if found is None else found.checkpointed if config.gradient_checkpointing else found.kept
    card = None
    if processes.device.type == "cuda":
        card = torch.cuda.get_device_properties(processes.device).total_memory
    needs = estimate(policy, average=config.loop.ema > 0.0, world=processes.world, activations=kept, reason=reason)
    return needs.describe(card)


def passes(config: VlaConfig, world: int) -> int:
    """Passes of ``micro_batch`` rows that each process makes for one step.

    Raises:
        TrainingError: ``batch_size`` cannot be divided so.
    """
    together = config.micro_batch * world
    if config.micro_batch < 1 or config.batch_size < 1 or config.batch_size % together:
        near = max(1, round(config.batch_size / max(1, together))) * max(1, together)
        raise TrainingError(
            f"batch_size {config.batch_size} is not a positive multiple of micro_batch {config.micro_batch} x {world} "
            f"processes; choose one that is, for example {near}"
        )
    return config.batch_size // together
