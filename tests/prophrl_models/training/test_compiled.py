"""Compiled blocks compute the same under the same names; without a compiler they stay as they are, and it is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from prophrl_models.training.compiled import compile_blocks

pytestmark = pytest.mark.timeout(300)

WITHOUT_COMPILER = """
import torch
from prophrl_models.training.compiled import compile_blocks
block = torch.nn.Linear(2, 2)
print(compile_blocks([block], torch.device("cpu")))
block(torch.zeros(1, 2))
"""


def blocks(count: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()) for _ in range(count)]


def test_compiled_blocks_compute_the_same_and_keep_their_names() -> None:
    plain, compiled = blocks(2), blocks(2)
    assert compile_blocks(compiled, torch.device("cpu")) == ""
    x = torch.randn(3, 8)
    for a, b in zip(plain, compiled, strict=True):
        ours, theirs = b(x), a(x)
        torch.testing.assert_close(ours, theirs)
        ours.sum().backward()
        theirs.sum().backward()
        assert list(a.state_dict()) == list(b.state_dict())
        for mine, other in zip(b.parameters(), a.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad)


def test_without_a_compiler_blocks_stay_as_they_are_and_the_reason_is_told(tmp_path: Path) -> None:
    environment = {"CXX": "/nonexistent/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER],
        env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "compiler" in done.stdout.lower()
