"""Writes the files of a v3 folder: frames and videos of many episodes per file, rolled over at the format's limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prophrl_models.data.lerobot.format import (
    EPISODES_PATH,
    INDEX_FEATURES,
    INFO_FILE,
    STATS_FILE,
    Feature,
    Info,
    LeRobotError,
    next_file,
)
from prophrl_models.data.lerobot.statistics import (
    NumberStatistics,
    Stats,
    color_statistics,
    depth_statistics,
    number_statistics,
)
from prophrl_models.data.lerobot.tables import frame_schema, frame_table, write_tasks
from prophrl_models.data.lerobot.video import concatenate_videos

_MIB = 1 << 20
_ROWS_PER_FLUSH = 100
VIDEO_FILE_S = 1000.0
"""Longest video file. LeRobot compares times in single precision within 0.1 ms; beyond 1024 s its steps are coarser."""


@dataclass(frozen=True)
class EpisodeData:
    """One episode to write.

    Attributes:
        task: the instruction.
        numbers: columns [T] or [T, C] of every number feature but the five of the index.
        images: encoded pictures, T of each image feature.
        videos: file with T frames, by video feature.
        histograms: [C, values] of every picture feature, for the statistics.
        columns: further columns of ``meta/episodes``.
    """

    task: str
    numbers: Mapping[str, NDArray[Any]]
    images: Mapping[str, Sequence[bytes]]
    videos: Mapping[str, Path]
    histograms: Mapping[str, NDArray[np.int64]]
    columns: Mapping[str, Any]


@dataclass
class _VideoFile:
    """The file of one video feature that is being collected."""

    chunk_index: int = 0
    file_index: int = 0
    bytes: int = 0
    frames: int = 0
    parts: list[Path] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)


class FolderWriter:
    """Fills an empty folder with one dataset; nothing in it is complete before ``finish``."""

    def __init__(self, folder: Path, fps: int, features: Mapping[str, Feature], robot_type: str) -> None:
        """Begin.

        Args:
            folder: created; must not exist.
            fps: frames per second.
            features: of the frames, without the five of the index.
            robot_type: as ``info.json`` names it.
        """
        folder.mkdir(parents=True)
        (folder / "meta").mkdir()
        self._folder = folder
        self._info = Info(fps, {**features, **INDEX_FEATURES}, robot_type)
        if not self._info.video_keys:
            self._info = replace(self._info, video_path=None)
        self._schema = frame_schema(self._info.features)
        self._tasks: dict[str, int] = {}
        self._frames = self._episodes = 0
        self._data_file, self._data_bytes = (0, 0), 0
        self._data: pq.ParquetWriter | None = None
        self._videos = {key: _VideoFile() for key in self._info.video_keys}
        self._table = _EpisodeTable(folder, self._info)
        self._numbers: dict[str, NumberStatistics] = {key: NumberStatistics() for key in self._info.number_keys}
        self._pictures = {
            key: depth_statistics() if feature.is_depth else color_statistics()
            for key, feature in self._info.features.items()
            if feature.is_picture
        }

    def add(self, episode: EpisodeData) -> None:
        """Write one episode's rows and remember its videos.

        Raises:
            LeRobotError: columns of different lengths, or a feature that is missing.
        """
        length = len(next(iter(episode.numbers.values())))
        task_index = self._tasks.setdefault(episode.task, len(self._tasks))
        frame_index = np.arange(length, dtype=np.int64)
        numbers = {
            **episode.numbers,
            "timestamp": (frame_index / self._info.fps).astype(np.float32),
            "frame_index": frame_index,
            "episode_index": np.full(length, self._episodes, dtype=np.int64),
            "index": frame_index + self._frames,
            "task_index": np.full(length, task_index, dtype=np.int64),
        }
        self._check(numbers, episode, length)
        row: dict[str, Any] = {
            "episode_index": self._episodes,
            "tasks": [episode.task],
            "length": length,
            **self._add_rows(numbers, episode.images),
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
        }
        for key, path in episode.videos.items():
            row |= self._add_video(key, path, length)
        stats: dict[str, Stats] = number_statistics(numbers)
        for key, collected in self._numbers.items():
            collected.add(numbers[key])
        for key, total in self._pictures.items():
            histogram_CV = episode.histograms[key]
            own = depth_statistics() if self._info.features[key].is_depth else color_statistics()
            for collected_pictures in (own, total):
                collected_pictures.merge(histogram_CV, length)
            stats[key] = own.result()
        row |= {f"stats/{key}/{name}": value for key, entry in stats.items() for name, value in entry.items()}
        self._table.add({**row, **episode.columns})
        self._frames += length
        self._episodes += 1

    def finish(self) -> Info:
        """Write the rest; the folder is complete when this returns.

        Raises:
            LeRobotError: nothing was added, or a video does not have the frames it should have.
        """
        if not self._episodes:
            raise LeRobotError("there are no episodes to export")
        if self._data is not None:
            self._data.close()
        for key in self._videos:
            self._close_video(key)
        self._table.close()
        write_tasks(self._folder, list(self._tasks))
        stats = {key: collected.result() for key, collected in self._numbers.items()}
        stats |= {key: collected.result() for key, collected in self._pictures.items()}
        (self._folder / STATS_FILE).write_text(json.dumps(stats, indent=4) + "\n")
        self._info = replace(
            self._info, total_episodes=self._episodes, total_frames=self._frames, total_tasks=len(self._tasks)
        )
        (self._folder / INFO_FILE).write_text(json.dumps(self._info.to_json(), indent=4) + "\n")
        return self._info

    def _check(self, numbers: Mapping[str, NDArray[Any]], episode: EpisodeData, length: int) -> None:
        for what, wanted, given in (
            ("number", set(self._info.number_keys), set(numbers)),
            ("image", set(self._info.image_keys), set(episode.images)),
            ("video", set(self._info.video_keys), set(episode.videos)),
        ):
            if wanted != given:
                raise LeRobotError(
                    f"episode {self._episodes}: {what} features are {sorted(given)}, not {sorted(wanted)}"
                )
        lengths = {key: len(column) for key, column in {**numbers, **episode.images}.items()}
        if set(lengths.values()) != {length}:
            raise LeRobotError(f"episode {self._episodes}: columns have different lengths: {lengths}")

    def _add_rows(self, numbers: Mapping[str, NDArray[Any]], images: Mapping[str, Sequence[bytes]]) -> dict[str, int]:
        table = frame_table(self._schema, numbers, images)
        if self._data is not None and self._data_bytes + table.nbytes > self._info.data_files_size_in_mb * _MIB:
            self._data.close()
            self._data, self._data_bytes = None, 0
            self._data_file = next_file(*self._data_file, self._info.chunks_size)
        chunk_index, file_index = self._data_file
        if self._data is None:
            path = self._folder / self._info.data_path.format(chunk_index=chunk_index, file_index=file_index)
            path.parent.mkdir(parents=True, exist_ok=True)
            plain = [entry.name for entry in self._schema if entry.name not in images]
            self._data = pq.ParquetWriter(path, self._schema, compression="snappy", use_dictionary=plain)
        self._data.write_table(table, row_group_size=max(table.num_rows, 1))
        self._data_bytes += table.nbytes
        return {"data/chunk_index": chunk_index, "data/file_index": file_index}

    def _add_video(self, key: str, path: Path, length: int) -> dict[str, Any]:
        file, fps, size = self._videos[key], self._info.fps, path.stat().st_size
        full = file.bytes + size > self._info.video_files_size_in_mb * _MIB
        if file.parts and (full or (file.frames + length) / fps > VIDEO_FILE_S):
            self._close_video(key)
            file = self._videos[key] = _VideoFile(*next_file(file.chunk_index, file.file_index, self._info.chunks_size))
        first = file.frames
        file.parts.append(path)
        file.lengths.append(length)
        file.bytes += size
        file.frames += length
        return {
            f"videos/{key}/chunk_index": file.chunk_index,
            f"videos/{key}/file_index": file.file_index,
            f"videos/{key}/from_timestamp": first / fps,
            f"videos/{key}/to_timestamp": (first + length) / fps,
        }

    def _close_video(self, key: str) -> None:
        file = self._videos[key]
        assert self._info.video_path is not None
        out = self._folder / self._info.video_path.format(
            video_key=key, chunk_index=file.chunk_index, file_index=file.file_index
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        counts = concatenate_videos(file.parts, out, self._info.fps)
        if counts != file.lengths:
            raise LeRobotError(f"{key}: videos have {counts} frames, their episodes {file.lengths}; export again")


class _EpisodeTable:
    """``meta/episodes``, written in batches; the types of the first batch are those of all."""

    def __init__(self, folder: Path, info: Info) -> None:
        self._folder, self._info = folder, info
        self._file = (0, 0)
        self._rows: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        self._path = Path()
        self._schema: pa.Schema | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(dict(row))
        if len(self._rows) == _ROWS_PER_FLUSH:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is not None and self._path.stat().st_size > self._info.data_files_size_in_mb * _MIB:
            self._writer.close()
            self._writer, self._file = None, next_file(*self._file, self._info.chunks_size)
        chunk_index, file_index = self._file
        place = {"meta/episodes/chunk_index": chunk_index, "meta/episodes/file_index": file_index}
        table = pa.Table.from_pylist([{**row, **place} for row in self._rows], schema=self._schema)
        self._schema = table.schema
        if self._writer is None:
            self._path = self._folder / EPISODES_PATH.format(chunk_index=chunk_index, file_index=file_index)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="snappy")
        self._writer.write_table(table)
        self._rows = []
