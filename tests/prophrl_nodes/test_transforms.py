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
from calibration.storage import Calibration, save, save_camera
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
        _, camera, _ = static[-1].transforms
        assert (camera.header.frame_id, camera.child_frame_id) == ("left_base", "left_camera_color_optical_frame")
        np.testing.assert_allclose(matrix(camera), T, atol=1e-6)


def lookup(parent: str, child: str, *messages: Any) -> np.ndarray:
    """What tf2 answers to lookup_transform(parent, child): the product along the one path up from ``child``."""
    above = {t.child_frame_id: t for message in messages for t in message.transforms}
    T = np.eye(4)
    while child != parent:
        T = matrix(above[child]) @ T
        child = above[child].header.frame_id
    return T


def test_the_camera_is_found_from_base_and_from_base_link_and_each_frame_has_one_parent(
    graph: Any, tmp_path: Path
) -> None:
    cell, calibration = a_cell(tmp_path)
    calibrate(calibration, T_BASE_CAMERA)
    graph.start("prophrl_nodes.nodes.transforms", cell=cell)
    static = graph.collect(TFMessage, "/tf_static", qos.STATE)
    graph.until(lambda: static and len(static[-1].transforms) == 3, "the static frames")
    children = [t.child_frame_id for t in static[-1].transforms]
    assert len(children) == len(set(children))
    camera = "camera_color_optical_frame"
    np.testing.assert_allclose(lookup("base", camera, static[-1]), T_BASE_CAMERA, atol=1e-8)
    # ur_description turns base against base_link by pi about z: a point at +x in one is at -x in the other.
    seen = lookup("base_link", camera, static[-1]) @ np.array([0.1, 0.2, 0.3, 1.0])
    expected = T_BASE_CAMERA @ np.array([0.1, 0.2, 0.3, 1.0])
    np.testing.assert_allclose(seen, expected * [-1.0, -1.0, 1.0, 1.0], atol=1e-8)
    forward = lookup(camera, "camera_color_frame", static[-1]) @ np.array([1.0, 0.0, 0.0, 0.0])
    left = lookup(camera, "camera_color_frame", static[-1]) @ np.array([0.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose([forward, left], [[0, 0, 1, 0], [-1, 0, 0, 0]], atol=1e-12)


def test_a_camera_on_the_tool_hangs_below_the_tcp(graph: Any, tmp_path: Path) -> None:
    cell, path = a_cell(tmp_path)
    model = PinholeCamera(212.0, 212.0, 211.5, 119.5, 424, 240)
    T_tool_camera = transform((0.03, -0.08, 0.05), Rotation.from_euler("xyz", (0.1, -0.2, 1.6)))
    save(path, Calibration.from_solution(model, "eye_in_hand", T_tool_camera, None, camera_serial="test"))
    graph.start("prophrl_nodes.nodes.transforms", cell=cell)
    static = graph.collect(TFMessage, "/tf_static", qos.STATE)
    moving = graph.collect(TFMessage, "/tf", qos.TRANSFORMS)
    graph.until(lambda: static and len(static[-1].transforms) == 3, "the static frames")
    poses = graph.node.create_publisher(PoseStamped, "tcp_pose_broadcaster/pose", qos.STREAM)
    graph.until(lambda: poses.get_subscription_count() == 1, "the node to listen")
    graph.until(lambda: moving or poses.publish(pose_stamped(T_BASE_TCP, time.time_ns(), "base")), "the TCP's frame")
    found = lookup("base_link", "camera_color_optical_frame", static[-1], moving[0])
    np.testing.assert_allclose(found, np.diag([-1.0, -1.0, 1.0, 1.0]) @ T_BASE_TCP @ T_tool_camera, atol=1e-8)


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
