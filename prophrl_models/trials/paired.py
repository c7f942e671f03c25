"""Two policies on the same placements: what they did together and apart, and how sure the difference is.

The interval is Tango's: the asymptotic score interval for a difference of paired proportions (Statistics in Medicine
17, 1998, 891-908). It keeps near its level with few discordant pairs, where Wald's is too short, and it exists where
there are none. The test beside it is McNemar's in its exact form. Placements count as independent draws; what a policy
would do on other days or another robot is not in these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.optimize import brentq
from scipy.special import ndtri

from prophrl_models.trials.statistics import Interval, mcnemar_exact

METHOD = "Tango's score interval for paired proportions"


@dataclass(frozen=True)
class PairedOutcomes:
    """Counts of placements by who succeeded there."""

    both: int
    only_first: int
    only_second: int
    neither: int

    def __post_init__(self) -> None:
        if min(self.both, self.only_first, self.only_second, self.neither) < 0:
            raise ValueError(f"counts cannot be negative, got {self}")

    @staticmethod
    def of(first: Sequence[bool], second: Sequence[bool]) -> PairedOutcomes:
        """Count outcomes on the same placements, in the same order.

        Raises:
            ValueError: different numbers of outcomes.
        """
        if len(first) != len(second):
            raise ValueError(
                f"outcomes are paired, got {len(first)} and {len(second)}; give both policies the same ones"
            )
        pairs = [(bool(a), bool(b)) for a, b in zip(first, second, strict=True)]
        return PairedOutcomes(
            *(pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False,) * 2))
        )

    @property
    def trials(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Success rate of the second minus that of the first; NaN without trials."""
        return (self.only_second - self.only_first) / self.trials if self.trials else math.nan

    @property
    def p_value(self) -> float:
        """Exact McNemar test of equal rates, two-sided."""
        return mcnemar_exact(self.only_first, self.only_second)

    def interval(self, confidence: float = 0.95) -> Interval:
        """Interval of ``difference``."""
        return tango_interval(self.only_first, self.only_second, self.trials, confidence)


def tango_interval(only_first: int, only_second: int, trials: int, confidence: float = 0.95) -> Interval:
    """Tango's interval of rate two minus rate one.

    Args:
        only_first, only_second: discordant pairs.
        trials: all pairs.

    Raises:
        ValueError: impossible counts or confidence, or no pairs.
    """
    if min(only_first, only_second) < 0 or trials < 1 or only_first + only_second > trials:
        raise ValueError(
            f"{only_first} and {only_second} discordant pairs of {trials} are impossible; a difference needs trials"
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}; 0.95 is usual")
    z = float(ndtri(0.5 + confidence / 2.0))
    seen = (only_second - only_first) / trials

    def limit(end: float, sign: float) -> float:
        """Where the statistic, which falls from end to end through 0 at ``seen``, reaches ``sign`` z."""
        if seen == end:
            return end

        def beyond(assumed: float) -> float:
            return tango_statistic(only_first, only_second, trials, assumed) - sign * z

        near, far = (seen, end) if sign < 0 else (end, seen)
        # Just inside the ends: at -1 and 1 the assumption leaves no variance, and the statistic is without bound.
        inset = 1e-13
        return float(brentq(beyond, max(near, -1.0 + inset), min(far, 1.0 - inset), xtol=1e-14))

    return Interval(limit(-1.0, 1.0), limit(1.0, -1.0))


def tango_statistic(only_first: int, only_second: int, trials: int, assumed: float) -> float:
    """Score statistic of "rate two minus rate one is ``assumed``"; standard normal if that is so.

    The variance is that of the likeliest table under the assumption: with q the chance of "only first", the chance of
    "only second" is q + assumed, and q solves 2 n q^2 + B q + C = 0.
    """
    b, c, n = only_second, only_first, trials
    B = -b - c + (2 * n - b + c) * assumed
    C = -c * assumed * (1.0 - assumed)
    q = (math.sqrt(max(B * B - 8 * n * C, 0.0)) - B) / (4 * n)
    variance = n * (2.0 * q + assumed * (1.0 - assumed))
    distance = b - c - n * assumed
    if variance <= 0.0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)
