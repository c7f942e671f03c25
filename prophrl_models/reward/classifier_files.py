"""Folders of trained classifiers.

model.safetensors   weights
config.json         kind, architecture, tasks, temperature and threshold
provenance.json     episodes it was trained on, how good it was on others, SHA-256 of the other files
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from prophrl_models.data.files import publish_tree, write_json
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_judge import ClassifierJudge
from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.trajectory_classifier import TrajectoryClassifier, TrajectoryConfig
from prophrl_models.reward.trajectory_judge import TrajectoryClassifierJudge
from prophrl_models.training.checkpoint import git_revision, sha256

VIDEO_FORMAT, TRAJECTORY_FORMAT = "prophrl-success-classifier/1", "prophrl-trajectory-classifier/2"
JUDGED_AS = {VIDEO_FORMAT: "classifier", TRAJECTORY_FORMAT: "trajectory"}
"""What a folder is called as a judge's argument."""
WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"


def save_classifier(
    folder: Path, model: SuccessClassifier | TrajectoryClassifier, decision: Decision, provenance: Mapping[str, Any]
) -> Path:
    """Write a classifier's folder; an older one there is replaced only when the new one is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    older = folder.with_name(f".{folder.name}.old.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    kind = VIDEO_FORMAT if isinstance(model, SuccessClassifier) else TRAJECTORY_FORMAT
    try:
        tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(
            temporary / CONFIG, {"format": kind, "architecture": model.config.to_json(), "decision": asdict(decision)}
        )
        record = {
            "git_revision": git_revision(),
            "created_ns": time.time_ns(),
            "torch": torch.__version__,
            **provenance,
            "sha256": {name: sha256(temporary / name) for name in (WEIGHTS, CONFIG)},
        }
        write_json(temporary / PROVENANCE, record)
        if folder.exists():
            os.replace(folder, older)
        publish_tree(temporary, folder)
    finally:
        shutil.rmtree(older, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_classifier(folder: str | Path, device: str = "cpu") -> ClassifierJudge:
    """The judge of videos that ``save_classifier`` wrote.

    Raises:
        JudgeError: a file is missing, altered or of another kind.
    """
    folder = Path(folder)
    raw = _read(folder, VIDEO_FORMAT)
    model = SuccessClassifier(ClassifierConfig.from_json(raw["architecture"]))
    decision = _filled(folder, model, raw)
    return ClassifierJudge(model.to(device), decision, name=f"classifier {folder.name}")


def load_trajectory_judge(folder: str | Path, device: str = "cpu") -> TrajectoryClassifierJudge:
    """The judge of trajectories that ``save_classifier`` wrote.

    Raises:
        JudgeError: a file is missing, altered or of another kind.
    """
    folder = Path(folder)
    raw = _read(folder, TRAJECTORY_FORMAT)
    model = TrajectoryClassifier(TrajectoryConfig.from_json(raw["architecture"]))
    decision = _filled(folder, model, raw)
    return TrajectoryClassifierJudge(model.to(device), decision, name=f"trajectory classifier {folder.name}")


def read_decision(folder: str | Path) -> Decision:
    """How a classifier's logits are read, of either kind.

    Raises:
        JudgeError: no such file, or not one of a classifier.
    """
    path = Path(folder) / CONFIG
    try:
        return Decision(**_read_json(path)["decision"])
    except (OSError, KeyError, TypeError) as error:
        raise JudgeError(f"{path} is not the configuration of a success classifier: {error}") from error


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """Where a classifier comes from: its videos by part, settings, what was measured.

    Raises:
        JudgeError: no such file, or not one of a classifier.
    """
    path = Path(folder) / PROVENANCE
    if not path.is_file():
        raise JudgeError(
            f"{folder} has no {PROVENANCE}; a success classifier is a folder made by 'prophrl reward train'"
        )
    record = _read_json(path)
    if "videos" not in record:
        raise JudgeError(f"{path} does not say which videos the classifier was trained on; train it again")
    return record


def _read(folder: Path, wanted: str) -> dict[str, Any]:
    for name in (WEIGHTS, CONFIG, PROVENANCE):
        if not (folder / name).is_file():
            raise JudgeError(f"{folder} has no {name}; a success classifier is a folder made by 'prophrl reward train'")
    recorded = _read_json(folder / PROVENANCE).get("sha256", {})
    for name in (WEIGHTS, CONFIG):
        if recorded.get(name) != sha256(folder / name):
            raise JudgeError(f"{folder / name} is not the file that was saved (SHA-256 differs); copy it again")
    raw = _read_json(folder / CONFIG)
    kind = raw.get("format")
    if kind != wanted:
        said = (
            f"name it {JUDGED_AS[kind]}:{folder}"
            if kind in JUDGED_AS
            else f"this version reads {wanted}; train it again"
        )
        raise JudgeError(f"{folder / CONFIG}: format {kind!r}, not {wanted}; {said}")
    if not isinstance(raw.get("architecture"), dict) or not isinstance(raw.get("decision"), dict):
        raise JudgeError(f"{folder / CONFIG} says no architecture or no decision; train the classifier again")
    return raw


def _filled(folder: Path, model: nn.Module, raw: Mapping[str, Any]) -> Decision:
    """Read the weights into the model; returns how its logits are read."""
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
        return Decision(**raw["decision"])
    except (TypeError, RuntimeError, SafetensorError) as error:
        raise JudgeError(f"{folder} does not hold a success classifier of this version: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise JudgeError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise JudgeError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
