"""Temperature and threshold."""

from __future__ import annotations

import numpy as np
import pytest

from prophrl_models.reward.calibration import Decision, choose_threshold, fit_temperature
from prophrl_models.reward.judge import Confusion, JudgeError


@pytest.mark.parametrize("scale", [0.4, 1.0, 5.0])
def test_the_temperature_that_spoilt_the_logits_is_found(scale: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(0.0, 2.0, 20_000)
    truth = rng.random(20_000) < 1.0 / (1.0 + np.exp(-honest))
    assert fit_temperature(honest * scale, truth) == pytest.approx(scale, rel=0.06)


def test_separated_classes_leave_the_logits_alone() -> None:
    assert fit_temperature(np.array([-3.0, -2.0, 4.0]), np.array([False, False, True])) == 1.0


def test_the_threshold_reaches_the_precision_with_the_best_recall() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(400) < 0.4
    probability = np.clip(np.where(truth, rng.normal(0.7, 0.2, 400), rng.normal(0.3, 0.2, 400)), 0.001, 0.999)
    for wanted in (0.6, 0.8, 0.95):
        threshold = choose_threshold(probability, truth, wanted)
        found = Confusion.of((probability >= threshold).tolist(), truth.tolist())
        assert found.precision is not None and found.precision >= wanted
        rivals = [Confusion.of((probability >= p).tolist(), truth.tolist()) for p in probability]
        best = max(rival.recall or 0.0 for rival in rivals if (rival.precision or 0.0) >= wanted)
        assert found.recall == pytest.approx(best)


def test_between_separated_classes_it_lies_in_the_middle() -> None:
    assert choose_threshold(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]), 0.9) == 0.5


def test_where_the_precision_cannot_be_reached_successes_and_failures_are_told_apart_as_well_as_can_be() -> None:
    probability, truth = np.array([0.9, 0.8, 0.7, 0.2]), np.array([False, True, True, False])
    threshold = choose_threshold(probability, truth, 0.99)
    found = Confusion.of((probability >= threshold).tolist(), truth.tolist())
    assert found.precision == pytest.approx(2 / 3) and found.recall == 1.0


def test_a_precision_that_costs_most_successes_is_not_bought() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random(400) < 0.4
    probability = np.clip(np.where(truth, rng.normal(0.6, 0.2, 400), rng.normal(0.4, 0.2, 400)), 0.001, 0.999)
    threshold = choose_threshold(probability, truth, 0.99)
    found = Confusion.of((probability >= threshold).tolist(), truth.tolist())
    assert found.recall is not None and found.recall > 0.5
    rivals = [Confusion.of((probability >= p).tolist(), truth.tolist()) for p in probability]
    best = max((rival.recall or 0.0) + (rival.specificity or 0.0) for rival in rivals)
    assert found.specificity is not None and found.recall + found.specificity == pytest.approx(best)
    strict = choose_threshold(probability, truth, 0.99, least_recall=0.0)
    few = Confusion.of((probability >= strict).tolist(), truth.tolist())
    assert few.precision is not None and few.precision >= 0.99 and few.recall is not None and few.recall < 0.5


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(JudgeError, match="without a success"):
        choose_threshold(np.array([0.5]), np.array([False]), 0.9)
    for wrong in ({"temperature": 0.0}, {"threshold": 1.0}):
        with pytest.raises(JudgeError, match="temperature is positive"):
            Decision(**wrong)
