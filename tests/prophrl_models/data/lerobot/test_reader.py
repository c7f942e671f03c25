"""Reading: any window is that part of the whole, whatever file it lies in; damage and other formats are named."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.lerobot import writer as writer_module
from prophrl_models.data.lerobot.export import export_dataset
from prophrl_models.data.lerobot.format import LeRobotError
from prophrl_models.data.lerobot.reader import LeRobotReader
from prophrl_models.data.lerobot.video import VideoCodec
from tests.helpers.numbered_episodes import LENGTHS, read_number, write_dataset

CAMERA = "observation.images.front"


@pytest.fixture(scope="module")
def reader(exported: Path) -> LeRobotReader:
    return LeRobotReader(exported)


@pytest.fixture
def own(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(exported, tmp_path / "own")


def check_against(reader: LeRobotReader, dataset: Dataset, camera: str) -> None:
    """Random windows of all features against our dataset."""
    rng = np.random.default_rng(0)
    for _ in range(25):
        number = int(rng.integers(len(dataset)))
        episode = dataset[number]
        start = int(rng.integers(len(episode)))
        count = int(rng.integers(1, len(episode) - start + 1))
        window, part = reader.window(number, start, count), slice(start, start + count)
        assert set(window) == set(reader.features)
        assert np.array_equal(window["observation.state"], episode.state_T7[part])
        assert np.array_equal(window["action"], episode.action_T7[part])
        assert np.array_equal(window["stamp_ns"], episode.stamp_ns_T[part])
        assert window["valid"].dtype == np.bool_ and np.array_equal(window["valid"], episode.valid_T[part])
        assert (window["frame_index"] == np.arange(start, start + count)).all()
        assert [read_number(f) for f in window[camera]] == [read_number(f) for f in episode.color_THW3[part]]
        if episode.depth_THW is not None:
            assert np.array_equal(window["observation.depth"], episode.depth_THW[part])


def test_random_windows_are_those_of_our_dataset(reader: LeRobotReader, dataset: Dataset) -> None:
    assert len(reader) == len(LENGTHS) and reader.tasks[0] == "reach for the red square"
    assert [entry.tasks for entry in reader.episodes] == [(row.instruction,) for row in dataset.table]
    check_against(reader, dataset, CAMERA)


def test_a_stream_is_the_windows_one_after_another(reader: LeRobotReader) -> None:
    keys = ["action", CAMERA, "observation.depth", "episode_index"]
    frames = list(reader.stream(keys, episodes=[2, 0]))
    assert [int(frame["episode_index"]) for frame in frames] == [2] * LENGTHS[2] + [0] * LENGTHS[0]
    for number, begin in ((2, 0), (0, LENGTHS[2])):
        window = reader.window(number, 0, LENGTHS[number], keys)
        for key in keys:
            assert np.array_equal(np.stack([f[key] for f in frames[begin : begin + LENGTHS[number]]]), window[key]), key
    assert sum(1 for _ in reader.stream(["index"])) == sum(LENGTHS)


@pytest.mark.parametrize("limit", ["size", "time"])
def test_files_that_roll_over_are_read_as_one_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    lengths = (5, 9, 4, 6, 8)
    dataset = write_dataset(tmp_path / "ours", lengths, depth=False)
    if limit == "size":
        monkeypatch.setattr(writer_module, "_MIB", 20)  # a limit of 2 kB for tables, 4 kB for videos
    else:
        monkeypatch.setattr(writer_module, "VIDEO_FILE_S", 1.45)
    monkeypatch.setattr(writer_module, "_ROWS_PER_FLUSH", 2)
    export_dataset(dataset.folder, tmp_path / "v3", codec=VideoCodec("h264"), camera="front", progress=False)
    reader = LeRobotReader(tmp_path / "v3")
    places = [entry.videos[CAMERA] for entry in reader.episodes]
    names = [place.path.name for place in places]
    if limit == "size":
        assert len({entry.data_file for entry in reader.episodes}) > 1
        assert len(set(names)) > 1 and len(list((tmp_path / "v3/meta/episodes").rglob("*.parquet"))) > 1
    else:
        assert names == ["file-000.mp4", "file-000.mp4", "file-001.mp4", "file-001.mp4", "file-002.mp4"]
        assert [place.first for place in places] == [0, 5, 0, 4, 0]
    check_against(reader, dataset, CAMERA)


def test_a_reader_can_be_sent_to_another_process(reader: LeRobotReader) -> None:
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(again.pictures(1, CAMERA, 2, 2), reader.pictures(1, CAMERA, 2, 2))


def test_row_groups_of_any_size_are_read(own: Path, dataset: Dataset) -> None:
    """Other writers do not put each episode into a row group of its own."""
    file = own / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.ParquetFile(file).read(), file, row_group_size=4)
    check_against(LeRobotReader(own), dataset, CAMERA)


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda r: r.window(3, 0, 1), r"no episode 3 in .*, there are 0\.\.2"),
        (lambda r: r.window(0, 10, 3), r"has frames 0\.\.11, asked for were 3 from 10"),
        (lambda r: r.window(0, 0, 1, ["nothing"]), "no feature nothing in .*there are observation.state"),
        (lambda r: r.pictures(0, "action"), "no pictures 'action'.*there are observation.images"),
    ],
)
def test_what_is_not_there_is_refused(reader: LeRobotReader, ask: Any, reason: str) -> None:
    with pytest.raises(LeRobotError, match=reason):
        ask(reader)


def test_other_folders_and_versions_are_refused(own: Path, tmp_path: Path) -> None:
    with pytest.raises(LeRobotError, match=r"no meta/info\.json in"):
        LeRobotReader(tmp_path)
    file = own / "meta/info.json"
    raw = json.loads(file.read_text())
    for change, reason in (
        ({"codebase_version": "v2.1"}, r"LeRobotDataset v2\.1, read is v3\.0"),
        ({"fps": 7.5}, "whole frames per second"),
        ({"features": {"x": {"dtype": "colour", "shape": [1]}}}, "'x' has dtype 'colour'"),
        ({"total_episodes": 4}, "3 rows for 4 episodes"),
        ({"data_path": None, "features": None}, "is damaged"),
    ):
        file.write_text(json.dumps({**raw, **change}))
        with pytest.raises(LeRobotError, match=reason):
            LeRobotReader(own)
    file.write_text("{")
    with pytest.raises(LeRobotError, match="is not a JSON object"):
        LeRobotReader(own)


def test_a_file_that_is_missing_is_named(own: Path) -> None:
    (own / f"videos/{CAMERA}/chunk-000/file-000.mp4").unlink()
    with pytest.raises(LeRobotError, match=rf"lacks videos/{CAMERA}/chunk-000/file-000\.mp4"):
        LeRobotReader(own)


def test_rows_that_are_not_where_they_should_be_are_noticed(own: Path) -> None:
    file = own / "data/chunk-000/file-000.parquet"
    table = pq.ParquetFile(file).read()
    order = list(range(table.num_rows))
    order[0], order[1] = 1, 0
    pq.write_table(table.take(pa.array(order)), file)
    with pytest.raises(LeRobotError, match="rows of episode 0 are not where meta/episodes says"):
        LeRobotReader(own).numbers(0)


def test_damaged_parquet_is_named(own: Path) -> None:
    file = own / "data/chunk-000/file-000.parquet"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(LeRobotError, match=r"file-000\.parquet cannot be read"):
        LeRobotReader(own).numbers(0)
