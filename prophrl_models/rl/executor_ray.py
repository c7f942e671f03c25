"""Units of rollouts in Ray actors: on this machine, or on the cluster that ``RAY_ADDRESS`` names.

Each actor builds its own worker (policy, world, judge) by calling the recipe it is given, so nothing large is sent but
trained parameters, once for each rollout batch. Units are handed out one at a time to whoever is free; which actor
computes one has no influence on the result.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prophrl_models.rl.rollouts import Rollouts, RolloutWorker, Unit
from prophrl_models.training.settings import TrainingError

Recipe = Callable[[], RolloutWorker]
"""Builds a worker inside an actor; must be importable or self-contained there."""


class RayExecutor:
    """Actors that each hold a worker.

    Args:
        recipe: see ``Recipe``.
        workers: number of actors.
        threads: CPU threads of each; the results of matrix products may depend on it in the last digit.
        gpus: graphics cards for each actor, may be a fraction.

    Raises:
        TrainingError: Ray is not installed, or no worker is asked for.
    """

    def __init__(self, recipe: Recipe, workers: int, *, threads: int = 1, gpus: float = 0.0) -> None:
        if workers < 1:
            raise TrainingError(f"Ray needs at least one worker, got {workers}; leave --ray out to stay in one process")
        try:
            import ray
        except ImportError as error:
            raise TrainingError("Ray is not installed; pip install 'prophrl[ray]', or leave --ray out") from error
        self._ray, self.workers = ray, workers
        self._folder: str | None = None
        if not ray.is_initialized():
            self._start(workers, gpus)
        actor: Any = ray.remote(num_cpus=1, num_gpus=gpus)(_Actor)
        self._actors = [actor.remote(recipe, threads) for _ in range(workers)]
        ray.get([a.ready.remote() for a in self._actors])  # a recipe that cannot be followed fails here, by name

    def _start(self, workers: int, gpus: float) -> None:
        if os.environ.get("RAY_ADDRESS"):
            self._ray.init(log_to_driver=False)
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._folder = tempfile.mkdtemp(prefix="rl-")  # short: Ray puts sockets below it, whose paths are limited
        self._ray.init(
            num_cpus=workers,
            num_gpus=int(np.ceil(gpus * workers)),
            include_dashboard=False,
            _temp_dir=self._folder,
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
            configure_logging=False,
        )

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        shared = self._ray.put({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
        self._ray.get([actor.load.remote(shared) for actor in self._actors])

    def run(self, units: Sequence[Unit]) -> Iterator[tuple[int, Rollouts]]:
        waiting = list(enumerate(units))[::-1]
        free = list(self._actors)
        busy: dict[Any, tuple[int, Any]] = {}
        while waiting or busy:
            while waiting and free:
                number, unit = waiting.pop()
                actor = free.pop()
                busy[actor.run.remote(unit)] = (number, actor)
            done, _ = self._ray.wait(list(busy), num_returns=1)
            number, actor = busy.pop(done[0])
            rollouts: Rollouts = self._ray.get(done[0])
            free.append(actor)
            yield number, rollouts

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._folder is not None:
            self._ray.shutdown()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


class _Actor:
    """What runs in another process."""

    def __init__(self, recipe: Recipe, threads: int) -> None:
        torch.set_num_threads(threads)
        self._worker = recipe()

    def ready(self) -> bool:
        return True

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._worker.load(tensors)

    def run(self, unit: Unit) -> Rollouts:
        return self._worker.run(unit)
