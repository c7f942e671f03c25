"""Windows hold the frames and actions they promise, padded by the stated rules, also when frames are skipped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.poses import ActionConvention, difference, from_euler, integrate_chunk
from prophrl_models.data.registry.general import GeneralEpisode
from prophrl_models.data.windows import WindowRule, compose, cut, known_actions

FRAMES = 14


def episode(convention: ActionConvention, frames: int = FRAMES, known: int = FRAMES - 1) -> GeneralEpisode:
    """Two arms that wander; actions are the pose differences that ``calibration.poses`` gives."""
    rng = np.random.default_rng(3)
    state = np.zeros((frames, 2, 7), np.float32)
    state[..., :6] = np.cumsum(rng.normal(0, 0.2, (frames, 2, 6)), axis=0)
    state[..., 4] = np.clip(state[..., 4], -1.2, 1.2)
    state[..., 6] = rng.uniform(0, 1, (frames, 2))
    action = np.zeros_like(state)
    for arm in range(2):
        poses = [from_euler(row[:6]) for row in state[:, arm]]
        for t in range(frames - 1):
            action[t, arm, :6] = difference(poses[t], poses[t + 1], convention)
    action[:-1, :, 6], action[-1, :, 6] = state[1:, :, 6], state[-1, :, 6]
    images = np.zeros((frames, 2, 3, 3), np.uint8)
    images += np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return GeneralEpisode(images, state, action, np.ones(2, bool), "", convention, 10.0, None, "x", "0", known)


@pytest.mark.parametrize("convention", ActionConvention)
@pytest.mark.parametrize("steps", [2, 3, 5])
def test_composed_actions_lead_to_the_same_pose(convention: ActionConvention, steps: int) -> None:
    rng = np.random.default_rng(steps)
    actions = rng.normal(0, 0.3, (4, steps, 2, 7)).astype(np.float32)
    composed = compose(actions, convention)
    for k in range(4):
        for arm in range(2):
            start = from_euler(rng.normal(0, 0.3, 6))
            one_by_one = integrate_chunk(start, actions[k, :, arm], convention)[-1]
            at_once = integrate_chunk(start, composed[k : k + 1, arm], convention)[-1]
            assert np.allclose(one_by_one, at_once, atol=1e-5)
            assert composed[k, arm, 6] == actions[k, -1, arm, 6]


@pytest.mark.parametrize("convention", ActionConvention)
def test_skipped_frames_give_the_differences_of_the_poses_that_remain(convention: ActionConvention) -> None:
    e = episode(convention)
    window = cut(e, 1, WindowRule(history=2, actions=3, stride=4))
    assert list(window.frame_T) == [1, 1, 1, 5, 9, 13]
    for k in range(3):
        before, after = (from_euler(e.state_TN7[1 + 4 * (k + i), 0, :6]) for i in (0, 1))
        reached = integrate_chunk(before, window.action_AN7[k : k + 1, 0], convention)[0]
        assert np.allclose(reached, after, atol=1e-5)
        assert np.isclose(window.action_AN7[k, 0, 6], e.state_TN7[1 + 4 * (k + 1), 0, 6])


def test_a_window_in_the_middle_is_what_the_episode_has() -> None:
    e = episode(ActionConvention.LOCAL_FRAME_DELTA)
    window = cut(e, 5, WindowRule(history=3, actions=4))
    assert window.frame_valid_T.all() and window.action_valid_A.all()
    assert np.array_equal(window.images_THW3, e.images_THW3[2:10])
    assert np.array_equal(window.state_TN7, e.state_TN7[2:10])
    assert np.array_equal(window.action_AN7, e.action_TN7[5:9])


def test_before_the_start_the_first_frame_is_repeated() -> None:
    window = cut(episode(ActionConvention.LOCAL_FRAME_DELTA), 3, WindowRule(history=4, actions=2, stride=2))
    assert list(window.frame_T) == [1, 1, 1, 1, 3, 5, 7]
    assert list(window.images_THW3[:, 0, 0, 0]) == [1, 1, 1, 1, 3, 5, 7]
    assert list(window.frame_valid_T) == [False, False, False, True, True, True, True]


def test_after_the_end_the_last_frame_is_repeated_and_the_arm_holds() -> None:
    e = episode(ActionConvention.LOCAL_FRAME_DELTA)
    window = cut(e, FRAMES - 3, WindowRule(history=0, actions=4, min_actions=2))
    assert list(window.frame_T) == [11, 12, 13, 13, 13]
    assert list(window.frame_valid_T) == [True, True, True, False, False]
    assert list(window.action_valid_A) == [True, True, False, False]
    assert not window.action_AN7[2:, :, :6].any()
    assert np.array_equal(window.action_AN7[2:, :, 6], np.tile(e.action_TN7[12, :, 6], (2, 1)))


@pytest.mark.parametrize("known", [FRAMES - 1, FRAMES])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("min_actions", [None, 1, 2])
@pytest.mark.parametrize("step", [1, 3])
def test_every_counted_window_exists_and_no_other(known: int, stride: int, min_actions: int | None, step: int) -> None:
    rule = WindowRule(history=2, actions=3, min_actions=min_actions, stride=stride, step=step)
    e = episode(ActionConvention.ABSOLUTE_POSE_DIFFERENCE, known=known)
    windows = int(rule.count(np.array([FRAMES]))[0])
    for window in range(windows):
        found = cut(e, rule.anchor(window), rule)
        assert len(found.images_THW3) == rule.frames and found.action_valid_A.sum() >= rule.real_actions
    with pytest.raises(ValueError, match="no window at frame"):
        cut(e, rule.anchor(windows), rule)
    assert rule.count(np.array([rule.shortest - 1, rule.shortest])).tolist() == [0, 1]


def test_the_hold_after_the_last_frame_is_never_an_action() -> None:
    e = episode(ActionConvention.LOCAL_FRAME_DELTA)
    assert np.array_equal(known_actions(e, 1), e.action_TN7[: FRAMES - 1])
    assert len(known_actions(e, 4)) == FRAMES - 1 - 3
    assert len(known_actions(e, FRAMES)) == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"history": -1}, "history must be at least 0, got -1"),
        ({"actions": 0}, "actions must be at least 1, got 0"),
        ({"min_actions": 21}, r"min_actions must lie in 1\.\.20"),
        ({"stride": 0}, "stride must be at least 1"),
    ],
)
def test_impossible_windows_are_refused(values: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WindowRule(**values)


def test_frames_and_actions_near_a_gap_are_marked() -> None:
    e = episode(ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    valid = np.ones(len(e), bool)
    valid[3:6] = False  # the camera froze: the steps from frames 3, 4 and 5 are not to be trusted
    window = cut(replace(e, step_valid_T=valid), 2, WindowRule(history=1, actions=6))
    assert list(window.action_valid_A) == [True, False, False, False, True, True]
    assert list(window.frame_T) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(window.frame_valid_T) == [True, True, True, False, False, True, True, True]
    strided = cut(replace(e, step_valid_T=valid), 0, WindowRule(history=0, actions=3, stride=3))
    assert list(strided.action_valid_A) == [True, False, True], "a long step is as good as the worst of its parts"
