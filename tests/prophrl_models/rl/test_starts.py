"""Starts of datasets: the first picture of each episode, and a split that stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prophrl_models.data.dataset import Dataset
from prophrl_models.rl.starts import dataset_starts, draw_starts, split_starts, starts_hash
from prophrl_models.training.settings import TrainingError
from tests.helpers.dot_world import starts
from tests.helpers.reaches import INSTRUCTION, camera, places, reach, write_dataset


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


def test_no_start_is_drawn_twice_before_all_were_drawn() -> None:
    drawn = draw_starts(7, 17, seed=2)
    assert sorted(drawn[:7]) == sorted(drawn[7:14]) == list(range(7)) and len(drawn) == 17
    assert drawn == draw_starts(7, 17, seed=2) != draw_starts(7, 17, seed=3)


def test_the_hash_sees_every_part() -> None:
    assert starts_hash(starts(3, 0)) == starts_hash(starts(3, 0)) != starts_hash(starts(3, 1))
