"""Executors: who computes rollouts has no influence on them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.rl.executor import InProcessExecutor
from prophrl_models.rl.rollouts import RolloutWorker, Unit
from prophrl_models.training.loop import trained
from prophrl_models.training.settings import TrainingError
from tests.helpers.dot_runs import SETTINGS, dot_trainer, dot_worker, reopened

UNITS = [Unit((i, i), (10 * i, 10 * i + 1)) for i in range(5)]


def test_units_come_with_their_numbers(taught: TinyPolicy) -> None:
    executor = InProcessExecutor(dot_worker(taught))
    found = dict(executor.run(UNITS))
    assert sorted(found) == list(range(5)) and found[3].seed_B.tolist() == [30, 31]
    executor.close()


def test_loaded_weights_are_those_that_act(taught: TinyPolicy, taught_file: Path) -> None:
    other = InProcessExecutor(dot_worker(reopened(taught_file)))
    before = dict(other.run(UNITS[:1]))[0]
    with torch.no_grad():
        for parameter in taught.parameters():
            parameter.mul_(1.05)
    other.load({name: p.detach() for name, p in trained(taught)})
    after = dict(other.run(UNITS[:1]))[0]
    assert not torch.equal(before.chain_BSKCD, after.chain_BSKCD)
    mine = dict(InProcessExecutor(dot_worker(taught)).run(UNITS[:1]))[0]
    assert torch.equal(mine.chain_BSKCD, after.chain_BSKCD)


def _recipe(file: Path) -> RolloutWorker:
    return dot_worker(reopened(file))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_ray_workers_give_the_same_updates(taught_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from prophrl_models.rl.executor_ray import RayExecutor

    torch.set_num_threads(1)
    alone = reopened(taught_file)
    dot_trainer(alone, tmp_path / "alone").run()
    together = reopened(taught_file)
    executor = RayExecutor(partial(_recipe, taught_file), 2)
    try:
        rollouts = dict(executor.run(UNITS))
        here = dict(InProcessExecutor(dot_worker(reopened(taught_file))).run(UNITS))
        for number, found in here.items():
            assert torch.equal(found.chain_BSKCD, rollouts[number].chain_BSKCD)
        dot_trainer(together, tmp_path / "ray", executor=executor).run()
    finally:
        executor.close()
    moved = 0.0
    first = reopened(taught_file)
    for (name, a), b, c in zip(alone.named_parameters(), together.parameters(), first.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=name)
        moved += (a - c).detach().abs().sum().item()
    assert moved > 0.0 and SETTINGS.steps == 3


def test_no_ray_workers_are_refused() -> None:
    from prophrl_models.rl.executor_ray import RayExecutor

    with pytest.raises(TrainingError, match="leave --ray out"):
        RayExecutor(lambda: pytest.fail("not reached"), 0)
