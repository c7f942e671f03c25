"""Candidate views: the board in the image, the arm able to go there, nothing in the way."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from calibration.board import DEFAULT_BOARD
from calibration.camera import PinholeCamera
from calibration.next_pose import visible_corners
from calibration.poses import inverse, transform
from robot_bridge.arm_clearance import path_problem
from robot_bridge.cell import SafetyConfig
from robot_bridge.twin.calibration_scene import nominal_T_base_board, nominal_T_tool_board
from robot_bridge.twin.camera_place import nominal_T_base_camera, nominal_T_tool_camera
from robot_bridge.ur_kinematics import Kinematics
from robot_bridge.view_poses import (
    MAX_TURN_RAD,
    ViewLimits,
    ViewSetup,
    candidates,
    clearance_for,
    in_view,
    most_different,
)

KINEMATICS = Kinematics()
HOME = np.array([0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0])
SAFETY = SafetyConfig()
CAMERA = PinholeCamera(424.0, 424.0, 423.5, 239.5, 848, 480)
FIXED = ViewSetup("eye_to_hand", CAMERA, DEFAULT_BOARD, nominal_T_base_camera(), nominal_T_tool_board())
RIDING = ViewSetup("eye_in_hand", CAMERA, DEFAULT_BOARD, nominal_T_tool_camera(), nominal_T_base_board())


def draw(setup: ViewSetup, **settings: object) -> list:
    return candidates(setup, HOME, HOME, KINEMATICS, SAFETY, np.random.default_rng(0), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("setup", [FIXED, RIDING], ids=["eye_to_hand", "eye_in_hand"])
def test_every_candidate_shows_the_whole_board_and_can_be_driven_to(setup: ViewSetup) -> None:
    views = draw(setup)
    assert len(views) >= 20
    T = np.array([view.T_base_tool for view in views])
    corners = DEFAULT_BOARD.corners_board_N3
    assert visible_corners(T, setup.X, setup.Y, corners, CAMERA, setup.mode).all()
    clearance = clearance_for(setup, KINEMATICS)
    for view in views:
        np.testing.assert_allclose(KINEMATICS.forward(view.q), view.T_base_tool, atol=1e-9)
        assert np.abs(view.q - HOME).max() <= MAX_TURN_RAD
        assert path_problem(HOME, view.q, clearance, SAFETY) == ""
        assert (view.T_base_tool[:3, 3] > SAFETY.workspace_min_m).all()
        assert (view.T_base_tool[:3, 3] < SAFETY.workspace_max_m).all()


@pytest.mark.parametrize("setup", [FIXED, RIDING], ids=["eye_to_hand", "eye_in_hand"])
def test_candidates_differ_in_tilt_roll_distance_and_place(setup: ViewSetup) -> None:
    boards = np.array([setup.T_camera_board(view.T_base_tool) for view in draw(setup)])
    tilts = np.degrees(np.arccos(boards[:, 2, 2]))
    rolls = np.degrees(np.arctan2(boards[:, 1, 0], boards[:, 0, 0]))
    assert np.ptp(tilts) > 15.0
    assert np.ptp(rolls) > 60.0
    assert np.ptp(boards[:, 2, 3]) > 0.1
    assert np.ptp(boards[:, 0, 3]) > 0.1


def test_a_wide_margin_keeps_the_board_in_view_of_a_camera_that_stands_elsewhere() -> None:
    limits = ViewLimits(margin_px=90.0, tilt_rad=(0.0, 0.4), roll_rad=0.6)
    views = draw(FIXED, limits=limits, doubt_m=0.1)
    assert len(views) >= 10
    rng = np.random.default_rng(4)
    seen = []
    for view in views:
        offset = transform(rng.uniform(-0.06, 0.06, 3), Rotation.from_rotvec(np.radians(rng.uniform(-6, 6, 3))))
        true = ViewSetup("eye_to_hand", CAMERA, DEFAULT_BOARD, FIXED.X @ offset, FIXED.Y)
        seen.append(in_view(true, true.T_camera_board(view.T_base_tool), ViewLimits(margin_px=0.0)))
    assert np.mean(seen) > 0.85


@pytest.mark.parametrize("setup", [FIXED, RIDING], ids=["eye_to_hand", "eye_in_hand"])
def test_one_view_corrects_the_guess_of_the_camera(setup: ViewSetup) -> None:
    tool = draw(setup, count=1)[0].T_base_tool
    wrong = transform((0.05, -0.04, 0.06), Rotation.from_rotvec([0.1, -0.05, 0.08]))
    guess = ViewSetup(setup.mode, CAMERA, DEFAULT_BOARD, setup.X @ wrong, setup.Y)
    corrected = guess.corrected(tool, setup.T_camera_board(tool))
    np.testing.assert_allclose(corrected.X, setup.X, atol=1e-12)


def test_the_tool_pose_and_the_board_in_the_camera_are_two_words_for_one_thing() -> None:
    T_camera_board = transform((0.05, -0.02, 0.6), Rotation.from_rotvec([0.2, 0.1, 0.5]))
    for setup in (FIXED, RIDING):
        np.testing.assert_allclose(setup.T_camera_board(setup.T_base_tool(T_camera_board)), T_camera_board, atol=1e-12)


def test_a_board_seen_from_behind_is_not_in_view() -> None:
    facing = transform((-0.1, -0.1, 0.6))
    turned = facing @ transform((0.0, 0.0, 0.0), Rotation.from_euler("y", 180, degrees=True))
    assert in_view(FIXED, facing, ViewLimits())
    assert not in_view(FIXED, turned, ViewLimits())


def test_a_box_without_room_gives_no_candidate() -> None:
    tight = SafetyConfig(workspace_min_m=(-0.66, -0.21, 0.54), workspace_max_m=(-0.65, -0.20, 0.55))
    assert candidates(FIXED, HOME, HOME, KINEMATICS, tight, np.random.default_rng(0), attempts=200) == []


def test_the_most_different_view_is_turned_farthest_from_those_taken() -> None:
    views = draw(FIXED, count=20)
    first = most_different(views, [])
    assert first == 0
    chosen = views[most_different(views, [views[0].T_base_tool])]
    turn = Rotation.from_matrix((inverse(views[0].T_base_tool) @ chosen.T_base_tool)[:3, :3]).magnitude()
    turns = [Rotation.from_matrix((inverse(views[0].T_base_tool) @ v.T_base_tool)[:3, :3]).magnitude() for v in views]
    assert turn > np.median(turns)
