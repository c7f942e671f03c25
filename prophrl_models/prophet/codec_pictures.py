"""Groups of four pictures for training a codec: camera frames of datasets and the action frames that go with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.action_frame import PLUMB_STYLE, STYLE
from calibration.camera import PinholeCamera
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.episode import Episode
from prophrl_models.data.image import Image
from prophrl_models.data.lerobot.action_frames import episode_camera
from prophrl_models.data.lerobot.format import LeRobotError
from prophrl_models.data.split import held_out_of_each
from prophrl_models.prophet.codec_small import GROUP
from prophrl_models.prophet.motion import drawn_action_frames

STYLES = (STYLE, PLUMB_STYLE)
"""A codec serves networks that look at either."""


@dataclass(frozen=True)
class _Shots:
    """One episode: its pictures on disk, and what its action frames are drawn from."""

    episode: Episode
    drawn_T7: NDArray[np.float64]
    camera: PinholeCamera | None


class Pictures:
    """All groups of four consecutive pictures of some datasets, at one size.

    Attributes:
        dataset_hashes, calibration_ids: of everything that is in here.
        without_camera: episodes of which no action frames can be drawn (not calibrated, or a camera on the tool).
        training: episodes that groups are drawn from.
        held_out: episodes to measure on: those that the split leaves out, or ``training`` where it leaves out none.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        height: int,
        width: int,
        camera: PinholeCamera | None = None,
        *,
        held_out: float = 0.0,
        split_seed: int = 0,
    ) -> None:
        """Open datasets.

        Args:
            camera: of the policy images (240 x 320), for episodes that were recorded without a calibration.
            held_out, split_seed: part of the episodes that is kept from training, and which (``data.split``): as in the
                training of the world model, whose evaluation would else be on pictures that the codec knows.

        Raises:
            DatasetError: a folder is no dataset.
            SplitError: nothing to hold out, or nothing left to train on.
            ValueError: no episode to train on, or none that is held out, has four pictures.
        """
        self.height, self.width = height, width
        self._given = None if camera is None else camera.resized(width, height)
        self.dataset_hashes: list[str] = []
        self.without_camera = 0
        ids: set[str] = set()
        self.training: list[_Shots] = []
        self.held_out: list[_Shots] = []
        datasets = [Dataset(folder) for folder in folders]
        splits = held_out_of_each(datasets, held_out, split_seed)
        for dataset, split in zip(datasets, splits, strict=True):
            self.dataset_hashes.append(dataset.content_hash)
            left_out = set(split.held_out)
            for position in range(len(dataset)):
                episode = dataset[position]
                ids.add(episode.metadata.calibration_id)
                if len(episode) < GROUP:
                    continue
                view = self._camera(dataset, position, episode.metadata.episode_id)
                self.without_camera += view is None
                drawn = episode.state_T7.astype(np.float64)
                drawn[1:, 6] = episode.action_T7[:-1, 6]  # the commanded opening, as in imagined rollouts
                side = self.held_out if position in left_out else self.training
                side.append(_Shots(episode, drawn, view))
        if not self.training or (held_out > 0.0 and not self.held_out):
            which = "held-out episode" if self.training else "episode to train on"
            raise ValueError(
                f"no {which} of {[str(f) for f in folders]} has {GROUP} pictures; "
                "give a larger dataset or another split"
            )
        self.calibration_ids = sorted(ids)
        self.held_out = self.held_out or self.training

    def group(self, rng: np.random.Generator, *, held_out: bool = False, action_frames: bool = False) -> Image:
        """Four consecutive pictures [4, H, W, 3] from a random place.

        Action frames come from an episode with a camera; without any, camera frames are given.
        """
        pool = self.held_out if held_out else self.training
        if action_frames:
            pool = [shots for shots in pool if shots.camera is not None] or pool
        shots = pool[int(rng.integers(len(pool)))]
        first = int(rng.integers(len(shots.episode) - GROUP + 1))
        if action_frames and shots.camera is not None:
            style = STYLES[int(rng.integers(len(STYLES)))]
            drawn: Image = drawn_action_frames(shots.drawn_T7[None, first : first + GROUP], [shots.camera], style)[0]
            return drawn
        frames = shots.episode.color_THW3[first : first + GROUP]
        return np.stack([self._resized(np.asarray(frame)) for frame in frames])

    def _resized(self, image_HW3: Image) -> Image:
        if image_HW3.shape[:2] == (self.height, self.width):
            return image_HW3
        return np.asarray(cv2.resize(image_HW3, (self.width, self.height), interpolation=cv2.INTER_AREA), np.uint8)

    def _camera(self, dataset: Dataset, position: int, episode_id: str) -> PinholeCamera | None:
        text = dataset.calibration_yaml(position)
        if text is None:
            return self._given
        try:
            camera = episode_camera(text, episode_id, dataset.image_region)
        except LeRobotError:
            return None  # counted in ``without_camera`` and reported; the pictures themselves are as good as any
        return camera.resized(self.width, self.height)
