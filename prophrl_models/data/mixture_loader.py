"""Goes through a mixture's batches: read ahead by worker processes, shared out to ranks, resumable.

Rank r of R takes the batches r, r + R, r + 2R, ... of the mixture's sequence, so that ranks never share a window within
an epoch of a source, and together see what a single process would see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from prophrl_models.data.mixture import Mixture
from prophrl_models.data.mixture_batch import MixtureBatch
from prophrl_models.data.mixture_config import MixtureError

VERSION = 1


class _Batches(Dataset[MixtureBatch]):
    """Batches by number, as ``DataLoader`` asks for them."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture

    def __getitem__(self, number: int) -> MixtureBatch:
        return self._mixture.batch(number)


class _Numbers:
    """The numbers of one rank's batches, without end."""

    def __init__(self, first: int, step: int) -> None:
        self._first, self._step = first, step

    def __iter__(self) -> Iterator[int]:
        return count(self._first, self._step)


class MixtureLoader:
    """An endless iterator over the batches of one rank.

    The sequence does not depend on ``workers``. ``state`` counts batches that were handed out, not those that workers
    have read ahead.

    Args:
        mixture: what to draw from.
        workers: processes that read and decode; 0: in this process, when a batch is asked for. Each keeps its own open
            episodes.
        rank, world_size: this process among all that train together.
        state: of an earlier loader, perhaps of another number of ranks; ``None``: from the beginning.
        prefetch: batches that each worker prepares ahead.
        pin_memory: hand out batches in page-locked memory (needs a GPU).
        start_method: how workers are started. "forkserver" and "spawn" are safe after pictures were decoded or a GPU
            was used in this process; "fork" starts faster.

    Raises:
        MixtureError: a rank outside 0..world_size - 1, or a state of another mixture.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        state: Mapping[str, Any] | None = None,
        prefetch: int = 2,
        pin_memory: bool = False,
        start_method: str = "forkserver",
    ) -> None:
        if world_size < 1 or not 0 <= rank < world_size:
            raise MixtureError(f"rank must lie in 0..world_size - 1, got rank {rank} of {world_size}")
        if workers < 0 or prefetch < 1:
            raise MixtureError(f"workers must be 0 or more and prefetch 1 or more, got {workers} and {prefetch}")
        self.mixture, self.rank, self.world_size = mixture, rank, world_size
        self._next = 0 if state is None else _checked(state, mixture)
        numbers = _Numbers(self._next + rank, world_size)
        self._loader: DataLoader[MixtureBatch] = DataLoader(
            _Batches(mixture),
            batch_size=None,  # the mixture makes batches itself
            sampler=numbers,
            num_workers=workers,
            collate_fn=_as_is,
            pin_memory=pin_memory,
            prefetch_factor=prefetch if workers else None,
            multiprocessing_context=start_method if workers else None,
            worker_init_fn=_start_worker,
        )
        self._iterator: Iterator[MixtureBatch] | None = None

    def __iter__(self) -> Iterator[MixtureBatch]:
        return self

    def __next__(self) -> MixtureBatch:
        if self._iterator is None:
            self._iterator = iter(self._loader)
        batch = next(self._iterator)
        self._next += self.world_size
        return batch

    def take(self, batches: int) -> Iterator[MixtureBatch]:
        """The next ``batches`` batches."""
        return islice(self, batches)

    def state(self) -> dict[str, Any]:
        """What a later loader needs to go on; plain values for JSON, the same on all ranks after the same step."""
        return {
            "version": VERSION,
            "next_batch": self._next,
            "positions": self.mixture.positions(self._next),
            "next_windows": _windows(self.mixture, self._next),
            "plan": self.mixture.plan(),
        }

    def close(self) -> None:
        """Stop the workers; the loader is finished."""
        self._iterator = iter(())


def _checked(state: Mapping[str, Any], mixture: Mixture) -> int:
    """Number of the next batch, if the state is of this mixture."""
    try:
        version, number, plan = (state[key] for key in ("version", "next_batch", "plan"))
        expected = (state["positions"], state["next_windows"])
    except (KeyError, TypeError) as error:
        raise MixtureError(f"not a mixture's state: {error!r} is missing; start from the beginning") from error
    if version != VERSION or type(number) is not int or number < 0:
        raise MixtureError(f"a state of version {version!r} at batch {number!r}; version {VERSION} is read")
    different = _differences(plan, mixture.plan(), "")
    if different:
        raise MixtureError(
            f"the state is of another mixture; different: {'; '.join(different)}. Use the configuration and data of "
            "that run, or start a new run without the state"
        )
    # NumPy may change its generators' shuffles between versions; then the rest of an epoch would not fit its beginning.
    found = (mixture.positions(number), _windows(mixture, number))
    if expected != found:
        raise MixtureError(
            f"the state was changed or made by another version of NumPy: before batch {number} it has {expected}, the "
            f"mixture {found}; start a new run without it"
        )
    return number


def _windows(mixture: Mixture, number: int) -> list[list[int]]:
    """Episode and window of each row of a batch, as JSON gives them back."""
    return [list(draw) for draw in mixture.draws(number)]


def _differences(old: Any, new: Any, where: str) -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [
            found
            for key in keys
            for found in _differences(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        ]
    return [] if old == new else [f"{where} {old!r} -> {new!r}"]


def _as_is(batch: Any) -> Any:
    return batch


def _start_worker(worker: int) -> None:
    """One thread per worker: parallelism is between workers."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
