"""A policy that plans in imagination looks once: its chunks are one plan, and then it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prophrl_nodes.planning_runner import PlanningRunner
from prophrl_nodes.studies.lane_play import PlaySettings, placement_of
from prophrl_nodes.studies.lane_starts import lane_prompts

from calibration.camera import PinholeCamera
from prophrl_models.data.episode import Observation
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.chunking import Committed
from prophrl_models.policies.grip import firm_grip
from prophrl_models.prophet.worlds import load_world
from prophrl_models.rl.planner import Planner
from prophrl_models.rl.settings import RolloutOptions
from prophrl_models.serving.engine import PolicyEngine, chunk_seed
from prophrl_models.serving.errors import ServingError
from prophrl_models.training.settings import TrainingError
from robot_bridge.twin.fast_lane import FastLane
from tests.helpers.twin_policies import write_untrained
from tests.helpers.untrained_worlds import write_untrained_world

TASK = "pull_tissue"
CALLS, KEEP = 2, 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("policies") / "policy", TASK)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained_world(tmp_path_factory.mktemp("worlds") / "world")


@pytest.fixture(scope="module")
def camera() -> PinholeCamera:
    with FastLane(TASK) as lane:
        assert lane.renderer is not None
        return lane.renderer.camera


@pytest.fixture(scope="module")
def seen() -> tuple[Observation, Observation]:
    """The starts of two placements."""
    settings = PlaySettings(TASK, calls=CALLS, keep=KEEP)
    prompts = lane_prompts(TASK, [placement_of(settings, index) for index in range(2)], SyncSpec())
    first, second = (Observation(p.image_HW3, p.state_7, p.instruction, 0) for p in prompts)
    return first, second


def a_runner(
    checkpoint: Path, world: Path, camera: PinholeCamera | None, keep: int = KEEP, noise_level: float = 0.7
) -> PlanningRunner:
    return PlanningRunner(
        checkpoint, world, lambda: camera, calls=CALLS, keep=keep, noise_level=noise_level, device="cpu", seed=3
    )


def test_its_chunks_are_what_the_planner_plans_from_the_first_look_and_then_it_stays(
    checkpoint: Path, world: Path, camera: PinholeCamera, seen: tuple[Observation, Observation]
) -> None:
    runner = a_runner(checkpoint, world, camera)
    runner.restart(5)
    first, other = seen
    given = [runner.infer(look).actions_CHD for look in (first, other, other)]
    assert {chunk.shape for chunk in given} == {(runner.spec.chunk, 7)}

    start = lane_prompts(TASK, [placement_of(PlaySettings(TASK, calls=CALLS, keep=KEEP), 0)], SyncSpec())[0]
    options = RolloutOptions(calls=CALLS, keep=KEEP, noise_level=0.7)
    planner = Planner(PolicyEngine.load(checkpoint, "cpu").policy, load_world(world), options)
    plan_SN7 = planner.plans_BSN7([start], [chunk_seed(3 + 5, 0)])[0]
    for chunk, rows in zip(given, plan_SN7, strict=False):
        np.testing.assert_allclose(chunk[:KEEP], firm_grip(rows, runner.close_below), atol=1e-6)
        assert not chunk[KEEP:, :6].any(), "nobody planned what follows"
    assert not given[2][:, :6].any() and np.ptp(given[2][:, 6]) == 0.0
    assert given[2][0, 6] == firm_grip(plan_SN7[-1], runner.close_below)[-1, 6]


def test_every_run_plans_anew(
    checkpoint: Path, world: Path, camera: PinholeCamera, seen: tuple[Observation, Observation]
) -> None:
    runner, chunks = a_runner(checkpoint, world, camera), []
    for run, look in ((0, seen[0]), (1, seen[0]), (0, seen[1]), (0, seen[0])):
        runner.restart(run)
        chunks.append(runner.infer(look).actions_CHD)
    assert np.array_equal(chunks[0], chunks[3])
    assert not np.array_equal(chunks[0], chunks[1]) and not np.array_equal(chunks[0], chunks[2])


def test_what_cannot_be_planned_is_refused(
    checkpoint: Path, world: Path, camera: PinholeCamera, seen: tuple[Observation, Observation]
) -> None:
    with pytest.raises(ServingError, match="calibrate the cell"):
        a_runner(checkpoint, world, None).infer(seen[0])
    runner = a_runner(checkpoint, world, camera)
    with pytest.raises(ValueError, match="chunking 'synchronous'"):
        runner.infer(seen[0], committed=Committed(np.zeros((4, 7), np.float32), frozen=1))
    with pytest.raises(ValueError, match="was not trained on 'dance'"):
        runner.infer(replace(seen[0], instruction="dance"))
    assert runner.chunks_given == 0
    with pytest.raises(TrainingError, match=r"rollout.keep must be between 1 and \d+, got 500"):
        a_runner(checkpoint, world, camera, keep=500)
