"""A run in the dot world that is killed without warning: ``python -m tests.helpers.dot_kill WEIGHTS OUT POINT``.

POINT is ``rollout:STEP`` (in the middle of a step's rollouts), ``update:STEP`` (between two optimiser steps) or
``saved:STEP`` (after the step's log line, before its resume file).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from prophrl_models.rl.rollouts import Rollouts, Unit
from prophrl_models.rl.run_state import RunStore
from prophrl_models.rl.trainer import Trainer
from prophrl_models.rl.update import Updater
from tests.helpers.dot_runs import dot_trainer, reopened


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(trainer: Trainer, point: str) -> None:
    where, _, number = point.partition(":")
    target = int(number)
    if where == "rollout":
        keep = RunStore.save_unit

        def save_unit(store: RunStore, step: int, name: str, unit: Unit, rollouts: Rollouts) -> None:
            keep(store, step, name, unit, rollouts)
            if step == target and name == "round_0_000":
                _die()

        RunStore.save_unit = save_unit  # type: ignore[method-assign]
    elif where == "update":
        step_ = Updater._step
        calls = []

        def step(updater: Updater, *given: object) -> float:
            if trainer.facts.step == target:
                calls.append(1)
                if len(calls) == 3:
                    _die()
            return step_(updater, *given)  # type: ignore[arg-type]

        Updater._step = step  # type: ignore[method-assign, assignment]
    else:
        save = RunStore.save

        def save_(store: RunStore, *given: object) -> None:
            if trainer.facts.step == target:
                _die()
            save(store, *given)  # type: ignore[arg-type]

        RunStore.save = save_  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    torch.set_num_threads(1)
    weights, out, point = sys.argv[1:]
    run = dot_trainer(reopened(Path(weights)), Path(out))
    _arm(run, point)
    run.run()
    sys.exit("the run ended without being killed")
