"""Honest numbers for few trials: intervals of a success rate, differences of two, and how many trials to plan.

All are exact or score methods; a mean with a standard deviation over three runs says little about a proportion.
Sources: Clopper and Pearson 1934; Wilson 1927; Newcombe 1998 (method 10); Fisher 1935; McNemar 1947 in its exact form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy.special import betaincinv, ndtri

Alternative = Literal["two-sided", "b is better"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class SuccessRate:
    """Successes among valid trials, with its Clopper-Pearson interval."""

    successes: int
    trials: int
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _check_count(self.successes, self.trials)

    @property
    def rate(self) -> float:
        """The proportion; NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    @property
    def interval(self) -> Interval:
        return clopper_pearson(self.successes, self.trials, self.confidence)


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Exact interval of a proportion: covers at least as often as it says, for any true value.

    Raises:
        ValueError: impossible counts or confidence.
    """
    _check_count(successes, trials)
    tail = (1.0 - _checked(confidence)) / 2.0
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1.0 - tail))
    return Interval(low, high)


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Score interval of a proportion: shorter than the exact one, covers as often as it says on average.

    Raises:
        ValueError: impossible counts or confidence.
    """
    _check_count(successes, trials)
    if trials == 0:
        return Interval(0.0, 1.0)
    z = float(ndtri(0.5 + _checked(confidence) / 2.0))
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(low, high)


def difference_interval(
    successes_a: int, trials_a: int, successes_b: int, trials_b: int, confidence: float = 0.95
) -> Interval:
    """Interval of rate b minus rate a for two independent sets of trials (Newcombe's hybrid score method).

    Raises:
        ValueError: impossible counts, or a set without trials.
    """
    if not trials_a or not trials_b:
        raise ValueError(f"a difference needs trials on both sides, got {trials_a} and {trials_b}")
    a, b = successes_a / trials_a, successes_b / trials_b
    of_a, of_b = wilson(successes_a, trials_a, confidence), wilson(successes_b, trials_b, confidence)
    return Interval(
        b - a - math.hypot(b - of_b.low, of_a.high - a),
        b - a + math.hypot(of_b.high - b, a - of_a.low),
    )


def fisher_exact(
    successes_a: int, trials_a: int, successes_b: int, trials_b: int, alternative: Alternative = "two-sided"
) -> float:
    """p-value of "both rates are equal" for two independent sets of trials.

    "two-sided" sums the probabilities of all tables with the same margins that are no likelier than the one seen;
    "b is better" sums those in which b did at least as well. Integers throughout, so that ties are ties.

    Raises:
        ValueError: impossible counts, or another alternative.
    """
    _check_count(successes_a, trials_a)
    _check_count(successes_b, trials_b)
    weights = _hypergeometric(trials_a, trials_b, successes_a + successes_b)
    return _p_values(weights, alternative)[successes_a]


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value for paired trials: ``only_a`` placements where a alone succeeded, ``only_b`` where b alone did.

    The test to use when both policies were tried on the same placements.

    Raises:
        ValueError: a negative count.
    """
    if min(only_a, only_b) < 0:
        raise ValueError(f"counts cannot be negative, got {only_a} and {only_b}")
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def fisher_power(
    rate_a: float, rate_b: float, trials: int, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> float:
    """Chance that Fisher's test tells two true rates apart, with ``trials`` on each side; exact, not simulated.

    Raises:
        ValueError: rates outside [0, 1], no trials, or another alternative.
    """
    if not (0.0 <= rate_a <= 1.0 and 0.0 <= rate_b <= 1.0) or trials < 1:
        raise ValueError(f"power needs rates in [0, 1] and trials, got {rate_a}, {rate_b}, {trials}")
    chance_a, chance_b = _binomial(rate_a, trials), _binomial(rate_b, trials)
    power = 0.0
    for margin in range(2 * trials + 1):
        p_values = _p_values(_hypergeometric(trials, trials, margin), alternative)
        power += sum(chance_a[k] * chance_b[margin - k] for k, p in p_values.items() if p <= alpha)
    return power


def _p_values(weights: dict[int, int], alternative: Alternative) -> dict[int, float]:
    """p-value of each table, named by the successes on side a; ``weights`` are in rising order of those."""
    if alternative == "two-sided":
        order = sorted(weights, key=lambda k: weights[k])
    elif alternative == "b is better":
        order = list(weights)  # fewer successes on side a first
    else:
        raise ValueError(f"unknown alternative {alternative!r}, choose 'two-sided' or 'b is better'")
    total, so_far = sum(weights.values()), 0
    p_values: dict[int, float] = {}
    for k in order:
        so_far += weights[k]
        p_values[k] = so_far / total
    if alternative == "two-sided":  # of tables that are equally likely, all count or none
        last = {weights[k]: p_values[k] for k in order}
        p_values = {k: last[weights[k]] for k in order}
    return p_values


def _binomial(rate: float, trials: int) -> list[float]:
    """Probability of 0 .. ``trials`` successes."""
    return [float(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k)) for k in range(trials + 1)]


def _hypergeometric(trials_a: int, trials_b: int, margin: int) -> dict[int, int]:
    """Number of ways to have k successes on side a, for every k the margins allow."""
    first, last = max(0, margin - trials_b), min(trials_a, margin)
    return {k: math.comb(trials_a, k) * math.comb(trials_b, margin - k) for k in range(first, last + 1)}


def _check_count(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials are impossible; count voided trials separately")


def _checked(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; 0.95 is usual")
    return confidence
