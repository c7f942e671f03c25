"""One pass over a dataset: how long each episode is and, when asked, normalisation statistics of its numbers.

Lengths come from tables and file headers where a layout has them; RLDS has none, and its episodes must be read. The
lengths of a large dataset are worth keeping:
``EpisodeIndex.save`` writes them, and whoever opens an episode compares its length with the index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.episode import ACTION_NAMES, STATE_NAMES
from prophrl_models.data.files import write_json
from prophrl_models.data.mixture_config import MixtureError
from prophrl_models.data.normalise import Normalisation, StatisticsAccumulator
from prophrl_models.data.registry.errors import RegistryError
from prophrl_models.data.registry.general import EFFECTORS, GeneralEpisode
from prophrl_models.data.registry.sources import RegisteredDataset
from prophrl_models.data.windows import known_actions

Progress = Callable[[str, int, int], None]
"""Told (label, episodes read, episodes in all)."""
FORMAT = 1


@dataclass(frozen=True)
class EpisodeIndex:
    """Lengths of the episodes of one source.

    Attributes:
        frames_E: frames of each episode; 0 where it is left out.
        left_out: number and reason of each episode that is left out.
        content: SHA-256 over names and lengths of the episodes; statistics and saved states name it.
    """

    frames_E: NDArray[np.int64]
    left_out: tuple[tuple[int, str], ...]
    content: str

    def save(self, file: Path, identity: dict[str, Any]) -> None:
        """Write to a JSON file, atomically; ``identity`` says what was indexed."""
        file.parent.mkdir(parents=True, exist_ok=True)
        body = {"frames": self.frames_E.tolist(), "left_out": [list(entry) for entry in self.left_out]}
        write_json(file, {"format": FORMAT, **identity, "content": self.content, **body})

    @staticmethod
    def load(file: Path, identity: dict[str, Any]) -> EpisodeIndex | None:
        """Read a file that ``save`` wrote; ``None`` where there is none, or it is of something else.

        Raises:
            MixtureError: the file is damaged.
        """
        if not file.is_file():
            return None
        try:
            raw = json.loads(file.read_text())
            if {key: raw[key] for key in ("format", *identity)} != {"format": FORMAT, **identity}:
                return None
            left_out = tuple((int(number), str(reason)) for number, reason in raw["left_out"])
            return EpisodeIndex(np.asarray(raw["frames"], dtype=np.int64), left_out, str(raw["content"]))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise MixtureError(f"{file} is damaged ({error!r}); delete it, the next run writes it again") from error


class EffectorStatistics:
    """Statistics of state and action for each end-effector of a dataset, collected episode by episode.

    Counted are the states of all frames and all known actions over ``stride`` frames, each once: the statistics do not
    depend on windows and weights.
    """

    def __init__(self, stride: int) -> None:
        self._stride = stride
        self._states = [StatisticsAccumulator(STATE_NAMES) for _ in range(EFFECTORS)]
        self._actions = [StatisticsAccumulator(ACTION_NAMES) for _ in range(EFFECTORS)]
        self._seen = [False] * EFFECTORS

    def add(self, episode: GeneralEpisode) -> None:
        """Take one episode."""
        actions = known_actions(episode, self._stride)
        for effector in np.flatnonzero(episode.effector_mask_N):
            self._states[effector].add(episode.state_TN7[:, effector])
            self._actions[effector].add(actions[:, effector])
            self._seen[effector] = True

    def result(self, content: str) -> tuple[Normalisation, ...]:
        """One ``Normalisation`` for each end-effector that the dataset has.

        Raises:
            NormalisationError: no episode is long enough for an action.
        """
        both = zip(self._states, self._actions, self._seen, strict=True)
        return tuple(Normalisation(state.result(), action.result(), content) for state, action, seen in both if seen)


def scan(
    dataset: RegisteredDataset,
    label: str,
    *,
    leave_out_damaged: bool = False,
    statistics: EffectorStatistics | None = None,
    progress: Progress | None = None,
) -> EpisodeIndex:
    """Find the length of every episode.

    The first episode is read in full, so that a folder that is not what it is said to be is refused at once; the others
    only where tables and headers do not give their lengths. With ``leave_out_damaged`` or ``statistics`` all are read.

    Args:
        dataset: the opened folder.
        label: of the source, for messages.
        leave_out_damaged: list unreadable episodes instead of refusing them.
        statistics: collects statistics on the way.
        progress: told after every episode.

    Raises:
        MixtureError: an episode cannot be read, or (with ``leave_out_damaged``) none can.
    """
    frames = np.zeros(len(dataset), np.int64)
    left_out: list[tuple[int, str]] = []
    digest = hashlib.sha256()
    in_full = leave_out_damaged or statistics is not None
    for number in range(len(dataset)):
        try:
            length = None if in_full or number == 0 else dataset.frames(number)
            episode = dataset[number] if length is None else None
        except RegistryError as error:
            if not leave_out_damaged:
                raise MixtureError(
                    f"source {label!r}, episode {number}: {error} "
                    "(leave_out_damaged: true leaves such episodes out and lists them)"
                ) from error
            left_out.append((number, str(error)))
            digest.update(f"{number} left out\n".encode())
        else:
            if episode is not None:
                length = len(episode)
                if statistics is not None:
                    statistics.add(episode)
            assert length is not None
            frames[number] = length
            digest.update(f"{number} {dataset.episode_id(number)} {length}\n".encode())
        if progress is not None:
            progress(label, number + 1, len(dataset))
    if len(left_out) == len(dataset):
        raise MixtureError(f"source {label!r}: no episode of {dataset.folder} can be read; the first: {left_out[0][1]}")
    return EpisodeIndex(frames, tuple(left_out), digest.hexdigest())
