"""From folders to a reinforced checkpoint: the genuine world model, classifier and dataset, at their smallest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from prophrl_models.data.dataset import Dataset
from prophrl_models.policies.load import load_policy
from prophrl_models.reward.calibration import Decision
from prophrl_models.rl.open_run import open_starts, open_trainer
from tests.helpers import small_reinforcement


def test_folders_become_a_reinforced_checkpoint(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    sources, settings = small_reinforcement.write_sources(tmp_path), small_reinforcement.settings()
    sft, data = sources.policy, sources.datasets[0]
    trainer = open_trainer(sources, settings, tmp_path / "rl")
    fingerprint = trainer.store.fingerprint
    assert open_trainer(replace(sources, world_steps=3), settings, tmp_path / "rl").store.fingerprint != fingerprint
    small_reinforcement.write_judge(tmp_path / "judge", Decision(threshold=0.6))
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
