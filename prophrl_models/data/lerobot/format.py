"""The LeRobotDataset v3.0 folder: paths, feature declarations, ``info.json``.

meta/info.json                             what this is: rate, features, totals, path templates
meta/stats.json                            statistics of every feature over all frames
meta/tasks.parquet                         instruction -> task_index
meta/episodes/chunk-000/file-000.parquet   one row per episode: length, where its rows and frames are, statistics
data/chunk-000/file-000.parquet            one row per frame; many episodes per file, one row group per episode
videos/<key>/chunk-000/file-000.mp4        frames of many episodes one after another

Source: huggingface/lerobot, docs/source/lerobot-dataset-v3.mdx and src/lerobot/datasets (0.4 to 0.6, "v3.0").
What we add for the way back is listed in ``prophrl_models.data.lerobot.extras``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

CODEBASE_VERSION = "v3.0"
INFO_FILE, STATS_FILE, TASKS_FILE = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
_CHUNK_AND_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES_PATH = f"meta/episodes/{_CHUNK_AND_FILE}.parquet"
DATA_PATH = f"data/{_CHUNK_AND_FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_CHUNK_AND_FILE}.mp4"
FILES_PER_CHUNK, DATA_FILE_MB, VIDEO_FILE_MB = 1000, 100, 200
STATE, ACTION, IMAGES, DEPTH = "observation.state", "action", "observation.images", "observation.depth"
NUMBERS = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
_PICTURES = ("video", "image")


class LeRobotError(ValueError):
    """A LeRobot folder that cannot be read or written; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Feature:
    """One column of the frames, or one video.

    Attributes:
        dtype: "video", "image" (encoded bytes in the frame table), "string", or a NumPy number type.
        shape: per frame; pictures are [H, W, C].
        names: of the channels; for pictures of the axes.
        info: free notes of the format: codec of a video, unit of a depth picture.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_picture(self) -> bool:
        return self.dtype in _PICTURES

    @property
    def is_depth(self) -> bool:
        return bool(self.info.get("is_depth_map") or self.info.get("video.is_depth_map"))

    def to_json(self) -> dict[str, Any]:
        names = None if self.names is None else list(self.names)
        raw: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "names": names}
        return {**raw, "info": dict(self.info)} if self.info else raw

    @staticmethod
    def from_json(key: str, raw: Mapping[str, Any]) -> Feature:
        """Inverse of ``to_json``.

        Raises:
            LeRobotError: a type this program does not know, or no shape.
        """
        try:
            names = raw.get("names")
            names = [n for group in names.values() for n in group] if isinstance(names, Mapping) else names
            feature = Feature(
                str(raw["dtype"]),
                tuple(int(n) for n in raw["shape"]),
                None if names is None else tuple(map(str, names)),
                dict(raw.get("info") or {}),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LeRobotError(f"feature {key!r} in {INFO_FILE} is damaged ({error!r}): {dict(raw)}") from error
        if feature.dtype not in (*_PICTURES, "string", *NUMBERS):
            raise LeRobotError(
                f"feature {key!r} has dtype {feature.dtype!r}; read are video, image, string and {', '.join(NUMBERS)}"
            )
        return feature


INDEX_FEATURES = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}
"""Columns every v3 dataset has; ``timestamp`` is seconds since the episode's first frame."""


@dataclass(frozen=True)
class Info:
    """``meta/info.json``. ``fps`` is frames per second; sizes are limits in MiB, not what was written."""

    fps: int
    features: Mapping[str, Feature]
    robot_type: str | None = None
    total_episodes: int = 0
    total_frames: int = 0
    total_tasks: int = 0
    chunks_size: int = FILES_PER_CHUNK
    data_files_size_in_mb: int = DATA_FILE_MB
    video_files_size_in_mb: int = VIDEO_FILE_MB
    data_path: str = DATA_PATH
    video_path: str | None = VIDEO_PATH
    codebase_version: str = CODEBASE_VERSION

    @property
    def video_keys(self) -> tuple[str, ...]:
        return tuple(key for key, feature in self.features.items() if feature.dtype == "video")

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Pictures that are stored in the frame table."""
        return tuple(key for key, feature in self.features.items() if feature.dtype == "image")

    @property
    def number_keys(self) -> tuple[str, ...]:
        return tuple(key for key, feature in self.features.items() if feature.dtype in NUMBERS)

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self) | {"features": {key: feature.to_json() for key, feature in self.features.items()}}
        return {"codebase_version": self.codebase_version, **plain, "splits": {"train": f"0:{self.total_episodes}"}}

    @staticmethod
    def load(folder: Path) -> Info:
        """Read ``meta/info.json``.

        Raises:
            LeRobotError: absent, damaged, or of another version than 3.
        """
        file = folder / INFO_FILE
        if not file.is_file():
            raise LeRobotError(f"no {INFO_FILE} in {folder}; pass the root folder of a LeRobotDataset v3.0")
        try:
            raw = json.loads(file.read_text())
            version = str(raw.get("codebase_version"))
        except (json.JSONDecodeError, AttributeError) as error:
            raise LeRobotError(f"{file} is not a JSON object ({error}); fetch or export the dataset again") from error
        if not version.startswith("v3."):
            raise LeRobotError(
                f"{folder} is a LeRobotDataset {version}, read is v3.0; convert it with LeRobot's own converter first"
            )
        try:
            return Info(
                fps=whole_rate(float(raw["fps"])),
                features={key: Feature.from_json(key, entry) for key, entry in raw["features"].items()},
                robot_type=raw.get("robot_type"),
                total_episodes=int(raw["total_episodes"]),
                total_frames=int(raw["total_frames"]),
                total_tasks=int(raw["total_tasks"]),
                chunks_size=int(raw.get("chunks_size", FILES_PER_CHUNK)),
                data_files_size_in_mb=int(raw.get("data_files_size_in_mb", DATA_FILE_MB)),
                video_files_size_in_mb=int(raw.get("video_files_size_in_mb", VIDEO_FILE_MB)),
                data_path=str(raw["data_path"]),
                video_path=raw.get("video_path"),
                codebase_version=version,
            )
        except LeRobotError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LeRobotError(f"{file} is damaged ({error!r}); fetch or export the dataset again") from error


def whole_rate(rate_hz: float) -> int:
    """The rate as the format stores it.

    Raises:
        LeRobotError: not a whole number of frames per second.
    """
    if rate_hz <= 0 or rate_hz != round(rate_hz):
        raise LeRobotError(
            f"LeRobotDataset v3.0 knows whole frames per second only, the dataset has {rate_hz:g} Hz; "
            "build it at a whole rate"
        )
    return round(rate_hz)


def next_file(chunk_index: int, file_index: int, files_per_chunk: int = FILES_PER_CHUNK) -> tuple[int, int]:
    """Chunk and file that follow these."""
    return (chunk_index + 1, 0) if file_index + 1 >= files_per_chunk else (chunk_index, file_index + 1)


def picture_feature(dtype: Literal["video", "image"], height: int, width: int, channels: int, **info: Any) -> Feature:
    """Declaration of a camera, depth or rendered picture."""
    return Feature(dtype, (height, width, channels), ("height", "width", "channels"), info)
