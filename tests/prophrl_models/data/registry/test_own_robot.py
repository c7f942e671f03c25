"""Datasets of this repository are read as the registry's own robot, with the actions as they were recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention
from calibration.record import Calibration
from calibration.storage import save, save_camera
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import DatasetHeader
from prophrl_models.data.dataset_writer import DatasetWriter
from prophrl_models.data.image import policy_camera
from prophrl_models.data.lerobot.export import export_dataset
from prophrl_models.data.lerobot.video import VideoCodec
from prophrl_models.data.registry.adapter import general_episode
from prophrl_models.data.registry.cameras import EpisodeCamera, recorded_camera
from prophrl_models.data.registry.errors import RegistryError
from prophrl_models.data.registry.sources import RegisteredDataset
from tests.helpers.numbered_episodes import make_episode, read_number, write_dataset


def test_every_frame_and_action_arrives_and_the_last_observation_is_the_last_frame(tmp_path: Path) -> None:
    written = list(write_dataset(tmp_path / "set", (6, 5)))
    camera = PinholeCamera(300, 300, 160, 120, 320, 240)
    dataset = RegisteredDataset("own_robot", tmp_path / "set", camera=EpisodeCamera(camera))
    assert len(dataset) == 2 and dataset.source.format == "prophrl"
    for episode, original in zip(dataset, written, strict=True):
        steps = len(original)
        assert len(episode) == steps + 1 and episode.actions_known == steps
        assert episode.convention is ActionConvention.ABSOLUTE_POSE_DIFFERENCE
        assert np.allclose(episode.action_TN7[:-1, 0], original.action_T7, atol=1e-6)
        assert not episode.action_TN7[-1, 0, :6].any()
        assert np.allclose(episode.state_TN7[-1, 0, :3], original.final.state_7[:3], atol=1e-6)
        assert [read_number(picture) for picture in episode.images_THW3[:]] == [
            *(read_number(picture) for picture in original.color_THW3),
            read_number(original.final.image_HW3),
        ]
        assert episode.instruction == original.instruction
        assert episode.camera is not None and episode.camera.fx == 300, "320x240 pictures are not resized"


def test_a_dataset_in_another_convention_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", (5,))
    dataset = RegisteredDataset("own_robot", tmp_path / "set")
    raw = dataset.raw(0)
    other = replace(raw, metadata={**raw.metadata, "convention": ActionConvention.LOCAL_FRAME_DELTA})
    with pytest.raises(RegistryError, match="actions are LOCAL_FRAME_DELTA, own_robot is ABSOLUTE_POSE_DIFFERENCE"):
        general_episode(other, dataset.spec, dataset.spec.layouts)


def test_what_this_repository_exports_is_read_as_any_other_lerobot_folder(tmp_path: Path) -> None:
    """Two readers and a writer that share no code agree."""
    written = list(write_dataset(tmp_path / "set", (6, 5), depth=False))
    export_dataset(tmp_path / "set", tmp_path / "lerobot", codec=VideoCodec("h264"), progress=False)
    dataset = RegisteredDataset("own_robot", tmp_path / "lerobot")
    assert len(dataset) == 2 and dataset.source.format == "lerobot"
    for episode, original in zip(dataset, written, strict=True):
        assert episode.camera is None, "recorded without a calibration"
        steps = len(original)
        assert episode.instruction == original.instruction and episode.rate_hz == original.control_rate_hz
        assert np.allclose(episode.action_TN7[:steps, 0], original.action_T7, atol=1e-6)
        assert np.allclose(episode.state_TN7[:steps, 0, :3], original.state_T7[:, :3], atol=1e-6)
        shown = [read_number(picture) for picture in episode.images_THW3[:steps]]
        assert shown == [read_number(picture) for picture in original.color_THW3]


def test_an_export_in_another_convention_is_refused_as_its_dataset_is(tmp_path: Path) -> None:
    local = ActionConvention.LOCAL_FRAME_DELTA
    writer = DatasetWriter(tmp_path / "set", DatasetHeader(local))
    writer.add(replace(make_episode(0, 6, depth=False), convention=local), "0" * 64, source="bag")
    writer.finish()
    export_dataset(tmp_path / "set", tmp_path / "lerobot", codec=VideoCodec("h264"), progress=False)
    for name in ("set", "lerobot"):
        with pytest.raises(RegistryError, match="actions are LOCAL_FRAME_DELTA, own_robot is ABSOLUTE_POSE_DIFFERENCE"):
            RegisteredDataset("own_robot", tmp_path / name)[0]


def test_steps_near_gaps_stay_marked(tmp_path: Path) -> None:
    written = list(write_dataset(tmp_path / "set", (9, 7), depth=False))
    export_dataset(tmp_path / "set", tmp_path / "lerobot", codec=VideoCodec("h264"), progress=False)
    for name in ("set", "lerobot"):
        for episode, original in zip(RegisteredDataset("own_robot", tmp_path / name), written, strict=True):
            assert episode.step_valid_T is not None and not original.valid_T.all()
            assert np.array_equal(episode.step_valid_T[: len(original)], original.valid_T)


def test_the_calibration_of_each_episode_is_its_camera_also_in_an_export(tmp_path: Path) -> None:
    written = list(write_dataset(tmp_path / "set", (6, 5, 7), depth=False))
    table = Dataset(tmp_path / "set").table
    T = np.eye(4)
    T[:3, 3] = (0.1, -0.2, 1.3)
    recorded = PinholeCamera(610.0, 612.0, 322.0, 236.0, 640, 480, T)  # the sensor's size, as calibrations are kept
    save_camera(tmp_path / "set" / table[1].folder / "calibration.yaml", recorded, serial="x")
    export_dataset(tmp_path / "set", tmp_path / "lerobot", codec=VideoCodec("h264"), progress=False)
    for name in ("set", "lerobot"):
        episodes = list(RegisteredDataset("own_robot", tmp_path / name))
        assert [episode.camera is None for episode in episodes] == [True, False, True]
        found, expected = episodes[1].camera, policy_camera(recorded)
        assert found is not None and (found.width, found.height) == (320, 240)
        assert np.allclose(found.K, expected.K) and np.allclose(found.T_camera_base, T)
        assert len(episodes[1].images_THW3) >= len(written[1])
    calibration = tmp_path / "set" / table[1].folder / "calibration.yaml"
    calibration.write_text("colour: blue")
    with pytest.raises(RegistryError, match="the calibration of"):
        RegisteredDataset("own_robot", tmp_path / "set")[1]


def test_a_camera_on_the_tool_is_no_fixed_camera(tmp_path: Path) -> None:
    camera = PinholeCamera(610.0, 612.0, 322.0, 236.0, 640, 480)
    fixed = Calibration(camera, "x")
    on_tool = Calibration(camera, "x", "eye_in_hand", T_tool_camera=np.eye(4))
    for calibration, known in ((fixed, True), (on_tool, False)):
        save(tmp_path / "calibration.yaml", calibration)
        found = recorded_camera((tmp_path / "calibration.yaml").read_text(), "it", (240, 320))
        assert (found is not None) == known
