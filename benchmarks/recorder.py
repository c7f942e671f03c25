#!/usr/bin/env python3
"""The recorder next to one that deserialises, on the same publishers at the same time; and what its writer sustains.

Both recorders write the same bags; the other one subscribes in the usual way and serialises each message again.
"""

from __future__ import annotations

import argparse
import array
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from prophrl_nodes.environment import ros_environment

COLOR, DEPTH, JOINTS = "benchmark/color", "benchmark/depth", "benchmark/joints"
CAMERA_HZ = 30.0
SETTLE_S = 1.5
SIZES = {"the cell: 424x240 colour and depth, joints at 125 Hz": (424, 240, 125.0),
         "four times that: 848x480, joints at 500 Hz": (848, 480, 500.0)}  # fmt: skip


def publish(width: int, height: int, joints_hz: float, seconds: float) -> dict[str, Any]:
    """Camera and arm in one process: how much was sent."""
    import rclpy
    from prophrl_nodes.messages import to_stamp
    from prophrl_nodes.qos import IMAGE_SOURCE, STREAM
    from sensor_msgs.msg import Image, JointState

    rclpy.init()
    node = rclpy.create_node("benchmark_devices")
    images = [(node.create_publisher(Image, COLOR, IMAGE_SOURCE), "rgb8", 3)]
    images += [(node.create_publisher(Image, DEPTH, IMAGE_SOURCE), "16UC1", 2)]
    arm = node.create_publisher(JointState, JOINTS, STREAM)
    messages = []
    for publisher, encoding, size in images:
        message = Image(height=height, width=width, encoding=encoding, step=size * width)
        message.data = array.array("B", np.random.default_rng(0).bytes(width * height * size))
        messages.append((publisher, message))
    state = JointState(name=[f"joint_{i}" for i in range(6)], position=[0.0] * 6, velocity=[0.0] * 6)
    while min(p.get_subscription_count() for p in (arm, *(p for p, _ in messages))) < 2:
        time.sleep(0.05)
    time.sleep(SETTLE_S)
    begin, frames, ticks = time.perf_counter(), 0, 0
    while (now := time.perf_counter() - begin) < seconds:
        if now >= frames / CAMERA_HZ:
            for publisher, message in messages:
                message.header.stamp = to_stamp(time.time_ns())
                publisher.publish(message)
            frames += 1
        if now >= ticks / joints_hz:
            state.header.stamp = to_stamp(time.time_ns())
            arm.publish(state)
            ticks += 1
        due = min(frames / CAMERA_HZ, ticks / joints_hz)
        time.sleep(max(0.0, due - (time.perf_counter() - begin)))
    time.sleep(SETTLE_S)
    rclpy.shutdown()
    return {"sent": 2 * frames + ticks, "bytes": frames * width * height * 5}


def record(mode: str, folder: Path, seconds: float) -> dict[str, Any]:
    """One recorder process: processor time while messages came, and how many it kept."""
    import rclpy
    from prophrl_nodes.executors import make_executor, spin
    from prophrl_nodes.qos import RECORD
    from prophrl_nodes.recorder.feeds import Arrival, TopicFeed
    from prophrl_nodes.recorder.writer import BagTopic, BagWriter
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Image, JointState

    rclpy.init()
    node = rclpy.create_node(f"benchmark_{mode}")
    writer = BagWriter(folder, mode)
    types = {COLOR: Image, DEPTH: Image, JOINTS: JointState}
    names = {Image: "sensor_msgs/msg/Image", JointState: "sensor_msgs/msg/JointState"}
    topics = {f"/{name}": writer.add_topic(f"/{name}", names[kind]) for name, kind in types.items()}
    span: list[tuple[float, float]] = []  # wall and processor time of the first and the newest message

    def keep(topic: BagTopic, data: bytes, log_ns: int, sequence: int | None) -> None:
        writer.write(topic, data, log_ns, log_ns, b"", sequence)
        span[1:] = [(time.perf_counter(), cpu_seconds())]
        span[:0] = span if len(span) == 1 else []

    def on_arrival(feed: TopicFeed, arrival: Arrival) -> None:
        keep(topics[feed.name], arrival.data, arrival.log_ns, arrival.sequence)

    def on_message(topic: BagTopic) -> Callable[[Any], None]:
        return lambda message: keep(topic, serialize_message(message), time.time_ns(), None)

    feeds: list[TopicFeed] = []
    if mode == "raw":
        feeds = [TopicFeed(node, name, on_arrival, depth=RECORD.depth) for name in types]
        node.create_timer(0.25, lambda: [feed.watch() for feed in feeds])
    else:
        for name, kind in types.items():
            node.create_subscription(kind, name, on_message(topics[f"/{name}"]), RECORD)
    executor = make_executor()
    executor.add_node(node)
    deadline = time.monotonic() + seconds + 30.0
    spin(executor, lambda: time.monotonic() > deadline or bool(span and time.perf_counter() - span[-1][0] > SETTLE_S))
    writer.close()
    rclpy.shutdown()
    wall_s, cpu_s = (span[-1][i] - span[0][i] for i in (0, 1))
    return {"cpu_percent": 100.0 * cpu_s / wall_s, "kept": writer.messages}


def cpu_seconds() -> float:
    """Processor time of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def side_by_side(width: int, height: int, joints_hz: float, seconds: float, domain: int, folder: Path) -> None:
    """Run publisher and both recorders at once and print how they compare."""
    environment = ros_environment(domain)
    numbers = [str(x) for x in (width, height, joints_hz, seconds)]
    roles = {}
    for role in ("raw", "deserialising", "publish"):
        (folder / role).mkdir()
        command = [sys.executable, __file__, "--role", role, "--folder", str(folder / role), "--load", *numbers]
        roles[role] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    said = {role: json.loads(process.communicate(timeout=180)[0].splitlines()[-1]) for role, process in roles.items()}
    sent = said["publish"]["sent"]
    for role in ("raw", "deserialising"):
        cpu, lost = said[role]["cpu_percent"], sent - said[role]["kept"]
        print(f"  {role:<15}{cpu:6.1f} % of a core, {lost} of {sent} messages lost")
    ratio = said["deserialising"]["cpu_percent"] / said["raw"]["cpu_percent"]
    print(f"  {said['publish']['bytes'] / 1e6 / seconds:.0f} MB/s; deserialising costs {ratio:.1f} times as much")


def sustained(folder: Path, megabytes: int, rounds: int) -> None:
    """What the writer takes per second: as recorded, compressed, and with every message decoded and encoded."""
    from mcap.writer import CompressionType
    from prophrl_nodes.recorder.writer import BagWriter
    from rclpy.serialization import deserialize_message, serialize_message
    from sensor_msgs.msg import Image

    rng = np.random.default_rng(0)
    picture = np.repeat(np.repeat(rng.integers(0, 255, (30, 53, 3), dtype=np.uint8), 8, axis=0), 8, axis=1)
    frames = []
    for _ in range(32):  # more than zstd looks back over
        noisy = picture + rng.integers(0, 6, picture.shape, dtype=np.uint8)
        message = Image(height=240, width=424, encoding="rgb8", step=424 * 3)
        message.data = array.array("B", noisy.tobytes())
        frames.append(serialize_message(message))
    kinds: dict[str, tuple[CompressionType, Callable[[bytes], bytes]]] = {
        "raw": (CompressionType.NONE, lambda cdr: cdr),
        "deserialising": (CompressionType.NONE, lambda cdr: serialize_message(deserialize_message(cdr, Image))),
        "zstd": (CompressionType.ZSTD, lambda cdr: cdr),
    }
    speeds: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds):
        for name, (compression, prepare) in kinds.items():
            begin = time.perf_counter()
            target = folder / f"{name}{number}"
            target.mkdir()
            writer = BagWriter(target, name, compression=compression)
            topic = writer.add_topic("/image", "sensor_msgs/msg/Image")
            for k in range(megabytes * 1_000_000 // len(frames[0])):
                writer.write(topic, prepare(frames[k % len(frames)]), k + 1, k + 1, b"", k)
            writer.close()  # on the disk, not only in the kernel
            speeds[name].append(megabytes / (time.perf_counter() - begin))
            shutil.rmtree(target)
    medians = {name: float(np.median(values)) for name, values in speeds.items()}
    for name, value in medians.items():
        ratio = "" if name == "raw" else f", raw is {medians['raw'] / value:.1f} times as fast"
        print(f"  {name:<15}{value:6.0f} MB/s to the disk{ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of recording, per load")
    parser.add_argument("--megabytes", type=int, default=300, help="per round of the writer's part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--domain", type=int, default=int(os.environ.get("ROS_DOMAIN_ID", "0")))
    parser.add_argument("--role", choices=("publish", "raw", "deserialising"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: a temporary folder here)")
    parser.add_argument("--load", type=float, nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        width, height, joints_hz, seconds = options.load
        if options.role == "publish":
            print(json.dumps(publish(int(width), int(height), joints_hz, seconds)))
        else:
            print(json.dumps(record(options.role, options.folder, seconds)))
        return
    for name, (width, height, joints_hz) in SIZES.items():
        print(f"recorders side by side, {name}")
        with tempfile.TemporaryDirectory(dir=options.folder or Path.cwd()) as folder:
            side_by_side(width, height, joints_hz, options.seconds, options.domain, Path(folder))
    print("the writer alone, median of rounds run in turn")
    with tempfile.TemporaryDirectory(dir=options.folder or Path.cwd()) as folder:
        sustained(Path(folder), options.megabytes, options.rounds)


if __name__ == "__main__":
    main()
