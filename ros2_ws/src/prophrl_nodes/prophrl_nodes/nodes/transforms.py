"""Publishes the cell's frames: /tf_static (base_link -> base, base or tcp -> camera) and /tf (base -> tcp).

``base`` is the UR controller's frame, in which all our poses are given; ``base_link`` is REP-103's, the same turned by
pi about z. The camera stands where the cell's calibration file says: fixed in base, or on the tool. Its frames bear
realsense-ros's names; ``camera_link`` is not among them, because its offset from the colour sensor is no result of
hand-eye calibration. ``tf_prefix`` goes before every frame name.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from geometry_msgs.msg import PoseStamped, TransformStamped, Vector3
from scipy.spatial.transform import Rotation
from tf2_msgs.msg import TFMessage

from calibration.poses import Array, transform
from calibration.storage import CameraCalibration
from prophrl_nodes import qos
from prophrl_nodes.camera_file import CameraFile
from prophrl_nodes.messages import CAMERA_BODY_FRAME, CAMERA_FRAME, header, to_nanoseconds, transform_stamped
from prophrl_nodes.ros import CELL_PARAMETERS, Health, Level, ParameterSpec, ProphNode, RateMeter, Value, run
from robot_bridge.cell_files import open_cell

T_BASE_LINK_BASE = transform((0.0, 0.0, 0.0), Rotation.from_euler("z", math.pi))
T_OPTICAL_BODY = transform((0.0, 0.0, 0.0), Rotation.from_matrix([[0, -1, 0], [0, 0, -1], [1, 0, 0]]))
"""Body axes (x forward, y left, z up) in the optical frame (x right, y down, z forward)."""

PARAMETERS = (*CELL_PARAMETERS, ParameterSpec("tf_prefix", "", "put before every frame name, for several cells"))


def static_frames(calibration: CameraCalibration | None) -> list[tuple[str, str, Array]]:
    """Parent, child and ``T_parent_child`` [4, 4] of every frame that does not move against its parent."""
    frames = [("base_link", "base", T_BASE_LINK_BASE)]
    if calibration is not None:
        if calibration.T_tool_camera is None:
            frames.append(("base", CAMERA_FRAME, calibration.camera.T_base_camera))
        else:
            frames.append(("tcp", CAMERA_FRAME, calibration.T_tool_camera))
        frames.append((CAMERA_FRAME, CAMERA_BODY_FRAME, T_OPTICAL_BODY))
    return frames


class TransformsNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("transforms", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Find the calibration file and connect the topics."""
        self._camera_file = CameraFile(open_cell(self.value("cell"), self.value("host")))
        self._prefix = self.value("tf_prefix")
        self._poses = RateMeter()
        self._static = self.publisher(TFMessage, "/tf_static", qos.STATE)
        self._moving = self.publisher(TFMessage, "/tf", qos.TRANSFORMS)
        self.subscribe(PoseStamped, "tcp_pose_broadcaster/pose", self._on_pose, qos.STREAM)
        self.timer(1.0, self._watch_calibration)

    def start(self) -> None:
        """Publish the fixed frames."""
        self._camera_file.reload_if_changed()
        self._publish_static()

    def health(self) -> Health:
        """Which frames are known, and from what."""
        now_s = time.monotonic()
        values: dict[str, Value] = {
            "calibration_file": str(self._camera_file.path),
            "calibration_id": self._camera_file.calibration_id,
            "tcp_rate_hz": self._poses.rate_hz(now_s),
            "tcp_age_s": self._poses.age_s(now_s),
        }
        if self._camera_file.problem:
            return Health(Level.WARN, f"no camera frame: {self._camera_file.problem}", values)
        if self._poses.age_s(now_s) > 0.5:
            return Health(Level.WARN, "no TCP pose: start the arm node, or see what it says here", values)
        return Health(Level.OK, "publishing the frames of base, camera and tcp", values)

    def _watch_calibration(self) -> None:
        if self._camera_file.reload_if_changed():
            self._publish_static()

    def _publish_static(self) -> None:
        now_ns = time.time_ns()
        transforms = [
            transform_stamped(T, now_ns, f"{self._prefix}{parent}", f"{self._prefix}{child}")
            for parent, child, T in static_frames(self._camera_file.calibration)
        ]
        self._static.publish(TFMessage(transforms=transforms))

    def _on_pose(self, message: PoseStamped) -> None:
        self._poses.tick(time.monotonic())
        at = message.pose.position
        moving = TransformStamped(
            header=header(to_nanoseconds(message.header.stamp), f"{self._prefix}base"),
            child_frame_id=f"{self._prefix}tcp",
        )
        moving.transform.translation = Vector3(x=at.x, y=at.y, z=at.z)
        moving.transform.rotation = message.pose.orientation
        self._moving.publish(TFMessage(transforms=[moving]))


def main() -> None:
    """Entry point of the executable ``transforms``."""
    sys.exit(run(TransformsNode))


if __name__ == "__main__":
    main()
