"""The success classifier as a network and as a judge."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import load_classifier, read_provenance, save_classifier
from prophrl_models.reward.classifier_judge import ClassifierJudge
from prophrl_models.reward.judge import JudgeError

TASKS = ("grasp the bottle and lift it", "put the red cube into the bowl")
SMALL = ClassifierConfig(TASKS, frames=6, height=24, width=32, channels=(8, 8, 8, 8), token=16, heads=2)


def network(config: ClassifierConfig = SMALL, seed: int = 0) -> SuccessClassifier:
    """A network whose head is not zero, so that everything before it shows."""
    torch.manual_seed(seed)
    model = SuccessClassifier(config)
    torch.nn.init.normal_(model.out.weight)
    return model.eval()


def frames(batch: int = 2, count: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, count, 24, 32, 3), dtype=torch.uint8, generator=generator)


def test_the_default_has_less_than_a_million_parameters_and_a_larger_one_is_refused() -> None:
    assert sum(p.numel() for p in SuccessClassifier(ClassifierConfig(TASKS)).parameters()) < 400_000
    with pytest.raises(JudgeError, match="at most 1000000"):
        SuccessClassifier(ClassifierConfig(TASKS, token=512))


@torch.inference_mode()
def test_no_logit_sees_a_later_frame_and_every_logit_sees_its_own() -> None:
    model, task = network(), torch.tensor([0, 1])
    clip = frames()
    logits = model(clip, task)
    for t in range(1, 6):
        other = clip.clone()
        other[:, t] = 255 - other[:, t]
        changed = (model(other, task) - logits).abs().amax(0)
        assert changed[:t].max() < 1e-6 < 1e-4 < changed[t]
    assert torch.allclose(model(clip[:, :3], task), logits[:, :3], atol=1e-6), "nor how many there are"


@torch.inference_mode()
def test_rows_of_a_batch_do_not_touch_each_other_and_the_task_matters() -> None:
    model, clip = network(), frames(3)
    together = model(clip, torch.tensor([0, 1, 0]))
    alone = model(clip[1:2], torch.tensor([1]))
    other = model(clip[1:2], torch.tensor([0]))
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    assert (alone - other).abs().max() > 1e-3


def test_wrong_frames_and_unknown_tasks_are_refused() -> None:
    model = network()
    with pytest.raises(JudgeError, match="32x24, got"):
        model(frames().permute(0, 1, 3, 2, 4), torch.tensor([0, 1]))
    with pytest.raises(JudgeError, match=r"'fold the towel', only on grasp the bottle"):
        model.task_numbers(["fold the towel"])
    assert model.task_numbers([" Put the RED cube into the bowl"]).tolist() == [1]
    with pytest.raises(JudgeError, match="different tasks"):
        ClassifierConfig(("a", "a"))


class ByBrightness(SuccessClassifier):
    """Follows a rule that a test can compute: the logit is the mean brightness, a hundred being even."""

    def forward(self, frames_BTHW3: Tensor, task_B: Tensor) -> Tensor:
        return frames_BTHW3.float().mean((2, 3, 4)) - 100.0


def shades(*values: int) -> np.ndarray:
    return np.array(values, np.uint8)[:, None, None, None].repeat(48, 1).repeat(64, 2).repeat(3, 3)


def test_the_verdict_is_the_last_frames_and_the_finish_step_the_first_that_stays() -> None:
    judge = ClassifierJudge(ByBrightness(SMALL), Decision(temperature=10.0))
    rising = shades(*[0] * 10, *[150] * 3, *[0] * 7, *[130] * 20)
    videos = [rising, rising[:20], shades(180), shades(20, 180)]
    verdicts = judge.judge(videos, [TASKS[1]] * 4)

    assert [verdict.success for verdict in verdicts] == [True, False, True, True]
    assert [verdict.finish_step for verdict in verdicts] == [23, None, 0, 1], "frames 0 8 16 23 31 39 are looked at"
    assert verdicts[0].score == pytest.approx(1 / (1 + np.exp(-3.0)))
    assert verdicts[0].votes == (True,) and "threshold 0.500" in verdicts[0].reason
    strict = ClassifierJudge(ByBrightness(SMALL), Decision(temperature=10.0, threshold=0.96))
    assert strict.judge(videos[:1], [TASKS[1]])[0].success is False


def test_batches_do_not_change_verdicts_and_task_names_are_understood() -> None:
    rng = np.random.default_rng(0)
    videos = [rng.integers(0, 255, (n, 48, 64, 3)).astype(np.uint8) for n in (1, 3, 9, 30, 6)]
    model = network()
    one, many = (ClassifierJudge(model, Decision(), batch=n).judge(videos, ["place_cube"] * 5) for n in (1, 16))
    named = ClassifierJudge(model, Decision()).judge(videos, [TASKS[1]] * 5)

    assert [v.score for v in one] == pytest.approx([v.score for v in many], abs=1e-6)
    assert [v.score for v in many] == pytest.approx([v.score for v in named])


def test_what_is_no_video_is_refused() -> None:
    judge = ClassifierJudge(network(), Decision())
    with pytest.raises(JudgeError, match="float64"):
        judge.judge([np.zeros((3, 8, 8, 3))], [TASKS[0]])  # type: ignore[list-item]
    with pytest.raises(JudgeError, match="1 videos and 2 tasks"):
        judge.judge([shades(1)], list(TASKS))


def test_a_saved_classifier_says_the_same(tmp_path: Path) -> None:
    model, video = network(), np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3)).astype(np.uint8)
    decision = Decision(1.7, 0.31)
    folder = save_classifier(tmp_path / "c", network(seed=1), Decision(), {"videos": {"test": ["old"]}})
    folder = save_classifier(folder, model, decision, {"videos": {"test": ["b"]}})
    loaded = load_classifier(folder)

    assert loaded.judge([video], [TASKS[0]]) == ClassifierJudge(model, decision).judge([video], [TASKS[0]])
    assert (loaded.decision, loaded.model.config) == (decision, SMALL)
    assert read_provenance(folder)["videos"] == {"test": ["b"]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"], "nothing half-written is left"


def test_altered_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "c", network(), Decision(), {"videos": {}})
    config = json.loads((folder / "config.json").read_text())
    config["decision"]["threshold"] = 0.01
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(JudgeError, match=r"config\.json is not the file that was saved"):
        load_classifier(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(JudgeError, match=r"no model\.safetensors"):
        load_classifier(folder)
