"""The trained classifier of videos as a judge; its folder: ``classifier_files``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import SuccessClassifier
from prophrl_models.reward.frames import resized, sample_indices
from prophrl_models.reward.judge import Verdict, Video, check_videos
from prophrl_models.reward.vocabulary import known_name


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
        frames = self.model.config.frames
        return [
            self.decision.verdict(logit_T, sample_indices(len(video), frames))
            for video, logit_T in zip(videos, self.logits(videos, tasks), strict=True)
        ]

    def logits(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[NDArray[np.float64]]:
        """Raw logits at the looked-at frames of each video, oldest first."""
        task_N = self.model.task_numbers([known_name(task, self.model.config.tasks) for task in tasks])
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

    def _clip(self, video: Video, index: NDArray[np.int64]) -> Video:
        """Looked-at frames at the model's size; short videos repeat their last one, which no earlier logit sees."""
        clip = resized(np.asarray(video[index]), self.model.config.height, self.model.config.width)
        return np.pad(clip, ((0, self.model.config.frames - len(clip)), (0, 0), (0, 0), (0, 0)), mode="edge")

    @torch.inference_mode()
    def _forward(self, clip_BTHW3: Tensor, task_B: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        return self.model(clip_BTHW3.to(device), task_B.to(device)).float()  # type: ignore[no-any-return]
