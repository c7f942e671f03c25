"""Who computes units of rollouts: this process, or several (``executor_ray``). The results are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from prophrl_models.rl.rollouts import Rollouts, RolloutWorker, Unit


class Executor(Protocol):
    """Computes units with the weights it was given last."""

    workers: int

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Make trained parameters (CPU tensors by name) those of all workers, before the next ``run``."""
        ...

    def run(self, units: Sequence[Unit]) -> Iterator[tuple[int, Rollouts]]:
        """(index, rollouts) of each unit, in the order in which they are finished."""
        ...

    def close(self) -> None:
        """End what was started; harmless to call twice."""
        ...


class InProcessExecutor:
    """One worker in this process.

    The worker usually holds the very policy that is being trained; then ``load`` finds nothing to do.
    """

    workers = 1

    def __init__(self, worker: RolloutWorker) -> None:
        self.worker = worker

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.worker.load(tensors)

    def run(self, units: Sequence[Unit]) -> Iterator[tuple[int, Rollouts]]:
        for number, unit in enumerate(units):
            yield number, self.worker.run(unit)

    def close(self) -> None:
        """Nothing was started."""
