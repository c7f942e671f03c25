"""Reads LeRobotDataset folders of versions 2.0, 2.1 and 3.0 on this disk, without the lerobot package.

Version 2: one parquet file and one video per episode, ``meta/episodes.jsonl`` and ``meta/tasks.jsonl``.
Version 3: many episodes per file; ``meta/episodes/**.parquet`` says where each one's rows and frames are,
``meta/tasks.parquet`` holds the instructions.

Source: huggingface/lerobot (src/lerobot/datasets; v2.1 to v3.0 converter), Tavish9/any4lerobot ds_version_convert.
This reader serves the registry only and knows no more of the format than that needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention
from prophrl_models.data.lerobot.extras import SideData
from prophrl_models.data.lerobot.format import LeRobotError
from prophrl_models.data.registry.errors import CorruptFileError, RegistryError
from prophrl_models.data.registry.frames import EncodedFrames, FrameSource, VideoFrames
from prophrl_models.data.registry.raw import CALIBRATION, IMAGE_REGION, STEP_VALID, Outline, RawEpisode

INFO_FILE = "meta/info.json"
OWN_EPISODES = "meta/prophrl/episodes.parquet"
"""What only our own exports have: beside other things, the calibration of each episode."""
OWN_CONVENTION = "prophrl/convention"
"""Column of the episode table that our own exports have: what the actions mean."""
_V2_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_V2_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


class LeRobotSource:
    """A LeRobotDataset folder.

    Attributes:
        folder: its root.
        version: as ``info.json`` states it, e.g. "v2.1".
        info: that file's content.
    """

    format = "lerobot"

    def __init__(self, folder: str | Path) -> None:
        """Open a folder.

        Raises:
            RegistryError: no LeRobot folder, of another version, or damaged tables.
        """
        self.folder = Path(folder)
        self.info = _read_json(self.folder / INFO_FILE, "pass the root folder of a LeRobotDataset")
        self.version = str(self.info.get("codebase_version", ""))
        if not self.version.startswith(("v2.", "v3.")):
            raise RegistryError(
                f"{self.folder} is a LeRobotDataset {self.version or 'without version'}; read are v2.0, v2.1 and v3.0"
            )
        try:
            self._fps = float(self.info["fps"])
            self._features: dict[str, Mapping[str, Any]] = dict(self.info["features"])
            self._chunk = int(self.info.get("chunks_size", 1000))
        except (KeyError, TypeError, ValueError) as error:
            raise RegistryError(f"{self.folder / INFO_FILE} is damaged ({error!r}); fetch it again") from error
        self._tables: _V2Tables | _V3Tables
        self._tables = _V3Tables(self.folder) if self.version.startswith("v3.") else _V2Tables(self.folder)
        self._calibrations: dict[int, str] | None = None
        self._headers: dict[Path, tuple[int, frozenset[str]]] = {}
        self._rows_of: dict[Path, int] = {}
        for row in self._tables.rows if self.version.startswith("v3.") else ():
            file = self.folder / self._data_path(row, int(row["episode_index"]))
            self._rows_of[file] = self._rows_of.get(file, 0) + int(row["length"])

    @property
    def rate_hz(self) -> float | None:
        """Frames per second as ``info.json`` states them."""
        return self._fps

    def __len__(self) -> int:
        return len(self._tables.rows)

    def episode(self, index: int) -> RawEpisode:
        """One episode; pictures are decoded when they are looked at.

        Raises:
            RegistryError: missing files, or fewer rows than the episode table says.
        """
        row = self._row(index)
        number = int(row["episode_index"])
        file = self.folder / self._data_path(row, number)
        table = _episode_rows(file, number)
        length = int(row["length"])
        if table.num_rows != length:
            raise CorruptFileError(
                f"{file}: episode {number} has {table.num_rows} rows, the episode table says {length}; fetch both again"
            )
        columns: dict[str, NDArray[Any]] = {}
        frames: dict[str, FrameSource] = {}
        texts = {"task": self._instruction(row, table)}
        for key, feature in self._features.items():
            dtype = str(feature.get("dtype"))
            if dtype == "video":
                frames[key] = self._video(key, row, number, length)
            elif key not in table.column_names:
                continue
            elif dtype == "image":
                frames[key] = _stored_pictures(table, key, self.folder, str(file))
            elif dtype == "string":
                texts[key] = str(table[key][0].as_py() or "")
            else:
                columns[key] = _numbers(table, key, length, file)
        return RawEpisode(
            columns, frames, texts, _name(number), str(file), self.folder, self._own(row, number, columns)
        )

    def episode_id(self, index: int) -> str:
        """By its number."""
        return _name(int(self._row(index)["episode_index"]))

    def recorded_id(self, index: int) -> str | None:
        """As the episode table of our own exports has it."""
        recorded = self._row(index).get("prophrl/episode_id")
        return None if recorded is None else str(recorded)

    def outline(self, index: int) -> Outline | None:
        """From the episode table and the headers of the parquet files.

        Raises:
            RegistryError: a missing or damaged file, or another number of rows than the episode table says.
        """
        row = self._row(index)
        number, length = int(row["episode_index"]), int(row["length"])
        file = self.folder / self._data_path(row, number)
        if file not in self._headers:
            self._headers[file] = _header(file)
        rows, stored = self._headers[file]
        expected = self._rows_of.get(file, length)
        if rows != expected:
            raise CorruptFileError(
                f"{file} has {rows} rows, the episode table says {expected} (episode {number}); fetch both again"
            )
        columns, frames = {}, {}
        for key, feature in self._features.items():
            dtype = str(feature.get("dtype"))
            if dtype == "video" or (dtype == "image" and key in stored):
                frames[key] = length
            elif dtype not in ("image", "string") and key in stored:
                columns[key] = length
        return Outline(columns, frames)

    def _own(self, row: Mapping[str, Any], number: int, columns: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """What our own exports say of an episode beyond the format, as metadata; empty for others.

        Raises:
            RegistryError: an action convention that is none, or a calibration that cannot be read.
        """
        own: dict[str, Any] = dict(self._calibration(number))
        said = row.get(OWN_CONVENTION)
        if said is None:
            return own
        known = [convention.name for convention in ActionConvention]
        if said not in known:
            raise RegistryError(f"{self.folder}, episode {number}: convention {said!r} is none of {', '.join(known)}")
        own["convention"] = ActionConvention[said]
        if "valid" in columns:
            own[STEP_VALID] = columns["valid"].reshape(-1).astype(bool)
        return own

    def _calibration(self, number: int) -> dict[str, Any]:
        """The camera calibration that our own exports carry for an episode, as metadata; empty without one."""
        if self._calibrations is None:
            file = self.folder / OWN_EPISODES
            self._calibrations = _calibration_files(file) if file.is_file() else {}
        name = self._calibrations.get(number)
        if not name:
            return {}
        try:
            text = (self.folder / name).read_text(encoding="utf-8")
            return {CALIBRATION: text, IMAGE_REGION: SideData.read(self.folder).header.sync.image_region}
        except (OSError, LeRobotError) as error:
            raise RegistryError(f"{self.folder / name} cannot be read ({error}); fetch or export it again") from error

    def _row(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} is outside 0..{len(self) - 1} of {self.folder}")
        return self._tables.rows[index]

    def _data_path(self, row: Mapping[str, Any], number: int) -> str:
        if self.version.startswith("v3."):
            return str(self.info["data_path"]).format(
                chunk_index=int(row["data/chunk_index"]), file_index=int(row["data/file_index"])
            )
        template = str(self.info.get("data_path") or _V2_DATA)
        return template.format(episode_chunk=number // self._chunk, episode_index=number)

    def _video(self, key: str, row: Mapping[str, Any], number: int, length: int) -> FrameSource:
        if self.version.startswith("v3."):
            path = str(self.info["video_path"]).format(
                video_key=key,
                chunk_index=int(row[f"videos/{key}/chunk_index"]),
                file_index=int(row[f"videos/{key}/file_index"]),
            )
            return VideoFrames(self.folder / path, float(row[f"videos/{key}/from_timestamp"]), self._fps, length)
        template = str(self.info.get("video_path") or _V2_VIDEO)
        path = template.format(video_key=key, episode_chunk=number // self._chunk, episode_index=number)
        return VideoFrames(self.folder / path, 0.0, self._fps, length)

    def _instruction(self, row: Mapping[str, Any], table: Any) -> str:
        tasks = row.get("tasks")
        if tasks is not None and len(tasks):
            return str(tasks[0])
        if "task_index" in table.column_names:
            return self._tables.tasks.get(int(table["task_index"][0].as_py()), "")
        return ""


class _V2Tables:
    """Episodes and tasks of version 2, one JSON object per line."""

    def __init__(self, folder: Path) -> None:
        self.rows = _read_lines(folder / "meta/episodes.jsonl")
        self.tasks = {
            int(entry["task_index"]): str(entry["task"]) for entry in _read_lines(folder / "meta/tasks.jsonl")
        }


class _V3Tables:
    """Episodes and tasks of version 3, as parquet."""

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        files = sorted((folder / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise RegistryError(f"no meta/episodes/chunk-*/file-*.parquet in {folder}; fetch the dataset's meta folder")
        self.rows: list[Mapping[str, Any]] = []
        for file in files:
            names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
            self.rows += pq.read_table(file, columns=names).to_pylist()
        self.rows.sort(key=lambda row: int(row["episode_index"]))
        self.tasks = {}
        tasks = folder / "meta/tasks.parquet"
        if tasks.is_file():
            for entry in pq.read_table(tasks).to_pylist():
                # The instruction is the index of a pandas table: its column is called "task" or has no name.
                text = entry.get("task", entry.get("__index_level_0__", ""))
                self.tasks[int(entry["task_index"])] = str(text)


def _stored_pictures(table: Any, key: str, folder: Path, where: str) -> FrameSource:
    """Pictures that lie in the frame table (as bytes) or beside it (as a path)."""
    encoded = [cell["bytes"] or (folder / str(cell["path"])).read_bytes() for cell in table[key].to_pylist()]
    return EncodedFrames(tuple(encoded), f"{where}, {key}")


def _name(number: int) -> str:
    return f"episode_{number:06d}"


def _episode_rows(file: Path, number: int) -> Any:
    import pyarrow.parquet as pq

    with _reading(file):
        return pq.read_table(file, filters=[("episode_index", "=", number)])


def _calibration_files(file: Path) -> dict[int, str]:
    """Calibration file of each episode, relative to the root; empty names where there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(file, columns=["episode_index", "calibration_file"]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise CorruptFileError(f"{file} cannot be read ({error}); export the dataset again") from error
    return {int(row["episode_index"]): str(row["calibration_file"] or "") for row in rows}


def _header(file: Path) -> tuple[int, frozenset[str]]:
    """Rows and names of the columns."""
    import pyarrow.parquet as pq

    with _reading(file):
        found = pq.read_metadata(file)
        return int(found.num_rows), frozenset(found.schema.to_arrow_schema().names)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as error:
        raise RegistryError(f"no {file}; fetch the dataset's data folder, too") from error
    except pa.ArrowInvalid as error:
        raise CorruptFileError(f"{file} is not a complete parquet file ({error}); fetch it again") from error


def _numbers(table: Any, key: str, length: int, file: Path) -> NDArray[Any]:
    try:
        return np.asarray(table[key].to_pylist(), dtype=np.float64).reshape(length, -1)
    except (ValueError, TypeError) as error:
        raise CorruptFileError(f"{file}: column {key!r} does not hold {length} rows of equal length") from error


def _read_json(file: Path, action: str) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise RegistryError(f"no {file}; {action}") from error
    except json.JSONDecodeError as error:
        raise RegistryError(f"{file} is not JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise RegistryError(f"{file} holds a {type(value).__name__}, not an object; fetch it again")
    return value


def _read_lines(file: Path) -> list[Mapping[str, Any]]:
    def lines() -> Iterator[Mapping[str, Any]]:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise RegistryError(f"{file}, line {number} is not JSON ({error}); fetch it again") from error

    if not file.is_file():
        raise RegistryError(f"no {file}; fetch the dataset's meta folder")
    return list(lines())
