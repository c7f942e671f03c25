"""Starts of datasets: the first picture of each episode, and a split that stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.rl.starts import (
    StartSplit,
    dataset_starts,
    draw_starts,
    joined_starts,
    split_starts,
    starts_hash,
)
from prophrl_models.training.settings import TrainingError
from tests.helpers.dot_world import starts
from tests.helpers.reaches import CONVENTION, INSTRUCTION, camera, places, reach, write_dataset


def write_numbered(folder: Path, numbers: Sequence[int]) -> Path:
    """A dataset of reaches with these numbers in their names."""
    writer = DatasetWriter(folder, DatasetHeader(convention=CONVENTION))
    for number, place in zip(numbers, places(len(numbers), 7), strict=True):
        writer.add(reach(place, number), f"source-{number}")
    writer.finish()
    return folder


def test_a_start_is_the_beginning_of_an_episode(tmp_path: Path) -> None:
    dataset = Dataset(write_dataset(tmp_path / "data", count=2))
    found = dataset_starts(dataset, camera=camera())
    first = reach(places(2, 0)[1], 1)
    np.testing.assert_array_equal(found[1].image_HW3, first.color_THW3[0])
    np.testing.assert_array_equal(found[1].state_7, first.state_T7[0])
    assert found[1].instruction == INSTRUCTION and found[1].camera is not None and len(found) == 2
    assert dataset_starts(dataset)[0].camera is None  # recorded without a calibration
    with pytest.raises(TrainingError, match="no episode with 'fly'"):
        dataset_starts(dataset, instructions=["fly"])


def test_small_pictures_come_with_a_small_camera(tmp_path: Path) -> None:
    dataset = Dataset(write_dataset(tmp_path / "data", count=1))
    found = dataset_starts(dataset, camera=camera(), height=120, width=160)
    assert found[0].image_HW3.shape == (120, 160, 3)
    assert found[0].camera is not None and (found[0].camera.width, found[0].camera.height) == (160, 120)


def test_the_split_is_disjoint_and_independent_of_order() -> None:
    everything = starts(20, 3)
    training, held_out = split_starts(everything, 6, seed=4)
    assert len(held_out) == 6 and {s.source for s in training} | {s.source for s in held_out} == {
        s.source for s in everything
    }
    _, again = split_starts(everything[::-1], 6, seed=4)
    assert {s.source for s in again} == {s.source for s in held_out}
    _, other = split_starts(everything, 6, seed=5)
    assert {s.source for s in other} != {s.source for s in held_out}
    with pytest.raises(TrainingError, match="at most 18"):
        split_starts(everything, 19, seed=0)


def test_starts_keep_their_side_when_a_policy_is_reinforced_again() -> None:
    def names(of: list[Prompt]) -> set[str]:
        return {start.source for start in of}

    old = [replace(start, source=f"old-{i}") for i, start in enumerate(starts(40, 3))]
    new = [replace(start, source=f"new-{i}") for i, start in enumerate(starts(10, 4))]
    training, held_out = split_starts(old, 8, seed=0)
    before = StartSplit().with_run(training, held_out)
    for seed in range(5):  # another seed in the second round, too
        again, kept = split_starts(new + old, 8, seed, before)
        assert names(kept) & names(old) == names(held_out) and names(training) <= names(again)
        assert len(names(kept) & names(new)) == 2  # 8 of 40 were held out; so are 2 of 10
    _, more = split_starts(new + old, 11, 0, before)
    assert len(more) == 11
    _, most = split_starts(new + old, 40, 0, before)
    assert len(names(most) & names(new)) == 5  # never more than half of what is new
    training, none = split_starts(new + old, 0, 0, before)
    assert names(none) == names(held_out) and names(new) <= names(training)
    third = before.with_run(again, kept)
    assert StartSplit.of_provenance({"starts_split": third.to_json()}) == third
    assert names(split_starts(old + new, 8, 9, third)[1]) == names(kept)
    assert StartSplit.of_provenance({}) == StartSplit()


def test_starts_of_several_datasets_are_joined_and_no_episode_counts_twice(tmp_path: Path) -> None:
    one = Dataset(write_dataset(tmp_path / "one", count=2))
    other = Dataset(write_numbered(tmp_path / "other", (2, 3)))
    found = joined_starts([one, other], instructions=[INSTRUCTION])
    assert [start.source for start in found] == ["reach-0", "reach-1", "reach-2", "reach-3"]
    with pytest.raises(TrainingError, match=r"'reach-1' is in .*one and in .*again"):
        joined_starts([one, Dataset(write_numbered(tmp_path / "again", (1, 5)))])
    with pytest.raises(TrainingError, match=r"one, .*other has no episode with 'fly'"):
        joined_starts([one, other], instructions=["fly"])


def test_no_start_is_drawn_twice_before_all_were_drawn() -> None:
    drawn = draw_starts(7, 17, seed=2)
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == list(range(7)) and len(drawn) == 17
    assert drawn == draw_starts(7, 17, seed=2) != draw_starts(7, 17, seed=3)


def test_the_hash_sees_every_part() -> None:
    assert starts_hash(starts(3, 0)) == starts_hash(starts(3, 0)) != starts_hash(starts(3, 1))
