"""A LeRobotDataset v3.0 folder of ours back to our dataset: numbers bit by bit, images as the codec left them."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from prophrl_models.data.dataset_writer import DatasetWriter
from prophrl_models.data.depth import DepthColumns
from prophrl_models.data.episode import Episode, EpisodeMetadata, Observation
from prophrl_models.data.lerobot.extras import (
    DEPTH_FRAME_FEATURES,
    SideData,
    SideRow,
    decode_picture,
    missing_extras,
    read_side_row,
)
from prophrl_models.data.lerobot.format import ACTION, DEPTH, STATE, LeRobotError
from prophrl_models.data.lerobot.reader import LeRobotReader
from prophrl_models.data.streams import STREAMS


@dataclass(frozen=True)
class ImportReport:
    """What ``import_dataset`` did: ``converted`` episodes now, ``resumed`` by an earlier run; ``steps`` of all."""

    folder: Path
    content_hash: str
    converted: int
    resumed: int
    steps: int


def import_dataset(lerobot_folder: str | Path, out: str | Path, *, progress: bool = True) -> ImportReport:
    """Make our dataset from a folder that ``export_dataset`` wrote; can be repeated after an interruption.

    Args:
        lerobot_folder: the v3 folder.
        out: our dataset, new or of an interrupted import.
        progress: show a progress bar on standard error.

    Raises:
        LeRobotError: not a v3 folder, damaged, or without what our dataset needs; lists what is missing.
        DatasetError: ``out`` holds something else or is being written.
    """
    source = ExportedDataset(lerobot_folder)
    with closing(DatasetWriter(out, source.header)) as writer:
        resumed = len(writer.rows)
        for index in tqdm(range(len(source)), disable=not progress, unit="episode"):
            row = source.side_row(index)
            source_id = source.source_id(row)
            if source_id in writer.source_ids:
                continue
            text = source.calibration_yaml(row)
            writer.add(source.episode(index), source_id, source=row.source, calibration_yaml=text)
        digest = writer.finish()
    return ImportReport(
        folder=writer.folder,
        content_hash=digest,
        converted=len(writer.rows) - resumed,
        resumed=resumed,
        steps=sum(entry.steps for entry in writer.rows),
    )


class ExportedDataset:
    """A v3 folder with our additions, read as our episodes."""

    def __init__(self, folder: str | Path) -> None:
        """Open it.

        Raises:
            LeRobotError: not a v3 folder, or without our additions; lists what is missing.
        """
        self.reader = LeRobotReader(folder)
        self.folder = self.reader.folder
        missing = missing_extras(self.folder, self.reader.features)
        if missing:
            raise LeRobotError(
                f"{self.folder} cannot become a prophrl dataset, it lacks {', '.join(missing)}; only folders that "
                "'prophrl dataset export' wrote carry them. Others are read by prophrl_models.data.lerobot.reader"
            )
        self._side = SideData.read(self.folder)
        self.header = self._side.header
        wanted = [self._side.camera_key, *((DEPTH, *DEPTH_FRAME_FEATURES) if self.header.depth is not None else ())]
        absent = [key for key in wanted if key not in self.reader.features]
        if absent:
            raise LeRobotError(f"{self.folder} lacks the features {', '.join(absent)} it was exported with")

    def __len__(self) -> int:
        return len(self.reader)

    def side_row(self, index: int) -> SideRow:
        return read_side_row(self.folder, index)

    def source_id(self, row: SideRow) -> str:
        """Identity of an episode that came this way; not that of the recording, whose images were better."""
        made_of = f"lerobot {row.source_id} {self._side.content_hash} {self._side.codec} {self._side.crf}"
        return hashlib.sha256(made_of.encode()).hexdigest()

    def calibration_yaml(self, row: SideRow) -> str | None:
        if not row.calibration_file:
            return None
        try:
            return (self.folder / row.calibration_file).read_text(encoding="utf-8")
        except OSError as error:
            raise LeRobotError(
                f"{self.folder / row.calibration_file} cannot be read ({error}); export again"
            ) from error

    def episode(self, index: int) -> Episode:
        """One episode in memory; ``metadata.extra["images"]`` says what its images went through."""
        reader, row = self.reader, self.side_row(index)
        numbers = reader.numbers(index)
        metadata = EpisodeMetadata(**row.metadata)
        past = {"codec": self._side.codec, "crf": self._side.crf, "exported_from": self._side.content_hash}
        metadata = replace(metadata, extra={**metadata.extra, "images": past})
        final_image = decode_picture(row.final_image_png)
        stamps = numbers["source_stamp_ns"]
        return Episode(
            metadata=metadata,
            convention=self.header.convention,
            control_rate_hz=self.header.sync.control_rate_hz,
            state_T7=numbers[STATE],
            action_T7=numbers[ACTION],
            stamp_ns_T=numbers["stamp_ns"],
            source_stamp_ns_T={name: np.ascontiguousarray(stamps[:, i]) for i, name in enumerate(STREAMS)},
            valid_T=numbers["valid"],
            moving_T=numbers["moving"],
            final=Observation(final_image, row.final_state, metadata.instruction, row.final_stamp_ns),
            quality=row.quality,
            depth=_depth(row, numbers) if self.header.depth is not None else None,
            color_THW3=reader.pictures(index, self._side.camera_key),
            depth_THW=reader.pictures(index, DEPTH) if self.header.depth is not None else None,
        )


def _depth(row: SideRow, numbers: dict[str, NDArray[Any]]) -> DepthColumns:
    if row.final_depth_png is None or row.final_depth_stamp_ns is None:
        raise LeRobotError(f"episode {row.episode_index} has no final depth picture; export the dataset again")
    return DepthColumns(
        stamp_ns_T=numbers["depth_stamp_ns"],
        valid_T=numbers["depth_valid"],
        final_HW=decode_picture(row.final_depth_png),
        final_stamp_ns=row.final_depth_stamp_ns,
        final_valid=bool(row.final_depth_valid),
        largest_apart_s=float(row.quality["depth"]["largest_apart_s"]),
    )
