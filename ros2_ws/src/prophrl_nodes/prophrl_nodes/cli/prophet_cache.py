"""Encode datasets once, for several trainings (ablations, seeds) that name the same folder with --latents.

  prophrl prophet cache runs/dataset runs/latents --codec runs/codec --preset small

Each dataset, codec and picture size gets a folder of its own, named by their content; what is there already is used.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prophrl_nodes.cli.prophet_shared import Bars, add_camera, add_settings, given_camera, read_settings


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="made by prophrl dataset build")
    parser.add_argument("out", type=Path, metavar="LATENTS", help="folder for encoded datasets, new or in use")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--codec", type=Path, metavar="FOLDER", help="codec, or world model whose codec is taken")
    which.add_argument("--init", type=Path, metavar="CHECKPOINT", help="world model that the training will go on from")
    add_settings(parser)
    add_camera(parser)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet cache``."""
    import torch

    from prophrl_models.prophet.checkpoint import state_sha256
    from prophrl_models.prophet.train_data import encode_datasets, open_datasets
    from prophrl_models.prophet.train_open import Origin, open_codec, open_world

    config = read_settings(options)
    datasets = open_datasets(options.datasets)
    origin = Origin(options.init, options.codec, options.out, given_camera(options, options.datasets))
    codec = open_codec(datasets, options.out, config, origin).to("cuda" if torch.cuda.is_available() else "cpu")
    world = open_world(datasets, None, codec, config, origin)
    digest = state_sha256(codec.state_dict())
    with Bars() as bars:
        data = encode_datasets(
            datasets, codec, digest, world, config, options.out, camera=origin.camera, tell=bars.episodes
        )
    for dataset, cache in zip(datasets, data.caches, strict=True):
        print(f"{cache.folder}: {len(cache)} windows of {dataset.folder.name}")
    return 0
