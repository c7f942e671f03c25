"""Shared memory between lab processes: never a torn read, never a stale file, clear words when there is none."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from robot_bridge.twin.shared_state import (
    FrameRingReader,
    FrameRingWriter,
    SharedStateError,
    WorldStateReader,
    WorldStateWriter,
)
from robot_bridge.twin.world import World


def _publish(writer: WorldStateWriter, world: World, tick: int) -> None:
    writer.write(
        tick=tick,
        stamp_ns=1_000 + tick,
        task=world.task.id,
        scene_revision=world.scene_revision,
        qpos=world.qpos,
        q=world.q,
        qd=world.qd,
        T_base_tcp=world.T_base_tcp,
        gripper_opening=world.gripper_opening,
        gripper_target=0.25,
        object_detected=True,
        objects=world.object_poses(),
        robot_mode=7,
        safety_mode=1,
    )


def test_state_arrives_as_it_was_written(tmp_path: Path) -> None:
    world = World("place_bowl")
    writer, reader = WorldStateWriter(tmp_path), WorldStateReader(tmp_path)
    _publish(writer, world, 42)
    state = reader.read()
    assert (state.tick, state.stamp_ns, state.task, state.robot_mode, state.safety_mode) == (
        42,
        1042,
        "place_bowl",
        7,
        1,
    )
    np.testing.assert_array_equal(state.qpos, world.qpos)
    np.testing.assert_array_equal(state.q, world.q)
    np.testing.assert_array_equal(state.T_base_tcp, world.T_base_tcp)
    assert list(state.objects) == ["bowl", "plate"]
    for name, pose in world.object_poses().items():
        np.testing.assert_array_equal(state.objects[name], pose)
    assert state.object_detected
    assert state.gripper_target == 0.25
    assert state.scene_revision == world.scene_revision


def test_missing_unwritten_and_half_written_states_are_told_apart(tmp_path: Path) -> None:
    reader = WorldStateReader(tmp_path / "nowhere")
    with pytest.raises(SharedStateError, match=r"no world state at .*start the lab"):
        reader.read()
    writer = WorldStateWriter(tmp_path)
    with pytest.raises(SharedStateError, match="holds no state yet"):
        WorldStateReader(tmp_path).read(timeout_s=0.02)
    _publish(writer, World("grasp_bottle"), 1)
    with open(tmp_path / "world.bin", "r+b") as file:
        file.seek(8)
        file.write((3).to_bytes(8, "little"))
    with pytest.raises(SharedStateError, match="half written"):
        WorldStateReader(tmp_path).read(timeout_s=0.02)


def test_reader_follows_a_restarted_writer(tmp_path: Path) -> None:
    world = World("grasp_bottle")
    writer, reader = WorldStateWriter(tmp_path), WorldStateReader(tmp_path)
    _publish(writer, world, 1)
    assert reader.read().tick == 1
    again = WorldStateWriter(tmp_path)
    _publish(again, world, 2)
    deadline = time.monotonic() + 5.0
    while reader.read().tick != 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    again.close()
    assert not (tmp_path / "world.bin").exists()


WRITER = """
    import pathlib, sys, time, numpy as np
    from robot_bridge.twin.shared_state import FrameRingWriter, WorldStateWriter
    folder, kind = sys.argv[1:]
    writer = WorldStateWriter(folder) if kind == "world" else FrameRingWriter(folder, 160, 120)
    end, n = time.monotonic() + 120.0, 0
    while not pathlib.Path(folder, "enough").exists() and time.monotonic() < end:
        n += 1
        if n % 50 == 0:
            time.sleep(0.0005)  # on a single core the reader runs only while the writer rests
        if kind == "world":
            pose = np.full((4, 4), float(n))
            writer.write(tick=n, stamp_ns=n, task="place_cube", scene_revision=n, qpos=np.full(22, n), q=[n] * 6,
                qd=[n] * 6, T_base_tcp=pose, gripper_opening=n, gripper_target=n, object_detected=False,
                objects={"cube": pose, "bowl": pose}, robot_mode=7, safety_mode=1)
        else:
            writer.write(n, n, np.full((120, 160, 3), n % 251, np.uint8), np.full((120, 160), n % 65521, np.uint16))
"""


def _writing_process(tmp_path: Path, kind: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), kind])
    deadline = time.monotonic() + 20.0
    while not list(tmp_path.glob("*.bin")):
        assert time.monotonic() < deadline, "the writing process did not start"
        time.sleep(0.01)
    return process


def test_states_are_never_torn_while_another_process_writes_in_bursts(tmp_path: Path) -> None:
    process = _writing_process(tmp_path, "world")
    reader, seen = WorldStateReader(tmp_path), set()
    while len(seen) < 200:
        assert process.poll() is None, f"the writer ended after {len(seen)} different states were read"
        state = reader.read(timeout_s=20.0)
        n = state.tick
        seen.add(n)
        assert state.stamp_ns == state.scene_revision == n
        for values in (state.qpos, state.q, state.qd, state.T_base_tcp, *state.objects.values()):
            assert (values == n).all()
        assert state.gripper_opening == state.gripper_target == n
    (tmp_path / "enough").touch()
    assert process.wait(timeout=20.0) == 0


def test_frames_are_never_torn_while_another_process_writes_in_bursts(tmp_path: Path) -> None:
    process = _writing_process(tmp_path, "frames")
    reader, last, frames = FrameRingReader(tmp_path), 0, 0
    while frames < 100:
        assert process.poll() is None, f"the writer ended after {frames} frames were read"
        frame = reader.wait(last, timeout_s=20.0)
        assert frame is not None
        assert frame.frame_number > last
        last, frames = frame.frame_number, frames + 1
        assert frame.stamp_ns == last
        assert (frame.rgb == last % 251).all()
        assert (frame.z16 == last % 65521).all()
    (tmp_path / "enough").touch()
    assert process.wait(timeout=20.0) == 0


def test_frames_arrive_once_and_in_time(tmp_path: Path) -> None:
    writer, reader = FrameRingWriter(tmp_path, 8, 6), FrameRingReader(tmp_path)
    assert reader.latest() is None
    assert reader.size == (8, 6)
    assert reader.wait(0, timeout_s=0.02) is None
    rgb = np.arange(144, dtype=np.uint8).reshape(6, 8, 3)
    z16 = np.arange(48, dtype=np.uint16).reshape(6, 8)
    for number in range(1, 20):
        writer.write(number, 10 * number, rgb + number, z16 + number)
    frame = reader.wait(18, timeout_s=0.1)
    assert frame is not None
    assert (frame.frame_number, frame.stamp_ns) == (19, 190)
    np.testing.assert_array_equal(frame.rgb, rgb + 19)
    np.testing.assert_array_equal(frame.z16, z16 + 19)
    assert reader.wait(19, timeout_s=0.02) is None


def test_ring_refuses_what_does_not_fit(tmp_path: Path) -> None:
    writer = FrameRingWriter(tmp_path, 8, 6)
    with pytest.raises(ValueError, match=r"frames of this ring are \(6, 8\)"):
        writer.write(1, 1, np.zeros((8, 6, 3), np.uint8), np.zeros((6, 8), np.uint16))
    with pytest.raises(ValueError, match="at least 4 slots"):
        FrameRingWriter(tmp_path, 8, 6, slots=2)
    with pytest.raises(SharedStateError, match="no camera frames"):
        FrameRingReader(tmp_path / "elsewhere").latest()
