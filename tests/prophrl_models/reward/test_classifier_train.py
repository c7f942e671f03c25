"""Training a success classifier: it learns what matters, resumes exactly, and reports on videos it has not seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from prophrl_models.reward.classifier import ClassifierConfig
from prophrl_models.reward.classifier_clips import ClipOptions
from prophrl_models.reward.classifier_files import load_classifier, read_provenance
from prophrl_models.reward.classifier_train import CLASSIFIER_FOLDER, ClassifierTraining, frame_loss, train_classifier
from prophrl_models.reward.judge import JudgeError
from prophrl_models.training.checkpoint import CheckpointError
from prophrl_models.training.loop import LoopOptions, Progress
from prophrl_models.trials.video import write_video
from tests.helpers.drawn_videos import RELEASE, TASK, carry

NETWORK = ClassifierConfig(("any",), frames=6, height=48, width=64, channels=(8, 16, 16, 16), token=32, layers=1)
LOOP = LoopOptions(steps=6, learning_rate=4e-3, warmup=5, ema=0.9, log_every=1, save_every=2)
SETTINGS = ClassifierTraining(batch_size=4, network=NETWORK, loop=LOOP, validation=0.25, test=0.25)
MILD = ClipOptions(blur=0.1, resample=0.1, jpeg=0.1, noise=0.1, shift_px=0.5, cut=0.4, turn_back=0.0, head=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos each of a cube that reaches the bowl and of one that the hand misses."""
    place = tmp_path_factory.mktemp("videos")
    lines = []
    for number in range(24):
        frames, _ = carry(number, moves_cube=number % 2 == 0)
        name = f"{number:02d}.mp4"
        write_video(place / name, frames, 10.0, quality=12)
        step = {"finish_step": RELEASE + 4} if number % 2 == 0 else {}
        lines.append({"video": name, "task": TASK, "success": number % 2 == 0, **step})
    (place / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_it_learns_where_the_cube_ended_from_a_few_videos(folder: Path, tmp_path: Path) -> None:
    """Hand and arm do the same in both kinds; only the cube differs."""
    loop = dataclasses.replace(LOOP, steps=200, learning_rate=2e-3, log_every=20, save_every=0)
    settings = dataclasses.replace(SETTINGS, loop=loop, clips=MILD, batch_size=6)
    out = train_classifier([(folder, None)], tmp_path, settings)
    judge = load_classifier(out)
    unseen = [(carry(100 + n, moves_cube=n % 2 == 0)[0], n % 2 == 0) for n in range(20)]
    verdicts = judge.judge([video for video, _ in unseen], [TASK] * 20)

    right = sum(verdict.success == truth for verdict, (_, truth) in zip(verdicts, unseen, strict=True))
    assert right >= 18
    cut = judge.judge([video[: RELEASE - 4] for video, _ in unseen], [TASK] * 20)
    assert sum(bool(verdict.success) for verdict in cut) <= 2
    finish = [verdict.finish_step for verdict in verdicts if verdict.success]
    assert all(step is not None and step >= RELEASE - 4 for step in finish)


def test_a_run_that_was_interrupted_follows_the_same_curve(folder: Path, tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(progress: Progress) -> None:
        if progress.step == 3:
            raise Interrupted

    straight = train_classifier([(folder, None)], tmp_path / "a", SETTINGS)
    with pytest.raises(Interrupted):
        train_classifier([(folder, None)], tmp_path / "b", SETTINGS, interrupt)
    assert (tmp_path / "b" / "resume.safetensors").is_file() and not (tmp_path / "b" / CLASSIFIER_FOLDER).exists()
    resumed = train_classifier([(folder, None)], tmp_path / "b", SETTINGS)

    assert curve(tmp_path / "a") == curve(tmp_path / "b") and len(curve(tmp_path / "a")) == 6
    for one, other in zip(*(load_classifier(f).model.state_dict().values() for f in (straight, resumed)), strict=True):
        assert torch.equal(one, other)
    assert not (tmp_path / "b" / "resume.safetensors").exists()


def test_an_interrupted_run_does_not_go_on_with_other_settings(folder: Path, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier([(folder, None)], tmp_path, SETTINGS, interrupt)
    with pytest.raises(CheckpointError, match="other data or settings"):
        train_classifier([(folder, None)], tmp_path, dataclasses.replace(SETTINGS, batch_size=2))


def test_provenance_says_what_was_held_out_and_how_it_went(folder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, loop=dataclasses.replace(LOOP, steps=1))
    record = read_provenance(train_classifier([(folder, None)], tmp_path, settings))
    videos = record["videos"]

    assert [len(videos[part]) for part in ("training", "validation", "test")] == [12, 6, 6]
    assert len({*videos["training"], *videos["validation"], *videos["test"]}) == 24
    rates = record["test"]["rates"]["all"]
    assert rates["true_success"] + rates["false_failure"] == 3
    kinds = {(row["success"], row["kind"]): row["videos"] for row in record["test"]["mistakes"]}
    assert kinds == {(True, "whole"): 3, (False, "whole"): 3, (False, "cut"): 6, (False, "turned back"): 6}


def test_videos_without_a_success_cannot_be_learnt_from(tmp_path: Path) -> None:
    (tmp_path / "failure").mkdir()
    write_video(tmp_path / "failure" / "a.mp4", carry(0)[0], 10.0)
    with pytest.raises(JudgeError, match="no successful video is left for training"):
        train_classifier([(tmp_path, TASK)], tmp_path / "out", SETTINGS)


def test_the_loss_ignores_unlabelled_frames_and_weighs_both_answers_alike() -> None:
    logit = torch.tensor([[0.3, -1.0, 2.0], [0.5, 0.1, -0.7]], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([[0, -1, 1], [0, -1, 0]], dtype=torch.int8)
    found = frame_loss(logit, label)
    found["loss"].backward()  # type: ignore[no-untyped-call]

    def entropy(x: float, y: int) -> float:
        return float(np.log1p(np.exp(-x)) if y else np.log1p(np.exp(x)))

    no = (entropy(0.3, 0) + entropy(0.5, 0) + 4 * entropy(-0.7, 0)) / 6
    assert found["loss"].item() == pytest.approx(0.5 * entropy(2.0, 1) + 0.5 * no, rel=1e-6)
    assert logit.grad is not None and (logit.grad[:, 1] == 0).all() and (logit.grad[:, 0] != 0).all()
    assert found["missed"].item() == 0.0 and found["mistaken"].item() == pytest.approx(2 / 6)
