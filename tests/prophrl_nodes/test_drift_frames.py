"""Which frames of an episode the drift check keeps, and which joint angles it gives them."""

from __future__ import annotations

import numpy as np
import pytest
from prophrl_nodes.drift_watch.frames import FrameKeeper, Track
from rclpy.serialization import serialize_message

from tests.helpers.drift_episodes import image_message

MS = 1_000_000


def picture(stamp_ns: int, size: tuple[int, int] = (4, 6)) -> bytes:
    """A tiny picture that carries its own time, in milliseconds modulo 251."""
    pixels = np.full((*size, 3), stamp_ns // MS % 251, np.uint8)
    return bytes(serialize_message(image_message(pixels, stamp_ns)))


def angles(stamp_ns: int) -> np.ndarray:
    """Joint angles that tell the time in seconds."""
    return np.arange(1, 7) * 1e-9 * stamp_ns


def played(seconds: float, keeper: FrameKeeper, joints: bool = True) -> FrameKeeper:
    """Joints at 125 Hz, a picture every 33 ms that arrives 30 ms after its stamp."""
    for now in range(0, round(1e9 * seconds), MS):
        if joints and now % (8 * MS) == 0:
            keeper.joints(now, angles(now))
            keeper.gripper(now, 1e-9 * now / seconds)
        stamp = now - 30 * MS
        if stamp > 0 and stamp % (33 * MS) == 0:
            keeper.image(picture(stamp))
    return keeper


@pytest.mark.parametrize("seconds", [1.0, 4.0, 9.0, 31.0])
def test_frames_are_spread_over_the_whole_episode_whatever_its_length(seconds: float) -> None:
    frames = played(seconds, FrameKeeper(20)).frames()
    assert frames is not None
    # A picture comes every 33 ms, so frames at least 0.25 s apart are 0.264 s apart.
    assert len(frames) == min(20, int((seconds - 0.064) / 0.264) + 1)
    assert frames.stamp_s_T[0] < 0.1
    assert frames.stamp_s_T[-1] > seconds - max(0.35, 2.0 * seconds / 20)
    steps = np.diff(frames.stamp_s_T)
    assert steps.min() > 0.2 and steps.max() < 2.2 * steps.min()


def test_every_frame_has_the_angles_and_the_opening_at_its_own_stamp() -> None:
    frames = played(9.0, FrameKeeper(20)).frames()
    assert frames is not None
    np.testing.assert_allclose(frames.q_T6, frames.stamp_s_T[:, None] * np.arange(1, 7), atol=1e-9)
    np.testing.assert_allclose(frames.opening_T, frames.stamp_s_T / 9.0, atol=1e-9)
    milliseconds = np.round(1e3 * frames.stamp_s_T).astype(int)
    np.testing.assert_array_equal(frames.images_THW3[:, 0, 0, 0], milliseconds % 251)


def test_a_picture_that_comes_before_its_joints_waits_for_them() -> None:
    keeper = FrameKeeper(20)
    keeper.joints(0, angles(0))
    keeper.image(picture(5 * MS))
    assert keeper.frames() is None
    keeper.joints(8 * MS, angles(8 * MS))
    frames = keeper.frames()
    assert frames is not None
    np.testing.assert_allclose(frames.q_T6[0], angles(5 * MS))


def test_pictures_without_joints_are_counted_and_not_hoarded() -> None:
    keeper = played(10.0, FrameKeeper(20), joints=False)
    assert keeper.frames() is None
    assert keeper.without_joints > 30
    assert keeper.seen > 250


def test_a_gap_in_the_joints_is_not_bridged() -> None:
    track = Track()
    for stamp in (0, 8 * MS, 300 * MS):
        track.push(stamp, angles(stamp))
    assert track.at(100 * MS) is None
    assert track.at(301 * MS) is None
    np.testing.assert_allclose(track.at(4 * MS), angles(4 * MS))
    track.push(200 * MS, angles(0))  # late: out of order
    np.testing.assert_allclose(track.at(300 * MS), angles(300 * MS))


def test_pictures_of_another_size_than_the_last_are_left_out() -> None:
    keeper = FrameKeeper(20)
    for k in range(12):
        keeper.joints(k * 300 * MS - 5 * MS, angles(k * 300 * MS))
        keeper.joints(k * 300 * MS + 3 * MS, angles(k * 300 * MS))
        keeper.image(picture(k * 300 * MS + MS, (4, 6) if k < 5 else (8, 12)))
    frames = keeper.frames()
    assert frames is not None
    assert frames.images_THW3.shape == (7, 8, 12, 3)


def test_a_count_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        FrameKeeper(1)
