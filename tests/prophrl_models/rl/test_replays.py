"""Logged episodes for replay: which are taken, and that they are what was recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.data.split import derived_name
from prophrl_models.prophet.trained_on import RECORD, TrainedOn
from prophrl_models.reward.factory import JudgeSettings
from prophrl_models.reward.judge import Confusion, LabelJudge
from prophrl_models.rl.replays import LoggedEpisode, compare_outcomes, joined_episodes, logged_episodes, replay_videos
from prophrl_models.rl.seen import SeenInTraining
from prophrl_models.training.settings import TrainingError
from tests.helpers.dot_world import DotWorld, starts
from tests.helpers.reaches import CONVENTION, camera, places, reach

OUTCOMES = ("success", "failure", "success", "aborted", "success", "success")
GAP = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six reaches: four successes, one of them with a gap, a failure, and one whose outcome is not known."""
    folder = tmp_path_factory.mktemp("data") / "reaches"
    writer = DatasetWriter(folder, DatasetHeader(convention=CONVENTION))
    for number, place in enumerate(places(len(OUTCOMES), 0)):
        episode = reach(place, number)
        episode = replace(episode, metadata=replace(episode.metadata, outcome=OUTCOMES[number]))
        if number == GAP:
            valid = episode.valid_T.copy()
            valid[5] = False
            episode = replace(episode, valid_T=valid)
        writer.add(episode, f"source-{number}")
    writer.finish()
    return Dataset(folder)


def test_gapless_episodes_with_a_known_outcome_are_taken_as_recorded(dataset: Dataset) -> None:
    found = logged_episodes(dataset, camera=camera())
    assert [episode.success for episode in found] == [True, False, True, True]
    for episode, position in zip(found, (0, 1, 2, 5), strict=True):
        recorded = dataset[position]
        assert np.array_equal(episode.actions_T7, recorded.action_T7)
        assert episode.frames_THW3 is not None and len(episode.frames_THW3) == len(recorded) + 1
        assert (episode.frames_THW3[-1] == recorded.final.image_HW3).all()
        assert (episode.prompt.image_HW3 == recorded.color_THW3[0]).all()


def test_a_few_are_drawn_with_both_outcomes_and_the_same_each_time(dataset: Dataset) -> None:
    for seed in range(4):
        drawn = logged_episodes(dataset, most=2, seed=seed)
        assert sorted(episode.success for episode in drawn) == [False, True]
        assert [e.prompt.source for e in drawn] == [
            e.prompt.source for e in logged_episodes(dataset, most=2, seed=seed)
        ]
    assert len(logged_episodes(dataset, most=3)) == 3


def test_the_newest_dataset_gives_its_share_and_the_others_what_it_lacks(dataset: Dataset, tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "new", DatasetHeader(convention=CONVENTION))
    writer.add(reach(places(1, 5)[0], 40), "new")
    writer.finish()
    new = Dataset(tmp_path / "new")
    both = joined_episodes([dataset, new], most=3)
    assert both[0].prompt.source == "reach-40" and len(both) == 3
    assert len(joined_episodes([new, dataset], most=3)) == 3  # two of the newer one, the other has but one
    assert len(joined_episodes([dataset, new])) == 5
    assert len(joined_episodes([dataset, new], most=1)) == 1


def test_episodes_that_judge_and_world_have_not_seen_are_drawn_first_and_the_others_marked(dataset: Dataset) -> None:
    names = [row.episode_id for row in dataset.table]
    sources = frozenset(dataset.table[position].source for position in (0, 1))
    seen = SeenInTraining(sources, TrainedOn.of([names[1], names[2]]))
    for seed in range(3):
        drawn = {e.prompt.source: e for e in logged_episodes(dataset, most=3, seed=seed, seen=seen)}
        assert set(drawn) == {names[5], names[0], names[2]}  # seen by none, by the judge, by the world
        assert [(e.seen_by_judge, e.seen_by_world) for e in (drawn[names[5]], drawn[names[0]], drawn[names[2]])] == [
            (False, False), (True, False), (False, True),
        ]  # fmt: skip
    both = joined_episodes([dataset], seen=seen)[1]
    assert both.prompt.source == names[1] and both.seen_by_judge and both.seen_by_world


def test_a_classifier_and_a_world_model_say_what_they_were_trained_on(dataset: Dataset, tmp_path: Path) -> None:
    rows = dataset.table[:3]
    parts = {part: [row.source] for part, row in zip(("training", "validation", "test"), rows, strict=True)}
    for name, record in (("judge", {"videos": parts}), ("world", {RECORD: TrainedOn.of(["reach-2"]).to_json()})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "provenance.json").write_text(json.dumps(record))
    seen = SeenInTraining.of(JudgeSettings("classifier", str(tmp_path / "judge")), tmp_path / "world")
    assert [seen.by_judge(row) for row in rows] == [True, True, False]
    assert [seen.by_world(row, dataset.content_hash) for row in rows] == [False, False, True]
    served = SeenInTraining.of(JudgeSettings("server", "http://127.0.0.1:1/v1", "m"), tmp_path / "world")
    assert not any(served.by_judge(row) for row in rows)
    (tmp_path / "world" / "provenance.json").write_text(json.dumps({"dataset_hashes": ["another"]}))
    old = SeenInTraining.of(JudgeSettings("local", "weights"), tmp_path / "world")
    assert all(old.by_world(row, dataset.content_hash) for row in rows)  # it cannot say


def test_a_dataset_without_outcomes_is_refused(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "data", DatasetHeader(convention=CONVENTION))
    episode = reach(places(1, 1)[0])
    writer.add(replace(episode, metadata=replace(episode.metadata, outcome="aborted")), "source")
    writer.finish()
    for read in (logged_episodes, lambda data: joined_episodes([data])):
        with pytest.raises(TrainingError, match="success or failure"):
            read(Dataset(tmp_path / "data"))


def test_outcomes_are_compared_with_what_happened() -> None:
    prompts = starts(3, 0)
    action = np.zeros((2, 7), np.float32)
    episodes = [LoggedEpisode(p, action, success) for p, success in zip(prompts, (True, True, False), strict=True)]
    videos = replay_videos(DotWorld(0.0), episodes)
    judge = LabelJudge.of(videos[:2], [True, False])  # the third it does not know
    assert compare_outcomes(judge, videos, episodes, CONVENTION) == Confusion(1, 0, 0, 1, no_judgement=1)


def test_actions_that_cannot_be_replayed_are_refused() -> None:
    prompt = starts(1, 0)[0]
    for bad in (np.zeros((0, 7), np.float32), np.full((2, 7), np.nan, np.float32), np.zeros((3, 6), np.float32)):
        with pytest.raises(ValueError, match="actions must be finite"):
            LoggedEpisode(prompt, bad, True)
    with pytest.raises(ValueError, match="nothing to replay"):
        replay_videos(DotWorld(), [])


def test_a_judge_that_knows_an_episode_has_seen_what_was_made_of_it(dataset: Dataset) -> None:
    row = dataset.table[0]
    seen = SeenInTraining(frozenset([row.source]), TrainedOn())
    assert seen.by_judge(row) and seen.by_judge(replace(row, source=derived_name(row.source, "stopped-0")))
    assert not seen.by_judge(replace(row, source=derived_name("another", "stopped-0")))
