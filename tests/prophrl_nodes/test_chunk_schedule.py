"""When to look again, what is committed then, and why the committed rows begin one lag of the arm ago."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
from prophrl_nodes.chunk_player import Chunk, ChunkPlayer
from prophrl_nodes.chunk_schedule import ChunkSchedule, LatencyBudget
from scipy.spatial.transform import Rotation

from calibration.poses import ActionConvention, integrate_chunk, transform

CONVENTION = ActionConvention.ABSOLUTE_POSE_DIFFERENCE
START = transform((-0.6, 0.0, 0.3), Rotation.from_euler("xyz", (math.pi, 0.02, 1.2)))
RATE_HZ, CHUNK, TICK_S = 10.0, 20, 0.01


def a_budget(*latencies_s: float) -> LatencyBudget:
    budget = LatencyBudget()
    for latency_s in latencies_s:
        budget.add(latency_s)
    return budget


def a_schedule(execute_length: int = 8, latency_s: float = 0.3, lag_s: float = 0.1) -> ChunkSchedule:
    return ChunkSchedule(CHUNK, RATE_HZ, execute_length, lag_s, a_budget(latency_s))


def a_chunk(sequence: int = 1, **settings: object) -> Chunk:
    actions = np.zeros((CHUNK, 7))
    actions[:, 1] = 0.01
    actions[:, 6] = np.linspace(1.0, 0.0, CHUNK)
    return Chunk.checked(sequence, START, actions, int(CONVENTION), RATE_HZ, CHUNK, **settings)  # type: ignore[arg-type]


# ---- latency


def test_what_is_expected_is_near_the_worst_of_the_last_latencies_and_overruns_are_counted() -> None:
    budget = a_budget(*[0.1] * 18, 0.3, 0.3)
    assert budget.expected_s == pytest.approx(0.3)
    assert budget.overruns == 2  # one in twenty is no reason to expect it; two are
    for _ in range(19):
        budget.add(0.1)
    assert (budget.expected_s, budget.worst_s) == pytest.approx((0.1, 0.3))
    assert LatencyBudget().expected_s == 0.0


# ---- when


def test_it_looks_after_the_rows_to_execute_yet_never_so_late_that_the_answer_would_come_after_the_end() -> None:
    assert a_schedule(execute_length=8).look_at == pytest.approx(9.0)  # the arm has done eight one lag later
    assert a_schedule(execute_length=20, latency_s=0.3).look_at == pytest.approx(20 - 3 - 0.5)
    assert a_schedule(execute_length=8, latency_s=1.5).look_at == pytest.approx(20 - 15 - 0.5)
    assert a_schedule(execute_length=8, latency_s=9.0).look_at == pytest.approx(1.0)  # hopeless: as early as possible


def test_it_is_never_due_for_a_chunk_it_does_not_know() -> None:
    schedule = a_schedule()
    assert not schedule.due(1, 15.0)
    schedule.sent(a_chunk(1))
    assert schedule.due(1, 9.0)
    assert not schedule.due(1, 8.9)
    assert not schedule.due(2, 15.0)
    schedule.reset()
    assert not schedule.due(1, 15.0)
    assert schedule.continuation(1, 15.0, START) is None


# ---- what


def test_committed_rows_start_one_lag_ago_and_rows_until_the_answer_are_frozen() -> None:
    schedule, chunk = a_schedule(latency_s=0.3), a_chunk()
    schedule.sent(chunk)
    T_measured = chunk.path()[8]
    found = schedule.continuation(1, 9.0, T_measured)
    assert found is not None
    assert (found.follows, found.start_step) == (1, 8.0)
    assert found.committed.frozen == 4  # one row of lag, three of inference
    np.testing.assert_allclose(found.committed.actions_MD, chunk.actions_CHD[8:], atol=1e-6)


def test_rows_are_frozen_for_the_usual_answer_and_not_for_the_slowest() -> None:
    budget = a_budget(*[0.3] * 9, *[0.9] * 4)
    assert (budget.typical_s, budget.expected_s) == pytest.approx((0.3, 0.9))
    assert LatencyBudget().typical_s == 0.0
    schedule, chunk = ChunkSchedule(CHUNK, RATE_HZ, 8, 0.1, budget), a_chunk()
    schedule.sent(chunk)
    found = schedule.continuation(1, 9.0, chunk.path()[8])
    assert found is not None
    assert found.committed.frozen == 4


def test_between_two_steps_the_committed_rows_follow_the_same_path() -> None:
    schedule, chunk = a_schedule(), a_chunk()
    schedule.sent(chunk)
    found = schedule.continuation(1, 9.4, chunk.path()[8])
    assert found is not None
    assert found.start_step == pytest.approx(8.4)
    assert found.committed.actions_MD.shape == (11, 7)
    poses = integrate_chunk(chunk.path()[8], found.committed.actions_MD, CONVENTION)
    assert poses[0][1, 3] == pytest.approx(0.094, abs=1e-6)
    assert poses[-1][1, 3] == pytest.approx(0.194, abs=1e-6)


def test_near_the_end_everything_left_is_frozen_and_at_the_end_nothing_is_left() -> None:
    schedule, chunk = a_schedule(latency_s=1.0), a_chunk()
    schedule.sent(chunk)
    found = schedule.continuation(1, 17.0, chunk.path()[16])
    assert found is not None
    assert (len(found.committed.actions_MD), found.committed.frozen) == (4, 4)
    assert schedule.continuation(1, 21.0, chunk.path()[20]) is None


# ---- why: an arm that lags, a policy that goes straight for a goal


LAG_S, GOAL_M, SPEED_MPS = 0.1, 0.5, 0.2


def a_plan(y_measured_m: float) -> np.ndarray:
    """Deltas from the measured pose to the goal at a steady speed, as a policy learns them from measured poses."""
    steps = np.zeros((CHUNK, 7))
    y = y_measured_m
    for row in steps:
        row[1] = np.clip(GOAL_M - y, -SPEED_MPS / RATE_HZ, SPEED_MPS / RATE_HZ)
        y += row[1]
    return steps


def chase(reference: str, latency_s: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Target and arm [N] along y; each look lays the new chunk from the given reference. Frozen rows are kept."""
    lag_s = LAG_S if reference == "measured, one lag ago" else 0.0
    schedule = ChunkSchedule(CHUNK, RATE_HZ, 8, lag_s, a_budget(latency_s))
    player = ChunkPlayer(wait_s=1.0, blend_s=1e-9)  # no fading: jumps are to be seen
    delay: deque[float] = deque([0.0] * round(LAG_S / TICK_S))
    first = Chunk.checked(1, START, a_plan(0.0), int(CONVENTION), RATE_HZ, CHUNK, real_time=True)
    player.play(first, 0.0)
    schedule.sent(first)
    pending: tuple[float, Chunk] | None = None
    target_m, arm_m = [], []
    for tick in range(450):
        now_s = tick * TICK_S
        if pending is not None and now_s >= pending[0]:
            schedule.sent(pending[1])
            player.play(pending[1], now_s)
            pending = None
        setpoint = player.step(now_s)
        assert setpoint is not None
        target_m.append(float(setpoint.T_base_tcp[1, 3]))
        delay.append(target_m[-1])
        arm_m.append(delay.popleft())
        if pending is None and schedule.due(player.sequence, player.progress):
            laid_m = target_m[-1] if reference == "commanded" else arm_m[-1]
            T_reference = START.copy()
            T_reference[1, 3] = laid_m
            found = schedule.continuation(player.sequence, player.progress, T_reference)
            assert found is not None
            rows = a_plan(arm_m[-1])  # what the policy sees is the measured pose, whatever the reference
            if reference != "measured":
                frozen = found.committed.frozen
                done_m = float(found.committed.actions_MD[:frozen, 1].sum())
                rows = np.concatenate(
                    [found.committed.actions_MD[:frozen], a_plan(arm_m[-1] + done_m)[: CHUNK - frozen]]
                )
            chunk = Chunk.checked(
                player.sequence + 1, T_reference, rows, int(CONVENTION), RATE_HZ, CHUNK,
                follows=found.follows, start_step=found.start_step, real_time=True,
            )  # fmt: skip
            pending = (now_s + latency_s, chunk)
    return np.array(target_m), np.array(arm_m)


def test_the_measured_reference_one_lag_ago_neither_jumps_at_seams_nor_overshoots_the_goal() -> None:
    step_m = SPEED_MPS * TICK_S
    target, arm = chase("measured, one lag ago")
    assert np.diff(target).max() < step_m + 1e-6
    assert np.diff(target).min() > -1e-6
    assert target.max() < GOAL_M + 1e-6
    assert arm[-1] == pytest.approx(GOAL_M, abs=1e-6)

    target, _ = chase("measured")
    assert np.diff(target).min() < -0.8 * SPEED_MPS * LAG_S  # pulled back by the lag at each seam

    target, _ = chase("commanded")
    assert target.max() > GOAL_M + 0.8 * SPEED_MPS * LAG_S  # goes too far by the lag
