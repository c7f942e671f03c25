"""A run whose examiner tests judge and world model, too: what it keeps of that, and that it stops when they fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prophrl_models.policies.interface import FlowPolicy
from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.reward.judge import Confusion
from prophrl_models.rl.audit import AuditRule, Look
from tests.helpers.dot_runs import SETTINGS, dot_trainer

BRIEF = replace(
    SETTINGS,
    steps=5,
    rollout=replace(SETTINGS.rollout, prompts=2, video_every=0),
    watch=replace(SETTINGS.watch, evaluate_every=1, audit_every=1, save_every=0),
)


def test_a_run_whose_world_model_stops_telling_the_truth_is_stopped(taught: TinyPolicy, tmp_path: Path) -> None:
    def examiner(policy: FlowPolicy, step: int) -> Look:
        wrong = 4 + 8 * step
        return Look(step, judge=Confusion(18, 2, 20, 0), outcome=Confusion(20, 0, 20 - wrong, wrong))

    trainer = dot_trainer(taught, tmp_path / "run", BRIEF, examiner=examiner, rule=AuditRule(looks=2))
    trainer.run()
    assert (
        trainer.facts.step == 2 and "outcome agreement was 0.90 (36/40) and is now 0.70, 0.50" in trainer.facts.stopped
    )
    first = trainer.facts.evaluations[0]
    assert first["judge_precision"] == pytest.approx(0.9) and first["judge_recall"] == 1.0
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["held_out/outcome_agreement"] for line in logged if "held_out/success" in line] == [0.9, 0.7, 0.5]
