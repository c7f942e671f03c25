"""A policy taught once for the whole room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prophrl_models.policies.tiny import TinyPolicy
from tests.helpers.dot_runs import reopened
from tests.helpers.dot_world import taught_policy


@pytest.fixture(scope="session")
def taught_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights after biased demonstrations of the dot world."""
    torch.set_num_threads(1)
    file = tmp_path_factory.mktemp("taught") / "weights.safetensors"
    save_file(taught_policy(150).state_dict(), file)
    return file


@pytest.fixture
def taught(taught_file: Path) -> TinyPolicy:
    """A fresh copy of the taught policy."""
    return reopened(taught_file)
