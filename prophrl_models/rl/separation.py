"""Does a score tell successes from failures? The share of pairs in which the success has the higher score.

0.5 is guessing, 1 is knowing (the area under the ROC curve). Reinforcement compares the members of a group, which begin
from the same picture, so pairs *within* groups are what it learns from; pairs over all rollouts also count how well
easy starts are told from hard ones. Intervals come from drawing groups anew, because members of a group are alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Share:
    """A share of pairs in order, with its interval; NaN where there is no pair."""

    value: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Separation:
    """Pairs within groups and pairs over all."""

    within: Share
    overall: Share

    def to_json(self) -> dict[str, Any]:
        """Plain values; None where there is no pair."""
        return {
            name: {key: value if np.isfinite(value) else None for key, value in share.items()}
            for name, share in asdict(self).items()
        }


def separation(
    score_N: ArrayLike,
    truth_N: ArrayLike,
    group_N: ArrayLike,
    *,
    confidence: float = 0.9,
    resamples: int = 2000,
    seed: int = 0,
) -> Separation:
    """How well a score separates true successes from true failures; ties count half.

    Args:
        score_N: any numbers, higher for success.
        truth_N: whether each succeeded.
        group_N: which group each belongs to.

    Raises:
        ValueError: lengths differ, nothing to compare, or a score is not finite.
    """
    score, truth = np.asarray(score_N, np.float64), np.asarray(truth_N, bool)
    names, group = np.unique(np.asarray(group_N), return_inverse=True)
    if not (score.shape == truth.shape == group.shape) or score.ndim != 1 or not len(score):
        raise ValueError(f"need one score, truth and group each, got {score.shape}, {truth.shape} and {group.shape}")
    if not np.isfinite(score).all():
        raise ValueError(
            f"{int((~np.isfinite(score)).sum())} of {len(score)} scores are no finite numbers; leave them out"
        )
    # won_GG[g, h]: pairs of a success of group g and a failure of group h in which the success is ahead.
    won_GG, all_GG = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)))
    good, bad = np.flatnonzero(truth), np.flatnonzero(~truth)
    ahead = (score[good, None] > score[bad]) + 0.5 * (score[good, None] == score[bad])
    np.add.at(won_GG, (group[good, None], group[None, bad]), ahead)
    np.add.at(all_GG, (group[good, None], group[None, bad]), 1.0)
    rng = np.random.default_rng(seed)
    times_RG = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=resamples).astype(np.float64)

    def within(times_RG: NDArray[np.float64]) -> NDArray[np.float64]:
        return _ratio(times_RG @ np.diag(won_GG), times_RG @ np.diag(all_GG))

    def overall(times_RG: NDArray[np.float64]) -> NDArray[np.float64]:
        won = np.einsum("rg,gh,rh->r", times_RG, won_GG, times_RG)
        return _ratio(won, np.einsum("rg,gh,rh->r", times_RG, all_GG, times_RG))

    once = np.ones((1, len(names)))
    tails = [50.0 * (1.0 - confidence), 50.0 * (1.0 + confidence)]

    def share(of: Any, pairs: float) -> Share:
        drawn = of(times_RG)
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.percentile(drawn, tails) if len(drawn) else (np.nan, np.nan)
        return Share(float(of(once)[0]), float(low), float(high), int(pairs))

    return Separation(share(within, np.trace(all_GG)), share(overall, all_GG.sum()))


def _ratio(won: NDArray[np.float64], pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)
