"""Train a policy on a dataset.

  prophrl train policy runs/dataset runs/training
  prophrl train policy runs/dataset runs/long --config config/train/policy.yaml --steps 20000

The checkpoint is written to OUT/policy, the log to OUT. Ctrl-C stops it; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = parser.add_subparsers(dest="what", required=True, metavar="{policy}")
    policy = what.add_parser("policy", help="behaviour cloning with flow matching, from demonstrations")
    policy.add_argument("dataset", type=Path, metavar="DATASET", help="folder made by prophrl dataset build")
    policy.add_argument("out", type=Path, metavar="OUT", help="folder of the run, new or to be continued")
    policy.add_argument("--config", type=Path, help="YAML settings; without it they follow the size of the dataset")
    policy.add_argument("--steps", type=int, help="optimiser steps, instead of what the settings say")
    policy.add_argument("--seed", type=int, help="of initialisation, batches and noise (default: 0)")
    policy.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl train``."""
    from prophrl_models.data.dataset import Dataset
    from prophrl_models.training.loop import Progress
    from prophrl_models.training.sft import load_config, train_policy
    from prophrl_nodes.studies.progress import progress_bar
    from prophrl_nodes.studies.training import config_for

    seed = options.seed or 0
    config = load_config(options.config) if options.config else config_for(len(Dataset(options.dataset)), seed)
    loop = {name: value for name, value in (("steps", options.steps), ("seed", options.seed)) if value is not None}
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, **loop))
    if options.threads is not None:
        config = dataclasses.replace(config, threads=options.threads)
    with progress_bar(config.loop.steps, "step") as bar:

        def watch(progress: Progress) -> None:
            bar.set_postfix({name: f"{value:.4f}" for name, value in progress.losses.items()}, refresh=False)
            bar.update(progress.step - bar.n)

        folder = train_policy(options.dataset, options.out, config, watch)
    print(f"checkpoint: {folder}")
    return 0
