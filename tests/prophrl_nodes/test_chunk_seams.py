"""Chunks that continue one another: where they take over, how smoothly, and what is refused. No clock and no ROS."""

from __future__ import annotations

import math

import numpy as np
import pytest
from prophrl_nodes.chunk_player import (
    BLEND_S,
    MAX_JUMP_M,
    Chunk,
    ChunkError,
    ChunkPlayer,
    PlayerState,
    Setpoint,
    path_pose,
)
from scipy.spatial.transform import Rotation

from calibration.poses import ActionConvention, integrate_chunk, transform

START = transform((-0.6, 0.1, 0.3), Rotation.from_euler("xyz", (math.pi, 0.02, 1.2)))
RATE_HZ, TICK_S = 10.0, 0.01


def a_chunk(sequence: int, actions: np.ndarray, reference: np.ndarray = START, **settings: object) -> Chunk:
    chosen: dict[str, object] = {"execute_length": len(actions), "real_time": True, **settings}
    convention = int(ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    return Chunk.checked(sequence, reference, actions, convention, RATE_HZ, **chosen)  # type: ignore[arg-type]


def steady(rows: int = 20, dx: float = 0.01, turn: float = 0.01) -> np.ndarray:
    actions = np.zeros((rows, 7))
    actions[:, 0], actions[:, 5] = dx, turn
    actions[:, 6] = np.linspace(1.0, 0.0, rows)
    return actions


def play_on(player: ChunkPlayer, now_s: float, seconds: float) -> tuple[float, list[Setpoint]]:
    """Step every 10 ms for a while; the time then, and the targets."""
    targets = []
    for _ in range(round(seconds / TICK_S)):
        now_s += TICK_S
        setpoint = player.step(now_s)
        assert setpoint is not None
        targets.append(setpoint)
    return now_s, targets


def started(actions: np.ndarray | None = None) -> ChunkPlayer:
    player = ChunkPlayer(wait_s=1.0)
    player.play(a_chunk(1, steady() if actions is None else actions), 0.0)
    player.step(0.0)
    return player


def positions(targets: list[Setpoint]) -> np.ndarray:
    return np.array([t.T_base_tcp[:3, 3] for t in targets])


def test_a_continuation_that_agrees_with_the_old_chunk_cannot_be_seen_in_the_targets() -> None:
    actions = steady(rows=28)
    undisturbed = started(actions)
    _, expected = play_on(undisturbed, 0.0, 2.6)

    player = started(actions[:20])
    now_s, before = play_on(player, 0.0, 1.13)
    reference = integrate_chunk(START, actions[:8], ActionConvention.ABSOLUTE_POSE_DIFFERENCE)[-1]
    player.play(a_chunk(2, actions[8:28], reference, follows=1, start_step=8.0), now_s)
    _, after = play_on(player, now_s, 1.47)
    assert player.seam is not None
    assert player.seam.skipped == pytest.approx(3.3)  # three rows and a bit passed while the policy was thinking
    assert player.seam.jump_m < 1e-9
    assert player.seam.waited_s == 0.0
    for a, b in zip(before + after, expected, strict=True):
        np.testing.assert_allclose(a.T_base_tcp, b.T_base_tcp, atol=1e-9)
        assert a.opening == pytest.approx(b.opening)


def test_at_a_seam_the_target_is_continuous_and_the_difference_fades_out() -> None:
    player = started()
    now_s, before = play_on(player, 0.0, 1.0)
    reference = transform((-0.6 + 0.07, 0.1 + 0.012, 0.3), Rotation.from_euler("xyz", (math.pi, 0.05, 1.28)))
    new = a_chunk(2, steady(), reference, follows=1, start_step=7.0)
    player.play(new, now_s)
    assert player.seam is not None
    assert player.seam.jump_m == pytest.approx(0.012, abs=1e-4)
    assert 0.02 < player.seam.jump_rad < 0.05
    now_s, after = play_on(player, now_s, 0.5)
    moved = np.linalg.norm(np.diff(positions(before[-1:] + after), axis=0), axis=1)
    # 1 mm a tick is the speed of the chunk; the fade adds at most 1.5 times its mean speed.
    assert moved.max() < math.hypot(0.001, 1.5 * 0.012 * TICK_S / BLEND_S) + 1e-6
    turned = [
        Rotation.from_matrix(a.T_base_tcp[:3, :3].T @ b.T_base_tcp[:3, :3]).magnitude()
        for a, b in zip(before[-1:] + after[:-1], after, strict=True)
    ]
    assert max(turned) < 1.5 * player.seam.jump_rad * TICK_S / BLEND_S + 0.0011
    np.testing.assert_allclose(after[-1].T_base_tcp, path_pose(new.path(), 8.0), atol=1e-9)  # on the new path


def test_a_seam_during_the_fade_of_another_is_continuous_as_well() -> None:
    player = started()
    now_s, targets = play_on(player, 0.0, 0.5)
    for sequence, aside_m in ((2, 0.01), (3, -0.01)):
        reference = START.copy()
        reference[:3, 3] += (0.0, aside_m, 0.0)
        start = 4.0 if sequence == 2 else 0.5
        actions = steady(dx=0.01, turn=0.0)
        reference[0, 3] += 0.04 if sequence == 2 else 0.045
        player.play(a_chunk(sequence, actions, reference, follows=sequence - 1, start_step=start), now_s)
        now_s, more = play_on(player, now_s, 0.06)
        targets += more
    moved = np.linalg.norm(np.diff(positions(targets), axis=0), axis=1)
    assert moved.max() < 0.003


def test_after_a_late_chunk_the_target_stands_at_the_old_end_and_then_goes_on_from_there() -> None:
    player = started(steady(rows=8))
    now_s, _ = play_on(player, 0.0, 1.3)
    assert player.state is PlayerState.WAITING
    assert "late: holding at the end of chunk 1" in player.reason
    assert player.delay_s(now_s) == pytest.approx(0.5, abs=0.02)
    reference = integrate_chunk(START, steady(rows=8)[:5], ActionConvention.ABSOLUTE_POSE_DIFFERENCE)[-1]
    player.play(a_chunk(2, steady(), reference, follows=1, start_step=5.0), now_s)
    assert player.seam is not None
    assert player.seam.skipped == pytest.approx(3.0)  # not the rows of the time it stood: those were not executed
    assert player.seam.waited_s == pytest.approx(0.5, abs=0.02)
    assert player.reason == ""
    _, after = play_on(player, now_s, 0.3)
    x = positions(after)[:, 0]
    assert x[0] == pytest.approx(-0.6 + 0.08, abs=0.002)
    assert np.all(np.diff(x) > 0.0)
    assert np.diff(x).max() < 0.0011


def test_a_missing_chunk_ends_in_a_hold_at_the_last_pose_and_then_in_silence() -> None:
    player = started(steady(rows=8))
    now_s, _ = play_on(player, 0.0, 0.85)
    final = player.step(now_s)
    assert final is not None
    _, held = play_on(player, now_s, 0.9)
    for setpoint in held:  # never a target that is not on the path
        np.testing.assert_allclose(setpoint.T_base_tcp, final.T_base_tcp, atol=1e-12)
    assert player.step(now_s + 1.1) is None
    assert player.state is PlayerState.STOPPED
    assert "no new chunk for 1.0 s after chunk 1" in player.reason


def test_the_gripper_keeps_its_timing_over_a_seam() -> None:
    actions = np.zeros((16, 7))
    actions[:, 6] = 1.0
    actions[10:, 6] = 0.0  # closes when step 10 begins
    player = started(actions)
    now_s, _ = play_on(player, 0.0, 0.75)
    later = np.zeros((16, 7))
    later[:, 6] = 1.0
    later[4:, 6] = 0.0
    player.play(a_chunk(2, later, follows=1, start_step=6.0), now_s)
    _, after = play_on(player, now_s, 0.5)
    closing = next(i for i, t in enumerate(after) if t.opening == 0.0)
    assert 0.75 + (closing + 1) * TICK_S == pytest.approx(1.0, abs=0.011)


@pytest.mark.parametrize(
    ("settings", "aside_m", "words"),
    [
        ({"follows": 7}, 0.0, "it continues chunk 7, but 1 is in execution"),
        ({"follows": 1, "start_step": 8.0}, 0.0, "at step 5.0; it came too late or was made for another run"),
        ({"follows": 1, "start_step": 4.0, "execute_length": 1}, 0.0, "covers steps 4.0 to 5.0 of chunk 1"),
        ({"follows": 1, "start_step": 5.0}, MAX_JUMP_M + 0.02, "it goes on 100 mm"),
    ],
)
def test_a_chunk_that_does_not_continue_what_runs_is_refused_and_the_old_one_goes_on(
    settings: dict[str, object], aside_m: float, words: str
) -> None:
    player = started()
    now_s, _ = play_on(player, 0.0, 0.5)
    reference = START.copy()
    reference[0, 3] += 0.1 if aside_m else 0.05
    reference[0, 3] += 0.05 if aside_m else 0.0
    with pytest.raises(ChunkError, match=words):
        player.play(a_chunk(2, steady(), reference, **settings), now_s)
    _, after = play_on(player, now_s, 0.2)
    assert player.sequence == 1
    assert after[-1].T_base_tcp[0, 3] == pytest.approx(-0.6 + 0.07, abs=1e-6)


def test_a_chunk_for_an_executor_that_plays_nothing_is_refused() -> None:
    player = ChunkPlayer(wait_s=1.0)
    with pytest.raises(ChunkError, match="but none is in execution"):
        player.play(a_chunk(2, steady(), follows=1), 0.0)
    with pytest.raises(ChunkError, match="start_step must be a step of chunk 1"):
        a_chunk(2, steady(), follows=1, start_step=math.nan)
