"""The frames of the cell as /tf and /tf_static tell them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from geometry_msgs.msg import PoseStamped
from prophrl_nodes import qos
from prophrl_nodes.messages import pose_stamped, to_nanoseconds
from scipy.spatial.transform import Rotation
from tf2_msgs.msg import TFMessage

from calibration.camera import PinholeCamera
from calibration.poses import from_quaternion, inverse, transform
from calibration.storage import save_camera
from robot_bridge.cell_files import find_cell

T_BASE_CAMERA = transform((-1.2, 0.1, 0.6), Rotation.from_euler("xyz", (-2.2, 0.1, 1.5)))
T_BASE_TCP = transform((-0.6, 0.1, 0.3), Rotation.from_euler("xyz", (3.1, 0.0, 1.2)))


def matrix(message: Any) -> np.ndarray:
    at, turn = message.transform.translation, message.transform.rotation
    return from_quaternion([at.x, at.y, at.z], [turn.x, turn.y, turn.z, turn.w])


def a_cell(folder: Path) -> tuple[Path, Path]:
    cell = yaml.safe_load(find_cell("twin").read_text())
    calibration = folder / "camera.yaml"
    cell["camera"]["calibration_file"] = str(calibration)
    path = folder / "cell.yaml"
    path.write_text(yaml.safe_dump(cell))
    return path, calibration


def calibrate(path: Path, T_base_camera: np.ndarray) -> None:
    save_camera(path, PinholeCamera(212.0, 212.0, 211.5, 119.5, 424, 240, inverse(T_base_camera)), serial="test")


def test_static_frames_reach_a_late_joiner_and_follow_a_new_calibration(graph: Any, tmp_path: Path) -> None:
    cell, calibration = a_cell(tmp_path)
    graph.start("prophrl_nodes.nodes.transforms", cell=cell, tf_prefix="left_")
    graph.wait_said("transforms", f"no camera frame: no camera calibration at {calibration}")
    static = graph.collect(TFMessage, "/tf_static", qos.STATE)  # joins after the publication
    first = graph.until(lambda: static and static[-1].transforms, "the static frames")
    assert [(t.header.frame_id, t.child_frame_id) for t in first] == [("left_base_link", "left_base")]
    np.testing.assert_allclose(matrix(first[0]), np.diag([-1.0, -1.0, 1.0, 1.0]), atol=1e-12)

    for T in (T_BASE_CAMERA, T_BASE_CAMERA @ transform((0.0, 0.0, 0.01))):
        count = len(static)
        calibrate(calibration, T)
        graph.until(lambda count=count: len(static) > count, "the camera's frame")
        _, camera = static[-1].transforms
        assert (camera.header.frame_id, camera.child_frame_id) == ("left_base", "left_camera_color_optical_frame")
        np.testing.assert_allclose(matrix(camera), T, atol=1e-6)


def test_the_tcp_frame_carries_the_measured_pose_and_its_stamp(graph: Any, tmp_path: Path) -> None:
    cell, _ = a_cell(tmp_path)
    graph.start("prophrl_nodes.nodes.transforms", cell=cell)
    moving = graph.collect(TFMessage, "/tf", qos.TRANSFORMS)
    poses = graph.node.create_publisher(PoseStamped, "tcp_pose_broadcaster/pose", qos.STREAM)
    graph.until(lambda: poses.get_subscription_count() == 1, "the node to listen")
    graph.until(lambda: moving or poses.publish(pose_stamped(T_BASE_TCP, time.time_ns(), "base")), "the TCP's frame")
    tcp = moving[0].transforms[0]
    assert (tcp.header.frame_id, tcp.child_frame_id) == ("base", "tcp")
    np.testing.assert_allclose(matrix(tcp), T_BASE_TCP, atol=1e-12)
    assert abs(time.time_ns() - to_nanoseconds(tcp.header.stamp)) < 60e9
