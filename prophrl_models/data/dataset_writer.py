"""Writes datasets. An episode appears as a whole or not at all, and an interrupted build goes on where it stopped.

Episodes are written into ``episodes/.partial-*`` and renamed when complete. The episode folders are the truth:
``dataset.json`` is made from them after every episode, and again when a build is resumed.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from prophrl_models.data.bag import CALIBRATION_FILE, Bag
from prophrl_models.data.convert import Converter
from prophrl_models.data.dataset_format import (
    COLOR_FILE,
    DATASET_FILE,
    DEPTH_FILE,
    EPISODE_FILE,
    EPISODES,
    FINAL_FILE,
    STEPS_FILE,
    DatasetError,
    DatasetHeader,
    EpisodeRow,
    content_hash,
    record_sha256,
)
from prophrl_models.data.depth import DepthTrack
from prophrl_models.data.episode import ACTION_NAMES, STATE_NAMES, Episode, EpisodeColumns
from prophrl_models.data.files import NpyStream, array_sha256, publish_folder, write_json
from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH, Depth, Image
from prophrl_models.data.normalise import Normalisation, StatisticsAccumulator
from prophrl_models.data.streams import Topics

_PARTIAL, _LOCK = ".partial-", ".lock"


class EpisodeWriter:
    """Fills one folder with one episode; memory holds one image at a time."""

    def __init__(self, folder: Path, *, with_depth: bool = False) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._depth = NpyStream(folder / DEPTH_FILE, (POLICY_HEIGHT, POLICY_WIDTH), np.uint16) if with_depth else None
        self._color = NpyStream(folder / COLOR_FILE, (POLICY_HEIGHT, POLICY_WIDTH, 3))

    def append(self, image_HW3: Image) -> None:
        """Add the image of the next step."""
        self._color.append(image_HW3)

    def append_depth(self, depth_HW: Depth) -> None:
        """Add the depth picture of the next step; depth may lag behind the images."""
        if self._depth is None:
            raise ValueError("this episode was begun without depth")
        self._depth.append(depth_HW)

    def finish(self, columns: EpisodeColumns, source_id: str, source: str) -> dict[str, Any]:
        """Write everything else and return what stands in ``episode.json``.

        Args:
            columns: the episode without its images.
            source_id: identifies where it came from, so that nothing is converted twice.
            source: the same for people: the bag's name.

        Raises:
            ValueError: another number of images than steps, or depth in only one of folder and columns.
        """
        self._color.close()
        if self._color.rows != len(columns):
            raise ValueError(f"{source}: {self._color.rows} images for {len(columns)} steps")
        depth_rows = None if self._depth is None else self._depth.rows
        if depth_rows != (None if columns.depth is None else len(columns)):
            raise ValueError(f"{source}: {depth_rows} depth pictures for {len(columns)} steps")
        arrays: dict[str, Any] = {
            "state_T7": columns.state_T7,
            "action_T7": columns.action_T7,
            "stamp_ns_T": columns.stamp_ns_T,
            "valid_T": columns.valid_T,
            "moving_T": columns.moving_T,
            **{f"{stream}_stamp_ns_T": stamps for stream, stamps in columns.source_stamp_ns_T.items()},
        }
        final: dict[str, Any] = {
            "image_HW3": columns.final.image_HW3,
            "state_7": columns.final.state_7,
            "stamp_ns": np.array([columns.final.stamp_ns], dtype=np.int64),
        }
        hashes = {"color_T240x320x3": self._color.sha256}
        if self._depth is not None and columns.depth is not None:
            self._depth.close()
            hashes["depth_T240x320"] = self._depth.sha256
            arrays |= {"depth_stamp_ns_T": columns.depth.stamp_ns_T, "depth_valid_T": columns.depth.valid_T}
            final |= {
                "depth_HW": columns.depth.final_HW,
                "depth_stamp_ns": np.array([columns.depth.final_stamp_ns], dtype=np.int64),
                "depth_valid": np.array([columns.depth.final_valid]),
            }
        np.savez(self._folder / STEPS_FILE, **arrays)
        np.savez(self._folder / FINAL_FILE, **final)
        hashes |= {name: array_sha256(array) for name, array in arrays.items()}
        hashes |= {f"final.{name}": array_sha256(array) for name, array in final.items()}
        record: dict[str, Any] = {
            "source_id": source_id,
            "source": source,
            "metadata": asdict(columns.metadata),
            "convention": columns.convention.name,
            "control_rate_hz": columns.control_rate_hz,
            "steps": len(columns),
            "valid_steps": int(columns.valid_T.sum()),
            "duration_s": columns.duration_s,
            "quality": columns.quality,
            "hashes": hashes,
        }
        record = json.loads(json.dumps(record))  # tuples become lists now, so that the hash is that of the file
        record["sha256"] = record_sha256(record)
        write_json(self._folder / EPISODE_FILE, record)
        return record


def convert_into(folder: Path, bag_path: Path, header: DatasetHeader, topics: Topics | None = None) -> dict[str, Any]:
    """Convert one bag into a fresh folder and return its ``episode.json``; runs in worker processes.

    Raises:
        BagError: the bag cannot be converted.
    """
    bag = Bag(bag_path)
    writer = EpisodeWriter(folder, with_depth=header.depth is not None)
    region = header.sync.image_region
    track = None if header.depth is None else DepthTrack(header.depth, writer.append_depth, region)
    converter = Converter(bag, header.sync, writer.append, topics=topics, motion=header.motion, depth=track)
    record = writer.finish(converter.run(header.convention), bag.content_id, bag.name)
    if bag.calibration_yaml is not None:
        (folder / CALIBRATION_FILE).write_text(bag.calibration_yaml, encoding="utf-8")
    return record


class DatasetWriter:
    """A dataset folder being filled; opening an existing one resumes it. A lock admits one writer at a time."""

    def __init__(self, folder: str | Path, header: DatasetHeader | None = None) -> None:
        """Create or resume a dataset.

        Raises:
            DatasetError: the folder holds something else, a dataset made with another header, or is being written.
        """
        self.folder = Path(folder)
        self.header = header or DatasetHeader()
        self._episodes = self.folder / EPISODES
        file = self.folder / DATASET_FILE
        if file.is_file():
            known = DatasetHeader.from_json(json.loads(file.read_text()), file)
            if known != self.header:
                raise DatasetError(
                    f"{self.folder} was built as {known}, now {self.header} is asked for; choose another folder"
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise DatasetError(f"{self.folder} is not empty and holds no {DATASET_FILE}; choose another folder")
        self._episodes.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self._episodes / _LOCK)
        for leftover in self._episodes.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover)
        self.rows = [_read_row(path) for path in sorted(self._episodes.glob("[0-9]*"))]
        self._write_table(complete=False, left_out=())

    @property
    def source_ids(self) -> frozenset[str]:
        """Where the episodes came from that are already here."""
        return frozenset(row.source_id for row in self.rows)

    def partial_folder(self, source_id: str) -> Path:
        """Where to write an episode before ``publish``; it does not exist yet."""
        return self._episodes / f"{_PARTIAL}{source_id[:16]}"

    def publish(self, partial: Path, record: Mapping[str, Any]) -> EpisodeRow:
        """Make a complete partial folder the next episode."""
        index = self.rows[-1].index + 1 if self.rows else 0
        publish_folder(partial, self._episodes / f"{index:06d}")
        self.rows.append(EpisodeRow.of(index, record))
        self._write_table(complete=False, left_out=())
        return self.rows[-1]

    def add(
        self, episode: Episode, source_id: str, *, source: str | None = None, calibration_yaml: str | None = None
    ) -> EpisodeRow:
        """Write an episode that is already in memory (the fast lane's, say).

        Args:
            episode: what to write.
            source_id: identifies where it came from.
            source: the same for people; the episode's id when None.
            calibration_yaml: the camera calibration in force, to be kept beside it.

        Raises:
            DatasetError: another convention or rate than the dataset's, or depth in only one of the two.
        """
        made = (episode.convention, episode.control_rate_hz)
        if made != (self.header.convention, self.header.sync.control_rate_hz):
            raise DatasetError(f"episode {episode.metadata.episode_id!r} is {made}, the dataset is {self.header}")
        if (episode.depth is None) != (self.header.depth is None):
            raise DatasetError(
                f"episode {episode.metadata.episode_id!r} has {'no ' if episode.depth is None else ''}depth, the "
                f"dataset {self.folder} has {'no' if self.header.depth is None else 'it'}; use another folder"
            )
        partial = self.partial_folder(source_id)
        writer = EpisodeWriter(partial, with_depth=episode.depth is not None)
        for image in episode.color_THW3:
            writer.append(image)
        for depth in episode.depth_THW if episode.depth_THW is not None else ():
            writer.append_depth(depth)
        record = writer.finish(episode, source_id, source or episode.metadata.episode_id)
        if calibration_yaml is not None:
            (partial / CALIBRATION_FILE).write_text(calibration_yaml, encoding="utf-8")
        return self.publish(partial, record)

    def finish(self, left_out: Iterable[Mapping[str, str]] = ()) -> str:
        """Write statistics and the final table; returns the content hash.

        Raises:
            DatasetError: there is not a single episode.
        """
        if not self.rows:
            raise DatasetError(f"{self.folder} has no episodes: {_reasons(left_out := list(left_out))}")
        state, action = StatisticsAccumulator(STATE_NAMES), StatisticsAccumulator(ACTION_NAMES)
        for row in self.rows:
            with np.load(self.folder / row.folder / STEPS_FILE) as steps:
                valid = steps["valid_T"]
                state.add(steps["state_T7"][valid])
                action.add(steps["action_T7"][valid])
        digest = content_hash(self.header, self.rows)
        Normalisation(state.result(), action.result(), digest).save(self.folder)
        self._write_table(complete=True, left_out=left_out)
        self.close()
        return digest

    def close(self) -> None:
        """Let other writers in; what was published stays."""
        self._lock.close()

    def _write_table(self, *, complete: bool, left_out: Iterable[Mapping[str, str]]) -> None:
        write_json(
            self.folder / DATASET_FILE,
            {
                **self.header.to_json(),
                "complete": complete,
                "content_hash": content_hash(self.header, self.rows),
                "episodes": [asdict(row) for row in self.rows],
                "left_out": [dict(entry) for entry in left_out],
            },
        )


def _lock(path: Path) -> IO[bytes]:
    """Hold an exclusive lock for as long as the returned file is open; the kernel drops it when a process dies."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise DatasetError(f"{path.parent.parent} is being written by another build; wait for it to end") from error
    return file


def _read_row(folder: Path) -> EpisodeRow:
    try:
        return EpisodeRow.of(int(folder.name), json.loads((folder / EPISODE_FILE).read_text()))
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{folder} is not a whole episode ({error}); move it away and build again") from error


def _reasons(left_out: Iterable[Mapping[str, str]]) -> str:
    return "; ".join(f"{entry['source']}: {entry['reason']}" for entry in left_out) or "nothing was given to convert"
