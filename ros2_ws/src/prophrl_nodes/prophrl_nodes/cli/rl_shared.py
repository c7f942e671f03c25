"""Arguments that the verbs of ``prophrl rl`` share: which settings, from where."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from prophrl_nodes.cli.presets import preset_file

if TYPE_CHECKING:
    from prophrl_models.rl.settings import RlSettings

DEFAULT_PRESET = "small"


class UsageError(ValueError):
    """Arguments that cannot be understood; the message says which."""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Arguments that choose the settings of a run."""
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--preset", help=f"settings by name (default: {DEFAULT_PRESET})")
    settings.add_argument("--config", type=Path, help="YAML settings")
    parser.add_argument("--seed", type=int, help="of everything that is drawn (default: 0)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: the settings' own)")


def read_settings(options: argparse.Namespace) -> RlSettings:
    """The settings that the arguments choose.

    Raises:
        PresetError: no such preset.
        UsageError: a number of threads below 0.
        TrainingError: a settings file that cannot be used.
    """
    from prophrl_models.rl.settings import load_settings

    if options.threads < 0:
        raise UsageError(f"--threads takes a number of CPU threads, or 0 for the settings' own; got {options.threads}")
    settings = load_settings(options.config or preset_file("rl", options.preset or DEFAULT_PRESET))
    given = (
        ("steps", getattr(options, "steps", None)), ("seed", options.seed), ("threads", options.threads or None),
    )  # fmt: skip
    return dataclasses.replace(settings, **{name: value for name, value in given if value is not None})
