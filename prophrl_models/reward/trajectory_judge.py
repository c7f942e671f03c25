"""The trained classifier of trajectories as a judge; its folder: ``classifier_files``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.frames import sample_indices
from prophrl_models.reward.judge import JudgeError, Verdict, Video
from prophrl_models.reward.trajectory import Trajectory, motion, views
from prophrl_models.reward.trajectory_classifier import TrajectoryClassifier, TrajectoryConfig
from prophrl_models.reward.vocabulary import known_name


class TrajectoryClassifierJudge:
    """Judges by where the hand is told to go in the start picture; one vote, as of ``ClassifierJudge``."""

    def __init__(
        self, model: TrajectoryClassifier, decision: Decision, *, name: str = "trajectory classifier", batch: int = 16
    ) -> None:
        self.name, self.model, self.decision, self._batch = name, model.eval(), decision, batch

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        """Refused: there is nothing in a video that it could look at."""
        raise JudgeError(
            f"{self.name} judges commands in front of a start picture, not videos alone; ask a judge of videos "
            "('prophrl reward train --kind video'), or name datasets"
        )

    def judge_trajectories(self, trajectories: Sequence[Trajectory], tasks: Sequence[str]) -> list[Verdict]:
        """One verdict for each trajectory; see ``TrajectoryJudge.judge_trajectories``."""
        frames = self.model.config.frames
        return [
            self.decision.verdict(logit_T, sample_indices(len(trajectory.state_T7), frames))
            for trajectory, logit_T in zip(trajectories, self.logits(trajectories, tasks), strict=True)
        ]

    def logits(self, trajectories: Sequence[Trajectory], tasks: Sequence[str]) -> list[NDArray[np.float64]]:
        """Raw logits at the looked-at moments of each trajectory, oldest first."""
        config = self.model.config
        task_N = self.model.task_numbers([known_name(task, config.tasks) for task in tasks])
        found: list[NDArray[np.float64]] = []
        device = next(self.model.parameters()).device
        for first in range(0, len(trajectories), self._batch):
            part = trajectories[first : first + self._batch]
            index = [sample_indices(len(t.state_T7), config.frames) for t in part]
            seen = [looked_at(t, rows, config) for t, rows in zip(part, index, strict=True)]
            views_B, motion_B = (torch.from_numpy(np.stack(parts)).to(device) for parts in zip(*seen, strict=True))
            with torch.inference_mode():
                logit_BT = self.model(views_B, motion_B, task_N[first : first + len(part)].to(device)).double().cpu()
            found += [row[: len(rows)].numpy() for row, rows in zip(logit_BT, index, strict=True)]
        return found


def looked_at(
    trajectory: Trajectory, index_T: NDArray[np.int64], config: TrajectoryConfig
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Squares [T, V, V, 6] and motion [T, 6] with T = ``config.frames``: short trajectories repeat their last moment,
    which no earlier logit sees."""
    index_T = np.pad(index_T, (0, config.frames - len(index_T)), mode="edge")
    shown = trajectory.resized(config.height, config.width)
    squares = views(shown, index_T, config.view, config.side_m, config.ground_z_m)
    return squares, motion(shown, index_T, config.ground_z_m)
