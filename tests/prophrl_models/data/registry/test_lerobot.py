"""LeRobot folders of both versions and of every dataset are read back to the motion that was written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prophrl_models.data.registry.errors import CorruptFileError, MissingKeyError, RegistryError
from prophrl_models.data.registry.sources import RegisteredDataset
from prophrl_models.data.registry.specs import SPECS
from tests.helpers.published_datasets import motion, servo, write_lerobot_set

VERSIONS = ("v2.1", "v3.0")
COMMANDED_STATE = {"dlr_edan", "cmu_stretch", "stanford_hydra", "usc_jaco", "nyu_franka"}


@pytest.mark.parametrize("name", list(SPECS))
@pytest.mark.parametrize("version", VERSIONS)
def test_a_published_conversion_is_read_back(name: str, version: str, tmp_path: Path) -> None:
    motions = [motion(6, 1), motion(5, 2)]
    folder = write_lerobot_set(tmp_path / "set", name, version, 7, motions)
    dataset = RegisteredDataset(name, folder)
    assert len(dataset) == 2 and dataset.rate_hz == 7, "the files' rate, not the registry's"
    height, width = SPECS[name].resolution.height, SPECS[name].resolution.width
    for episode, m in zip(dataset, motions, strict=True):
        assert len(episode) == len(m) and episode.instruction == m.text and episode.rate_hz == 7
        state, action = episode.state_TN7[:, 0], episode.action_TN7[:, 0]
        assert np.allclose(state[:, :3], m.position_T3, atol=1e-6)
        if name != "cmu_stretch":
            assert np.allclose(state[:, 3:6], m.euler_T3, atol=1e-5)
        assert np.allclose(action[:-1, 6] if name in COMMANDED_STATE else state[:-1, 6], m.opening_T[:-1], atol=1e-6)
        if name == "own_robot":
            assert np.allclose(action[:, :6], servo(len(m)), atol=1e-6) and episode.actions_known == len(m)
        elif name == "libero":
            assert np.allclose(action[:, :6], servo(len(m)) * np.repeat([0.05, 0.5], 3), atol=1e-6)
            assert np.allclose(action[:, 6], m.opening_T)
        elif name not in ("bridge", "cmu_stretch"):
            assert np.allclose(action[:-1, :6], m.local_motion(), atol=1e-5)
        assert episode.images_THW3.shape == (len(m), height, width, 3)
        for step in (0, len(m) - 1):
            found = episode.images_THW3[step][height // 2, width // 2].astype(int)
            assert np.abs(found - m.frames_THW3[step, 12, 16]).max() < 16, "the right frame, in a shared video too"


def test_agibots_two_arms_fill_both_rows(tmp_path: Path) -> None:
    m = motion(6, 3)
    episode = RegisteredDataset("agibot", write_lerobot_set(tmp_path / "set", "agibot", "v2.1", 30, [m]))[0]
    assert episode.effector_mask_N.all()
    assert np.allclose(episode.state_TN7[:, 1, :3], m.position_T3 + 1, atol=1e-6)
    assert np.allclose(episode.state_TN7[:, 1, 6], 1 - m.opening_T), "the right hand closes when the left one opens"
    assert np.allclose(episode.action_TN7[:-1, 0, :6], m.local_motion(), atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_pictures_stored_in_the_frame_table_are_read(version: str, tmp_path: Path) -> None:
    m = motion(4, 6)
    folder = write_lerobot_set(tmp_path / "set", "rt_1", version, 3, [m], images="image")
    found = RegisteredDataset("rt_1", folder)[0].images_THW3[2]
    assert np.abs(found[120, 160].astype(int) - m.frames_THW3[2, 12, 16]).max() < 8


def test_a_video_that_is_too_short_is_refused(tmp_path: Path) -> None:
    folder = write_lerobot_set(tmp_path / "set", "rt_1", "v2.1", 3, [motion(6, 1), motion(3, 2)])
    videos = sorted(folder.glob("videos/*/*/*.mp4"))
    videos[0].write_bytes(videos[1].read_bytes())
    images = RegisteredDataset("rt_1", folder)[0].images_THW3
    images[2]
    with pytest.raises(CorruptFileError, match=r"episode_000000\.mp4: no frame 5 \(at 1\.667 s\)"):
        images[5]
    videos[0].unlink()
    with pytest.raises(RegistryError, match="no video"):
        images[0]


def test_tables_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    folder = write_lerobot_set(tmp_path / "set", "rt_1", "v2.1", 3, [motion(4)])
    file = folder / "meta/episodes.jsonl"
    file.write_text(json.dumps({"episode_index": 0, "tasks": ["x"], "length": 9}) + "\n")
    with pytest.raises(CorruptFileError, match="episode 0 has 4 rows, the episode table says 9"):
        RegisteredDataset("rt_1", folder)[0]
    file.unlink()
    with pytest.raises(RegistryError, match=r"episodes\.jsonl; fetch"):
        RegisteredDataset("rt_1", folder)


def test_another_version_is_refused(tmp_path: Path) -> None:
    folder = write_lerobot_set(tmp_path / "set", "rt_1", "v2.1", 3, [motion(4)])
    info = json.loads((folder / "meta/info.json").read_text())
    (folder / "meta/info.json").write_text(json.dumps(info | {"codebase_version": "v1.6"}))
    with pytest.raises(RegistryError, match=r"v1\.6; read are v2\.0, v2\.1 and v3\.0"):
        RegisteredDataset("rt_1", folder)


def test_a_column_that_is_too_narrow_is_refused(tmp_path: Path) -> None:
    folder = write_lerobot_set(tmp_path / "set", "own_robot", "v2.1", 3, [motion(4)])
    with pytest.raises(MissingKeyError, match=r"observation\.images\.image"):
        RegisteredDataset("rt_1", folder)[0]


def test_folders_in_no_known_layout_are_refused_with_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"none of the known layouts: LeRobot"):
        RegisteredDataset("droid", tmp_path)
    with pytest.raises(RegistryError, match="fetch the dataset first"):
        RegisteredDataset("droid", tmp_path / "nowhere")
    folder = write_lerobot_set(tmp_path / "set", "rt_1", "v2.1", 3, [motion(4)])
    (folder / "meta/info.json").rename(folder / "features.json")
    with pytest.raises(RegistryError, match="agibot is read from agibot-h5, lerobot, this folder is rlds"):
        RegisteredDataset("agibot", folder)
