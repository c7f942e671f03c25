"""Reads datasets: typed episodes whose images stay on disk until they are looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention
from prophrl_models.data.bag import CALIBRATION_FILE
from prophrl_models.data.build import BuildReport, LeftOut, build_dataset
from prophrl_models.data.dataset_format import (
    COLOR_FILE,
    DATASET_FILE,
    DEPTH_FILE,
    EPISODE_FILE,
    FINAL_FILE,
    STEPS_FILE,
    DatasetError,
    DatasetHeader,
    EpisodeRow,
    content_hash,
    record_sha256,
)
from prophrl_models.data.dataset_writer import DatasetWriter
from prophrl_models.data.depth import DepthColumns
from prophrl_models.data.episode import Episode, EpisodeMetadata, Observation
from prophrl_models.data.files import array_sha256
from prophrl_models.data.image import ImageRegion
from prophrl_models.data.normalise import Normalisation
from prophrl_models.data.quality import QualityRow
from prophrl_models.data.streams import STREAMS
from prophrl_models.data.synchronise import SyncSpec

__all__ = [
    "BuildReport",
    "Dataset",
    "DatasetError",
    "DatasetHeader",
    "DatasetWriter",
    "EpisodeRow",
    "LeftOut",
    "build_dataset",
]


class Dataset:
    """A complete dataset folder; index it for episodes.

    Attributes:
        header: action convention, rate and synchronisation of all episodes.
        content_hash: identifies what a training run sees.
        table: one row per episode.
        left_out: bags that were not taken, with reasons.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a dataset and check that table and hash agree (arrays are checked when read, see ``verify``).

        Raises:
            DatasetError: missing, unfinished, of another format, without a convention, or with a wrong hash.
        """
        self.folder = Path(folder)
        file = self.folder / DATASET_FILE
        if not file.is_file():
            raise DatasetError(f"no {DATASET_FILE} in {self.folder}; build one with 'prophrl dataset build'")
        try:
            raw = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise DatasetError(f"{file} is not JSON: {error}; repeat the build to write it anew") from error
        self.header = DatasetHeader.from_json(raw, file)
        if not raw.get("complete"):
            raise DatasetError(f"{self.folder} is unfinished; repeat the build, it goes on where it stopped")
        try:
            self.table = tuple(EpisodeRow.from_json(row) for row in raw["episodes"])
            self.left_out = tuple(LeftOut(**entry) for entry in raw["left_out"])
            self.content_hash = str(raw["content_hash"])
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{file} has a damaged table ({error}); repeat the build to write it anew") from error
        found = content_hash(self.header, self.table)
        if found != self.content_hash:
            raise DatasetError(
                f"{file} was changed by hand: its content hashes to {found[:12]}, it says {self.content_hash[:12]}; "
                "repeat the build to write it anew"
            )

    @property
    def convention(self) -> ActionConvention:
        return self.header.convention

    @property
    def control_rate_hz(self) -> float:
        return self.header.sync.control_rate_hz

    @property
    def sync(self) -> SyncSpec:
        return self.header.sync

    @property
    def image_region(self) -> ImageRegion:
        """The part of the camera's picture that the episodes' pictures show."""
        return self.header.sync.image_region

    @property
    def has_depth(self) -> bool:
        """Episodes carry depth pictures."""
        return self.header.depth is not None

    def calibration_yaml(self, position: int) -> str | None:
        """The camera calibration in force during an episode, as its file reads; None without one."""
        file = self.folder / self.table[position].folder / CALIBRATION_FILE
        return file.read_text(encoding="utf-8") if file.is_file() else None

    @property
    def instructions(self) -> tuple[str, ...]:
        """The distinct instructions, sorted."""
        return tuple(sorted({row.instruction for row in self.table}))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, position: int) -> Episode:
        """Episode at a position of the table; numbers are checked against their hashes, images stay on disk.

        Raises:
            IndexError: no such position.
            DatasetError: files are missing or do not match their hashes.
        """
        row = self.table[position]
        folder = self.folder / row.folder
        record = self._record(row)
        try:
            with np.load(folder / STEPS_FILE) as stored:
                steps = {name: stored[name] for name in stored.files}
            with np.load(folder / FINAL_FILE) as stored:
                final = {name: stored[name] for name in stored.files}
            color = np.load(folder / COLOR_FILE, mmap_mode="r")
            depth = np.load(folder / DEPTH_FILE, mmap_mode="r") if self.has_depth else None
        except (OSError, ValueError, EOFError) as error:
            raise DatasetError(f"{folder} is damaged ({error}); remove it and repeat the build") from error
        arrays = {**steps, **{f"final.{name}": array for name, array in final.items()}}
        for name, array in arrays.items():
            self._check(folder, name, array_sha256(array), record)
        metadata = EpisodeMetadata(**record["metadata"])
        return Episode(
            metadata=metadata,
            convention=self.convention,
            control_rate_hz=self.control_rate_hz,
            state_T7=steps["state_T7"],
            action_T7=steps["action_T7"],
            stamp_ns_T=steps["stamp_ns_T"],
            source_stamp_ns_T={stream: steps[f"{stream}_stamp_ns_T"] for stream in STREAMS},
            valid_T=steps["valid_T"],
            moving_T=steps["moving_T"],
            final=Observation(final["image_HW3"], final["state_7"], metadata.instruction, int(final["stamp_ns"][0])),
            quality=record["quality"],
            depth=_depth_columns(steps, final, record["quality"]) if self.has_depth else None,
            color_THW3=color,
            depth_THW=depth,
        )

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self)))

    def normalisation(self) -> Normalisation:
        """Statistics of this dataset.

        Raises:
            NormalisationError: missing, changed, or of another dataset.
        """
        return Normalisation.load(self.folder, self.content_hash)

    def windows(self, length: int, *, moving_only: bool = False) -> NDArray[np.int64]:
        """All (episode position, first step) pairs [N, 2] whose next ``length`` actions exist and are valid.

        Args:
            length: actions per window, at least 1.
            moving_only: leave out windows in which nothing moves at all.
        """
        if length < 1:
            raise ValueError(f"a window has at least one action, got length {length}")
        found = []
        for position, row in enumerate(self.table):
            with np.load(self.folder / row.folder / STEPS_FILE) as steps:
                valid, moving = steps["valid_T"], steps["moving_T"]
            if len(valid) < length:
                continue
            good = np.lib.stride_tricks.sliding_window_view(valid, length).all(axis=1)
            if moving_only:
                good &= np.lib.stride_tricks.sliding_window_view(moving, length).any(axis=1)
            starts = np.flatnonzero(good)
            found.append(np.stack([np.full(len(starts), position), starts], axis=1))
        return np.concatenate(found).astype(np.int64) if found else np.zeros((0, 2), np.int64)

    def quality(self) -> list[QualityRow]:
        """The data-quality table, one row per episode."""
        return [row.quality for row in self.table]

    def verify(self) -> None:
        """Read everything, images included, and compare with the hashes.

        Raises:
            DatasetError: names the first episode and array that differ.
        """
        for position in range(len(self)):
            self.verified(position)
        self.normalisation()

    def verified(self, position: int) -> Episode:
        """Episode at a position, its pictures read once and compared with their hashes too; errors as ``verify``."""
        row, episode = self.table[position], self[position]
        record = self._record(row)
        self._check(self.folder / row.folder, "color_T240x320x3", array_sha256(episode.color_THW3), record)
        if episode.depth_THW is not None:
            self._check(self.folder / row.folder, "depth_T240x320", array_sha256(episode.depth_THW), record)
        return episode

    def _record(self, row: EpisodeRow) -> dict[str, Any]:
        path = self.folder / row.folder / EPISODE_FILE
        try:
            record: dict[str, Any] = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise DatasetError(f"{path} cannot be read ({error}); remove its folder and repeat the build") from error
        if record_sha256(record) != row.sha256:
            raise DatasetError(f"{path} does not match the hash in {DATASET_FILE}; remove its folder, repeat the build")
        return record

    @staticmethod
    def _check(folder: Path, name: str, found: str, record: dict[str, Any]) -> None:
        wanted = record["hashes"].get(name)
        if found != wanted:
            raise DatasetError(
                f"{folder}: {name} hashes to {found[:12]}, recorded was {str(wanted)[:12]}; "
                "the file was changed or damaged: remove the folder and repeat the build"
            )


def _depth_columns(
    steps: Mapping[str, NDArray[Any]], final: Mapping[str, NDArray[Any]], quality: Mapping[str, Any]
) -> DepthColumns:
    return DepthColumns(
        stamp_ns_T=steps["depth_stamp_ns_T"],
        valid_T=steps["depth_valid_T"],
        final_HW=final["depth_HW"],
        final_stamp_ns=int(final["depth_stamp_ns"][0]),
        final_valid=bool(final["depth_valid"][0]),
        largest_apart_s=float(quality["depth"]["largest_apart_s"]),
    )
