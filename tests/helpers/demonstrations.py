"""Scripted demonstrations of the fast lane, as what the devices of a cell would have said: plans and genuine bags.

The lane's clock is simulated, so stamps are exact; the camera, which a replay only needs for the ticks, sees black.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import ArrayLike
from prophrl_interfaces.msg import GripperState, ServoTarget
from prophrl_nodes.messages import ARM_JOINTS, header, to_pose
from prophrl_nodes.recorder.episode import EpisodeInfo, EpisodeStore
from prophrl_nodes.recorder.writer import BagWriter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState

from robot_bridge.twin.fast_demonstration import record_demonstration
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.tasks import sample_placement

START_NS = 1_760_000_000_000_000_000
TYPES: dict[str, str] = {
    "/camera/color/image_raw": "sensor_msgs/msg/Image",
    "/joint_states": "sensor_msgs/msg/JointState",
    "/tcp_pose_broadcaster/pose": "geometry_msgs/msg/PoseStamped",
    "/gripper/state": "prophrl_interfaces/msg/GripperState",
    "/servo/target": "prophrl_interfaces/msg/ServoTarget",
}
BLACK = Image(height=240, width=424, encoding="rgb8", step=424 * 3, data=bytes(240 * 424 * 3))


class LoggedLane(FastLane):
    """A lane that notes, at each target, what arm and gripper do, and every joint target it is given."""

    def _begin_episode(self) -> None:
        self.samples: list[tuple[float, Any, Any, float, float]] = []
        self.commands: list[tuple[float, Any]] = []
        super()._begin_episode()

    def run(self, ticks: int) -> None:
        world = self.world
        self.samples.append((self.time_s, world.q.copy(), world.T_base_tcp, world.gripper_opening, self.opening_target))
        super().run(ticks)

    def offer_joints(self, q_6: ArrayLike, stamp_s: float) -> bool:
        self.commands.append((stamp_s, np.asarray(q_6, dtype=np.float64)))
        return super().offer_joints(q_6, stamp_s)


@dataclass(frozen=True)
class Demonstration:
    """One successful demonstration: what ``record_demonstration`` says, and the lane's notes."""

    said: dict[str, Any]
    samples: list[tuple[float, Any, Any, float, float]]
    commands: list[tuple[float, Any]]

    def write(self, root: Path, name: str, *, cell: str = "twin", without: str = "", placed: bool = True) -> Path:
        """Record it into ``root`` as the recorder files an accepted episode; returns the bag's folder."""
        task = self.said["placement"]["task"]
        placement = self.said["placement"] if placed else {}
        store = EpisodeStore(root, reserve_bytes=0)
        folder = store.start(EpisodeInfo(task=task, episode_id=name, cell=cell, placement=placement))
        writer = BagWriter(folder.path, name)
        topics = {topic: writer.add_topic(topic, kind) for topic, kind in TYPES.items() if topic != without}
        for stamp_ns, topic, message in sorted(self._messages(), key=lambda entry: entry[0]):
            if topic in topics:
                writer.write(topics[topic], serialize_message(message), stamp_ns + 1_000_000, stamp_ns + 1_000_000)
        writer.close()
        return store.accept(folder, "success")

    def _messages(self) -> list[tuple[int, str, Any]]:
        found: list[tuple[int, str, Any]] = []
        for count, (time_s, q, T, opening, target) in enumerate(self.samples):
            ns = START_NS + round(time_s * 1e9)
            joints = JointState(header=header(ns), name=list(ARM_JOINTS), position=q.tolist())
            found.append((ns, "/joint_states", joints))
            found.append((ns, "/tcp_pose_broadcaster/pose", PoseStamped(header=header(ns, "base"), pose=to_pose(T))))
            state = GripperState(header=header(ns), opening=float(opening), target_opening=float(target))
            found.append((ns, "/gripper/state", state))
            if count % 10 == 0:
                found.append((ns, "/camera/color/image_raw", _image(ns)))
        for time_s, q in self.commands:
            ns = START_NS + round(time_s * 1e9)
            command = ServoTarget(header=header(ns), source="teleop", mode=ServoTarget.JOINT, joint_positions=q)
            found.append((ns, "/servo/target", command))
        return found


def _image(ns: int) -> Image:
    return Image(
        header=header(ns), height=BLACK.height, width=BLACK.width, encoding=BLACK.encoding, step=BLACK.step,
        data=BLACK.data,
    )  # fmt: skip


def demonstrate(task: str, seed: int) -> Demonstration:
    """The first successful demonstration of a task from this seed on."""
    with LoggedLane(task, render=False) as lane:
        for attempt in itertools.count(seed):
            said = record_demonstration(
                task, sample_placement(task, np.random.default_rng(attempt)), attempt, lane=lane
            )
            if said["success"]:
                return Demonstration(said, list(lane.samples), list(lane.commands))
    raise AssertionError("unreachable")
