"""What makes a judge this judge and no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prophrl_models.reward import prompts
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import save_classifier
from prophrl_models.reward.factory import JudgeSettings, judge_identity
from prophrl_models.reward.judge import JudgeError

SERVER = JudgeSettings("server", "http://127.0.0.1:8000/v1", "some/model")


def test_a_classifier_trained_or_tuned_again_in_its_place_is_another_judge(tmp_path: Path) -> None:
    config = ClassifierConfig(("tidy up",), frames=4, height=24, width=32, channels=(8, 8, 8, 8), token=16, heads=2)
    judge, folder = JudgeSettings("classifier", str(tmp_path / "judge")), tmp_path / "judge"
    with pytest.raises(JudgeError, match=r"lacks .*model.safetensors"):
        judge_identity(judge)
    model = SuccessClassifier(config)
    found = []
    for decision in (Decision(), Decision(), Decision(threshold=0.7)):
        save_classifier(folder, model, decision, {})
        found.append(judge_identity(judge))
    save_classifier(folder, SuccessClassifier(config), Decision(), {})
    found.append(judge_identity(judge))
    assert found[0] == found[1] == judge_identity(replace(judge, device="cuda")) | {"sha256": found[0]["sha256"]}
    assert len({identity["sha256"] for identity in found}) == 3


def test_model_votes_style_and_prompts_make_a_served_judge_and_waiting_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = judge_identity(SERVER)
    assert judge_identity(replace(SERVER, timeout_s=5.0, deadline_s=9.0)) == found
    for other in (replace(SERVER, model="x"), replace(SERVER, votes=3, needed=2), replace(SERVER, style="libero")):
        assert judge_identity(other) != found
    known = prompts.prompts()
    stricter = {**known, "bridge": replace(known["bridge"], text=known["bridge"].text + " Be strict.")}
    monkeypatch.setattr(prompts, "prompts", lambda: stricter)
    assert judge_identity(SERVER) != found


def test_a_local_model_is_known_by_its_files(tmp_path: Path) -> None:
    judge = JudgeSettings("local", str(tmp_path))
    with pytest.raises(JudgeError, match="lacks its files"):
        judge_identity(judge)
    for name in ("model.safetensors", "config.json", "README.md"):
        (tmp_path / name).write_text("one")
    found = judge_identity(judge)
    (tmp_path / "README.md").write_text("two")
    assert judge_identity(judge) == found
    (tmp_path / "model.safetensors").write_text("two")
    assert judge_identity(judge) != found
