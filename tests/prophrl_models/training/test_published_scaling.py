"""Fine-tuning in the units of published weights: taken from their file, with the gripper's end said aloud."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prophrl_models.data.dataset import Dataset
from prophrl_models.policies.load import load_policy
from prophrl_models.training.frames import FrameOptions
from prophrl_models.training.published_scaling import PublishedStatistics
from prophrl_models.training.rows import DatasetRows
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.vla import VlaConfig, load_vla_config, train_vla
from prophrl_models.training.vla_policy import Origin, new_spec
from tests.helpers.reaches import write_dataset

LOW = [-0.02, -0.02, -0.03, -0.1, -0.1, -0.2, 0.0]
HIGH = [0.02, 0.03, 0.03, 0.1, 0.2, 0.2, 1.0]
BRIEF = VlaConfig(batch_size=2, micro_batch=2, precision="fp32", gradient_checkpointing=False, workers=0)
BRIEF = replace(BRIEF, loop=replace(BRIEF.loop, steps=1, warmup=0, tensorboard=False), num_steps=2)


@pytest.fixture(scope="module")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("reaches") / "dataset", count=2)


def openpi_file(folder: Path, low: list[float] = LOW, high: list[float] = HIGH) -> Path:
    """As openpi's base models have it: 32 channels, those of one arm first."""
    padded = {"q01": [*low, *[0.0] * (32 - len(low))], "q99": [*high, *[0.0] * (32 - len(high))]}
    file = folder / "norm_stats.json"
    file.write_text(json.dumps({"norm_stats": {"actions": padded}}))
    return file


@pytest.mark.parametrize(("gripper", "opening_of_plus_one"), [("open_is_one", 1.0), ("closed_is_one", 0.0)])
def test_network_values_mean_what_they_meant_in_the_published_policy(
    tmp_path: Path, gripper: str, opening_of_plus_one: float
) -> None:
    statistics = PublishedStatistics(str(openpi_file(tmp_path)), "openpi", gripper)
    scaling = statistics.action_scaling()
    plus, minus = (np.full(7, value) * scaling.scale + scaling.offset for value in (1.0, -1.0))
    np.testing.assert_allclose(plus[:6], HIGH[:6], atol=2e-6)
    np.testing.assert_allclose(minus[:6], LOW[:6], atol=2e-6)
    np.testing.assert_allclose([plus[6], minus[6]], [opening_of_plus_one, 1.0 - opening_of_plus_one], atol=2e-6)


def test_states_keep_the_units_of_the_data(dataset_folder: Path, tmp_path: Path) -> None:
    dataset = Dataset(dataset_folder)
    form = DatasetRows(dataset, FrameOptions(chunk=8, event_weight=0.0)).format
    statistics = PublishedStatistics(str(openpi_file(tmp_path)), "openpi", "open_is_one")
    words = (form, dataset.normalisation(), dataset.instructions, 10)
    published, own = new_spec(*words, "published", statistics), new_spec(*words, "quantile")
    assert published.state_scaling == own.state_scaling
    assert published.action_scaling == statistics.action_scaling() != own.action_scaling


def test_a_policy_is_trained_in_them_and_a_resumed_run_must_agree(dataset_folder: Path, tmp_path: Path) -> None:
    file = openpi_file(tmp_path)
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"scaling: published\nstatistics: {{path: {file}, layout: openpi, gripper: open_is_one}}\n")
    read = load_vla_config(settings)
    config = replace(BRIEF, scaling=read.scaling, statistics=read.statistics, frames=replace(BRIEF.frames, chunk=8))
    origin = Origin("vla_adapter", tiny_size=True)
    checkpoint = train_vla(dataset_folder, tmp_path / "run", origin, config)
    assert load_policy(checkpoint).spec.action_scaling == read.statistics.action_scaling()
    openpi_file(tmp_path, high=[2 * value for value in HIGH])
    (tmp_path / "run" / "resume.safetensors").touch()  # as if it had been interrupted
    with pytest.raises(TrainingError, match=r"parent\.statistics_sha256 was"):
        train_vla(dataset_folder, tmp_path / "run", origin, config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": ""}, "needs statistics: {path, layout, gripper}"),
        ({"gripper": ""}, "one of open_is_one, closed_is_one, open_is_plus_one, closed_is_plus_one, got ''"),
        ({"gripper": "up"}, "got 'up'"),
        ({"mode": "bounds"}, "of openpi is one of quantiles, mean_std, got 'bounds'"),
        ({"layout": "lerobot"}, "holds no|action in"),
        ({"path": "/nowhere"}, "no statistics file"),
    ],
)
def test_what_the_file_does_not_say_must_be_said(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    good = PublishedStatistics(str(openpi_file(tmp_path)), "openpi", "open_is_one")
    with pytest.raises(TrainingError, match=said):
        replace(good, **change).action_scaling()


def test_other_arms_and_channels_without_a_unit_are_refused(dataset_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "joints").mkdir()
    names = {"q01": [0.0] * 8, "q99": [1.0] * 8}
    (tmp_path / "joints" / "dataset_statistics.json").write_text(json.dumps({"droid": {"action": names}}))
    joints = PublishedStatistics(str(tmp_path / "joints"), "openvla", "closed_is_one")
    with pytest.raises(TrainingError, match="actions of 8 numbers, needed are 7"):
        joints.action_scaling()
    still = PublishedStatistics(str(openpi_file(tmp_path, LOW, [*HIGH[:3], -0.1, *HIGH[4:]])), "openpi", "open_is_one")
    with pytest.raises(TrainingError, match="channels 3 never vary"):
        still.action_scaling()
    with pytest.raises(TrainingError, match="scaling is quantile; say scaling: published"):
        config = replace(BRIEF, statistics=still)
        train_vla(dataset_folder, tmp_path / "run", Origin("vla_adapter", tiny_size=True), config)
