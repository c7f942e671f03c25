"""Differences of paired proportions: published intervals, a second derivation, and limits that can be written down."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from prophrl_models.trials.paired import PairedOutcomes, tango_interval, tango_statistic


@pytest.mark.parametrize(
    ("only_first", "only_second", "trials", "low", "high", "digits"),
    [
        # Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014): airway hyper-responsiveness, 1 - 1 - 7 - 12
        (7, 1, 21, -0.517, -0.026, 3),
        # Tango's answer to Newcombe's vector of 12 and 2 discordant pairs among 50
        (2, 12, 50, 0.0611, 0.3447, 4),
    ],
)
def test_published_intervals_are_reproduced(
    only_first: int, only_second: int, trials: int, low: float, high: float, digits: int
) -> None:
    interval = tango_interval(only_first, only_second, trials)
    assert (round(interval.low, digits), round(interval.high, digits)) == (low, high)


@pytest.mark.parametrize("trials", [1, 5, 20, 100])
def test_without_discordant_pairs_the_limits_have_a_closed_form(trials: int) -> None:
    z2 = stats.norm.ppf(0.975) ** 2
    interval = tango_interval(0, 0, trials)
    assert interval.high == pytest.approx(z2 / (trials + z2), abs=1e-9)
    assert interval.low == pytest.approx(-interval.high, abs=1e-9)


@pytest.mark.parametrize(("only_first", "only_second", "trials"), [(3, 8, 30), (0, 6, 20), (5, 5, 12), (9, 1, 10)])
@pytest.mark.parametrize("assumed", [-0.4, 0.1, 0.35])
def test_the_statistic_equals_a_search_for_the_likeliest_table(
    only_first: int, only_second: int, trials: int, assumed: float
) -> None:
    rest = trials - only_first - only_second

    def improbability(q: float) -> float:
        chances = (q, q + assumed, 1.0 - 2.0 * q - assumed)
        counts = (only_first, only_second, rest)
        return -sum(n * math.log(max(p, 1e-300)) for n, p in zip(counts, chances, strict=True) if n)

    bounds = (max(0.0, -assumed), (1.0 - assumed) / 2.0)
    q = minimize_scalar(improbability, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = trials * (2.0 * q + assumed - assumed**2)
    expected = (only_second - only_first - trials * assumed) / math.sqrt(variance)
    assert tango_statistic(only_first, only_second, trials, assumed) == pytest.approx(expected, abs=1e-4)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.8, 0.95, 0.99]))
def test_limits_are_where_the_score_test_turns(first: int, second: int, rest: int, confidence: float) -> None:
    trials = first + second + rest
    if not trials:
        return
    interval = tango_interval(first, second, trials, confidence)
    seen, z = (second - first) / trials, stats.norm.ppf(0.5 + confidence / 2.0)
    assert -1.0 <= interval.low <= seen <= interval.high <= 1.0
    for limit in (interval.low, interval.high):
        if abs(limit) < 1.0 - 1e-9:
            assert abs(tango_statistic(first, second, trials, limit)) == pytest.approx(z, abs=1e-5)
    turned = tango_interval(second, first, trials, confidence)
    assert (turned.low, turned.high) == (
        pytest.approx(-interval.high, abs=1e-7),
        pytest.approx(-interval.low, abs=1e-7),
    )


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    trials, chances = 20, np.array([0.10, 0.35, 0.55])  # only first, only second, the rest
    covered = 0.0
    for a in range(trials + 1):
        for b in range(trials + 1 - a):
            interval = tango_interval(a, b, trials)
            if interval.low <= chances[1] - chances[0] <= interval.high:
                covered += stats.multinomial.pmf([a, b, trials - a - b], trials, chances)
    assert 0.93 < covered < 0.975


def test_outcomes_are_counted_by_placement() -> None:
    first = [True, True, False, False, True, False]
    second = [True, False, True, False, True, True]
    outcomes = PairedOutcomes.of(first, second)
    assert outcomes == PairedOutcomes(both=2, only_first=1, only_second=2, neither=1)
    assert outcomes.trials == 6 and outcomes.difference == pytest.approx(1 / 6)
    assert outcomes.p_value == pytest.approx(stats.binomtest(1, 3).pvalue)
    assert outcomes.interval() == tango_interval(1, 2, 6)


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2 and 1; give both policies the same ones"):
        PairedOutcomes.of([True, False], [True])
    with pytest.raises(ValueError, match="3 and 2 discordant pairs of 4 are impossible"):
        tango_interval(3, 2, 4)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 95"):
        tango_interval(1, 2, 4, 95)
