"""The way back: every number as it was, final pictures without loss, and a clear word where something is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from prophrl_models.data.dataset import Dataset, DatasetError
from prophrl_models.data.lerobot import importer
from prophrl_models.data.lerobot.export import export_dataset
from prophrl_models.data.lerobot.format import LeRobotError
from prophrl_models.data.lerobot.importer import ExportedDataset, import_dataset
from prophrl_models.data.lerobot.video import VideoCodec
from tests.helpers.numbered_episodes import psnr_db, read_number, write_dataset


@pytest.fixture(scope="module")
def again(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The export, imported; do not write to it."""
    return Dataset(import_dataset(exported, tmp_path_factory.mktemp("again") / "ours", progress=False).folder)


def test_numbers_come_back_bit_by_bit(dataset: Dataset, again: Dataset) -> None:
    assert again.header == dataset.header and len(again) == len(dataset)
    again.verify()
    for ours, theirs in zip(dataset, again, strict=True):
        for name in ("state_T7", "action_T7", "stamp_ns_T", "valid_T", "moving_T"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a.dtype == b.dtype and np.array_equal(a, b), name
        assert set(ours.source_stamp_ns_T) == set(theirs.source_stamp_ns_T)
        for stream, stamps in ours.source_stamp_ns_T.items():
            assert np.array_equal(theirs.source_stamp_ns_T[stream], stamps)
        assert theirs.quality == ours.quality
        assert (theirs.convention, theirs.control_rate_hz) == (ours.convention, ours.control_rate_hz)
        said = dict(theirs.metadata.extra)
        assert said.pop("images")["codec"] == "av1", "images that went through a codec say so"
        assert asdict(replace(theirs.metadata, extra=said)) == asdict(ours.metadata)


def test_depth_and_the_final_observation_come_back_without_loss(dataset: Dataset, again: Dataset) -> None:
    for ours, theirs in zip(dataset, again, strict=True):
        assert np.array_equal(ours.final.image_HW3, theirs.final.image_HW3)
        assert np.array_equal(ours.final.state_7, theirs.final.state_7)
        assert ours.final.stamp_ns == theirs.final.stamp_ns
        assert ours.depth is not None and theirs.depth is not None
        assert np.array_equal(ours.depth_THW, theirs.depth_THW)
        assert np.array_equal(ours.depth.stamp_ns_T, theirs.depth.stamp_ns_T)
        assert np.array_equal(ours.depth.valid_T, theirs.depth.valid_T)
        assert np.array_equal(ours.depth.final_HW, theirs.depth.final_HW)
        assert (ours.depth.final_stamp_ns, ours.depth.final_valid, ours.depth.largest_apart_s) == (
            theirs.depth.final_stamp_ns,
            theirs.depth.final_valid,
            theirs.depth.largest_apart_s,
        )


def test_images_come_back_in_order_and_as_good_as_the_codec_is(dataset: Dataset, again: Dataset) -> None:
    for ours, theirs in zip(dataset, again, strict=True):
        for a, b in zip(ours.color_THW3, theirs.color_THW3, strict=True):
            assert read_number(a) == read_number(b) and psnr_db(a, b) > 32.0


def test_rows_and_calibrations_come_back(dataset: Dataset, again: Dataset, calibration_yaml: str) -> None:
    for position, (ours, theirs) in enumerate(zip(dataset.table, again.table, strict=True)):
        assert replace(theirs, sha256="", source_id="") == replace(ours, sha256="", source_id="")
        assert theirs.source_id != ours.source_id, "its images are not those of the recording"
        assert again.calibration_yaml(position) == calibration_yaml


def test_depth_that_was_not_exported_does_not_come_back(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "ours", (4, 3))
    export_dataset(dataset.folder, tmp_path / "v3", codec=VideoCodec("h264"), progress=False)
    import_dataset(tmp_path / "v3", tmp_path / "again", progress=False)
    again = Dataset(tmp_path / "again")
    assert not again.has_depth and again[0].depth is None
    assert np.array_equal(again[1].action_T7, dataset[1].action_T7)


def test_an_import_that_was_interrupted_goes_on(
    exported: Path, again: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = ExportedDataset.episode, []

    def interrupted(self: ExportedDataset, index: int):  # type: ignore[no-untyped-def]
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, index)

    monkeypatch.setattr(importer.ExportedDataset, "episode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_dataset(exported, tmp_path / "ours", progress=False)
    with pytest.raises(DatasetError, match="unfinished"):
        Dataset(tmp_path / "ours")
    report = import_dataset(exported, tmp_path / "ours", progress=False)
    assert (report.resumed, report.converted) == (2, 1) and calls == [0, 1, 2, 2]
    assert report.content_hash == again.content_hash


def test_a_folder_of_somebody_else_is_refused_with_a_list_of_what_it_lacks(exported: Path, tmp_path: Path) -> None:
    own = shutil.copytree(exported, tmp_path / "own")
    shutil.rmtree(own / "meta/prophrl")
    file = own / "meta/info.json"
    raw = json.loads(file.read_text())
    del raw["features"]["source_stamp_ns"], raw["features"]["moving"]
    file.write_text(json.dumps(raw))
    with pytest.raises(LeRobotError) as caught:
        import_dataset(own, tmp_path / "out", progress=False)
    for lacking in ("'moving'", "'source_stamp_ns'", "meta/prophrl/dataset.json", "meta/prophrl/episodes.parquet"):
        assert lacking in str(caught.value)
    assert "'stamp_ns'" not in str(caught.value) and "'valid'" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_damaged_side_files_are_named(exported: Path, tmp_path: Path) -> None:
    own = shutil.copytree(exported, tmp_path / "own")
    side = own / "meta/prophrl/dataset.json"
    raw = json.loads(side.read_text())
    side.write_text(json.dumps({**raw, "version": 2}))
    with pytest.raises(LeRobotError, match="is 'prophrl-in-lerobot' 2, read is"):
        ExportedDataset(own)
    side.write_text(json.dumps(raw))
    rows = own / "meta/prophrl/episodes.parquet"
    rows.write_bytes(rows.read_bytes()[:500])
    with pytest.raises(LeRobotError, match=r"episodes\.parquet has no whole row 0"):
        ExportedDataset(own).episode(0)
