"""A policy of few demonstrations, as resumable jobs: it plays for a world model, and reinforcement starts from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prophrl_models.data.dataset_format import is_complete
from prophrl_models.prophet.checkpoint import PROVENANCE
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER
from prophrl_nodes.offline.stages import last_step
from prophrl_nodes.studies.ablation_jobs import Job, prophrl

PRESET = "imagined"


def imitation(
    task: str, demonstrations: Path, count: int, chosen: Path, run: Path, log: Callable[[Path], Path], steps: int,
    seed: int,
) -> list[Job]:  # fmt: skip
    """Choose demonstrations and learn from them.

    Args:
        demonstrations: dataset, of other tasks, too.
        count: how many of the task are chosen.
        chosen, run: folders of the two results.
        log: where the command that writes such a folder says what it does.
        steps: of training.
        seed: of the choice.
    """
    choose = prophrl("dataset", "select", demonstrations, chosen, "--task", task, "--count", count, "--seed", seed)
    train = prophrl("train", "policy", chosen, run, "--preset", PRESET, "--steps", steps)
    return [
        Job(
            f"{task}: {count} demonstrations", choose, log(chosen), lambda: is_complete(chosen),
            lambda: is_complete(demonstrations),
        ),
        Job(
            f"{task}: a policy from {count} demonstrations", train, log(run),
            (run / CHECKPOINT_FOLDER / PROVENANCE).is_file, lambda: is_complete(chosen),
            step=lambda: last_step(run), steps=steps,
        ),
    ]  # fmt: skip
