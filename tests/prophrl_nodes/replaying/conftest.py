"""One scripted demonstration for the whole room, and the bag it would have been recorded into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.demonstrations import Demonstration, demonstrate


@pytest.fixture(scope="session")
def demonstration() -> Demonstration:
    return demonstrate("place_cube", 7)


@pytest.fixture(scope="session")
def bag(demonstration: Demonstration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write to it."""
    return demonstration.write(tmp_path_factory.mktemp("bags"), "scripted")
