"""Packing bags afterwards: the same content, smaller, or nothing changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from mcap.reader import make_reader
from prophrl_nodes.recorder.compress import CompressError, compress_bag
from rosbags.rosbag2 import Reader

MakeBag = Callable[..., Path]


def content(folder: Path) -> list[tuple[str, int, bytes]]:
    with Reader(folder) as reader:
        return [(c.topic, t, bytes(d)) for c, t, d in reader.messages()]


def test_a_packed_bag_is_smaller_and_says_the_same(make_bag: MakeBag) -> None:
    folder = make_bag(300, payload_bytes=30_000)
    before, metadata = content(folder), (folder / "metadata.yaml").read_bytes()
    report = compress_bag(folder)
    assert report.after < report.before / 5
    assert report.after == (folder / "episode_0.mcap").stat().st_size
    assert content(folder) == before
    assert (folder / "metadata.yaml").read_bytes() == metadata
    with open(folder / "episode_0.mcap", "rb") as file:
        reader = make_reader(file)
        assert {c.compression for c in reader.get_summary().chunk_indexes} == {"zstd"}
        assert [m.name for m in reader.iter_metadata()] == ["prophrl.episode"]
    assert {p.name for p in folder.iterdir()} == {"episode_0.mcap", "metadata.yaml"}


def test_packing_what_is_packed_changes_nothing(make_bag: MakeBag) -> None:
    folder = make_bag(100, payload_bytes=30_000)
    compress_bag(folder)
    before = (folder / "episode_0.mcap").read_bytes()
    report = compress_bag(folder)
    assert report.before == report.after
    assert (folder / "episode_0.mcap").read_bytes() == before


def test_what_cannot_be_packed_smaller_stays_as_it_was(make_bag: MakeBag) -> None:
    folder = make_bag(1)
    before = (folder / "episode_0.mcap").stat().st_ino
    report = compress_bag(folder)
    assert report.after <= report.before
    if report.after == report.before:
        assert (folder / "episode_0.mcap").stat().st_ino == before


def test_a_damaged_bag_is_refused_and_left_alone(make_bag: MakeBag) -> None:
    folder = make_bag(300, payload_bytes=30_000)
    file = folder / "episode_0.mcap"
    file.write_bytes(file.read_bytes()[:-100])
    before = file.read_bytes()
    with pytest.raises(CompressError, match=r"is damaged.*prophrl bag recover"):
        compress_bag(folder)
    assert file.read_bytes() == before
    assert not list(folder.glob("*.packing"))


def test_the_remains_of_an_interrupted_packing_do_not_matter(make_bag: MakeBag) -> None:
    folder = make_bag(100, payload_bytes=30_000)
    before = content(folder)
    (folder / "episode_0.mcap.packing").write_bytes(os.urandom(1000))
    compress_bag(folder)
    assert content(folder) == before
    assert not list(folder.glob("*.packing"))
