"""The small world model that the project ships, from nothing: recordings on the twin, codec, training, evaluation.

OUT/collect_TASK/        demonstrations through the leader arm, ROS 2 and RTDE, failed attempts included
OUT/few_TASK, policy_TASK/   a policy from a few of them, which succeeds now and then
OUT/play_TASK/           its own attempts through ROS, where demonstrations may begin: how things go wrong
OUT/dataset/             all of that
OUT/codec, OUT/world/    trained on it
OUT/small/               the packed checkpoint
OUT/report/              how good it is on held-out episodes

Held-out placements are never recorded: policies are compared on those later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prophrl_models.data.dataset_format import DATASET_FILE
from prophrl_models.prophet.checkpoint import PROVENANCE, is_prophet
from prophrl_models.prophet.codec import PROVENANCE as CODEC_PROVENANCE
from prophrl_models.trials.plan import TrialPlan
from prophrl_models.trials.results import ResultLog
from prophrl_nodes.collection import read_attempts
from prophrl_nodes.offline.stages import last_step
from prophrl_nodes.studies.ablation_jobs import Job, claim_study, prophrl, run_jobs
from robot_bridge.twin.tasks import TASK_IDS

PACKED = "small"
FEW_STEPS = 800
EXECUTE_LENGTH = 8


@dataclass(frozen=True)
class ReferenceWorld:
    """What is recorded and trained.

    Attributes:
        out: folder of everything.
        tasks: which tasks.
        episodes: good demonstrations of each.
        few: demonstrations that the playing policy learns from.
        play: attempts of that policy.
        codec_steps, world_steps: of the trainings; 0: as the preset says.
        seed: of placements and operators; trainings have seed 0.
        host: loopback address of the twin.
    """

    out: Path
    tasks: tuple[str, ...] = TASK_IDS
    episodes: int = 48
    few: int = 10
    play: int = 24
    codec_steps: int = 0
    world_steps: int = 0
    seed: int = 0
    host: str = "127.0.0.1"

    def run(self, say: Callable[[str], None]) -> dict[str, str]:
        """Do what is left; returns failed parts with the reason.

        Raises:
            StudyChanged: the folder holds recordings made with other numbers.
        """
        facts = {name: value for name, value in vars(self).items() if name not in ("out", "host")}
        claim_study(self.out, facts)
        return run_jobs(self.jobs(), say=say)

    def jobs(self) -> list[Job]:
        """All parts in order."""
        found: list[Job] = []
        for number, task in enumerate(self.tasks):
            found += self._recordings(task, number)
        return [*found, *self._training(found)]

    def _recordings(self, task: str, number: int) -> list[Job]:
        at = self.out
        collect, demonstrations, few = at / f"collect_{task}", at / f"demonstrations_{task}", at / f"few_{task}"
        policy, play = at / f"policy_{task}", at / f"play_{task}"
        seed = self.seed + 1000 * number

        def kept() -> int:
            return sum(attempt.accepted for attempt in read_attempts(collect / "sessions" / "session.jsonl"))

        def tried() -> int:
            if not (play / "plan.json").is_file():
                return 0
            return len(ResultLog(play / "trials.jsonl", TrialPlan.load(play / "plan.json")).valid)

        launch_collect = prophrl(
            "launch", "collect", "cell:=twin", f"host:={self.host}", f"task:={task}", f"episodes:={self.episodes}",
            f"seed:={seed}", f"output:={collect}",
        )  # fmt: skip
        launch_play = prophrl(
            "launch", "evaluate", "cell:=twin", f"host:={self.host}", f"checkpoint:={policy / 'policy'}",
            f"execute_length:={EXECUTE_LENGTH}", f"plan:={play / 'plan.json'}", f"output:={play}",
        )  # fmt: skip
        build = prophrl("dataset", "build", collect / "bags", demonstrations)
        choose = prophrl("dataset", "select", demonstrations, few, "--count", self.few, "--seed", self.seed)
        train = prophrl("train", "policy", few, policy, "--steps", FEW_STEPS)
        plan = prophrl("trials", "plan", play, "--task", task, "--trials", self.play, "--play", "--seed", seed)

        def recorded() -> bool:
            return kept() >= self.episodes

        def planned() -> bool:
            return (play / "plan.json").is_file()

        def plays() -> bool:
            return (policy / "policy" / PROVENANCE).is_file()

        logs = at / "logs"
        return [
            Job(
                f"{task}: demonstrations", launch_collect, logs / f"{task}_1.log", recorded,
                step=kept, steps=self.episodes,
            ),
            Job(f"{task}: dataset", build, logs / f"{task}_2.log", lambda: complete(demonstrations), recorded),
            Job(
                f"{task}: {self.few} of them", choose, logs / f"{task}_3.log", lambda: complete(few),
                lambda: complete(demonstrations),
            ),
            Job(
                f"{task}: a policy that plays", train, logs / f"{task}_4.log", plays, lambda: complete(few),
                step=lambda: last_step(policy), steps=FEW_STEPS,
            ),
            Job(f"{task}: placements to play from", plan, logs / f"{task}_5.log", planned),
            Job(
                f"{task}: play", launch_play, logs / f"{task}_6.log", lambda: tried() >= self.play,
                lambda: plays() and planned(), step=tried, steps=self.play,
            ),
        ]  # fmt: skip

    def _training(self, recordings: Sequence[Job]) -> list[Job]:
        at = self.out
        logs, dataset, codec, world = at / "logs", at / "dataset", at / "codec", at / "world"
        checkpoint, packed, report = world / "prophet", at / PACKED, at / "report"
        bags = [at / f"{kind}_{task}" / "bags" for task in self.tasks for kind in ("collect", "play")]
        outcomes = [word for outcome in ("success", "failure", "unknown") for word in ("--outcome", outcome)]
        codec_steps = ["--steps", self.codec_steps] if self.codec_steps else []
        world_steps = ["--steps", self.world_steps] if self.world_steps else []
        build = prophrl("dataset", "build", *bags, dataset, *outcomes, "--discarded")
        train_codec = prophrl("prophet", "codec", dataset, codec, "--preset", "small", *codec_steps)
        train = prophrl("prophet", "train", dataset, world, "--preset", "small", "--codec", codec, *world_steps)
        notes = {
            "rebuilt_by": self.command_line(),
            "evaluated_by": f"prophrl prophet eval {packed.name} {dataset.name} --out {report.name}",
        }
        said = [word for key, text in notes.items() for word in ("--note", f"{key}={text}")]
        pack = prophrl("prophet", "pack", checkpoint, packed, *said)
        measure = prophrl("prophet", "eval", packed, dataset, "--out", report)
        return [
            Job(
                "all recordings as one dataset", build, logs / "dataset.log", lambda: complete(dataset),
                lambda: all(job.is_done() for job in recordings),
            ),
            Job(
                "codec", train_codec, logs / "codec.log", (codec / CODEC_PROVENANCE).is_file,
                lambda: complete(dataset),
            ),
            Job(
                "world model", train, logs / "world.log", lambda: is_prophet(checkpoint),
                (codec / CODEC_PROVENANCE).is_file,
            ),
            Job("packing", pack, logs / "pack.log", lambda: is_prophet(packed), lambda: is_prophet(checkpoint)),
            Job(
                "evaluation", measure, logs / "evaluation.log", (report / "report.html").is_file,
                lambda: is_prophet(packed),
            ),
        ]  # fmt: skip

    def command_line(self) -> str:
        """What makes the same again, in any folder."""
        tasks = [] if self.tasks == TASK_IDS else [word for task in self.tasks for word in ("--task", task)]
        numbers = {"--episodes": self.episodes, "--few": self.few, "--play": self.play, "--seed": self.seed}
        numbers |= {"--codec-steps": self.codec_steps, "--steps": self.world_steps}
        return " ".join(["prophrl prophet reference OUT", *tasks, *(f"{name} {n}" for name, n in numbers.items())])


def complete(dataset: Path) -> bool:
    """Whether a dataset folder has been written to its end."""
    file = dataset / DATASET_FILE
    return file.is_file() and bool(json.loads(file.read_text(encoding="utf-8")).get("complete"))


def _nothing() -> int:
    """Of jobs that are too short to count."""
    return 0
