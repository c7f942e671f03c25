"""RealSense D455: colour with depth aligned to it, each frame with its own stamps. The only user of pyrealsense2.

The camera comes from a device factory, chosen by ``camera.device`` in the cell file: "realsense" opens the camera on
USB by serial number, "twin" a software device fed by the digital lab. Everything after the factory is the same.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera
from robot_bridge.cell import CameraConfig

log = logging.getLogger(__name__)


class CameraError(RuntimeError):
    """The camera cannot be opened or read; the message says what to check."""


class CameraMissing(CameraError):
    """No such camera; the message lists the cameras that were found."""


class NoFrames(CameraError):
    """The camera is open but no new frame arrived in time."""


@dataclass(frozen=True)
class Frames:
    """One exposure.

    Attributes:
        color: [H, W, 3] uint8 RGB.
        depth: [H, W] uint16 in units of ``depth_scale_m``, registered to the colour image; 0 where not measured.
        stamp_ns: acquisition, on the clock that ``domain`` names ("global_time": host clock).
        frame_number: the camera's own counter; a gap means lost frames.
        depth_frame_number: the counter of the depth image; differs when one of the two was lost.
        arrival_ns: host clock when the driver received the pair.
    """

    color: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    stamp_ns: int
    frame_number: int
    depth_frame_number: int
    domain: str
    arrival_ns: int
    depth_scale_m: float


@dataclass(frozen=True)
class CameraInfo:
    """Who the camera is, for logs and provenance; empty text for what a device does not tell."""

    name: str
    serial: str
    firmware: str
    usb: str


@dataclass
class _Opened:
    """What a device factory returns: a started pipeline, what feeds it, and a hint for when frames stop."""

    pipeline: Any
    profile: Any
    close_source: Callable[[], None]
    starvation_hint: str


class D455:
    """Driver of one camera; use it from one thread.

    Args:
        config: device, serial (empty: the only one connected), size and rate.
    """

    def __init__(self, config: CameraConfig) -> None:
        if config.device not in _FACTORIES:
            raise CameraError(f"camera.device must be one of {sorted(_FACTORIES)}, got {config.device!r}")
        self._config = config
        self._opened: _Opened | None = None
        self._align: Any = None
        self._depth_scale_m = 0.0
        self._last_number = -1
        self._last_arrival_s = 0.0

    def start(self) -> CameraInfo:
        """Open the camera and start both streams.

        Raises:
            CameraMissing: no camera, or none with this serial number.
            CameraError: it cannot stream as configured, or pyrealsense2 is not installed.
        """
        rs = _sdk()
        self.stop()
        self._opened = _FACTORIES[self._config.device](rs, self._config)
        device = self._opened.profile.get_device()
        self._depth_scale_m = device.first_depth_sensor().get_depth_scale()
        self._align = None if _aligned(self._opened.profile, rs) else rs.align(rs.stream.color)
        self._last_number = -1
        self._last_arrival_s = time.monotonic()
        return _describe(device, rs)

    def wait(self, timeout_s: float = 1.0) -> Frames:
        """The next new pair of colour and depth.

        Raises:
            NoFrames: none came within ``timeout_s``; may be called again.
            CameraError: not started.
        """
        opened = self._require()
        deadline = time.monotonic() + timeout_s
        while True:
            left_ms = max(1, int((deadline - time.monotonic()) * 1e3))
            arrived, pair = opened.pipeline.try_wait_for_frames(left_ms)
            arrival_ns = time.time_ns()
            if arrived:
                color, depth = pair.get_color_frame(), pair.get_depth_frame()
                # librealsense repeats the last colour image when only a depth image is new.
                if color and depth and color.get_frame_number() != self._last_number:
                    return self._frames(pair, color, arrival_ns)
            if time.monotonic() >= deadline:
                since_s = time.monotonic() - self._last_arrival_s
                raise NoFrames(
                    f"no camera frame for {since_s:.1f} s (waited {timeout_s:g} s); {opened.starvation_hint}"
                )

    def intrinsics(self) -> PinholeCamera:
        """The colour stream's factory intrinsics (pose: identity, that is what calibration is for).

        Raises:
            CameraError: not started.
        """
        rs = _sdk()
        profile = self._require().profile.get_stream(rs.stream.color).as_video_stream_profile()
        k = profile.get_intrinsics()
        distortion = np.array(k.coeffs, dtype=np.float64)
        return PinholeCamera(
            k.fx, k.fy, k.ppx, k.ppy, k.width, k.height, distortion=distortion if distortion.any() else None
        )

    def stop(self) -> None:
        """Stop streaming; harmless when stopped. ``start`` may follow."""
        if self._opened is not None:
            self._opened.close_source()
            self._opened.pipeline.stop()
            self._opened = None

    def __enter__(self) -> D455:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _frames(self, pair: Any, color: Any, arrival_ns: int) -> Frames:
        if self._align is not None:
            pair = self._align.process(pair)
        depth = pair.get_depth_frame()
        self._last_number = color.get_frame_number()
        self._last_arrival_s = time.monotonic()
        return Frames(
            # Copies: the SDK's buffers belong to a small pool that stalls the stream when they are kept.
            color=np.array(color.get_data(), dtype=np.uint8),
            depth=np.array(depth.get_data(), dtype=np.uint16),
            stamp_ns=int(color.get_timestamp() * 1e6),
            frame_number=int(self._last_number),
            depth_frame_number=int(depth.get_frame_number()),
            domain=str(color.get_frame_timestamp_domain().name),
            arrival_ns=arrival_ns,
            depth_scale_m=self._depth_scale_m,
        )

    def _require(self) -> _Opened:
        if self._opened is None:
            raise CameraError("the camera is not started; call start() first")
        return self._opened


@functools.cache
def _sdk() -> Any:
    """pyrealsense2. Its wheel needs libusb, which a bare system lacks and the libusb-package wheel carries."""
    try:
        return importlib.import_module("pyrealsense2")
    except ImportError as error:
        if "libusb" not in str(error):
            raise CameraError(f"pyrealsense2 cannot be imported ({error}); pip install 'prophrl[hardware]'") from error
    try:
        libusb = importlib.import_module("libusb_package")
        ctypes.CDLL(str(libusb.get_library_path()), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("pyrealsense2")
    except (ImportError, OSError) as error:
        raise CameraError(
            f"pyrealsense2 needs libusb ({error}); pip install libusb-package, or apt install libusb-1.0-0"
        ) from error


def _open_realsense(rs: Any, config: CameraConfig) -> _Opened:
    devices = {d.get_info(rs.camera_info.serial_number): d for d in rs.context().query_devices()}
    found = ", ".join(f"{_describe(d, rs).name} {serial}" for serial, d in devices.items()) or "none"
    if config.serial and config.serial not in devices:
        raise CameraMissing(f"no RealSense camera with serial {config.serial}; found: {found}. Correct camera.serial")
    if not devices:
        raise CameraMissing(
            "no RealSense camera found; check the USB 3 cable, the udev rules (99-realsense-libusb.rules), and that "
            "the user may open USB devices"
        )
    if not config.serial and len(devices) > 1:
        raise CameraMissing(f"several RealSense cameras: {found}; name one in camera.serial")
    serial = config.serial or next(iter(devices))
    info = _describe(devices[serial], rs)
    name = f"{info.name} {serial} (USB {info.usb or 'unknown'})"
    for sensor in devices[serial].query_sensors():
        # Stamps on the host's clock, corrected for drift, instead of the camera's own counter.
        if sensor.supports(rs.option.global_time_enabled):
            sensor.set_option(rs.option.global_time_enabled, 1.0)
    request = rs.config()
    request.enable_device(serial)
    request.enable_stream(rs.stream.color, config.width, config.height, rs.format.rgb8, config.rate_hz)
    request.enable_stream(rs.stream.depth, config.width, config.height, rs.format.z16, config.rate_hz)
    pipeline = rs.pipeline()
    try:
        profile = pipeline.start(request)
    except RuntimeError as error:
        raise CameraError(
            f"{name} cannot stream {config.width}x{config.height} colour and depth at {config.rate_hz} Hz: {error}; it "
            "needs a USB 3 port, a size and rate that both sensors have (424x240, 640x480 or 848x480 at 15 or 30), "
            "and no other program using it"
        ) from error
    hint = f"check the cable and the power of {name}; unplug it and plug it in again if needed"
    return _Opened(pipeline, profile, lambda: None, hint)


def _open_twin(rs: Any, config: CameraConfig) -> _Opened:
    from robot_bridge.twin.camera_device import TwinCameraDevice, TwinCameraError

    try:
        source = TwinCameraDevice(rs, config.frames_path, config.rate_hz)
    except (TwinCameraError, ValueError) as error:
        raise CameraMissing(f"{error}") from error
    if source.size != (config.width, config.height):
        source.close()
        raise CameraError(
            f"the lab in {config.frames_path} renders {source.size[0]}x{source.size[1]}, this cell asks for "
            f"{config.width}x{config.height}; start the lab with the same cell file"
        )
    request = rs.config()
    request.enable_stream(rs.stream.color, config.width, config.height, rs.format.rgb8, config.rate_hz)
    request.enable_stream(rs.stream.depth, config.width, config.height, rs.format.z16, config.rate_hz)
    pipeline = rs.pipeline()
    pipeline.set_device(source.device)
    profile = pipeline.start(request)
    source.start()
    return _Opened(
        pipeline, profile, source.close, f"check that the lab's camera process runs (frames in {config.frames_path})"
    )


_FACTORIES: dict[str, Callable[[Any, CameraConfig], _Opened]] = {"realsense": _open_realsense, "twin": _open_twin}


def _aligned(profile: Any, rs: Any) -> bool:
    """Whether depth already has the colour camera's geometry, so that aligning would only cost time."""
    depth = profile.get_stream(rs.stream.depth).as_video_stream_profile()
    color = profile.get_stream(rs.stream.color).as_video_stream_profile()
    d, c, pose = depth.get_intrinsics(), color.get_intrinsics(), depth.get_extrinsics_to(color)
    same_lens = np.allclose([d.fx, d.fy, d.ppx, d.ppy, *d.coeffs], [c.fx, c.fy, c.ppx, c.ppy, *c.coeffs], atol=1e-3)
    same_place = np.allclose(pose.translation, 0.0, atol=1e-5) and np.allclose(
        np.reshape(pose.rotation, (3, 3)), np.eye(3), atol=1e-5
    )
    return bool(same_lens and same_place and (d.width, d.height) == (c.width, c.height))


def _describe(device: Any, rs: Any) -> CameraInfo:
    def tell(key: Any) -> str:
        return str(device.get_info(key)) if device.supports(key) else ""

    keys = rs.camera_info
    return CameraInfo(
        tell(keys.name), tell(keys.serial_number), tell(keys.firmware_version), tell(keys.usb_type_descriptor)
    )
