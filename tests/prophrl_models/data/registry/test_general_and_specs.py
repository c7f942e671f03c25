"""A general episode refuses what contradicts itself; the registry answers wrong names with the right ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention
from prophrl_models.data.registry.adapter import with_scale
from prophrl_models.data.registry.errors import RegistryError, UnknownDatasetError
from prophrl_models.data.registry.general import GeneralEpisode
from prophrl_models.data.registry.specs import SPECS, names, spec


@pytest.fixture
def episode() -> GeneralEpisode:
    state, action = np.zeros((4, 2, 7), np.float32), np.zeros((4, 2, 7), np.float32)
    state[:, 0, :] = 0.5
    return GeneralEpisode(
        images_THW3=np.zeros((4, 24, 32, 3), np.uint8),
        state_TN7=state,
        action_TN7=action,
        effector_mask_N=np.array([True, False]),
        instruction="put the cube in the bowl",
        convention=ActionConvention.LOCAL_FRAME_DELTA,
        rate_hz=10.0,
        camera=PinholeCamera(30, 30, 16, 12, 32, 24),
        source="droid",
        episode_id="e7",
    )


def test_a_sound_episode_is_taken(episode: GeneralEpisode) -> None:
    assert len(episode) == episode.actions_known == 4 and episode.duration_s == pytest.approx(0.3)
    moving = replace(episode, camera_poses_T44=np.stack([np.eye(4) * [1, 1, 1, 1]] * 4) + np.arange(4)[:, None, None])
    assert np.array_equal(moving.camera_at(2).T_camera_base, moving.camera_poses_T44[2])
    assert episode.camera_at(2) is episode.camera


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_TN7": np.zeros((4, 2, 7))}, "state_TN7 is float32"),
        ({"action_TN7": np.zeros((3, 2, 7), np.float32)}, r"action_TN7 is float32 \(4, 2, 7\)"),
        ({"action_TN7": np.full((4, 2, 7), np.nan, np.float32)}, "not finite at frame 0"),
        ({"state_TN7": np.full((4, 2, 7), 1.5, np.float32)}, "must be zero|openings"),
        ({"effector_mask_N": np.array([True, True, False])}, "effector_mask_N"),
        ({"effector_mask_N": np.array([False, False])}, "no end-effector"),
        ({"effector_mask_N": np.array([False, True])}, "must be zero"),
        ({"convention": 1}, "LOCAL_FRAME_DELTA"),
        ({"rate_hz": 0.0}, "rate_hz must be positive"),
        ({"camera": PinholeCamera(30, 30, 16, 12, 64, 48)}, "64x48"),
        ({"actions_known": 1}, "actions_known must be 3 or 4"),
        ({"images_THW3": np.zeros((4, 24, 32, 3))}, "uint8"),
        ({"images_THW3": np.zeros((1, 24, 32, 3), np.uint8)}, "at least 2 frames"),
    ],
)
def test_contradictions_are_refused_with_dataset_and_episode(
    episode: GeneralEpisode, change: dict[str, object], message: str
) -> None:
    with pytest.raises(RegistryError, match=message) as caught:
        replace(episode, **change)
    assert "droid episode 'e7'" in str(caught.value)


def test_openings_beyond_the_scale_point_to_the_mapping(episode: GeneralEpisode) -> None:
    action = episode.action_TN7.copy()
    action[2, 0, 6] = 35.0
    with pytest.raises(RegistryError, match=r"0 .. 35.*gripper mapping"):
        replace(episode, action_TN7=action)


def test_the_registry_holds_the_thirteen_datasets_and_the_own_robot() -> None:
    assert len(names()) == 14
    by_convention = {c: {n for n, s in SPECS.items() if s.convention is c} for c in ActionConvention}
    assert by_convention[ActionConvention.CONTROLLER_SERVO] == {"libero"}
    assert by_convention[ActionConvention.ABSOLUTE_POSE_DIFFERENCE] == {"bridge", "own_robot"}
    assert {n for n, s in SPECS.items() if s.effectors == 2} == {"agibot"}


def test_unknown_names_are_answered_with_the_list_and_the_nearest() -> None:
    with pytest.raises(UnknownDatasetError, match=r"unknown dataset 'agbot'; did you mean 'agibot'\?.*rt_1"):
        spec("agbot")


def test_published_folder_names_find_their_dataset() -> None:
    assert spec("fractal20220817_data") is SPECS["rt_1"]
    assert spec("bridge_orig") is SPECS["bridge"]


def test_scales_can_be_changed_only_where_actions_are_recorded() -> None:
    changed = with_scale(SPECS["libero"], (0.05,) * 6)
    assert all(layout.recorded.scale == (0.05,) * 6 for layout in changed.layouts if layout.recorded)
    with pytest.raises(RegistryError, match="no scale to change"):
        with_scale(SPECS["droid"], (1.0,) * 6)
