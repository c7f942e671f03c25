"""Trials in the fast lane with simulated latency: a small program as policy, the nodes' player, schedule and turn."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from prophrl_nodes.studies.lane_trial import LANE_LAG_S, LaneSettings, LaneTrial, run_lane_trial, tcp_jerk
from prophrl_nodes.studies.latency import summarise

from calibration.poses import ActionConvention, transform
from prophrl_models.data.episode import Observation
from prophrl_models.data.image import ImageRegion, policy_image
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.committed import Committed
from prophrl_models.policies.interface import PolicySpec, Scaling
from robot_bridge.twin.fast_lane import TARGET_TICKS, FastLane
from robot_bridge.twin.tasks import held_out_placements

TASK = "place_cube"
GOAL_Y_M, SPEED_MPS, RATE_HZ, CHUNK = 0.25, 0.1, 10.0, 20


class Answer:
    def __init__(self, actions_CHD: np.ndarray) -> None:
        self.actions_CHD = actions_CHD


class StraightRunner:
    """Goes for a goal along y at a steady speed, by the pose it sees; keeps frozen rows, as a guided policy does."""

    spec = PolicySpec(
        ActionConvention.ABSOLUTE_POSE_DIFFERENCE, Scaling((0.0,) * 7, (1.0,) * 7), Scaling((0.0,) * 7, (1.0,) * 7)
    )
    sync = SyncSpec()

    def __init__(self) -> None:
        self.asked: list[Committed | None] = []

    def restart(self) -> None:
        self.asked.clear()

    def infer(self, observation: Observation, *, committed: Committed | None = None) -> Answer:
        self.asked.append(committed)
        kept = np.zeros((0, 7)) if committed is None else committed.actions_MD[: committed.frozen]
        y = float(observation.state_7[1]) + float(kept[:, 1].sum())
        rows = np.zeros((CHUNK - len(kept), 7))
        rows[:, 6] = 1.0
        for row in rows:
            row[1] = np.clip(GOAL_Y_M - y, -SPEED_MPS / RATE_HZ, SPEED_MPS / RATE_HZ)
            y += row[1]
        return Answer(np.concatenate([kept, rows]))


@pytest.fixture(scope="module")
def lane() -> Iterator[FastLane]:
    with FastLane(TASK, render=False) as lane:
        yield lane


def run(lane: FastLane, chunking: str, latency_s: float, seconds: float = 6.0) -> tuple[LaneTrial, np.ndarray]:
    """A trial that never succeeds, and the path of the TCP along y [N], one sample every 20 ms."""
    runner = StraightRunner()
    settings = LaneSettings(chunking, latency_s, execute_length=8, max_duration_s=seconds)
    trial = run_lane_trial(lane, runner, held_out_placements(TASK, 1)[0], settings)  # type: ignore[arg-type]
    return trial, lane.trajectory[:, 1, 3]


def test_the_arm_lags_behind_its_targets_by_what_the_schedule_assumes(lane: FastLane) -> None:
    lane.reset()
    lane.engage("executor")
    start = lane.world.T_base_tcp
    for _ in range(100):
        lane.offer_pose(transform((0.0, SPEED_MPS * lane.time_s, 0.0)) @ start)
        lane.run(TARGET_TICKS)
    behind_m = SPEED_MPS * lane.time_s - (lane.world.T_base_tcp[1, 3] - start[1, 3])
    assert behind_m / SPEED_MPS == pytest.approx(LANE_LAG_S, abs=0.012)


@pytest.mark.parametrize("latency_s", [0.0, 0.3])
def test_in_real_time_the_arm_never_stands_between_chunks_and_arrives_without_overshooting(
    lane: FastLane, latency_s: float
) -> None:
    trial, y = run(lane, "real_time", latency_s)
    moving = (y > y[0] + 0.02) & (y < GOAL_Y_M - 0.02)
    speed = np.diff(y)[moving[1:]] / 0.02
    assert speed.min() > 0.9 * SPEED_MPS
    assert y[-1] == pytest.approx(GOAL_Y_M, abs=0.001)
    assert y.max() < GOAL_Y_M + 0.002
    assert trial.standing_s == 0.0
    assert trial.refused == 0
    assert max(seam.jump_m for seam in trial.seams) < 1e-3
    assert not trial.success


def test_synchronous_chunks_stand_for_the_latency_at_each_seam(lane: FastLane) -> None:
    trial, y = run(lane, "synchronous", 0.3)
    speed = np.diff(y) / 0.02
    assert (np.abs(speed[50:150]) < 0.05 * SPEED_MPS).sum() > 10
    # 0.3 s of inference and 0.15 s to settle at each of the seams
    assert trial.standing_s == pytest.approx(0.45 * len(trial.seams), rel=0.3)
    assert len(trial.seams) >= 3


def test_without_guidance_the_policy_is_not_told_what_is_committed(lane: FastLane) -> None:
    runner = StraightRunner()
    for chunking, told in (("real_time", True), ("unguided", False)):
        settings = LaneSettings(chunking, 0.1, execute_length=8, max_duration_s=2.5)
        run_lane_trial(lane, runner, held_out_placements(TASK, 1)[0], settings)  # type: ignore[arg-type]
        assert len(runner.asked) >= 2
        assert runner.asked[0] is None
        assert any(committed is not None for committed in runner.asked) == told


def test_the_summary_counts_what_the_trials_did() -> None:
    settings = LaneSettings("real_time", 0.1, 8)
    won = LaneTrial(True, "", 8.0, 10, 0, 0.0, (), 20.0)
    lost = LaneTrial(False, "time limit", 30.0, 40, 2, 7.6, (), 10.0)
    cell = summarise(settings, [won, lost])
    assert (cell.rate.successes, cell.rate.trials, cell.refused) == (1, 2, 2)
    assert cell.success_duration_s == 8.0
    assert cell.standing_share == pytest.approx(0.2)
    assert cell.as_json()["interval_95"] == [cell.rate.interval.low, cell.rate.interval.high]


def test_jerk_is_the_third_derivative_of_the_path() -> None:
    t = np.arange(40) * 0.02
    path = np.column_stack([0.5 * t**3, -(t**2), 3.0 * t])
    jerk = tcp_jerk(path)
    assert jerk[5:-5] == pytest.approx(3.0, rel=1e-6)
    assert np.isnan(jerk[:2]).all()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown chunking 'eager', choose synchronous"):
        LaneSettings("eager", 0.1, 8)
    with pytest.raises(ValueError, match=r"latency must lie in 0..60 s, got -1"):
        LaneSettings("real_time", -1.0, 8)


class RegionRunner(StraightRunner):
    """Keeps the first picture it is shown; looks at a part of what the camera sees."""

    sync = SyncSpec(image_region=ImageRegion(0.2, 0.35, 0.6))

    def infer(self, observation: Observation, *, committed: Committed | None = None) -> Answer:
        if not self.asked:
            self.first = observation.image_HW3.copy()
        return super().infer(observation, committed=committed)


def test_a_policy_of_a_region_is_shown_that_region() -> None:
    runner, placement = RegionRunner(), held_out_placements(TASK, 1)[0]
    with FastLane(TASK) as lane:
        run_lane_trial(lane, runner, placement, LaneSettings("synchronous", 0.0, 8, max_duration_s=1.0))  # type: ignore[arg-type]
        whole = lane.reset(placement).image_HW3
    assert (runner.first == policy_image(whole, RegionRunner.sync.image_region)).all()
