"""The world model that comes with the repository: it loads, says where it is from, and knows the twin's arm."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from prophrl_nodes.cli import prophet_reference
from prophrl_nodes.studies.reference_world import REGION
from prophrl_nodes.studies.watched_lane import WatchedLane

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, integrate_chunk
from prophrl_models.data.image import ImageRegion, policy_camera, policy_image
from prophrl_models.data.synchronise import SyncSpec, state_vector
from prophrl_models.prophet.checkpoint import read_config
from prophrl_models.prophet.rollout import resized
from prophrl_models.prophet.worlds import ProphetWorld, load_world
from robot_bridge.twin.tasks import TASK_IDS, sample_placement

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "prophet_small"
CHUNKS, ROWS = 2, 20


@pytest.fixture(scope="module")
def world() -> ProphetWorld:
    return load_world(SHIPPED, dtype=torch.bfloat16)


def test_it_is_small_and_says_how_it_is_made_again() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= 25e6
    assert read_config(SHIPPED).image_region == ImageRegion(*REGION)
    said = json.loads((SHIPPED / "provenance.json").read_text())
    words = said["rebuilt_by"].split()
    assert words[:3] == ["prophrl", "prophet", "reference"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    prophet_reference.register(parser)
    parser.parse_args(words[3:])
    assert said["dataset_hashes"] and said["calibration_ids"]
    assert '"/' not in json.dumps(said), "a path of the machine that trained it helps nobody"


@pytest.mark.parametrize("task", TASK_IDS)
def test_the_imagined_arm_goes_where_the_twins_goes(task: str, world: ProphetWorld) -> None:
    """Forty rows into the picture: imagined in a closed loop, and carried out."""
    towards, mirrored = commands(1.0), commands(-1.0)
    first, last, state, camera = carried_out(task, towards)

    def imagined(actions_CN7: np.ndarray) -> np.ndarray:
        rolled = world.begin(first[None], torch.from_numpy(state)[None], cameras=[camera], seeds_B=[0])
        for rows in actions_CN7:
            rolled, frames = world.advance(rolled, torch.from_numpy(rows).float()[None], ROWS)
        return frames[0, -1].numpy().astype(float)

    truth, before = last.astype(float), first.numpy().astype(float)
    right, wrong, still = (
        float(((picture - truth) ** 2).mean()) for picture in (imagined(towards), imagined(mirrored), before)
    )
    assert right < 0.35 * still, f"no better than the picture it began with: {right:.0f}, {still:.0f}"
    assert right < 0.35 * wrong, f"other commands, the same picture: {right:.0f}, {wrong:.0f}"


def commands(side: float) -> np.ndarray:
    """From home down into the picture and to a side [2, 20, 7], with the hand open."""
    actions = np.zeros((CHUNKS, ROWS, 7))
    actions[..., 1], actions[..., 2], actions[..., 6] = 0.005 * side, -0.007, 1.0
    return actions


def carried_out(task: str, actions_CN7: np.ndarray) -> tuple[torch.Tensor, np.ndarray, np.ndarray, PinholeCamera]:
    """First and last picture at the world's size, the state and the camera, on the twin."""
    sync = SyncSpec(image_region=ImageRegion(*REGION))
    with WatchedLane(task) as lane:
        seen = lane.reset(sample_placement(task, np.random.default_rng(3)))
        assert lane.renderer is not None
        camera = policy_camera(lane.renderer.camera, sync.image_region)
        state = state_vector(seen.T_base_tcp, float(seen.state_7[6]), sync).astype(np.float32)
        pictures = [policy_image(seen.image_HW3, sync.image_region)]
        for rows in actions_CN7:
            poses = integrate_chunk(lane.world.T_base_tcp, rows, ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
            lane.execute_pose_targets(poses, rows[:, 6], 10.0)
        lane.hold(0.1)
        assert not lane.protective_stop
        pictures.append(policy_image(lane.observe().image_HW3, sync.image_region))
    small = resized(np.stack(pictures), 96, 128)
    return torch.from_numpy(np.asarray(small[0])), np.asarray(small[1]), state, camera
