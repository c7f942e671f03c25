"""The folder of a run: which run it belongs to, and whether that run is new, unfinished or done."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prophrl_models.data.files import write_json
from prophrl_models.training.settings import TrainingError

CHECKPOINT_FOLDER = "policy"
SETTINGS_FILE = "settings.json"
HARMLESS = ("workers", "threads", "gradient_checkpointing", "loop.log_every", "loop.save_every", "loop.tensorboard")
"""Settings that may change when a run is continued: they do not touch the loss curve."""


def run_settings(config: Any, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies a run, flat: settings by dotted name without the harmless ones, data and first weights."""
    flat: dict[str, Any] = {}

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                flatten(f"{prefix}{key}.", inner)
        else:
            flat[prefix.rstrip(".")] = value

    flatten("", dataclasses.asdict(config))
    flatten("", {"dataset_hash": provenance.get("dataset_hash"), "parent": provenance.get("parent")})
    plain = json.loads(json.dumps(flat))
    return {name: value for name, value in plain.items() if name not in HARMLESS}


def claim(out_dir: Path, settings: Mapping[str, Any], *, write: bool) -> None:
    """Take a run's folder: a new one, or that of the same run.

    Raises:
        TrainingError: the run has finished, or was started with other settings; names them with both values.
    """
    unfinished = any(out_dir.glob("resume*.safetensors"))
    file = out_dir / SETTINGS_FILE
    if (out_dir / CHECKPOINT_FOLDER).exists() and not unfinished:
        raise TrainingError(
            f"{out_dir} holds a finished training; use a new output folder, and --resume-from "
            f"{out_dir / CHECKPOINT_FOLDER} to go on from its weights"
        )
    if unfinished and file.is_file():
        before = json.loads(file.read_text())
        other = [name for name in sorted({*before, *settings}) if before.get(name) != settings.get(name)]
        if other:
            said = "; ".join(f"{name} was {before.get(name)!r}, is {settings.get(name)!r}" for name in other)
            raise TrainingError(
                f"{out_dir} holds an unfinished run with other settings ({said}); give the old ones to continue it, or "
                "use a new output folder"
            )
    elif write:
        out_dir.mkdir(parents=True, exist_ok=True)
        write_json(file, dict(settings))
