"""Short trainings of a tiny world model; also a program, so that tests can kill it or run two of it.

python -m tests.helpers.prophet_runs DATASET OUT --codec FOLDER [--kill-at BATCH] [--train full|lora] [--init FOLDER]
"""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import replace
from pathlib import Path

import torch

from prophrl_models.prophet import clips
from prophrl_models.prophet.train import train_prophet
from prophrl_models.prophet.train_open import Origin
from prophrl_models.prophet.train_settings import ClipOptions, ProphetTrainConfig
from prophrl_models.training import distributed
from prophrl_models.training.loop import LoopOptions
from prophrl_models.training.lora import LoraOptions

CONFIG = ProphetTrainConfig(
    size="tiny",
    batch_size=4,
    micro_batch=2,
    precision="fp32",
    read_ahead=1,
    lora=LoraOptions(rank=4, alpha=4),
    clips=ClipOptions(event_share=0.25, context_noise=0.1, drop_actions=0.1, drop_history=0.1),
    loop=LoopOptions(
        steps=12, learning_rate=1e-3, warmup=3, weight_decay=0.1, ema=0.9, log_every=1, save_every=5, betas=(0.9, 0.99)
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--codec", type=Path)
    parser.add_argument("--init", type=Path)
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--kill-at", type=int, help="SIGKILL when this batch is asked for, counted from this start")
    parser.add_argument("--micro-batch", type=int, default=CONFIG.micro_batch)
    parser.add_argument("--train", default=CONFIG.train)
    parser.add_argument("--steps", type=int, default=CONFIG.loop.steps)
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = 0
    batch_of = clips.ReadAhead.batch

    def deadly(self: clips.ReadAhead, number: int) -> clips.ClipBatch:
        nonlocal asked
        if asked == options.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        asked += 1
        return batch_of(self, number)

    if options.kill_at is not None:
        clips.ReadAhead.batch = deadly  # type: ignore[method-assign]
    processes = distributed.join()
    loop = replace(CONFIG.loop, steps=options.steps)
    config = replace(CONFIG, micro_batch=options.micro_batch, train=options.train, loop=loop)
    origin = Origin(options.init, options.codec, options.latents)
    try:
        train_prophet([options.dataset], options.out, config, origin=origin, processes=processes)
    finally:
        distributed.leave(processes)


if __name__ == "__main__":
    main()
