"""An export, read with pyarrow and PyAV alone, straight from the published description of LeRobotDataset v3.0.

Nothing of our reader or of our format module is used: a mistake made in both would go unnoticed otherwise.
"""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from prophrl_models.data.dataset import Dataset
from tests.helpers.numbered_episodes import LENGTHS, psnr_db, read_number

CAMERA, DRAWN = "observation.images.front", "observation.images.action_frame"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


@pytest.fixture(scope="module")
def info(exported: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((exported / "meta/info.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def episodes(exported: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(exported / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    return rows


@pytest.fixture(scope="module")
def frames(exported: Path) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = pq.ParquetFile(exported / "data/chunk-000/file-000.parquet").read().to_pydict()
    return columns


def test_info_has_the_fields_of_the_format(info: dict[str, Any]) -> None:
    assert {key: info[key] for key in info if key != "features"} == {
        "codebase_version": "v3.0",
        "robot_type": "ur30",
        "total_episodes": 3,
        "total_frames": sum(LENGTHS),
        "total_tasks": 2,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": 10,
        "splits": {"train": "0:3"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    assert isinstance(info["fps"], int)
    default = {
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        "frame_index": {"dtype": "int64", "shape": [1], "names": None},
        "episode_index": {"dtype": "int64", "shape": [1], "names": None},
        "index": {"dtype": "int64", "shape": [1], "names": None},
        "task_index": {"dtype": "int64", "shape": [1], "names": None},
    }
    assert {key: info["features"][key] for key in default} == default
    for key in (CAMERA, DRAWN):
        video = info["features"][key]
        assert (video["dtype"], video["shape"], video["names"]) == (
            "video",
            [240, 320, 3],
            ["height", "width", "channels"],
        )
        said = video["info"]
        assert (said["video.codec"], said["video.pix_fmt"], said["video.fps"]) == ("av1", "yuv420p", 10)
        assert (said["video.height"], said["video.width"], said["video.channels"]) == (240, 320, 3)
        assert said["has_audio"] is False and said["is_depth_map"] is False
    depth = info["features"]["observation.depth"]
    assert (depth["dtype"], depth["shape"]) == ("image", [240, 320, 1])
    assert depth["info"] == {"is_depth_map": True, "depth_unit": "mm"}
    assert not any("/" in key for key in info["features"])


def test_paths_are_those_of_the_templates(exported: Path) -> None:
    files = {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()}
    assert {name for name in files if not name.startswith("meta/prophrl/")} == {
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet",
        f"videos/{CAMERA}/chunk-000/file-000.mp4",
        f"videos/{DRAWN}/chunk-000/file-000.mp4",
    }


def test_the_frame_table_has_the_declared_columns_and_types(exported: Path, info: dict[str, Any]) -> None:
    schema = pq.read_schema(exported / "data/chunk-000/file-000.parquet")
    declared = {key: entry for key, entry in info["features"].items() if entry["dtype"] != "video"}
    assert schema.names == list(declared)
    arrow = {"float32": "float", "int64": "int64", "bool": "bool"}
    for key, entry in declared.items():
        found = str(schema.field(key).type)
        if entry["dtype"] == "image":
            assert found == "struct<bytes: binary, path: string>"
        elif entry["shape"] == [1]:
            assert found == arrow[entry["dtype"]]
        else:
            value = arrow[entry["dtype"]]
            assert re.fullmatch(rf"fixed_size_list<\w+: {value}>\[{entry['shape'][0]}\]", found), found
    noted = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(noted) == list(declared) and noted["observation.depth"] == {"_type": "Image"}


def test_each_episode_is_one_row_group(exported: Path) -> None:
    metadata = pq.ParquetFile(exported / "data/chunk-000/file-000.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == list(LENGTHS)


def test_indices_and_times_are_those_of_the_format(frames: dict[str, list[Any]]) -> None:
    assert frames["index"] == list(range(sum(LENGTHS)))
    assert frames["frame_index"] == [t for length in LENGTHS for t in range(length)]
    assert frames["episode_index"] == [e for e, length in enumerate(LENGTHS) for _ in range(length)]
    assert frames["timestamp"] == [float(np.float32(t / 10)) for t in frames["frame_index"]]
    assert frames["task_index"] == [0] * LENGTHS[0] + [1] * LENGTHS[1] + [0] * LENGTHS[2]


def test_tasks_are_a_pandas_frame_indexed_by_instruction(exported: Path) -> None:
    table = pq.read_table(exported / "meta/tasks.parquet")
    pandas = json.loads(table.schema.metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]
    assert {c["name"] for c in pandas["columns"]} == {"task", "task_index"}
    assert dict(zip(table["task_index"].to_pylist(), table["task"].to_pylist(), strict=True)) == {
        0: "reach for the red square",
        1: "lift the gripper — slowly",
    }


def test_numbers_are_bit_by_bit_those_of_our_dataset(dataset: Dataset, frames: dict[str, list[Any]]) -> None:
    def joined(values: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(values)

    ours = list(dataset)
    for key, wanted in {
        "observation.state": joined([e.state_T7 for e in ours]),
        "action": joined([e.action_T7 for e in ours]),
        "stamp_ns": joined([e.stamp_ns_T for e in ours]),
        "valid": joined([e.valid_T for e in ours]),
        "moving": joined([e.moving_T for e in ours]),
        "depth_stamp_ns": joined([e.depth.stamp_ns_T for e in ours if e.depth]),
        "depth_valid": joined([e.depth.valid_T for e in ours if e.depth]),
        "source_stamp_ns": joined(
            [np.stack([e.source_stamp_ns_T[s] for s in ("color", "tcp_pose", "gripper")], 1) for e in ours]
        ),
    }.items():
        assert np.array_equal(np.array(frames[key], dtype=wanted.dtype), wanted), key


def test_depth_pictures_are_16_bit_png_without_loss(dataset: Dataset, frames: dict[str, list[Any]]) -> None:
    wanted = np.concatenate([episode.depth_THW for episode in dataset if episode.depth_THW is not None])
    for cell, depth in zip(frames["observation.depth"], wanted, strict=True):
        assert cell["bytes"].startswith(b"\x89PNG") and cell["path"] is None
        read = cv2.imdecode(np.frombuffer(cell["bytes"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert read is not None and read.dtype == np.uint16 and (read == depth).all()


def test_episode_rows_say_where_everything_is(episodes: list[dict[str, Any]]) -> None:
    begins = np.concatenate([[0], np.cumsum(LENGTHS)]).tolist()
    for number, row in enumerate(episodes):
        assert (row["episode_index"], row["length"]) == (number, LENGTHS[number])
        assert (row["dataset_from_index"], row["dataset_to_index"]) == (begins[number], begins[number + 1])
        assert isinstance(row["tasks"], list) and len(row["tasks"]) == 1
        for place in ("data", "meta/episodes", f"videos/{CAMERA}", f"videos/{DRAWN}"):
            assert (row[f"{place}/chunk_index"], row[f"{place}/file_index"]) == (0, 0)
        for key in (CAMERA, DRAWN):
            assert row[f"videos/{key}/from_timestamp"] == begins[number] / 10
            assert row[f"videos/{key}/to_timestamp"] == begins[number + 1] / 10


def test_every_frame_lies_at_its_time_in_the_video(
    exported: Path, dataset: Dataset, episodes: list[dict[str, Any]]
) -> None:
    """The picture at from_timestamp + timestamp is that of its step and of no other, within what the codec loses."""
    shown: dict[Fraction, NDArray[np.uint8]] = {}
    with av.open(str(exported / f"videos/{CAMERA}/chunk-000/file-000.mp4")) as container:
        stream: Any = container.streams.video[0]
        assert stream.average_rate == 10 and stream.frames == sum(LENGTHS)
        assert stream.duration * stream.time_base == Fraction(sum(LENGTHS), 10)
        for frame in container.decode(stream):
            shown[frame.pts * stream.time_base] = frame.to_ndarray(format="rgb24")
    for row, episode in zip(episodes, dataset, strict=True):
        for step in range(len(episode)):
            at = Fraction(row[f"videos/{CAMERA}/from_timestamp"]).limit_denominator(1000) + Fraction(step, 10)
            assert read_number(shown[at]) == read_number(episode.color_THW3[step])
            assert psnr_db(shown[at], episode.color_THW3[step]) > 32.0


def test_statistics_are_those_of_all_frames(exported: Path, dataset: Dataset, info: dict[str, Any]) -> None:
    stats = json.loads((exported / "meta/stats.json").read_text())
    assert set(stats) == set(info["features"])
    state = np.concatenate([episode.state_T7 for episode in dataset]).astype(np.float64)
    check_statistics(stats["observation.state"], state)
    check_statistics(stats["valid"], np.concatenate([e.valid_T for e in dataset]).astype(np.float64)[:, None])
    stamps = np.concatenate([e.stamp_ns_T for e in dataset])
    assert (stats["stamp_ns"]["min"], stats["stamp_ns"]["max"]) == ([int(stamps.min())], [int(stamps.max())])
    color = np.concatenate([episode.color_THW3 for episode in dataset])
    seen = stats[CAMERA]
    assert seen["count"] == [sum(LENGTHS)]
    for name, wanted in {"mean": color.mean((0, 1, 2)), "std": color.std((0, 1, 2))}.items():
        assert np.shape(seen[name]) == (3, 1, 1)
        assert np.abs(np.ravel(seen[name]) - wanted / 255).max() < 0.01, "every second pixel is looked at"
    for name, fraction in QUANTILES.items():
        wanted = np.quantile(color[:, ::2, ::2].reshape(-1, 3), fraction, axis=0, method="inverted_cdf")
        assert np.abs(np.ravel(seen[name]) * 255 - wanted).max() <= 1.0
    far = np.concatenate([e.depth_THW for e in dataset if e.depth_THW is not None])[:, ::2, ::2].astype(np.float64)
    deep = stats["observation.depth"]
    assert np.shape(deep["mean"]) == (1, 1, 1), "millimetres, one channel"
    assert deep["mean"][0][0][0] == pytest.approx(far.mean()) and deep["max"][0][0][0] == far.max()


def test_each_episode_carries_its_own_statistics(
    dataset: Dataset, episodes: list[dict[str, Any]], info: dict[str, Any]
) -> None:
    for row, episode in zip(episodes, dataset, strict=True):
        found = {name.split("/")[2]: v for name, v in row.items() if name.startswith("stats/action/")}
        check_statistics(found, episode.action_T7.astype(np.float64))
        for key in info["features"]:
            names = {name.split("/")[2] for name in row if name.startswith(f"stats/{key}/")}
            assert names == {"min", "max", "mean", "std", "count", *QUANTILES}, key
        assert np.shape(row[f"stats/{CAMERA}/mean"]) == (3, 1, 1)
        assert row[f"stats/{CAMERA}/count"] == [len(episode)]


def check_statistics(found: dict[str, Any], rows: NDArray[np.float64]) -> None:
    """Against NumPy over all rows at once."""
    assert found["count"] == [len(rows)]
    for name, wanted in {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        **{name: np.quantile(rows, fraction, axis=0) for name, fraction in QUANTILES.items()},
    }.items():
        assert np.allclose(found[name], wanted, rtol=1e-9, atol=1e-12), name
