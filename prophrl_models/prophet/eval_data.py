"""What the world model is compared with: clips of held-out episodes at the world's picture size, read piece by piece.

A clip starts at a frame of an episode and runs along the logged actions. After the episode's end the actions are holds
(zero motion, last opening) and the last frame is repeated; ``Clip.frames`` says how many are real.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera
from calibration.storage import CalibrationFileError, parse
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.episode import Episode
from prophrl_models.data.image import Image, policy_camera

_OPEN_EPISODES = 16
"""Episodes kept open (their numbers and a memory map of their pictures), whatever the size of the dataset."""


class EvaluationError(ValueError):
    """Nothing to evaluate on, or things that cannot be compared; the message says what to change."""


@dataclass(frozen=True)
class Clip:
    """A place in a dataset to start from.

    Attributes:
        position: of the episode in the dataset's table.
        start: frame that is known.
        frames: real frames that follow it, at most as many as were asked for.
    """

    position: int
    start: int
    frames: int


def spread_windows(
    dataset: Dataset, positions: Sequence[int], frames: int, count: int, seed: int = 0
) -> tuple[Clip, ...]:
    """``count`` windows of ``frames`` trusted actions, drawn evenly from episodes; all there are, if fewer.

    Args:
        positions: episodes to draw from.
        frames: frames to predict, and actions.
        count: windows wanted.
        seed: of the draw; the same windows for the same dataset.

    Raises:
        EvaluationError: no episode among them is long enough.
    """
    if count < 1:
        raise EvaluationError(f"at least one window must be evaluated, got {count}")
    allowed = set(positions)
    rng = np.random.default_rng(seed)
    starts: dict[int, list[int]] = {}
    for position, start in dataset.windows(frames):
        if int(position) in allowed:
            starts.setdefault(int(position), []).append(int(start))
    if not starts:
        raise EvaluationError(
            f"none of the {len(allowed)} held-out episodes has {frames} valid steps in a row; use a larger "
            "held-out fraction or another seed"
        )
    queues = [[(p, s) for s in rng.permutation(starts[p]).tolist()] for p in sorted(starts)]
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count and any(queues):  # in turns, so that long episodes do not crowd out short ones
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return tuple(Clip(position, start, frames) for position, start in sorted(chosen))


def episode_starts(dataset: Dataset, positions: Sequence[int], frames: int, count: int) -> tuple[Clip, ...]:
    """The first ``count`` of these episodes from their first frame on, with as many of ``frames`` as they have."""
    return tuple(Clip(p, 0, min(frames, dataset.table[p].steps)) for p in list(positions)[:count])


class ClipReader:
    """Reads clips at a world's picture size; keeps a handful of episodes open and no pictures in memory."""

    def __init__(self, dataset: Dataset, height: int, width: int) -> None:
        self.dataset, self.height, self.width = dataset, height, width
        self._open: OrderedDict[int, Episode] = OrderedDict()

    def state(self, clip: Clip) -> NDArray[np.float32]:
        """The measured state at the known frame [7]."""
        episode = self._episode(clip.position)
        if clip.start == len(episode):
            return episode.final.state_7
        return np.asarray(episode.state_T7[clip.start], dtype=np.float32)

    def actions(self, clip: Clip, first: int, count: int) -> NDArray[np.float32]:
        """Logged actions number ``first`` to ``first + count - 1`` after the known frame [count, 7]."""
        action_T7 = self._episode(clip.position).action_T7
        numbers = clip.start + first + np.arange(count)
        chosen = np.array(action_T7[np.minimum(numbers, len(action_T7) - 1)], dtype=np.float32)
        chosen[numbers >= len(action_T7), :6] = 0.0
        return chosen

    def frames(self, clip: Clip, first: int, count: int) -> Image:
        """Real frames number ``first`` to ``first + count - 1`` [count, H, W, 3]; number 0 is the known one.

        Before the episode's start its first frame is repeated, after its end its last one.
        """
        episode = self._episode(clip.position)
        pictures: Image = np.empty((count, self.height, self.width, 3), np.uint8)
        for k in range(count):
            step = min(max(clip.start + first + k, 0), len(episode))
            source = episode.final.image_HW3 if step == len(episode) else np.asarray(episode.color_THW3[step])
            pictures[k] = self._resized(source)
        return pictures

    def camera(self, clip: Clip) -> PinholeCamera | None:
        """The camera whose pixels are those of ``frames``; None without a calibration of a fixed camera.

        Raises:
            EvaluationError: a calibration that cannot be read.
        """
        text = self.dataset.calibration_yaml(clip.position)
        if text is None:
            return None
        name = self.dataset.table[clip.position].episode_id
        try:
            calibration = parse(text.encode(), f"the calibration of episode {name!r}")
        except CalibrationFileError as error:
            raise EvaluationError(str(error)) from error
        if calibration.mode == "eye_in_hand":
            return None
        return policy_camera(calibration.camera, self.dataset.image_region).resized(self.width, self.height)

    def _resized(self, picture_HW3: Image) -> Image:
        if picture_HW3.shape[:2] == (self.height, self.width):
            return picture_HW3
        small = cv2.resize(picture_HW3, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return np.asarray(small, dtype=np.uint8)

    def _episode(self, position: int) -> Episode:
        if position not in self._open:
            if len(self._open) == _OPEN_EPISODES:
                self._open.popitem(last=False)
            self._open[position] = self.dataset[position]
        self._open.move_to_end(position)
        return self._open[position]
