"""A dataset made of episodes of others: some of one, or several put together.

Few demonstrations for one training and all of them for another; yesterday's recordings and today's in one folder. The
episodes stay what they are; depth is left out where a source has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import DatasetError, EpisodeRow
from prophrl_models.data.dataset_writer import DatasetWriter


@dataclass(frozen=True)
class Choice:
    """Which episodes are taken.

    Attributes:
        tasks, outcomes, episode_ids: only these; empty: all.
        count: at most so many of each task, drawn at random; 0: all.
        seed: of the draw.
    """

    tasks: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    episode_ids: tuple[str, ...] = ()
    count: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count must be 0 (all) or positive, got {self.count}")

    def fits(self, row: EpisodeRow) -> bool:
        """Whether an episode is asked for, before counting."""
        return (
            (not self.tasks or row.task in self.tasks)
            and (not self.outcomes or row.outcome in self.outcomes)
            and (not self.episode_ids or row.episode_id in self.episode_ids)
        )


def select_episodes(
    sources: Sequence[str | Path],
    out: str | Path,
    choice: Choice = Choice(),
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Write the chosen episodes of some datasets into a new one; interrupted, the same call goes on.

    An episode that stands in several sources is taken once.

    Args:
        tell: (episodes written, episodes chosen).

    Raises:
        DatasetError: a source cannot be read, sources differ in convention or synchronisation, nothing fits, or ``out``
            holds something else.
        ValueError: episode ids that no source has.
    """
    datasets = [Dataset(source) for source in sources]
    if not datasets:
        raise DatasetError("no dataset to choose from; name one or more folders made by 'prophrl dataset build'")
    depth = datasets[0].header.depth if all(dataset.has_depth for dataset in datasets) else None
    headers = {str(replace(dataset.header, depth=None)): dataset.folder for dataset in datasets}
    if len(headers) > 1:
        raise DatasetError(f"{' and '.join(map(str, headers.values()))} were made differently; build one of them anew")
    chosen = _chosen(datasets, choice)
    writer = DatasetWriter(out, replace(datasets[0].header, depth=depth))
    try:
        wanted = [datasets[i].table[position].source_id for i, position in chosen]
        if foreign := writer.source_ids - set(wanted):
            raise DatasetError(f"{out} holds {len(foreign)} episodes that are not chosen now; take another folder")
        for done, (i, position) in enumerate(chosen):
            tell(done, len(chosen))
            row = datasets[i].table[position]
            if row.source_id in writer.source_ids:
                continue
            episode = datasets[i][position]
            if depth is None:
                episode = replace(episode, depth=None, depth_THW=None)
            yaml = datasets[i].calibration_yaml(position)
            writer.add(episode, row.source_id, source=row.source, calibration_yaml=yaml)
        tell(len(chosen), len(chosen))
        writer.finish()
    finally:
        writer.close()
    return Dataset(out)


def _chosen(datasets: Sequence[Dataset], choice: Choice) -> list[tuple[int, int]]:
    """(dataset, position) of the episodes, in the order of the sources."""
    found: dict[str, tuple[int, int]] = {}  # by where the episode came from
    tasks: dict[str, list[str]] = {}
    for i, dataset in enumerate(datasets):
        for position, row in enumerate(dataset.table):
            if row.source_id not in found and choice.fits(row):
                found[row.source_id] = (i, position)
                tasks.setdefault(row.task, []).append(row.source_id)
    known = {row.episode_id for dataset in datasets for row in dataset.table}
    if unknown := [name for name in choice.episode_ids if name not in known]:
        raise ValueError(f"no such episode: {', '.join(unknown)}; 'prophrl dataset info' lists them")
    if not found:
        outcomes = sorted({row.outcome for dataset in datasets for row in dataset.table})
        there = sorted({row.task for dataset in datasets for row in dataset.table})
        raise DatasetError(f"no episode fits; there are tasks {', '.join(there)} and outcomes {', '.join(outcomes)}")
    if choice.count:
        rng = np.random.default_rng(choice.seed)
        kept: set[str] = set()
        for _, ids in sorted(tasks.items()):
            kept |= set(rng.permutation(ids)[: choice.count].tolist())
        found = {name: place for name, place in found.items() if name in kept}
    return list(found.values())
