"""The trained classifier as a judge, and its folder.

model.safetensors   weights
config.json         architecture, tasks, temperature and threshold
provenance.json     videos it was trained on, how good it was on videos it had not seen, SHA-256 of the other files
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prophrl_models.data.files import publish_tree, write_json
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.frames import resized, sample_indices
from prophrl_models.reward.judge import JudgeError, Verdict, Video, check_videos
from prophrl_models.reward.prompts import prompts
from prophrl_models.training.checkpoint import git_revision, sha256

FORMAT = "prophrl-success-classifier/1"
WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"


class ClassifierJudge:
    """Judges by a trained classifier; one vote, whose score is the calibrated probability at the last frame.

    ``finish_step`` is the first looked-at frame from which the classifier never went back below its threshold.
    """

    def __init__(
        self, model: SuccessClassifier, decision: Decision, *, name: str = "classifier", batch: int = 16
    ) -> None:
        self.name, self.model, self.decision, self._batch = name, model.eval(), decision, batch

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        """One verdict for each video; see ``Judge.judge``."""
        check_videos(videos, tasks)
        return [
            self._verdict(video, logit_T) for video, logit_T in zip(videos, self.logits(videos, tasks), strict=True)
        ]

    def logits(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[NDArray[np.float64]]:
        """Raw logits at the looked-at frames of each video, oldest first."""
        task_N = self.model.task_numbers([self._instruction(task) for task in tasks])
        found: list[NDArray[np.float64]] = [np.zeros(0)] * len(videos)
        frames = self.model.config.frames
        for first in range(0, len(videos), self._batch):
            rows = range(first, min(first + self._batch, len(videos)))
            index = [sample_indices(len(videos[row]), frames) for row in rows]
            clip = [self._clip(videos[row], chosen) for row, chosen in zip(rows, index, strict=True)]
            logit_BT = self._forward(torch.from_numpy(np.stack(clip)), task_N[list(rows)])
            for row, chosen, logit_T in zip(rows, index, logit_BT, strict=True):
                found[row] = logit_T[: len(chosen)].double().cpu().numpy()
        return found

    def _instruction(self, task: str) -> str:
        """The name under which the classifier knows a task: prompt files say which names mean the same."""
        said, known = task.strip().lower(), self.model.config.tasks
        for prompt in prompts().values():
            names = [name.lower() for name in prompt.tasks]
            if said in names:
                return next((name for name in known if name.lower() in names), task)
        return task

    def _clip(self, video: Video, index: NDArray[np.int64]) -> Video:
        """Looked-at frames at the model's size; short videos repeat their last one, which no earlier logit sees."""
        clip = resized(np.asarray(video[index]), self.model.config.height, self.model.config.width)
        return np.pad(clip, ((0, self.model.config.frames - len(clip)), (0, 0), (0, 0), (0, 0)), mode="edge")

    @torch.inference_mode()
    def _forward(self, clip_BTHW3: Tensor, task_B: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        return self.model(clip_BTHW3.to(device), task_B.to(device)).float()  # type: ignore[no-any-return]

    def _verdict(self, video: Video, logit_T: NDArray[np.float64]) -> Verdict:
        probability_T = self.decision.probability(logit_T)
        score, threshold = float(probability_T[-1]), self.decision.threshold
        success, finish = score >= threshold, None
        if success:
            below = np.flatnonzero(probability_T < threshold)
            index = sample_indices(len(video), self.model.config.frames)
            finish = int(index[below[-1] + 1]) if len(below) else int(index[0])
        return Verdict(success, score, (success,), finish, f"probability {score:.3f}, threshold {threshold:.3f}")


def save_classifier(folder: Path, model: SuccessClassifier, decision: Decision, provenance: Mapping[str, Any]) -> Path:
    """Write a classifier's folder; an older one there is replaced only when the new one is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    older = folder.with_name(f".{folder.name}.old.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(
            temporary / CONFIG,
            {"format": FORMAT, "architecture": model.config.to_json(), "decision": asdict(decision)},
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
    """The judge that ``save_classifier`` wrote.

    Raises:
        JudgeError: a file is missing, altered or of another kind.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG, PROVENANCE):
        if not (folder / name).is_file():
            raise JudgeError(f"{folder} has no {name}; a success classifier is a folder made by 'prophrl reward train'")
    recorded = _read_json(folder / PROVENANCE).get("sha256", {})
    for name in (WEIGHTS, CONFIG):
        if recorded.get(name) != sha256(folder / name):
            raise JudgeError(f"{folder / name} is not the file that was saved (SHA-256 differs); copy it again")
    raw = _read_json(folder / CONFIG)
    if raw.get("format") != FORMAT:
        raise JudgeError(f"{folder / CONFIG}: format {raw.get('format')!r}, this version reads {FORMAT}")
    try:
        model = SuccessClassifier(ClassifierConfig.from_json(raw["architecture"]))
        decision = Decision(**raw["decision"])
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise JudgeError(f"{folder} does not hold a success classifier of this version: {error}") from error
    return ClassifierJudge(model.to(device), decision, name=f"classifier {folder.name}")


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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise JudgeError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise JudgeError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
