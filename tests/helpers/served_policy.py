"""A small policy checkpoint, and ``prophrl serve`` in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from calibration.poses import ActionConvention
from prophrl_models.data.episode import ACTION_NAMES, STATE_NAMES, Observation
from prophrl_models.data.normalise import Normalisation, StatisticsAccumulator
from prophrl_models.policies.interface import PolicySpec, Scaling
from prophrl_models.policies.tiny import TinyConfig, TinyPolicy
from prophrl_models.training.checkpoint import save_policy

INSTRUCTION = "place the cube in the bowl"
HOST = "127.0.0.67"
CHUNK, STEPS = 6, 3
ROUNDING = 5e-4
"""float32 rounding of chunks whose numbers reach ten, up to 2e-4 on some processors; other requests differ by 0.2."""
START_S = 120.0


def write_checkpoint(
    folder: Path,
    seed: int = 0,
    convention: ActionConvention = ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
    chunk: int = CHUNK,
) -> Path:
    """A tiny policy whose every weight is random, so that its chunks depend on all it is given."""
    spec = PolicySpec(
        convention,
        action_scaling=Scaling((0.0,) * 6 + (0.5,), (0.002,) * 3 + (0.01,) * 3 + (0.5,)),
        state_scaling=Scaling((0.4, 0.0, 0.3) + (0.0,) * 4, (1.0,) * 7),
        chunk=chunk,
        num_steps=STEPS,
        instructions=(INSTRUCTION, "pull a tissue"),
    )
    torch.manual_seed(seed)
    policy = TinyPolicy(spec, TinyConfig(maps=2, channels=8, width=16, depth=1, heads=2, cond_width=16, bf16=False))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    accumulators = StatisticsAccumulator(STATE_NAMES), StatisticsAccumulator(ACTION_NAMES)
    for accumulator in accumulators:
        accumulator.add(np.random.default_rng(0).normal(size=(10, 7)))
    statistics = Normalisation(*(accumulator.result() for accumulator in accumulators), "none")
    return save_policy(folder, policy, statistics, {"dataset_hash": "none", "calibration_ids": []})


def observation(seed: int, instruction: str = INSTRUCTION) -> Observation:
    """A random picture and state."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    return Observation(image, random.normal(size=7).astype(np.float32) * 0.2, instruction, 1_000_000 * seed)


class ServerProcess:
    """``prophrl serve``, ready when constructed.

    Args:
        log: file for what it prints.
        port: 0 takes a free one.
    """

    def __init__(self, checkpoint: Path, log: Path, port: int = 0, arguments: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "prophrl_nodes.cli.main", "serve", str(checkpoint), "--host", HOST]
        command += ["--port", str(port), "--device", "cpu", "--threads", "1", *arguments]
        self._log_path = log
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        self.port = self._wait()
        self.url = f"ws://{HOST}:{self.port}/policy"
        self.http = f"http://{HOST}:{self.port}"

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(30.0)

    def stop(self) -> int:
        """SIGTERM; the return code."""
        self.process.terminate()
        try:
            return self.process.wait(30.0)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def _wait(self) -> int:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if found := re.search(r"listening on ws://[^:]+:(\d+)/policy", self.log):
                return int(found[1])
            if self.process.poll() is not None:
                raise RuntimeError(f"prophrl serve ended with {self.process.returncode}:\n{self.log}")
            time.sleep(0.05)
        self.kill()
        raise TimeoutError(f"prophrl serve was not ready within {START_S} s:\n{self.log}")
