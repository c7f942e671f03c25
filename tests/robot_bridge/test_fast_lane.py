"""The fast lane: the same world and servo path in one process, repeatable, able to execute what was demonstrated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from calibration.poses import ActionConvention, difference
from robot_bridge.cell import SafetyConfig
from robot_bridge.servo import ServoState
from robot_bridge.twin.fast_demonstration import record_demonstration
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.tasks import held_out_placements, sample_placement

CUBE = sample_placement("place_cube", np.random.default_rng(3))


@pytest.fixture(scope="module")
def lane() -> Iterator[FastLane]:
    with FastLane("place_cube", render=False) as lane:
        yield lane


@pytest.fixture(scope="module")
def rendering_lane() -> Iterator[FastLane]:
    with FastLane("place_cube") as lane:
        yield lane


def line(lane: FastLane, shift_m: tuple[float, float, float], steps: int) -> np.ndarray:
    T = lane.world.T_base_tcp
    poses = np.stack([T] * steps)
    poses[:, :3, 3] += np.linspace(0.0, 1.0, steps + 1)[1:, None] * np.array(shift_m)
    return poses


def test_pose_targets_are_reached_as_the_robot_measures_them(lane: FastLane) -> None:
    lane.reset(CUBE)
    poses = line(lane, (0.06, 0.08, -0.15), 15)
    lane.execute_pose_targets(poses, 1.0, 10.0)
    observation = lane.hold(0.5)
    # The arm carries DH deltas; the pose correction takes their constant part away.
    assert np.linalg.norm(observation.T_base_tcp[:3, 3] - poses[-1][:3, 3]) < 0.001
    assert lane.servo.status().state is ServoState.FOLLOWING


def test_the_arm_lags_behind_its_targets_by_about_a_tenth_of_a_second(lane: FastLane) -> None:
    lane.reset(CUBE)
    poses = line(lane, (0.0, 0.2, 0.0), 15)
    lane.execute_pose_targets(poses, 1.0, 10.0)
    behind_m = poses[-1][1, 3] - lane.world.T_base_tcp[1, 3]
    lag_s = behind_m / (0.2 / 1.5)
    assert 0.04 < lag_s < 0.20


def test_chunks_are_integrated_from_the_measured_pose_and_only_as_far_as_asked(lane: FastLane) -> None:
    lane.reset(CUBE)
    start = lane.world.T_base_tcp
    chunk = np.tile([0.0, 0.01, 0.0, 0.0, 0.0, 0.0, 0.4], (20, 1))
    lane.execute_chunk(chunk, ActionConvention.ABSOLUTE_POSE_DIFFERENCE, 8)
    assert lane.time_s == pytest.approx(0.8)
    observation = lane.hold(0.8)
    moved = difference(start, observation.T_base_tcp, ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    np.testing.assert_allclose(moved, [0, 0.08, 0, 0, 0, 0], atol=0.0015)
    assert observation.state_7[6] == pytest.approx(0.4, abs=0.03)


def test_chunk_after_chunk_does_not_creep(lane: FastLane) -> None:
    lane.reset(CUBE)
    still = np.tile([0.0] * 6 + [1.0], (5, 1))
    start = lane.world.T_base_tcp
    for _ in range(12):
        lane.execute_chunk(still, ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    assert np.linalg.norm(lane.world.T_base_tcp[:3, 3] - start[:3, 3]) < 0.001


def test_silence_holds_the_arm(lane: FastLane) -> None:
    lane.reset(CUBE)
    lane.execute_pose_targets(line(lane, (0.0, 0.15, 0.0), 10), 1.0, 10.0)
    lane.run(150)
    held = lane.world.q
    lane.run(250)
    assert lane.servo.status().state is ServoState.HOLDING
    np.testing.assert_allclose(lane.world.q, held, atol=1e-3)


def test_the_same_arguments_give_the_same_run(lane: FastLane) -> None:
    def run() -> np.ndarray:
        lane.reset(CUBE)
        lane.execute_pose_targets(line(lane, (0.05, 0.1, -0.2), 12), 0.5, 10.0)
        return lane.world.qpos

    np.testing.assert_array_equal(run(), run())


def test_unusable_requests_are_refused_with_the_value(lane: FastLane) -> None:
    lane.reset(CUBE)
    with pytest.raises(ValueError, match=r"\[CH, 7\], got shape \(3, 6\)"):
        lane.execute_chunk(np.zeros((3, 6)), ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    with pytest.raises(ValueError, match=r"finite"):
        lane.execute_chunk(np.full((3, 7), np.nan), ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    with pytest.raises(ValueError, match=r"1\.\.3, got 4"):
        lane.execute_chunk(np.zeros((3, 7)), ActionConvention.ABSOLUTE_POSE_DIFFERENCE, 4)
    with pytest.raises(ValueError, match=r"divide 100 Hz.*got 30"):
        FastLane("place_cube", control_rate_hz=30.0, render=False)
    with pytest.raises(ValueError, match="unknown task"):
        FastLane("fold_shirt", render=False)
    with pytest.raises(ValueError, match="build another lane"):
        record_demonstration("grasp_bottle", CUBE, 0, lane=lane)
    with pytest.raises(ValueError, match="transport_s"):
        record_demonstration("place_cube", CUBE, 0, lane=lane, transport_s=0.5)


def test_observations_are_images_and_measured_states(rendering_lane: FastLane) -> None:
    observation = rendering_lane.reset(CUBE)
    assert observation.image_HW3.shape == (240, 320, 3) and observation.image_HW3.dtype == np.uint8
    assert observation.state_7.shape == (7,) and observation.state_7.dtype == np.float32
    np.testing.assert_allclose(observation.state_7[:3], observation.T_base_tcp[:3, 3], atol=1e-6)
    assert observation.state_7[6] > 0.97
    red = (observation.image_HW3[..., 0] > 120) & (observation.image_HW3[..., 1] < 70)
    assert 30 < red.sum() < 3000  # the cube is in the picture
    again = rendering_lane.observe()
    assert again.image_HW3 is not observation.image_HW3  # what was given out is not overwritten


def test_a_recorded_demonstration_replays_to_success(rendering_lane: FastLane) -> None:
    placement = held_out_placements("place_cube")[2]
    demo = record_demonstration("place_cube", placement, 3, lane=rendering_lane)
    assert demo["success"], demo["reason"]
    steps = len(demo["phase_T"])
    assert demo["image_THW3"].shape == (steps, 240, 320, 3)
    assert demo["state_T7"].shape == demo["action_T7"].shape == (steps, 7)
    assert np.all(np.diff(demo["stamp_ns_T"]) == 100_000_000)
    # The images show the motion.
    assert np.abs(np.diff(demo["image_THW3"][:: steps // 4].astype(int), axis=0)).mean() > 1.0
    # Actions lead from state to state, so executing them from the start repeats the deed.
    positions = np.cumsum(demo["action_T7"][:-1, :3], axis=0) + demo["state_T7"][0, :3]
    np.testing.assert_allclose(positions, demo["state_T7"][1:, :3], atol=1e-4)
    rendering_lane.reset(placement)
    rendering_lane.execute_chunk(demo["action_T7"], ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    rendering_lane.hold(0.5)
    assert rendering_lane.success().success, rendering_lane.success().reason


def test_pressing_the_table_is_a_protective_stop_until_the_next_reset() -> None:
    with FastLane("place_cube", render=False, safety=SafetyConfig(workspace_min_m=(-0.9, -0.45, -0.2))) as lane:
        placement = held_out_placements("place_cube")[0]
        lane.reset(placement)
        T_N44 = np.repeat(lane.world.T_base_tcp[None], 40, axis=0)
        T_N44[:, 2, 3] = np.linspace(T_N44[0, 2, 3], -0.08, 40)
        lane.execute_pose_targets(T_N44, 0.0, 10.0)
        assert "collision" in lane.protective_stop
        assert lane.servo.status().state is ServoState.STOPPED
        stopped = lane.world.T_base_tcp
        lane.execute_pose_targets(T_N44[:1], 1.0, 10.0)
        assert np.linalg.norm(lane.world.T_base_tcp[:3, 3] - stopped[:3, 3]) < 0.002
        lane.reset(placement)
        assert lane.protective_stop == ""
        lane.execute_pose_targets(T_N44[:5], 1.0, 10.0)
        assert lane.servo.status().state is ServoState.FOLLOWING
