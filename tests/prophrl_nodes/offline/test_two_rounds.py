"""Two rounds from bags to result, every stage for real and at its smallest: what the second takes from the first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prophrl_nodes.offline.flow import Flow
from prophrl_nodes.offline.plan import OfflinePlan
from prophrl_nodes.offline.result import FlowResult, read_result
from prophrl_nodes.offline.rounds import begin

from calibration.storage import save_camera
from prophrl_models.data.build import build_dataset
from prophrl_models.data.dataset import Dataset
from prophrl_models.policies.tiny import TinyConfig
from prophrl_models.prophet.checkpoint import save_prophet
from prophrl_models.prophet.codec import build_codec
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import save_classifier
from prophrl_models.training.loop import LoopOptions
from prophrl_models.training.sft import SftConfig, train_policy
from tests.helpers.reaches import camera
from tests.helpers.recording import record

WORLD = """
size: tiny
batch_size: 2
micro_batch: 2
precision: fp32
read_ahead: 0
held_out: 0.3
loop: {steps: 2, warmup: 1, save_every: 1, log_every: 1, ema: 0.0, learning_rate: 1.0e-4, tensorboard: false}
"""
SMALL = TinyConfig(channels=8, width=16, cond_width=16, heads=2, maps=2, depth=1, bf16=False)


def record_bags(folder: Path, names: str, calibration: Path, *, trial: bool = False) -> Path:
    """A bag for each name, every second a failure."""
    for number, name in enumerate(names):
        said = {"trial_id": f"t-{name}", "policy_id": "A"} if trial else {}
        outcome = "success" if number % 2 == 0 else "failure"
        bag = replace(record(2.5, seed=ord(name), width=64, height=48), episode_id=name, outcome=outcome, metadata=said)
        bag.write(folder, calibration)
    return folder


def run(plan: OfflinePlan, folder: Path) -> FlowResult:
    begin(plan, folder)
    return Flow(plan, folder).run()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_second_round_continues_the_first(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    calibration = tmp_path / "camera.yaml"
    save_camera(calibration, camera(), serial="drawn")
    bags = record_bags(tmp_path / "bags", "abcdefgh", calibration)
    build_dataset([bags], tmp_path / "demos", progress=False)
    brief = SftConfig(batch_size=4, tiny=SMALL, num_steps=4, loop=LoopOptions(steps=3, warmup=1, save_every=0))
    policy = train_policy(tmp_path / "demos", tmp_path / "sft", brief)
    config = preset("tiny")
    made_of = {"dataset_hashes": [], "calibration_ids": []}
    world = save_prophet(tmp_path / "world", Prophet(config.network), build_codec(config.codec), config, made_of)
    task = Dataset(tmp_path / "demos").instructions[0]
    looks = ClassifierConfig((task,), frames=4, height=24, width=32, channels=(8, 8, 8, 8), token=16, heads=2)
    judge = save_classifier(
        tmp_path / "judge", SuccessClassifier(looks).eval(), Decision(), {"videos": {"training": []}}
    )
    (tmp_path / "world.yaml").write_text(WORLD)
    plan = OfflinePlan(
        (str(bags),), str(policy), str(world), judge=str(judge), audit=f"classifier:{judge}", preset="tiny",
        world_preset=str(tmp_path / "world.yaml"), gates=False, threads=1,
    )  # fmt: skip
    first = run(plan, tmp_path / "round1")
    assert first.round == 1 and Path(first.checkpoint).is_dir() and not first.earlier
    findings = json.loads((tmp_path / "round1" / "check.json").read_text())["findings"]
    assert "judge recall" in [finding["gate"] for finding in findings]
    looks = json.loads((Path(first.checkpoint) / "provenance.json").read_text())["evaluations"]
    assert all(look["audited"] == look["success"] for look in looks)  # the second judge is the first one once more

    trials = record_bags(tmp_path / "trials", "pqr", calibration, trial=True)
    following = replace(
        plan, bags=(str(bags), str(trials)), policy="", world="", judge="", after=str(tmp_path / "round1")
    )
    second = run(following, tmp_path / "round2")
    assert second == read_result(tmp_path / "round2")
    assert (second.round, second.after, second.known_bags) == (2, str(tmp_path / "round1"), 8)
    (row,) = second.reality["trials"].values()
    assert (row["successes"], row["trials"]) == (2, 3) and second.reality["promised"] == first.imagined_after
    assert second.message.startswith("round 2: ") and "2 of 3 trials succeeded" in second.message

    assert {row.episode_id for row in Dataset(tmp_path / "round2" / "dataset").table} == set("pqr")
    at = {
        name: json.loads((tmp_path / name / "world/prophet/provenance.json").read_text())
        for name in ("round1", "round2")
    }
    assert at["round2"]["parent"]["sha256"] == at["round1"]["sha256"]["model.safetensors"]
    assert (
        at["round2"]["dataset_hashes"][0] == at["round1"]["dataset_hash"] and len(at["round2"]["dataset_hashes"]) == 2
    )
    assert at["round2"]["training"]["clips"]["weights"] == [1.0, pytest.approx(8 / 3, rel=0.1)]
    by = {
        name: json.loads((tmp_path / name / "rl/policy/provenance.json").read_text()) for name in ("round1", "round2")
    }
    assert by["round2"]["parent"]["sha256"] == by["round1"]["sha256"]["model.safetensors"]
    sides = [by[name]["starts_split"] for name in ("round1", "round2")]
    assert set(sides[0]["held_out"]) <= set(sides[1]["held_out"]) and set(sides[0]["training"]) <= set(
        sides[1]["training"]
    )
    assert len(set(sides[1]["held_out"]) & set("pqr")) == 1
