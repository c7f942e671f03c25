"""Make a world model that needs few passes for a clip out of one that needs many.

  prophrl prophet distil runs/world/prophet runs/dataset runs/fast --passes 4 --steps 2000

The student's checkpoint is OUT/prophet; it says itself how it is to be sampled. What the speed costs in quality,
``prophrl prophet eval`` measures on both. Ctrl-C stops it; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from prophrl_nodes.cli.prophet_shared import Bars, add_camera, add_settings, given_camera, read_settings


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("teacher", type=Path, metavar="CHECKPOINT", help="trained world model")
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="made by prophrl dataset build")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the run, new or to be continued")
    parser.add_argument("--passes", type=int, default=4, metavar="K", help="passes for a clip, 1 to 4 (default: 4)")
    parser.add_argument("--teacher-passes", type=int, default=3, metavar="N", help="teacher's for each of them (3)")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps (default: 2000)")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="peak (default: 1e-4)")
    parser.add_argument("--latents", type=Path, metavar="FOLDER", help="where encoded datasets are kept (default: OUT)")
    add_settings(parser)
    add_camera(parser)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet distil``."""
    from prophrl_models.prophet.distil import DistilOptions, distil_prophet
    from prophrl_models.prophet.train_open import Origin
    from prophrl_models.training import distributed

    config = read_settings(options)
    loop = dataclasses.replace(
        config.loop, learning_rate=options.learning_rate, warmup=min(config.loop.warmup, options.steps // 10)
    )
    # The student is a copy of its teacher: architecture, streams and what they may lack are not the preset's.
    clips = dataclasses.replace(config.clips, drop_actions=0.0, drop_frames=0.0, drop_history=0.0)
    config = dataclasses.replace(config, loop=loop, clips=clips, network={}, train="full", mixture="")
    processes = distributed.join()
    try:
        with Bars(silent=not processes.is_main) as bars:
            folder = distil_prophet(
                options.teacher,
                options.datasets,
                options.out,
                config,
                DistilOptions(passes=options.passes, teacher_passes=options.teacher_passes),
                origin=Origin(latents=options.latents, camera=given_camera(options, options.datasets)),
                progress=bars.training("step"),
                tell=bars.episodes,
                say=bars.say,
                processes=processes,
            )
    finally:
        distributed.leave(processes)
    if processes.is_main:
        print(f"world model for {options.passes} passes: {folder}")
    return 0
