"""RLDS folders of every dataset that is published so are read back to the motion that was written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from calibration.poses import ActionConvention
from prophrl_models.data.registry.errors import CorruptFileError, MissingKeyError, RegistryError
from prophrl_models.data.registry.general import GeneralEpisode
from prophrl_models.data.registry.sources import RegisteredDataset
from tests.helpers.published_datasets import SCHEMAS, Motion, motion, rlds_values, servo, write_rlds_set
from tests.helpers.published_layouts import Tensor, leaves, write_rlds

NAMES = {
    "austin_sailor_dataset_converted_externally_to_rlds": "austin_sailor",
    "dlr_edan_shared_control_converted_externally_to_rlds": "dlr_edan",
    "bc_z": "bc_z",
    "cmu_stretch": "cmu_stretch",
    "stanford_hydra_dataset_converted_externally_to_rlds": "stanford_hydra",
    "jaco_play": "usc_jaco",
    "furniture_bench_dataset_converted_externally_to_rlds": "furniture_bench",
    "nyu_franka_play_dataset_converted_externally_to_rlds": "nyu_franka",
    "fractal20220817_data": "rt_1",
    "bridge_orig": "bridge",
    "bridge": "bridge",
    "droid": "droid",
    "libero_spatial_no_noops": "libero",
}
COMMANDED_STATE = {"dlr_edan", "cmu_stretch", "stanford_hydra", "usc_jaco", "nyu_franka"}
"""Sets without a documented measured gripper: the state lags one command behind."""


def check_motion(episode: GeneralEpisode, m: Motion, name: str, skipped: int = 0) -> None:
    """States and actions are those of the motion."""
    state, action = episode.state_TN7[:, 0], episode.action_TN7[:, 0]
    assert np.allclose(state[:, :3], m.position_T3[skipped:], atol=1e-6)
    expected_angles = np.zeros_like(m.euler_T3) if name == "cmu_stretch" else m.euler_T3
    assert np.allclose(state[:, 3:6], expected_angles[skipped:], atol=1e-5)
    opening = m.opening_T[skipped:]
    if name in COMMANDED_STATE:
        assert np.allclose(action[:, 6], opening)
        assert np.allclose(state[1:, 6], opening[:-1])
    else:
        assert np.allclose(state[:, 6], opening, atol=1e-6)
    if name not in COMMANDED_STATE | {"libero"}:
        assert np.allclose(action[:-1, 6], opening[1:], atol=1e-6), "the action's opening is the next one measured"
    if episode.convention is ActionConvention.LOCAL_FRAME_DELTA:
        expected = m.local_motion()[skipped:]
        if name == "cmu_stretch":
            expected = np.column_stack([np.diff(m.position_T3, axis=0), np.zeros((len(m) - 1, 3))])
        assert np.allclose(action[:-1, :6], expected, atol=1e-5)
    elif episode.convention is ActionConvention.ABSOLUTE_POSE_DIFFERENCE:
        both = np.column_stack([m.position_T3, m.euler_T3])[skipped:]
        assert np.allclose(action[:-1, :6], np.diff(both, axis=0), atol=1e-5)
    else:
        assert np.allclose(action[:, :6], servo(len(m)) * [0.05, 0.05, 0.05, 0.5, 0.5, 0.5], atol=1e-6)
        assert np.allclose(action[:, 6], opening)
        assert episode.actions_known == len(m)
        return
    assert episode.actions_known == len(episode) - 1
    assert not action[-1, :6].any(), "a hold: no pose follows the last frame"


@pytest.mark.parametrize("folder", list(SCHEMAS))
def test_a_published_set_is_read_back(folder: str, tmp_path: Path) -> None:
    motions = [motion(6, seed) for seed in (1, 2, 3)]
    name = NAMES[folder]
    path = write_rlds_set(tmp_path, folder, motions, shards=2)
    dataset = RegisteredDataset(name, path.parent)
    assert len(dataset) == 3 and dataset.source.format == "rlds"
    skipped = 1 if name == "bridge" else 0
    for episode, m in zip(dataset, motions, strict=True):
        assert len(episode) == len(m) - skipped
        assert episode.instruction == m.text and episode.source == name
        assert episode.rate_hz == dataset.spec.rate_hz and episode.camera is None
        assert episode.effector_mask_N.tolist() == [True, False] and not episode.state_TN7[:, 1].any()
        check_motion(episode, m, name, skipped)
    assert len({episode.episode_id for episode in dataset}) == 3


def test_pictures_are_decoded_where_they_are_looked_at(tmp_path: Path) -> None:
    m = motion(6, 4)
    episode = RegisteredDataset("rt_1", write_rlds_set(tmp_path, "fractal20220817_data", [m]))[0]
    images = episode.images_THW3
    assert images.shape == (6, 240, 320, 3) and images.dtype == np.uint8
    assert np.abs(images[2][120, 160].astype(int) - m.frames_THW3[2, 12, 16]).max() < 12
    assert np.array_equal(images[1:4], np.stack([images[1], images[2], images[3]]))
    assert np.array_equal(images[::-2][0], images[5]) and np.array_equal(images[-1], images[5])
    assert images[3:3].shape == (0, 240, 320, 3)
    assert np.array_equal(pickle.loads(pickle.dumps(images))[0], images[0]), "a data-loader worker can have it"
    with pytest.raises(IndexError):
        images[6]


def test_hydra_colours_are_put_right(tmp_path: Path) -> None:
    m = motion(4, 5)
    folder = "stanford_hydra_dataset_converted_externally_to_rlds"
    episode = RegisteredDataset("stanford_hydra", write_rlds_set(tmp_path, folder, [m]))[0]
    wanted = m.frames_THW3[0, 12, 16].astype(int)
    assert np.abs(episode.images_THW3[0][120, 160] - wanted).max() < 12
    assert np.abs(wanted - wanted[::-1]).max() > 40, "the colours tell red and blue apart"


def test_a_damaged_record_is_refused_with_file_and_offset(tmp_path: Path) -> None:
    path = write_rlds_set(tmp_path, "bridge_orig", [motion(4, 1), motion(4, 2)])
    shard = next(path.glob("*.tfrecord*"))
    data = bytearray(shard.read_bytes())
    data[len(data) - 300] ^= 0xFF
    shard.write_bytes(data)
    dataset = RegisteredDataset("bridge", path)
    dataset[0]
    with pytest.raises(CorruptFileError, match=r"record at byte \d+ .*CRC") as caught:
        dataset[1]
    assert shard.name in str(caught.value)


def test_a_missing_key_is_named_with_what_there_is_and_what_to_do(tmp_path: Path) -> None:
    path = write_rlds_set(tmp_path, "cmu_stretch", [motion(4)])
    dataset = RegisteredDataset("rt_1", path)
    with pytest.raises(MissingKeyError) as caught:
        dataset[0]
    message = str(caught.value)
    assert "no key 'steps/observation/base_pose_tool_reached'" in message
    assert "steps/observation/state" in message and "prophrl dataset sources" in message


def test_a_missing_picture_stream_is_named(tmp_path: Path) -> None:
    schema = {"steps": {**SCHEMAS["bridge_orig"]["steps"]}}
    schema["steps"]["observation"] = {"image_3": leaves(schema)["steps/observation/image_1"], "state": Tensor((7,))}
    m = motion(4)
    values = {p.replace("image_0", "image_3"): v for p, v in rlds_values("bridge_orig", m).items()}
    with pytest.raises(MissingKeyError, match=r"'steps/observation/image_0'.*steps/observation/image_3"):
        RegisteredDataset("bridge", write_rlds(tmp_path, "bridge_orig", schema, [values]))[0]


def test_folders_that_are_incomplete_say_what_to_fetch(tmp_path: Path) -> None:
    path = write_rlds_set(tmp_path, "bc_z", [motion(4, 1), motion(4, 2)], shards=2)
    with pytest.raises(RegistryError, match=r"no split 'val'; choose one of train"):
        RegisteredDataset("bc_z", path, split="val")
    info = json.loads((path / "dataset_info.json").read_text())
    next(path.glob("*00001-of*")).unlink()
    with pytest.raises(RegistryError, match=r"bc_z-train.tfrecord-00001-of-00002 is missing"):
        RegisteredDataset("bc_z", path)
    info["splits"][0]["shardLengths"] = ["4"]
    (path / "dataset_info.json").write_text(json.dumps(info))
    next(path.glob("*00000-of*")).rename(path / "bc_z-train.tfrecord-00000-of-00001")
    with pytest.raises(CorruptFileError, match=r"holds 1 records, dataset_info\.json says 4"):
        RegisteredDataset("bc_z", path)[0]


def test_another_convention_is_derived_from_measured_poses(tmp_path: Path) -> None:
    m = motion(5, 7)
    path = write_rlds_set(tmp_path, "libero_spatial_no_noops", [m])
    episode = RegisteredDataset("libero", path, convention=ActionConvention.LOCAL_FRAME_DELTA)[0]
    assert episode.convention is ActionConvention.LOCAL_FRAME_DELTA and episode.actions_known == 4
    assert np.allclose(episode.action_TN7[:-1, 0, :6], m.local_motion(), atol=1e-5)


def test_a_broken_pose_is_refused_with_its_frame(tmp_path: Path) -> None:
    values = rlds_values("fractal20220817_data", motion(5))
    values["steps/observation/base_pose_tool_reached"][3, 3:] = 0
    path = write_rlds(tmp_path, "fractal20220817_data", SCHEMAS["fractal20220817_data"], [values])
    with pytest.raises(RegistryError, match=r"record at byte 0: the quaternion at frame 3 has norm 0"):
        RegisteredDataset("rt_1", path)[0]


def test_droid_has_a_camera_where_the_calibration_release_covers_it(tmp_path: Path) -> None:
    """Camera 1 m above the base, looking straight down: x of the picture is the base's x, y its -y."""
    m = motion(5, 3)
    values = rlds_values("droid", m)
    day = "TRI/success/2023-05-01/Mon_May__1_10:00:00_2023"
    values["episode_metadata/file_path"] = f"/nfs/data/{day}/trajectory.h5"
    path = write_rlds(tmp_path, "droid", SCHEMAS["droid"], [values, rlds_values("droid", motion(5, 4))])
    release = tmp_path / "calibration"
    release.mkdir()
    files = {
        "intrinsics": {"TRI+x+1": {"123": {"cameraMatrix": [640.0, 639.5, 640.0, 359.5]}}},
        "cam2base_extrinsics": {"TRI+x+1": {"123": [0, 0, 1, np.pi, 0, 0], "left": 1}},
        "camera_serials": {"TRI+x+1": {"ext1_cam_serial": "123"}},
        "episode_id_to_path": {"TRI+x+1": day},
    }
    for name, content in files.items():
        (release / f"{name}.json").write_text(json.dumps(content))
    dataset = RegisteredDataset("droid", path, calibration=release)
    camera = dataset[0].camera
    assert camera is not None and (camera.width, camera.height) == (416, 240)
    pixel, depth = camera.project([[0.3, 0.1, 0.5]])
    # stored 24x32 pictures scale to 240x320, padded by 48 on each side: 0.5 m below the camera, focal length 640/1280
    # of 320 = 160 px in x and 640/720 of 240 = 213.3 px in y, principal point in the middle.
    assert depth[0] == pytest.approx(0.5)
    assert pixel[0] == pytest.approx([48 + 159.5 + 160 * 0.6, 119.5 - 640 / 3 * 0.2], abs=1e-6)
    assert dataset[1].camera is None, "not in the release: scalar stream only"
    with pytest.raises(RegistryError, match=r"intrinsics\.json; fetch the camera parameters"):
        RegisteredDataset("droid", path, calibration=tmp_path)
