"""Playing chunks: timing, the three conventions, refusals. No clock and no ROS."""

from __future__ import annotations

import math

import numpy as np
import pytest
from prophrl_nodes.chunk_player import MAX_CLOCK_STEP_S, Chunk, ChunkError, ChunkPlayer, PlayerState
from scipy.spatial.transform import Rotation

from calibration.poses import ActionConvention, difference, from_euler, transform

START = transform((-0.6, 0.1, 0.3), Rotation.from_euler("xyz", (math.pi, 0.02, 1.2)))


def a_chunk(sequence: int = 1, rows: int = 20, execute: int = 20, dx: float = 0.01, **changes: object) -> Chunk:
    actions = np.zeros((rows, 7))
    actions[:, 0] = dx
    actions[:, 6] = np.linspace(1.0, 0.0, rows)
    settings: dict[str, object] = {
        "T_base_reference": START,
        "actions_CHD": actions,
        "convention": ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
        "rate_hz": 10.0,
        "execute_length": execute,
    }
    settings.update(changes)
    return Chunk.checked(sequence, **settings)  # type: ignore[arg-type]


def run(
    player: ChunkPlayer, start_s: float, seconds: float, rate_hz: float = 100.0
) -> list[tuple[float, np.ndarray, float]]:
    played = []
    for i in range(round(seconds * rate_hz) + 1):
        now_s = start_s + i / rate_hz
        setpoint = player.step(now_s)
        if setpoint is not None:
            played.append((now_s - start_s, setpoint.T_base_tcp, setpoint.opening))
    return played


def test_each_action_is_complete_exactly_one_period_after_the_one_before() -> None:
    player = ChunkPlayer(wait_s=1.0)
    player.play(a_chunk(), 5.0)
    for elapsed_s, T, _ in run(player, 5.0, 2.0):
        assert T[0, 3] == pytest.approx(-0.6 + 0.1 * elapsed_s, abs=1e-9)  # 0.01 m per 0.1 s, linear in between
    assert player.state is PlayerState.WAITING
    assert player.executed == 20


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_actions_computed_from_a_path_lead_along_that_path_in_every_convention(convention: ActionConvention) -> None:
    rng = np.random.default_rng(3)
    path = [START]
    for _ in range(12):
        path.append(path[-1] @ from_euler(rng.normal(0.0, 0.02, 6)))
    actions = np.zeros((12, 7))
    for i in range(12):
        actions[i, :6] = difference(path[i], path[i + 1], convention)
    player = ChunkPlayer(wait_s=1.0)
    player.play(a_chunk(rows=12, execute=12, actions_CHD=actions, convention=int(convention)), 0.0)
    played = {round(t, 3): T for t, T, _ in run(player, 0.0, 1.2)}
    for i in range(13):
        np.testing.assert_allclose(played[round(i * 0.1, 3)], path[i], atol=1e-6)


def test_only_the_first_rows_are_executed_and_the_last_pose_is_repeated_while_waiting() -> None:
    player = ChunkPlayer(wait_s=0.5)
    player.play(a_chunk(execute=8), 0.0)
    played = run(player, 0.0, 1.2)
    final = -0.6 + 8 * 0.01
    assert max(T[0, 3] for _, T, _ in played) == pytest.approx(final)
    waiting = [T[0, 3] for t, T, _ in played if t >= 0.8]
    assert len(waiting) > 30
    assert waiting == pytest.approx([final] * len(waiting))


def test_after_waiting_too_long_it_says_nothing_more_until_it_is_reset() -> None:
    player = ChunkPlayer(wait_s=0.5)
    player.play(a_chunk(execute=8), 0.0)
    played = run(player, 0.0, 3.0)
    assert played[-1][0] == pytest.approx(1.3, abs=0.02)  # 0.8 s of actions and 0.5 s of patience
    assert player.state is PlayerState.STOPPED
    assert "no new chunk for 0.5 s after chunk 1" in player.reason
    with pytest.raises(ChunkError, match="engage again"):
        player.play(a_chunk(sequence=2), 3.0)
    player.reset()
    player.play(a_chunk(sequence=1), 4.0)
    assert player.state is PlayerState.EXECUTING


def test_the_opening_of_an_action_is_commanded_when_its_motion_begins() -> None:
    actions = np.zeros((3, 7))
    actions[:, 6] = (1.0, 0.4, 0.0)
    player = ChunkPlayer(wait_s=1.0)
    player.play(a_chunk(rows=3, execute=3, actions_CHD=actions), 0.0)
    openings = {round(t, 3): opening for t, _, opening in run(player, 0.0, 0.4)}
    assert openings[0.0] == openings[0.09] == 1.0
    assert openings[0.1] == openings[0.19] == 0.4
    assert openings[0.2] == openings[0.4] == 0.0


def test_while_waiting_the_gripper_keeps_the_opening_of_the_last_executed_action() -> None:
    player = ChunkPlayer(wait_s=1.0)
    player.play(a_chunk(execute=10), 0.0)
    waiting = [opening for t, _, opening in run(player, 0.0, 1.5) if t > 1.0]
    assert waiting == pytest.approx([1.0 - 9 / 19] * len(waiting))


def test_openings_outside_the_gripper_are_clipped() -> None:
    actions = np.zeros((2, 7))
    actions[:, 6] = (1.3, -0.2)
    player = ChunkPlayer(wait_s=1.0)
    player.play(a_chunk(rows=2, execute=2, actions_CHD=actions), 0.0)
    openings = {round(t, 3): opening for t, _, opening in run(player, 0.0, 0.3)}
    assert (openings[0.05], openings[0.2]) == (1.0, 0.0)


def test_a_starved_process_goes_on_late_instead_of_leaping() -> None:
    player = ChunkPlayer(wait_s=1.0)
    player.play(a_chunk(), 0.0)
    before = player.step(0.5 * MAX_CLOCK_STEP_S)
    after = player.step(0.5 * MAX_CLOCK_STEP_S + 0.7)
    assert before is not None
    assert after is not None
    assert after.T_base_tcp[0, 3] - before.T_base_tcp[0, 3] == pytest.approx(0.1 * MAX_CLOCK_STEP_S, abs=1e-9)


def test_a_new_chunk_takes_over_at_once_and_starts_from_its_own_reference() -> None:
    player = ChunkPlayer(wait_s=1.0)
    player.play(a_chunk(), 0.0)
    player.step(0.04)
    reference = START.copy()
    reference[2, 3] += 0.005
    player.play(a_chunk(sequence=2, T_base_reference=reference), 0.05)
    setpoint = player.step(0.05)
    assert setpoint is not None
    np.testing.assert_allclose(setpoint.T_base_tcp, reference, atol=1e-12)
    assert (player.sequence, player.executed) == (2, 0)


def test_an_old_chunk_is_refused() -> None:
    player = ChunkPlayer(wait_s=1.0)
    player.play(a_chunk(sequence=7), 0.0)
    with pytest.raises(ChunkError, match="chunk 7 is not newer than chunk 7"):
        player.play(a_chunk(sequence=7), 0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"convention": 0}, r"convention 0 is unknown, known are 1 \(LOCAL_FRAME_DELTA\)"),
        ({"actions_CHD": np.full((4, 7), np.nan), "execute_length": 4}, "finite"),
        ({"actions_CHD": np.zeros((4, 6)), "execute_length": 4}, "7 columns"),
        ({"execute_length": 21}, r"execute_length must lie in \[1, 20\]"),
        ({"execute_length": 0}, r"execute_length must lie in \[1, 20\]"),
        ({"rate_hz": math.nan}, "rate_hz"),
        ({"T_base_reference": np.full((4, 4), np.inf)}, "finite"),
    ],
)
def test_a_chunk_that_makes_no_sense_is_refused_with_the_field_that_is_wrong(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ChunkError, match=words):
        a_chunk(**changes)
