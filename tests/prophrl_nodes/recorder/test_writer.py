"""The bag itself: standard, complete, flushed in time, and honest when the disk gives up."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from prophrl_nodes.recorder.mcap_records import Damage, read_records
from prophrl_nodes.recorder.metadata import OfferedQos, parse_qos_yaml, qos_yaml
from prophrl_nodes.recorder.recover import RecoverStatus, recover_bag
from prophrl_nodes.recorder.schemas import message_schema
from prophrl_nodes.recorder.writer import BagWriteError, BagWriter
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

MakeBag = Callable[..., Path]


def test_rosbags_opens_the_bag_and_finds_everything_in_it(make_bag: MakeBag) -> None:
    folder = make_bag(40)
    store = get_typestore(Stores.ROS2_JAZZY)
    with Reader(folder) as reader:
        assert reader.message_count == 41
        assert reader.start_time == 1_760_000_000_000_000_000
        by_topic = {c.topic: c for c in reader.connections}
        assert by_topic["/joint_states"].msgcount == 40
        assert by_topic["/joint_states"].digest == message_schema("sensor_msgs/msg/JointState").type_hash
        qos = by_topic["/mode"].ext.offered_qos_profiles[0]
        assert qos.durability.name == "TRANSIENT_LOCAL" and qos.reliability.name == "RELIABLE"
        assert by_topic["/bulk"].ext.offered_qos_profiles[0].reliability.name == "BEST_EFFORT"
        read = [
            store.deserialize_cdr(data, c.msgtype).position[0]
            for c, _, data in reader.messages(connections=[by_topic["/joint_states"]])
        ]
    assert read == list(range(40))
    assert yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]["version"] == 9


def test_mcap_ros2_decodes_our_own_interfaces_from_the_embedded_schemas(make_bag: MakeBag) -> None:
    folder = make_bag(3)
    with open(folder / "episode_0.mcap", "rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        assert reader.get_header().profile == "ros2"
        decoded = {c.topic: m for _, c, _, m in reader.iter_decoded_messages()}
        channels = {c.topic: c for c in reader.get_summary().channels.values()}
    assert decoded["/mode"].mode == 7
    assert list(decoded["/joint_states"].position) == [2.0, 0.5]
    assert channels["/mode"].metadata["topic_type_hash"] == message_schema("prophrl_interfaces/msg/RobotMode").type_hash
    assert yaml.safe_load(channels["/mode"].metadata["offered_qos_profiles"])[0]["durability"] == "transient_local"


def test_chunks_carry_a_crc_and_no_compression(make_bag: MakeBag) -> None:
    folder = make_bag(300, payload_bytes=20_000)
    with open(folder / "episode_0.mcap", "rb") as file:
        chunks = make_reader(file).get_summary().chunk_indexes
    assert len(chunks) >= 2
    assert {c.compression for c in chunks} == {""}
    data = bytearray((folder / "episode_0.mcap").read_bytes())
    data[chunks[0].chunk_start_offset + 200] ^= 0xFF
    (folder / "episode_0.mcap").write_bytes(data)
    damage = Damage()
    for _ in read_records(folder / "episode_0.mcap", damage):
        pass
    assert damage.lossy and "crc" in damage.notes[0]


def test_the_file_itself_says_which_episode_it_is(make_bag: MakeBag) -> None:
    folder = make_bag(1)
    with open(folder / "episode_0.mcap", "rb") as file:
        [record] = list(make_reader(file).iter_metadata())
    assert record.name == "prophrl.episode"
    assert record.metadata == {"task": "place_cube", "episode_id": "episode"}


def test_messages_reach_the_file_within_the_flush_period_even_when_nothing_follows(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path, "e", flush_period_s=0.1)
    topic = writer.add_topic("/t", "std_msgs/msg/String")
    writer.write(topic, b"\x00\x01\x00\x00\x02\x00\x00\x00A\x00", 1, 1)
    deadline = time.monotonic() + 5.0
    found = 0
    while not found and time.monotonic() < deadline:
        writer.flush_if_due()
        found = sum(type(r).__name__ == "Message" for r in read_records(writer.path, Damage()))
        time.sleep(0.02)
    assert found == 1
    writer.close()


def test_closing_twice_is_harmless_and_writing_afterwards_is_an_error(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path, "e")
    topic = writer.add_topic("/t", "std_msgs/msg/String")
    writer.write(topic, b"\x00\x01\x00\x00\x02\x00\x00\x00A\x00", 1, 1)
    writer.close()
    writer.close()
    with pytest.raises(BagWriteError, match="is closed"):
        writer.write(topic, b"", 2, 2)


def test_an_existing_bag_is_never_overwritten(tmp_path: Path) -> None:
    BagWriter(tmp_path, "e").close()
    with pytest.raises(FileExistsError):
        BagWriter(tmp_path, "e")


def test_a_topic_cannot_change_its_type_within_a_bag(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path, "e")
    first = writer.add_topic("/t", "std_msgs/msg/String")
    assert writer.add_topic("/t", "std_msgs/msg/String") is first
    with pytest.raises(ValueError, match="/t is recorded as std_msgs/msg/String"):
        writer.add_topic("/t", "std_msgs/msg/Header")
    writer.close()


def test_offered_qos_survives_the_round_trip_through_its_yaml() -> None:
    profiles = (OfferedQos(depth=3, reliability="best_effort"), OfferedQos(durability="transient_local"))
    assert parse_qos_yaml(qos_yaml(profiles)) == profiles
    assert parse_qos_yaml("") == ()


def test_what_was_written_before_the_disk_gave_up_is_kept(tmp_path: Path) -> None:
    """The kernel itself refuses to let the file grow (RLIMIT_FSIZE), in the middle of a record."""
    script = textwrap.dedent(
        """
        import json, resource, signal, sys
        from pathlib import Path
        from prophrl_nodes.recorder.writer import BagWriter, BagWriteError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
        writer = BagWriter(Path(sys.argv[1]), "e", flush_period_s=0.0)
        topic = writer.add_topic("/t", "std_msgs/msg/String")
        written = 0
        try:
            while True:
                data = b"\\0\\1\\0\\0" + written.to_bytes(4, "little") + bytes(100_000)
                writer.write(topic, data, written + 1, written + 1)
                written += 1
        except BagWriteError as error:
            print(json.dumps([written, str(error)]))
        try:
            writer.write(topic, b"", 1, 1)
        except BagWriteError:
            writer.close()
        """
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    written, message = json.loads(done.stdout)
    assert written > 20
    assert "File too large" in message and "prophrl bag recover" in message
    report = recover_bag(tmp_path)
    assert report.status is RecoverStatus.OK
    assert report.messages == written
