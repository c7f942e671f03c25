"""Reads datasets of this repository (``prophrl dataset build``) as the registry's own robot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.registry.frames import ArrayFrames
from prophrl_models.data.registry.raw import RawEpisode


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

    def episode(self, index: int) -> RawEpisode:
        """One demonstration."""
        episode = self._dataset[index]
        hold = np.append(np.zeros(6, np.float32), episode.action_T7[-1, 6]).astype(np.float32)
        columns = {
            "observation.state": np.concatenate([episode.state_T7, episode.final.state_7[None]]),
            "action": np.concatenate([episode.action_T7, hold[None]]),
        }
        frames = {"observation.images.color": ArrayFrames(episode.color_THW3, episode.final.image_HW3)}
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
            },
        )
