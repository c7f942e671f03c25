"""Comparing a replay with its recording: lag, errors at equal places of the motion, the gripper's timing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from prophrl_nodes.replaying.track import Samples, Track, TrackError
from prophrl_nodes.replaying.tracking import (
    TrackingError,
    compare,
    estimate_lag,
    gripper_lateness,
    path_distances,
    switches,
    turn_angles,
)
from scipy.spatial.transform import Rotation

from calibration.poses import from_ur, transform
from robot_bridge.ur_kinematics import Kinematics

ARM = Kinematics(tool=transform((0.0, 0.0, 0.174)))
HOME = np.array([0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0])


def joints(time_s: np.ndarray) -> np.ndarray:
    """A smooth motion of all joints that never repeats itself within ten seconds."""
    phases = np.array([0.0, 0.4, 0.9, 1.3, 2.0, 2.9])
    slow, fast = np.sin(0.5 * time_s[:, None] + phases), np.sin(1.7 * time_s[:, None] + 2.0 * phases)
    return HOME + 0.15 * slow + 0.03 * fast


def track(seconds: float = 6.0, late_s: float = 0.0, closes_at_s: float = 3.0) -> Track:
    """That motion, ``late_s`` later; the gripper closes within half a second."""
    time_s = np.arange(round(seconds * 100) + 1) / 100.0 - late_s
    q = joints(time_s)
    opening = 1.0 - 0.7 * np.clip((time_s - closes_at_s) / 0.5, 0.0, 1.0)
    return Track(0, q, np.stack([ARM.forward(row) for row in q]), opening)


@pytest.mark.parametrize("late_s", [-0.137, 0.0, 0.06, 0.333])
def test_a_replay_that_only_comes_later_has_that_lag_and_no_error(late_s: float) -> None:
    found = compare(track(), track(late_s=late_s))
    assert found.lag_s == pytest.approx(late_s, abs=0.002)
    # What is left is less than half a sample of motion; at its two ends the path lacks that much.
    assert found.position_mm.max < 2.0 and found.joint_rad.max < 0.002
    assert found.path_mm.p95 < 0.1 and found.path_mm.max < 8.0
    assert found.gripper_s == pytest.approx([0.0], abs=0.016) and found.gripper_unmatched == 0


def test_a_constant_offset_is_found_in_millimetres_and_degrees_whatever_the_lag() -> None:
    replayed = track(late_s=0.1)
    T_shift = from_ur([0.003, 0.0, -0.004, 0.0, 0.0, 0.0])
    turn = transform((0.0, 0.0, 0.0), Rotation.from_rotvec([0.0, math.radians(2.0), 0.0]))
    moved = replayed.T_base_tcp_N44 @ turn
    moved[:, :3, 3] += T_shift[:3, 3]
    found = compare(track(), replace(replayed, T_base_tcp_N44=moved))
    assert found.lag_s == pytest.approx(0.1, abs=0.002)
    for value in (found.position_mm.p50, found.position_mm.max):
        assert value == pytest.approx(5.0, abs=0.3)
    assert found.rotation_deg.p50 == pytest.approx(2.0, abs=0.02)


def test_errors_of_one_place_show_in_the_largest_and_not_in_the_median() -> None:
    replayed = track()
    T = replayed.T_base_tcp_N44.copy()
    T[300:305, 0, 3] += 0.02
    found = compare(track(), replace(replayed, T_base_tcp_N44=T))
    assert found.position_mm.p50 < 0.01 and found.position_mm.p95 < 0.01
    assert found.position_mm.max == pytest.approx(20.0)


def test_a_gripper_that_comes_early_is_told_apart_from_the_arms_lag() -> None:
    found = compare(track(), track(late_s=0.1, closes_at_s=2.85))
    assert found.gripper_s == pytest.approx([-0.15], abs=0.016)


def test_a_gripper_that_stays_open_is_unmatched() -> None:
    found = compare(track(), replace(track(), opening_N=np.ones(601)))
    assert found.gripper_s == () and found.gripper_unmatched == 1


def test_a_replay_cut_short_is_compared_as_far_as_it_went() -> None:
    found = compare(track(6.0), track(4.0))
    assert found.compared_s == pytest.approx(4.0, abs=0.02) and found.missing_s == pytest.approx(2.0, abs=0.02)
    with pytest.raises(TrackingError, match="overlap by less than"):
        compare(track(6.0), track(0.3))


def test_a_motionless_recording_has_no_lag_and_is_still_compared() -> None:
    still = track()
    still = replace(still, q_N6=np.tile(HOME, (601, 1)), T_base_tcp_N44=np.tile(ARM.forward(HOME), (601, 1, 1)))
    found = compare(still, still)
    assert math.isnan(found.lag_s) and found.to_json()["lag_s"] is None and found.position_mm.max == 0.0


def test_the_lag_stands_up_to_noise_and_quantisation() -> None:
    rng = np.random.default_rng(0)
    a, b = track().q_N6, track(late_s=0.085).q_N6
    noisy = np.round((b + rng.normal(0.0, 2e-4, b.shape)) / 1e-3) * 1e-3
    assert estimate_lag(a, noisy) == pytest.approx(0.085, abs=0.01)


def test_turn_angles_are_exact_for_small_and_large_turns() -> None:
    wanted = np.array([0.0, 1e-7, 1e-3, 1.0, 3.1])
    T_a = np.tile(transform((0.0, 0.0, 0.0), Rotation.from_euler("xyz", (3.0, 0.3, -1.0))), (5, 1, 1))
    T_b = T_a.copy()
    T_b[:, :3, :3] = T_a[:, :3, :3] @ Rotation.from_rotvec(wanted[:, None] * [0.0, 0.6, 0.8]).as_matrix()
    assert turn_angles(T_a, T_b) == pytest.approx(wanted, abs=1e-8)


def test_distances_to_a_path_ignore_timing_but_not_sideways_errors() -> None:
    path = np.column_stack([np.linspace(0.0, 1.0, 101), np.zeros(101), np.zeros(101)])
    ahead = path[:80] + np.array([0.043, 0.002, 0.0])
    assert path_distances(ahead, path) == pytest.approx(0.002)
    pausing = np.repeat(path, [1 + 400 * (k == 50) for k in range(101)], axis=0)  # four seconds in one place
    assert path_distances(ahead, pausing) == pytest.approx(0.002)


def test_a_line_that_is_passed_down_and_up_again_is_followed_both_times() -> None:
    height = np.concatenate([np.linspace(0.3, 0.0, 120), np.zeros(50), np.linspace(0.0, 0.3, 120)])
    aside = np.column_stack([np.linspace(0.0, 0.4, 150), np.zeros(150), np.full(150, 0.3)])
    path = np.concatenate([np.column_stack([np.zeros((290, 2)), height]), aside])
    noise = np.random.default_rng(0).normal(0.0, 2e-4, path.shape)
    assert path_distances(path + noise, path).max() < 1.5e-3
    wrong = path + noise
    wrong[200:230, 1] += 0.02  # on the way up, where the way down was right
    found = path_distances(wrong, path)
    assert found[200:230] == pytest.approx(0.02, abs=1.5e-3) and np.delete(found, slice(200, 230)).max() < 1.5e-3


def test_switches_need_to_go_well_beyond_the_middle() -> None:
    dithering = 0.5 + 0.05 * np.sin(np.arange(500))
    assert switches(dithering) == []
    closing = np.concatenate([np.ones(100), dithering[:50], np.zeros(100), np.ones(50)])
    assert [opens for _, opens in switches(closing)] == [False, True]
    late_s, unmatched = gripper_lateness(closing, np.concatenate([np.ones(20), closing]), 0.15)
    assert late_s == pytest.approx([0.05, 0.05]) and unmatched == 0


def test_tracks_are_resampled_onto_the_common_time_of_their_streams() -> None:
    q, T, opening = Samples("joints"), Samples("poses"), Samples("gripper")
    base_ns = 1_760_000_000_000_000_000
    for k in range(126):  # 125 Hz, one second
        q.add(base_ns + k * 8_000_000, np.full(6, k * 0.008))
        turned = Rotation.from_rotvec([0.0, 0.0, k * 0.008])
        T.add(base_ns + k * 8_000_000, transform((k * 0.008, 0.0, 0.0), turned))
    for k in reversed(range(48)):  # arrived in the wrong order, and begins later
        opening.add(base_ns + 20_000_000 + k * 20_000_000, k * 0.02)
    found = Track.of(q, T, opening)
    assert found.start_ns == base_ns + 20_000_000 and len(found) == 95
    assert found.q_N6[:, 0] == pytest.approx(0.02 + found.time_s_N)
    assert found.T_base_tcp_N44[:, 0, 3] == pytest.approx(0.02 + found.time_s_N)
    turns = Rotation.from_matrix(found.T_base_tcp_N44[:, :3, :3]).as_rotvec()[:, 2]
    assert turns == pytest.approx(0.02 + found.time_s_N)
    assert found.opening_N == pytest.approx(found.time_s_N)
    with pytest.raises(TrackError, match="gripper: 0 samples are too few"):
        Track.of(q, T, Samples("gripper"))
