"""One small drawn dataset for the whole folder; do not write to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.normalise import Normalisation
from tests.helpers.reaches import write_dataset


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("reaches") / "dataset", count=8)


@pytest.fixture(scope="session")
def normalisation(dataset_folder: Path) -> Normalisation:
    return Dataset(dataset_folder).normalisation()
