"""Synthetic recordings: what the devices of a cell would have said, as genuine ROS messages in a genuine bag.

Messages are built and serialised by rclpy and written by the recorder's own ``BagWriter``; only the clock is made up,
so that every receive time is known to the nanosecond. Frame k of the camera carries its number in its pixels.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from prophrl_interfaces.msg import GripperState, ServoStatus
from prophrl_nodes.recorder.episode import EpisodeInfo, EpisodeStore
from prophrl_nodes.recorder.writer import BagWriter
from rclpy.serialization import serialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image

COLOR = "/camera/color/image_raw"
DEPTH = "/camera/aligned_depth_to_color/image_raw"
POSE = "/tcp_pose_broadcaster/pose"
GRIPPER = "/gripper/state"
STATUS = "/servo/status"
START_NS = 1_760_000_000_000_000_000
TYPES = {
    COLOR: "sensor_msgs/msg/Image",
    DEPTH: "sensor_msgs/msg/Image",
    POSE: "geometry_msgs/msg/PoseStamped",
    GRIPPER: "prophrl_interfaces/msg/GripperState",
    STATUS: "prophrl_interfaces/msg/ServoStatus",
    "/policy/chunk": "prophrl_interfaces/msg/ActionChunk",
    "/policy/plan": "prophrl_interfaces/msg/ActionChunk",
    "/executor/status": "prophrl_interfaces/msg/ExecutorStatus",
    "/io_and_status_controller/safety_mode": "prophrl_interfaces/msg/SafetyMode",
}
LATENCY_S = {COLOR: 0.030, DEPTH: 0.032, POSE: 0.002, GRIPPER: 0.004, STATUS: 0.001}
"""From acquisition to the recorder, by topic; jitter of half as much is added."""


@dataclass(frozen=True)
class Sent:
    """One message on its way: acquisition stamp, receive time and the message itself."""

    topic: str
    stamp_ns: int
    log_ns: int
    message: Any


@dataclass(frozen=True)
class Recording:
    """Messages of one episode, in the order the recorder received them."""

    sent: tuple[Sent, ...]
    instruction: str = "place the cube in the bowl"
    task: str = "place_cube"
    outcome: str = "success"
    episode_id: str = "episode"
    note: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def without(self, condition: Callable[[Sent], bool]) -> Recording:
        """The same recording, had these messages never arrived."""
        return replace(self, sent=tuple(s for s in self.sent if not condition(s)))

    def write(self, root: Path, calibration: Path | None = None) -> Path:
        """Record into ``root`` as the recorder node does, accept the episode and return the bag's folder."""
        store = EpisodeStore(root, reserve_bytes=0)
        info = EpisodeInfo(
            task=self.task,
            instruction=self.instruction,
            operator="tester",
            episode_id=self.episode_id,
            placement={"cell": [1, 2]},
            metadata=self.metadata,
            calibration_file=str(calibration or ""),
        )
        folder = store.start(info)
        writer = BagWriter(folder.path, self.episode_id, calibration=folder.calibration)
        topics = {topic: writer.add_topic(topic, TYPES[topic]) for topic in {s.topic: None for s in self.sent}}
        for sent in self.sent:
            writer.write(topics[sent.topic], serialize_message(sent.message), sent.log_ns, sent.log_ns)
        writer.close()
        return store.accept(folder, self.outcome, self.note)


def record(
    seconds: float = 2.0,
    *,
    seed: int = 0,
    width: int = 424,
    height: int = 240,
    encoding: str = "rgb8",
    depth: bool = False,
    **said: Any,
) -> Recording:
    """A reach: half a second still, then a straight move while the gripper closes, as all devices saw it."""
    rng = np.random.default_rng(seed)
    sent = [
        *_stream(COLOR, 30.0, seconds, rng, lambda t, k: color_image(k, width, height, encoding)),
        *_stream(POSE, 125.0, seconds, rng, lambda t, k: pose_message(t)),
        *_stream(GRIPPER, 50.0, seconds, rng, lambda t, k: gripper_message(t)),
        *_stream(STATUS, 20.0, seconds, rng, lambda t, k: ServoStatus(state=ServoStatus.FOLLOWING, clamped=k)),
    ]
    if depth:
        sent += _stream(DEPTH, 30.0, seconds, rng, lambda t, k: depth_image(width, height))
    return Recording(tuple(sorted(sent, key=lambda s: s.log_ns)), **said)


def color_image(number: int, width: int, height: int, encoding: str = "rgb8") -> Image:
    """A shaded image whose central pixels hold ``number`` in their red channel (modulo 256)."""
    y, x = np.mgrid[0:height, 0:width]
    channels = 4 if encoding.endswith("a8") else 3
    rgb = np.full((height, width, channels), 255, np.uint8)
    rgb[..., 0] = number % 256
    rgb[..., 1] = (x + number) % 256
    rgb[..., 2] = y % 256
    if encoding.startswith("bgr"):
        rgb[..., :3] = rgb[..., 2::-1].copy()
    data = array.array("B")
    data.frombytes(rgb.tobytes())
    return Image(height=height, width=width, encoding=encoding, step=width * channels, data=data)


def depth_image(width: int, height: int) -> Image:
    data = array.array("B")
    data.frombytes(np.full((height, width), 800, np.uint16).tobytes())
    return Image(height=height, width=width, encoding="16UC1", step=width * 2, data=data)


def progress(time_s: float) -> float:
    """How far the reach has come, 0..1."""
    return float(np.clip((time_s - 0.5) / 1.0, 0.0, 1.0))


def pose_message(time_s: float) -> PoseStamped:
    """Tool pointing down, moving 0.15 m; its roll crosses pi, where Euler angles wrap."""
    s = progress(time_s)
    message = PoseStamped()
    message.header.frame_id = "base"
    p, q = message.pose.position, message.pose.orientation
    p.x, p.y, p.z = -0.6, -0.1 + 0.15 * s, 0.3 - 0.1 * s
    q.x, q.y, q.z, q.w = Rotation.from_euler("xyz", [np.pi - 0.05 + 0.1 * s, 0.02, 1.4 + 0.3 * s]).as_quat()
    return message


def gripper_message(time_s: float) -> GripperState:
    """Commanded shut at 1 s, shut at 1.4 s."""
    opening = 1.0 - float(np.clip((time_s - 1.0) / 0.4, 0.0, 0.7))
    return GripperState(opening=opening, target_opening=0.2 if time_s >= 1.0 else 1.0)


def _stream(
    topic: str, rate_hz: float, seconds: float, rng: np.random.Generator, make: Callable[[float, int], Any]
) -> Iterator[Sent]:
    phase_s = float(rng.uniform(0.0, 1.0 / rate_hz))
    log_ns = 0
    for k in range(int(seconds * rate_hz)):
        time_s = phase_s + k / rate_hz + float(rng.normal(0.0, 0.05 / rate_hz))
        message = make(time_s, k)
        stamp_ns = START_NS + round(time_s * 1e9)
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        delay_s = LATENCY_S[topic] * (1.0 + 0.5 * float(rng.uniform()))
        log_ns = max(stamp_ns + round(delay_s * 1e9), log_ns + 1)  # one connection never reorders its messages
        yield Sent(topic, stamp_ns, log_ns, message)
