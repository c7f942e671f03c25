"""One small dataset of ours and its export, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.storage import save_camera
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.lerobot.export import export_dataset
from tests.helpers.numbered_episodes import write_dataset
from tests.helpers.reaches import camera


@pytest.fixture(scope="session")
def calibration_yaml(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The camera the pictures were drawn with."""
    path = tmp_path_factory.mktemp("calibration") / "camera.yaml"
    save_camera(path, camera(), serial="drawn")
    return path.read_text()


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, calibration_yaml: str) -> Dataset:
    """Three short episodes with depth and calibration; do not write to it."""
    return write_dataset(tmp_path_factory.mktemp("ours") / "dataset", calibration=calibration_yaml)


@pytest.fixture(scope="session")
def exported(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it as LeRobotDataset v3.0; do not write to it."""
    out = tmp_path_factory.mktemp("theirs") / "v3"
    export_dataset(dataset.folder, out, camera="front", depth=True, action_frames=True, progress=False)
    return out
