"""Depth beside colour: the right frame with its own stamp, and nothing else changes because of it."""

from __future__ import annotations

import array
import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from prophrl_models.data.bag import Bag, BagError
from prophrl_models.data.cdr import ImageError
from prophrl_models.data.convert import convert_bag
from prophrl_models.data.dataset import Dataset, DatasetError, DatasetHeader, DatasetWriter, build_dataset
from prophrl_models.data.dataset_format import json_sha256
from prophrl_models.data.depth import DepthSpec, DepthTrack
from prophrl_models.data.episode import Episode
from prophrl_models.data.image import policy_depth, policy_image
from prophrl_models.data.streams import depth_sample
from tests.helpers.recording import DEPTH, START_NS, Recording, record

HEADER_WITHOUT_DEPTH = "015c44c13f3037e074d9e506998f3684701699e723a77463c6fc4ae06a4d3d00"
"""Hash of the default header as it was before depth existed: it goes into every content hash."""


def numbered(recording: Recording) -> Recording:
    """The same with depth frames that can be told apart: frame k is 1000 + k millimetres far."""
    sent, k = [], 0
    for entry in recording.sent:
        if entry.topic == DEPTH:
            message = copy.copy(entry.message)
            message.data = array.array("B", np.full(len(message.data) // 2, 1000 + k, "<u2").tobytes())
            entry, k = replace(entry, message=message), k + 1
        sent.append(entry)
    return replace(recording, sent=tuple(sent))


@pytest.fixture(scope="module")
def deep() -> Recording:
    """Two seconds at a small size, with depth whose frames can be told apart."""
    return numbered(record(2.0, depth=True, width=64, height=48, seed=4))


def depth_of(recording: Recording) -> dict[int, int]:
    """Millimetres by stamp."""
    return {s.stamp_ns: int(np.frombuffer(s.message.data, "<u2")[0]) for s in recording.sent if s.topic == DEPTH}


def convert(recording: Recording, folder: Path, spec: DepthSpec | None = DepthSpec()) -> Episode:  # noqa: B008
    return convert_bag(Bag(recording.write(folder)), depth=spec)


def check_nearest(episode: Episode, recording: Recording, max_apart_s: float) -> None:
    """Against a search through everything that was sent."""
    millimetres = depth_of(recording)
    stamps = np.array(sorted(millimetres))
    assert episode.depth is not None and episode.depth_THW is not None
    for step, color_ns in enumerate(episode.source_stamp_ns_T["color"].tolist()):
        apart = np.abs(stamps - color_ns)
        found = int(episode.depth.stamp_ns_T[step])
        assert found in millimetres, "a stamp was invented"
        assert abs(found - color_ns) == apart.min()
        assert (episode.depth_THW[step] == millimetres[found]).all(), "the picture is not that of its stamp"
        assert episode.depth.valid_T[step] == (apart.min() <= max_apart_s * 1e9)
    assert (episode.depth.final_HW == millimetres[episode.depth.final_stamp_ns]).all()


def test_each_step_gets_the_depth_frame_nearest_to_its_colour_frame(deep: Recording, tmp_path: Path) -> None:
    check_nearest(convert(deep, tmp_path), deep, 0.02)


def test_lost_depth_frames_leave_neighbours_with_their_true_stamps_that_are_marked(
    deep: Recording, tmp_path: Path
) -> None:
    lossy = deep.without(lambda s: s.topic == DEPTH and 0.6 < (s.stamp_ns - START_NS) * 1e-9 < 1.1)
    episode = convert(lossy, tmp_path)
    check_nearest(episode, lossy, 0.02)
    assert episode.depth is not None
    assert not episode.depth.valid_T.all() and episode.depth.valid_T.any()
    assert episode.quality["depth"]["invalid_steps"] == int((~episode.depth.valid_T).sum())
    assert episode.quality["depth"]["largest_apart_s"] > 0.1


def test_depth_that_begins_late_or_ends_early_is_still_found(deep: Recording, tmp_path: Path) -> None:
    short = deep.without(lambda s: s.topic == DEPTH and not 0.7 < (s.stamp_ns - START_NS) * 1e-9 < 0.8)
    check_nearest(convert(short, tmp_path), short, 0.02)


@pytest.mark.parametrize("tail_s", [0.0, 1.0])
def test_everything_else_is_the_same_with_and_without_depth(deep: Recording, tmp_path: Path, tail_s: float) -> None:
    """Also when depth goes on after the other streams: it must not make the episode longer."""
    recording = deep
    if tail_s:
        recording = deep.without(lambda s: s.topic != DEPTH and (s.log_ns - START_NS) * 1e-9 > 2.0 - tail_s)
    with_depth = convert(recording, tmp_path / "a")
    without = convert(recording, tmp_path / "b", None)
    assert without.depth is None and without.depth_THW is None
    for name in ("color_THW3", "state_T7", "action_T7", "stamp_ns_T", "valid_T", "moving_T"):
        assert np.array_equal(getattr(with_depth, name), getattr(without, name)), name
    for stream, stamps in without.source_stamp_ns_T.items():
        assert (with_depth.source_stamp_ns_T[stream] == stamps).all()
    assert {**with_depth.quality, "depth": None} == {**without.quality, "depth": None}
    assert "depth" not in without.quality, "the report, and with it the hash, is what it was before depth existed"


def test_the_header_of_a_dataset_without_depth_hashes_as_before_depth_existed() -> None:
    assert json_sha256(DatasetHeader().to_json()) == HEADER_WITHOUT_DEPTH
    assert json_sha256(DatasetHeader(depth=DepthSpec()).to_json()) != HEADER_WITHOUT_DEPTH


@pytest.mark.parametrize(("width", "height"), [(424, 240), (640, 480), (848, 480), (64, 48)])
def test_depth_is_cropped_as_colour_is(width: int, height: int) -> None:
    """A column or row that is bright in one picture and far in the other must land on the same pixels."""
    y, x = np.mgrid[0:height, 0:width]
    pattern = ((x * 8 // width) % 2 == 0) ^ ((y * 6 // height) % 2 == 0)
    color = policy_image(np.repeat(pattern[..., None] * np.uint8(255), 3, axis=2).astype(np.uint8))[..., 0]
    depth = policy_depth((pattern * 5000).astype(np.uint16))
    clear = (color == 0) | (color == 255)  # not mixed of both where pixels are averaged or enlarged
    assert clear.mean() > 0.8
    assert ((depth == 5000) == (color == 255))[clear].all()
    assert set(np.unique(depth)) == {0, 5000}, "depth is never mixed"


def test_depth_of_another_size_than_colour_is_refused(deep: Recording, tmp_path: Path) -> None:
    other = record(2.0, depth=True, width=424, height=240, seed=4)
    mixed = replace(
        deep,
        sent=tuple(sorted(
            [s for s in deep.sent if s.topic != DEPTH] + [s for s in other.sent if s.topic == DEPTH],
            key=lambda s: s.log_ns,
        )),
    )  # fmt: skip
    with pytest.raises(BagError, match=r"color 64x48, depth 424x240.*not aligned"):
        convert(mixed, tmp_path)


def test_a_bag_without_depth_is_left_out_with_the_reason(tmp_path: Path) -> None:
    record(1.5, depth=True, width=64, height=48, episode_id="deep").write(tmp_path / "bags")
    record(1.5, width=64, height=48, episode_id="flat").write(tmp_path / "bags")
    header = DatasetHeader(depth=DepthSpec())
    report = build_dataset([tmp_path / "bags"], tmp_path / "out", header=header, progress=False)
    (left_out,) = report.left_out
    assert left_out.source == "flat" and "record it, or build without depth" in left_out.reason


@pytest.mark.parametrize("big_endian", [False, True])
def test_both_byte_orders_and_padded_rows_are_read(big_endian: bool) -> None:
    depth = np.arange(12, dtype=np.uint16).reshape(3, 4) * 500
    rows = np.zeros((3, 5), ">u2" if big_endian else "<u2")
    rows[:, :4] = depth
    message = Image(height=3, width=4, encoding="16UC1", step=10, is_bigendian=int(big_endian))
    message.data = array.array("B", rows.tobytes())
    _, read = depth_sample(bytes(serialize_message(message)))
    assert read.dtype == np.uint16 and (read == depth).all()


def test_another_encoding_is_refused() -> None:
    message = Image(height=1, width=2, encoding="32FC1", step=8, data=array.array("B", bytes(8)))
    with pytest.raises(ImageError, match="encoding '32FC1', accepted are 16UC1"):
        depth_sample(bytes(serialize_message(message)))


def test_memory_holds_a_few_frames_only() -> None:
    track = DepthTrack(DepthSpec(), lambda depth: None)
    frame = np.zeros((240, 320), np.uint16)
    for k in range(500):
        track.push(k * 33_000_000, frame)
        if k >= 100 and k % 3 == 0:
            track.ask(k * 33_000_000)
        assert len(track._frames) <= 64
    assert len(track._frames) < 10


@pytest.fixture(scope="module")
def built(deep: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with depth; do not write to it."""
    root = tmp_path_factory.mktemp("deep")
    deep.write(root / "bags")
    build_dataset([root / "bags"], root / "out", header=DatasetHeader(depth=DepthSpec()), progress=False)
    return root / "out"


def test_depth_is_stored_and_comes_back(built: Path, deep: Recording) -> None:
    dataset = Dataset(built)
    assert dataset.has_depth
    dataset.verify()
    episode = dataset[0]
    assert isinstance(episode.depth_THW, np.memmap) and episode.depth_THW.dtype == np.uint16
    check_nearest(episode, deep, 0.02)


def test_damaged_depth_is_noticed(built: Path, tmp_path: Path) -> None:
    own = shutil.copytree(built, tmp_path / "own")
    path = next(own.rglob("depth_T240x320.npy"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="depth_T240x320 hashes to"):
        Dataset(own).verify()


def test_a_dataset_with_depth_is_not_continued_without_it(built: Path) -> None:
    raw = json.loads((built / "dataset.json").read_text())
    assert raw["depth"]["max_apart_s"] == 0.02
    with pytest.raises(DatasetError, match="was built as"):
        DatasetWriter(built, DatasetHeader())


def test_episodes_without_depth_do_not_enter_a_dataset_with_depth(built: Path, deep: Recording, tmp_path: Path) -> None:
    flat = convert(deep, tmp_path / "bags", None)
    writer = DatasetWriter(tmp_path / "out", DatasetHeader(depth=DepthSpec()))
    with pytest.raises(DatasetError, match="has no depth"):
        writer.add(flat, "flat")
    writer.add(Dataset(built)[0], "deep")
    writer.finish()
    again = Dataset(tmp_path / "out")[0]
    assert again.depth is not None and np.array_equal(again.depth_THW, Dataset(built)[0].depth_THW)
