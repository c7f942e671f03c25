"""Train a world model on one or more datasets; codec and latents are made along where they are not given.

  prophrl prophet train runs/dataset runs/world --preset small
  prophrl prophet train runs/a runs/b runs/world --codec runs/codec --latents runs/latents
  prophrl prophet train runs/dataset runs/tuned --preset one_80gb --init runs/start
  prophrl prophet train runs/pretrained --preset paper_pretrain --init runs/start        data: the settings' mixture

The checkpoint is written to OUT/prophet, the log to OUT. Ctrl-C (or a power cut) stops it; the same command goes on
where it stopped. Several graphics cards: torchrun --nproc-per-node 8 $(which prophrl) prophet train ...
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from prophrl_nodes.cli.prophet_shared import Bars, UsageError, add_camera, add_settings, given_camera, read_settings


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="*", type=Path, metavar="DATASET", help="made by prophrl dataset build")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the run, new or to be continued")
    add_settings(parser)
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of what the settings say")
    parser.add_argument("--init", type=Path, metavar="CHECKPOINT", help="world model to go on from")
    parser.add_argument("--codec", type=Path, metavar="FOLDER", help="codec, or world model whose codec is taken")
    parser.add_argument("--latents", type=Path, metavar="FOLDER", help="where encoded datasets are kept (default: OUT)")
    add_camera(parser)
    parser.add_argument(
        "--weight",
        type=float,
        action="append",
        metavar="W",
        help="once for each DATASET: how much more often than with 1 its windows are drawn (default: all alike)",
    )
    parser.add_argument("--lora", action="store_true", help="train adapters and the conditioning modules only")
    parser.add_argument("--no-history", action="store_true", help="ablation: nothing of the past, one known frame")
    parser.add_argument("--no-frames", action="store_true", help="ablation: no action frames (needs no camera)")
    parser.add_argument("--no-actions", action="store_true", help="ablation: no action numbers")
    parser.add_argument(
        "--resume",
        choices=("automatic", "required", "never"),
        default="automatic",
        help="go on from what is in OUT (default: automatic, begin where there is nothing)",
    )


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet train``."""
    from prophrl_models.prophet.train import train_prophet
    from prophrl_models.prophet.train_open import Origin
    from prophrl_models.training import distributed

    config = read_settings(options)
    off: dict[str, Any] = {}
    if options.no_history:
        off |= {"memory": None, "known_alone": True}
    if options.no_frames:
        off["action_frames"] = "none"
    if options.no_actions:
        off["scalar_actions"] = False
    if options.no_frames and options.no_actions:
        raise UsageError("--no-frames and --no-actions leave a network that knows nothing of the actions; drop one")
    config = dataclasses.replace(
        config,
        network={**config.network, **off},
        train="lora" if options.lora else config.train,
        mixture="" if options.datasets else config.mixture,
        clips=dataclasses.replace(config.clips, weights=tuple(options.weight or config.clips.weights)),
    )
    if config.train == "lora" and options.init is None:
        raise UsageError("adapters need weights to adapt; give a world model with --init, or leave --lora out")
    origin = Origin(options.init, options.codec, options.latents, given_camera(options, options.datasets))
    processes = distributed.join()
    try:
        with Bars(silent=not processes.is_main) as bars:
            folder = train_prophet(
                options.datasets,
                options.out,
                config,
                origin=origin,
                resume=options.resume,
                progress=bars.training("step"),
                codec_progress=bars.training("codec step"),
                tell=bars.episodes,
                say=bars.say,
                processes=processes,
            )
    finally:
        distributed.leave(processes)
    if processes.is_main:
        print(f"world model: {folder}")
    return 0
