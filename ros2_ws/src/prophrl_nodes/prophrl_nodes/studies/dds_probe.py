"""Measures images between two processes over DDS, in a domain of its own; prints median, worst (ms), received, sent.

python -m prophrl_nodes.studies.dds_probe
"""

from __future__ import annotations

import array
import os
import subprocess
import sys
import time

from prophrl_nodes.environment import ensure_environment

FRAMES = 30
RATE_HZ = 30.0
WIDTH, HEIGHT = 424, 240
DOMAIN = 101  # the last one whose ports are always free; nobody works there


def main() -> int:
    """Receive what a second process publishes."""
    os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
    ensure_environment()
    if sys.argv[1:] == ["publish"]:
        return _publish()
    import rclpy
    from sensor_msgs.msg import Image

    from prophrl_nodes.qos import RECORD

    rclpy.init()
    node = rclpy.create_node("probe")
    late_ms: list[float] = []

    def receive(message: Image) -> None:
        sent_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        late_ms.append((time.time_ns() - sent_ns) / 1e6)

    node.create_subscription(Image, "probe", receive, RECORD)
    publisher = subprocess.Popen([sys.executable, "-m", "prophrl_nodes.studies.dds_probe", "publish"])
    try:
        deadline_s = time.monotonic() + 15.0
        while len(late_ms) < FRAMES and publisher.poll() is None and time.monotonic() < deadline_s:
            rclpy.spin_once(node, timeout_sec=0.1)
    finally:
        publisher.terminate()
        publisher.wait(10.0)
        node.destroy_node()
        rclpy.shutdown()
    if not late_ms:
        print("the second process was not discovered, or nothing it sent arrived", file=sys.stderr)
        return 1
    ordered = sorted(late_ms)
    print(ordered[len(ordered) // 2], ordered[-1], len(ordered), FRAMES)
    return 0


def _publish() -> int:
    """Wait for the subscriber, then publish."""
    import rclpy
    from sensor_msgs.msg import Image

    from prophrl_nodes.qos import IMAGE_SOURCE

    rclpy.init()
    node = rclpy.create_node("probe_publisher")
    publisher = node.create_publisher(Image, "probe", IMAGE_SOURCE)
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=WIDTH * 3)
    message.data = array.array("B", bytes(WIDTH * HEIGHT * 3))
    deadline_s = time.monotonic() + 10.0
    while publisher.get_subscription_count() == 0 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    time.sleep(0.1)  # both directions of the match
    for _ in range(FRAMES):
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(time.time_ns(), 10**9)
        publisher.publish(message)
        time.sleep(1.0 / RATE_HZ)
    time.sleep(1.0)
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
