"""The operator's view: the camera's picture with the tool's action frame and the chunk's coming steps drawn over it.

Subscribes to ``camera/color/image_raw``, ``tcp_pose_broadcaster/pose``, ``gripper/state`` and ``policy/chunk``;
publishes ``camera/overlay/image_raw`` (rgb8, with the stamp and frame of the picture it was drawn on). Where nothing
can be drawn the picture passes as it is, and /diagnostics says why. It works only while somebody looks.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from prophrl_interfaces.msg import ActionChunk, GripperState
from sensor_msgs.msg import Image

from prophrl_models.data.cdr import ImageError, RawImage, parse_image, rgb_image
from prophrl_models.data.streams import gripper_sample, pose_sample
from prophrl_nodes import qos
from prophrl_nodes.camera_file import CameraFile
from prophrl_nodes.chunk_player import Chunk, ChunkError
from prophrl_nodes.images import ImageMessage
from prophrl_nodes.messages import to_matrix
from prophrl_nodes.overlay_scene import OverlayError, OverlayScene
from prophrl_nodes.ros import CELL_PARAMETERS, Health, Level, ParameterSpec, ProphNode, RateMeter, Value, run
from robot_bridge.cell_files import open_cell

SILENT_S = 1.0

PARAMETERS = (
    *CELL_PARAMETERS,
    ParameterSpec("rate_hz", 15.0, "pictures a second at most; the camera's others are skipped", 0.5, 60.0),
)


class OverlayNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("overlay", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Find the calibration file and connect the topics."""
        self._camera_file = CameraFile(open_cell(self.value("cell"), self.value("host")))
        self._scene = OverlayScene()
        self._message: ImageMessage | None = None
        self._arriving, self._drawn = RateMeter(), RateMeter()
        self._last_ns = 0
        self._problem = ""
        self._refusal = ""
        self._period_ns = round(1e9 / self.value("rate_hz"))
        self._pictures = self.publisher(Image, "camera/overlay/image_raw", qos.IMAGE_SOURCE)
        self.subscribe(Image, "camera/color/image_raw", self._on_image, qos.IMAGE_LATEST, raw=True)
        self.subscribe(PoseStamped, "tcp_pose_broadcaster/pose", self._on_pose, qos.STREAM)
        self.subscribe(GripperState, "gripper/state", self._on_gripper, qos.STREAM)
        self.subscribe(ActionChunk, "policy/chunk", self._on_chunk, qos.COMMAND)
        self.timer(1.0, self._watch_calibration)

    def start(self) -> None:
        """Read the calibration."""
        self._camera_file.reload_if_changed()

    def health(self) -> Health:
        """Whether pictures come and what keeps them from being drawn on."""
        now_s = time.monotonic()
        values: dict[str, Value] = {
            "calibration_id": self._camera_file.calibration_id,
            "camera_rate_hz": self._arriving.rate_hz(now_s),
            "rate_hz": self._drawn.rate_hz(now_s),
            "viewers": self._pictures.get_subscription_count(),
            "chunk_steps_ahead": self._scene.steps_ahead(now_s),
        }
        if self._arriving.age_s(now_s) > SILENT_S:
            return Health(Level.WARN, "no camera picture; start the camera node, or see what it says here", values)
        if self._camera_file.problem:
            return Health(Level.WARN, f"nothing drawn: {self._camera_file.problem}", values)
        if self._problem:
            return Health(Level.WARN, f"nothing drawn: {self._problem}", values)
        if self._refusal:
            return Health(Level.WARN, f"chunk not drawn: {self._refusal}", values)
        if self._drawn.age_s(now_s) > SILENT_S:
            return Health(Level.OK, "ready; nobody looks", values)
        return Health(Level.OK, "drawing", values)

    def _watch_calibration(self) -> None:
        self._camera_file.reload_if_changed()

    def _on_image(self, cdr: bytes) -> None:
        self._arriving.tick(time.monotonic())
        if self._pictures.get_subscription_count() == 0:
            return
        try:
            raw = parse_image(cdr)
            # A tenth of a period of grace: a camera's pictures do not come on the nanosecond.
            if 0 <= raw.stamp_ns - self._last_ns < 0.9 * self._period_ns:
                return
            self._last_ns = raw.stamp_ns
            self._show(raw)
        except ImageError as error:
            self._problem = str(error)

    def _show(self, raw: RawImage) -> None:
        image = rgb_image(raw.height, raw.width, raw.encoding, raw.step, raw.data)
        calibration = self._camera_file.calibration
        if calibration is not None:
            try:
                image = self._scene.draw(image, raw.stamp_ns, calibration, time.monotonic())
                self._problem = ""
            except OverlayError as error:
                self._problem = str(error)
        message = self._message
        if message is None or message.pixels.shape != image.shape or message.message.header.frame_id != raw.frame_id:
            message = self._message = ImageMessage(raw.height, raw.width, "rgb8", raw.frame_id)
        self._pictures.publish(message.fill(image, raw.stamp_ns))
        self._drawn.tick(time.monotonic())

    def _on_pose(self, message: PoseStamped) -> None:
        try:
            self._scene.push_pose(*pose_sample(message))
        except ValueError as error:
            self._problem = str(error)

    def _on_gripper(self, message: GripperState) -> None:
        _, (self._scene.opening, _) = gripper_sample(message)

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            rows = np.asarray(message.actions, dtype=np.float64)
            chunk = Chunk.checked(
                int(message.sequence),
                to_matrix(message.reference),
                rows.reshape(int(message.chunk_length), int(message.action_dim)),
                int(message.convention),
                float(message.rate_hz),
                int(message.execute_length),
            )
        except (ChunkError, ValueError) as error:
            self._refusal = f"{error} (chunk {message.sequence} of policy {message.policy_id!r})"
            return
        self._refusal = ""
        self._scene.begin_chunk(chunk, time.monotonic())


def main() -> None:
    """Entry point of the executable ``overlay``."""
    sys.exit(run(OverlayNode))


if __name__ == "__main__":
    main()
