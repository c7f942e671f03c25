"""Arguments and progress that the verbs of ``prophrl prophet`` share."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prophrl_nodes.cli.presets import preset_file

if TYPE_CHECKING:
    from calibration.camera import PinholeCamera
    from prophrl_models.prophet.train_settings import ProphetTrainConfig

DEFAULT_PRESET = "small"


class UsageError(ValueError):
    """Options that do not go together; the message says which."""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Arguments that choose the settings of a training."""
    settings = parser.add_mutually_exclusive_group()
    settings.add_argument("--preset", help=f"settings by name, see config/prophet (default: {DEFAULT_PRESET})")
    settings.add_argument("--config", type=Path, help="YAML settings, as those in config/prophet")
    parser.add_argument("--seed", type=int, help="of initialisation, batches and noise (default: 0)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def add_camera(parser: argparse.ArgumentParser) -> None:
    """The camera of episodes without a calibration."""
    parser.add_argument(
        "--camera", type=Path, metavar="FILE", help="calibration file for episodes that were recorded without one"
    )


def read_settings(options: argparse.Namespace) -> ProphetTrainConfig:
    """The settings that the arguments choose; also sets the number of threads.

    Raises:
        PresetError: no such preset.
        TrainingError: a settings file that cannot be used.
    """
    import torch

    from prophrl_models.prophet.train_settings import load_prophet_config

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    config = load_prophet_config(options.config or preset_file("prophet", options.preset or DEFAULT_PRESET))
    given = {"steps": getattr(options, "steps", None), "seed": options.seed}
    changed = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, **changed))


def given_camera(options: argparse.Namespace, datasets: Sequence[Path]) -> PinholeCamera | None:
    """The camera of --camera, for pictures as those of the datasets (240 x 320; they show the same region).

    Raises:
        CalibrationFileError: the file cannot be used.
        DatasetError: the first folder is no dataset.
    """
    if options.camera is None:
        return None
    from calibration.storage import load_camera
    from prophrl_models.data.dataset import Dataset
    from prophrl_models.data.image import WHOLE, policy_camera

    region = Dataset(datasets[0]).image_region if datasets else WHOLE
    return policy_camera(load_camera(options.camera), region)


class Bars:
    """Progress bars, one after the other: ``bars("step")`` gives what is told about a training's log lines."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._bar: Any = None
        self._name = ""

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """End the bar that is shown."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._name = None, ""

    def training(self, name: str) -> Callable[[Any], None]:
        """What is told about each log line of a training."""

        def tell(progress: Any) -> None:
            values = {key: f"{value:.4f}" for key, value in progress.losses.items()}
            self._show(name, progress.step, progress.steps, values)

        return tell

    def episodes(self, name: str) -> Callable[[int, int], None]:
        """What is told about each episode that is encoded."""
        return lambda done, total: self._show(f"{name}: episode", done, total, {})

    def say(self, line: str) -> None:
        """A line above the bar."""
        if not self._silent:
            self.close()
            print(line, flush=True)

    def _show(self, name: str, done: int, total: int, values: dict[str, str]) -> None:
        if self._silent:
            return
        if self._name != name:
            from prophrl_nodes.studies.progress import progress_bar

            self.close()
            self._bar, self._name = progress_bar(total, name, initial=0), name
        self._bar.set_postfix(values, refresh=False)
        self._bar.update(done - self._bar.n)
