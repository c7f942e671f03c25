"""One small drawn dataset for the whole folder; do not write to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.normalise import Normalisation
from prophrl_models.policies import load
from tests.helpers import small_vla
from tests.helpers.reaches import write_dataset


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("reaches") / "dataset", count=8)


@pytest.fixture(scope="session")
def normalisation(dataset_folder: Path) -> Normalisation:
    return Dataset(dataset_folder).normalisation()


@pytest.fixture
def small_kind(monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of the small policy with a transformer backbone, known to ``load_policy`` for one test."""
    monkeypatch.setitem(load.KINDS, small_vla.KIND, small_vla.__name__)
    return small_vla.KIND
