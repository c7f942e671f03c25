"""Labelled trajectories for the classifier that judges them: start pictures, commands and outcomes of episodes.

Failures teach most. Where all that was recorded succeeded, failures are made: the same motion elsewhere over the same
table (``Trajectory.moved``) meets nothing of what it was made for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.storage import load_camera
from prophrl_models.data.bag import CALIBRATION_FILE
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.image import policy_camera
from prophrl_models.data.split import original_name
from prophrl_models.prophet.motion import integrated
from prophrl_models.reward.classifier_data import NOT_DONE, frame_labels
from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.trajectory import Trajectory


@dataclass(frozen=True)
class LabelledTrajectory:
    """One episode.

    Attributes:
        id: its source; splits go by it.
        task: instruction.
        trajectory: start picture and what was commanded.
        label_T: int8, at the start and after each action, as of ``LabelledVideo``.
        success: whether the task was accomplished at the end.
    """

    id: str
    task: str
    trajectory: Trajectory
    label_T: NDArray[np.int8]
    success: bool

    @property
    def recording(self) -> str:
        """Id of the recording behind it; of an episode that was made from another one, the other's."""
        return original_name(self.id)


def labelled_trajectories(dataset: Dataset) -> Iterator[LabelledTrajectory]:
    """Episodes without a gap whose outcome and camera are known.

    Raises:
        JudgeError: no episode of the dataset has a calibrated camera.
    """
    calibrated = 0
    for position, row in enumerate(dataset.table):
        file = dataset.folder / row.folder / CALIBRATION_FILE
        calibrated += file.is_file()
        if row.outcome not in ("success", "failure") or row.valid_steps != row.steps or not file.is_file():
            continue
        episode = dataset[position]
        image = np.array(episode.color_THW3[0])
        camera = policy_camera(load_camera(file), dataset.image_region).resized(image.shape[1], image.shape[0])
        state_T7 = integrated(episode.state_T7[:1], episode.action_T7[None], dataset.convention)[0]
        success = row.outcome == "success"
        label_T = np.full(len(state_T7), NOT_DONE, np.int8)
        if success:
            # Where the hand was tells more of the moment than where it was told to be.
            label_T = frame_labels(np.concatenate([episode.state_T7, episode.final.state_7[None]]))
        yield LabelledTrajectory(row.source, row.instruction, Trajectory(image, state_T7, camera), label_T, success)
    if not calibrated:
        raise JudgeError(
            f"no episode of {dataset.folder} has a calibrated camera, so it is not known where in the picture the hand "
            "goes; calibrate the cell and build the dataset again, or train a judge of videos"
        )
