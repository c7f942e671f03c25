"""What we keep in a v3 folder beyond the format, so that our own dataset comes back from it.

Columns of the frame table (ordinary features, LeRobot reads them too):
    stamp_ns             the tick, nanoseconds since the epoch
    valid                samples of this step and the next were fresh
    moving               something was commanded or moved
    source_stamp_ns      acquisition stamps of the samples behind the step: color, tcp_pose, gripper
    depth_stamp_ns, depth_valid   only with depth
Columns of meta/episodes, all beginning with "prophrl/": identity, outcome, task, calibration, convention, rate and
the row of the quality table as JSON.
meta/prophrl/dataset.json       header of our dataset, its content hash, how pictures were encoded
meta/prophrl/episodes.parquet   what does not fit into a step: metadata, full quality report, the observation after
                                the last action (state, stamp, and its pictures as PNG, which lose nothing)
meta/prophrl/calibrations/      camera calibrations, named by their content
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prophrl_models.data.dataset_format import DatasetHeader, EpisodeRow
from prophrl_models.data.episode import STATE_DIM, Episode
from prophrl_models.data.lerobot.format import Feature, LeRobotError
from prophrl_models.data.lerobot.tables import read_parquet
from prophrl_models.data.streams import STREAMS

FORMAT, VERSION = "prophrl-in-lerobot", 1
FOLDER = "meta/prophrl"
DATASET_FILE, EPISODES_FILE = f"{FOLDER}/dataset.json", f"{FOLDER}/episodes.parquet"
CALIBRATIONS = f"{FOLDER}/calibrations"
FRAME_FEATURES = {
    "stamp_ns": Feature("int64", (1,)),
    "valid": Feature("bool", (1,)),
    "moving": Feature("bool", (1,)),
    "source_stamp_ns": Feature("int64", (len(STREAMS),), STREAMS),
}
DEPTH_FRAME_FEATURES = {"depth_stamp_ns": Feature("int64", (1,)), "depth_valid": Feature("bool", (1,))}

_SCHEMA = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("source_id", pa.string()),
        ("source", pa.string()),
        ("metadata", pa.string()),
        ("quality", pa.string()),
        ("calibration_file", pa.string()),
        ("final_stamp_ns", pa.int64()),
        ("final_state", pa.list_(pa.float32(), STATE_DIM)),
        ("final_image_png", pa.binary()),
        ("final_depth_stamp_ns", pa.int64()),
        ("final_depth_valid", pa.bool_()),
        ("final_depth_png", pa.binary()),
    ]
)


@dataclass(frozen=True)
class SideRow:
    """One row of ``meta/prophrl/episodes.parquet``; ``calibration_file`` is relative to the root, empty without one."""

    episode_index: int
    source_id: str
    source: str
    metadata: Mapping[str, Any]
    quality: Mapping[str, Any]
    calibration_file: str
    final_stamp_ns: int
    final_state: NDArray[np.float32]
    final_image_png: bytes
    final_depth_stamp_ns: int | None = None
    final_depth_valid: bool | None = None
    final_depth_png: bytes | None = None

    @staticmethod
    def of(index: int, episode: Episode, row: EpisodeRow, calibration_file: str, *, with_depth: bool) -> SideRow:
        depth = episode.depth if with_depth else None
        return SideRow(
            episode_index=index,
            source_id=row.source_id,
            source=row.source,
            metadata=asdict(episode.metadata),
            quality=episode.quality,
            calibration_file=calibration_file,
            final_stamp_ns=episode.final.stamp_ns,
            final_state=episode.final.state_7,
            final_image_png=encode_png(episode.final.image_HW3),
            final_depth_stamp_ns=None if depth is None else depth.final_stamp_ns,
            final_depth_valid=None if depth is None else depth.final_valid,
            final_depth_png=None if depth is None else encode_png(depth.final_HW),
        )


@dataclass(frozen=True)
class SideData:
    """``meta/prophrl/dataset.json``: the dataset that was exported, and what of it lies where."""

    header: DatasetHeader
    content_hash: str
    camera_key: str
    codec: str
    crf: int

    def write(self, folder: Path) -> None:
        raw = {"format": FORMAT, "version": VERSION, **asdict(self), "header": self.header.to_json()}
        (folder / DATASET_FILE).write_text(json.dumps(raw, indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> SideData:
        """Inverse of ``write``.

        Raises:
            LeRobotError: absent, or of another version.
        """
        file = folder / DATASET_FILE
        try:
            raw = json.loads(file.read_text())
            if (raw["format"], raw["version"]) != (FORMAT, VERSION):
                raise LeRobotError(f"{file} is {raw['format']!r} {raw['version']!r}, read is {FORMAT!r} {VERSION}")
            header = DatasetHeader.from_json(raw["header"], file)
            return SideData(
                header, str(raw["content_hash"]), str(raw["camera_key"]), str(raw["codec"]), int(raw["crf"])
            )
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise LeRobotError(f"{file} cannot be read ({error!r}); export the dataset again") from error


def write_side_rows(folder: Path, rows: Sequence[SideRow]) -> None:
    """``meta/prophrl/episodes.parquet``, in row groups of a few episodes so that reading one is cheap."""
    with pq.ParquetWriter(folder / EPISODES_FILE, _SCHEMA, compression="snappy") as writer:
        for row in rows:
            plain = {name: getattr(row, name) for name in _SCHEMA.names}
            plain |= {"metadata": json.dumps(row.metadata), "quality": json.dumps(row.quality)}
            writer.write_table(pa.Table.from_pylist([plain], schema=_SCHEMA))


def read_side_row(folder: Path, index: int) -> SideRow:
    """One row.

    Raises:
        LeRobotError: absent or damaged.
    """
    file = folder / EPISODES_FILE
    try:
        (raw,) = pq.ParquetFile(file).read_row_group(index).to_pylist()
        raw |= {"metadata": json.loads(raw["metadata"]), "quality": json.loads(raw["quality"])}
        row = SideRow(**{**raw, "final_state": np.asarray(raw["final_state"], dtype=np.float32)})
    except (OSError, pa.ArrowException, IndexError, KeyError, TypeError, ValueError) as error:
        raise LeRobotError(f"{file} has no whole row {index} ({error}); export the dataset again") from error
    if row.episode_index != index:
        raise LeRobotError(f"{file}: row {index} is of episode {row.episode_index}; export the dataset again")
    return row


def source_ids(folder: Path) -> tuple[str, ...]:
    """Where the episodes came from, in order."""
    return tuple(read_parquet(folder / EPISODES_FILE, ["source_id"]).column("source_id").to_pylist())


def episode_columns(row: EpisodeRow, header: DatasetHeader) -> dict[str, Any]:
    """Our columns in ``meta/episodes``."""
    return {
        "prophrl/episode_id": row.episode_id,
        "prophrl/outcome": row.outcome,
        "prophrl/task": row.task,
        "prophrl/calibration_id": row.calibration_id,
        "prophrl/convention": header.convention.name,
        "prophrl/control_rate_hz": header.sync.control_rate_hz,
        "prophrl/valid_steps": row.valid_steps,
        "prophrl/quality": json.dumps(asdict(row.quality)),
    }


def missing_extras(folder: Path, features: Mapping[str, Feature]) -> list[str]:
    """What of all this a folder lacks, in words; nothing when our dataset can be made from it."""
    missing = [f"frame column {key!r}" for key in FRAME_FEATURES if key not in features]
    missing += [f"file {name}" for name in (DATASET_FILE, EPISODES_FILE) if not (folder / name).is_file()]
    return missing


def calibration_name(calibration_id: str, text: str) -> str:
    """File of a calibration, relative to the root; two texts never share one."""
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in calibration_id)
    return f"{CALIBRATIONS}/{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"


def encode_png(picture: NDArray[Any]) -> bytes:
    """PNG of RGB uint8 [H, W, 3] or depth uint16 [H, W]; nothing is lost."""
    stored = picture[..., ::-1] if picture.ndim == 3 else picture
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(stored), [cv2.IMWRITE_PNG_COMPRESSION, 2])
    if not done:
        raise LeRobotError(f"a picture {picture.dtype} {picture.shape} cannot become PNG")
    return bytes(encoded)


def decode_picture(encoded: bytes) -> NDArray[Any]:
    """RGB uint8 [H, W, 3] or single-channel [H, W] of PNG or JPEG bytes.

    Raises:
        LeRobotError: not a picture.
    """
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise LeRobotError(f"{len(encoded)} bytes are no PNG or JPEG picture; fetch or export the dataset again")
    return np.ascontiguousarray(picture[..., 2::-1]) if picture.ndim == 3 else np.asarray(picture)
