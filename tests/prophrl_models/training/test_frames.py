"""Training rows: rests are cut out, chunks lead where the hand went, waypoints are read off in hindsight."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from calibration.poses import ActionConvention, difference, from_euler, integrate_chunk
from prophrl_models.data.episode import Episode
from prophrl_models.training.frames import (
    SCALE_FLOOR,
    FrameOptions,
    episode_rows,
    gripper_events,
    kept_frames,
    policy_scalings,
    resting,
    typical_orientation,
)
from tests.helpers.reaches import DOWN_EULER, RATE_HZ, reach

OPTIONS = FrameOptions()


def rests_of(episode: Episode) -> np.ndarray:
    return resting(episode.state_T7, episode.action_T7[:, 6].astype(np.float64), RATE_HZ, OPTIONS)


def test_a_pause_is_cut_to_one_frame() -> None:
    brisk, slow = reach((-0.7, 0.1)), reach((-0.7, 0.1), pause=15)
    assert rests_of(slow).sum() >= 12
    lengths = [len(episode_rows(e, OPTIONS).frame_T) for e in (brisk, slow)]
    assert lengths[1] - lengths[0] <= 2


def test_a_trembling_hand_rests() -> None:
    episode = reach((-0.7, 0.1), pause=15)
    state = episode.state_T7.copy()
    state[:, :3] += 0.0007 * np.random.default_rng(0).normal(size=(len(state), 3)).astype(np.float32)
    assert rests_of(replace(episode, state_T7=state)).sum() >= 10


def test_waiting_for_the_gripper_is_not_rest() -> None:
    episode = reach((-0.7, 0.1))
    closing = np.flatnonzero(np.diff(episode.state_T7[:, 6]) < -0.05)
    assert not rests_of(episode)[closing].any()


def test_motion_is_kept_frame_by_frame() -> None:
    assert kept_frames(np.array([False, True, True, True, False]), idle_keep=1).tolist() == [0, 1, 4]
    assert kept_frames(np.array([True, True, False]), idle_keep=0).tolist() == [2]


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_chunks_lead_from_each_kept_pose_to_the_later_ones(convention: ActionConvention) -> None:
    episode = reach((-0.6, -0.1), pause=8)
    poses = [from_euler(s[:6]) for s in [*episode.state_T7.astype(np.float64), episode.final.state_7]]
    action = episode.action_T7.copy()
    action[:, :6] = [difference(a, b, convention) for a, b in itertools.pairwise(poses)]
    rows = episode_rows(replace(episode, action_T7=action, convention=convention), OPTIONS)
    reached = integrate_chunk(from_euler(rows.state_T7[2, :6].astype(np.float64)), rows.chunk_TCD[2], convention)
    for step in (0, 4, 9):
        expected = from_euler(rows.state_T7[3 + step, :6].astype(np.float64))
        np.testing.assert_allclose(reached[step], expected, atol=1e-4)


def test_chunk_past_the_end_stays_and_keeps_the_gripper() -> None:
    rows = episode_rows(reach((-0.7, 0.1)), OPTIONS)
    assert (rows.chunk_TCD[-1, 1:, :6] == 0).all()
    assert (rows.chunk_TCD[-1, :, 6] == rows.chunk_TCD[-1, 0, 6]).all()


def test_waypoint_before_closing_is_where_the_hand_closes() -> None:
    rows = episode_rows(reach((-0.7, 0.1)), OPTIONS)
    np.testing.assert_allclose(rows.waypoint_T7[0, :3], [-0.7, 0.1, 0.02], atol=1e-6)
    assert rows.waypoint_T7[0, 6] < 0.5


def test_waypoint_after_the_last_event_is_where_the_hand_ends() -> None:
    episode = reach((-0.7, 0.1))
    rows = episode_rows(episode, OPTIONS)
    np.testing.assert_allclose(rows.waypoint_T7[-1, :3], episode.final.state_7[:3])


def test_partial_opening_has_events_and_chatter_has_none() -> None:
    command = np.concatenate([np.full(10, 0.6), np.zeros(10), np.full(5, 0.6)])
    assert gripper_events(command).tolist() == [10, 20]
    assert gripper_events(0.5 + 0.05 * np.random.default_rng(0).normal(size=50).clip(-1, 1)).tolist() == []
    noisy = command + 0.05 * np.sin(np.arange(25) * 2.0)
    assert gripper_events(noisy).tolist() == [10, 20]


def test_rows_near_a_gap_are_not_imitated() -> None:
    episode = reach((-0.7, 0.1))
    valid = np.ones(len(episode), dtype=bool)
    valid[18] = False
    rows = episode_rows(replace(episode, valid_T=valid), replace(OPTIONS, chunk=4))
    position = rows.frame_T.tolist().index(18)
    assert (rows.weight_T[position - 3 : position + 1] == 0).all()
    assert rows.weight_T[position - 5] == 1 and rows.weight_T[position + 1] == 1
    assert rows.waypoint_weight_T[position] == 0 and rows.waypoint_weight_T[position - 1] == 1


def test_episode_without_motion_is_named() -> None:
    episode = reach((-0.7, 0.1))
    state = np.repeat(episode.state_T7[:1], len(episode), axis=0)
    action = np.zeros_like(episode.action_T7)
    with pytest.raises(ValueError, match="reach-0"):
        episode_rows(replace(episode, state_T7=state, action_T7=action), OPTIONS)


def test_typical_orientation_is_independent_of_the_euler_branch() -> None:
    episode = reach((-0.7, 0.1))
    state = episode.state_T7.copy()
    state[::2, 3] = -np.pi + 0.002
    state[1::2, 3] = np.pi - 0.002
    rows = episode_rows(replace(episode, state_T7=state), OPTIONS)
    mean = from_euler([0, 0, 0, *typical_orientation([rows])])
    np.testing.assert_allclose(mean, from_euler([0, 0, 0, *DOWN_EULER]), atol=2e-3)


def test_scalings_keep_rest_at_zero_and_openings_within_one(normalisation) -> None:  # type: ignore[no-untyped-def]
    action, _ = policy_scalings(normalisation)
    assert action.offset[:6] == (0.0,) * 6
    assert all(scale >= floor for scale, floor in zip(action.scale, SCALE_FLOOR, strict=False))
    assert action.scale[3:6] == SCALE_FLOOR[3:]  # these demonstrations never turn the hand
    for opening, expected in ((0.0, -1.0), (1.0, 1.0)):
        assert (opening - action.offset[6]) / action.scale[6] == pytest.approx(expected)
