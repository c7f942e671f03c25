"""Attempts in the fast lane as a dataset: what was commanded, whatever became of it, and the same every time."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from prophrl_nodes.cli import trials_play
from prophrl_nodes.studies import lane_play
from prophrl_nodes.studies.fast_trials import StudyError
from prophrl_nodes.studies.lane_play import CALLS_AFTER_STOP, PlayingLane, PlaySettings
from prophrl_nodes.studies.lane_play_files import write_play

from prophrl_models.data.commanded import ACTIONS, COMMANDED
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import DatasetError
from prophrl_models.data.image import ImageRegion, policy_camera, policy_image
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.interface import Scaling
from prophrl_models.prophet.stops import ARM_STOPPED
from prophrl_models.rl.starts import dataset_starts
from prophrl_models.serving.engine import PolicyEngine
from prophrl_models.training.checkpoint import read_checkpoint, save_policy
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.tasks import Placement
from tests.helpers.twin_policies import untrained_policy, write_untrained

TASK = "pull_tissue"
SHORT = PlaySettings(TASK, calls=2, keep=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("policies") / "policy", TASK)


def test_an_attempt_follows_from_checkpoint_settings_and_number(checkpoint: Path, tmp_path: Path) -> None:
    played = write_play([checkpoint], SHORT, 2, tmp_path / "two", workers=1)
    assert (played.successes, played.failures) == (0, 2)
    more = write_play([checkpoint], SHORT, 3, tmp_path / "two", workers=1)  # adds one
    assert more.failures == 3 and more.content_hash != played.content_hash
    assert write_play([checkpoint], SHORT, 3, tmp_path / "three", workers=2).content_hash == more.content_hash
    assert write_play([checkpoint], replace(SHORT, seed=1), 3, tmp_path / "x", workers=1).content_hash != (
        more.content_hash
    )
    dataset = Dataset(tmp_path / "two")
    first, second = dataset[0], dataset[1]
    assert len(first) == 8 and first.metadata.extra[ACTIONS] == COMMANDED
    assert first.metadata.placement != second.metadata.placement
    assert not np.array_equal(first.action_T7, second.action_T7)
    start = dataset_starts(dataset)[0]  # with a camera, or no action frames could be drawn
    with FastLane(TASK) as lane:
        seen = lane.reset(Placement.from_json(dict(first.metadata.placement)))
        assert lane.renderer is not None
        np.testing.assert_allclose(start.camera.K, policy_camera(lane.renderer.camera).K)  # type: ignore[union-attr]
    np.testing.assert_array_equal(first.color_THW3[0], policy_image(seen.image_HW3))


def test_after_a_stop_commands_go_on_under_a_picture_that_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = untrained_policy(TASK)
    policy.spec = replace(policy.spec, action_scaling=Scaling((0.0, 0.0, -0.02, 0, 0, 0, 1.0), (1e-5,) * 7))
    below_the_hand = Placement(TASK, {"tissue_box": (-0.663, -0.2, 0.0)})
    monkeypatch.setattr(lane_play, "sample_placement", lambda task, rng: below_the_hand)
    lane = PlayingLane(PlaySettings(TASK, calls=12, keep=8))
    try:
        episode = lane.attempt(PolicyEngine(policy, torch.device("cpu")), 0, "down", "none")
    finally:
        lane.close()
    assert episode.metadata.outcome == "failure" and episode.metadata.note.startswith(ARM_STOPPED)
    assert len(episode) < 12 * 8 and len(episode) % 8 == 0
    still = episode.color_THW3[-8 * CALLS_AFTER_STOP :]
    assert (still == still[0]).all() and (episode.final.image_HW3 == still[0]).all()
    np.testing.assert_allclose(episode.action_T7[:, 2], -0.02, atol=1e-3)  # also the rows that nobody carried out
    assert episode.state_T7[-1, 2] < episode.state_T7[-17, 2] - 0.25  # counted from them


def test_policies_that_do_not_go_together_or_with_the_task_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    files = read_checkpoint(checkpoint)
    facts = {
        "dataset_hash": "none",
        "calibration_ids": [],
        "sync": SyncSpec(image_region=ImageRegion(0.2, 0.3, 0.5)).to_json(),
    }
    other = save_policy(tmp_path / "region", untrained_policy(TASK), files.normalisation, facts)
    with pytest.raises(DatasetError, match=r"sees or acts differently .* give each a dataset of its own"):
        write_play([checkpoint, other], SHORT, 2, tmp_path / "out")
    write_play([other], SHORT, 1, tmp_path / "out", workers=1)
    assert Dataset(tmp_path / "out").image_region == ImageRegion(0.2, 0.3, 0.5)
    with pytest.raises(StudyError, match="was not trained on 'put the red cube into the bowl'"):
        write_play([checkpoint], replace(SHORT, task="place_cube"), 1, tmp_path / "cube")
    with pytest.raises(StudyError, match=r"execute 1..20 of them, not 21"):
        write_play([checkpoint], replace(SHORT, keep=21), 1, tmp_path / "keep")
    with pytest.raises(ValueError, match=r"noise level in 0..2, got 2, 4 and 3"):
        replace(SHORT, noise_level=3.0)


def test_the_command_says_how_often_the_policies_succeeded(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    trials_play.register(parser)
    words = [str(checkpoint), "--task", TASK, "--attempts", "1", "--calls", "2", "--workers", "1"]
    assert trials_play.run(parser.parse_args([*words, "--out", str(tmp_path / "out")])) == 0
    assert "out: 0 of 1 attempts succeeded" in capsys.readouterr().out
    assert trials_play.run(parser.parse_args([*words, "--json", "--out", str(tmp_path / "out")])) == 0
    assert json.loads(capsys.readouterr().out)["content_hash"] == Dataset(tmp_path / "out").content_hash
