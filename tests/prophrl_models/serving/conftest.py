"""One small checkpoint for the whole folder; do not write to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prophrl_models.serving.engine import PolicyEngine
from tests.helpers.served_policy import write_checkpoint


@pytest.fixture(scope="session")
def served_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("served") / "policy")


@pytest.fixture(scope="session")
def engine(served_checkpoint: Path) -> PolicyEngine:
    return PolicyEngine.load(served_checkpoint, "cpu", max_batch=4)
