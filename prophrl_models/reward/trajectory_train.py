"""Train a classifier of trajectories on datasets with outcomes.

OUT/                     the folder given as ``out_dir``
    classifier/          the judge, written when training has finished
    log.jsonl            one line for every few steps
    resume.safetensors   only while training is unfinished; the next call goes on from it
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prophrl_models.data.dataset import Dataset
from prophrl_models.reward.calibration import Decision, choose_threshold, fit_temperature
from prophrl_models.reward.classifier_data import NOT_DONE, split
from prophrl_models.reward.classifier_files import save_classifier
from prophrl_models.reward.classifier_train import CLASSIFIER_FOLDER, frame_loss
from prophrl_models.reward.frames import sample_indices
from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.measure import Judged, summary
from prophrl_models.reward.trajectory import Trajectory
from prophrl_models.reward.trajectory_classifier import TrajectoryClassifier, TrajectoryConfig
from prophrl_models.reward.trajectory_data import LabelledTrajectory, labelled_trajectories
from prophrl_models.reward.trajectory_judge import TrajectoryClassifierJudge, looked_at
from prophrl_models.training.loop import Loop, LoopOptions, Progress

WHOLE, MOVED = "whole", "moved"
LEAST_TOLD = 10
"""Successes, and failures, of a task from which a threshold can be chosen without demonstrations."""
MOVED_M = (0.06, 0.15)
"""How far a motion is moved so that it certainly misses: more than half of a gripper's stroke and an object's width."""


@dataclass(frozen=True)
class TrajectoryTraining:
    """One training run.

    Attributes:
        batch_size: trajectories of a step, for each member of the network.
        validation, test: shares of the episodes of each task and outcome that are held out (``divided``); the threshold
            is chosen on validation, test says how good the judge is.
        wanted_precision: of the threshold, on validation, unless it costs too much (``calibration.choose_threshold``).
        made: share of the failures that are successes moved elsewhere; all of them where none was recorded.
        other_task: share of successes that are shown with another task's instruction.
        gain: standard deviation of relative brightness and contrast.
        jitter: standard deviation of what is added to the motion.
        seed: of split and initialisation; ``loop.seed`` is that of the batches.
        threads: CPU threads; 0 leaves torch's own choice.
        network: architecture; its tasks are replaced by those of the episodes.
        loop: see there.
    """

    batch_size: int = 16
    validation: float = 0.15
    test: float = 0.15
    wanted_precision: float = 0.9
    made: float = 0.2
    other_task: float = 0.05
    gain: float = 0.1
    jitter: float = 0.02
    seed: int = 0
    threads: int = 0
    network: TrajectoryConfig = field(default_factory=lambda: TrajectoryConfig(tasks=("any",)))
    loop: LoopOptions = field(
        default_factory=lambda: LoopOptions(steps=400, learning_rate=1e-3, weight_decay=0.05, ema=0.99)
    )


def train_trajectory_classifier(
    sources: Sequence[Path],
    out_dir: str | Path,
    config: TrajectoryTraining | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: str = "cpu",
) -> Path:
    """Train, calibrate and measure a classifier; an interrupted run goes on where it stopped.

    Args:
        sources: dataset folders.
        out_dir: the run's folder.

    Returns:
        The classifier's folder. Its provenance holds what was measured on the held-out episodes.

    Raises:
        JudgeError: no usable episode, no success among them, or too few to hold any out.
        CheckpointError: the run's resume file belongs to other episodes or settings.
    """
    config = config or TrajectoryTraining()
    if config.threads:
        torch.set_num_threads(config.threads)
    datasets = [list(labelled_trajectories(Dataset(source))) for source in sources]
    found = [each for dataset in datasets for each in dataset]
    training, validation, test = divided(datasets, config)
    for name, part in (("training", training), ("validation", validation)):
        if not any(each.success for each in part):
            raise JudgeError(
                f"no successful episode is left for {name}: {len(found)} gapless ones with outcome and camera were "
                f"found, {sum(each.success for each in found)} of them successes; add some"
            )
    tasks = tuple(sorted({each.task for each in found}))
    torch.manual_seed(config.seed)
    model = TrajectoryClassifier(dataclasses.replace(config.network, tasks=tasks)).to(device)
    loop = Loop(model, config.loop, Path(out_dir), _fingerprint(found, config))
    loop.resume()
    loop.run(_step(model, training, config), progress)
    loop.average.copy_to(model)
    model.eval()
    decision = _decide(model, validation, config.wanted_precision)
    judge = TrajectoryClassifierJudge(model, decision)
    parts = {"training": training, "validation": validation, "test": test}
    provenance = {
        "videos_hash": _hash(found),
        "videos": {name: sorted({e.id for e in part} | {e.recording for e in part}) for name, part in parts.items()},
        "settings": dataclasses.asdict(config),
        "validation": summary(judge_trajectories(judge, validation)),
        "test": summary(judge_trajectories(judge, test)) if test else None,
    }
    folder = save_classifier(Path(out_dir) / CLASSIFIER_FOLDER, model, decision, provenance)
    loop.remove_resume_file()
    return folder


def divided(
    datasets: Sequence[Sequence[LabelledTrajectory]], config: TrajectoryTraining
) -> tuple[list[LabelledTrajectory], list[LabelledTrajectory], list[LabelledTrajectory]]:
    """Episodes for training, validation and test (``classifier_data.split``).

    A task's successes in a dataset without any failure of it, demonstrations for example, are only learned from where
    the other datasets hold ``LEAST_TOLD`` of each outcome: they look different in more than their outcome, so a
    threshold that was chosen with them would be too high for the attempts that are to be judged.
    """
    told: list[LabelledTrajectory] = []
    alike: list[LabelledTrajectory] = []
    for dataset in datasets:
        failed = {each.task for each in dataset if not each.success}
        for each in dataset:
            (told if each.task in failed else alike).append(each)
    counts = Counter((each.task, each.success) for each in told)
    enough = {task for task, _ in counts if min(counts[task, True], counts[task, False]) >= LEAST_TOLD}
    told += [each for each in alike if each.task not in enough]
    training, validation, test = split(told, config.validation, config.test, config.seed)
    held_out = {each.recording for each in (*validation, *test)}
    learned = [each for each in alike if each.task in enough and each.recording not in held_out]
    return [*training, *learned], validation, test


def judge_trajectories(
    judge: TrajectoryClassifierJudge, found: Sequence[LabelledTrajectory], *, made: bool = False
) -> list[Judged]:
    """Verdicts on episodes as they were; with ``made`` also on each success moved elsewhere, the same way each time."""
    shown = [(WHOLE, each, each.trajectory, each.success) for each in found]
    if made:
        for number, each in enumerate(each for each in found if each.success):
            shown.append((MOVED, each, _moved(each, np.random.default_rng(number)), False))
    verdicts = judge.judge_trajectories([row[2] for row in shown], [row[1].task for row in shown])
    return [
        Judged(each.id, kind, each.task, success, verdict)
        for (kind, each, _, success), verdict in zip(shown, verdicts, strict=True)
    ]


def _step(
    model: TrajectoryClassifier, found: Sequence[LabelledTrajectory], config: TrajectoryTraining
) -> Callable[[int, torch.Generator], dict[str, Tensor]]:
    device = next(model.parameters()).device
    others = {each.task: [t for t in model.config.tasks if t != each.task] for each in found}
    successes, failures = ([each for each in found if each.success == outcome] for outcome in (True, False))

    def drawn(wanted: bool, rng: np.random.Generator) -> tuple[LabelledTrajectory, bool]:
        """An episode, and whether it is to be moved."""
        move = not wanted and (not failures or rng.random() < config.made)
        pool = successes if wanted or move else failures
        return pool[int(rng.integers(len(pool)))], move

    def batch(rng: np.random.Generator) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """What the network is shown, and the labels [B, T]."""
        seen, motions, labels, tasks = [], [], [], []
        for row in range(config.batch_size):
            each, move = drawn(row % 2 == 0, rng)
            trajectory = _moved(each, rng) if move else each.trajectory
            index_T = sample_indices(len(each.label_T), model.config.frames)
            shown, motion_TF = looked_at(trajectory, index_T, model.config)
            label_T = np.pad(each.label_T[index_T], (0, model.config.frames - len(index_T)), mode="edge")
            task = each.task
            if others[task] and rng.random() < config.other_task:
                task, move = str(rng.choice(others[task])), True
            labels.append(np.full_like(label_T, NOT_DONE) if move else label_T)
            seen.append(_in_other_light(_from_behind(shown) if rng.random() < 0.5 else shown, config.gain, rng))
            motions.append(motion_TF + rng.normal(0.0, config.jitter, motion_TF.shape).astype(np.float32))
            tasks.append(task)
        views_B, motion_B, label_BT = (torch.from_numpy(np.stack(x)).to(device) for x in (seen, motions, labels))
        return (views_B, motion_B, model.task_numbers(tasks).to(device)), label_BT

    def loss(_: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean over the members, each with a batch of its own: what is chance in one is not in the others."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
        parts = []
        for member in model.members:
            shown, label_BT = batch(rng)
            parts.append(frame_loss(member(*shown), label_BT))
        return {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}

    return loss


def _moved(each: LabelledTrajectory, rng: np.random.Generator) -> Trajectory:
    way_m, angle = rng.uniform(*MOVED_M), rng.uniform(-np.pi, np.pi)
    return each.trajectory.moved(way_m * np.cos(angle), way_m * np.sin(angle))


def _from_behind(views_TVV6: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a gripper sees that came turned by half a turn, which does the same: ``motion`` does not tell them apart."""
    return views_TVV6[:, ::-1, ::-1]


def _in_other_light(views_TVV6: NDArray[np.uint8], gain: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another exposure, contrast and tint, and a pixel to the side: cells are calibrated to about that."""
    tint_6 = np.tile(1.0 + gain * (rng.standard_normal() + 0.5 * rng.standard_normal(3)), 2)
    contrast = 1.0 + gain * rng.standard_normal()
    image = (views_TVV6.astype(np.float32) - 112.0) * contrast + 112.0 * tint_6.astype(np.float32)
    lit: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return np.roll(lit, (int(rng.integers(-1, 2)), int(rng.integers(-1, 2))), (1, 2))


def _decide(model: TrajectoryClassifier, found: Sequence[LabelledTrajectory], wanted_precision: float) -> Decision:
    judge = TrajectoryClassifierJudge(model, Decision())
    truth = np.array([each.success for each in found])
    rows = judge.logits([each.trajectory for each in found], [each.task for each in found])
    logit: NDArray[np.float64] = np.array([row[-1] for row in rows])
    temperature = fit_temperature(logit, truth)
    return Decision(temperature, choose_threshold(Decision(temperature).probability(logit), truth, wanted_precision))


def _fingerprint(found: Sequence[LabelledTrajectory], config: TrajectoryTraining) -> str:
    settings = dataclasses.asdict(config)
    settings.pop("threads")
    for harmless in ("log_every", "save_every", "tensorboard"):
        settings["loop"].pop(harmless)
    return hashlib.sha256(json.dumps([settings, _hash(found)], sort_keys=True).encode()).hexdigest()


def _hash(found: Sequence[LabelledTrajectory]) -> str:
    digest = hashlib.sha256()
    for each in found:
        digest.update(f"{each.id} {each.task} {each.success}".encode())
        digest.update(each.trajectory.state_T7.tobytes())
        digest.update(each.label_T.tobytes())
    return digest.hexdigest()
