"""The overlay node as a process: pictures in, pictures with action frames out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from prophrl_interfaces.msg import ActionChunk, GripperState
from prophrl_nodes import qos
from prophrl_nodes.images import ImageMessage
from prophrl_nodes.messages import header, pose_stamped, to_pose
from prophrl_nodes.overlay_scene import STEP_STYLE
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image

from calibration.action_frame import draw_over, project_action_frames, render_action_frames
from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, inverse, transform
from calibration.storage import load_camera, save_camera
from prophrl_models.data.cdr import parse_image, rgb_image
from robot_bridge.cell_files import find_cell

T_BASE_CAMERA = transform((-1.2, 0.0, 0.65), Rotation.from_euler("xyz", (-2.356, 0.0, -1.571)))
T_BASE_TCP = transform((-0.6, 0.05, 0.2), Rotation.from_euler("xyz", (3.0, 0.1, 0.4)))
CAMERA = PinholeCamera(212.0, 212.0, 211.5, 119.5, 424, 240, inverse(T_BASE_CAMERA))
PICTURE = np.random.default_rng(0).integers(0, 256, (240, 424, 3), np.uint8)


class Cell:
    """Plays camera, arm, gripper and policy around the overlay node, and looks at what it shows."""

    def __init__(self, graph: Any, folder: Path) -> None:
        self.graph = graph
        cell = yaml.safe_load(find_cell("twin").read_text())
        self.calibration = folder / "camera.yaml"
        cell["camera"]["calibration_file"] = str(self.calibration)
        path = folder / "cell.yaml"
        path.write_text(yaml.safe_dump(cell))
        graph.start("prophrl_nodes.nodes.overlay", cell=path, rate_hz=30.0)
        create = graph.node.create_publisher
        self.images = create(Image, "camera/color/image_raw", qos.IMAGE_SOURCE)
        self.poses = create(PoseStamped, "tcp_pose_broadcaster/pose", qos.STREAM)
        self.openings = create(GripperState, "gripper/state", qos.STREAM)
        self.chunks = create(ActionChunk, "policy/chunk", qos.COMMAND)
        self.shown: list[bytes] = []
        self.message = ImageMessage(240, 424, "rgb8", "left_camera")
        for publisher in (self.images, self.poses, self.openings, self.chunks):
            graph.until(lambda p=publisher: p.get_subscription_count() == 1, "the node to listen")

    def look(self) -> None:
        self.graph.node.create_subscription(Image, "camera/overlay/image_raw", self.shown.append, qos.RECORD, raw=True)

    def until_shown(self, wanted: NDArray[np.uint8], what: str, picture: NDArray[np.uint8] = PICTURE) -> Any:
        """Feed pictures and measurements until the node shows exactly ``wanted``; the message."""
        if picture.shape != self.message.pixels.shape:
            self.message = ImageMessage(*picture.shape[:2], "rgb8", "left_camera")

        def fed() -> Any:
            stamp_ns = time.time_ns()
            self.poses.publish(pose_stamped(T_BASE_TCP, stamp_ns, "left_base"))
            self.openings.publish(GripperState(header=header(stamp_ns), opening=0.75))
            self.images.publish(self.message.fill(picture, stamp_ns))
            time.sleep(0.04)
            for cdr in reversed(self.shown):
                raw = parse_image(cdr)
                if np.array_equal(rgb_image(raw.height, raw.width, raw.encoding, raw.step, raw.data), wanted):
                    return raw
            return None

        raw = self.graph.until(fed, what)
        self.shown.clear()
        return raw


def drawn(picture: NDArray[np.uint8], camera: PinholeCamera) -> NDArray[np.uint8]:
    return draw_over(picture, render_action_frames(T_BASE_TCP[None], [0.75], camera)[0])


def test_it_passes_pictures_until_it_can_draw_and_then_draws(graph: Any, tmp_path: Path) -> None:
    cell = Cell(graph, tmp_path)
    graph.wait_said("overlay", "no camera picture")
    cell.look()
    cell.until_shown(PICTURE, "the picture as it came, for want of a calibration")
    graph.wait_said("overlay", f"nothing drawn: no camera calibration at {cell.calibration}")

    save_camera(cell.calibration, CAMERA, serial="test")
    camera = load_camera(cell.calibration)
    seen = project_action_frames(T_BASE_TCP, camera)
    assert seen.visible_M[0] and (seen.centre_px_M2[0] > 0).all() and (seen.centre_px_M2[0] < (424, 240)).all()
    raw = cell.until_shown(drawn(PICTURE, camera), "the tool's action frame over the picture")
    assert (raw.frame_id, raw.encoding) == ("left_camera", "rgb8")
    assert abs(time.time_ns() - raw.stamp_ns) < 60e9
    graph.wait_said("overlay", "drawing")

    large = np.random.default_rng(1).integers(0, 256, (480, 848, 3), np.uint8)
    cell.until_shown(drawn(large, camera.resized(848, 480)), "the frame over a picture of twice the size", large)
    square = np.random.default_rng(2).integers(0, 256, (240, 240, 3), np.uint8)
    cell.until_shown(square, "a picture of another shape, undrawn", square)
    graph.wait_said("overlay", "nothing drawn: pictures of 240x240 px are no enlargement of the calibrated 424x240")


def test_a_chunk_shows_where_the_tool_will_go_and_vanishes_when_it_is_done(graph: Any, tmp_path: Path) -> None:
    cell = Cell(graph, tmp_path)
    save_camera(cell.calibration, CAMERA, serial="test")
    camera = load_camera(cell.calibration)
    cell.look()
    cell.until_shown(drawn(PICTURE, camera), "the tool's action frame")

    actions = np.zeros((4, 7), np.float32)
    actions[:, 0], actions[:, 6] = 0.05, (1.0, 0.75, 0.5, 0.25)
    chunk = ActionChunk(
        header=header(time.time_ns(), "base"),
        sequence=1,
        policy_id="test",
        rate_hz=0.5,
        inference_s=0.1,
        convention=int(ActionConvention.ABSOLUTE_POSE_DIFFERENCE),
        chunk_length=4,
        execute_length=3,
        action_dim=7,
    )
    chunk.actions, chunk.reference = actions.reshape(-1).tolist(), to_pose(T_BASE_TCP)
    cell.chunks.publish(chunk)
    steps = np.stack(
        [transform(T_BASE_TCP[:3, 3] + (0.05 * k, 0, 0), Rotation.from_matrix(T_BASE_TCP[:3, :3])) for k in (3, 2, 1)]
    )
    trail = render_action_frames(steps[None], actions[None, 2::-1, 6], camera, style=STEP_STYLE)[0]
    assert trail.any()
    cell.until_shown(drawn(draw_over(PICTURE, trail), camera), "the three steps that will be executed")
    # Each step leaves when its time has come: here every 2 s.
    trail = render_action_frames(steps[None, :1], actions[None, 2:3, 6], camera, style=STEP_STYLE)[0]
    cell.until_shown(drawn(draw_over(PICTURE, trail), camera), "the last step alone")
    cell.until_shown(drawn(PICTURE, camera), "the tool's action frame alone again")

    chunk.actions = [float("nan")] * 28
    cell.chunks.publish(chunk)
    graph.until(
        lambda: (
            cell.until_shown(drawn(PICTURE, camera), "pictures go on")
            and graph.said("overlay", "chunk not drawn: actions and reference must be finite")
        ),
        "a word about the unusable chunk",
    )


def test_nobody_looking_costs_no_picture(graph: Any, tmp_path: Path) -> None:
    cell = Cell(graph, tmp_path)
    save_camera(cell.calibration, CAMERA, serial="test")

    def fed() -> Any:
        cell.images.publish(cell.message.fill(PICTURE, time.time_ns()))
        return graph.said("overlay", "ready; nobody looks")

    status = graph.until(fed, "the node to say that nobody looks")
    values = {value.key: value.value for value in status.values}
    assert values["viewers"] == "0" and float(values["rate_hz"]) == 0.0
