"""A mixture of registered datasets as a numbered sequence of batches, each from one dataset.

Picture sizes, camera streams and action conventions differ between datasets, so a batch never mixes them (design
specification 3.4). Batch number n holds the same windows whoever asks for it: workers, ranks and resumed runs only
differ in the numbers they ask for (``mixture_loader``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibration.poses import ActionConvention
from prophrl_models.data.mixture_batch import MixtureBatch, collate
from prophrl_models.data.mixture_config import MixtureConfig, MixtureError, SourceConfig
from prophrl_models.data.mixture_index import EffectorStatistics, EpisodeIndex, Progress, scan
from prophrl_models.data.mixture_weights import SourceChoice, WindowOrder, probabilities
from prophrl_models.data.normalise import Normalisation
from prophrl_models.data.registry.general import GeneralEpisode
from prophrl_models.data.registry.sources import RegisteredDataset
from prophrl_models.data.windows import WindowRule, cut

SAME_RATE = 0.01
"""Control rates that differ by less than this fraction count as the same."""


@dataclass(frozen=True)
class MixtureSource:
    """One opened dataset of a mixture.

    Attributes:
        config: where it lies and how it is read.
        dataset: its episodes.
        index: their lengths.
        rule: the mixture's window with this source's stride.
        convention: of all its actions.
        rate_hz: of its windows, after the stride.
        windows: how many there are.
        share: probability that a batch is drawn from it.
        statistics: one entry per end-effector; empty unless asked for.
    """

    config: SourceConfig
    dataset: RegisteredDataset
    index: EpisodeIndex
    rule: WindowRule
    convention: ActionConvention
    rate_hz: float
    windows: int
    share: float = 0.0
    statistics: tuple[Normalisation, ...] = ()

    @property
    def label(self) -> str:
        """Name in the mixture."""
        return self.config.label


class Mixture:
    """Batches by number.

    Can be pickled and sent to workers. One object must not be used from several threads.

    Attributes:
        config: the configuration.
        sources: the opened datasets, in its order.
    """

    def __init__(self, config: MixtureConfig, *, statistics: bool = False, progress: Progress | None = None) -> None:
        """Open all folders and read the lengths of their episodes.

        Args:
            config: what to mix.
            statistics: collect normalisation statistics in the same pass.
            progress: told about every episode that is read.

        Raises:
            UnknownDatasetError: a name that the registry does not have.
            MixtureError: an empty dataset, no window in one of them, or control rates that must not be mixed.
            RegistryError: a folder that is missing, or not in a published layout.
        """
        self.config = config
        opened = [_opened(source, config.window) for source in config.sources]
        _check_rates(opened, config)
        opened = [_indexed(source, config, statistics, progress) for source in opened]
        _check_lengths(opened)
        shares = probabilities(
            [source.windows for source in opened], [source.config.weight for source in opened], config.temperature
        )
        self.sources = tuple(replace(source, share=float(share)) for source, share in zip(opened, shares, strict=True))
        self._choice = SourceChoice(shares, config.seed)
        self._orders = [
            WindowOrder(source.rule.count(source.index.frames_E), config.shuffle_episodes, config.seed, source.label)
            for source in self.sources
        ]
        self._open: OrderedDict[tuple[int, int], GeneralEpisode] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def windows(self) -> int:
        """Windows of all sources."""
        return sum(source.windows for source in self.sources)

    @property
    def weighting(self) -> str:
        """Where the shares come from, in words."""
        if self.config.sources[0].weight is not None:
            return "weights as configured"
        return f"proportional to windows ** (1 / {self.config.temperature:g})"

    @property
    def statistics(self) -> Mapping[str, tuple[Normalisation, ...]]:
        """Statistics per source and end-effector.

        Raises:
            MixtureError: the mixture was opened without them.
        """
        if not self.sources[0].statistics:
            raise MixtureError("no statistics were collected; open the mixture with statistics=True")
        return {source.label: source.statistics for source in self.sources}

    def source_of(self, number: int) -> MixtureSource:
        """The source of batch ``number``; reads nothing."""
        return self.sources[self._place(number)[0]]

    def draws(self, number: int) -> list[tuple[int, int]]:
        """(episode, window of that episode) of each row of batch ``number``; reads nothing."""
        source, local = self._place(number)
        first = local * self.config.batch_size
        return [self._orders[source].draw(draw) for draw in range(first, first + self.config.batch_size)]

    def batch(self, number: int) -> MixtureBatch:
        """Batch ``number``, from 0, on the CPU.

        Raises:
            MixtureError: a file changed since the index was made.
            RegistryError: an episode or picture cannot be read.
        """
        chosen, _ = self._place(number)
        source = self.sources[chosen]
        entries = []
        for episode_number, window in self.draws(number):
            episode = self._episode(chosen, episode_number)
            entries.append((episode, cut(episode, source.rule.anchor(window), source.rule)))
        return collate(
            entries,
            source=source.label,
            convention=source.convention,
            rate_hz=source.rate_hz,
            history=source.rule.history,
            number=number,
        )

    def positions(self, number: int) -> dict[str, dict[str, int]]:
        """Where each source stands before batch ``number``: epoch, and windows drawn in it."""
        runs, rest = divmod(number, self.config.run_length)
        batches = self._choice.drawn(runs) * self.config.run_length
        if rest:
            batches[self._choice.locate(runs)[0]] += rest
        result = {}
        for source, count in zip(self.sources, batches, strict=True):
            epoch, position = divmod(int(count) * self.config.batch_size, source.windows)
            result[source.label] = {"epoch": epoch, "position": position}
        return result

    def plan(self) -> dict[str, Any]:
        """Everything the sequence of batches depends on, as plain values."""
        config = self.config
        return {
            "seed": config.seed,
            "batch_size": config.batch_size,
            "run_length": config.run_length,
            "shuffle_episodes": config.shuffle_episodes,
            "window": [config.window.history, config.window.actions, config.window.real_actions, config.window.step],
            "sources": {
                source.label: {
                    "dataset": source.dataset.spec.name,
                    "content": source.index.content,
                    "stride": source.rule.stride,
                    "convention": source.convention.name,
                    "share": source.share,
                }
                for source in self.sources
            },
        }

    def _place(self, number: int) -> tuple[int, int]:
        """Source of a batch, and how many batches of that source precede it."""
        if number < 0:
            raise MixtureError(f"batches are numbered from 0, got {number}")
        run, rest = divmod(number, self.config.run_length)
        source, before = self._choice.locate(run)
        return source, before * self.config.run_length + rest

    def _episode(self, source: int, number: int) -> GeneralEpisode:
        key = (source, number)
        if key not in self._open:
            opened = self.sources[source]
            episode = opened.dataset[number]
            expected = int(opened.index.frames_E[number])
            if len(episode) != expected:
                raise MixtureError(
                    f"source {opened.label!r}: episode {number} has {len(episode)} frames, the index says {expected}; "
                    "the dataset changed, delete its index and start the run anew"
                )
            self._open[key] = episode
            while len(self._open) > self.config.open_episodes:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return self._open[key]


def _opened(config: SourceConfig, window: WindowRule) -> MixtureSource:
    dataset = RegisteredDataset(
        config.dataset,
        config.folder,
        split=config.split,
        convention=config.convention,
        calibration=config.calibration,
    )
    if not len(dataset):
        raise MixtureError(f"source {config.label!r}: {config.folder} holds no episodes; remove it or fetch them")
    return MixtureSource(
        config,
        dataset,
        EpisodeIndex(np.zeros(0, np.int64), (), ""),
        replace(window, stride=config.stride),
        ActionConvention(config.convention or dataset.spec.convention),
        dataset.rate_hz / config.stride,
        0,
    )


def _check_rates(sources: list[MixtureSource], config: MixtureConfig) -> None:
    rates = [source.rate_hz for source in sources]
    if config.rates == "native" or max(rates) - min(rates) <= SAME_RATE * max(rates):
        return
    listed = ", ".join(f"{source.label} {source.rate_hz:g} Hz" for source in sources)
    raise MixtureError(
        f"sources of different control rates: {listed}. Bring them to one rate with 'stride' (every stride-th frame, "
        "actions composed), or say 'rates: native' if the model is told the rate or need not know it"
    )


def _indexed(
    source: MixtureSource, config: MixtureConfig, statistics: bool, progress: Progress | None
) -> MixtureSource:
    identity = {
        "dataset": source.dataset.spec.name,
        "folder": str(source.config.folder.resolve()),
        "split": source.config.split,
        "episodes": len(source.dataset),
        "leave_out_damaged": source.config.leave_out_damaged,
    }
    file = None if config.index is None else config.index / f"{source.label}.json"
    index = None if file is None or statistics else EpisodeIndex.load(file, identity)
    collected = EffectorStatistics(source.rule.stride) if statistics else None
    if index is None:
        index = scan(
            source.dataset,
            source.label,
            leave_out_damaged=source.config.leave_out_damaged,
            statistics=collected,
            progress=progress,
        )
        if file is not None:
            index.save(file, identity)
    found = () if collected is None else collected.result(index.content)
    return replace(source, index=index, windows=int(source.rule.count(index.frames_E).sum()), statistics=found)


def _check_lengths(sources: list[MixtureSource]) -> None:
    short = [
        f"{source.label} (longest episode {int(source.index.frames_E.max())} frames, {source.rule.shortest} needed)"
        for source in sources
        if not source.windows
    ]
    if short:
        raise MixtureError(
            f"windows longer than every episode of {', '.join(short)}; lower window.actions or the source's stride, "
            "allow padded windows with window.min_actions, or remove the source"
        )
