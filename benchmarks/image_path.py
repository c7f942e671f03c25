#!/usr/bin/env python3
"""Camera to subscriber: our image path next to the plain rclpy way, in one run, two processes each.

Latency counts from the stamp taken before the message is built to a numpy view of the pixels in the subscriber.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
from prophrl_nodes.environment import ros_environment

TOPIC = "benchmark/image"
RATE_HZ = 30.0


def publish(mode: str, width: int, height: int, count: int) -> None:
    """Publisher process: one image each 1/30 s, built the plain way or ours."""
    import rclpy
    from prophrl_nodes.images import ImageMessage
    from prophrl_nodes.messages import to_stamp
    from prophrl_nodes.qos import IMAGE_SOURCE
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("benchmark_publisher")
    publisher = node.create_publisher(Image, TOPIC, IMAGE_SOURCE if mode == "ours" else 10)
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    built = ImageMessage(height, width, "rgb8", "camera")
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    time.sleep(0.5)
    start, used = time.perf_counter(), cpu_seconds()
    for index in range(count):
        time.sleep(max(0.0, start + index / RATE_HZ - time.perf_counter()))
        stamp_ns = time.time_ns()
        if mode == "ours":
            message = built.fill(image, stamp_ns)
        else:
            message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
            message.header.stamp = to_stamp(stamp_ns)
            message.data = image.tobytes()
        publisher.publish(message)
    print(json.dumps({"cpu_percent": 100 * (cpu_seconds() - used) / (time.perf_counter() - start)}))
    time.sleep(0.5)
    rclpy.shutdown()


def subscribe(mode: str, count: int) -> None:
    """Subscriber process: latency of each frame until its pixels can be read."""
    import rclpy
    from prophrl_nodes.executors import make_executor, spin
    from prophrl_nodes.messages import to_nanoseconds
    from prophrl_nodes.qos import IMAGE_LATEST
    from sensor_msgs.msg import Image

    from prophrl_models.data.cdr import parse_image

    rclpy.init()
    node = rclpy.create_node("benchmark_subscriber")
    latencies_s: list[float] = []

    def on_message(message: Image) -> None:
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        pixels[0, 0]
        latencies_s.append((time.time_ns() - to_nanoseconds(message.header.stamp)) * 1e-9)

    def on_bytes(data: bytes) -> None:
        image = parse_image(data)
        image.data[0]
        latencies_s.append((time.time_ns() - image.stamp_ns) * 1e-9)

    deadline = time.monotonic() + count / RATE_HZ + 8.0
    used, start = cpu_seconds(), time.perf_counter()
    if mode == "ours":
        node.create_subscription(Image, TOPIC, on_bytes, IMAGE_LATEST, raw=True)
        executor = make_executor()
        executor.add_node(node)
        spin(executor, lambda: len(latencies_s) >= count - 1 or time.monotonic() > deadline)
    else:
        node.create_subscription(Image, TOPIC, on_message, 10)
        while len(latencies_s) < count - 1 and time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.2)
    cpu_percent = 100 * (cpu_seconds() - used) / (time.perf_counter() - start)
    print(json.dumps({"latencies_s": latencies_s, "cpu_percent": cpu_percent}))
    rclpy.shutdown()


def cpu_seconds() -> float:
    """Processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def plain_environment() -> dict[str, str]:
    """What a user has who installed ROS 2 and tuned nothing."""
    tuned = ros_environment()
    added = {name for name in tuned if name.startswith(("FASTDDS_", "FASTRTPS_", "MALLOC_"))}
    return {name: value for name, value in tuned.items() if name not in added}


def measure(mode: str, width: int, height: int, count: int, domain: int) -> dict[str, float]:
    """One publisher and one subscriber process; latency percentiles in ms, frames lost, CPU in percent of a core."""
    environment = ros_environment() if mode == "ours" else plain_environment()
    environment["ROS_DOMAIN_ID"] = str(domain)
    sizes = ["--width", str(width), "--height", str(height), "--count", str(count), "--mode", mode]
    roles = [
        subprocess.Popen([sys.executable, __file__, "--role", role, *sizes], env=environment, stdout=subprocess.PIPE)
        for role in ("subscribe", "publish")
    ]
    subscriber, publisher = (json.loads(process.communicate(timeout=120)[0]) for process in roles)
    latencies_ms = np.array(subscriber["latencies_s"]) * 1e3
    return {
        "p50_ms": float(np.percentile(latencies_ms, 50)),
        "p99_ms": float(np.percentile(latencies_ms, 99)),
        "lost": count - len(latencies_ms),
        "publisher_cpu_percent": publisher["cpu_percent"],
        "subscriber_cpu_percent": subscriber["cpu_percent"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=("publish", "subscribe"))
    parser.add_argument("--mode", choices=("ours", "plain"), default="ours")
    parser.add_argument("--width", type=int, default=848)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--count", type=int, default=240)
    arguments = parser.parse_args()
    if arguments.role == "publish":
        publish(arguments.mode, arguments.width, arguments.height, arguments.count)
        return
    if arguments.role == "subscribe":
        subscribe(arguments.mode, arguments.count)
        return
    print(f"{os.cpu_count()} cores; {arguments.count} frames at {RATE_HZ:.0f} Hz")
    print(f"{'image':>10} {'way':>6} {'p50 ms':>7} {'p99 ms':>7} {'lost':>5} {'pub CPU %':>9} {'sub CPU %':>9}")
    for width, height in ((424, 240), (848, 480)):
        rows = {mode: measure(mode, width, height, arguments.count, 180) for mode in ("plain", "ours")}
        for mode, row in rows.items():
            print(
                f"{width}x{height:>4} {mode:>8} {row['p50_ms']:7.2f} {row['p99_ms']:7.2f} {row['lost']:5.0f} "
                f"{row['publisher_cpu_percent']:9.1f} {row['subscriber_cpu_percent']:9.1f}"
            )
        print(
            f"  plain / ours: latency p50 {rows['plain']['p50_ms'] / rows['ours']['p50_ms']:.1f}x, "
            f"p99 {rows['plain']['p99_ms'] / rows['ours']['p99_ms']:.1f}x, subscriber CPU "
            f"{rows['plain']['subscriber_cpu_percent'] / rows['ours']['subscriber_cpu_percent']:.1f}x"
        )


if __name__ == "__main__":
    main()
