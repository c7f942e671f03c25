"""The fixed camera: colour, camera info and depth registered to colour, under realsense-ros's topic names.

A camera that stops delivering is reported on /diagnostics and opened again until it delivers. Frame numbers reveal
lost frames; they are counted, not hidden.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from calibration.storage import CalibrationFileError
from prophrl_nodes import qos
from prophrl_nodes.device_loop import DeviceLoop
from prophrl_nodes.images import ImageMessage, camera_info
from prophrl_nodes.messages import CAMERA_FRAME, to_stamp
from prophrl_nodes.ros import CELL_PARAMETERS, Health, Level, ParameterSpec, ProphNode, RateMeter, Value, run
from robot_bridge.cell_files import open_cell
from robot_bridge.d455 import D455, CameraError, Frames, NoFrames

SLOW_SHARE = 0.8
"""Below this share of the configured rate the camera is reported as slow."""
WAIT_S = 0.5
"""One wait for a frame: how long a stop of the node may take, and when a pause is worth a word."""
MILLIMETRE = 0.001

PARAMETERS = (
    *CELL_PARAMETERS,
    ParameterSpec("camera_profile", "", "size and rate as 848x480@15, empty as in the cell file"),
    ParameterSpec("publish_depth", True, "publish aligned depth beside colour"),
    ParameterSpec("tf_prefix", "", "put before the camera's frame name, for several cells"),
    ParameterSpec(
        "reconnect_timeout", 3.0, "seconds without a frame after which the camera is opened again", 0.5, 60.0
    ),
)


class CameraNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("camera", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Read the cell; the camera is opened when the node is activated."""
        cell = open_cell(self.value("cell"), self.value("host"), camera_profile=self.value("camera_profile"))
        self._config = cell.camera
        frame_id = f"{self.value('tf_prefix')}{CAMERA_FRAME}"
        height, width = self._config.height, self._config.width
        self._camera = D455(self._config)
        self._color = ImageMessage(height, width, "rgb8", frame_id)
        self._depth = ImageMessage(height, width, "16UC1", frame_id)
        self._info = CameraInfo()
        self._frame_id = frame_id
        self._meter = RateMeter()
        self._lost = 0
        self._last_number: int | None = None
        self._delay_s = 0.0
        self._found = ""
        self._color_publisher = self.publisher(Image, "camera/color/image_raw", qos.IMAGE_SOURCE)
        self._info_publisher = self.publisher(CameraInfo, "camera/color/camera_info", qos.IMAGE_SOURCE)
        self._depth_publisher = self.publisher(Image, "camera/aligned_depth_to_color/image_raw", qos.IMAGE_SOURCE)
        self._with_depth = self.value("publish_depth")
        self._patience_s = self.value("reconnect_timeout")
        self._alive_s = 0.0
        self._loop: DeviceLoop | None = None

    def start(self) -> None:
        """Start the thread that waits for frames."""
        self._loop = DeviceLoop(
            "camera",
            connect=self._connect,
            work=self._next_frame,
            close=self._camera.stop,
            errors=(CameraError, CalibrationFileError),
            period_s=0.0,
            on_bug=self.fail,
        )
        self._loop.start()

    def halt(self) -> None:
        """Stop waiting for frames and close the camera."""
        if self._loop is not None:
            self._loop.stop()

    def health(self) -> Health:
        """The driver's words while there are no frames, else rate, age and losses."""
        now_s = time.monotonic()
        rate_hz, age_s = self._meter.rate_hz(now_s), self._meter.age_s(now_s)
        values: dict[str, Value] = {
            "camera": self._found,
            "rate_hz": rate_hz,
            "age_s": age_s,
            "largest_gap_s": self._meter.largest_gap_s(now_s),
            "frames": self._meter.count,
            "lost_frames": self._lost,
            "delay_s": self._delay_s,
        }
        loop = self._loop
        if loop is None or loop.first_attempt:
            return Health(Level.WARN, "connecting", values)
        if loop.problem:
            return Health(Level.ERROR, f"no camera frames: {loop.problem}", values)
        if age_s > WAIT_S:
            return Health(Level.ERROR, f"no camera frame for {age_s:.1f} s; waiting for the camera", values)
        if rate_hz < SLOW_SHARE * self._config.rate_hz and self._meter.count > 2 * self._config.rate_hz:
            message = (
                f"camera slow: {rate_hz:.0f} of {self._config.rate_hz} frames a second, {self._lost} lost; "
                "check USB 3, exposure and this machine's load"
            )
            return Health(Level.WARN, message, values)
        return Health(Level.OK, "publishing frames", values)

    def _connect(self) -> None:
        info = self._camera.start()
        self._found = " ".join(word for word in (info.name, info.serial, info.firmware, info.usb) if word)
        self._info = camera_info(self._camera.intrinsics(), self._frame_id)
        self._last_number = None
        self._alive_s = time.monotonic()

    def _next_frame(self) -> None:
        try:
            frames = self._camera.wait(WAIT_S)
        except NoFrames:
            if time.monotonic() - self._alive_s > self._patience_s:
                raise
            return
        self._publish(frames)
        self._alive_s = now_s = time.monotonic()
        self._meter.tick(now_s)
        self._delay_s = (time.time_ns() - frames.stamp_ns) * 1e-9
        if self._last_number is not None and frames.frame_number > self._last_number + 1:
            self._lost += frames.frame_number - self._last_number - 1
        self._last_number = frames.frame_number

    def _publish(self, frames: Frames) -> None:
        self._color_publisher.publish(self._color.fill(frames.color, frames.stamp_ns))
        self._info.header.stamp = to_stamp(frames.stamp_ns)
        self._info_publisher.publish(self._info)
        if self._with_depth:
            depth = frames.depth
            if abs(frames.depth_scale_m - MILLIMETRE) > 1e-9:  # 16UC1 depth means millimetres (REP-118)
                depth = np.round(depth * (frames.depth_scale_m / MILLIMETRE)).astype(np.uint16)
            self._depth_publisher.publish(self._depth.fill(depth, frames.stamp_ns))


def main() -> None:
    """Entry point of the executable ``camera``."""
    sys.exit(run(CameraNode))


if __name__ == "__main__":
    main()
