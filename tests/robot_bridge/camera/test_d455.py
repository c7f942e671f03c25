"""The camera driver: frames with honest stamps, and errors that say what to check."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_bridge.cell import CameraConfig
from robot_bridge.d455 import D455, CameraError, CameraMissing, NoFrames
from robot_bridge.twin.camera_device import TwinCameraDevice

ROOT = Path(__file__).parents[3]


def test_frames_carry_pixels_numbers_and_both_clocks(
    renderer: Any, camera_config: CameraConfig, expected: Callable[[int], tuple[Any, Any]]
) -> None:
    with D455(camera_config) as camera:
        for number in range(1, 4):
            stamp_ns = renderer.write()
            frames = camera.wait(5.0)
            color, depth = expected(number)
            assert np.array_equal(frames.color, color) and frames.color.dtype == np.uint8
            assert np.array_equal(frames.depth, depth) and frames.depth.dtype == np.uint16
            assert (frames.frame_number, frames.depth_frame_number) == (number, number)
            assert abs(frames.stamp_ns - stamp_ns) < 1_000  # a float of milliseconds since 1970
            assert stamp_ns < frames.arrival_ns < time.time_ns()
            assert (frames.domain, round(frames.depth_scale_m, 9)) == ("global_time", 0.001)


def test_info_and_intrinsics_are_those_of_the_device(renderer: Any, camera_config: CameraConfig) -> None:
    with D455(camera_config) as camera:
        model = camera.intrinsics()
        info = camera.start()
    assert (model.fx, model.fy, model.cx, model.cy) == (51.5, 52.5, 30.25, 24.75)
    assert (model.width, model.height, model.distortion) == (64, 48, None)
    assert (info.name, info.serial) == ("Intel RealSense D455", "TWIN00000007")


def test_depth_of_a_camera_beside_is_aligned_to_the_colour_image(
    renderer: Any, camera_config: CameraConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on hardware: the depth imager sits beside the colour imager. A point at 1 m moves by f * 0.1 m / 1 m.
    monkeypatch.setattr(TwinCameraDevice, "DEPTH_IN_COLOR_M", (0.1, 0.0, 0.0))
    depth = np.full((48, 64), 2000, dtype=np.uint16)
    depth[20:28, 30:38] = 1000
    with D455(camera_config) as camera:
        renderer.ring.write(1, time.time_ns(), np.zeros((48, 64, 3), dtype=np.uint8), depth)
        aligned = camera.wait(5.0).depth
    _rows, columns = np.nonzero(aligned == 1000)
    assert np.mean(columns) == pytest.approx(33.5 + 5.15, abs=1.0)
    assert 40 < len(columns) < 100


def test_frames_kept_by_the_caller_do_not_stall_the_stream(renderer: Any, camera_config: CameraConfig) -> None:
    renderer.stream()
    with D455(camera_config) as camera:
        kept = [camera.wait(5.0) for _ in range(60)]
    numbers = [frames.frame_number for frames in kept]
    assert numbers == sorted(set(numbers))
    assert [int(frames.color[0, 0, 2]) for frames in kept] == [number % 256 for number in numbers]


def test_no_frames_is_an_error_that_says_what_to_check_and_then_heals(
    renderer: Any, camera_config: CameraConfig
) -> None:
    with D455(camera_config) as camera:
        with pytest.raises(NoFrames, match=r"no camera frame for .* check that the lab's camera process runs"):
            camera.wait(0.1)
        renderer.write()
        assert camera.wait(5.0).frame_number == 1
        with pytest.raises(NoFrames):
            camera.wait(0.1)


def test_a_renderer_that_was_restarted_is_picked_up_again(renderer: Any, camera_config: CameraConfig) -> None:
    with D455(camera_config) as camera:
        renderer.write(1000)
        assert camera.wait(5.0).frame_number == 1000
        renderer.restart()
        renderer.stream()
        assert camera.wait(5.0).frame_number < 1000


def test_start_after_stop_and_start_twice_work(renderer: Any, camera_config: CameraConfig) -> None:
    renderer.stream()
    camera = D455(camera_config)
    for _ in range(2):
        camera.start()
        camera.start()
        assert camera.wait(5.0).frame_number > 0
        camera.stop()
    camera.stop()
    with pytest.raises(CameraError, match="call start"):
        camera.wait(0.1)


def test_missing_lab_is_named(tmp_path: Path) -> None:
    with pytest.raises(CameraMissing, match="start the lab"):
        D455(CameraConfig("twin", frames_path=str(tmp_path))).start()


def test_other_image_size_than_the_labs_is_refused(renderer: Any, camera_config: CameraConfig) -> None:
    with pytest.raises(CameraError, match="renders 64x48, this cell asks for 424x240"):
        D455(dataclasses.replace(camera_config, width=424, height=240)).start()


def test_unknown_serial_lists_the_cameras_that_are_there() -> None:
    with pytest.raises(CameraMissing, match="no RealSense camera with serial 000000000000; found: "):
        D455(CameraConfig("realsense", serial="000000000000")).start()


def test_unknown_device_kind_is_refused_at_construction() -> None:
    with pytest.raises(CameraError, match=r"one of \['realsense', 'twin'\], got 'webcam'"):
        D455(CameraConfig("webcam"))


def test_import_needs_neither_the_sdk_nor_the_twin() -> None:
    code = (
        "import sys; import robot_bridge.d455\n"
        "assert 'pyrealsense2' not in sys.modules\n"
        "assert not any(name.startswith('robot_bridge.twin') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize(
    ("sdk", "home"),
    [("pyrealsense2", "robot_bridge/d455.py"), ("dynamixel_sdk", "robot_bridge/gello.py")],
)
def test_each_vendor_sdk_is_imported_in_one_file(sdk: str, home: str) -> None:
    users = [
        str(path.relative_to(ROOT))
        for room in ("calibration", "robot_bridge", "prophrl_models", "ros2_ws")
        for path in (ROOT / room).rglob("*.py")
        if any(text in path.read_text() for text in (f"import {sdk}", f"from {sdk}", f'import_module("{sdk}")'))
    ]
    assert users == [home]
