"""Untrained policies for the twin's tasks: they know the instruction and move a little, that is all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from calibration.poses import ActionConvention
from prophrl_models.data.episode import ACTION_NAMES, STATE_NAMES
from prophrl_models.data.normalise import Normalisation, StatisticsAccumulator
from prophrl_models.policies.interface import PolicySpec, Scaling
from prophrl_models.policies.tiny import TinyConfig, TinyPolicy
from prophrl_models.training.checkpoint import save_policy
from robot_bridge.twin.tasks import get_task


def untrained_policy(task: str, seed: int = 0) -> TinyPolicy:
    """A policy of random weights with steps of millimetres and an open hand."""
    spec = PolicySpec(
        ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
        action_scaling=Scaling((0.0,) * 6 + (1.0,), (0.002,) * 3 + (0.005,) * 3 + (0.01,)),
        state_scaling=Scaling((-0.6, 0.0, 0.3) + (0.0,) * 4, (1.0,) * 7),
        num_steps=2,
        instructions=(get_task(task).instruction,),
    )
    torch.manual_seed(seed)
    policy = TinyPolicy(spec, TinyConfig(maps=2, channels=8, width=16, depth=1, heads=2, cond_width=16, bf16=False))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy.eval()


def write_untrained(folder: Path, task: str, seed: int = 0) -> Path:
    """The checkpoint of such a policy."""
    accumulators = StatisticsAccumulator(STATE_NAMES), StatisticsAccumulator(ACTION_NAMES)
    for accumulator in accumulators:
        accumulator.add(np.random.default_rng(0).normal(size=(10, 7)))
    statistics = Normalisation(*(accumulator.result() for accumulator in accumulators), "none")
    return save_policy(
        folder, untrained_policy(task, seed), statistics, {"dataset_hash": "none", "calibration_ids": []}
    )
