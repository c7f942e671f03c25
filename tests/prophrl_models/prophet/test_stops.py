"""Attempts that a stop ended, continued: the picture stays, states follow from actions, nothing is continued twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prophrl_nodes.cli.main import main

from prophrl_models.data.commanded import ACTIONS, COMMANDED
from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.data.dataset_format import DatasetError
from prophrl_models.data.episode import Episode
from prophrl_models.data.split import original_name
from prophrl_models.prophet.motion import integrated
from prophrl_models.prophet.stops import ARM_STOPPED, continued, write_stops
from prophrl_models.reward.classifier_data import AsRecorded, labelled_videos
from tests.helpers.reaches import CONVENTION, places, reach

STOP = 9


def stopped(number: int, still: int = 0) -> Episode:
    """A reach that ends in a stop on its way down, and ``still`` recorded steps after it."""
    whole = reach(places(8, 0)[number], number)
    rest = np.minimum(np.arange(STOP + still), STOP - 1)
    final = replace(whole.final, image_HW3=whole.color_THW3[STOP], state_7=whole.state_T7[STOP])
    state_T7 = whole.state_T7[rest].copy()
    color_THW3 = whole.color_THW3[rest].copy()
    state_T7[STOP:], color_THW3[STOP:] = whole.state_T7[STOP], whole.color_THW3[STOP]
    action_T7 = whole.action_T7[rest].copy()
    action_T7[STOP:, :6] = 0.0
    stamps = (np.arange(len(rest)) * 100_000_000).astype(np.int64)
    return replace(
        whole,
        metadata=replace(whole.metadata, outcome="failure", note=f"{ARM_STOPPED}: protective stop; look why"),
        state_T7=state_T7,
        action_T7=action_T7,
        stamp_ns_T=stamps,
        source_stamp_ns_T=dict.fromkeys(whole.source_stamp_ns_T, stamps),
        valid_T=whole.valid_T[rest],
        moving_T=whole.moving_T[rest],
        final=final,
        color_THW3=color_THW3,
    )


def dataset(folder: Path, episodes: Sequence[Episode]) -> Path:
    writer = DatasetWriter(folder, DatasetHeader(convention=CONVENTION))
    for number, episode in enumerate(episodes):
        writer.add(episode, f"{folder.name}-{number}", calibration_yaml="id: front-3\n")
    writer.finish()
    writer.close()
    return folder


@pytest.mark.parametrize("still", [0, 4])
def test_after_a_stop_the_picture_stays_whatever_is_commanded(still: int) -> None:
    episode, actions = stopped(0, still), reach(places(8, 0)[3]).action_T7[5:17]
    longer = continued(episode, actions, "stopped-0")
    assert len(longer) == STOP + len(actions)
    assert (longer.color_THW3[: STOP + 1] == reach(places(8, 0)[0]).color_THW3[: STOP + 1]).all()
    assert (longer.color_THW3[STOP:] == longer.color_THW3[STOP]).all()
    assert (longer.final.image_HW3 == longer.color_THW3[STOP]).all()
    assert (longer.action_T7[:STOP] == episode.action_T7[:STOP]).all() and (longer.action_T7[STOP:] == actions).all()
    assert (np.diff(longer.stamp_ns_T) == 100_000_000).all()
    assert longer.metadata.outcome == "failure" and ARM_STOPPED not in longer.metadata.note


def test_states_after_a_stop_are_those_that_a_rollout_would_count() -> None:
    longer = continued(stopped(0), reach(places(8, 0)[3]).action_T7[5:17], "stopped-0")
    states = np.concatenate([longer.state_T7[STOP:], longer.final.state_7[None]])
    counted = integrated(states[:1], longer.action_T7[None, STOP:], CONVENTION)[0]
    assert states == pytest.approx(counted, abs=1e-6)
    assert np.abs(np.diff(states[:, :3], axis=0)).max() > 0.005  # they move on while the picture does not


def test_episodes_of_commands_are_continued_from_their_end() -> None:
    episode = stopped(0)
    extra = {**episode.metadata.extra, ACTIONS: COMMANDED}
    episode = replace(episode, metadata=replace(episode.metadata, extra=extra), color_THW3=episode.color_THW3.copy())
    episode.color_THW3[STOP - 3 :] = episode.final.image_HW3  # stopped three rows before the end of the chunk
    actions = reach(places(8, 0)[3]).action_T7[5:17]
    longer = continued(episode, actions, "stopped-0")
    assert len(longer) == STOP + 12 and (longer.color_THW3[STOP - 3 :] == episode.final.image_HW3).all()
    assert longer.state_T7[STOP, :6] == pytest.approx(episode.final.state_7[:6])


def test_every_stop_becomes_episodes_and_only_stops_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = dataset(tmp_path / "good", [reach(place, 100 + k) for k, place in enumerate(places(3, 1))])
    failed = replace(reach(places(8, 0)[4], 4), metadata=replace(reach(places(8, 0)[4], 4).metadata, outcome="failure"))
    play = dataset(tmp_path / "play", [stopped(0), failed, stopped(1, 3)])
    words = ["prophet", "stops", str(good), str(play), str(tmp_path / "out"), "--times", "2", "--seconds", "1.5"]
    assert main(words) == 0
    assert "2 attempts that a stop ended, as 4 episodes" in capsys.readouterr().out
    out = Dataset(tmp_path / "out")
    out.verify()
    assert [row.steps for row in out.table] == [STOP + 15] * 4 and {row.outcome for row in out.table} == {"failure"}
    assert len({row.episode_id for row in out.table}) == 4
    recorded = [row for number, row in enumerate(Dataset(play).table) if number != 1]
    assert [original_name(row.episode_id) for row in out.table[::2]] == [row.episode_id for row in recorded]
    shown = labelled_videos(tmp_path / "out", AsRecorded())  # neither the world nor the judge learns from one and is
    assert {video.recording for video in shown} == {row.source for row in recorded}  # measured on the other
    assert out.calibration_yaml(0) == "id: front-3\n"
    assert not np.array_equal(out[0].action_T7, out[1].action_T7)
    hashes = out.content_hash
    assert main(words) == 0 and Dataset(tmp_path / "out").content_hash == hashes  # the same again adds nothing
    with pytest.raises(DatasetError, match="ended in a stop of the arm"):
        write_stops([good, tmp_path / "out"], tmp_path / "twice")


def test_what_cannot_be_continued_is_refused(tmp_path: Path) -> None:
    play = dataset(tmp_path / "play", [stopped(0)])
    with pytest.raises(DatasetError, match="at a task that another attempt succeeded at"):
        write_stops([play], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="times >= 1"):
        write_stops([play], tmp_path / "out", times=0)
    with pytest.raises(ValueError, match=r"needs actions \[N, 7\]"):
        continued(stopped(0), np.zeros((0, 7), np.float32), "x")
