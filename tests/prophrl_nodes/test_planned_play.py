"""Attempts planned in imagination: the twin executes what was imagined from its own start, to the end, unseen."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prophrl_nodes.cli import trials_play
from prophrl_nodes.cli.rl_shared import UsageError
from prophrl_nodes.studies.lane_play import PlayingLane, PlaySettings, placement_of
from prophrl_nodes.studies.lane_play_files import Played
from prophrl_nodes.studies.planned_play import write_planned

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.image import ImageRegion
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.interface import Scaling
from prophrl_models.prophet.rollout import ImaginedWorld
from prophrl_models.prophet.stops import ARM_STOPPED
from prophrl_models.prophet.worlds import load_world
from prophrl_models.reward.judge import Verdict
from prophrl_models.reward.trajectory_data import labelled_trajectories
from prophrl_models.rl.rollouts import RolloutWorker, Unit, derived_seed
from prophrl_models.rl.settings import RolloutOptions
from prophrl_models.rl.starts import dataset_starts
from prophrl_models.serving.engine import PolicyEngine
from prophrl_models.training.checkpoint import read_checkpoint, save_policy
from prophrl_models.training.settings import TrainingError
from robot_bridge.twin.tasks import Placement
from tests.helpers.twin_policies import untrained_policy, write_untrained
from tests.helpers.untrained_worlds import write_untrained_world

TASK = "pull_tissue"
SHORT = PlaySettings(TASK, calls=2, keep=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("policies") / "policy", TASK)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained_world(tmp_path_factory.mktemp("worlds") / "world")


def write(checkpoint: Path, world: Path, attempts: int, out: Path) -> Played:
    return write_planned(
        checkpoint, lambda: load_world(world, steps=1), world, SHORT, attempts, out, workers=1
    )  # fmt: skip


class Silent:
    name = "silent"

    def judge(self, videos: object, tasks: list[str]) -> list[Verdict]:
        return [Verdict(None, 0.5, ())] * len(tasks)


def test_what_is_executed_is_what_was_imagined_from_the_same_start(
    checkpoint: Path, world: Path, tmp_path: Path
) -> None:
    played = write(checkpoint, world, 3, tmp_path / "planned")
    dataset = Dataset(tmp_path / "planned")
    assert played.successes + played.failures == len(dataset) == 3
    placements = [Placement.from_json(dict(episode.metadata.placement)) for episode in dataset]
    assert placements == [placement_of(SHORT, index) for index in range(3)]

    policy = PolicyEngine.load(checkpoint, "cpu").policy
    options = RolloutOptions(calls=SHORT.calls, keep=SHORT.keep, noise_level=SHORT.noise_level)
    worker = RolloutWorker(policy, load_world(world, steps=1), Silent(), dataset_starts(dataset), options)
    seeds = tuple(derived_seed(SHORT.seed, "planned", index) for index in range(3))
    imagined_BSN7 = worker.executed_BSN7(worker.run(Unit((0, 1, 2), seeds)))
    for episode, imagined_SN7 in zip(dataset, imagined_BSN7, strict=True):
        np.testing.assert_allclose(episode.action_T7, imagined_SN7.reshape(-1, 7), atol=1e-5)
    assert len(list(labelled_trajectories(dataset))) == 3, "a judge of trajectories can learn from them"


def test_more_attempts_are_added_to_those_that_are_there(checkpoint: Path, world: Path, tmp_path: Path) -> None:
    write(checkpoint, world, 2, tmp_path / "two")
    first = Dataset(tmp_path / "two")[0]
    write(checkpoint, world, 3, tmp_path / "two")
    more = Dataset(tmp_path / "two")
    assert len(more) == 3 and len({episode.metadata.episode_id for episode in more}) == 3
    np.testing.assert_array_equal(more[0].action_T7, first.action_T7)

    def asked() -> ImaginedWorld:
        raise AssertionError("there is nothing to imagine")

    write_planned(checkpoint, asked, world, SHORT, 3, tmp_path / "two", workers=1)


def test_a_plan_is_counted_to_its_end_though_the_arm_stopped() -> None:
    """Or a judge would tell failures by their length."""
    below_the_hand = Placement(TASK, {"tissue_box": (-0.663, -0.2, 0.0)})
    plan_SN7 = np.zeros((12, 8, 7), np.float32)
    plan_SN7[..., 2], plan_SN7[..., 6] = -0.02, 1.0
    lane = PlayingLane(SHORT)
    try:
        engine = PolicyEngine(untrained_policy(TASK), torch.device("cpu"))
        episode = lane.follow(engine, below_the_hand, plan_SN7, "down", "none")
    finally:
        lane.close()
    assert episode.metadata.outcome == "failure" and episode.metadata.note.startswith(ARM_STOPPED)
    assert len(episode) == 12 * 8
    np.testing.assert_array_equal(episode.action_T7, plan_SN7.reshape(-1, 7))
    assert (episode.color_THW3[-8:] == episode.final.image_HW3).all()


def test_parts_that_do_not_go_together_are_refused(checkpoint: Path, world: Path, tmp_path: Path) -> None:
    facts = {"dataset_hash": "none", "calibration_ids": []}
    sync = SyncSpec(image_region=ImageRegion(0.2, 0.3, 0.5)).to_json()
    policy = untrained_policy(TASK)
    policy.spec = replace(policy.spec, action_scaling=Scaling((0.0,) * 7, (1.0,) * 7))
    files = read_checkpoint(checkpoint)
    other = save_policy(tmp_path / "region", policy, files.normalisation, {**facts, "sync": sync})
    with pytest.raises(TrainingError, match="build the datasets with one --image-region"):
        write(other, world, 1, tmp_path / "out")
    with pytest.raises(ValueError, match=r"need an attempt and 1..2 workers, got 0 and 1"):
        write(checkpoint, world, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_plans_with_one_policy(
    checkpoint: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    trials_play.register(parser)
    words = ["--task", TASK, "--attempts", "1", "--calls", "1", "--execute", "2", "--workers", "1"]
    words += ["--world", str(world), "--out", str(tmp_path / "out")]
    with pytest.raises(UsageError, match="with --world one policy plans, got 2"):
        trials_play.run(parser.parse_args([str(checkpoint), str(checkpoint), *words]))
    assert trials_play.run(parser.parse_args([str(checkpoint), *words])) == 0
    assert "out: 0 of 1 attempts succeeded" in capsys.readouterr().out
