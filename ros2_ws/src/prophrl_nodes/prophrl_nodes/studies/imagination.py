"""From logged attempts to a reinforced policy, as resumable jobs: adapt a world model, make a judge, reinforce in it.

``plays`` are the logged attempts where a policy has none yet. In HOME/:

world/         the world model, adapted to demonstrations and attempts (unless told not to)
planned/       attempts planned in it, where asked for
imagined/      the attempts imagined again, for a judge of videos
judge/         a judge that learned from the planned attempts, or where there are none from the others
rl_0/, rl_1/   reinforcement, a seed each
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from prophrl_models.data.dataset_format import is_complete
from prophrl_models.prophet.checkpoint import PROVENANCE, is_prophet
from prophrl_models.rl.settings import load_settings
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER
from prophrl_nodes.offline.stages import last_step
from prophrl_nodes.studies.ablation_jobs import Job, prophrl
from prophrl_nodes.studies.policy_ablation import is_trained
from prophrl_nodes.studies.reference_world import PLAY

JudgeKind = Literal["trajectory", "video"]
JUDGED_AS: dict[JudgeKind, str] = {"trajectory": "trajectory", "video": "classifier"}
"""What such a judge is called as an argument."""


def plays(
    task: str, policy: Path, folder: Path, logs: Path, attempts: int, settings: Path, seed: int
) -> list[tuple[Path, Job]]:
    """A policy's attempts in the fast lane, with the noise that reinforcement will explore with.

    Args:
        policy: its checkpoint.
        folder: of the datasets, one for each kind of ``PLAY``.
        attempts: of each kind.
        settings: of reinforcement, a file.
        seed: of placements and noise.

    Returns:
        Each dataset with the job that makes it.
    """
    noise = load_settings(settings).rollout.noise_level
    found = []
    for number, (kind, (execute, calls)) in enumerate(PLAY.items(), start=1):
        out = folder / f"{kind}_{task}"
        command = prophrl(
            "trials", "play", policy, "--task", task, "--attempts", attempts, "--calls", calls, "--execute", execute,
            "--noise", noise, "--seed", 10_000 * number + seed, "--out", out,
        )  # fmt: skip
        job = Job(
            f"{task}: attempts, {execute} rows a look", command, logs / f"{task}_{kind}.log",
            partial(is_complete, out), (policy / PROVENANCE).is_file,
        )  # fmt: skip
        found.append((out, job))
    return found


@dataclass(frozen=True)
class Imagination:
    """What a policy is reinforced in.

    Attributes:
        name: of the task; begins the names of jobs and logs.
        home: folder of everything.
        logs: what the commands say.
        demonstrations: their dataset.
        attempts: datasets of the policy's own attempts, failures among them.
        start: the world model to adapt; None: one is trained from nothing, with a codec of its own.
        latents: where encoded datasets are kept.
        settings: of reinforcement, a file.
        world_steps: of its training; 0: the given one as it is.
        judge_steps: of the judge's training.
        judge_kind: what it looks at, "trajectory" or "video" (docs/reward.md).
        planner: the policy that plans attempts in the world model, for the judge; None: nobody does.
        planned: so many. Then the judge learns from them and the demonstrations alone: in attempts that look, commands
            tell what has happened, which those that it has to judge never do (docs/reward.md).
        planned_seed: of their placements and noise.
    """

    name: str
    home: Path
    logs: Path
    demonstrations: Path
    attempts: tuple[Path, ...]
    start: Path | None
    latents: Path
    settings: Path
    world_steps: int = 1000
    judge_steps: int = 400
    judge_kind: JudgeKind = "trajectory"
    planner: Path | None = None
    planned: int = 0
    planned_seed: int = 0

    def __post_init__(self) -> None:
        if self.start is None and self.world_steps < 1:
            raise ValueError(f"a world model from nothing needs training steps, got {self.world_steps}")

    @property
    def datasets(self) -> list[Path]:
        """Demonstrations first."""
        return [self.demonstrations, *self.attempts]

    @property
    def world(self) -> Path:
        """The world model that policies act in."""
        return self.start if self.start and not self.world_steps else self.home / "world" / "prophet"

    @property
    def judge(self) -> Path:
        """The trained judge."""
        return self.home / "judge" / "classifier"

    def run(self, seed: int) -> Path:
        """Folder of a reinforcement."""
        return self.home / f"rl_{seed}"

    def log(self, part: str) -> Path:
        return self.logs / f"{self.name}_{part}.log"

    def parts(self, policy: Path) -> list[object]:
        """Options that name policy, world, judge and settings, as ``prophrl rl run`` and ``rl enact`` take them."""
        judge = f"{JUDGED_AS[self.judge_kind]}:{self.judge}"
        return ["--policy", policy, "--world", self.world, "--judge", judge, "--config", self.settings]

    def is_judged(self) -> bool:
        """Whether the judge is there."""
        return (self.judge / PROVENANCE).is_file()

    def is_prepared(self) -> bool:
        """Whether world and judge are there."""
        return self.is_judged() and is_prophet(self.world)

    def preparation(self) -> list[Job]:
        """World model and judge."""
        begin = ["--preset", "small_adapt", "--init", self.start] if self.start else ["--preset", "small"]
        adapt = prophrl(
            "prophet", "train", *self.datasets, self.home / "world", *begin, "--latents", self.latents,
            "--steps", self.world_steps,
        )  # fmt: skip
        adapted = Job(
            f"{self.name}: world model", adapt, self.log("world"), lambda: is_prophet(self.world), self._recorded,
            lambda: last_step(self.home / "world"), self.world_steps,
        )  # fmt: skip
        return [*([adapted] if self.world_steps else []), *self._planning(), *self._judging()]

    def _planning(self) -> list[Job]:
        if self.planner is None or not self.planned:
            return []
        out, rollout = self.home / "planned", load_settings(self.settings).rollout
        execute = rollout.keep or PLAY["whole"][0]
        command = prophrl(
            "trials", "play", self.planner, "--task", self.name, "--attempts", self.planned, "--calls", rollout.calls,
            "--execute", execute, "--noise", rollout.noise_level, "--seed", self.planned_seed, "--out", out,
            "--world", self.world, "--world-precision", rollout.world_precision,
        )  # fmt: skip
        policy = self.planner
        return [
            Job(
                f"{self.name}: attempts planned in imagination", command, self.log("planned"),
                lambda: is_complete(out), lambda: is_prophet(self.world) and (policy / PROVENANCE).is_file(),
            )
        ]  # fmt: skip

    def _judging(self) -> list[Job]:
        """The judge; one of videos must know the world model's pictures, too."""
        imagined, judge = self.home / "imagined", self.home / "judge"
        videos = [imagined] if self.judge_kind == "video" else []
        planned = [self.home / "planned"] if self._planning() else []
        sources = [self.demonstrations, *planned] if planned else self.datasets
        learn = prophrl(
            "reward", "train", judge, *sources, *videos, "--kind", self.judge_kind, "--steps", self.judge_steps
        )
        learned = Job(
            f"{self.name}: judge", learn, self.log("judge"), self.is_judged,
            imagined.is_dir if videos else lambda: self._recorded() and all(map(is_complete, planned)),
            lambda: last_step(judge), self.judge_steps,
        )  # fmt: skip
        if not videos:
            return [learned]
        replay = prophrl("rl", "replay", *self.attempts, imagined, "--world", self.world, "--config", self.settings)
        replayed = Job(
            f"{self.name}: attempts imagined again", replay, self.log("imagined"), imagined.is_dir,
            lambda: is_prophet(self.world),
        )  # fmt: skip
        return [replayed, learned]

    def _recorded(self) -> bool:
        return all(is_complete(dataset) for dataset in self.datasets)

    def reinforcement(self, policy: Path, seed: int, steps: int = 0) -> Job:
        """One run; ``steps`` 0: as many as the settings say."""
        run = self.run(seed)
        given = ["--steps", steps] if steps else []
        command = prophrl("rl", "run", *self.datasets, run, *self.parts(policy), "--seed", seed, *given)
        return Job(
            f"{self.name}: reinforcement, seed {seed}", command, self.log(f"rl_{seed}"), lambda: is_trained(run),
            lambda: self.is_prepared() and (policy / PROVENANCE).is_file(),
            lambda: last_step(run), steps or load_settings(self.settings).steps,
        )  # fmt: skip

    def reinforced(self, seed: int) -> Path:
        """Checkpoint of a reinforcement."""
        return self.run(seed) / CHECKPOINT_FOLDER
