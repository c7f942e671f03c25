"""Recordings made once for the whole room."""

from __future__ import annotations

from pathlib import Path

import pytest

from prophrl_models.data.bag import Bag
from tests.helpers.recording import Recording, record


@pytest.fixture(scope="session")
def recording() -> Recording:
    """Two seconds of a reach at full image size, with depth."""
    return record(2.0, depth=True, metadata={"lighting": "lamp"})


@pytest.fixture(scope="session")
def bag_path(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That recording as the recorder files it; do not write to it."""
    return recording.write(tmp_path_factory.mktemp("bags"))


@pytest.fixture
def bag(bag_path: Path) -> Bag:
    return Bag(bag_path)
