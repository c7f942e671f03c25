"""Train a policy on a dataset.

  prophrl train policy runs/dataset runs/training
  prophrl train policy runs/dataset runs/long --config my_settings.yaml --steps 20000
  prophrl train policy runs/dataset runs/pi05 --policy pi05 --init weights/pi05_base --preset one_80gb

The checkpoint is written to OUT/policy, the log to OUT. Ctrl-C stops it; the same command goes on where it stopped.
Several graphics cards (not for the tiny policy):

  torchrun --nproc-per-node 8 $(which prophrl) train policy ...
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from prophrl_nodes.cli.presets import preset_file

POLICIES = ("tiny", "pi05", "vla_adapter", "openvla_oft")
DEFAULT_PRESET = "one_80gb"
TINY_PRESETS = ("tiny", "imagined")


class UsageError(ValueError):
    """Options that do not go together; the message says which."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = parser.add_subparsers(dest="what", required=True, metavar="{policy}")
    policy = what.add_parser("policy", help="behaviour cloning with flow matching, from demonstrations")
    policy.add_argument("dataset", type=Path, metavar="DATASET", help="folder made by prophrl dataset build")
    policy.add_argument("out", type=Path, metavar="OUT", help="folder of the run, new or to be continued")
    policy.add_argument("--policy", choices=POLICIES, default="tiny", help="kind of policy (default: tiny)")
    start = policy.add_mutually_exclusive_group()
    start.add_argument("--init", type=Path, metavar="FOLDER", help="published weights to start from (not for tiny)")
    start.add_argument("--resume-from", type=Path, metavar="CHECKPOINT", help="earlier checkpoint to start from")
    start.add_argument("--tiny-size", action="store_true", help="a big policy's architecture in a size for tests")
    settings = policy.add_mutually_exclusive_group()
    settings.add_argument("--preset", help="settings by name: paper, one_24gb, one_80gb; for tiny: tiny, imagined")
    settings.add_argument("--config", type=Path, help="YAML settings; tiny: without it they follow the dataset's size")
    policy.add_argument("--steps", type=int, help="optimiser steps, instead of what the settings say")
    policy.add_argument("--seed", type=int, help="of initialisation, batches and noise (default: 0)")
    policy.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl train``."""
    return _tiny(options) if options.policy == "tiny" else _big(options)


def _tiny(options: argparse.Namespace) -> int:
    if options.init or options.resume_from or options.tiny_size:
        raise UsageError(
            "--init, --resume-from and --tiny-size are for the big policies; add --policy "
            f"{{{','.join(POLICIES[1:])}}}. An interrupted run goes on by itself when OUT is the same"
        )
    from prophrl_models.data.dataset import Dataset
    from prophrl_models.training.sft import load_config, train_policy
    from prophrl_nodes.studies.training import config_for

    file = _settings_file(options)
    config = load_config(file) if file else config_for(len(Dataset(options.dataset)), options.seed or 0)
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, **_loop(options)))
    if options.threads is not None:
        config = dataclasses.replace(config, threads=options.threads)
    with _Bar(config.loop.steps) as bar:
        folder = train_policy(options.dataset, options.out, config, bar)
    print(f"checkpoint: {folder}")
    return 0


def _big(options: argparse.Namespace) -> int:
    import torch

    from prophrl_models.training import distributed
    from prophrl_models.training.vla import load_vla_config, train_vla
    from prophrl_models.training.vla_policy import Origin

    origin = Origin(options.policy, options.init, options.resume_from, options.tiny_size)
    config = load_vla_config(_settings_file(options) or preset_file("train", DEFAULT_PRESET))
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, **_loop(options)))
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    processes = distributed.join()
    try:
        with _Bar(config.loop.steps, silent=not processes.is_main) as bar:
            folder = train_vla(
                options.dataset, options.out, origin, config, progress=bar, say=bar.say, processes=processes
            )
    finally:
        distributed.leave(processes)
    if processes.is_main:
        print(f"checkpoint: {folder}")
    return 0


def _loop(options: argparse.Namespace) -> dict[str, Any]:
    given = (("steps", options.steps), ("seed", options.seed))
    return {name: value for name, value in given if value is not None}


def _settings_file(options: argparse.Namespace) -> Path | None:
    if options.preset is None:
        return options.config  # type: ignore[no-any-return]
    if (options.preset in TINY_PRESETS) != (options.policy == "tiny"):
        choices = " or ".join(TINY_PRESETS) if options.policy == "tiny" else "paper, one_24gb, one_80gb"
        raise UsageError(f"preset {options.preset!r} is not for the {options.policy} policy; choose {choices}")
    return preset_file("train", options.preset)


class _Bar:
    """Progress of a training; called with every log line."""

    def __init__(self, steps: int, *, silent: bool = False) -> None:
        self._steps, self._silent = steps, silent

    def __enter__(self) -> _Bar:
        from prophrl_nodes.studies.progress import progress_bar

        self._bar = None if self._silent else progress_bar(self._steps, "step")
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: object) -> None:
        from prophrl_models.training.loop import Progress

        assert isinstance(progress, Progress)
        if self._bar is not None:
            shown = {name: f"{value:.4f}" for name, value in progress.losses.items()}
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(progress.step - self._bar.n)

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.write(line)
