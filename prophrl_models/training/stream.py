"""Batches for big policies: rows in a shuffled order that only depends on the seed, read ahead by threads.

Batches are numbered through the run, and number n always holds the same rows with the same variations. The state of the
sampler is therefore the number itself: a resumed run asks for the next one, and several processes ask for every second,
third, ... one.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from prophrl_models.policies.interface import FlowPolicy, ObservationBatch, TrainingBatch
from prophrl_models.training.augment import AugmentOptions, coarsen, displace_hand, vary_light
from prophrl_models.training.rows import Row, RowSource, check_row

AHEAD = 3
"""Batches that are prepared before they are asked for."""


class ShuffledOrder:
    """Every row once in each epoch, in an order of its own; the n-th draw is a function of (seed, n)."""

    def __init__(self, rows: int, seed: int) -> None:
        if rows < 1:
            raise ValueError("there is nothing to shuffle: the source has no rows")
        self.rows, self.seed = rows, seed
        self._epochs: dict[int, NDArray[np.int64]] = {}

    def draw(self, n: int) -> int:
        """Row of the n-th draw, n >= 0."""
        epoch, position = divmod(n, self.rows)
        if epoch not in self._epochs:
            # Batches ahead may be in the next epoch already, older ones are never asked for again.
            self._epochs = {e: order for e, order in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        return int(self._epochs[epoch][position])


class BatchStream:
    """Batches of a source, prepared for a policy.

    Args:
        batch_size: rows of a batch.
        seed: of order and variations.
        augment: variations of the raw picture and state, before ``policy.prepare``; None: none.
        workers: threads that read and vary rows; 0: everything happens when a batch is asked for.
        stride: distance to the next number that will be asked for.
        noise_samples, cumulative_weight: see ``TrainingBatch``.
    """

    def __init__(
        self,
        source: RowSource,
        policy: FlowPolicy,
        batch_size: int,
        *,
        seed: int = 0,
        augment: AugmentOptions | None = None,
        workers: int = 4,
        stride: int = 1,
        noise_samples: int = 1,
        cumulative_weight: float = 0.0,
    ) -> None:
        self.source, self.policy, self.batch_size = source, policy, batch_size
        self.seed, self.augment, self.stride = seed, augment, stride
        self.noise_samples, self.cumulative_weight = noise_samples, cumulative_weight
        self._order = ShuffledOrder(len(source), seed)
        self._readers = ThreadPoolExecutor(workers, "row") if workers else None
        # One thread prepares: tokenisers of the transformers library are not safe in several.
        self._preparer = ThreadPoolExecutor(1, "batch") if workers else None
        self._ahead: dict[int, Future[TrainingBatch]] = {}

    def batch(self, number: int) -> TrainingBatch:
        """Batch number ``number``, on the CPU; numbers may be asked for in any order, in steps of ``stride`` fastest.

        Raises:
            TrainingError: a row is refused (see ``rows.check_row``).
        """
        if self._readers is None or self._preparer is None:
            return self._assemble([self._read(n) for n in self._draws(number)])
        wanted = range(number, number + AHEAD * self.stride, self.stride)
        for stale in [n for n in self._ahead if n not in wanted]:
            self._ahead.pop(stale).cancel()
        for n in wanted:
            if n not in self._ahead:
                rows = [self._readers.submit(self._read, draw) for draw in self._draws(n)]
                self._ahead[n] = self._preparer.submit(self._collect, rows)
        return self._ahead.pop(number).result()

    def close(self) -> None:
        """Stop the threads; batches that nobody waits for are dropped."""
        for pool in (self._preparer, self._readers):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)

    def _draws(self, number: int) -> list[tuple[int, int]]:
        """(draw, row) pairs of a batch; rows are looked up here because the order is not for several threads."""
        first = number * self.batch_size
        return [(n, self._order.draw(n)) for n in range(first, first + self.batch_size)]

    def _read(self, draw: tuple[int, int]) -> Row:
        n, i = draw
        row = self.source.row(i)
        check_row(row, self.source.format)
        if self.augment is None:
            return row
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence((self.seed, n)).generate_state(1)[0]))
        return vary_row(row, self.augment, generator)

    def _collect(self, rows: list[Future[Row]]) -> TrainingBatch:
        return self._assemble([row.result() for row in rows])

    def _assemble(self, rows: list[Row]) -> TrainingBatch:
        observations = ObservationBatch.of(rows)
        self.policy.check(observations)
        return TrainingBatch(
            self.policy.prepare(observations),
            torch.from_numpy(np.stack([row.actions_CHD for row in rows])),
            torch.tensor([float(row.valid) for row in rows]),
            noise_samples=self.noise_samples,
            cumulative_weight=self.cumulative_weight,
        )


def vary_row(row: Row, options: AugmentOptions, generator: torch.Generator) -> Row:
    """A row varied as ``augment`` varies a batch: in another light and, where asked, coarser, with a displaced hand."""
    image = vary_light(torch.from_numpy(row.image_HW3).permute(2, 0, 1)[None], options, generator)
    if options.coarse_share > 0.0:
        image = coarsen(image, options, generator)
    varied = image[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
    row = replace(row, image_HW3=varied.contiguous().numpy())
    if options.position_m > 0.0:
        state, chunk = torch.from_numpy(row.state_7)[None], torch.from_numpy(row.actions_CHD)[None]
        state, chunk = displace_hand(state, chunk, options, generator)
        row = replace(row, state_7=state[0].numpy(), actions_CHD=chunk[0].numpy())
    return row
