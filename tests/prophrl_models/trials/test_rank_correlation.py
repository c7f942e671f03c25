"""Rank correlation against scipy, against tabulated critical values, and with ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prophrl_models.trials.rank_correlation import DRAWN, ranks, rho_interval, spearman


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=5))
def test_the_coefficient_and_its_p_equal_scipys_permutation_test(pairs: list[tuple[int, int]]) -> None:
    a, b = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = spearman(a, b)
    assert ranks(a).tolist() == stats.rankdata(a).tolist()
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(found.rho) and found.p_two_sided == 1.0
        return
    assert found.rho == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)

    def rho(x: list[float]) -> float:
        return float(stats.spearmanr(x, b).statistic)

    options = {"permutation_type": "pairings", "n_resamples": math.inf}
    greater = stats.permutation_test((a,), rho, alternative="greater", **options)
    assert found.p_same_order == pytest.approx(greater.pvalue, abs=1e-12)


@pytest.mark.parametrize(
    ("order", "rho", "p_two_sided"),
    [
        # critical values of Spearman's coefficient: 5 things need 1.000 for 0.05, 6 need 0.886, 7 need 0.786
        ([1, 2, 3, 4, 5], 1.0, 2 / 120),
        ([1, 2, 3, 4, 6, 5], 0.942857, 12 / 720),
        ([2, 1, 3, 4, 6, 5], 0.885714, 24 / 720),
        ([3, 1, 2, 4, 5, 6], 0.828571, 42 / 720),
    ],
)
def test_tabulated_probabilities_are_met(order: list[int], rho: float, p_two_sided: float) -> None:
    found = spearman(range(1, len(order) + 1), order)
    assert found.exact and found.count == len(order)
    assert found.rho == pytest.approx(rho, abs=1e-6)
    assert found.p_two_sided == pytest.approx(p_two_sided, abs=1e-12)


def test_many_things_get_drawn_orders_that_agree_with_the_approximation() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=14)
    b = a + 3.0 * rng.normal(size=14)
    found = spearman(a, b)
    assert not found.exact
    assert found.p_two_sided == pytest.approx(stats.spearmanr(a, b).pvalue, rel=0.1)
    certain = spearman(a, a)
    assert certain.rho == pytest.approx(1.0) and certain.p_two_sided == pytest.approx(1 / (DRAWN + 1))


def test_the_interval_of_the_coefficient_is_wide_with_few_trials_and_closes_with_many() -> None:
    rates = (0.1, 0.3, 0.5, 0.7, 0.9)
    few, many = ([[k < rate * n for k in range(n)] for rate in rates] for n in (10, 1000))
    for outcomes in (few, many):  # which trial of which placement: no order of their own
        for number, row in enumerate(outcomes):
            np.random.default_rng(number).shuffle(row)
    wide, narrow = rho_interval(few, few[::-1], draws=300), rho_interval(many, many, draws=300)
    assert narrow.low == narrow.high == pytest.approx(1.0)
    assert wide.high - wide.low > 0.1 and wide.high < 0.0
    still = [[True] * 5] * 3
    assert math.isnan(rho_interval(still, still, draws=20).low)


def test_two_things_have_no_order_to_test() -> None:
    with pytest.raises(ValueError, match="at least three pairs, got 2 and 2"):
        spearman([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="vector of finite numbers"):
        spearman([1.0, 2.0, math.nan], [1.0, 2.0, 3.0])
