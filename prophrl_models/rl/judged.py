"""What a judge is shown of rollouts: pictures, and where the commands led the hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from prophrl_models.prophet.imagined import Imagined, Prompt
from prophrl_models.reward.attempts import Attempt
from prophrl_models.reward.trajectory import Trajectory


def trajectory_of(prompt: Prompt, state_T7: ArrayLike) -> Trajectory | None:
    """A start and the states that were integrated from it; None where its camera is not known."""
    if prompt.camera is None:
        return None
    return Trajectory(prompt.image_HW3, np.asarray(state_T7, np.float64), prompt.camera)


def imagined_attempts(imagined: Imagined) -> list[Attempt]:
    """One for each rollout."""
    return [
        Attempt(np.asarray(video), prompt.instruction, trajectory_of(prompt, state_T7))
        for video, prompt, state_T7 in zip(
            imagined.frames_BTHW3, imagined.prompts, imagined.states_BT7, strict=True
        )
    ]  # fmt: skip
