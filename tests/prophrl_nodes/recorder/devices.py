"""Publishers that play the devices of a cell, run as a process: ``devices.py TOPIC=RATE[,best_effort] ...``.

Every message carries its number: joint states in position[0], images in their first eight bytes. Topics called
``mode*`` are state: published once (RATE 0), TRANSIENT_LOCAL.
"""

from __future__ import annotations

import array
import sys
import time
from itertools import takewhile

from prophrl_nodes.environment import ensure_environment

ensure_environment()

import rclpy  # noqa: E402
from prophrl_interfaces.msg import RobotMode  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402


def main() -> None:
    rclpy.init(args=sys.argv)
    node = rclpy.create_node("devices")
    streams = []
    for argument in takewhile(lambda a: a != "--ros-args", sys.argv[1:]):
        topic, _, settings = argument.partition("=")
        rate_hz, *options = settings.split(",")
        reliability = ReliabilityPolicy.BEST_EFFORT if "best_effort" in options else ReliabilityPolicy.RELIABLE
        if "mode" in topic:
            qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            node.create_publisher(RobotMode, topic, qos).publish(RobotMode(mode=int(rate_hz)))
            continue
        kind = JointState if "joint" in topic else Image
        publisher = node.create_publisher(kind, topic, QoSProfile(depth=20, reliability=reliability))
        streams.append((publisher, kind, 1.0 / float(rate_hz)))
    begin = time.monotonic()
    counts = [0] * len(streams)
    while rclpy.ok():
        now = time.monotonic() - begin
        for i, (publisher, kind, period_s) in enumerate(streams):
            if now >= counts[i] * period_s:
                publisher.publish(message(kind, counts[i]))
                counts[i] += 1
        due = [count * period_s for count, (_, _, period_s) in zip(counts, streams, strict=True)]
        time.sleep(max(0.0, min(due, default=now + 0.1) - (time.monotonic() - begin)))


def message(kind: type, number: int) -> object:
    stamp_ns = time.time_ns()
    if kind is JointState:
        filled: JointState | Image = JointState(name=["a"], position=[float(number)])
    else:
        filled = Image(height=240, width=424, encoding="rgb8", step=424 * 3)
        filled.data = array.array("B", number.to_bytes(8, "little") + bytes(240 * 424 * 3 - 8))
    filled.header.stamp.sec, filled.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return filled


if __name__ == "__main__":
    main()
