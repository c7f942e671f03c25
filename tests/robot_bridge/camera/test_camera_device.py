"""The vendor's pipeline, unmodified, streaming from the twin's software device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.storage import CalibrationFileError
from robot_bridge.twin.camera_device import TwinCameraDevice, TwinCameraError

Expected = Callable[[int], tuple[Any, Any]]


@pytest.fixture
def pipeline(rs: Any, renderer: Any, tmp_path: Path) -> Iterator[Any]:
    source = TwinCameraDevice(rs, tmp_path, rate_hz=30)
    pipeline = rs.pipeline()
    pipeline.set_device(source.device)
    pipeline.start()  # default streams, as any RealSense program may
    source.start()
    yield pipeline
    source.close()
    pipeline.stop()


def _pair(pipeline: Any, number: int) -> tuple[Any, Any]:
    """Colour and depth of one number. After a pause the SDK may first pair a new depth with the last colour."""
    for _ in range(5):
        frames = pipeline.wait_for_frames(5000)
        if frames.get_color_frame().get_frame_number() == number:
            break
    return frames.get_color_frame(), frames.get_depth_frame()


def test_every_frame_arrives_with_its_pixels_number_and_stamp(
    rs: Any, renderer: Any, pipeline: Any, expected: Expected
) -> None:
    for number in range(1, 6):
        stamp_ns = renderer.write()
        color, depth = _pair(pipeline, number)
        wanted_color, wanted_depth = expected(number)
        assert np.array_equal(np.asanyarray(color.get_data()), wanted_color)
        assert np.array_equal(np.asanyarray(depth.get_data()), wanted_depth)
        assert color.get_frame_number() == depth.get_frame_number() == number
        assert color.get_timestamp() == depth.get_timestamp() == pytest.approx(stamp_ns * 1e-6, abs=1e-3)
        assert color.get_frame_timestamp_domain() == rs.timestamp_domain.global_time


def test_distances_come_out_in_metres_through_the_sdk(renderer: Any, pipeline: Any) -> None:
    renderer.write()
    depth = pipeline.wait_for_frames(5000).get_depth_frame()
    assert depth.get_distance(10, 20) == pytest.approx(0.500 + 0.200 + 0.010 + 0.001)
    sensor = pipeline.get_active_profile().get_device().first_depth_sensor()
    assert sensor.get_depth_scale() == pytest.approx(0.001)


def test_profiles_carry_the_calibration_of_the_camera(rs: Any, renderer: Any, pipeline: Any) -> None:
    profile = pipeline.get_active_profile()
    assert profile.get_device().get_info(rs.camera_info.serial_number) == "TWIN00000007"
    color = profile.get_stream(rs.stream.color).as_video_stream_profile()
    depth = profile.get_stream(rs.stream.depth).as_video_stream_profile()
    for stream in (color, depth):
        k = stream.get_intrinsics()
        assert (k.fx, k.fy, k.ppx, k.ppy, k.width, k.height) == (51.5, 52.5, 30.25, 24.75, 64, 48)
    pose = depth.get_extrinsics_to(color)
    assert pose.rotation == [1, 0, 0, 0, 1, 0, 0, 0, 1] and pose.translation == [0, 0, 0]
    assert (color.fps(), color.format(), depth.format()) == (30, rs.format.rgb8, rs.format.z16)


def test_the_sdks_own_alignment_leaves_the_depth_as_it_is(
    rs: Any, renderer: Any, pipeline: Any, expected: Expected
) -> None:
    renderer.write()
    aligned = rs.align(rs.stream.color).process(pipeline.wait_for_frames(5000)).get_depth_frame()
    _, depth = expected(1)
    values = np.asanyarray(aligned.get_data())
    covered = values > 0  # forward warping rounds some pixels onto their neighbours
    assert np.mean(covered) > 0.7
    assert np.abs(values[covered].astype(int) - depth[covered]).max() <= 11


def test_starved_pipeline_raises_as_with_an_unplugged_camera(renderer: Any, pipeline: Any) -> None:
    with pytest.raises(RuntimeError, match="Frame didn't arrive within 200"):
        pipeline.wait_for_frames(200)
    renderer.write()
    assert _pair(pipeline, 1)[0].get_frame_number() == 1


def test_device_without_a_running_renderer_says_so(rs: Any, renderer: Any, tmp_path: Path) -> None:
    (tmp_path / "frames.bin").unlink()
    with pytest.raises(TwinCameraError, match="camera is not running"):
        TwinCameraDevice(rs, tmp_path, rate_hz=30)
    (tmp_path / "camera.yaml").unlink()
    with pytest.raises(CalibrationFileError, match="start the lab"):
        TwinCameraDevice(rs, tmp_path, rate_hz=30)
