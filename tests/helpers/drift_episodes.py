"""Episodes for the drift check: the twin's arm posed and filmed, as frames or as a genuine bag of ROS messages."""

from __future__ import annotations

import array
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from prophrl_interfaces.msg import GripperState
from prophrl_nodes.drift_watch.frames import EpisodeFrames
from prophrl_nodes.messages import ARM_JOINTS, header
from prophrl_nodes.recorder.episode import EpisodeInfo, EpisodeStore
from prophrl_nodes.recorder.writer import BagWriter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState

from calibration.camera_shift import shifted
from robot_bridge.twin.render import Renderer, twin_camera
from robot_bridge.twin.tasks import sample_placement
from robot_bridge.twin.world import World

START_NS = 1_760_000_000_000_000_000
BUMP = (0.010, 0.0, 0.0, 0.0, 0.0, 0.0)
_REACHES_DEG = ((0, -90, 90, -90, -90, 0), (8, -76, 98, -112, -90, 8), (-9, -66, 92, -116, -90, -9))
_TYPES = {
    "/camera/color/image_raw": "sensor_msgs/msg/Image",
    "/joint_states": "sensor_msgs/msg/JointState",
    "/gello/joint_states": "sensor_msgs/msg/JointState",
    "/gripper/state": "prophrl_interfaces/msg/GripperState",
}


class Studio:
    """Films the arm on its way with the standing camera, or with one that was bumped."""

    def __init__(self) -> None:
        self.camera = twin_camera()
        self._world = World("place_cube", seed=1)
        self._renderer = Renderer("place_cube", 424, 240, deltas=self._world.deltas)

    def film(self, seed: int, bump_6: ArrayLike = (0.0,) * 6, count: int = 14) -> EpisodeFrames:
        """``count`` frames at 2 Hz; objects and noise by the seed."""
        rng = np.random.default_rng(seed)
        self._renderer.aim(shifted(self.camera, np.asarray(bump_6, dtype=np.float64)))
        placement, path = sample_placement("place_cube", rng), np.radians(np.array(_REACHES_DEG, dtype=np.float64))
        images, angles = [], []
        for s in np.linspace(0.0, len(path) - 1.0, count):
            q = np.array([np.interp(s, np.arange(len(path)), path[:, i]) for i in range(6)])
            self._world.reset(placement, q)
            image = self._renderer.render_color(self._world.qpos) + rng.normal(0.0, 2.0, (240, 424, 3))
            images.append(np.clip(np.rint(image), 0, 255).astype(np.uint8))
            angles.append(q)
        return EpisodeFrames(np.stack(images), np.stack(angles), np.ones(count), 0.5 * np.arange(count))

    def close(self) -> None:
        self._renderer.close()


def image_message(pixels: NDArray[np.uint8], stamp_ns: int) -> Image:
    """One rgb8 picture."""
    height, width, _ = pixels.shape
    data = array.array("B")
    data.frombytes(pixels.tobytes())
    return Image(header=header(stamp_ns), height=height, width=width, encoding="rgb8", step=3 * width, data=data)


def write_bag(root: Path, episode_id: str, frames: EpisodeFrames, calibration: Path | None) -> Path:
    """Record the episode as the recorder would: joints at 100 Hz around each picture, a leader beside them."""
    store = EpisodeStore(root, reserve_bytes=0)
    info = EpisodeInfo(
        task="place_cube",
        episode_id=episode_id,
        cell="twin",
        calibration_file="" if calibration is None else str(calibration),
    )
    folder = store.start(info)
    writer = BagWriter(folder.path, episode_id, calibration=folder.calibration)
    topics = {name: writer.add_topic(name, kind) for name, kind in _TYPES.items()}

    def put(name: str, message: object, log_ns: int) -> None:
        writer.write(topics[name], serialize_message(message), log_ns, log_ns)

    for pixels, q, opening, stamp_s in zip(
        frames.images_THW3, frames.q_T6, frames.opening_T, frames.stamp_s_T, strict=True
    ):
        stamp_ns = START_NS + round(1e9 * float(stamp_s))
        put("/gripper/state", GripperState(header=header(stamp_ns - 9_000_000), opening=float(opening)), stamp_ns)
        for late_ns in (-8_000_000, 2_000_000):
            state = JointState(header=header(stamp_ns + late_ns), name=list(ARM_JOINTS), position=q.tolist())
            put("/joint_states", state, stamp_ns + late_ns + 1_000_000)
            leader = JointState(header=header(stamp_ns + late_ns), name=list(ARM_JOINTS), position=[9.0] * 6)
            put("/gello/joint_states", leader, stamp_ns + late_ns + 1_500_000)
        put("/camera/color/image_raw", image_message(pixels, stamp_ns), stamp_ns + 30_000_000)
    writer.close()
    return store.accept(folder, "success")
