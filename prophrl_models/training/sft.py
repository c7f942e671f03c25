"""Supervised fine-tuning: a dataset folder in, a policy checkpoint out.

runs/cube/                   the folder given as ``out_dir``
    policy/                  the checkpoint, written when training has finished
    log.jsonl                one line for every few steps
    resume.safetensors       only while training is unfinished; the next call goes on from it
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from calibration.camera import PinholeCamera
from calibration.storage import load_camera
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.image import policy_camera
from prophrl_models.policies.interface import FlowPolicy, PolicySpec, TrainingBatch
from prophrl_models.policies.tiny import TinyConfig, TinyPolicy
from prophrl_models.training.augment import AugmentOptions, augment, check_augment
from prophrl_models.training.checkpoint import save_policy
from prophrl_models.training.frames import (
    EpisodeRows,
    FrameOptions,
    TrainingSet,
    build_training_set,
    episode_rows,
    policy_scalings,
    typical_orientation,
)
from prophrl_models.training.loop import Loop, LoopOptions, Progress
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER, claim, run_settings
from prophrl_models.training.settings import TrainingError, read_settings, settings_from
from prophrl_models.training.state_source import training_states

CALIBRATION_FILE = "calibration.yaml"

__all__ = ["CHECKPOINT_FOLDER", "SftConfig", "TrainingError", "config_from", "load_config", "train_policy"]


@dataclass(frozen=True)
class SftConfig:
    """One training run.

    Attributes:
        batch_size: rows of a step.
        noise_samples: (time, noise) draws for each row: the encoder runs once for all of them.
        cumulative_weight: weight of errors that add up over a chunk, see ``flow.flow_loss``.
        num_steps: denoising steps K of the policy.
        threads: CPU threads; 0 leaves torch's own choice.
        state_source: what the policy's state is, see ``state_source``; "commanded_opening" if reinforcement in a world
            model is to follow.
        loop, frames, augment, tiny: see there. ``tiny.reference_euler`` is fitted to the data.
    """

    batch_size: int = 16
    noise_samples: int = 4
    cumulative_weight: float = 0.05
    num_steps: int = 10
    threads: int = 0
    state_source: Literal["measured", "commanded_opening", "integrated"] = "measured"
    loop: LoopOptions = field(default_factory=LoopOptions)
    frames: FrameOptions = field(default_factory=FrameOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    tiny: TinyConfig = field(default_factory=TinyConfig)


def load_config(path: str | Path) -> SftConfig:
    """Read a training configuration (YAML with the fields of ``SftConfig``; what is left out keeps its default).

    Raises:
        TrainingError: no such file, or a key or type that does not belong.
    """
    return read_settings(SftConfig, path)


def config_from(raw: Any, where: str = "configuration") -> SftConfig:
    """Build a configuration from nested mappings; see ``load_config``."""
    return settings_from(SftConfig, raw, where)


def train_policy(
    dataset_dir: str | Path,
    out_dir: str | Path,
    config: SftConfig | None = None,
    progress: Callable[[Progress], None] | None = None,
    camera: PinholeCamera | None = None,
) -> Path:
    """Train a tiny policy on a dataset; an interrupted run goes on where it stopped.

    Args:
        dataset_dir: a finished dataset (``data.dataset``).
        out_dir: the run's folder.
        config: settings; the defaults suit thirty demonstrations and five minutes on two cores.
        progress: told about every log line.
        camera: the camera of the policy images; read from the dataset's calibration files when omitted.

    Returns:
        The checkpoint folder.

    Raises:
        TrainingError: no usable episode, a camera that is unknown or not the same in all episodes, or a folder that
            holds a finished training or an unfinished one with other settings.
        DatasetError, CheckpointError: the dataset or the run's resume file is damaged or does not belong.
    """
    config = config or SftConfig()
    out_dir = Path(out_dir)
    dataset = Dataset(dataset_dir)
    if camera is None:
        camera = dataset_camera(dataset)
    if config.threads:
        torch.set_num_threads(config.threads)
    check_augment(config.augment, dataset.convention)
    settings = {
        **run_settings(config, {"dataset_hash": dataset.content_hash}),
        "camera": [camera.K.tolist(), camera.T_camera_base.tolist()],
    }
    claim(out_dir, settings, write=True)
    rows = dataset_rows(dataset, config.frames, config.state_source)
    policy = build_policy(dataset, rows, config, camera)
    training_set = build_training_set(dataset, rows, policy)
    loop = Loop(policy, config.loop, out_dir, json.dumps(settings, sort_keys=True))
    loop.resume()
    loop.run(sft_step(policy, training_set, config), progress)
    loop.average.copy_to(policy)
    provenance = {
        "dataset_hash": dataset.content_hash,
        "dataset": dataset.folder.name,
        "episodes": len(dataset),
        "rows": len(training_set),
        "sync": dataset.sync.to_json(),
        "calibration_ids": sorted({row.calibration_id for row in dataset.table}),
        "training": dataclasses.asdict(config),
    }
    folder = save_policy(out_dir / CHECKPOINT_FOLDER, policy.eval(), dataset.normalisation(), provenance)
    loop.remove_resume_file()
    return folder


def dataset_rows(dataset: Dataset, options: FrameOptions, state_source: str = "measured") -> list[EpisodeRows]:
    """Training rows of all episodes, in the dataset's order, with the states that the policy is to see.

    Raises:
        TrainingError: nothing is left to learn from.
    """
    rows = [episode_rows(episode, options) for episode in dataset]
    rows = [
        dataclasses.replace(
            r, state_T7=training_states(r.state_T7, r.chunk_TCD[:, 0], state_source, dataset.convention)
        )
        for r in rows
    ]
    if not any(row.weight_T.any() for row in rows):
        raise TrainingError(f"no step of {dataset.folder} can be trained on: all of them lie near gaps in the streams")
    return rows


def build_policy(dataset: Dataset, rows: list[EpisodeRows], config: SftConfig, camera: PinholeCamera) -> TinyPolicy:
    """An untrained policy whose units and spec fit a dataset; its weights depend on ``config.loop.seed`` only."""
    action, state = policy_scalings(dataset.normalisation())
    spec = PolicySpec(
        convention=dataset.convention,
        action_scaling=action,
        state_scaling=state,
        control_rate_hz=dataset.control_rate_hz,
        chunk=config.frames.chunk,
        num_steps=config.num_steps,
        instructions=dataset.instructions,
        state_source=config.state_source,
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.loop.seed)
        tiny = dataclasses.replace(config.tiny, reference_euler=typical_orientation(rows))
        policy = TinyPolicy(spec, tiny)
    policy.camera.set(camera)
    return policy


def sft_step(
    policy: FlowPolicy, rows: TrainingSet, config: SftConfig
) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    """The loss of one step: draw rows, vary them, ask the policy. All randomness comes from the generator."""
    frequency = rows.sampling_N * (rows.weight_N > 0)

    def loss(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = torch.multinomial(frequency, config.batch_size, replacement=True, generator=generator)
        batch = TrainingBatch(
            rows.inputs.select(drawn),
            rows.chunk_NCD[drawn],
            rows.weight_N[drawn],
            rows.waypoint_N7[drawn],
            rows.waypoint_weight_N[drawn],
            config.noise_samples,
            config.cumulative_weight,
        )
        return policy.sft_loss(augment(batch, config.augment, generator), generator)

    return loss


def dataset_camera(dataset: Dataset) -> PinholeCamera:
    """The camera of a dataset's policy images, from the calibration stored with its episodes.

    Raises:
        TrainingError: some episode has no calibration, or the calibrations differ.
    """
    ids = {row.calibration_id for row in dataset.table}
    files = [dataset.folder / row.folder / CALIBRATION_FILE for row in dataset.table]
    missing = [row.episode_id for row, file in zip(dataset.table, files, strict=True) if not file.is_file()]
    if missing:
        raise TrainingError(
            f"{len(missing)} of {len(files)} episodes (the first: {missing[0]}) were recorded without a camera "
            "calibration, and this policy needs to know where its camera stands; calibrate the cell before recording, "
            "or pass the camera"
        )
    if len(ids) > 1:
        raise TrainingError(
            f"the camera was moved or calibrated again between episodes (calibrations {', '.join(sorted(ids))}); "
            "train on one calibration at a time"
        )
    return policy_camera(load_camera(files[0]), dataset.image_region)
