"""Do two measurements put a handful of things in the same order? Spearman's coefficient with an exact p-value.

With few things no approximation of the p-value is good enough, and none is needed: every order of one side is tried.
Equal values share their mean rank, here as in the permutations. Source: Spearman 1904; the exact null distribution is
tabulated up to 9 things in Zar, Biostatistical Analysis, table B.20.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prophrl_models.trials.statistics import Interval

Array = NDArray[np.float64]

EXACT_UP_TO = 9
"""Things whose orders are all tried (362 880); beyond, ``DRAWN`` random orders stand for them."""
DRAWN = 100_000
_AT_ONCE = 20_000
_TIE = 1e-12


@dataclass(frozen=True)
class RankCorrelation:
    """Agreement of two orders.

    Attributes:
        rho: Spearman's coefficient; NaN where one side is all ties.
        p_two_sided: chance of a coefficient at least as far from 0 if the orders had nothing to do with each other.
        p_same_order: chance of one at least as large: for the question "does the one rank as the other does?".
        count: things.
        exact: every order was tried; otherwise drawn ones, and p has their error.
    """

    rho: float
    p_two_sided: float
    p_same_order: float
    count: int
    exact: bool


def ranks(values: ArrayLike) -> Array:
    """Ranks from 1; equal values get the mean of theirs.

    Raises:
        ValueError: not a finite vector.
    """
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not np.isfinite(given).all():
        raise ValueError(f"ranks need a vector of finite numbers, got {given.tolist()}")
    below = (given[None] < given[:, None]).sum(axis=1)
    equal = (given[None] == given[:, None]).sum(axis=1)
    return np.asarray(below + (equal + 1) / 2.0, dtype=np.float64)


def spearman(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> RankCorrelation:
    """Spearman's coefficient and its permutation p-values.

    Args:
        seed: of the drawn orders, beyond ``EXACT_UP_TO`` things.

    Raises:
        ValueError: fewer than three things, or different numbers of them.
    """
    if len(a) != len(b) or len(a) < 3:
        raise ValueError(f"a rank correlation needs at least three pairs, got {len(a)} and {len(b)} values")
    x, y = _centred(ranks(a)), _centred(ranks(b))
    scale = math.sqrt(float(x @ x) * float(y @ y))
    exact = len(x) <= EXACT_UP_TO
    if scale == 0.0:
        return RankCorrelation(math.nan, 1.0, 1.0, len(x), exact)
    seen = float(x @ y)
    at_least = as_far = total = 0
    for orders in _all_orders(len(x)) if exact else _drawn_orders(len(x), seed):
        sums = y[orders] @ x
        at_least += int((sums >= seen - _TIE * scale).sum())
        as_far += int((np.abs(sums) >= abs(seen) - _TIE * scale).sum())
        total += len(orders)
    # The order that was seen is one of the drawn ones' kind: counting it keeps p above 0 and the test honest.
    extra = 0 if exact else 1
    return RankCorrelation(
        seen / scale, (as_far + extra) / (total + extra), (at_least + extra) / (total + extra), len(x), exact
    )


def rho_interval(
    a: Sequence[Sequence[bool]],
    b: Sequence[Sequence[bool]],
    *,
    confidence: float = 0.9,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """How far the coefficient of success rates moves when other trials had been run: a bootstrap over trials.

    ``a[k]`` and ``b[k]`` are the outcomes of thing k on either side. Trials of one side are those of the same
    placements, so they are drawn together for all things where their numbers are equal. Draws without an order (all
    ties) are left out; NaN limits when that is all of them.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        x, y = (_centred(ranks(_resampled(side, rng))) for side in (a, b))
        scale = math.sqrt(float(x @ x) * float(y @ y))
        if scale > 0.0:
            found.append(float(x @ y) / scale)
    if not found:
        return Interval(math.nan, math.nan)
    tail = (1.0 - confidence) / 2.0
    return Interval(float(np.quantile(found, tail)), float(np.quantile(found, 1.0 - tail)))


def _resampled(side: Sequence[Sequence[bool]], rng: np.random.Generator) -> list[float]:
    sizes = {len(outcomes) for outcomes in side}
    shared = rng.integers(len(side[0]), size=len(side[0])) if len(sizes) == 1 else None
    rates = []
    for outcomes in side:
        chosen = rng.integers(len(outcomes), size=len(outcomes)) if shared is None else shared
        rates.append(float(np.asarray(outcomes, dtype=np.float64)[chosen].mean()))
    return rates


def _centred(values: Array) -> Array:
    return np.asarray(values - values.mean(), dtype=np.float64)


def _all_orders(count: int) -> Iterator[NDArray[np.int64]]:
    orders = itertools.permutations(range(count))
    while part := list(itertools.islice(orders, _AT_ONCE)):
        yield np.array(part, dtype=np.int64)


def _drawn_orders(count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    for _ in range(DRAWN // _AT_ONCE):
        yield rng.permuted(np.tile(np.arange(count), (_AT_ONCE, 1)), axis=1)
