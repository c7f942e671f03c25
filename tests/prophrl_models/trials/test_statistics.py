"""The statistics of trials against published values, against scipy, and against their own promises."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prophrl_models.trials.statistics import (
    SuccessRate,
    clopper_pearson,
    difference_interval,
    fisher_exact,
    fisher_power,
    mcnemar_exact,
    wilson,
)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    trials = draw(st.integers(1, 60))
    return draw(st.integers(0, trials)), trials


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (12, 20, 0.361, 0.809),
        (17, 20, 0.621, 0.968),
        (18, 20, 0.683, 0.988),
        (20, 20, 0.832, 1.0),
        (30, 50, 0.452, 0.736),
        (42, 50, 0.709, 0.928),
    ],
)
def test_clopper_pearson_gives_the_tabulated_intervals(successes: int, trials: int, low: float, high: float) -> None:
    interval = clopper_pearson(successes, trials)
    assert (round(interval.low, 3), round(interval.high, 3)) == (low, high)


@settings(max_examples=60, deadline=None)
@given(counts(), st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_equal_scipys(count: tuple[int, int], confidence: float) -> None:
    result = stats.binomtest(*count)
    for ours, method in ((clopper_pearson, "exact"), (wilson, "wilson")):
        theirs = result.proportion_ci(confidence, method)
        found = ours(*count, confidence)
        assert (found.low, found.high) == (pytest.approx(theirs.low, abs=1e-9), pytest.approx(theirs.high, abs=1e-9))


@pytest.mark.parametrize("true_rate", [0.1, 0.5, 0.83])
def test_the_exact_interval_covers_at_least_as_often_as_it_says(true_rate: float) -> None:
    trials = 20
    covered = 0.0
    for successes in range(trials + 1):
        interval = clopper_pearson(successes, trials)
        if interval.low <= true_rate <= interval.high:
            covered += math.comb(trials, successes) * true_rate**successes * (1 - true_rate) ** (trials - successes)
    assert covered >= 0.95


def test_newcombes_published_example_is_reproduced() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table II, method 10: 56/70 - 48/80
    interval = difference_interval(48, 80, 56, 70)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.0524, 0.3339)
    turned = difference_interval(56, 70, 48, 80)
    assert turned.low == pytest.approx(-interval.high) and turned.high == pytest.approx(-interval.low)


@settings(max_examples=100, deadline=None)
@given(counts(), counts())
def test_fishers_test_equals_scipys(a: tuple[int, int], b: tuple[int, int]) -> None:
    table = [[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]]
    assert fisher_exact(*a, *b) == pytest.approx(stats.fisher_exact(table)[1], abs=1e-9)
    one_sided = stats.fisher_exact(table, alternative="less")[1]
    assert fisher_exact(*a, *b, alternative="b is better") == pytest.approx(one_sided, abs=1e-9)


def test_fishers_tea_is_tasted() -> None:
    assert fisher_exact(1, 4, 3, 4, alternative="b is better") == pytest.approx(17 / 70)
    assert fisher_exact(1, 4, 3, 4) == pytest.approx(34 / 70)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemars_test_is_a_binomial_test_on_the_disagreements(only_a: int, only_b: int) -> None:
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("rate_a", "rate_b", "trials", "power"),
    [
        (0.50, 0.74, 20, 0.35),
        (0.50, 0.74, 30, 0.49),
        (0.50, 0.74, 40, 0.61),
        (0.50, 0.74, 50, 0.75),
        (0.50, 0.74, 60, 0.83),
        (0.50, 0.74, 80, 0.91),
        (0.60, 0.90, 20, 0.62),
        (0.60, 0.90, 30, 0.82),
        (0.60, 0.90, 40, 0.92),
    ],
)
def test_one_sided_power_agrees_with_the_simulated_planning_table(
    rate_a: float, rate_b: float, trials: int, power: float
) -> None:
    assert fisher_power(rate_a, rate_b, trials, alternative="b is better") == pytest.approx(power, abs=0.02)


def test_power_is_the_chance_of_a_small_p_value() -> None:
    rate_a, rate_b, n = 0.3, 0.7, 12
    expected = sum(
        stats.binom.pmf(x, n, rate_a) * stats.binom.pmf(y, n, rate_b)
        for x in range(n + 1)
        for y in range(n + 1)
        if fisher_exact(x, n, y, n) <= 0.05
    )
    assert fisher_power(rate_a, rate_b, n) == pytest.approx(expected, abs=1e-12)


def test_equal_rates_are_told_apart_no_more_often_than_alpha() -> None:
    assert fisher_power(0.6, 0.6, 40) <= 0.05


def test_a_success_rate_without_trials_is_unknown() -> None:
    nothing = SuccessRate(0, 0)
    assert math.isnan(nothing.rate)
    assert (nothing.interval.low, nothing.interval.high) == (0.0, 1.0)
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


@pytest.mark.parametrize("count", [(-1, 3), (4, 3), (1, 0)])
def test_impossible_counts_are_refused(count: tuple[int, int]) -> None:
    for function in (clopper_pearson, wilson, SuccessRate):
        with pytest.raises(ValueError, match="impossible"):
            function(*count)
    with pytest.raises(ValueError, match="impossible"):
        fisher_exact(*count, 1, 2)


def test_other_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got 95"):
        clopper_pearson(1, 2, 95)
    with pytest.raises(ValueError, match="both sides"):
        difference_interval(0, 0, 1, 2)
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 0)
    with pytest.raises(ValueError, match="rates in"):
        fisher_power(1.2, 0.5, 10)
    with pytest.raises(ValueError, match="choose 'two-sided' or 'b is better'"):
        fisher_exact(1, 2, 1, 2, alternative="less")  # type: ignore[arg-type]
