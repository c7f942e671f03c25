"""Numbers of many clips: one array [clips, frames] per metric, and the means, medians and curves made of it.

NaN marks what does not count: frames after an episode's end, and pairs of frames in which no pixel moves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prophrl_models.data.image import Image
from prophrl_models.prophet.flow_metrics import compare_flow, farneback
from prophrl_models.prophet.metrics import METRICS, Array, psnr, ssim, tssim

Distance = Callable[[Image, Image], Array]
"""A further metric of single frames, [T, H, W, 3] twice -> [T]; ``metrics.Lpips``."""


def score_frames(real_THW3: Image, generated_THW3: Image, lpips: Distance | None = None) -> dict[str, Array]:
    """All metrics of one video after its first frame, each [T - 1].

    Args:
        real_THW3, generated_THW3: RGB uint8 with the frame before the first one that is scored; it is the same picture
            in both at the start of a clip, later it is each video's own.
        lpips: computes LPIPS; left out without it.

    Raises:
        MetricError: see ``metrics.ssim``.
    """
    scores = {
        "psnr_db": psnr(real_THW3[1:], generated_THW3[1:]),
        "ssim": ssim(real_THW3[1:], generated_THW3[1:]),
        "tssim": tssim(real_THW3, generated_THW3),
        **compare_flow(farneback(real_THW3), farneback(generated_THW3)),
    }
    if lpips is not None:
        scores["lpips"] = lpips(real_THW3[1:], generated_THW3[1:])
    return {name: scores[name] for name in METRICS if name in scores}


@dataclass(frozen=True)
class Summary:
    """Mean and median over all frames or pairs that count, and how many did."""

    mean: float
    median: float
    count: int


class Scores:
    """Scores of N clips over T frames after their first."""

    def __init__(self, clips: int, frames: int) -> None:
        self._shape = (clips, frames)
        self._values: dict[str, Array] = {}

    def put(self, clip: int, first: int, scores: Mapping[str, Array], valid: int) -> None:
        """Enter the scores of a clip's frames from number ``first`` on; only the first ``valid`` ones count.

        Raises:
            ValueError: the frames lie outside the table.
        """
        for name, values in scores.items():
            if first + len(values) > self._shape[1]:
                raise ValueError(f"frames {first}..{first + len(values) - 1} of {self._shape[1]} cannot be scored")
            table = self._values.setdefault(name, np.full(self._shape, np.nan))
            table[clip, first : first + valid] = values[:valid]

    @property
    def names(self) -> tuple[str, ...]:
        """Metrics that were entered, in the order of ``metrics.METRICS``."""
        return tuple(name for name in METRICS if name in self._values)

    def table(self, name: str) -> Array:
        """All values of a metric [N, T]."""
        return self._values[name]

    def summary(self, name: str) -> Summary:
        """Mean and median over everything that counts; NaN when nothing does."""
        values = self._values[name]
        counted = values[np.isfinite(values)]
        if not len(counted):
            return Summary(float("nan"), float("nan"), 0)
        return Summary(float(counted.mean()), float(np.median(counted)), len(counted))

    def curve(self, name: str) -> Array:
        """Mean over clips at each frame after the first [T]."""
        return _mean(self._values[name], axis=0)

    def per_clip(self, name: str) -> Array:
        """Mean over each clip's frames [N]."""
        return _mean(self._values[name], axis=1)


@dataclass(frozen=True)
class Spread:
    """A number measured several times: with several trained networks, several seeds of noise, or both.

    Attributes:
        mean: of the measurements.
        deviation: their sample standard deviation; NaN for a single one.
        count: measurements.
    """

    mean: float
    deviation: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of at least one value; those that are NaN make the result NaN."""
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        return Spread(float(np.mean(values)), deviation, len(values))


@dataclass(frozen=True)
class Paired:
    """By how much B exceeds A on the same clips.

    Attributes:
        difference: mean of B - A over clips on which both count.
        error: standard error of that mean; NaN for fewer than two clips.
        share: share of those clips on which B is larger.
        clips: how many there are.
    """

    difference: float
    error: float
    share: float
    clips: int

    @staticmethod
    def of(a_N: Array, b_N: Array) -> Paired:
        """From each clip's own mean; NaN where a clip does not count."""
        apart = b_N - a_N
        apart = apart[np.isfinite(apart)]
        if not len(apart):
            return Paired(float("nan"), float("nan"), float("nan"), 0)
        error = float(np.std(apart, ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else float("nan")
        return Paired(float(apart.mean()), error, float((apart > 0).mean()), len(apart))

    @property
    def clear(self) -> bool:
        """Above zero by more than two standard errors."""
        return self.difference > 2.0 * self.error


def _mean(values: Array, axis: int) -> Array:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)  # nothing counts: NaN is the answer
        return np.asarray(np.nanmean(values, axis=axis), dtype=np.float64)
