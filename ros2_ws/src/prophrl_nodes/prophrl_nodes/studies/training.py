"""Policy training for studies: settings that follow the size of the dataset, and a progress bar."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch

from prophrl_models.data.dataset import Dataset
from prophrl_models.training.loop import Progress
from prophrl_models.training.sft import SftConfig, train_policy
from prophrl_nodes.studies.progress import progress_bar
from prophrl_nodes.studies.threads import ThreadChoice

REFERENCE_EPISODES = 30
"""The default settings are made for this many demonstrations; more get more steps, half as fast as they grow."""


def config_for(episodes: int, seed: int, base: SftConfig | None = None) -> SftConfig:
    """Settings of a training run on this many demonstrations; ``base``: what they begin from, the defaults if None."""
    config = dataclasses.replace(base or SftConfig(), threads=thread_counts()[0])
    scale = 1.0 + 0.5 * max(0.0, episodes / REFERENCE_EPISODES - 1.0)
    loop = dataclasses.replace(config.loop, steps=round(config.loop.steps * scale), seed=seed)
    return dataclasses.replace(config, loop=loop)


def thread_counts() -> tuple[int, int]:
    """Half of the cores, to begin with, and all of them."""
    cores = os.cpu_count() or 1
    return max(1, cores // 2), cores


def train_with_progress(dataset_dir: Path, run_dir: Path, *, seed: int, base: SftConfig | None = None) -> Path:
    """Train a policy and return its checkpoint folder; an interrupted run goes on where it stopped.

    Raises:
        TrainingError, DatasetError, CheckpointError: see ``prophrl_models.training.sft.train_policy``.
    """
    config = config_for(len(Dataset(dataset_dir)), seed, base)
    threads = ThreadChoice(thread_counts(), torch.set_num_threads)
    with progress_bar(config.loop.steps, "step") as bar:

        def watch(progress: Progress) -> None:
            threads.lap(progress.step)
            bar.set_postfix({name: f"{value:.4f}" for name, value in progress.losses.items()}, refresh=False)
            bar.update(progress.step - bar.n)

        return train_policy(dataset_dir, run_dir, config, watch)
