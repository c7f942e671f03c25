"""Imagine logged episodes again: their own actions in the world model, as videos that carry the real outcome.

  prophrl rl replay runs/dataset runs/imagined --world runs/prophet
  prophrl reward train runs/judge runs/dataset runs/imagined

A judge that learns from these, too, knows what the world model's pictures look like, and what to make of its mistakes.
Frames are imagined as many at a time as the settings' rollouts will be.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prophrl_nodes.cli.rl_shared import UsageError, add_settings, read_settings


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="made by prophrl dataset build")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder of labelled videos")
    parser.add_argument("--world", type=Path, required=True, metavar="CHECKPOINT", help="world model")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="videos of each episode (default: 1)")
    parser.add_argument("--world-steps", type=int, help="passes of the world model for a chunk (default: its own)")
    parser.add_argument("--batch", type=int, default=16, help="episodes imagined together (default: 16)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl rl replay``."""
    import torch

    from prophrl_models.data.dataset import Dataset
    from prophrl_models.prophet.checkpoint import is_prophet
    from prophrl_models.prophet.regions import check_regions
    from prophrl_models.prophet.worlds import load_world
    from prophrl_models.rl.open_run import WORLD_DTYPES
    from prophrl_models.rl.replay_files import write_replays
    from prophrl_models.serving.engine import choose_device

    settings = read_settings(options)
    if not is_prophet(options.world):
        raise UsageError(f"{options.world} is no world model's checkpoint folder; train one with prophrl prophet train")
    if options.batch < 1:
        raise UsageError(f"--batch takes a number of episodes, got {options.batch}")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    datasets = [Dataset(folder) for folder in options.datasets]
    check_regions(None, options.world, datasets)
    world = load_world(
        options.world,
        device=str(choose_device(options.device)),
        dtype=WORLD_DTYPES[settings.rollout.world_precision],
        steps=options.world_steps,
    )
    count = write_replays(
        world,
        datasets,
        options.out,
        keep=min(settings.rollout.keep, world.actions),
        times=options.times,
        seed=settings.seed,
        batch=options.batch,
        progress=lambda done, total: print(f"{done} of {total} videos", flush=True),
    )
    print(f"{count} labelled videos: {options.out}")
    return 0
