"""Killed, cut off and corrupted recordings.

Regressions pinned: bags whose footer was never written could not be opened by any reader (lerobot and rosbag2 users
lost whole sessions); recovery must bring back everything whole, say what it could not, and keep the damaged original.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap.records import Message
from prophrl_nodes.recorder.mcap_records import Damage, read_records
from prophrl_nodes.recorder.recover import RecoverError, RecoverStatus, recover_bag
from rosbags.rosbag2 import Reader

MakeBag = Callable[..., Path]

ENDLESS_WRITER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from prophrl_nodes.recorder.episode import EpisodeInfo, EpisodeStore
    from prophrl_nodes.recorder.writer import BagWriter
    store = EpisodeStore(Path(sys.argv[1]), 0)
    folder = store.start(EpisodeInfo(task="place_cube", instruction="go", episode_id="killed"))
    writer = BagWriter(folder.path, "killed", episode={"task": "place_cube", "episode_id": "killed"})
    topic = writer.add_topic("/t", "std_msgs/msg/String")
    k = 0
    while True:
        now = time.time_ns()
        writer.write(topic, b"\\0\\1\\0\\0\\5\\0\\0\\0" + k.to_bytes(4, "little") + b"\\0", now, now, b"p", k)
        k += 1
        print(k, flush=True)
        time.sleep(0.002)
    """
)


def numbers(path: Path) -> list[int]:
    return [int(r.data[8:12].hex(), 16) for r in read_records(path, Damage()) if isinstance(r, Message)]


def test_kill_9_loses_at_most_the_flush_period_and_recovery_brings_back_the_rest(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    written = 0
    deadline = time.monotonic() + 30.0
    for line in process.stdout:
        written = int(line)
        if written >= 800 or time.monotonic() > deadline:
            break
    killed_ns = time.time_ns()
    os.kill(process.pid, signal.SIGKILL)
    written = max([written, *(int(x) for x in process.stdout.read().split("\n")[:-1] if x)])
    process.wait()
    folder = tmp_path / "incomplete" / "killed"
    with open(folder / "killed_0.mcap", "rb") as file, pytest.raises(McapError):
        make_reader(file).get_summary()  # nothing that seeks can open it as it is

    report = recover_bag(folder)

    assert report.status is RecoverStatus.OK and not report.was_complete
    with Reader(folder) as reader:
        stamps = [t for _, t, _ in reader.messages()]
    assert len(stamps) == report.messages <= written
    assert killed_ns - stamps[-1] < 1_000_000_000
    assert [int.from_bytes(bytes.fromhex(f"{n:08x}"), "little") for n in numbers(folder / "killed_0.mcap")] == list(
        range(report.messages)
    )
    record = json.loads((folder / "episode.json").read_text())
    assert record["state"] == "recovered" and record["instruction"] == "go"
    assert record["topics"]["/t"]["count"] == report.messages
    assert "killed" in record["stop_reason"]


def test_a_bag_that_was_closed_properly_is_left_as_it_is(make_bag: MakeBag) -> None:
    folder = make_bag(50)
    before = (folder / "episode_0.mcap").read_bytes()
    report = recover_bag(folder)
    assert report.status is RecoverStatus.OK and report.was_complete
    assert (folder / "episode_0.mcap").read_bytes() == before
    assert {p.name for p in folder.iterdir()} == {"episode_0.mcap", "metadata.yaml"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fraction=st.floats(0.0, 0.999))
def test_a_file_cut_anywhere_gives_back_a_prefix_of_its_messages(
    make_bag: MakeBag, tmp_path: Path, fraction: float
) -> None:
    whole = tmp_path / "episode"
    if not whole.exists():
        make_bag(400, payload_bytes=30_000)
    source = whole / "episode_0.mcap"
    expected = [r.data for r in read_records(source, Damage()) if isinstance(r, Message)]
    folder = tmp_path / f"cut{time.monotonic_ns()}"
    folder.mkdir()
    data = source.read_bytes()
    (folder / "cut_0.mcap").write_bytes(data[: int(len(data) * fraction)])
    try:
        report = recover_bag(folder)
    except RecoverError as error:
        assert fraction < 0.5 and "no readable message" in str(error)
        return
    got = [r.data for r in read_records(folder / "cut_0.mcap", Damage()) if isinstance(r, Message)]
    assert got == expected[: len(got)] and report.messages == len(got)
    with open(folder / "cut_0.mcap", "rb") as file:
        assert make_reader(file).get_summary().statistics.message_count == len(got)
    if report.status is RecoverStatus.OK:
        assert not list(folder.glob("*.damaged"))
    else:
        assert (folder / "cut_0.mcap.damaged").stat().st_size == int(len(data) * fraction)


def test_a_corrupt_chunk_costs_its_own_messages_only_and_the_original_is_kept(make_bag: MakeBag) -> None:
    folder = make_bag(400, payload_bytes=30_000)
    file = folder / "episode_0.mcap"
    with open(file, "rb") as stream:
        chunks = make_reader(stream).get_summary().chunk_indexes
    assert len(chunks) >= 3
    data = bytearray(file.read_bytes())
    data[chunks[1].chunk_start_offset + chunks[1].chunk_length // 2] ^= 0x01
    file.write_bytes(data)

    report = recover_bag(folder)

    assert report.status is RecoverStatus.LOSSY == 3
    assert "chunk of" in report.notes[0] and "corrupt" in report.notes[0]
    assert 801 * 0.5 < report.messages < 801
    assert (folder / "episode_0.mcap.damaged").read_bytes() == bytes(data)
    with Reader(folder) as reader:
        assert reader.message_count == report.messages
    assert recover_bag(folder).was_complete  # the second run finds a good bag


def test_a_second_recovery_of_other_damage_does_not_overwrite_the_first_original(make_bag: MakeBag) -> None:
    folder = make_bag(800, payload_bytes=30_000)
    file = folder / "episode_0.mcap"
    for _ in range(2):
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * 0.7)])
        assert recover_bag(folder).status is RecoverStatus.LOSSY
    assert len(list(folder.glob("*.damaged*"))) == 2


@pytest.mark.parametrize("content", [b"", b"not a bag at all", b"\x89MCAP0\r\n"])
def test_files_without_a_single_message_are_an_error_and_stay(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.mcap"
    file.write_bytes(content)
    with pytest.raises(RecoverError, match="holds no readable message"):
        recover_bag(file)
    assert file.read_bytes() == content and list(tmp_path.iterdir()) == [file]


def test_a_bag_being_recorded_is_not_touched(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        with pytest.raises(RecoverError, match="is being recorded right now"):
            recover_bag(tmp_path / "incomplete" / "killed")
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_an_episode_json_that_is_gone_is_rebuilt_from_the_file_itself(make_bag: MakeBag) -> None:
    folder = make_bag(400, payload_bytes=30_000)
    file = folder / "episode_0.mcap"
    file.write_bytes(file.read_bytes()[:-200_000])
    recover_bag(folder)
    record = json.loads((folder / "episode.json").read_text())
    assert record["task"] == "place_cube" and record["recovered"]["lossy"] is True


def test_a_folder_without_a_bag_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecoverError, match=r"found 0 \.mcap files"):
        recover_bag(tmp_path)
    with pytest.raises(RecoverError, match="found nothing"):
        recover_bag(tmp_path / "nowhere")
