"""Normalisation statistics: collected in one pass, stored beside the data, checked by hash when used.

Statistics travel with the dataset and with every checkpoint (``normalisation.json``). The gripper channel is an
opening fraction already and is left in [0, 1]. A scaling is always ``normalised = (value - offset) / scale``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prophrl_models.data.files import write_json

Array = NDArray[np.float64]
Mode = Literal["quantile", "gaussian"]

FILE_NAME = "normalisation.json"
KEPT = ("opening",)
"""Channels that stay as they are."""
SMALLEST_SCALE = 1e-4
"""0.1 mm or 0.1 mrad: a channel that varies less is constant, and dividing by less would only magnify noise."""


class NormalisationError(ValueError):
    """Statistics that are damaged, incomplete, or belong to other data."""


class QuantileSketch:
    """Quantiles of a stream in bounded memory, exact until ``capacity`` values were seen.

    A full level is sorted and every second of its values moves one level up, where it stands for two. That shifts the
    rank of any value by no more than what one value stands for, so after n values the rank error is at most
    log2(n / capacity) / capacity of n: 3e-5 for two million values.
    """

    def __init__(self, capacity: int = 1 << 17) -> None:
        self._capacity = capacity
        self._levels: list[list[Array]] = []  # level k holds values that stand for 2**k values each
        self._take_upper: list[bool] = []  # of each pair, in turns: always the same one would drift

    def add(self, values: ArrayLike) -> None:
        """Take values of any shape."""
        self._push(0, np.asarray(values, dtype=np.float64).ravel())

    def quantiles(self, fractions: Sequence[float]) -> Array:
        """Values at these fractions (linear interpolation between ranks, as ``numpy.quantile``).

        Raises:
            ValueError: nothing was added.
        """
        levels = [np.concatenate(level) if level else np.zeros(0) for level in self._levels]
        values = np.concatenate([*levels, np.zeros(0)])
        if not len(values):
            raise ValueError("no values were added, so there are no quantiles")
        weights = np.concatenate([np.full(len(level), 2.0**k) for k, level in enumerate(levels)])
        order = np.argsort(values, kind="stable")
        values, weights = values[order], weights[order]
        rank = np.cumsum(weights) - (weights + 1.0) / 2.0  # mean rank, from 0, of those each value stands for
        return np.asarray(np.interp(np.asarray(fractions) * (weights.sum() - 1.0), rank, values), dtype=np.float64)

    def _push(self, level: int, values: Array) -> None:
        if level == len(self._levels):
            self._levels.append([])
            self._take_upper.append(False)
        self._levels[level].append(values)
        if sum(map(len, self._levels[level])) < self._capacity:
            return
        full = np.sort(np.concatenate(self._levels[level]))
        paired = len(full) // 2 * 2
        upper = self._take_upper[level]
        self._take_upper[level] = not upper
        self._levels[level] = [full[paired:]]
        self._push(level + 1, full[int(upper) : paired : 2])


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of one feature, one entry per channel in every tuple."""

    names: tuple[str, ...]
    count: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]

    def scaling(self, mode: Mode = "quantile") -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(offset, scale) per channel: "quantile" maps q01..q99 to -1..1, "gaussian" gives mean 0 and std 1.

        Channels in ``KEPT`` get (0, 1); channels that hardly vary get a scale of 1, so that they stay near zero.
        """
        if mode not in ("quantile", "gaussian"):
            raise NormalisationError(f"unknown mode {mode!r}; choose 'quantile' or 'gaussian'")
        offsets, scales = [], []
        for i, name in enumerate(self.names):
            if mode == "quantile":
                offset, scale = (self.q99[i] + self.q01[i]) / 2, (self.q99[i] - self.q01[i]) / 2
            else:
                offset, scale = self.mean[i], self.std[i]
            if name in KEPT:
                offset, scale = 0.0, 1.0
            offsets.append(offset)
            scales.append(scale if scale >= SMALLEST_SCALE else 1.0)
        return tuple(offsets), tuple(scales)


class StatisticsAccumulator:
    """Collects rows [N, C] of one feature in one pass, in bounded memory."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._count = 0
        self._mean = np.zeros(len(names))
        self._squares = np.zeros(len(names))  # sum of squared deviations from the running mean
        self._minimum = np.full(len(names), np.inf)
        self._maximum = np.full(len(names), -np.inf)
        self._sketches = [QuantileSketch() for _ in names]

    def add(self, rows_NC: ArrayLike) -> None:
        """Take rows [N, C].

        Raises:
            NormalisationError: wrong width, or values that are not finite.
        """
        rows = np.asarray(rows_NC, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self._names):
            raise NormalisationError(f"expected rows of {len(self._names)} channels {self._names}, got {rows.shape}")
        finite = np.isfinite(rows)
        if not finite.all():
            bad = [name for i, name in enumerate(self._names) if not finite[:, i].all()]
            raise NormalisationError(f"values that are not finite in {', '.join(bad)}; leave that episode out")
        if not len(rows):
            return
        # pairwise update of mean and variance (Chan, Golub, LeVeque): stable however long the stream
        count, mean = len(rows), rows.mean(axis=0)
        total = self._count + count
        shift = mean - self._mean
        self._squares += ((rows - mean) ** 2).sum(axis=0) + shift**2 * (self._count * count / total)
        self._mean += shift * (count / total)
        self._count = total
        self._minimum = np.minimum(self._minimum, rows.min(axis=0))
        self._maximum = np.maximum(self._maximum, rows.max(axis=0))
        for sketch, column in zip(self._sketches, rows.T, strict=True):
            sketch.add(column)

    def result(self) -> FeatureStatistics:
        """Statistics of all rows so far (std is that of the population).

        Raises:
            NormalisationError: no rows.
        """
        if not self._count:
            raise NormalisationError("no rows to take statistics of: the dataset has no episodes")
        quantiles = np.array([sketch.quantiles([0.01, 0.99]) for sketch in self._sketches])
        columns = (self._mean, np.sqrt(self._squares / self._count), quantiles[:, 0], quantiles[:, 1])
        mean, std, q01, q99, low, high = (tuple(map(float, c)) for c in (*columns, self._minimum, self._maximum))
        return FeatureStatistics(self._names, self._count, mean, std, q01, q99, low, high)


@dataclass(frozen=True)
class Normalisation:
    """Statistics of a dataset's state and action, tied to it by ``dataset_hash``."""

    state: FeatureStatistics
    action: FeatureStatistics
    dataset_hash: str

    def to_json(self) -> dict[str, Any]:
        body = {
            "dataset_hash": self.dataset_hash,
            "state": asdict(self.state),
            "action": asdict(self.action),
        }
        return {**body, "sha256": _digest(body)}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Normalisation:
        """Inverse of ``to_json``.

        Raises:
            NormalisationError: a key is missing or the content does not match its hash.
        """
        try:
            body = {key: raw[key] for key in ("dataset_hash", "state", "action")}
            state, action = _statistics(body["state"]), _statistics(body["action"])
            stored = raw["sha256"]
        except (KeyError, TypeError, AttributeError) as error:
            raise NormalisationError(f"normalisation statistics lack {error}; build the dataset again") from error
        if stored != _digest(body):
            raise NormalisationError(
                f"normalisation statistics were changed after they were written (hash {_digest(body)[:12]}, stored "
                f"{str(stored)[:12]}); restore the file, or build the dataset again"
            )
        return Normalisation(state, action, str(body["dataset_hash"]))

    def save(self, folder: str | Path) -> None:
        """Write ``normalisation.json`` into a folder, atomically."""
        write_json(Path(folder) / FILE_NAME, self.to_json())

    @staticmethod
    def load(folder: str | Path, dataset_hash: str | None = None) -> Normalisation:
        """Read ``normalisation.json`` of a dataset or checkpoint.

        Args:
            folder: where the file lies.
            dataset_hash: when given, the statistics must be of that dataset.

        Raises:
            NormalisationError: missing, damaged, changed, or of another dataset.
        """
        path = Path(folder) / FILE_NAME
        if not path.is_file():
            raise NormalisationError(f"no {FILE_NAME} in {folder}; a dataset or checkpoint without it cannot be used")
        try:
            raw = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise NormalisationError(f"{path} is not JSON: {error}; restore it, or build the dataset again") from error
        found = Normalisation.from_json(raw)
        if dataset_hash is not None and found.dataset_hash != dataset_hash:
            raise NormalisationError(
                f"{path} belongs to dataset {found.dataset_hash[:12]}, not to {dataset_hash[:12]}; "
                "use the statistics that were computed with this dataset"
            )
        return found


def _statistics(raw: Mapping[str, Any]) -> FeatureStatistics:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    return FeatureStatistics(**values)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
