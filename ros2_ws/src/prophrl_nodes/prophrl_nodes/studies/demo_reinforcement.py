"""The demo's second half: the trained policy plays, a world model learns what comes of it, the policy learns in that.

In the demo's folder:

play_TASK/, whole_TASK/    the policy's own attempts in the fast lane, as commanded: the bags know only successes
reinforcement/             world model, judge and reinforced policy (``imagination``)
latents/                   what the world model was trained on

The world model begins as the one that the project ships, which has seen all tasks of the twin but none of these bags.
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
from prophrl_models.rl.settings import load_settings
from prophrl_models.training.sft import SftConfig, load_config
from prophrl_nodes.launch_files.packages import SOURCE_TREE
from prophrl_nodes.studies.ablation_jobs import Job, prophrl, run_jobs
from prophrl_nodes.studies.imagination import Imagination
from prophrl_nodes.studies.reference_world import PLAY, REGION, complete

SHIPPED = SOURCE_TREE / "checkpoints" / "prophet_small"
FIRST, REINFORCED = "demonstrations", "reinforced"
ATTEMPTS, WORLD_STEPS, JUDGE_STEPS = 32, 400, 500
"""For minutes on two cores; ``prophrl rl gain`` takes the time it needs."""
REINFORCEMENT_GB = 4.0
"""Attempts, their latents, the rollouts of a step."""


class Presets(NamedTuple):
    """Settings files: of training a policy that is to act in imagination (``config/train``), and of reinforcing it."""

    training: Path
    reinforcement: Path


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
        if not (SHIPPED / PROVENANCE).is_file():
            raise FileNotFoundError(
                f"{SHIPPED} is missing, from which the demo adapts its world model: run the demo in a clone of the "
                "repository, or make one with prophrl prophet reference"
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
        plays = [self._play(kind, number) for number, kind in enumerate(PLAY)]
        return [*plays, *imagination.preparation(), imagination.reinforcement(self.first, self.seed)]

    @property
    def _imagination(self) -> Imagination:
        return Imagination(
            self.task, self.folder / "reinforcement", self.folder / "logs", self.folder / "dataset",
            tuple(self._attempts(kind) for kind in PLAY), SHIPPED, self.folder / "latents", self.presets.reinforcement,
            WORLD_STEPS, JUDGE_STEPS,
        )  # fmt: skip

    def _attempts(self, kind: str) -> Path:
        return self.folder / f"{kind}_{self.task}"

    def _play(self, kind: str, number: int) -> Job:
        out = self._attempts(kind)
        execute, calls = PLAY[kind]
        noise = load_settings(self.presets.reinforcement).rollout.noise_level
        command = prophrl(
            "trials", "play", self.first, "--task", self.task, "--attempts", ATTEMPTS, "--calls", calls,
            "--execute", execute, "--noise", noise, "--seed", 10_000 * (1 + number) + self.seed, "--out", out,
        )  # fmt: skip
        return Job(
            f"{self.task}: attempts, {execute} rows a look", command, self.folder / "logs" / f"{out.name}.log",
            lambda: complete(out), (self.first / PROVENANCE).is_file,
        )  # fmt: skip
