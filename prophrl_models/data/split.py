"""Which episodes of a dataset are kept back for evaluation: the same ones for whoever asks.

An episode's side depends on its own name, the fraction and the seed, and on nothing else. So a dataset may grow, be
exported and read back or be filtered, and no episode that was once trained on turns up among the held-out ones; and
the episodes held out at a small fraction are among those held out at a larger one. The price is that the fraction is
met only roughly in small datasets. An episode that was made from another one lies on the other's side, and says so in
its name (``derived_name``): what was learned from one must not be tested on the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

DERIVED = "~"
"""Stands in the name of an episode made from another one: the other's name before it, what was done to it after it."""


class SplitError(ValueError):
    """A split that leaves nothing to train on or nothing to evaluate; the message says what to change."""


class _Row(Protocol):
    @property
    def episode_id(self) -> str: ...


class _Dataset(Protocol):
    @property
    def table(self) -> Sequence[_Row]: ...


@dataclass(frozen=True)
class Split:
    """Positions in a dataset's table, ascending."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


def derived_name(original: str, what: str) -> str:
    """The name of an episode that was made from the one called ``original``."""
    return f"{original}{DERIVED}{what}"


def original_name(name: str) -> str:
    """The name of the recording that an episode was made from; its own where it is one."""
    return name.partition(DERIVED)[0] or name


def is_held_out(episode_id: str, fraction: float, seed: int = 0) -> bool:
    """Whether the episode of that name, or the one it was made from, is held out.

    Raises:
        SplitError: the fraction is not inside 0..1.
    """
    if not 0.0 <= fraction < 1.0:
        raise SplitError(f"the held-out fraction must lie in 0 <= fraction < 1, got {fraction}")
    digest = hashlib.sha256(f"{seed}/{original_name(episode_id)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2.0**64


def held_out(dataset: _Dataset, fraction: float, seed: int = 0) -> Split:
    """Divide a dataset's episodes; ``fraction`` 0 holds none out.

    Args:
        dataset: anything with a ``table`` of rows that have an ``episode_id``, as ``data.dataset.Dataset``.
        fraction: expected share of held-out episodes.
        seed: another seed gives another division.

    Raises:
        SplitError: the fraction is not inside 0..1, or one side would be empty although a share of it was asked for.
    """
    return held_out_of_each([dataset], fraction, seed)[0]


def held_out_of_each(datasets: Sequence[_Dataset], fraction: float, seed: int = 0) -> list[Split]:
    """The division of each of several datasets that are used together: one of them may lie on one side as a whole.

    Raises:
        SplitError: see ``held_out``, of all of them together.
    """
    splits = []
    for dataset in datasets:
        chosen = [is_held_out(row.episode_id, fraction, seed) for row in dataset.table]
        train = tuple(position for position, out in enumerate(chosen) if not out)
        splits.append(Split(train, tuple(position for position, out in enumerate(chosen) if out)))
    trained, kept = (any(getattr(split, side) for split in splits) for side in ("train", "held_out"))
    if not trained or (fraction > 0.0 and not kept):
        side = "train" if not trained else "hold out"
        raise SplitError(
            f"of {sum(len(dataset.table) for dataset in datasets)} episodes none is left to {side} at fraction "
            f"{fraction} and seed {seed}; use another fraction or seed, or record more episodes"
        )
    return splits
