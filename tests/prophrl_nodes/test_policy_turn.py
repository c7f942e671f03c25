"""When the policy may look and speak: never while a chunk runs, never without an engaged executor."""

from __future__ import annotations

import numpy as np
import pytest
from prophrl_nodes.chunk_player import Chunk, PlayerState
from prophrl_nodes.chunk_schedule import ChunkSchedule, LatencyBudget
from prophrl_nodes.policy_turn import FOLLOWING, HOLDING, PolicyTurn

SECOND_NS = 1_000_000_000


def a_turn(state: PlayerState = PlayerState.IDLE, sequence: int = 0, reason: str = "") -> PolicyTurn:
    turn = PolicyTurn(settle_s=0.2)
    turn.on_executor(int(state), sequence, reason, 5 * SECOND_NS)
    return turn


def test_an_engaged_idle_executor_is_an_invitation() -> None:
    assert a_turn().ask(6 * SECOND_NS, "executor", HOLDING).mine


def test_it_waits_for_missing_nodes_and_names_them() -> None:
    assert "arm node" in a_turn().ask(0, None, 0).waiting_for
    assert "executor node" in PolicyTurn(0.2).ask(0, "executor", FOLLOWING).waiting_for


def test_it_does_not_speak_while_the_arm_obeys_somebody_else_or_is_idle() -> None:
    assert a_turn().ask(0, "teleop", FOLLOWING).lost
    assert "the arm obeys teleop" in a_turn().ask(0, "teleop", FOLLOWING).waiting_for
    assert "the arm obeys nobody" in a_turn().ask(0, "", 0).waiting_for
    assert not a_turn().ask(0, "executor", 0).mine


def test_a_stopped_executor_is_the_operators_business() -> None:
    waiting = a_turn(PlayerState.STOPPED, reason="no new chunk").ask(0, "executor", HOLDING).waiting_for
    assert "operator" in waiting
    assert a_turn(PlayerState.STOPPED, reason="no new chunk").ask(0, "executor", HOLDING).lost
    assert "no new chunk" in waiting
    # An executor that was started again: the arm still obeys the name of the one before.
    assert "not engaged" in a_turn(PlayerState.IDLE, reason="not engaged").ask(0, "executor", HOLDING).waiting_for


def test_between_chunks_it_looks_only_at_what_was_measured_after_the_arm_settled() -> None:
    turn = a_turn(PlayerState.EXECUTING, 3)
    executing = turn.ask(6 * SECOND_NS, "executor", FOLLOWING)
    assert "chunk in execution" in executing.waiting_for and not executing.lost
    turn.on_executor(int(PlayerState.WAITING), 3, "", 7 * SECOND_NS)
    turn.on_executor(int(PlayerState.WAITING), 3, "", 8 * SECOND_NS)  # said again: the wait began at 7 s
    answer = turn.ask(9 * SECOND_NS, "executor", FOLLOWING)
    assert answer.mine
    assert answer.not_before_ns == 7_200_000_000


def test_after_speaking_it_waits_for_the_executor_to_begin_and_then_looks_again() -> None:
    turn = a_turn(PlayerState.WAITING, 3)
    turn.on_sent(4, 10 * SECOND_NS)
    assert "begin" in turn.ask(10_500_000_000, "executor", FOLLOWING).waiting_for
    assert turn.ask(12 * SECOND_NS, "executor", FOLLOWING).mine  # lost or refused: a new chunk from a new observation
    turn.on_executor(int(PlayerState.EXECUTING), 4, "", 13 * SECOND_NS)
    assert not turn.ask(14 * SECOND_NS, "executor", FOLLOWING).mine


def test_a_new_run_does_not_wait_for_chunks_of_the_last_one() -> None:
    turn = a_turn(PlayerState.WAITING, 3)
    turn.on_sent(9, 10 * SECOND_NS)
    turn.begin()
    assert turn.ask(11 * SECOND_NS, "executor", FOLLOWING).mine


# ---- real-time chunking


def an_overlapping_turn() -> PolicyTurn:
    """A turn whose chunk 3 has 20 rows at 10 Hz, of which 8 are to be executed before the next look."""
    budget = LatencyBudget()
    budget.add(0.3)
    schedule = ChunkSchedule(20, 10.0, 8, tracking_lag_s=0.1, budget=budget)
    rows = np.zeros((20, 7))
    schedule.sent(Chunk.checked(3, np.eye(4), rows, 2, 10.0, 20, real_time=True))
    turn = PolicyTurn(settle_s=0.2, schedule=schedule)
    turn.on_executor(int(PlayerState.EXECUTING), 3, "", 10 * SECOND_NS, progress=7.5)
    return turn


def test_in_real_time_it_looks_while_the_chunk_runs_when_enough_of_it_is_executed() -> None:
    turn = an_overlapping_turn()
    assert "chunk in execution" in turn.ask(10_100_000_000, "executor", FOLLOWING).waiting_for
    assert turn.continuation(10_100_000_000, np.eye(4)) is not None
    answer = turn.ask(10_160_000_000, "executor", FOLLOWING)  # 7.5 and 1.6 rows: eight, and one of lag
    assert answer.mine
    assert answer.continues
    found = turn.continuation(10_200_000_000, np.eye(4))
    assert found is not None
    assert found.start_step == pytest.approx(8.5)
    before = turn.continuation(9_900_000_000, np.eye(4))  # a pose measured before the executor's last word
    assert before is not None
    assert before.start_step == pytest.approx(5.5)


def test_in_real_time_it_waits_for_the_executor_to_take_over_and_looks_again_when_it_does_not() -> None:
    turn = an_overlapping_turn()
    turn.on_sent(4, 10_300_000_000)
    assert "take the next chunk" in turn.ask(10_400_000_000, "executor", FOLLOWING).waiting_for
    assert turn.ask(11_400_000_000, "executor", FOLLOWING).continues


def test_in_real_time_a_chunk_that_ended_is_followed_as_a_synchronous_one() -> None:
    turn = an_overlapping_turn()
    turn.on_executor(int(PlayerState.WAITING), 3, "the next chunk is late", 12 * SECOND_NS, progress=20.0)
    answer = turn.ask(13 * SECOND_NS, "executor", FOLLOWING)
    assert answer.mine
    assert not answer.continues
    assert answer.not_before_ns == 12_200_000_000
    assert turn.continuation(13 * SECOND_NS, np.eye(4)) is None


def test_in_real_time_a_chunk_of_another_run_is_left_to_end() -> None:
    turn = an_overlapping_turn()
    turn.on_executor(int(PlayerState.EXECUTING), 9, "", 10 * SECOND_NS, progress=15.0)
    assert "chunk in execution" in turn.ask(10_100_000_000, "executor", FOLLOWING).waiting_for


def test_in_real_time_a_new_run_leaves_the_last_ones_chunk_to_end() -> None:
    turn = an_overlapping_turn()
    assert turn.ask(10_160_000_000, "executor", FOLLOWING).continues
    turn.begin()
    assert "chunk in execution" in turn.ask(10_170_000_000, "executor", FOLLOWING).waiting_for
