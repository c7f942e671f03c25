"""Reads LeRobotDataset v3.0 folders, ours and others': windows at random, frames in sequence, whole episodes of ours.

A reader holds paths and the episode table, no open files, so it can be sent to data-loader workers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prophrl_models.data.lerobot.extras import decode_picture
from prophrl_models.data.lerobot.format import EPISODES_PATH, Feature, Info, LeRobotError
from prophrl_models.data.lerobot.tables import column_numbers, read_parquet, read_stats, read_tasks
from prophrl_models.data.lerobot.video import iterate_frames, read_frames

_KEPT_EPISODES = 8
_NEEDED = ("episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")


@dataclass(frozen=True)
class VideoPlace:
    """Where an episode's frames are: ``first`` is the number of its first frame in the file."""

    path: Path
    first: int


@dataclass(frozen=True)
class EpisodeEntry:
    """One row of ``meta/episodes``.

    Attributes:
        index, length: number of the episode and of its frames.
        tasks: its instructions.
        data_file: the file with its rows.
        first_row: number of its first row in the dataset.
        videos: where its frames are, by feature.
        columns: all other columns but the statistics, ours among them.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data_file: Path
    first_row: int
    videos: Mapping[str, VideoPlace]
    columns: Mapping[str, Any]


class LeRobotReader:
    """A v3 folder on disk.

    Attributes:
        info: features, rate, totals.
        tasks: instructions by ``task_index``.
        episodes: one entry per episode.
        stats: arrays by feature and statistic; empty when the dataset has none.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read what lies under ``meta``.

        Raises:
            LeRobotError: not a v3 folder, damaged, or a file it names is absent.
        """
        self.folder = Path(folder)
        self.info = Info.load(self.folder)
        self.tasks = read_tasks(self.folder)
        self.stats = read_stats(self.folder)
        self.episodes = _entries(self.folder, self.info)
        self._rows: OrderedDict[int, dict[str, NDArray[Any]]] = OrderedDict()
        self._first_row_of_file: dict[Path, int] = {}
        for entry in self.episodes:
            first = self._first_row_of_file.get(entry.data_file, entry.first_row)
            self._first_row_of_file[entry.data_file] = min(first, entry.first_row)
        files = {entry.data_file for entry in self.episodes}
        files |= {place.path for entry in self.episodes for place in entry.videos.values()}
        absent = sorted(str(file.relative_to(self.folder)) for file in files if not file.is_file())
        if absent:
            raise LeRobotError(f"{self.folder} lacks {', '.join(absent[:5])}; fetch or export the dataset again")

    def __len__(self) -> int:
        """Episodes."""
        return len(self.episodes)

    @property
    def features(self) -> Mapping[str, Feature]:
        return self.info.features

    def numbers(self, episode: int) -> dict[str, NDArray[Any]]:
        """All number columns of an episode, [T] or [T, C]; the last few episodes are kept in memory.

        Raises:
            LeRobotError: the rows are damaged or of another episode.
        """
        if episode not in self._rows:
            keys = self.info.number_keys
            table = self._read_rows(self._entry(episode), 0, None, keys)
            self._rows[episode] = {key: self._typed(key, column_numbers(table.column(key))) for key in keys}
            while len(self._rows) > _KEPT_EPISODES:
                self._rows.popitem(last=False)
        self._rows.move_to_end(episode)
        return dict(self._rows[episode])

    def pictures(self, episode: int, key: str, start: int = 0, count: int | None = None) -> NDArray[Any]:
        """Frames of a video or image feature: RGB uint8 [count, H, W, 3], or [count, H, W] of one channel.

        Raises:
            LeRobotError: no such feature or frames, or they are damaged.
        """
        entry = self._entry(episode)
        count = entry.length - start if count is None else count
        self._check_range(entry, start, count)
        if key in entry.videos:
            place = entry.videos[key]
            return read_frames(place.path, self.info.fps, place.first + start, count)
        if key not in self.info.image_keys:
            known = [*self.info.video_keys, *self.info.image_keys]
            raise LeRobotError(f"no pictures {key!r} in {self.folder}; there are {', '.join(known) or 'none'}")
        cells = self._read_rows(entry, start, count, (key,)).column(key).to_pylist()
        if not all(cell and cell["bytes"] for cell in cells):
            raise LeRobotError(f"{entry.data_file}: {key} names files instead of holding pictures; embed them first")
        return np.stack([decode_picture(cell["bytes"]) for cell in cells])

    def window(
        self, episode: int, start: int, count: int, keys: Collection[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """Frames ``start`` .. ``start + count - 1`` of an episode, by feature.

        Args:
            episode, start, count: which frames; all must exist.
            keys: features wanted; all but strings when None.

        Raises:
            LeRobotError: as ``pictures``, or an unknown feature.
        """
        entry = self._entry(episode)
        self._check_range(entry, start, count)
        wanted = self._wanted(keys)
        numbers = self.numbers(episode)
        found = {key: numbers[key][start : start + count] for key in wanted if key in numbers}
        for key in wanted:
            if key not in numbers:
                found[key] = self.pictures(episode, key, start, count)
        return found

    def stream(
        self, keys: Collection[str] | None = None, episodes: Collection[int] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Frames one after another, each a mapping from feature to its value; each video is decoded once.

        Args:
            keys: features wanted; all but strings when None.
            episodes: which episodes, in this order; all when None.

        Raises:
            LeRobotError: as ``window``.
        """
        wanted = self._wanted(keys)
        for episode in range(len(self)) if episodes is None else episodes:
            entry, numbers = self._entry(episode), self.numbers(episode)
            videos = {
                key: iterate_frames(place.path, self.info.fps, place.first, entry.length)
                for key, place in entry.videos.items()
                if key in wanted
            }
            for step in range(entry.length):
                frame: dict[str, Any] = {key: numbers[key][step] for key in wanted if key in numbers}
                frame |= {key: next(frames) for key, frames in videos.items()}
                for key in wanted:
                    if key in self.info.image_keys:
                        frame[key] = self.pictures(episode, key, step, 1)[0]
                yield frame

    def _entry(self, episode: int) -> EpisodeEntry:
        if not 0 <= episode < len(self.episodes):
            raise LeRobotError(f"no episode {episode} in {self.folder}, there are 0..{len(self.episodes) - 1}")
        return self.episodes[episode]

    def _wanted(self, keys: Collection[str] | None) -> list[str]:
        known = [*self.info.number_keys, *self.info.video_keys, *self.info.image_keys]
        unknown = [] if keys is None else [key for key in keys if key not in known]
        if unknown:
            raise LeRobotError(f"no feature {', '.join(unknown)} in {self.folder}; there are {', '.join(known)}")
        return known if keys is None else list(keys)

    @staticmethod
    def _check_range(entry: EpisodeEntry, start: int, count: int) -> None:
        if start < 0 or count < 1 or start + count > entry.length:
            raise LeRobotError(
                f"episode {entry.index} has frames 0..{entry.length - 1}, asked for were {count} from {start}"
            )

    def _read_rows(self, entry: EpisodeEntry, start: int, count: int | None, keys: Collection[str]) -> pa.Table:
        """Rows of an episode, from the row groups that hold them alone."""
        count = entry.length - start if count is None else count
        first = entry.first_row - self._first_row_of_file[entry.data_file] + start
        columns = list(dict.fromkeys([*keys, "episode_index", "frame_index"]))
        try:
            with pq.ParquetFile(entry.data_file, memory_map=True) as file:
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
                begins = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64).tolist()
                groups = range(bisect_right(begins, first) - 1, bisect_right(begins, first + count - 1))
                table = file.read_row_groups(list(groups), columns=columns)
        except (OSError, pa.ArrowException, IndexError) as error:
            raise LeRobotError(f"{entry.data_file} cannot be read ({error}); fetch or export it again") from error
        rows = table.slice(first - begins[groups[0]], count)
        numbers = column_numbers(rows.column("frame_index"))
        whole = len(numbers) == count and (column_numbers(rows.column("episode_index")) == entry.index).all()
        if not whole or (numbers != np.arange(start, start + count)).any():
            raise LeRobotError(f"{entry.data_file}: rows of episode {entry.index} are not where meta/episodes says")
        return rows

    def _typed(self, key: str, values: NDArray[Any]) -> NDArray[Any]:
        feature = self.info.features[key]
        shaped = values if feature.shape == (1,) else values.reshape(len(values), *feature.shape)
        return np.ascontiguousarray(shaped, dtype=np.dtype(feature.dtype))


def _entries(folder: Path, info: Info) -> tuple[EpisodeEntry, ...]:
    files = sorted(folder.glob(EPISODES_PATH.split("chunk-")[0] + "chunk-*/file-*.parquet"))
    if not files:
        raise LeRobotError(f"{folder} has no meta/episodes; fetch or export the dataset again")
    rows: list[dict[str, Any]] = []
    for file in files:
        names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
        rows += read_parquet(file, names).to_pylist()
    rows.sort(key=lambda row: row.get("episode_index", -1))
    needed = [*_NEEDED, *(f"videos/{key}/{what}" for key in info.video_keys for what in _VIDEO_COLUMNS)]
    missing = [name for name in needed if rows and name not in rows[0]]
    if missing:
        raise LeRobotError(f"{folder}: meta/episodes lacks {', '.join(missing)}; fetch or export the dataset again")
    if [row["episode_index"] for row in rows] != list(range(info.total_episodes)):
        raise LeRobotError(
            f"{folder}: meta/episodes has {len(rows)} rows for {info.total_episodes} episodes; fetch it again"
        )
    return tuple(_entry(folder, info, row) for row in rows)


_VIDEO_COLUMNS = ("chunk_index", "file_index", "from_timestamp")


def _entry(folder: Path, info: Info, row: Mapping[str, Any]) -> EpisodeEntry:
    videos = {}
    for key in info.video_keys:
        place = {what: row[f"videos/{key}/{what}"] for what in _VIDEO_COLUMNS}
        path = str(info.video_path).format(
            video_key=key, chunk_index=place["chunk_index"], file_index=place["file_index"]
        )
        videos[key] = VideoPlace(folder / path, round(place["from_timestamp"] * info.fps))
    data = info.data_path.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
    length = int(row["length"])
    if length != row["dataset_to_index"] - row["dataset_from_index"] or length < 1:
        raise LeRobotError(f"{folder}: episode {row['episode_index']} has length {length}, but its rows are others")
    other = {name: value for name, value in row.items() if name not in _NEEDED and not name.startswith("videos/")}
    tasks = tuple(other.pop("tasks", None) or ())
    return EpisodeEntry(
        int(row["episode_index"]), length, tasks, folder / data, int(row["dataset_from_index"]), videos, other
    )
