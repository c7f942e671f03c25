"""Reading bags: our own message types, what was said about the episode, and every way a bag can be broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from prophrl_models.data.bag import Bag, BagError, find_bags
from tests.helpers.recording import COLOR, GRIPPER, POSE, STATUS, Recording, record


def small(**said: str) -> Recording:
    return record(0.3, width=64, height=48, **said)


def copy_mcap(source: Path, target: Path, **options: object) -> None:
    """The same messages in a bag written differently."""
    with source.open("rb") as stream, target.open("wb") as out:
        writer = Writer(out, **options)  # type: ignore[arg-type]
        writer.start(profile="ros2")
        ids: dict[str, int] = {}
        for schema, channel, message in make_reader(stream).iter_messages():
            assert schema is not None
            if channel.topic not in ids:
                schema_id = writer.register_schema(schema.name, schema.encoding, schema.data)
                ids[channel.topic] = writer.register_channel(channel.topic, "cdr", schema_id)
            writer.add_message(ids[channel.topic], message.log_time, message.data, message.publish_time)
        writer.finish()


def test_our_own_message_types_are_decoded_from_the_schemas_in_the_bag(bag: Bag) -> None:
    messages = list(bag.messages([GRIPPER, STATUS]))
    openings = [bag.decode(m).opening for m in messages if m.topic == GRIPPER]
    assert openings[0] == 1.0 and openings[-1] == pytest.approx(0.3)
    status = bag.decode(next(m for m in messages if m.topic == STATUS))
    assert status.state == 1 and list(status.joint_targets) == [0.0] * 6


def test_messages_come_in_the_order_they_were_received(bag: Bag, recording: Recording) -> None:
    topics = [COLOR, POSE, GRIPPER]
    wanted = [(s.topic, s.log_ns) for s in recording.sent if s.topic in topics]
    assert [(m.topic, m.log_time_ns) for m in bag.messages(topics)] == wanted


def test_receive_times_of_all_topics_come_from_the_index(bag: Bag, recording: Recording) -> None:
    times = bag.log_times_ns()
    for topic in bag.topics:
        assert times[topic].tolist() == [s.log_ns for s in recording.sent if s.topic == topic]


def test_a_bag_without_chunks_gives_the_same_messages_times_and_identity(bag_path: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat.mcap"
    copy_mcap(next(bag_path.glob("*.mcap")), flat, use_chunking=False)
    assert {t: v.tolist() for t, v in Bag(flat).log_times_ns().items()} == {
        t: v.tolist() for t, v in Bag(bag_path).log_times_ns().items()
    }
    assert [m.cdr for m in Bag(flat).messages([POSE])] == [m.cdr for m in Bag(bag_path).messages([POSE])]


def test_what_was_said_about_the_episode_is_read(bag: Bag) -> None:
    said = bag.metadata
    assert (said.episode_id, said.task, said.operator_name, said.outcome) == (
        "episode",
        "place_cube",
        "tester",
        "success",
    )
    assert said.instruction == "place the cube in the bowl"
    assert said.placement == {"cell": [1, 2]}
    assert said.extra["lighting"] == "lamp"
    assert said.accepted


def test_a_missing_calibration_is_recorded_as_none(bag: Bag) -> None:
    assert bag.metadata.calibration_id == "none"


def test_the_calibration_in_force_is_named(tmp_path: Path) -> None:
    calibration = tmp_path / "camera.yaml"
    calibration.write_text("id: hand-eye-2026-01-09\n")
    assert Bag(small().write(tmp_path / "bags", calibration)).metadata.calibration_id == "hand-eye-2026-01-09"


def test_the_calibration_itself_travels_with_the_bag_even_without_its_folder(tmp_path: Path) -> None:
    calibration = tmp_path / "camera.yaml"
    calibration.write_text("id: hand-eye-2026-01-09\nfx: 212.0\n")
    folder = small().write(tmp_path / "bags", calibration)
    assert Bag(folder).calibration_yaml == calibration.read_text()
    (torn,) = folder.glob("*.mcap")
    assert Bag(torn.rename(tmp_path / "alone.mcap")).calibration_yaml == calibration.read_text()
    assert Bag(small().write(tmp_path / "without")).calibration_yaml is None


def test_metadata_inside_the_file_is_used_when_it_was_torn_from_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "lonely.mcap"
    with file.open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        writer.add_metadata("prophrl.episode", {"episode_id": "e7", "task": "t", "placement_json": '{"cell": [0, 1]}'})
        channel = writer.register_channel("/x", "cdr", writer.register_schema("a/msg/B", "ros2msg", b"bool x"))
        writer.add_message(channel, 1, b"\0\1\0\0\1", 1)
        writer.finish()
    said = Bag(file).metadata
    assert (said.episode_id, said.task, said.placement, said.outcome) == ("e7", "t", {"cell": [0, 1]}, "unknown")


def test_relabelling_changes_the_identity_of_a_bag_and_moving_does_not(tmp_path: Path) -> None:
    path = small().write(tmp_path / "bags")
    before = Bag(path).content_id
    moved = shutil.copytree(path, tmp_path / "moved" / path.name)
    assert Bag(moved).content_id == before
    sidecar = json.loads((moved / "episode.json").read_text())
    (moved / "episode.json").write_text(json.dumps({**sidecar, "outcome": "failure"}))
    assert Bag(moved).metadata.outcome == "failure"
    assert Bag(moved).content_id != before


def test_compressing_keeps_identity_and_content(tmp_path: Path) -> None:
    path = small().write(tmp_path / "bags")
    before, poses = Bag(path).content_id, [m.cdr for m in Bag(path).messages([POSE])]
    file = next(path.glob("*.mcap"))
    copy_mcap(file, tmp_path / "packed.mcap", compression=CompressionType.ZSTD, chunk_size=100_000)
    shutil.move(tmp_path / "packed.mcap", file)
    assert Bag(path).content_id == before
    assert [m.cdr for m in Bag(path).messages([POSE])] == poses


def test_a_bag_split_over_files_is_one_sequence(tmp_path: Path) -> None:
    whole = record(0.6, width=64, height=48)
    middle = len(whole.sent) // 2
    for part, (first, last) in enumerate([(0, middle), (middle, len(whole.sent))]):
        piece = Recording(whole.sent[first:last], episode_id="e").write(tmp_path / str(part))
        (tmp_path / "both").mkdir(exist_ok=True)
        shutil.copy(piece / "e_0.mcap", tmp_path / "both" / f"e_{part}.mcap")
    received = [m.log_time_ns for m in Bag(tmp_path / "both").messages([POSE, GRIPPER])]
    assert received == [s.log_ns for s in whole.sent if s.topic in (POSE, GRIPPER)]


def test_topics_are_found_under_a_namespace_and_ambiguity_is_refused(bag: Bag) -> None:
    assert bag.resolve("camera/color/image_raw") == COLOR
    assert bag.resolve("state") == GRIPPER
    with pytest.raises(BagError, match=r"'image_raw' is ambiguous: /camera/aligned\S+, /camera/color/image_raw"):
        bag.resolve("image_raw")


def test_a_missing_topic_is_reported_with_what_is_there(bag: Bag) -> None:
    with pytest.raises(BagError, match=r"'joint_states' is missing; there is /camera/.*/tcp_pose_broadcaster/pose"):
        bag.resolve("joint_states")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.9999])
def test_a_cut_off_bag_is_refused_and_recovery_is_named(bag_path: Path, tmp_path: Path, keep: float) -> None:
    whole = next(bag_path.glob("*.mcap")).read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(BagError, match=r"prophrl bag recover .*cut\.mcap"):
        Bag(cut)


def test_a_flipped_bit_in_the_data_is_noticed(bag_path: Path, tmp_path: Path) -> None:
    damaged = bytearray(next(bag_path.glob("*.mcap")).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path = tmp_path / "flipped.mcap"
    path.write_bytes(damaged)
    with pytest.raises(BagError, match="damaged"):
        list(Bag(path).messages([COLOR, POSE, GRIPPER]))


def test_something_else_is_not_a_bag(tmp_path: Path) -> None:
    (tmp_path / "x.mcap").write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(BagError, match="prophrl bag recover"):
        Bag(tmp_path / "x.mcap")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BagError, match="pass a bag folder"):
        Bag(tmp_path / "empty")


def test_a_bag_without_messages_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "none.mcap").open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        writer.finish()
    with pytest.raises(BagError, match="holds no messages"):
        Bag(tmp_path / "none.mcap")


def test_a_damaged_sidecar_is_refused(tmp_path: Path) -> None:
    path = small().write(tmp_path)
    (path / "episode.json").write_text("{")
    with pytest.raises(BagError, match=r"episode\.json is not a JSON object"):
        Bag(path)


def test_searching_finds_accepted_bags_and_leaves_out_discarded_and_incomplete_ones(tmp_path: Path) -> None:
    kept = [small(episode_id=name).write(tmp_path) for name in ("b", "a")]
    for folder in ("discarded", "incomplete"):
        shutil.copytree(kept[0], tmp_path / folder / "b")
    assert find_bags([tmp_path]) == sorted(kept)
    assert find_bags([kept[0]]) == [kept[0]]
    assert find_bags([tmp_path / "discarded"]) == [tmp_path / "discarded" / "b"]


def test_searching_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="no bag at"):
        find_bags([tmp_path / "nowhere"])
