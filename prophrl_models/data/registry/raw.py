"""What a reader hands to the adapter: columns, pictures and texts of one stored episode, under their published keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.registry.errors import MissingKeyError, RegistryError
from prophrl_models.data.registry.frames import FrameSource

Array = NDArray[np.float64]

CALIBRATION = "calibration_yaml"
"""Key in ``RawEpisode.metadata``: text of the camera calibration in force during an episode of this repository."""

IMAGE_REGION = "image_region"
"""Key in ``RawEpisode.metadata``: the ``ImageRegion`` that the pictures of an episode of this repository show."""

STEP_VALID = "step_valid"
"""Key in ``RawEpisode.metadata``: bool [T], False for steps near a gap, of an episode of this repository."""


@dataclass(frozen=True)
class RawEpisode:
    """One episode as stored.

    Attributes:
        columns: numeric columns [T, K] by published key; may be decoded on access.
        frames: picture streams by published key.
        texts: what is text, by published key (of the first step where it is stored per step).
        episode_id: unique inside the dataset.
        where: file or folder, for messages.
        folder: root of the dataset on this disk.
        metadata: anything else a camera or an adapter may need.
    """

    columns: Mapping[str, NDArray[Any]]
    frames: Mapping[str, FrameSource]
    texts: Mapping[str, str]
    episode_id: str
    where: str
    folder: Path
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def column(self, key: str, columns: tuple[int, ...] | None = None, width: int | None = None) -> Array:
        """A column [T, K] as float64, with the given columns picked out (all of them when ``None``).

        Raises:
            MissingKeyError: no such key.
            RegistryError: fewer columns than asked for, or another number than ``width``.
        """
        if key not in self.columns:
            raise MissingKeyError(key, self.where, self.columns, _LAYOUT_ACTION)
        values = np.asarray(self.columns[key], dtype=np.float64)
        values = values.reshape(len(values), -1)
        if width is not None and values.shape[1] != width:
            raise RegistryError(
                f"{self.where}: {key!r} has {values.shape[1]} columns, {width} are known (another hand or robot?); "
                "leave this episode out"
            )
        if columns is None:
            return values
        if max(columns) >= values.shape[1]:
            raise RegistryError(
                f"{self.where}: {key!r} has {values.shape[1]} columns, none with index {max(columns)}. {_LAYOUT_ACTION}"
            )
        return np.asarray(values[:, list(columns)], dtype=np.float64)

    def pictures(self, keys: tuple[str, ...]) -> FrameSource:
        """The first of several picture streams that is there."""
        for key in keys:
            if key in self.frames:
                return self.frames[key]
        raise MissingKeyError(" or ".join(keys), self.where, self.frames, _LAYOUT_ACTION)

    def text(self, keys: tuple[str, ...]) -> str:
        """The first of several texts that is there and not empty; empty when all are."""
        for key in keys:
            if self.texts.get(key, "").strip():
                return self.texts[key].strip()
        if keys and not any(key in self.texts for key in keys):
            raise MissingKeyError(" or ".join(keys), self.where, self.texts, _LAYOUT_ACTION)
        return ""


_LAYOUT_ACTION = (
    "Check that this folder is the named dataset in its published layout ('prophrl dataset sources' lists the layouts)."
)


@dataclass(frozen=True)
class Outline:
    """What is in a stored episode, found without reading its numbers and pictures.

    Attributes:
        columns: rows of each numeric column, by published key.
        frames: pictures of each stream.
    """

    columns: Mapping[str, int]
    frames: Mapping[str, int]


class Source(Protocol):
    """A folder in one published layout."""

    @property
    def format(self) -> str: ...

    @property
    def rate_hz(self) -> float | None:
        """Rate that the files state; ``None`` where the layout states none."""
        ...

    def __len__(self) -> int: ...

    def episode(self, index: int) -> RawEpisode: ...

    def episode_id(self, index: int) -> str:
        """The id of an episode inside this dataset, without reading it."""
        ...

    def recorded_id(self, index: int) -> str | None:
        """The id that this repository's recorder gave an episode; None for those that it did not record."""
        ...

    def outline(self, index: int) -> Outline | None:
        """What an episode holds; None where the layout says so nowhere but in the episode itself.

        Raises:
            RegistryError: what a look at tables and headers shows to be damaged or missing.
        """
        ...


def all_episodes(source: Source) -> Iterator[RawEpisode]:
    """Every episode of a source in order."""
    for index in range(len(source)):
        yield source.episode(index)
