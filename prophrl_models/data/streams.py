"""Which topics a policy input is made of, and how one message of each becomes one sample.

The live node and the bag converter both come through here, so a sample cannot mean two things. Messages are
duck-typed: anything with the fields of the ROS type serves, be it from rclpy or decoded from a bag.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from calibration.poses import Array, from_quaternion
from prophrl_models.data.cdr import depth_image, parse_image, rgb_image
from prophrl_models.data.image import Depth, Image

COLOR, TCP_POSE, GRIPPER = "color", "tcp_pose", "gripper"
STREAMS = (COLOR, TCP_POSE, GRIPPER)
"""The three streams of a policy input, by the names ``Synchroniser.push`` knows."""
DEPTH = "depth"
"""A fourth stream that no policy sees; datasets carry it on request (``prophrl_models.data.depth``)."""


@dataclass(frozen=True)
class Topics:
    """Relative topic names; a bag may carry them under any namespace."""

    color: str = "camera/color/image_raw"
    tcp_pose: str = "tcp_pose_broadcaster/pose"
    gripper: str = "gripper/state"
    servo_status: str = "servo/status"
    camera_info: str = "camera/color/camera_info"
    depth: str = "camera/aligned_depth_to_color/image_raw"

    def of_streams(self) -> dict[str, str]:
        return {COLOR: self.color, TCP_POSE: self.tcp_pose, GRIPPER: self.gripper}


class TopicError(ValueError):
    """A topic is absent or ambiguous; the message lists what is there."""


def resolve_topic(name: str, available: Collection[str]) -> str:
    """The one available topic that is ``name`` under some namespace ("" included).

    Raises:
        TopicError: none or several match.
    """
    matches = sorted(topic for topic in available if f"/{topic.lstrip('/')}".endswith(f"/{name.lstrip('/')}"))
    if len(matches) == 1:
        return matches[0]
    listed = ", ".join(sorted(available)) or "no topic at all"
    if not matches:
        raise TopicError(f"topic {name!r} is missing; there is {listed}. Was its device node running?")
    raise TopicError(f"topic {name!r} is ambiguous: {', '.join(matches)}; name the namespace of the cell you mean")


def stamp_ns(message: Any) -> int:
    """Nanoseconds of ``message.header.stamp``."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def color_sample(cdr: bytes | bytearray | memoryview) -> tuple[int, Image]:
    """Stamp and RGB view [H, W, 3] of a serialised sensor_msgs/Image; pixels are not copied.

    Raises:
        ImageError: damaged bytes or an encoding without colour.
    """
    raw = parse_image(cdr)
    return raw.stamp_ns, rgb_image(raw.height, raw.width, raw.encoding, raw.step, raw.data)


def depth_sample(cdr: bytes | bytearray | memoryview) -> tuple[int, Depth]:
    """Stamp and depth [H, W] uint16 in millimetres of a serialised sensor_msgs/Image.

    Raises:
        ImageError: damaged bytes or another encoding than 16-bit depth.
    """
    raw = parse_image(cdr)
    return raw.stamp_ns, depth_image(raw)


def pose_sample(message: Any) -> tuple[int, Array]:
    """Stamp and ``T_base_tcp`` [4, 4] of a geometry_msgs/PoseStamped in the controller's base frame.

    Raises:
        ValueError: another frame than ``base`` (a tf_prefix before it is fine), or a zero quaternion.
    """
    frame = str(message.header.frame_id)
    if not frame.endswith("base"):
        raise ValueError(
            f"TCP pose is given in frame {frame!r}, expected 'base' (the UR controller's base frame; "
            "base_link differs from it by half a turn about z)"
        )
    p, q = message.pose.position, message.pose.orientation
    return stamp_ns(message), from_quaternion([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])


def gripper_sample(message: Any) -> tuple[int, tuple[float, float]]:
    """Stamp and (measured opening, commanded opening) of a prophrl_interfaces/GripperState."""
    return stamp_ns(message), (float(message.opening), float(message.target_opening))
