"""What the operator's view draws: the pose of the picture's moment, the chunk's coming steps, the right camera."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from prophrl_nodes.chunk_player import Chunk
from prophrl_nodes.overlay_scene import STEP_STYLE, OverlayError, OverlayScene, camera_of
from scipy.spatial.transform import Rotation

from calibration.action_frame import draw_over, project_action_frames, render_action_frames
from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, from_ur, inverse, transform
from calibration.storage import CameraCalibration

Array = NDArray[np.float64]
S = 1_000_000_000
T_BASE_CAMERA = np.eye(4)
T_BASE_CAMERA[:3] = [[0, -0.7, 0.7, -1.2], [-1, 0, 0, 0], [0, -0.7, -0.7, 0.65]]
T_BASE_CAMERA[:3, :3] /= np.linalg.norm(T_BASE_CAMERA[:3, :3], axis=0)
CAMERA = PinholeCamera(212.0, 212.0, 211.5, 119.5, 424, 240, inverse(T_BASE_CAMERA))
CALIBRATION = CameraCalibration("0123456789ab", "2025-06-01T12:00:00+00:00", "1", CAMERA)
DOWN = Rotation.from_euler("x", np.pi)
BLACK = np.zeros((240, 424, 3), np.uint8)


def at(x: float, y: float, z: float = 0.2) -> Array:
    return transform((x, y, z), DOWN)


def expected(T: Array, opening: float, camera: PinholeCamera = CAMERA) -> NDArray[np.uint8]:
    return render_action_frames(T[None], np.array([opening]), camera)[0]


def a_chunk(rows: int = 10, execute: int = 8, rate_hz: float = 10.0) -> Chunk:
    actions = np.zeros((rows, 7))
    actions[:, 1] = 0.02
    actions[:, 6] = np.linspace(1.0, 0.0, rows)
    return Chunk.checked(1, at(-0.6, 0.0), actions, ActionConvention.ABSOLUTE_POSE_DIFFERENCE, rate_hz, execute)


def test_the_frame_stands_where_the_tool_was_when_the_picture_was_taken() -> None:
    scene = OverlayScene()
    scene.opening = 0.4
    for k in range(20):
        scene.push_pose(10 * S + k * 8_000_000, at(-0.6, 0.01 * k))
    moment = 10 * S + 5 * 8_000_000 + 2_000_000
    np.testing.assert_allclose(scene.pose_at(moment), at(-0.6, 0.0525), atol=1e-12)
    picture = scene.draw(BLACK, moment, CALIBRATION, 0.0)
    np.testing.assert_array_equal(picture, expected(at(-0.6, 0.0525), 0.4))
    assert (picture != expected(at(-0.6, 0.19), 0.4)).any()
    assert not BLACK.any()


def test_a_pose_just_outside_the_history_is_used_and_an_old_one_is_not() -> None:
    scene = OverlayScene()
    with pytest.raises(OverlayError, match="no TCP pose yet"):
        scene.pose_at(0)
    scene.push_pose(10 * S, at(-0.6, 0.1))
    np.testing.assert_array_equal(scene.pose_at(10 * S + 400_000_000), at(-0.6, 0.1))
    np.testing.assert_array_equal(scene.pose_at(10 * S - 400_000_000), at(-0.6, 0.1))
    for stamp_ns in (11 * S, 9 * S):
        with pytest.raises(OverlayError, match=r"1\.0 s from the picture's stamp"):
            scene.pose_at(stamp_ns)


def test_history_is_bounded_and_survives_a_clock_that_is_set_back() -> None:
    scene = OverlayScene()
    for k in range(1000):
        scene.push_pose(100 * S + k * 8_000_000, at(-0.6, 0.0))
    with pytest.raises(OverlayError):
        scene.pose_at(105 * S)  # 8 s of poses went in, two are kept
    scene.push_pose(107 * S, at(-0.9, 0.0))  # late by less than the history: ignored
    np.testing.assert_array_equal(scene.pose_at(107 * S), at(-0.6, 0.0))
    scene.push_pose(20 * S, at(-0.7, 0.0))
    np.testing.assert_array_equal(scene.pose_at(20 * S), at(-0.7, 0.0))


def test_coming_steps_of_the_chunk_are_shown_until_their_time_and_no_more_than_are_executed() -> None:
    scene = OverlayScene()
    scene.push_pose(10 * S, at(-0.6, 0.0))
    scene.begin_chunk(a_chunk(rows=10, execute=8), now_s=50.0)
    assert [scene.steps_ahead(now_s) for now_s in (50.0, 50.05, 50.15, 50.65, 50.75, 50.85, 60.0)] == [
        8,
        8,
        7,
        2,
        1,
        0,
        0,
    ]
    own = expected(at(-0.6, 0.0), float("nan"))
    picture = scene.draw(BLACK, 10 * S, CALIBRATION, 50.15)
    steps = np.stack([at(-0.6, 0.02 * k) for k in range(2, 9)])
    openings = np.linspace(1.0, 0.0, 10)[1:8]
    trail = render_action_frames(steps[None, ::-1], openings[None, ::-1], CAMERA, style=STEP_STYLE)[0]
    np.testing.assert_array_equal(picture, draw_over(trail, own))
    for step in project_action_frames(steps, CAMERA).centre_px_M2:
        u, v = np.rint(step).astype(int)
        assert picture[v, u].any()
    np.testing.assert_array_equal(scene.draw(BLACK, 10 * S, CALIBRATION, 51.0), own)


def test_a_picture_of_twice_the_size_is_drawn_with_twice_the_focal_length() -> None:
    scene = OverlayScene()
    scene.push_pose(10 * S, at(-0.6, 0.1))
    scene.opening = 1.0
    large = scene.draw(np.zeros((480, 848, 3), np.uint8), 10 * S, CALIBRATION, 0.0)
    np.testing.assert_array_equal(large, expected(at(-0.6, 0.1), 1.0, CAMERA.resized(848, 480)))
    with pytest.raises(OverlayError, match="640x480 px are no enlargement of the calibrated 424x240"):
        scene.draw(np.zeros((480, 640, 3), np.uint8), 10 * S, CALIBRATION, 0.0)


def test_a_camera_on_the_tool_moves_with_it() -> None:
    T_tool_camera = from_ur((0.0, -0.12, -0.15, 0.2, 0.0, 0.0))
    riding = replace(CALIBRATION, mode="eye_in_hand", T_tool_camera=T_tool_camera)
    for T in (at(-0.6, 0.1), at(-0.4, -0.2, 0.4) @ from_ur((0, 0, 0, 0.3, 0.2, 0.5))):
        camera = camera_of(riding, T, 424, 240)
        np.testing.assert_allclose(camera.T_base_camera, T @ T_tool_camera, atol=1e-12)
        (own,) = project_action_frames(T, camera).centre_px_M2
        np.testing.assert_allclose(
            own,
            project_action_frames(np.eye(4), replace(CAMERA, T_camera_base=inverse(T_tool_camera))).centre_px_M2[0],
            atol=1e-9,
        )
