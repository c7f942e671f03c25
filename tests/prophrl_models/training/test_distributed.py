"""Two processes that share the parameters (FSDP2, gloo, CPU) train as one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prophrl_models.training.checkpoint import CheckpointError
from prophrl_models.training.distributed import ALONE, local, whole
from prophrl_models.training.loop import Loop, LoopOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def two_processes(*words: str, kill_one: int | None = None) -> list[subprocess.CompletedProcess[str]]:
    """Start the small training twice, as torchrun would; ``kill_one``: the second kills itself in that batch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = []
    for rank in range(2):
        extra = ["--kill-at", str(kill_one)] if kill_one is not None and rank == 1 else []
        command = [sys.executable, "-m", "tests.helpers.small_runs", *words, *extra]
        environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        running.append(subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True))
    done = []
    for process in running:
        out, error = process.communicate(timeout=400)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, error))
    return done


def curve(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("what", ["full", "lora"])
def test_two_processes_equal_one_also_after_one_was_killed(dataset_folder: Path, tmp_path: Path, what: str) -> None:
    words = ["--train", what, "--steps", "12"]
    alone = subprocess.run(
        [sys.executable, "-m", "tests.helpers.small_runs", str(dataset_folder), str(tmp_path / "one"), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert alone.returncode == 0, alone.stderr
    killed = two_processes(str(dataset_folder), str(tmp_path / "two"), *words, kill_one=7)
    assert all(process.returncode != 0 for process in killed)
    assert len(list((tmp_path / "two").glob("resume-00000005.rank*-of-2.safetensors"))) == 2
    for process in two_processes(str(dataset_folder), str(tmp_path / "two"), *words):
        assert process.returncode == 0, process.stderr
    np.testing.assert_allclose(curve(tmp_path / "two"), curve(tmp_path / "one"), atol=1e-5, rtol=0)
    a, b = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("one", "two"))
    assert set(a) == set(b)
    for name in a:
        one, two = a[name], b[name]
        if name.endswith("qkv.bias"):
            # Softmax does not see a bias of the keys: its gradient is rounding noise, which Adam scales up to full
            # steps, differently for every order of summation. Queries and values stay in the comparison.
            one, two = (bias.reshape(3, -1)[[0, 2]] for bias in (one, two))
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5, msg=name)
    assert not list((tmp_path / "two").glob("resume*"))


def test_resume_files_of_another_number_of_processes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "resume-00000005.rank0-of-2.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="was written by a run on 2 processes, this one has 1"):
        Loop(torch.nn.Linear(2, 2), LoopOptions(), tmp_path).resume()


def test_alone_nothing_is_averaged_or_sharded() -> None:
    tensor = torch.ones(2)
    assert local(tensor) is tensor and whole(tensor) is tensor and ALONE.is_main
    assert ALONE.mean({"loss": 2.0}) == {"loss": 2.0}
