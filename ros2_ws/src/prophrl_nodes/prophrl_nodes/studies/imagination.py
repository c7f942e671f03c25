"""From logged attempts to a reinforced policy, as resumable jobs: adapt a world model, make a judge, reinforce in it.

In HOME/:

world/             the world model, adapted to demonstrations and attempts (unless told not to)
imagined/, judge/  the attempts imagined again, and a judge that learned from both
rl_0/, rl_1/       reinforcement, a seed each
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prophrl_models.prophet.checkpoint import PROVENANCE, is_prophet
from prophrl_models.rl.settings import load_settings
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER
from prophrl_nodes.offline.stages import last_step
from prophrl_nodes.studies.ablation_jobs import Job, prophrl
from prophrl_nodes.studies.policy_ablation import is_trained
from prophrl_nodes.studies.reference_world import complete


@dataclass(frozen=True)
class Imagination:
    """What a policy is reinforced in.

    Attributes:
        name: of the task; begins the names of jobs and logs.
        home: folder of everything.
        logs: what the commands say.
        demonstrations: their dataset.
        attempts: datasets of the policy's own attempts, failures among them.
        start: the world model to adapt.
        latents: where encoded datasets are kept.
        settings: of reinforcement, a file.
        world_steps: of the adaptation; 0: the world model as it is.
        judge_steps: of the judge's training.
    """

    name: str
    home: Path
    logs: Path
    demonstrations: Path
    attempts: tuple[Path, ...]
    start: Path
    latents: Path
    settings: Path
    world_steps: int = 1000
    judge_steps: int = 1000

    @property
    def datasets(self) -> list[Path]:
        """Demonstrations first."""
        return [self.demonstrations, *self.attempts]

    @property
    def world(self) -> Path:
        """The world model that policies act in."""
        return self.home / "world" / "prophet" if self.world_steps else self.start

    @property
    def judge(self) -> Path:
        """The classifier."""
        return self.home / "judge" / "classifier"

    def run(self, seed: int) -> Path:
        """Folder of a reinforcement."""
        return self.home / f"rl_{seed}"

    def log(self, part: str) -> Path:
        return self.logs / f"{self.name}_{part}.log"

    def parts(self, policy: Path) -> list[object]:
        """Options that name policy, world, judge and settings, as ``prophrl rl run`` and ``rl enact`` take them."""
        judge = f"classifier:{self.judge}"
        return ["--policy", policy, "--world", self.world, "--judge", judge, "--config", self.settings]

    def is_judged(self) -> bool:
        """Whether world and judge are there."""
        return (self.judge / PROVENANCE).is_file()

    def preparation(self) -> list[Job]:
        """World model and judge."""
        imagined, judge = self.home / "imagined", self.home / "judge"
        adapt = prophrl(
            "prophet", "train", *self.datasets, self.home / "world", "--preset", "small_adapt", "--init", self.start,
            "--latents", self.latents, "--steps", self.world_steps,
        )  # fmt: skip
        replay = prophrl("rl", "replay", *self.attempts, imagined, "--world", self.world, "--config", self.settings)
        learn = prophrl("reward", "train", judge, *self.datasets, imagined, "--steps", self.judge_steps)
        jobs = [
            Job(
                f"{self.name}: world model", adapt, self.log("world"), lambda: is_prophet(self.world),
                lambda: complete(self.demonstrations), lambda: last_step(self.home / "world"), self.world_steps,
            ),
            Job(
                f"{self.name}: attempts imagined again", replay, self.log("imagined"), imagined.is_dir,
                lambda: is_prophet(self.world),
            ),
            Job(
                f"{self.name}: judge", learn, self.log("judge"), self.is_judged, imagined.is_dir,
                lambda: last_step(judge), self.judge_steps,
            ),
        ]  # fmt: skip
        return jobs if self.world_steps else jobs[1:]

    def reinforcement(self, policy: Path, seed: int, steps: int = 0) -> Job:
        """One run; ``steps`` 0: as many as the settings say."""
        run = self.run(seed)
        given = ["--steps", steps] if steps else []
        command = prophrl("rl", "run", *self.datasets, run, *self.parts(policy), "--seed", seed, *given)
        return Job(
            f"{self.name}: reinforcement, seed {seed}", command, self.log(f"rl_{seed}"), lambda: is_trained(run),
            self.is_judged, lambda: last_step(run), steps or load_settings(self.settings).steps,
        )  # fmt: skip

    def reinforced(self, seed: int) -> Path:
        """Checkpoint of a reinforcement."""
        return self.run(seed) / CHECKPOINT_FOLDER
