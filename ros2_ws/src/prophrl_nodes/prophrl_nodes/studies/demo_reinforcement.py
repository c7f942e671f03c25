"""The demo's second half: the trained policy plays, a world model learns what comes of it, the policy learns in that.

In the demo's folder:

play_TASK/, whole_TASK/    the policy's own attempts in the fast lane, as commanded: the bags know only successes
reinforcement/             world model, attempts planned in it, judge and reinforced policy (``imagination``)
latents/                   what the world model was trained on

The world model begins as the one that the project ships, which has seen all tasks of the twin but none of these bags;
or (``FROM_NOTHING``) as noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from prophrl_models.data.dataset_format import DatasetHeader
from prophrl_models.data.image import ImageRegion
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.prophet.checkpoint import PROVENANCE
from prophrl_models.training.sft import SftConfig, load_config
from prophrl_nodes.studies.ablation_jobs import Job, run_jobs
from prophrl_nodes.studies.imagination import Imagination, plays
from prophrl_nodes.studies.reference_world import PLAY, REGION, SHIPPED

FIRST, REINFORCED = "demonstrations", "reinforced"
REINFORCEMENT_GB = 1.5
"""The rollouts of a step, the judge's data, checkpoints."""
ATTEMPT_GB = 0.04
"""An attempt and its latents."""


PLANNED_SEED = 6000
"""Placements and noise of planned attempts are not those of the others."""


class Effort(NamedTuple):
    """How much is done.

    Attributes:
        start: the world model to adapt; None: one is trained from nothing.
        attempts: of each kind of ``PLAY``, for the world model.
        planned: attempts that the policy plans in the world model, for the judge.
        world_steps, judge_steps: of their trainings.
    """

    start: Path | None
    attempts: int
    planned: int
    world_steps: int
    judge_steps: int

    @property
    def need_gb(self) -> float:
        """Room on the disk."""
        return REINFORCEMENT_GB + (len(PLAY) * self.attempts + self.planned) * ATTEMPT_GB


MINUTES = Effort(SHIPPED, 32, 96, 400, 200)
"""For a quarter of an hour on two cores; ``prophrl rl gain`` takes the time it needs."""
FROM_NOTHING = Effort(None, 128, 256, 4000, 400)
"""Nothing that the project ships is used."""


class Presets(NamedTuple):
    """Settings files: of training a policy that is to act in imagination (``config/train``), and of reinforcing it."""

    training: Path
    reinforcement: Path
    effort: Effort = MINUTES


class ReinforcementFailed(RuntimeError):
    """A part did not come to its end; the message names it and its log."""


@dataclass(frozen=True)
class DemoReinforcement:
    """What is done with the policy.

    Attributes:
        folder: the demo's.
        task: what the policy does.
        presets: how it learns.
        seed: of attempts and reinforcement.
    """

    folder: Path
    task: str
    presets: Presets
    seed: int

    def check(self) -> None:
        """Refuse at the door.

        Raises:
            FileNotFoundError: the shipped world model is not there.
        """
        start = self.presets.effort.start
        if start and not (start / PROVENANCE).is_file():
            raise FileNotFoundError(
                f"{start} is missing, from which the demo adapts its world model: run the demo in a clone of the "
                "repository, or with --full 1, which makes one from nothing"
            )

    @property
    def header(self) -> DatasetHeader:
        """The demonstrations' dataset shows what the world model shows."""
        return DatasetHeader(sync=SyncSpec(image_region=ImageRegion(*REGION)))

    @property
    def training(self) -> SftConfig:
        """How a policy that is to act in imagination learns."""
        return load_config(self.presets.training)

    @property
    def first(self) -> Path:
        """The policy that learned from demonstrations."""
        return self.folder / "training" / "policy"

    @property
    def reinforced(self) -> Path:
        """What reinforcement made of it."""
        return self._imagination.reinforced(self.seed)

    def run(self, say: Callable[[str], None]) -> None:
        """Do what is left.

        Raises:
            ReinforcementFailed: a part failed.
        """
        failed = run_jobs(self.jobs(), say=say)
        for name, why in failed.items():
            raise ReinforcementFailed(f"{name}: {why}")

    def jobs(self) -> list[Job]:
        """All parts in order."""
        imagination = self._imagination
        attempts = [job for _, job in self._plays]
        return [*attempts, *imagination.preparation(), imagination.reinforcement(self.first, self.seed)]

    @property
    def _plays(self) -> list[tuple[Path, Job]]:
        presets = self.presets
        return plays(
            self.task, self.first, self.folder, self.folder / "logs", presets.effort.attempts, presets.reinforcement,
            self.seed,
        )  # fmt: skip

    @property
    def _imagination(self) -> Imagination:
        effort = self.presets.effort
        return Imagination(
            self.task, self.folder / "reinforcement", self.folder / "logs", self.folder / "dataset",
            tuple(dataset for dataset, _ in self._plays), effort.start, self.folder / "latents",
            self.presets.reinforcement, effort.world_steps, effort.judge_steps, planner=self.first,
            planned=effort.planned, planned_seed=PLANNED_SEED + self.seed,
        )  # fmt: skip
