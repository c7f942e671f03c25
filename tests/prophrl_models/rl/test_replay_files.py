"""Logged episodes imagined again as labelled videos: complete, with the real outcome, and ready to teach a judge."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.reward.classifier_data import AsRecorded, labelled_videos
from prophrl_models.reward.frames import read_video
from prophrl_models.rl.replay_files import write_replays
from prophrl_models.rl.replays import LoggedEpisode, logged_episodes, replay_videos
from prophrl_models.training.settings import TrainingError
from tests.helpers.dot_world import DotWorld, starts
from tests.helpers.reaches import CONVENTION, places, reach

OUTCOMES = ("success", "failure", "unknown", "success")


@dataclass(frozen=True)
class Still:
    """B rollouts in which nothing is seen to move."""

    frame_BHW3: Tensor
    state_B7: Tensor


class StillWorld:
    """A world whose pictures stay as they begin."""

    image_height, image_width, actions, control_rate_hz, convention = 48, 64, 4, 10.0, CONVENTION

    def begin(self, first_BHW3: Tensor, state_B7: Tensor, *, cameras: object, seeds_B: object) -> Still:
        return Still(first_BHW3, state_B7)

    def advance(self, world: Still, actions_BCD: Tensor, keep: int) -> tuple[Still, Tensor]:
        return world, world.frame_BHW3[:, None].expand(-1, keep, -1, -1, -1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four reaches; of the third nobody knows how it ended."""
    folder = tmp_path_factory.mktemp("data") / "reaches"
    writer = DatasetWriter(folder, DatasetHeader(convention=CONVENTION))
    for number, place in enumerate(places(len(OUTCOMES), 0)):
        episode = reach(place, number)
        writer.add(replace(episode, metadata=replace(episode.metadata, outcome=OUTCOMES[number])), f"bag-{number}")
    writer.finish()
    return Dataset(folder)


def test_every_usable_episode_becomes_videos_with_its_outcome(dataset: Dataset, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    out = tmp_path / "imagined"
    count = write_replays(
        StillWorld(), [dataset], out, times=2, batch=2, progress=lambda done, total: told.append((done, total))
    )
    assert count == 6 and told[-1] == (6, 6)
    rows = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
    assert sorted((row["shows"], row["success"]) for row in rows) == sorted(
        [("reach-0", True), ("reach-1", False), ("reach-3", True)] * 2
    )
    lengths = {row.source: row.steps + 1 for row in dataset.table}
    for row in rows:
        assert len(read_video(out / row["video"])) == lengths[row["shows"]]
        assert ("finish_step" in row) == row["success"]
    videos = list(labelled_videos(out, AsRecorded()))
    assert len({video.id for video in videos}) == 6
    assert {video.recording for video in videos} == {"reach-0", "reach-1", "reach-3"}


def test_a_folder_is_complete_or_absent(dataset: Dataset, tmp_path: Path) -> None:
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "imagined"
    with pytest.raises(KeyboardInterrupt):
        write_replays(StillWorld(), [dataset], out, progress=interrupted)
    assert not list(tmp_path.iterdir())
    write_replays(StillWorld(), [dataset], out)
    with pytest.raises(TrainingError, match="is there already"):
        write_replays(StillWorld(), [dataset], out)


def test_datasets_without_a_known_outcome_are_refused(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "data", DatasetHeader(convention=CONVENTION))
    episode = reach(places(1, 1)[0])
    writer.add(replace(episode, metadata=replace(episode.metadata, outcome="unknown")), "source")
    writer.finish()
    with pytest.raises(TrainingError, match="success or failure"):
        write_replays(StillWorld(), [Dataset(tmp_path / "data")], tmp_path / "out")
    with pytest.raises(ValueError, match="times = 0"):
        write_replays(StillWorld(), [Dataset(tmp_path / "data")], tmp_path / "out", times=0)


def test_fewer_actions_at_a_time_lead_to_the_same_place_where_the_world_is_exact() -> None:
    rng = np.random.default_rng(0)
    actions = np.zeros((7, 7), np.float32)
    actions[:, :2] = rng.uniform(-0.02, 0.02, (7, 2))
    episode = LoggedEpisode(starts(1, 0)[0], actions, True)
    world = DotWorld(0.0)
    whole = replay_videos(world, [episode])[0]
    for keep in (1, 2, 3):
        assert (replay_videos(world, [episode], keep=keep)[0] == whole).all()
    with pytest.raises(ValueError, match=f"keep must lie in 0..{world.actions}"):
        replay_videos(world, [episode], keep=world.actions + 1)


def test_episodes_can_be_had_without_their_pictures(dataset: Dataset) -> None:
    for episode in logged_episodes(dataset, frames=False):
        assert episode.frames_THW3 is None and len(episode.actions_T7)
