"""Trajectories as judges see them: the table from above, below the hand and turned with it, and the motion."""

from __future__ import annotations

import numpy as np
import pytest

from prophrl_models.reward.attempts import Attempt, judge_attempts
from prophrl_models.reward.judge import JudgeError, LabelJudge, Verdict
from prophrl_models.reward.trajectory import MOTION, Trajectory, motion, tool_x, views
from tests.helpers.reaches import DOWN_EULER, camera, picture

SQUARE = (-0.62, 0.11)


def over(*points: tuple[float, float, float], opening: float = 1.0, yaw: float = DOWN_EULER[2]) -> Trajectory:
    """A hand that passes these points, in front of a table with a square."""
    state = np.array([[*p, *DOWN_EULER[:2], yaw, opening] for p in points])
    return Trajectory(picture(SQUARE, np.array([-0.9, 0.4, 0.5, 0, 0, 0, 1], np.float32)), state, camera())


def redness(view_VV3: np.ndarray) -> np.ndarray:
    return view_VV3[..., 0].astype(int) - view_VV3[..., 2] > 100


def seen(trajectory: Trajectory, ground_z_m: float = 0.0, size: int = 48) -> np.ndarray:
    return views(trajectory, np.arange(len(trajectory.state_T7)), size, 0.24, ground_z_m)


def middle(view_VV3: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(redness(view_VV3))
    return rows.mean() - (len(view_VV3) - 1) / 2, columns.mean() - (len(view_VV3) - 1) / 2


def test_the_square_is_in_the_middle_of_both_planes_where_the_hand_touches_it() -> None:
    found = seen(over((*SQUARE, 0.0), (*SQUARE, 0.15)))
    assert found.shape == (2, 48, 48, 6) and found.dtype == np.uint8
    touching, above = found
    for part in (touching[..., :3], touching[..., 3:]):
        assert np.hypot(*middle(part)) < 5, "it stands 2 cm tall, so it seems to lie a little behind"
    assert np.array_equal(above[..., :3], touching[..., :3]), "below a raised hand is what is below it"
    assert np.hypot(*middle(above[..., 3:])) > 10, "and at its own height it is seen in front of something else"


def test_what_lies_beside_the_hand_lies_where_it_is_in_metres_along_the_tools_axes() -> None:
    by_5_cm = 48 * 0.05 / 0.24
    for yaw in (-2.0, 0.0, 0.7):
        trajectory = over((*SQUARE, 0.0), yaw=yaw)
        x_2 = tool_x(trajectory.state_T7)[0]
        beside = over((SQUARE[0] - 0.05 * x_2[0], SQUARE[1] - 0.05 * x_2[1], 0.0), yaw=yaw)
        at, off = middle(seen(trajectory)[0, ..., :3]), middle(seen(beside)[0, ..., :3])
        np.testing.assert_allclose([off[0] - at[0], off[1] - at[1]], [0.0, by_5_cm], atol=1.5)


def test_from_behind_the_same_gripper_sees_the_same_turned_by_half_a_turn() -> None:
    near = (SQUARE[0] + 0.03, SQUARE[1] + 0.02, 0.05)
    ahead, behind = seen(over(near, yaw=0.3)), seen(over(near, yaw=0.3 + np.pi))
    assert np.abs(ahead.astype(int) - behind[:, ::-1, ::-1]).max() <= 3


def test_a_plane_that_is_not_the_bases_moves_the_lower_square_only() -> None:
    trajectory = over((*SQUARE, 0.1))
    at_base, raised = seen(trajectory)[0], seen(trajectory, 0.1)[0]
    assert np.array_equal(raised[..., :3], raised[..., 3:]), "the hand is in that plane"
    assert not np.array_equal(at_base[..., :3], raised[..., :3])
    assert np.array_equal(at_base[..., 3:], raised[..., 3:])


def test_a_hand_outside_the_picture_sees_its_edge_and_one_behind_the_camera_nothing() -> None:
    outside, behind = seen(over((-0.65, 5.0, 0.1), (-3.0, 0.0, 0.1)), size=16)
    assert outside[..., :3].any() and np.ptp(outside[..., :3].astype(int), axis=1).max() <= 1
    assert not behind.any()


def test_motion_says_height_opening_turn_and_way_and_a_gripper_is_the_same_from_behind() -> None:
    start, along = (-0.65, 0.0, 0.2), (-0.55, -0.1, 0.0)
    found = motion(over(start, along, opening=0.25), np.arange(2), 0.0)
    assert found.shape == (2, MOTION) and found.dtype == np.float32
    np.testing.assert_allclose(found[0, [0, 1, 4, 5]], [0.0, 0.25, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(found[1, [0, 1, 4, 5]], [-1.0, 0.25, 0.3, -0.3], atol=1e-6)
    turned, behind = (motion(over(start, yaw=yaw), np.array([0]), 0.0)[0, 2:4] for yaw in (0.4, 0.4 - np.pi))
    np.testing.assert_allclose(turned, behind, atol=1e-6)
    assert np.linalg.norm(turned - motion(over(start, yaw=0.9), np.array([0]), 0.0)[0, 2:4]) > 0.5


def test_moved_and_resized_trajectories_are_the_same_motion_and_the_same_view() -> None:
    trajectory = over((*SQUARE, 0.05), (*SQUARE, 0.2))
    moved = trajectory.moved(0.0, -0.1)
    assert np.array_equal(motion(moved, np.arange(2), 0.0), motion(trajectory, np.arange(2), 0.0))
    assert np.array_equal(
        seen(moved), seen(over((SQUARE[0], SQUARE[1] - 0.1, 0.05), (SQUARE[0], SQUARE[1] - 0.1, 0.2)))
    )
    small = trajectory.resized(120, 160)
    assert small.image_HW3.shape == (120, 160, 3) and trajectory.resized(240, 320) is trajectory
    assert np.hypot(*middle(seen(small)[0, ..., :3])) < 5


def test_what_does_not_go_together_is_refused() -> None:
    good = over((*SQUARE, 0.1))
    with pytest.raises(JudgeError, match="uint8 RGB"):
        Trajectory(good.image_HW3.astype(float), good.state_T7, good.camera)  # type: ignore[arg-type]
    with pytest.raises(JudgeError, match=r"a picture of 320x240, the start picture has 160x120; give camera.resized"):
        Trajectory(good.image_HW3[::2, ::2], good.state_T7, good.camera)
    for bad in (good.state_T7[:0], good.state_T7[:, :6], good.state_T7 * np.nan):
        with pytest.raises(JudgeError, match="finite"):
            Trajectory(good.image_HW3, bad, good.camera)


class _OfTrajectories:
    name = "by height"

    def judge(self, videos: object, tasks: object) -> list[Verdict]:
        raise AssertionError("it is asked about trajectories")

    def judge_trajectories(self, trajectories: list[Trajectory], tasks: list[str]) -> list[Verdict]:
        return [Verdict(t.state_T7[-1, 2] > 0.1, 1.0, ()) for t in trajectories]


def test_every_judge_is_asked_about_what_it_looks_at() -> None:
    low, high, video = over((*SQUARE, 0.0)), over((*SQUARE, 0.3)), np.zeros((2, 8, 8, 3), np.uint8)
    attempts = [Attempt(video, "lift", low), Attempt(video, "lift", high)]
    assert [v.success for v in judge_attempts(_OfTrajectories(), attempts)] == [False, True]
    by_label = LabelJudge.of([video], [True])
    assert [v.success for v in judge_attempts(by_label, [Attempt(video, "lift")])] == [True]
    assert judge_attempts(by_label, []) == []
    with pytest.raises(JudgeError, match="1 of 2 attempts have no calibrated camera; calibrate the cell"):
        judge_attempts(_OfTrajectories(), [*attempts[:1], Attempt(video, "lift")])
