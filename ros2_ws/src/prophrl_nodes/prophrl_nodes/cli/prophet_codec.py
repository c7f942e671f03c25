"""Train the small codec on the pictures of datasets, for several world models to share.

  prophrl prophet codec runs/dataset runs/codec --preset small

Settings are the part ``codec`` of a world model's; picture size and held-out episodes are the preset's. Ctrl-C stops
it; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from prophrl_nodes.cli.prophet_shared import Bars, add_camera, add_settings, given_camera, read_settings


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="made by prophrl dataset build")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the codec, new or to be continued")
    add_settings(parser)
    add_camera(parser)
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of what the settings say")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet codec``."""
    import torch

    from prophrl_models.prophet.codec_train import train_codec
    from prophrl_models.prophet.config import preset
    from prophrl_models.prophet.train_open import codec_options

    steps, options.steps = options.steps, None  # of the codec, not of the world model
    config = read_settings(options)
    settings = codec_options(config)
    given = {"steps": steps, "seed": options.seed}
    changed = {name: value for name, value in given.items() if value is not None}
    settings = dataclasses.replace(settings, loop=dataclasses.replace(settings.loop, **changed))
    with Bars() as bars:
        measured = train_codec(
            options.datasets,
            options.out,
            preset(config.size).codec,
            settings,
            camera=given_camera(options, options.datasets),
            held_out=config.held_out,
            split_seed=config.split_seed,
            device="cuda" if torch.cuda.is_available() else "cpu",
            report=bars.training("codec step"),
        )
    print(f"codec: {options.out}")
    for name, value in measured.items():
        print(f"  {name:<24} {value:.2f}")
    return 0
