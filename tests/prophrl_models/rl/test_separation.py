"""How well a score separates successes from failures, within groups and over all."""

from __future__ import annotations

import numpy as np
import pytest

from prophrl_models.rl.separation import separation


def counted(score: np.ndarray, truth: np.ndarray, group: np.ndarray, *, same: bool) -> float:
    """By going through all pairs."""
    points = [
        1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
        for i in range(len(score))
        for j in range(len(score))
        if truth[i] and not truth[j] and (not same or group[i] == group[j])
    ]
    return float(np.mean(points))


def test_it_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(9), 8)
    truth = rng.random(72) < 0.4
    score = np.round(truth + rng.normal(0, 1.0, 72), 1)  # ties, too
    found = separation(score, truth, group, resamples=50)
    assert found.within.value == pytest.approx(counted(score, truth, group, same=True))
    assert found.overall.value == pytest.approx(counted(score, truth, group, same=False))
    assert found.overall.pairs == truth.sum() * (~truth).sum() > found.within.pairs > 0


def test_starts_that_are_told_apart_do_not_count_within_groups() -> None:
    group = np.repeat([0, 1], 20)
    truth = np.concatenate([np.arange(20) < 16, np.arange(20) < 4])  # easy start, hard start
    score = np.where(group == 0, 0.9, 0.1)  # all that the judge sees is which
    found = separation(score, truth, group)
    assert found.within.value == 0.5 and found.overall.value > 0.75


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = rng.random(160) < 0.5
        score = rng.normal(0, 1, 160) + 0.954 * truth  # Phi(0.954 / sqrt 2) = 0.75
        found = separation(score, truth, np.repeat(np.arange(20), 8), resamples=300, seed=seed).overall
        covered += found.low <= 0.75 <= found.high
    assert 165 <= covered <= 193  # 180 expected


def test_without_a_failure_there_is_nothing_to_tell() -> None:
    found = separation([0.1, 0.2], [True, True], [0, 0])
    assert np.isnan(found.within.value) and np.isnan(found.overall.low) and found.overall.pairs == 0


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="one score, truth and group each"):
        separation([0.1, 0.2], [True], [0, 0])
    with pytest.raises(ValueError, match="1 of 2 scores are no finite numbers"):
        separation([0.1, np.nan], [True, False], [0, 0])
