"""Reads datasets of this repository (``prophrl dataset build``) as the registry's own robot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.registry.frames import ArrayFrames
from prophrl_models.data.registry.raw import CALIBRATION, IMAGE_REGION, STEP_VALID, Outline, RawEpisode

_STATE, _ACTION, _COLOR = "observation.state", "action", "observation.images.color"


class OwnSource:
    """A dataset folder; the observation after the last action becomes the last frame."""

    format = "prophrl"

    def __init__(self, folder: str | Path) -> None:
        """Open it, checking table and hash.

        Raises:
            DatasetError: not a complete dataset.
        """
        self.folder = Path(folder)
        self._dataset = Dataset(folder)

    @property
    def rate_hz(self) -> float | None:
        """The dataset's control rate."""
        return self._dataset.control_rate_hz

    def __len__(self) -> int:
        return len(self._dataset)

    def episode_id(self, index: int) -> str:
        """As recorded."""
        return self._dataset.table[index].episode_id

    def recorded_id(self, index: int) -> str | None:
        """As recorded."""
        return self.episode_id(index)

    def outline(self, index: int) -> Outline | None:
        """From the dataset's table, which its hash covers."""
        frames = self._dataset.table[index].steps + 1
        return Outline({_STATE: frames, _ACTION: frames}, {_COLOR: frames})

    def episode(self, index: int) -> RawEpisode:
        """One demonstration."""
        episode = self._dataset[index]
        hold = np.append(np.zeros(6, np.float32), episode.action_T7[-1, 6]).astype(np.float32)
        columns = {
            _STATE: np.concatenate([episode.state_T7, episode.final.state_7[None]]),
            _ACTION: np.concatenate([episode.action_T7, hold[None]]),
        }
        frames = {_COLOR: ArrayFrames(episode.color_THW3, episode.final.image_HW3)}
        return RawEpisode(
            columns,
            frames,
            {"task": episode.instruction},
            episode.metadata.episode_id,
            f"{self.folder}, episode {episode.metadata.episode_id}",
            self.folder,
            {
                "convention": self._dataset.convention,
                "calibration_id": episode.metadata.calibration_id,
                "actions_known": len(episode),
                STEP_VALID: np.append(episode.valid_T, episode.valid_T[-1]),
                CALIBRATION: self._dataset.calibration_yaml(index),
                IMAGE_REGION: self._dataset.image_region,
            },
        )
