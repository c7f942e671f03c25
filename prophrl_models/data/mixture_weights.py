"""Which source each batch is drawn from, and which windows: functions of the seed and a number, not of the past.

Random numbers are taken from generators that are seeded with (seed, purpose, ...). Any process can therefore look up
any batch, and the state of a run is the number of its next batch.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHOICES, EPISODES, WINDOWS = 1, 2, 3
"""Purposes of random numbers; different ones never share a generator."""
BLOCK = 4096
"""Choices that one generator makes."""


def probabilities(windows: Sequence[int], weights: Sequence[float | None], temperature: float) -> NDArray[np.float64]:
    """Share of each source: by its weight where weights are given, else by windows ** (1 / temperature).

    Args:
        windows: number of windows of each source, at least 1.
        weights: all numbers, or all ``None``.
        temperature: see ``MixtureConfig``.
    """
    given = [weight for weight in weights if weight is not None]
    if given and len(given) != len(weights):
        raise ValueError("either all sources have a weight, or none has")
    # In logarithms, because a small temperature raises large counts to large powers.
    logs = np.log(np.asarray(given or windows, dtype=np.float64)) / (1.0 if given else temperature)
    shares = np.exp(logs - logs.max())
    return np.asarray(shares / shares.sum(), dtype=np.float64)


class SourceChoice:
    """The source of every draw, drawn independently with given probabilities."""

    def __init__(self, shares: NDArray[np.float64], seed: int) -> None:
        self._shares, self._seed = shares, seed
        self._before: list[NDArray[np.int64]] = [np.zeros(len(shares), np.int64)]  # draws of each before block b
        self._blocks: OrderedDict[int, NDArray[np.int64]] = OrderedDict()

    def locate(self, number: int) -> tuple[int, int]:
        """Source of draw ``number`` (from 0), and how many earlier draws were of that source."""
        block, position = divmod(number, BLOCK)
        choices = self._choices(block)
        source = int(choices[position])
        return source, int(self._before[block][source] + np.count_nonzero(choices[:position] == source))

    def drawn(self, number: int) -> NDArray[np.int64]:
        """How many of the first ``number`` draws are of each source."""
        block, position = divmod(number, BLOCK)
        here = np.bincount(self._choices(block)[:position], minlength=len(self._shares))
        return np.asarray(self._before[block] + here, dtype=np.int64)

    def _choices(self, block: int) -> NDArray[np.int64]:
        while len(self._before) <= block:
            made = self._make(len(self._before) - 1)
            self._before.append(self._before[-1] + np.bincount(made, minlength=len(self._shares)))
        if block not in self._blocks:
            self._blocks[block] = self._make(block)
            while len(self._blocks) > 2:
                self._blocks.popitem(last=False)
        return self._blocks[block]

    def _make(self, block: int) -> NDArray[np.int64]:
        generator = np.random.default_rng((self._seed, CHOICES, 0, block, 0))
        return generator.choice(len(self._shares), BLOCK, p=self._shares)


@dataclass(frozen=True)
class _Epoch:
    """Order of one pass over a source: its episodes, and where each group of them starts among the windows."""

    episode_E: NDArray[np.int64]
    group_start: NDArray[np.int64]


class WindowOrder:
    """Every window of a source once in each epoch.

    Episodes are shuffled and cut into groups; the windows of a group are shuffled together. Nearby draws come from the
    same few episodes, so that each is opened once or a few times in an epoch and not once for every window.

    Args:
        windows_E: windows of each episode; episodes with none are never drawn.
        group: episodes of a group.
        seed: of the mixture.
        label: of the source; its order does not depend on which other sources there are.
    """

    def __init__(self, windows_E: NDArray[np.int64], group: int, seed: int, label: str) -> None:
        self._windows_E = windows_E
        self._usable = np.flatnonzero(windows_E)
        self.windows = int(windows_E.sum())
        if not self.windows:
            raise ValueError(f"source {label!r} has no windows to put in order")
        self._group, self._seed, self._key = group, seed, zlib.crc32(label.encode())
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = OrderedDict()

    def draw(self, number: int) -> tuple[int, int]:
        """(episode, window of that episode) of draw ``number``, from 0."""
        epoch, position = divmod(number, self.windows)
        order = self._epoch(epoch)
        group = int(np.searchsorted(order.group_start, position, side="right")) - 1
        shuffled, ends = self._windows_of(epoch, group)
        window = int(shuffled[position - order.group_start[group]])
        place = int(np.searchsorted(ends, window, side="right"))
        episode = int(order.episode_E[group * self._group + place])
        return episode, window - int(ends[place] - self._windows_E[episode])

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            generator = np.random.default_rng((self._seed, EPISODES, self._key, epoch, 0))
            episode_E = self._usable[generator.permutation(len(self._usable))]
            starts = np.arange(0, len(episode_E), self._group)
            sizes = np.add.reduceat(self._windows_E[episode_E], starts)
            self._epochs[epoch] = _Epoch(episode_E, np.concatenate([[0], np.cumsum(sizes)[:-1]]))
            while len(self._epochs) > 2:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _windows_of(self, epoch: int, group: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shuffled window numbers of a group, and where each of its episodes ends among them."""
        if (epoch, group) not in self._groups:
            episodes = self._epoch(epoch).episode_E[group * self._group : (group + 1) * self._group]
            ends = np.cumsum(self._windows_E[episodes])
            generator = np.random.default_rng((self._seed, WINDOWS, self._key, epoch, group))
            self._groups[epoch, group] = (generator.permutation(int(ends[-1])), ends)
            while len(self._groups) > 4:
                self._groups.popitem(last=False)
        return self._groups[epoch, group]
