"""LIBERO's and AgiBot World's HDF5 layouts are read back; the details that hide in them are kept."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from calibration.poses import ActionConvention
from prophrl_models.data.registry.adapter import with_scale
from prophrl_models.data.registry.errors import CorruptFileError, MissingKeyError, RegistryError
from prophrl_models.data.registry.sources import RegisteredDataset
from prophrl_models.data.registry.specs import SPECS
from tests.helpers.published_datasets import Motion, motion, servo
from tests.helpers.published_layouts import write_agibot, write_libero


def libero_demo(m: Motion) -> dict[str, np.ndarray]:
    fingers = 0.04 * np.stack([m.opening_T, -m.opening_T], axis=1)
    ee = np.column_stack([m.position_T3, m.rotation.as_rotvec()])
    return {
        "actions": np.column_stack([servo(len(m)), 1 - 2 * m.opening_T]),
        "obs/agentview_rgb": m.frames_THW3[:, ::-1, ::-1],
        "obs/eye_in_hand_rgb": m.frames_THW3,
        "obs/ee_states": ee,
        "obs/ee_pos": ee[:, :3],
        "obs/gripper_states": fingers,
        "obs/joint_states": np.zeros((len(m), 7)),
        "robot_states": np.zeros((len(m), 9)),
    }


def assert_headers_tell_the_lengths(dataset: RegisteredDataset) -> None:
    """The short cut by file headers and the reading of the episode agree (a mixture is planned with the former)."""
    assert [dataset.frames(i) for i in range(len(dataset))] == [len(episode) for episode in dataset]


def test_liberos_observations_follow_the_action_of_their_row(tmp_path: Path) -> None:
    """Row i was recorded after action i was executed: what leads from frame 0 to frame 1 is action 1."""
    motions = [motion(6, 1), motion(5, 2)]
    write_libero(tmp_path / "a_demo.hdf5", [libero_demo(m) for m in motions], "open the top drawer")
    dataset = RegisteredDataset("libero", tmp_path)
    assert len(dataset) == 2 and dataset.source.format == "libero-hdf5" and dataset.rate_hz == 20.0
    for episode, m in zip(dataset, motions, strict=True):
        action = episode.action_TN7[:, 0]
        assert episode.convention is ActionConvention.CONTROLLER_SERVO
        assert episode.instruction == "open the top drawer"
        assert np.allclose(action[:-1, :3], 0.05 * servo(len(m))[1:, :3], atol=1e-7)
        assert np.allclose(action[:-1, 3:6], 0.5 * servo(len(m))[1:, 3:], atol=1e-7)
        assert np.allclose(action[:-1, 6], m.opening_T[1:]), "-1 opens, +1 closes"
        assert episode.actions_known == len(m) - 1 and not action[-1, :6].any() and action[-1, 6] == action[-2, 6]
        assert np.allclose(episode.state_TN7[:, 0, :3], m.position_T3, atol=1e-6)
        assert np.allclose(episode.state_TN7[:, 0, 6], m.opening_T, atol=1e-6)
    assert_headers_tell_the_lengths(dataset)


def test_files_regenerated_by_openvla_keep_action_and_row_together(tmp_path: Path) -> None:
    m = motion(6, 3)
    file = tmp_path / "libero_10/KITCHEN_SCENE3_turn_on_the_stove_demo.hdf5"
    write_libero(file, [libero_demo(m)], regenerated=True)
    dataset = RegisteredDataset("libero", tmp_path)
    episode = dataset[0]
    assert np.allclose(episode.action_TN7[:, 0, :3], 0.05 * servo(6)[:, :3], atol=1e-7)
    assert episode.actions_known == 6 and episode.instruction == "turn on the stove"
    assert_headers_tell_the_lengths(dataset)


def test_libero_renderings_are_turned_upright(tmp_path: Path) -> None:
    m = motion(4, 3)
    write_libero(tmp_path / "a_demo.hdf5", [libero_demo(m)], "x")
    images = RegisteredDataset("libero", tmp_path)[0].images_THW3
    assert images.shape == (4, 256, 256, 3)
    corner = images[1][4, 4].astype(int)
    assert np.abs(corner - m.frames_THW3[1, 0, 0]).max() < 12, "top left is dark again"


def test_the_authors_rotation_scale_can_be_chosen(tmp_path: Path) -> None:
    write_libero(tmp_path / "a_demo.hdf5", [libero_demo(motion(4))], "x")
    theirs = with_scale(SPECS["libero"], (0.05,) * 6)
    episode = RegisteredDataset("libero", tmp_path, spec=theirs)[0]
    assert np.allclose(episode.action_TN7[:-1, 0, :6], 0.05 * servo(4)[1:], atol=1e-7)


def test_damaged_or_foreign_hdf5_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a_demo.hdf5"
    write_libero(file, [libero_demo(motion(4))], "x")
    with h5py.File(file, "a") as stored:
        del stored["data/demo_0/obs/ee_states"]
    with pytest.raises(MissingKeyError, match=r"no key 'obs/ee_states'. Available keys: actions"):
        RegisteredDataset("libero", file)[0]
    with h5py.File(file, "w") as stored:
        stored["other"] = 1
    with pytest.raises(MissingKeyError, match=r"no key 'data'\. Available keys: other"):
        RegisteredDataset("libero", file)
    file.write_bytes(b"not HDF5")
    with pytest.raises(CorruptFileError, match="no complete HDF5 file"):
        RegisteredDataset("libero", file)


LENS = {"fx": 300.0, "fy": 310.0, "ppx": 15.5, "ppy": 11.5}


def agibot_states(left: Motion, right: Motion) -> dict[str, np.ndarray]:
    opening = np.stack([left.opening_T, right.opening_T], axis=1)
    return {
        "state/end/position": np.stack([left.position_T3, right.position_T3], axis=1),
        "state/end/orientation": np.stack([left.quaternion_T4, right.quaternion_T4], axis=1),
        "state/effector/position": 125.0 - 90.0 * opening,
        "state/joint/position": np.zeros((len(left), 14)),
    }


def camera_path(steps: int) -> np.ndarray:
    """A camera above the base that looks down and moves along x by 1 cm per frame."""
    T = np.tile(np.diag([1.0, -1.0, -1.0, 1.0]), (steps, 1, 1))
    T[:, 0, 3], T[:, 2, 3] = 0.3 + 0.01 * np.arange(steps), 1.5
    return T


def test_agibots_two_arms_and_moving_camera_are_read(tmp_path: Path) -> None:
    left, right = motion(6, 1), motion(6, 2)
    right = Motion(right.position_T3, right.rotation, 1 - right.opening_T, right.frames_THW3, right.text)
    poses = camera_path(6)
    write_agibot(
        tmp_path,
        327,
        648642,
        agibot_states(left, right),
        left.frames_THW3,
        name="Pick the fruit",
        extrinsics=poses,
        lens=LENS,
    )
    write_agibot(tmp_path, 327, 648649, agibot_states(right, left), left.frames_THW3, name="Pour water")
    dataset = RegisteredDataset("agibot", tmp_path)
    assert len(dataset) == 2 and dataset.source.format == "agibot-h5"
    episode = dataset[0]
    assert episode.instruction == "Pick the fruit" and episode.rate_hz == 30 and episode.episode_id == "327/648642"
    assert episode.effector_mask_N.all() and episode.convention is ActionConvention.LOCAL_FRAME_DELTA
    for row, m in enumerate((left, right)):
        assert np.allclose(episode.action_TN7[:-1, row, :6], m.local_motion(), atol=1e-5)
        assert np.allclose(episode.state_TN7[:, row, 6], m.opening_T), "raw 35 is open, raw 125 closed"
        assert np.allclose(episode.action_TN7[:-1, row, 6], m.opening_T[1:])
    first, last = episode.camera_at(0), episode.camera_at(5)
    assert first is not None and last is not None and (first.width, first.height) == (320, 240)
    point = np.array([[0.35, 0.02, 0.5]])
    # 24x32 pictures become ten times larger: 1 m below a lens of 300 px stands 0.05 m right of and 0.02 m above it.
    assert first.project(point)[0][0] == pytest.approx([159.5 + 3000 * 0.05, 119.5 - 3100 * 0.02])
    assert last.project(point)[0][0] == pytest.approx([159.5, 119.5 - 3100 * 0.02])
    assert dataset[1].camera is None and dataset[1].camera_poses_T44 is None, "no parameters: scalar stream only"
    seen = episode.images_THW3[3][120, 160].astype(int)
    assert np.abs(seen - left.frames_THW3[3, 12, 16]).max() < 16
    assert_headers_tell_the_lengths(dataset)


def test_agibot_episodes_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    m = motion(5)
    states = agibot_states(m, m)
    write_agibot(tmp_path, 1, 10, states, m.frames_THW3, name="a", extrinsics=camera_path(3), lens=LENS)
    write_agibot(tmp_path, 1, 11, {**states, "state/effector/position": np.zeros((5, 12))}, m.frames_THW3, name="hands")
    write_agibot(tmp_path, 1, 12, {**states, "state/end/position": np.zeros((4, 2, 3))}, m.frames_THW3, name="short")
    dataset = RegisteredDataset("agibot", tmp_path)
    with pytest.raises(RegistryError, match="3 poses for 5 frames"):
        dataset[0]
    with pytest.raises(RegistryError, match="'state/effector/position' has 12 columns, 2 are known"):
        dataset[1]
    with pytest.raises(CorruptFileError, match=r"unequal length .*state/end/position 4"):
        dataset[2]
    (tmp_path / "task_info/task_1.json").unlink()
    with pytest.raises(RegistryError, match="fetch task_info"):
        RegisteredDataset("agibot", tmp_path)[0]


def test_a_folder_without_unpacked_episodes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "proprio_stats").mkdir()
    (tmp_path / "note.json").write_text(json.dumps({}))
    with pytest.raises(RegistryError, match="unpack the archives there first"):
        RegisteredDataset("agibot", tmp_path)
