"""A policy's play as it was commanded: a step for each row, pictures of the right moments, no pauses, and stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prophrl_interfaces.msg import ActionChunk, ExecutorStatus, SafetyMode
from prophrl_nodes.cli.main import main

from prophrl_models.data.bag import Bag, BagError
from prophrl_models.data.commanded import FINE_HZ, LAG_S, PlayedChunk, as_commanded, commanded_episode
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.episode import Episode
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.prophet.motion import integrated
from tests.helpers.reaches import CONVENTION, reach
from tests.helpers.recording import START_NS as START
from tests.helpers.recording import Recording, Sent, record

SECONDS = 3.0
TICKS = round(SECONDS * FINE_HZ)
START_NS = 1_000_000_000
CHUNK, EXECUTOR, SAFETY = "/policy/chunk", "/executor/status", "/io_and_status_controller/safety_mode"
PLAN = "/policy/plan"


def fine() -> Episode:
    """Three seconds at the camera's rate; the picture of tick k has the value k, the arm moves along x."""
    brief = reach((-0.6, 0.05))
    states = np.repeat(brief.state_T7[:1], TICKS + 1, axis=0)
    states[:, 0] += 0.002 * np.arange(TICKS + 1)
    pictures = np.broadcast_to(np.arange(TICKS + 1, dtype=np.uint8)[:, None, None, None], (TICKS + 1, 240, 320, 3))
    stamps = START_NS + (np.arange(TICKS + 1) * 1e9 / FINE_HZ).astype(np.int64)
    always = np.ones(TICKS, bool)
    return replace(
        brief,
        control_rate_hz=FINE_HZ,
        state_T7=states[:-1],
        action_T7=np.zeros((TICKS, 7), np.float32),
        stamp_ns_T=stamps[:-1],
        source_stamp_ns_T=dict.fromkeys(brief.source_stamp_ns_T, stamps[:-1]),
        valid_T=always,
        moving_T=always,
        final=replace(brief.final, image_HW3=pictures[-1], state_7=states[-1], stamp_ns=int(stamps[-1])),
        color_THW3=pictures[:-1],
    )


def chunk(seen_s: float, begin_s: float, rows: int, opening: float = 1.0) -> PlayedChunk:
    moves = np.tile([0.004, -0.002, -0.006, 0.0, 0.0, 0.01, opening], (rows, 1))
    return PlayedChunk(START_NS + round(seen_s * 1e9), START_NS + round(begin_s * 1e9), moves)


def shown(episode: Episode) -> NDArray[np.float64]:
    """Seconds at which the pictures of the steps were taken, and the final one."""
    ticks = np.append(episode.color_THW3[:, 0, 0, 0], episode.final.image_HW3[0, 0, 0])
    return ticks.astype(np.float64) / FINE_HZ


def test_every_row_is_a_step_and_pauses_are_left_out() -> None:
    found = as_commanded(fine(), [chunk(0.0, 0.1, 8), chunk(1.3, 1.4, 8, opening=0.0)], 10.0)
    assert len(found) == 16 and found.control_rate_hz == 10.0
    times = shown(found)
    assert times[0] == pytest.approx(0.0, abs=0.02) and times[8] == pytest.approx(1.3, abs=0.02)
    for first, begin_s in ((0, 0.1), (8, 1.4)):
        expected = begin_s + LAG_S + 0.1 * np.arange(1, 8)
        assert times[first + 1 : first + 8] == pytest.approx(expected, abs=0.5 / FINE_HZ + 1e-6)
    assert times[16] == pytest.approx(1.4 + 0.8 + LAG_S, abs=0.02)
    assert (np.diff(found.stamp_ns_T) == 100_000_000).all() and found.valid_T.all() and found.moving_T.all()


def test_states_are_measured_where_a_chunk_begins_and_counted_after_that() -> None:
    source = fine()
    found = as_commanded(source, [chunk(0.0, 0.1, 8), chunk(1.3, 1.4, 8, opening=0.0)], 10.0)
    seen = round(1.3 * FINE_HZ)
    assert found.state_T7[8, :6] == pytest.approx(source.state_T7[seen, :6], abs=1e-6)
    assert found.state_T7[8, 6] == 1.0 and (found.state_T7[9:, 6] == 0.0).all()  # as commanded, not as measured
    for first in (0, 8):
        counted = integrated(found.state_T7[first : first + 1], found.action_T7[None, first : first + 7], CONVENTION)[0]
        assert found.state_T7[first : first + 8] == pytest.approx(counted, abs=1e-5)


def test_after_a_stop_the_rows_that_were_left_count_and_nothing_moves() -> None:
    source = fine()
    begin_s = SECONDS - 0.35
    found = as_commanded(source, [chunk(begin_s - 0.1, begin_s, 8)], 10.0, START_NS + round((SECONDS - 0.1) * 1e9))
    assert len(found) == 8
    assert shown(found)[4:] == pytest.approx(SECONDS, abs=1e-6)  # the last picture there is
    assert np.linalg.norm(np.diff(found.state_T7[:, :3], axis=0), axis=1).min() > 0.005  # while the states go on


def test_rows_that_a_trial_did_not_wait_for_are_left_out() -> None:
    begin_s = SECONDS - 0.35
    found = as_commanded(fine(), [chunk(begin_s - 0.1, begin_s, 8)], 10.0)
    assert len(found) == 3
    with pytest.raises(ValueError, match="no row of any chunk was carried out"):
        as_commanded(fine(), [chunk(SECONDS, SECONDS + 0.5, 8)], 10.0)
    with pytest.raises(ValueError, match="needs a chunk"):
        as_commanded(fine(), [], 10.0)


def played(tmp_path: Path, plan_z: tuple[float, ...] = (), stopped: bool = True, **changes: Any) -> Path:
    """A bag of two seconds with three chunks, of which the executor took two, and a stop at 1.9 s; with ``plan_z`` they
    are the first of so many that were planned at once, each with its own way down."""
    sent = list(record(2.0, width=64, height=48).sent)
    for sequence, begin_s in ((4, 0.3), (5, 0.9), (6, 1.3)):
        said: dict[str, Any] = {"convention": int(CONVENTION), "rate_hz": 10.0, "sequence": sequence} | changes
        rows = np.tile([0.01, 0.0, -0.01, 0.0, 0.0, 0.0, 0.0], (6, 1)).astype(np.float32)
        message = ActionChunk(**said, chunk_length=6, execute_length=4, action_dim=7, actions=rows.flatten().tolist())
        sent.append(at(CHUNK, begin_s, message, seen_s=begin_s - 0.05))
        if sequence != 5:
            sent.append(at(EXECUTOR, begin_s + 0.01, ExecutorStatus(state=ExecutorStatus.EXECUTING, sequence=sequence)))
    if plan_z:
        rows = np.concatenate([np.tile([0.01, 0.0, z, 0.0, 0.0, 0.0, 0.0], (4, 1)) for z in plan_z]).astype(np.float32)
        said = {"convention": int(CONVENTION), "rate_hz": 10.0, "sequence": 4, "chunk_length": len(rows)}
        message = ActionChunk(**said, execute_length=4, action_dim=7, actions=rows.flatten().tolist())
        sent.append(at(PLAN, 0.29, message, seen_s=0.25))
    sent += [at(SAFETY, 0.05, SafetyMode(mode=1)), *([at(SAFETY, 1.9, SafetyMode(mode=3))] if stopped else [])]
    recording = Recording(tuple(sorted(sent, key=lambda s: s.log_ns)), outcome="failure")
    return recording.write(tmp_path / "bags")


def at(topic: str, time_s: float, message: Any, seen_s: float = 0.0) -> Sent:
    stamp_ns = START + round((seen_s or time_s) * 1e9)
    if hasattr(message, "header"):
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return Sent(topic, stamp_ns, START + round(time_s * 1e9), message)


def test_a_bag_of_a_trial_becomes_an_episode_of_its_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    played(tmp_path)
    replace(record(1.0, width=64, height=48), episode_id="shown").write(
        tmp_path / "bags"
    )  # a demonstration: nobody sent chunks
    assert main(["dataset", "commanded", str(tmp_path / "bags"), str(tmp_path / "play")]) == 0
    told = capsys.readouterr().out
    assert "1 episodes, 1 bags left out" in told and "no recording of a policy at work" in told
    dataset = Dataset(tmp_path / "play")
    dataset.verify()
    episode = dataset[0]
    assert len(episode) == 8  # two chunks were taken, four rows of each; the stop does not shorten the last
    assert episode.action_T7[:, 0] == pytest.approx(0.01) and episode.metadata.outcome == "failure"
    assert main(["dataset", "commanded", str(tmp_path / "bags"), str(tmp_path / "play")]) == 0
    assert len(Dataset(tmp_path / "play")) == 1


def test_an_attempt_that_was_planned_has_all_rows_of_its_plan_whatever_became_of_it(tmp_path: Path) -> None:
    plan_z = (-0.01, -0.01, 0.02, 0.03)
    found = commanded_episode(Bag(played(tmp_path, plan_z)), SyncSpec(), CONVENTION)
    assert found.action_T7[:, 2] == pytest.approx(np.repeat(plan_z, 4))
    counted = integrated(found.state_T7[4:5], found.action_T7[None, 4:-1], CONVENTION)[0]
    assert found.state_T7[4:] == pytest.approx(counted, abs=1e-5), "from where the commands led, not the arm"
    assert np.array_equal(found.color_THW3[-1], found.final.image_HW3), "nothing more was seen"
    with pytest.raises(BagError, match="2 of 4 chunks of its plan were carried out and the arm was not stopped"):
        commanded_episode(Bag(played(tmp_path / "cut", plan_z, stopped=False)), SyncSpec(), CONVENTION)
    # What was held after the plan's end is not part of it.
    short = commanded_episode(Bag(played(tmp_path / "short", plan_z[:1])), SyncSpec(), CONVENTION)
    assert short.action_T7[:, 2] == pytest.approx(np.repeat(plan_z[:1], 4))


@pytest.mark.parametrize("changes", [{"rate_hz": 5.0}, {"convention": 3}])
def test_chunks_of_another_rate_or_convention_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    bag = Bag(played(tmp_path, **changes))
    with pytest.raises(BagError, match="asked for are ABSOLUTE_POSE_DIFFERENCE at 10 Hz"):
        commanded_episode(bag, SyncSpec(), CONVENTION)
