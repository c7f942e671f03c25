"""The parts of a reinforcement run, genuine and at their smallest: dataset, policy, world model, classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from prophrl_models.data.dataset import Dataset
from prophrl_models.policies.tiny import TinyConfig
from prophrl_models.prophet.checkpoint import save_prophet
from prophrl_models.prophet.codec import build_codec
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import save_classifier
from prophrl_models.reward.factory import JudgeSettings
from prophrl_models.rl.open_run import Sources
from prophrl_models.rl.settings import RlSettings, load_settings
from prophrl_models.training.loop import LoopOptions
from prophrl_models.training.sft import SftConfig, train_policy
from tests.helpers.prophet_data import write_reaches
from tests.helpers.reaches import INSTRUCTION

PRESET = Path(__file__).parents[2] / "config" / "rl" / "tiny.yaml"
SMALL = TinyConfig(channels=8, width=16, cond_width=16, heads=2, maps=2, depth=1, bf16=False)
LOOKS = ClassifierConfig((INSTRUCTION,), frames=4, height=24, width=32, channels=(8, 8, 8, 8), token=16, heads=2)


def write_judge(folder: Path, decision: Decision | None = None) -> Path:
    """An untrained classifier, the same each time but for its decision."""
    torch.manual_seed(3)
    return save_classifier(folder, SuccessClassifier(LOOKS).eval(), decision or Decision(), {"made_for": "a test"})


def write_sources(folder: Path) -> Sources:
    """Six episodes, a policy of three training steps, an untrained world, an untrained judge."""
    data = write_reaches(folder / "data", 6)
    brief = SftConfig(batch_size=4, tiny=SMALL, num_steps=4, loop=LoopOptions(steps=3, warmup=1, save_every=0))
    policy = train_policy(data, folder / "sft", brief)
    torch.manual_seed(0)
    config = preset("tiny")
    made_of = {"dataset_hashes": [Dataset(data).content_hash], "calibration_ids": []}
    world = save_prophet(folder / "world", Prophet(config.network), build_codec(config.codec), config, made_of)
    judge = JudgeSettings("classifier", str(write_judge(folder / "judge")))
    return Sources(policy, world, (data,), judge, world_steps=2)


def settings() -> RlSettings:
    """The tiny preset without TensorBoard."""
    tiny = load_settings(PRESET)
    return replace(tiny, watch=replace(tiny.watch, tensorboard=False))
