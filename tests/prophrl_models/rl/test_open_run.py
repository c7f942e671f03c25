"""From folders to a reinforced checkpoint: the genuine world model, classifier and dataset, at their smallest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from prophrl_models.data.dataset import Dataset
from prophrl_models.policies.load import load_policy
from prophrl_models.policies.tiny import TinyConfig
from prophrl_models.prophet.checkpoint import save_prophet
from prophrl_models.prophet.codec import build_codec
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_judge import save_classifier
from prophrl_models.reward.factory import JudgeSettings
from prophrl_models.rl.open_run import Sources, open_starts, open_trainer
from prophrl_models.rl.settings import load_settings
from prophrl_models.training.loop import LoopOptions
from prophrl_models.training.sft import SftConfig, train_policy
from tests.helpers.prophet_data import write_reaches
from tests.helpers.reaches import INSTRUCTION

PRESET = Path(__file__).parents[3] / "config" / "rl" / "tiny.yaml"
SMALL = TinyConfig(channels=8, width=16, cond_width=16, heads=2, maps=2, depth=1, bf16=False)


def test_folders_become_a_reinforced_checkpoint(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = write_reaches(tmp_path / "data", 6)
    brief = SftConfig(batch_size=4, tiny=SMALL, num_steps=4, loop=LoopOptions(steps=3, warmup=1, save_every=0))
    sft = train_policy(data, tmp_path / "sft", brief)
    torch.manual_seed(0)
    config = preset("tiny")
    made_of = {"dataset_hashes": [Dataset(data).content_hash], "calibration_ids": []}
    world = save_prophet(tmp_path / "world", Prophet(config.network), build_codec(config.codec), config, made_of)
    looks = ClassifierConfig((INSTRUCTION,), frames=4, height=24, width=32, channels=(8, 8, 8, 8), token=16, heads=2)
    classifier = SuccessClassifier(looks)
    judge = save_classifier(tmp_path / "judge", classifier.eval(), Decision(), {"made_for": "a test"})
    sources = Sources(sft, world, (data,), JudgeSettings("classifier", str(judge)), world_steps=2)
    settings = load_settings(PRESET)
    settings = replace(settings, watch=replace(settings.watch, tensorboard=False))
    trainer = open_trainer(sources, settings, tmp_path / "rl")
    fingerprint = trainer.store.fingerprint
    assert open_trainer(replace(sources, world_steps=3), settings, tmp_path / "rl").store.fingerprint != fingerprint
    save_classifier(tmp_path / "judge", classifier, Decision(threshold=0.6), {"made_for": "a test"})
    assert open_trainer(sources, settings, tmp_path / "rl").store.fingerprint != fingerprint  # tuned again in its place
    folder = trainer.run()
    assert load_policy(folder).spec == load_policy(sft).spec
    record = json.loads((folder / "provenance.json").read_text())
    assert record["parent"]["checkpoint"] == "policy" and record["world"]["sha256"] and record["starts"]
    sides = record["starts_split"]
    names = {row.episode_id for row in Dataset(data).table}
    assert {*sides["training"], *sides["held_out"]} == names and len(sides["held_out"]) == 2
    again = open_starts(replace(sources, policy=folder), replace(settings, seed=9), load_policy(folder))
    assert {start.source for start in again.prompts[-2:]} == set(sides["held_out"])  # whatever the seed
    assert record["dataset_hash"] == Dataset(data).content_hash
    assert (tmp_path / "rl" / "report.html").is_file()
    lines = [json.loads(line) for line in (tmp_path / "rl" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "imagined_success" in line]
    assert [line["step"] for line in steps] == [1, 2] and all(line["time/world_s"] > 0.0 for line in steps)
