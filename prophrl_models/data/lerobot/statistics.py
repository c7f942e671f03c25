"""Statistics as LeRobotDataset v3.0 keeps them: min, max, mean, std, count and five quantiles per feature.

Numbers have one entry per channel; a picture has one per colour, shaped [C, 1, 1]: colours as fractions 0..1, depth in
its own unit. Quantiles are those of all frames. (LeRobot's own writer joins the quantiles of episodes to bounds.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.normalise import QuantileSketch

Stats = dict[str, Any]
"""Of one feature: lists of numbers (pictures: nested three deep), as JSON and parquet take them."""

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_PIXEL_STRIDE = 2  # every second pixel of every second row tells the distribution of colours as well as all do


class NumberStatistics:
    """Collects rows [T, C] of one feature; exact but for quantiles of very many rows (see ``QuantileSketch``)."""

    def __init__(self) -> None:
        self._count = 0
        self._min = self._max = self._mean = self._squares = np.zeros(0)
        self._sketches: list[QuantileSketch] = []

    def add(self, values: NDArray[Any]) -> None:
        """Take the values [T] or [T, C] of some frames."""
        rows = values.reshape(len(values), -1)
        if not len(rows):
            return
        if not self._count:
            self._min, self._max = rows[0], rows[0]
            self._mean = self._squares = np.zeros(rows.shape[1])
            self._sketches = [QuantileSketch() for _ in range(rows.shape[1])]
        self._min, self._max = np.minimum(self._min, rows.min(axis=0)), np.maximum(self._max, rows.max(axis=0))
        exact = rows.astype(np.float64)
        mean, total = exact.mean(axis=0), self._count + len(rows)
        apart = mean - self._mean
        self._squares = self._squares + ((exact - mean) ** 2).sum(axis=0) + apart**2 * (self._count * len(rows) / total)
        self._mean = self._mean + apart * (len(rows) / total)
        self._count = total
        for sketch, channel in zip(self._sketches, exact.T, strict=True):
            sketch.add(channel)

    def result(self) -> Stats:
        """The statistics; whole numbers keep exact bounds.

        Raises:
            ValueError: nothing was added.
        """
        if not self._count:
            raise ValueError("no frames were added, so there are no statistics")
        quantiles = np.stack([sketch.quantiles(list(QUANTILES.values())) for sketch in self._sketches])  # [C, Q]
        bounds = [b.astype(np.float64) if b.dtype == np.bool_ else b for b in (self._min, self._max)]
        return {
            "min": bounds[0].tolist(),
            "max": bounds[1].tolist(),
            "mean": self._mean.tolist(),
            "std": np.sqrt(self._squares / self._count).tolist(),
            "count": [self._count],
            **{name: quantiles[:, i].tolist() for i, name in enumerate(QUANTILES)},
        }


class PictureStatistics:
    """Collects pictures of one feature as histograms, which add up over episodes without loss."""

    def __init__(self, channels: int, values: int, unit: float) -> None:
        """Start empty.

        Args:
            channels: 3 for RGB, 1 for depth.
            values: pixels are whole numbers 0 .. values - 1.
            unit: what one of them is worth in the statistics: 1 / 255 for colours.
        """
        self.histogram_CV = np.zeros((channels, values), dtype=np.int64)
        self.frames = 0
        self._unit = unit

    def add(self, picture: NDArray[Any]) -> None:
        """Take one picture [H, W] or [H, W, C]."""
        channels, values = self.histogram_CV.shape
        pixels = picture[::_PIXEL_STRIDE, ::_PIXEL_STRIDE].reshape(-1, channels)
        for channel in range(channels):
            self.histogram_CV[channel] += np.bincount(pixels[:, channel], minlength=values)
        self.frames += 1

    def merge(self, histogram_CV: NDArray[np.int64], frames: int) -> None:
        """Take what another one collected."""
        self.histogram_CV += histogram_CV
        self.frames += frames

    def result(self) -> Stats:
        """The statistics, each [C, 1, 1]; ``count`` is frames.

        Raises:
            ValueError: nothing was added.
        """
        if not self.frames:
            raise ValueError("no pictures were added, so there are no statistics")
        found: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", *QUANTILES)}
        values = np.arange(self.histogram_CV.shape[1], dtype=np.float64)
        for histogram in self.histogram_CV:
            total, cumulative = int(histogram.sum()), np.cumsum(histogram)
            seen = np.flatnonzero(histogram)
            mean = float(histogram @ values) / total
            found["min"].append(float(seen[0]))
            found["max"].append(float(seen[-1]))
            found["mean"].append(mean)
            found["std"].append(float(np.sqrt(histogram @ (values - mean) ** 2 / total)))
            for name, fraction in QUANTILES.items():
                found[name].append(float(np.searchsorted(cumulative, fraction * (total - 1), side="right")))
        stats: Stats = {name: [[[v * self._unit]] for v in channels] for name, channels in found.items()}
        return {**stats, "count": [self.frames]}


def color_statistics() -> PictureStatistics:
    return PictureStatistics(3, 256, 1.0 / 255.0)


def depth_statistics() -> PictureStatistics:
    return PictureStatistics(1, 1 << 16, 1.0)


def number_statistics(columns: Mapping[str, NDArray[Any]]) -> dict[str, Stats]:
    """Statistics of the columns of one episode."""
    found = {}
    for key, values in columns.items():
        collected = NumberStatistics()
        collected.add(values)
        found[key] = collected.result()
    return found
