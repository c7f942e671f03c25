"""The twin's D455 as librealsense sees it: a software device fed from the frame ring.

``rs.pipeline`` streams from it like from a camera on USB; only enumeration (``context.query_devices``) cannot find
it, which is why ``d455.py`` has a device factory. The software device lives in the consumer's process, so frames
cross from the renderer by shared memory and a thread pushes them in.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from calibration.camera import PinholeCamera
from calibration.storage import load_calibration
from robot_bridge.twin.shared_state import Frame, FrameRingReader, SharedStateError

DEPTH_UNITS_M = 0.001
_COLOR_UID, _DEPTH_UID = 100, 101
_POLL_S = 0.1


class TwinCameraError(RuntimeError):
    """The twin's camera cannot be opened; the message says what to start or correct."""


class TwinCameraDevice:
    """``device`` is an ``rs.software_device`` with a stereo module and an RGB camera.

    Simplified: colour and depth are one sensor (identity extrinsics, same intrinsics), no IMU, no infrared.

    Args:
        rs: the pyrealsense2 module (imported by ``d455.py`` alone).
        directory: the lab's directory with ``frames.bin`` and ``camera.yaml``.
        rate_hz: nominal frame rate of both streams.

    Raises:
        TwinCameraError: the lab's renderer is not running.
        CalibrationFileError: ``camera.yaml`` is missing or broken.
    """

    DEPTH_IN_COLOR_M = (0.0, 0.0, 0.0)
    """Origin of the depth image in the colour camera's frame: the renderer takes both pictures from one place."""

    def __init__(self, rs: Any, directory: str | Path, rate_hz: int) -> None:
        self._rs = rs
        self._rate_hz = rate_hz
        self._ring = FrameRingReader(directory)
        calibration = load_calibration(Path(directory) / "camera.yaml")
        try:
            size = self._ring.size
        except SharedStateError as error:
            raise TwinCameraError(f"the twin's camera is not running: {error}") from error
        camera = calibration.camera
        if size != (camera.width, camera.height):
            raise TwinCameraError(
                f"the frames in {directory} are {size[0]}x{size[1]} but camera.yaml says "
                f"{camera.width}x{camera.height}; restart the lab"
            )
        self.size = size
        self.device = rs.software_device()
        self.device.register_info(rs.camera_info.name, "Intel RealSense D455")
        self.device.register_info(rs.camera_info.serial_number, calibration.serial)
        self.device.register_info(rs.camera_info.product_line, "D400")
        self._depth_sensor, self._depth_profile = self._add_depth(camera)
        self._color_sensor, self._color_profile = self._add_color(camera)
        place = rs.extrinsics()  # starts as all zeros, not as the identity
        place.rotation = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        place.translation = list(self.DEPTH_IN_COLOR_M)
        self._depth_profile.register_extrinsics_to(self._color_profile, place)
        self.device.create_matcher(rs.matchers.default)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._feed, name="twin-camera", daemon=True)

    def start(self) -> None:
        """Begin to push frames (after the pipeline was started)."""
        self._thread.start()

    def close(self) -> None:
        """Stop pushing. Call before the pipeline is stopped: librealsense must not see a frame after that."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._ring.close()

    def _feed(self) -> None:
        last_number = 0
        while not self._stop.is_set():
            try:
                if self._ring.newest_number() < last_number:
                    last_number = 0  # the renderer was restarted and counts from 1 again
                frame = self._ring.wait(last_number, _POLL_S)
            except SharedStateError:
                # The renderer is gone: no frames, which the pipeline's client notices as on an unplugged camera.
                self._stop.wait(_POLL_S)
                continue
            if frame is not None:
                last_number = frame.frame_number
                self._push(frame)

    def _push(self, frame: Frame) -> None:
        rs = self._rs
        width = frame.z16.shape[1]
        for sensor, profile, pixels, bytes_per_pixel in (
            (self._depth_sensor, self._depth_profile, frame.z16, 2),
            (self._color_sensor, self._color_profile, frame.rgb, 3),
        ):
            video = rs.software_video_frame()  # one per frame: a second set of pixels would free the first's
            video.pixels = pixels
            video.stride = width * bytes_per_pixel
            video.bpp = bytes_per_pixel
            video.timestamp = frame.stamp_ns * 1e-6
            video.domain = rs.timestamp_domain.global_time
            video.frame_number = frame.frame_number
            video.profile = profile
            video.depth_units = DEPTH_UNITS_M
            sensor.on_video_frame(video)

    def _add_depth(self, camera: PinholeCamera) -> tuple[Any, Any]:
        rs = self._rs
        sensor = self.device.add_sensor("Stereo Module")
        stream = self._stream(camera, rs.stream.depth, rs.format.z16, _DEPTH_UID, 2)
        profile = sensor.add_video_stream(stream, True).as_video_stream_profile()
        sensor.add_read_only_option(rs.option.depth_units, DEPTH_UNITS_M)
        return sensor, profile

    def _add_color(self, camera: PinholeCamera) -> tuple[Any, Any]:
        rs = self._rs
        sensor = self.device.add_sensor("RGB Camera")
        stream = self._stream(camera, rs.stream.color, rs.format.rgb8, _COLOR_UID, 3)
        return sensor, sensor.add_video_stream(stream, True).as_video_stream_profile()

    def _stream(self, camera: PinholeCamera, kind: Any, pixel_format: Any, uid: int, bytes_per_pixel: int) -> Any:
        rs = self._rs
        intrinsics = rs.intrinsics()
        intrinsics.width, intrinsics.height = camera.width, camera.height
        intrinsics.fx, intrinsics.fy, intrinsics.ppx, intrinsics.ppy = camera.fx, camera.fy, camera.cx, camera.cy
        intrinsics.model = rs.distortion.brown_conrady
        intrinsics.coeffs = [0.0] * 5 if camera.distortion is None else [float(k) for k in camera.distortion]
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid = kind, 0, uid
        stream.width, stream.height, stream.fps = camera.width, camera.height, self._rate_hz
        stream.bpp, stream.fmt, stream.intrinsics = bytes_per_pixel, pixel_format, intrinsics
        return stream
