"""The small pieces under the nodes: meters, periodic threads, device loops, message conversions."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from geometry_msgs.msg import Pose
from prophrl_nodes.device_loop import DeviceLoop
from prophrl_nodes.images import ImageFormatError, ImageMessage, camera_info
from prophrl_nodes.messages import (
    ARM_JOINTS,
    joint_positions,
    to_matrix,
    to_nanoseconds,
    to_pose,
    to_stamp,
    transform_stamped,
)
from prophrl_nodes.meters import RateMeter
from prophrl_nodes.periodic import PeriodicThread
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState

from calibration.camera import PinholeCamera
from calibration.poses import transform
from robot_bridge.cell import CellError
from robot_bridge.cell_files import open_cell


def test_a_meter_knows_rate_age_and_the_largest_gap_of_its_window() -> None:
    meter = RateMeter(window_s=2.0)
    assert math.isinf(meter.age_s(0.0))
    for i in range(41):
        meter.tick(10.0 + 0.05 * i)
    assert meter.rate_hz(12.0) == pytest.approx(20.0)
    assert meter.largest_gap_s(12.3) == pytest.approx(0.3)
    assert meter.age_s(12.3) == pytest.approx(0.3)
    assert meter.rate_hz(20.0) == 0.0
    assert meter.count == 41


def test_a_periodic_thread_drops_missed_periods_instead_of_making_them_up() -> None:
    calls: list[float] = []

    def work() -> None:
        calls.append(time.monotonic())
        if len(calls) == 3:
            time.sleep(0.2)

    thread = PeriodicThread("test", 0.02, work, on_error=lambda error: pytest.fail(str(error)))
    thread.start()
    while len(calls) < 6:
        time.sleep(0.005)
    thread.stop()
    assert calls[4] - calls[3] > 0.01  # no burst after the pause


def test_an_error_in_a_periodic_thread_is_handed_over() -> None:
    errors: list[BaseException] = []

    def work() -> None:
        raise ValueError("from the thread")

    thread = PeriodicThread("test", 0.01, work, on_error=errors.append)
    thread.start()
    thread.stop()
    assert str(errors[0]) == "from the thread"


class Unplugged(Exception):
    pass


def test_a_device_that_fails_is_closed_reported_and_connected_again() -> None:
    log: list[str] = []
    recovered = threading.Event()

    def connect() -> None:
        log.append("connect")
        if len(log) == 1:
            raise Unplugged("no such device; plug it in")

    def work() -> None:
        if log.count("connect") == 2 and "close" not in log:
            raise Unplugged("it went away")
        recovered.set()

    loop = DeviceLoop(
        "test",
        connect=connect,
        work=work,
        close=lambda: log.append("close"),
        errors=(Unplugged,),
        period_s=0.01,
        on_bug=lambda error: pytest.fail(str(error)),
        retry_s=0.02,
    )
    loop.start()
    assert recovered.wait(5.0)
    loop.stop()
    assert log == ["connect", "connect", "close", "connect", "close"]
    assert loop.failures == 2
    assert loop.problem == ""


def test_stamps_and_poses_survive_the_way_through_messages() -> None:
    assert to_nanoseconds(to_stamp(1_700_000_000_123_456_789)) == 1_700_000_000_123_456_789
    T = transform((0.1, -0.2, 0.3), Rotation.from_euler("xyz", (3.0, 0.1, -1.0)))
    np.testing.assert_allclose(to_matrix(to_pose(T)), T, atol=1e-12)
    message = transform_stamped(T, 5, "base", "tcp")
    assert (message.header.frame_id, message.child_frame_id) == ("base", "tcp")
    assert message.transform.translation.z == pytest.approx(0.3)


def test_a_pose_that_nobody_filled_in_is_refused() -> None:
    pose = Pose()
    pose.orientation.w = 0.0
    with pytest.raises(ValueError, match="norm"):
        to_matrix(pose)


def test_joints_are_found_by_name_in_any_order_and_missing_ones_are_named() -> None:
    message = JointState(name=list(reversed(ARM_JOINTS)), position=[6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    np.testing.assert_array_equal(joint_positions(message, ARM_JOINTS), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    message.name = [f"left_{name}" for name in message.name]
    np.testing.assert_array_equal(joint_positions(message, ARM_JOINTS), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    with pytest.raises(ValueError, match="lacks gripper"):
        joint_positions(message, (*ARM_JOINTS, "gripper"))


def test_an_image_message_refuses_pixels_of_another_size_or_type() -> None:
    message = ImageMessage(4, 6, "rgb8", "camera")
    with pytest.raises(ImageFormatError, match=r"\(4, 6, 3\)"):
        message.fill(np.zeros((6, 4, 3), np.uint8), 1)
    with pytest.raises(ImageFormatError, match="uint16"):
        message.fill(np.zeros((4, 6, 3), np.uint16), 1)


def test_an_image_message_carries_the_newest_pixels() -> None:
    """The generated setter copies; a view of the array given to it showed black images to everybody."""
    message = ImageMessage(4, 6, "rgb8", "camera")
    for value in (7, 9):
        published = message.fill(np.full((4, 6, 3), value, np.uint8), value)
        assert set(published.data) == {value}
        assert published.header.stamp.nanosec == value


def test_camera_info_carries_the_pinhole_model() -> None:
    info = camera_info(PinholeCamera(212.0, 213.0, 211.5, 119.5, 424, 240), "camera")
    assert (info.width, info.height) == (424, 240)
    np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), [[212.0, 0, 211.5], [0, 213.0, 119.5], [0, 0, 1]])
    np.testing.assert_array_equal(np.reshape(info.p, (3, 4))[:, :3], np.reshape(info.k, (3, 3)))


def test_cells_are_found_by_name_and_a_wrong_name_lists_the_right_ones() -> None:
    assert open_cell("twin", "127.0.0.9").robot.host == "127.0.0.9"
    with pytest.raises(CellError, match=r"there are .*twin"):
        open_cell("laboratory")
    with pytest.raises(CellError, match=r"no cell file at /nowhere/cell\.yaml"):
        open_cell("/nowhere/cell.yaml")
