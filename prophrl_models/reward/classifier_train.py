"""Train a success classifier on demonstrations and labelled videos.

OUT/                     the folder given as ``out_dir``
    classifier/          the judge, written when training has finished
    log.jsonl            one line for every few steps
    clips/               the videos at the classifier's size
    resume.safetensors   only while training is unfinished; the next call goes on from it
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from prophrl_models.reward.calibration import Decision, choose_threshold, fit_temperature
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_clips import ClipOptions, draw_clip, spoil
from prophrl_models.reward.classifier_data import (
    DONE,
    NOT_DONE,
    LabelledVideo,
    SmallVideos,
    labelled_videos,
    split,
)
from prophrl_models.reward.classifier_files import save_classifier
from prophrl_models.reward.classifier_judge import ClassifierJudge
from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.measure import judge_all, summary, trials
from prophrl_models.training.loop import Loop, LoopOptions, Progress

CLASSIFIER_FOLDER = "classifier"
LAST_FRAME_WEIGHT = 4.0
"""The last frame's label is the verdict's; it weighs as much as four others."""


@dataclass(frozen=True)
class ClassifierTraining:
    """One training run.

    Attributes:
        batch_size: clips of a step.
        validation, test: shares of the videos of each task and outcome that are held out; the threshold is chosen on
            validation, test says how good the judge is.
        wanted_precision: of the threshold, on validation, unless it costs too much (``calibration.choose_threshold``).
        seed: of split and initialisation; ``loop.seed`` is that of the batches.
        threads: CPU threads; 0 leaves torch's own choice.
        network: architecture; its tasks are replaced by those of the videos.
        clips, loop: see there.
    """

    batch_size: int = 8
    validation: float = 0.15
    test: float = 0.15
    wanted_precision: float = 0.97
    seed: int = 0
    threads: int = 0
    network: ClassifierConfig = field(default_factory=lambda: ClassifierConfig(tasks=("any",)))
    clips: ClipOptions = field(default_factory=ClipOptions)
    loop: LoopOptions = field(
        default_factory=lambda: LoopOptions(steps=1500, learning_rate=1e-3, weight_decay=0.02, ema=0.995)
    )


def train_classifier(
    sources: Sequence[tuple[Path, str | None]],
    out_dir: str | Path,
    config: ClassifierTraining | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: str = "cpu",
) -> Path:
    """Train, calibrate and measure a classifier; an interrupted run goes on where it stopped.

    Args:
        sources: dataset folders or folders of labelled videos, each with the instruction of videos that do not say.
        out_dir: the run's folder.

    Returns:
        The classifier's folder. Its provenance holds what was measured on the held-out videos.

    Raises:
        JudgeError: no usable video, no success among them, or too few to hold any out.
        CheckpointError: the run's resume file belongs to other videos or settings.
    """
    config = config or ClassifierTraining()
    out_dir = Path(out_dir)
    if config.threads:
        torch.set_num_threads(config.threads)
    store = SmallVideos(out_dir / "clips", config.network.height, config.network.width)
    videos = [video for place, task in sources for video in labelled_videos(place, store, task)]
    training, validation, test = _split(videos, config)
    tasks = tuple(sorted({video.task for video in videos}))
    torch.manual_seed(config.seed)
    model = SuccessClassifier(dataclasses.replace(config.network, tasks=tasks)).to(device)
    loop = Loop(model, config.loop, out_dir, _fingerprint(videos, config))
    loop.resume()
    loop.run(_step(model, training, config), progress)
    loop.average.copy_to(model)
    model.eval()
    decision = _decide(model, validation, config)
    judge = ClassifierJudge(model, decision)
    parts = {"training": training, "validation": validation, "test": test}
    provenance = {
        "videos_hash": _videos_hash(videos),
        "videos": {name: sorted({v.id for v in part} | {v.recording for v in part}) for name, part in parts.items()},
        "settings": dataclasses.asdict(config),
        "validation": summary(judge_all(judge, validation)),
        "test": summary(judge_all(judge, test)) if test else None,
    }
    folder = save_classifier(out_dir / CLASSIFIER_FOLDER, model, decision, provenance)
    loop.remove_resume_file()
    return folder


def _split(
    videos: Sequence[LabelledVideo], config: ClassifierTraining
) -> tuple[list[LabelledVideo], list[LabelledVideo], list[LabelledVideo]]:
    parts = split(videos, config.validation, config.test, config.seed)
    for name, part in zip(("training", "validation"), parts, strict=False):
        if not any(video.success for video in part):
            raise JudgeError(
                f"no successful video is left for {name}: {len(videos)} labelled videos were found, "
                f"{sum(video.success for video in videos)} of them successes; add some"
            )
    return parts


def _step(
    model: SuccessClassifier, videos: Sequence[LabelledVideo], config: ClassifierTraining
) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    device = next(model.parameters()).device
    others = {video.task: [t for t in model.config.tasks if t != video.task] for video in videos}
    by_outcome = [[v for v in videos if v.success == outcome] for outcome in (True, False)]

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
        clips, labels, tasks = [], [], []
        for row in range(config.batch_size):
            # Where there are real failures, every second clip is one: they are worth more than made ones.
            pool = by_outcome[row % 2] or by_outcome[0]
            video = pool[int(rng.integers(len(pool)))]
            frames, label_T = draw_clip(video, model.config.frames, config.clips, rng)
            task = video.task
            if others[task] and rng.random() < config.clips.other_task:
                task, label_T = str(rng.choice(others[task])), np.full_like(label_T, NOT_DONE)
            clips.append(spoil(frames, config.clips, rng))
            labels.append(label_T)
            tasks.append(task)
        logit_BT = model(torch.from_numpy(np.stack(clips)).to(device), model.task_numbers(tasks).to(device))
        return frame_loss(logit_BT, torch.from_numpy(np.stack(labels)).to(device))

    return loss


def frame_loss(logit_BT: Tensor, label_BT: Tensor) -> dict[str, Tensor]:
    """Cross-entropy over the labelled frames, with equal weight on done and not done; ``loss`` and two error rates."""
    weight = torch.ones_like(logit_BT)
    weight[:, -1] = LAST_FRAME_WEIGHT
    total, said = logit_BT.new_zeros(()), {}
    entropy = F.binary_cross_entropy_with_logits(logit_BT, (label_BT == DONE).float(), reduction="none")
    for name, value in (("missed", DONE), ("mistaken", NOT_DONE)):
        chosen = weight * (label_BT == value)
        share = chosen.sum().clamp_min(1.0)
        total = total + 0.5 * (entropy * chosen).sum() / share
        wrong = (logit_BT > 0) != (label_BT == DONE)
        said[name] = (wrong * chosen).sum() / share
    return {"loss": total, **said}


def _decide(model: SuccessClassifier, videos: Sequence[LabelledVideo], config: ClassifierTraining) -> Decision:
    """Temperature and threshold from validation videos, sharp and spoilt alike: imagined videos are blurred."""
    made, judge = [trial for video in videos for trial in trials(video)], ClassifierJudge(model, Decision())
    rng = np.random.default_rng(config.seed)
    clips = [t.frames_THW3 for t in made] + [spoil(t.frames_THW3, config.clips, rng) for t in made]
    truth = np.array([t.success for t in made] * 2)
    logit: NDArray[np.float64] = np.array([row[-1] for row in judge.logits(clips, [t.task for t in made] * 2)])
    temperature = fit_temperature(logit, truth)
    probability = Decision(temperature).probability(logit)
    return Decision(temperature, choose_threshold(probability, truth, config.wanted_precision))


def _fingerprint(videos: Sequence[LabelledVideo], config: ClassifierTraining) -> str:
    settings = dataclasses.asdict(config)
    settings.pop("threads")
    for harmless in ("log_every", "save_every", "tensorboard"):
        settings["loop"].pop(harmless)
    text = json.dumps([settings, _videos_hash(videos)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _videos_hash(videos: Sequence[LabelledVideo]) -> str:
    digest = hashlib.sha256()
    for video in videos:
        digest.update(f"{video.id} {video.task} {video.success} {video.frames_THW3.shape} {video.shows}".encode())
        digest.update(video.label_T.tobytes())
    return digest.hexdigest()
