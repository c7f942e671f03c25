"""The small world model that the project ships, from nothing: recordings on the twin, codec, training, evaluation.

OUT/collect_TASK/              demonstrations through the leader arm, ROS 2 and RTDE
OUT/demonstrations/            those of all tasks, where the work takes place
OUT/few_N_TASK, policy_N_TASK/ policies from N of them, which succeed now and then
OUT/play_TASK, whole_TASK/     their own attempts in the fast lane, as commanded: how things go wrong
OUT/codec, OUT/latents, OUT/world/   trained on all of that
OUT/small/                     the packed checkpoint
OUT/report/                    how good it is on held-out demonstrations

With a world model given only the recordings are made, and OUT/small is a copy of it: all that ``gain`` starts from.

Held-out placements are never recorded: policies are compared on those later.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prophrl_models.data.dataset_format import is_complete
from prophrl_models.data.image import ImageRegion
from prophrl_models.prophet.checkpoint import PROVENANCE, is_prophet, read_config
from prophrl_models.prophet.codec import PROVENANCE as CODEC_PROVENANCE
from prophrl_models.serving.engine import id_of
from prophrl_nodes.collection import read_attempts
from prophrl_nodes.launch_files.packages import SOURCE_TREE
from prophrl_nodes.studies.ablation_jobs import Job, claim_study, prophrl, run_jobs
from prophrl_nodes.studies.imitation import imitation
from robot_bridge.twin.tasks import TASK_IDS

DEMONSTRATIONS, PACKED = "demonstrations", "small"
PRESET = "small"
SHIPPED = SOURCE_TREE / "checkpoints" / "prophet_small"
"""The one that was made here and comes with the project."""
REGION = (0.1875, 0.3, 0.625)
"""Part of the twin's picture (left, top, size) where all four tasks take place: a hand is 20 pixels tall there."""
PLAY = {"play": (8, 16), "whole": (20, 7)}
"""Rows until the next look, and looks. Where only whole chunks are executed, what a policy does next cannot tell the
world model how its grasp went: it has to see that itself."""


@dataclass(frozen=True)
class ReferenceWorld:
    """What is recorded and trained.

    Attributes:
        out: folder of everything.
        tasks: which tasks.
        episodes: good demonstrations of each.
        few: numbers of demonstrations that the playing policies learn from.
        play: attempts of these policies, of each task and each kind of ``PLAY``.
        codec_steps, world_steps: of the trainings; 0: as the preset says.
        seed: of placements and operators; trainings have seed 0.
        host: loopback address of the twin.
        world: a world model to take instead of training one.
    """

    out: Path
    tasks: tuple[str, ...] = TASK_IDS
    episodes: int = 24
    few: tuple[int, ...] = (5, 14)
    play: int = 64
    codec_steps: int = 0
    world_steps: int = 0
    seed: int = 0
    host: str = "127.0.0.1"
    world: Path | None = None

    def __post_init__(self) -> None:
        if not self.few or not all(0 < few <= self.episodes for few in self.few):
            raise ValueError(f"policies learn from 1..{self.episodes} demonstrations (--episodes), got {self.few}")
        if self.world and not is_prophet(self.world):
            raise ValueError(f"{self.world} is no world model's checkpoint folder (--world); one is {SHIPPED}")
        if self.world and (shown := read_config(self.world).image_region) != ImageRegion(*REGION):
            raise ValueError(
                f"{self.world} shows {shown} of the picture, the recordings would show {ImageRegion(*REGION)}: take a "
                f"world model of such recordings (--world), as {SHIPPED} is"
            )

    def run(self, say: Callable[[str], None]) -> dict[str, str]:
        """Do what is left; returns failed parts with the reason.

        Raises:
            StudyChanged: the folder holds recordings made with other numbers.
        """
        facts = {name: value for name, value in vars(self).items() if name not in ("out", "host", "world")}
        if self.world:
            facts["world"] = id_of(json.loads((self.world / PROVENANCE).read_text(encoding="utf-8")))
        claim_study(self.out, facts)
        if self.world and not is_prophet(self.out / PACKED):
            shutil.copytree(self.world, self.out / PACKED, dirs_exist_ok=True)
        return run_jobs(self.jobs(), say=say)

    def jobs(self) -> list[Job]:
        """All parts in order."""
        recordings = [self._collection(task) for task in self.tasks]
        demonstrations = self._demonstrations(recordings)
        attempts = [job for task in self.tasks for job in self._attempts(task)]
        return [*recordings, demonstrations, *attempts, *([] if self.world else self._training())]

    @property
    def demonstrations(self) -> Path:
        """The dataset of all demonstrations."""
        return self.out / DEMONSTRATIONS

    @property
    def datasets(self) -> list[Path]:
        """What codec and world model learn from, demonstrations first."""
        return [self.demonstrations, *(self.out / f"{kind}_{task}" for task in self.tasks for kind in PLAY)]

    def _collection(self, task: str) -> Job:
        folder = self.out / f"collect_{task}"

        def kept() -> int:
            return sum(attempt.accepted for attempt in read_attempts(folder / "sessions" / "session.jsonl"))

        command = prophrl(
            "launch", "collect", "cell:=twin", f"host:={self.host}", f"task:={task}", f"episodes:={self.episodes}",
            f"seed:={self._seed(task)}", f"output:={folder}",
        )  # fmt: skip
        return Job(
            f"{task}: demonstrations", command, self._log(folder.name), lambda: kept() >= self.episodes,
            step=kept, steps=self.episodes, unit="episode",
        )  # fmt: skip

    def _demonstrations(self, recordings: Sequence[Job]) -> Job:
        bags = [self.out / f"collect_{task}" / "bags" for task in self.tasks]
        region = ["--image-region", *REGION]
        return Job(
            "demonstrations as a dataset", prophrl("dataset", "build", *bags, self.demonstrations, *region),
            self._log("demonstrations"), lambda: is_complete(self.demonstrations),
            lambda: all(job.is_done() for job in recordings),
        )  # fmt: skip

    def _attempts(self, task: str) -> list[Job]:
        jobs: list[Job] = []
        policies = [self.out / f"policy_{few}_{task}" for few in self.few]
        for few, run in zip(self.few, policies, strict=True):
            jobs += self._policy(task, few, run)
        return [*jobs, *(self._play(task, kind, [run / "policy" for run in policies]) for kind in PLAY)]

    def _play(self, task: str, kind: str, checkpoints: Sequence[Path]) -> Job:
        out = self.out / f"{kind}_{task}"
        execute, calls = PLAY[kind]
        seed = self._seed(task) + list(PLAY).index(kind)
        command = prophrl(
            "trials", "play", *checkpoints, "--task", task, "--attempts", self.play, "--calls", calls,
            "--execute", execute, "--seed", seed, "--out", out,
        )  # fmt: skip
        return Job(
            f"{task}: attempts, {execute} rows a look", command, self._log(out.name), lambda: is_complete(out),
            lambda: all((checkpoint / PROVENANCE).is_file() for checkpoint in checkpoints),
        )  # fmt: skip

    def _policy(self, task: str, few: int, run: Path) -> list[Job]:
        chosen = self.out / f"few_{few}_{task}"
        return imitation(
            task, self.demonstrations, few, chosen, run, lambda folder: self._log(folder.name), 500, self.seed
        )

    def _training(self) -> list[Job]:
        codec, latents, world = (self.out / name for name in ("codec", "latents", "world"))
        checkpoint, packed, report = world / "prophet", self.out / PACKED, self.out / "report"
        codec_steps = ["--steps", self.codec_steps] if self.codec_steps else []
        world_steps = ["--steps", self.world_steps] if self.world_steps else []
        preset = ["--preset", PRESET]
        train_codec = prophrl("prophet", "codec", *self.datasets, codec, *preset, *codec_steps)
        encoded = ["--codec", codec, "--latents", latents]
        train = prophrl("prophet", "train", *self.datasets, world, *preset, *encoded, *world_steps)
        notes = {
            "rebuilt_by": self.command_line(),
            "evaluated_by": f"prophrl prophet eval {packed.name} {self.demonstrations.name} --out {report.name}",
        }
        said = [word for key, text in notes.items() for word in ("--note", f"{key}={text}")]
        pack = prophrl("prophet", "pack", checkpoint, packed, *said)
        measure = prophrl("prophet", "eval", packed, self.demonstrations, "--out", report)
        return [
            Job(
                "codec", train_codec, self._log("codec"), (codec / CODEC_PROVENANCE).is_file,
                lambda: all(is_complete(dataset) for dataset in self.datasets),
            ),
            Job(
                "world model", train, self._log("world"), lambda: is_prophet(checkpoint),
                (codec / CODEC_PROVENANCE).is_file,
            ),
            Job("packing", pack, self._log("pack"), lambda: is_prophet(packed), lambda: is_prophet(checkpoint)),
            Job(
                "evaluation", measure, self._log("evaluation"), (report / "report.html").is_file,
                lambda: is_prophet(packed),
            ),
        ]  # fmt: skip

    def _seed(self, task: str) -> int:
        return self.seed + 1000 * TASK_IDS.index(task)

    def _log(self, name: str) -> Path:
        return self.out / "logs" / f"{name}.log"

    def command_line(self) -> str:
        """What makes the same again, in any folder."""
        tasks = [] if self.tasks == TASK_IDS else [word for task in self.tasks for word in ("--task", task)]
        few = ["--few", *map(str, self.few)]
        numbers = {"--episodes": self.episodes, "--play": self.play, "--seed": self.seed}
        numbers |= {"--codec-steps": self.codec_steps, "--steps": self.world_steps}
        said = [f"{name} {number}" for name, number in numbers.items()]
        return " ".join(["prophrl prophet reference OUT", *tasks, *few, *said])
