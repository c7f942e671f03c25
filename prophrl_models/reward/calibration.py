"""From logits to decisions: a temperature that makes probabilities honest, and a threshold for a wanted precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from prophrl_models.reward.judge import Confusion, JudgeError, Verdict

Logits = NDArray[np.float64]
LEAST_RECALL = 0.5
"""Share of the successes that a threshold must find, whatever precision is wanted."""


@dataclass(frozen=True)
class Decision:
    """How a classifier's logits are read.

    Attributes:
        temperature: logits are divided by it before the sigmoid.
        threshold: probability from which a video counts as a success.
    """

    temperature: float = 1.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not self.temperature > 0.0 or not 0.0 < self.threshold < 1.0:
            raise JudgeError(
                f"a temperature is positive and a threshold lies in (0, 1), got {self.temperature} and {self.threshold}"
            )

    def probability(self, logit: Logits) -> Logits:
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(np.asarray(logit) / self.temperature, -60.0, 60.0))))

    def verdict(self, logit_T: Logits, index_T: NDArray[np.int64]) -> Verdict:
        """What the last of T logits says, of the frames ``index_T``; one vote. ``finish_step`` is the first of them
        from which the probability never went back below the threshold."""
        probability_T = self.probability(logit_T)
        score, finish = float(probability_T[-1]), None
        success = score >= self.threshold
        if success:
            below = np.flatnonzero(probability_T < self.threshold)
            finish = int(index_T[below[-1] + 1]) if len(below) else int(index_T[0])
        return Verdict(success, score, (success,), finish, f"probability {score:.3f}, threshold {self.threshold:.3f}")


def fit_temperature(logit_N: Logits, truth_N: NDArray[np.bool_]) -> float:
    """The temperature with the least cross-entropy, within 0.1 .. 20 (Guo et al. 2017).

    Where the two classes are separated any small one would do; then the smallest is not taken but 1.
    """
    logit, sign = np.asarray(logit_N, np.float64), np.where(truth_N, 1.0, -1.0)
    if (logit * sign > 0.0).all():
        return 1.0
    entropy = minimize_scalar(
        lambda s: float(np.logaddexp(0.0, -sign * logit / np.exp(s)).mean()), bounds=(np.log(0.1), np.log(20.0)),
        method="bounded",
    )  # fmt: skip
    return float(np.exp(entropy.x))


def choose_threshold(
    probability_N: Logits, truth_N: NDArray[np.bool_], wanted_precision: float, least_recall: float = LEAST_RECALL
) -> float:
    """The threshold with the highest recall among those that reach the wanted precision.

    Where they all miss more than 1 - ``least_recall`` of the successes, the precision is not worth that: a judge that
    never says yes is never wrong, and teaches nothing. Then the threshold with the best balanced accuracy is taken
    (Youden 1950): the chance that a success is told from a failure of the same group. ``Confusion`` on the same videos
    tells which it was. A threshold lies half-way between two neighbouring probabilities.

    Raises:
        JudgeError: no success among the videos.
    """
    truth = np.asarray(truth_N, bool)
    if not truth.any():
        raise JudgeError("a threshold cannot be chosen on videos without a success; hold out more videos")
    levels = np.unique(np.concatenate([probability_N, [0.0, 1.0]]))
    candidates = np.clip(0.5 * (levels[1:] + levels[:-1]), 1e-6, 1.0 - 1e-6)
    best, chosen = (False, -1.0, -1.0), 0.5
    for threshold, gap in zip(candidates, np.diff(levels), strict=True):
        found = Confusion.of((probability_N >= threshold).tolist(), truth.tolist())
        precision, recall = found.precision or 0.0, found.recall or 0.0
        good = precision >= wanted_precision and recall >= least_recall
        specificity = 1.0 if found.specificity is None else found.specificity
        # Among equals the middle of the widest gap: it is as far as can be from the videos on both sides.
        rank = (good, recall if good else recall + specificity, float(gap))
        if rank > best:
            best, chosen = rank, float(threshold)
    return chosen
