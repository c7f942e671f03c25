"""Datasets made of episodes of others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prophrl_models.data.dataset import Dataset, DatasetError, DatasetHeader, DatasetWriter, build_dataset
from prophrl_models.data.select import Choice, select_episodes
from prophrl_models.data.synchronise import SyncSpec
from tests.helpers.recording import record


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two datasets: four episodes of two tasks with a calibration, and two more, one of which is in both."""
    root = tmp_path_factory.mktemp("select")
    calibration = root / "camera.yaml"
    calibration.write_text("id: front-3\nfx: 212.0\n")
    said = [("e0", "place_cube", "success"), ("e1", "place_cube", "failure"), ("e2", "place_cube", "success")]
    said += [("e3", "place_bowl", "success"), ("e4", "place_cube", "success")]
    for number, (name, task, outcome) in enumerate(said):
        recording = replace(record(1.0, seed=number, width=64, height=48), episode_id=name, task=task, outcome=outcome)
        recording.write(root / ("one" if number < 4 else "two"), calibration)
    both = ("success", "failure")
    build_dataset([root / "one"], root / "one_set", outcomes=both, progress=False)
    build_dataset([root / "two", root / "one/place_cube/e2"], root / "two_set", outcomes=both, progress=False)
    return root / "one_set", root / "two_set"


def names(dataset: Dataset) -> list[str]:
    return [row.episode_id for row in dataset.table]


def test_datasets_are_put_together_and_an_episode_in_both_is_taken_once(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    both = select_episodes(sources, tmp_path / "both")
    assert sorted(names(both)) == ["e0", "e1", "e2", "e3", "e4"]
    both.verify()
    first = Dataset(sources[0])
    for position, row in enumerate(first.table):
        where = names(both).index(row.episode_id)
        copy, original = both[where], first[position]
        assert (copy.action_T7 == original.action_T7).all() and (copy.color_THW3 == original.color_THW3).all()
        assert copy.metadata == original.metadata and copy.quality == original.quality
        assert both.calibration_yaml(where) == first.calibration_yaml(position) is not None


def test_task_outcome_and_name_choose_episodes(sources: tuple[Path, Path], tmp_path: Path) -> None:
    cubes = select_episodes(sources, tmp_path / "a", Choice(tasks=("place_cube",), outcomes=("success",)))
    assert sorted(names(cubes)) == ["e0", "e2", "e4"]
    assert names(select_episodes(sources, tmp_path / "b", Choice(episode_ids=("e3",)))) == ["e3"]


def test_a_count_is_of_each_task_and_depends_on_the_seed_alone(sources: tuple[Path, Path], tmp_path: Path) -> None:
    drawn = [select_episodes(sources, tmp_path / f"{i}", Choice(count=1, seed=s)) for i, s in enumerate([0, 0, 1, 2])]
    assert all(sorted(row.task for row in dataset.table) == ["place_bowl", "place_cube"] for dataset in drawn)
    assert drawn[0].content_hash == drawn[1].content_hash
    assert len({dataset.content_hash for dataset in drawn}) > 1


def test_an_interrupted_selection_goes_on_and_another_one_does_not_enter_its_folder(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select_episodes(sources, tmp_path / "out", tell=stop)
    with pytest.raises(DatasetError, match="unfinished"):
        Dataset(tmp_path / "out")
    assert len(select_episodes(sources, tmp_path / "out")) == 5
    with pytest.raises(DatasetError, match="3 episodes that are not chosen now"):
        select_episodes(sources, tmp_path / "out", Choice(count=1))


def test_what_does_not_exist_or_fit_is_refused(sources: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such episode: e9"):
        select_episodes(sources, tmp_path / "out", Choice(episode_ids=("e0", "e9")))
    with pytest.raises(DatasetError, match="there are tasks place_bowl, place_cube and outcomes failure, success"):
        select_episodes(sources, tmp_path / "out", Choice(tasks=("pull_tissue",)))
    slow = DatasetWriter(tmp_path / "slow", DatasetHeader(sync=SyncSpec(control_rate_hz=5.0)))
    slow.add(replace(Dataset(sources[0])[0], control_rate_hz=5.0), "x")
    slow.finish()
    with pytest.raises(DatasetError, match="made differently"):
        select_episodes([sources[0], tmp_path / "slow"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
