"""Bags written by the recorder's own writer, and processes that play the devices of a cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prophrl_nodes.recorder.metadata import OfferedQos
from prophrl_nodes.recorder.writer import BagWriter
from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_JAZZY)
START_NS = 1_760_000_000_000_000_000
STEP_NS = 8_000_000  # 125 Hz


def joint_state_cdr(k: int) -> bytes:
    """A joint state whose first position is ``k``."""
    names = ("sensor_msgs/msg/JointState", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    joint_state, header, time = (STORE.types[name] for name in names)
    stamp_ns = START_NS + k * STEP_NS
    message = joint_state(
        header=header(stamp=time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=""),
        name=["a", "b"],
        position=np.array([float(k), 0.5]),
        velocity=np.array([]),
        effort=np.array([]),
    )
    return bytes(STORE.serialize_cdr(message, "sensor_msgs/msg/JointState"))


def write_bag(folder: Path, count: int, *, payload_bytes: int = 0, close: bool = True) -> BagWriter:
    """A bag with ``count`` joint states at 125 Hz, a latched robot mode and, on demand, bulky images."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = BagWriter(folder, folder.name, episode={"task": "place_cube", "episode_id": folder.name})
    mode = writer.add_topic("/mode", "prophrl_interfaces/msg/RobotMode", [OfferedQos(durability="transient_local")])
    joints = writer.add_topic("/joint_states", "sensor_msgs/msg/JointState", [OfferedQos()])
    bulk = writer.add_topic("/bulk", "std_msgs/msg/String", [OfferedQos(reliability="best_effort")])
    writer.replay(mode, b"\x00\x01\x00\x00\x07", START_NS - 10**9, START_NS)
    for k in range(count):
        stamp_ns = START_NS + k * STEP_NS
        if payload_bytes:
            text = bytes([65 + k % 26]) * payload_bytes
            data = b"\x00\x01\x00\x00" + (len(text) + 1).to_bytes(4, "little") + text + b"\x00"
            writer.write(bulk, data, stamp_ns, stamp_ns, b"camera", k)
        writer.write(joints, joint_state_cdr(k), stamp_ns + 1000, stamp_ns, b"arm", k)
    if close:
        writer.close()
    return writer


@pytest.fixture
def make_bag(tmp_path: Path) -> Callable[..., Path]:
    """``make_bag(count, name="episode", payload_bytes=0)``: a closed bag; returns its folder."""

    def make(count: int, name: str = "episode", **options: Any) -> Path:
        folder = tmp_path / name
        write_bag(folder, count, **options)
        return folder

    return make
