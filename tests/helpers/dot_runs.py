"""Reinforcement runs in the dot world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from prophrl_models.data.normalise import FeatureStatistics, Normalisation
from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.reward.judge import Judge
from prophrl_models.rl.executor import Executor, InProcessExecutor
from prophrl_models.rl.rollouts import RolloutWorker
from prophrl_models.rl.settings import RlSettings, RolloutOptions, UpdateOptions, WatchOptions
from prophrl_models.rl.trainer import Trainer
from prophrl_models.rl.update import choose_parameters
from tests.helpers.dot_world import CALLS, DotJudge, DotWorld, new_policy, starts

TRAINING, HELD_OUT = 24, 12
SETTINGS = RlSettings(
    steps=3,
    seed=1,
    threads=1,
    rollout=RolloutOptions(
        prompts=4, group_size=4, calls=CALLS, noise_level=0.4, groups_at_once=2, max_rounds=2, video_every=2
    ),
    update=UpdateOptions(learning_rate=5e-4, mini_batch=8, micro_batch=8, epochs=2, beta=0.001),
    watch=WatchOptions(evaluate_every=2, held_out=HELD_OUT, save_every=2, report_every=0, tensorboard=False),
)


def dot_worker(
    policy: TinyPolicy | None = None, settings: RlSettings = SETTINGS, judge: Judge | None = None
) -> RolloutWorker:
    """A worker in the dot world; importable, so that it can be built in another process."""
    policy = policy or new_policy()
    choose_parameters(policy, settings.update)
    everywhere = starts(TRAINING, 5) + starts(HELD_OUT, 6)
    return RolloutWorker(policy, DotWorld(), judge or DotJudge(), everywhere, settings.rollout)


def normalisation() -> Normalisation:
    """Statistics such as a dataset would have."""
    names = ("x", "y", "z", "ex", "ey", "ez", "opening")
    columns = dict.fromkeys(("mean", "q01", "minimum"), (0.0,) * 7)
    spread = dict.fromkeys(("std", "q99", "maximum"), (0.1,) * 7)
    feature = FeatureStatistics(names, 100, columns["mean"], spread["std"], columns["q01"], spread["q99"],
                                columns["minimum"], spread["maximum"])  # fmt: skip
    return Normalisation(feature, feature, "dots")


def dot_trainer(
    policy: TinyPolicy,
    out_dir: Path,
    settings: RlSettings = SETTINGS,
    *,
    judge: Judge | None = None,
    executor: Executor | None = None,
    **more: Any,
) -> Trainer:
    """A run of a policy in the dot world."""
    choose_parameters(policy, settings.update)
    return Trainer(
        policy,
        executor or InProcessExecutor(dot_worker(policy, settings, judge)),
        settings,
        out_dir,
        training_starts=TRAINING,
        held_out_starts=HELD_OUT,
        normalisation=normalisation(),
        provenance={"dataset_hash": "dots", "calibration_ids": [], "parent": "taught"},
        **more,
    )


def reopened(file: Path) -> TinyPolicy:
    """The policy whose weights lie in a file."""
    policy = new_policy()
    policy.load_state_dict(load_file(file))
    return policy
