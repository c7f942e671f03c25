"""Hears pictures, joints and gripper for the length of one episode, and costs nothing between two.

It has a ROS node and an executor of its own: a subscription must not be destroyed while the executor that serves it is
running (events of it may be waiting there), so here the executor is ended first.
"""

from __future__ import annotations

import threading

from prophrl_interfaces.msg import GripperState
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from prophrl_models.data.cdr import ImageError
from prophrl_models.data.streams import gripper_sample, stamp_ns
from prophrl_nodes import qos
from prophrl_nodes.drift_watch.frames import EpisodeFrames, FrameKeeper
from prophrl_nodes.executors import make_executor, spin
from prophrl_nodes.messages import ARM_JOINTS, joint_positions


class EpisodeListener:
    """Listens from its construction until ``close``.

    Attributes:
        problem: why messages could not be used; empty when all was well.
    """

    def __init__(self, beside: Node, frames: int) -> None:
        """Listen in the namespace of a node, to keep this many frames."""
        self.problem = ""
        self._keeper = FrameKeeper(frames)
        self._lock = threading.Lock()
        self._closing = False
        self._node = Node(
            f"{beside.get_name()}_listener",
            context=beside.context,
            namespace=beside.get_namespace(),
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._node.create_subscription(Image, "camera/color/image_raw", self._on_image, qos.IMAGE_LATEST, raw=True)
        self._node.create_subscription(JointState, "joint_states", self._on_joints, qos.STREAM)
        self._node.create_subscription(GripperState, "gripper/state", self._on_gripper, qos.STREAM)
        self._executor = make_executor(beside.context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._listen, name="drift-listener", daemon=True)
        self._thread.start()

    def frames(self) -> EpisodeFrames | None:
        """What was kept so far."""
        with self._lock:
            return self._keeper.frames()

    def close(self) -> None:
        """Stop listening; ``frames`` stays available."""
        if self._closing:
            return
        self._closing = True
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()

    def _listen(self) -> None:
        try:
            spin(self._executor, lambda: self._closing)
        except ExternalShutdownException:
            return  # the process is ending

    def _on_image(self, cdr: bytes) -> None:
        with self._lock:
            try:
                self._keeper.image(cdr)
            except ImageError as error:
                self.problem = str(error)

    def _on_joints(self, message: JointState) -> None:
        with self._lock:
            try:
                self._keeper.joints(stamp_ns(message), joint_positions(message, ARM_JOINTS))
            except ValueError as error:
                self.problem = str(error)

    def _on_gripper(self, message: GripperState) -> None:
        stamp, (opening, _) = gripper_sample(message)
        with self._lock:
            self._keeper.gripper(stamp, opening)
