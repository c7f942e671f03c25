"""The action-sensitivity test tells worlds that obey from worlds that do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from prophrl_models.data.dataset import Dataset
from prophrl_models.prophet.eval_data import Clip, ClipReader, EvaluationError, spread_windows
from prophrl_models.prophet.sensitivity import (
    CHOICES,
    HOLD,
    OPPOSITE,
    OTHER_NOISE,
    SHUFFLED,
    TRUE,
    Sensitivity,
    measure_sensitivity,
    partners,
)
from tests.helpers.drawn_world import DrawnWorld, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("drawn"), (40, 40, 40, 40))


@pytest.fixture(scope="module")
def measured(dataset: Dataset) -> Callable[[DrawnWorld], Sensitivity]:
    """Measures a world, each only once."""

    @cache
    def measure(world: DrawnWorld) -> Sensitivity:
        clips = spread_windows(dataset, range(4), world.actions, 10)
        return measure_sensitivity(world, ClipReader(dataset, world.image_height, world.image_width), clips, batch=4)

    return measure


def test_a_world_that_obeys_passes_and_every_other_choice_scores_worse(
    measured: Callable[[DrawnWorld], Sensitivity],
) -> None:
    result = measured(DrawnWorld(grain=1.0))
    assert result.follows and result.responds
    for choice in (SHUFFLED, HOLD, OPPOSITE):
        assert result.paired(choice, "epe_px").clear
        assert result.paired(choice, "psnr_db").clear
        assert result.paired(choice, "cosine_moving").share > 0.8
        assert (result.apart_px[choice] > result.apart_px[OTHER_NOISE]).mean() > 0.8


def test_direction_is_measured_with_its_sign(measured: Callable[[DrawnWorld], Sensitivity]) -> None:
    scores = measured(DrawnWorld()).scores
    mean = {choice: scores[choice].summary("cosine_moving").mean for choice in CHOICES}
    assert mean[TRUE] > 0.95
    assert mean[OPPOSITE] < 0.0
    assert abs(mean[HOLD]) < 0.2
    assert mean[SHUFFLED] < mean[TRUE] - 0.3


def test_a_world_that_ignores_its_actions_fails(measured: Callable[[DrawnWorld], Sensitivity]) -> None:
    """With the opening alone obeyed, the motion of the hand is missing: shuffling must not help or hurt it clearly."""
    result = measured(DrawnWorld(gain=0.0, grain=3.0))
    assert not result.follows
    assert abs(result.paired(SHUFFLED, "cosine_moving").difference) < 0.15


def test_videos_of_equal_actions_and_noise_are_equal(measured: Callable[[DrawnWorld], Sensitivity]) -> None:
    result = measured(DrawnWorld())
    assert not result.apart_grey[OTHER_NOISE].any() and not result.apart_px[OTHER_NOISE].any()
    assert (result.apart_grey[SHUFFLED] > 0).all()
    noisy = measured(DrawnWorld(grain=4.0))
    assert noisy.apart_grey[OTHER_NOISE].mean() == pytest.approx(4.0 * 2 / np.sqrt(np.pi), rel=0.1)


def test_every_clip_gives_its_actions_to_one_of_another_episode() -> None:
    clips = [Clip(position, 3 * k, 8) for k in range(3) for position in (5, 1, 9)]
    partner = partners(clips)
    assert Counter(partner) == Counter(range(9))
    assert all(clips[k].position != clips[partner[k]].position for k in range(9))
    lonely = partners([Clip(0, 0, 8), Clip(0, 9, 8), Clip(0, 20, 8)])
    assert sorted(lonely) == [0, 1, 2] and all(k != other for k, other in enumerate(lonely))
    with pytest.raises(EvaluationError, match="at least 2 windows, got 1"):
        partners(clips[:1])
