"""Short trainings of the small transformer policy; also a program, so that tests can kill it or run two of it.

python -m tests.helpers.small_runs DATASET OUT [--kill-at BATCH] [--train full|lora|head]
"""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prophrl_models.data.dataset import Dataset
from prophrl_models.policies import load
from prophrl_models.policies.interface import TrainingBatch
from prophrl_models.training import distributed
from prophrl_models.training.augment import AugmentOptions
from prophrl_models.training.frames import FrameOptions
from prophrl_models.training.loop import LoopOptions
from prophrl_models.training.lora import LoraOptions
from prophrl_models.training.rows import DatasetRows
from prophrl_models.training.vla import VlaConfig, fit
from prophrl_models.training.vla_policy import new_spec
from tests.helpers import small_vla

FRAMES = FrameOptions(chunk=8, event_weight=0.0)
CONFIG = VlaConfig(
    batch_size=8,
    micro_batch=4,
    precision="fp32",
    gradient_checkpointing=False,
    workers=2,
    lora=LoraOptions(rank=4, alpha=8),
    loop=LoopOptions(
        steps=16, learning_rate=1e-3, warmup=4, weight_decay=0.1, ema=0.9, log_every=1, save_every=5, betas=(0.9, 0.95)
    ),
    frames=FRAMES,
    augment=AugmentOptions(position_m=0.004),
)


def new_policy(dataset: Dataset, rows: DatasetRows, *, seed: int = 0, noise: float = 0.0) -> small_vla.SmallVla:
    """An untrained policy; ``noise`` moves every weight, so that zero-initialised layers take part."""
    spec = new_spec(rows.format, dataset.normalisation(), dataset.instructions, 10, "quantile")
    torch.manual_seed(seed)
    policy = small_vla.SmallVla(spec)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return policy


def provenance(dataset: Dataset) -> dict[str, Any]:
    return {"dataset_hash": dataset.content_hash, "calibration_ids": [], "parent": {"random": "small"}}


def run(folder: Path, out: Path, config: VlaConfig = CONFIG, **options: Any) -> Path:
    """Train the small policy on a dataset folder."""
    dataset = Dataset(folder)
    rows = DatasetRows(dataset, config.frames, config.state_source)
    policy = new_policy(dataset, rows, noise=0.05)
    return fit(policy, rows, dataset.normalisation(), out, config, provenance(dataset), **options)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kill-at", type=int, help="SIGKILL in the middle of this batch, counted from this start")
    parser.add_argument("--micro-batch", type=int, default=CONFIG.micro_batch)
    parser.add_argument("--train", default=CONFIG.train)
    parser.add_argument("--steps", type=int, default=CONFIG.loop.steps)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load.KINDS[small_vla.KIND] = small_vla.__name__
    seen = 0
    loss_of = small_vla.SmallVla.sft_loss

    def deadly(self: small_vla.SmallVla, batch: TrainingBatch, generator: Any = None) -> dict[str, torch.Tensor]:
        nonlocal seen
        losses = loss_of(self, batch, generator)
        if generator is not None:  # not the memory estimate's pass
            if seen == options.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        return losses

    if options.kill_at is not None:
        small_vla.SmallVla.sft_loss = deadly  # type: ignore[method-assign]
    processes = distributed.join()
    loop = replace(CONFIG.loop, steps=options.steps)
    config = replace(CONFIG, micro_batch=options.micro_batch, train=options.train, loop=loop)
    try:
        run(options.dataset, options.out, config, processes=processes)
    finally:
        distributed.leave(processes)


if __name__ == "__main__":
    main()
