"""Does reinforcement in imagination pay on the twin? From a reference folder to paired trials, as resumable jobs.

The reference folder (``reference_world``) has demonstrations recorded through ROS, policies that learned from a few of
them, their logged attempts, and a world model. For each task, in OUT/TASK/:

demonstrations/            the task's own
few/, imitation/           some of them and the first policy, where the study trains it
play_TASK/, whole_TASK/    attempts of the first policy itself, where the study asks for them
world/                     the world model, adapted to demonstrations and attempts (unless told not to)
planned/                   attempts that the first policy planned in that world model, for a judge of trajectories
judge/                     a judge that learned from them, or from the attempts (one of videos from imagined/, too)
before/, after/            imagined rollouts of the first and of a reinforced policy, carried out on the twin
rl_0/, rl_1/               reinforcement, a seed each
fast.json                  all policies on the same placements in simulated time
trials/                    first policy and rl_0 through ROS and RTDE, interleaved and blinded, with their own report

The twin's truth is never used to train, choose or stop: it only measures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prophrl_models.data.dataset_format import DATASET_FILE, is_complete
from prophrl_models.prophet.checkpoint import PROVENANCE
from prophrl_models.rl.gain_report import write_gain_report
from prophrl_models.rl.gain_result import Gain, TaskGain
from prophrl_models.serving.engine import id_of
from prophrl_models.training.run_folder import CHECKPOINT_FOLDER
from prophrl_models.trials.plan import TrialPlan
from prophrl_nodes.studies.ablation_jobs import Job, claim_study, prophrl
from prophrl_nodes.studies.fast_summary import read_outcomes
from prophrl_nodes.studies.gain_parts import ENACTED, arm_run, log_of, robot_result, verdicts
from prophrl_nodes.studies.imagination import Imagination, JudgeKind, plays
from prophrl_nodes.studies.imitation import imitation
from prophrl_nodes.studies.policy_ablation import is_trained
from prophrl_nodes.studies.reference_world import DEMONSTRATIONS, PACKED, PLAY
from robot_bridge.twin.tasks import TASK_IDS

FIRST, REINFORCED = "first", "reinforced"
EXECUTE = 8
PLAY_SEED, PLANNED_SEED = 5000, 6000
"""Of placements and noise: no others than those of the reference's attempts by chance."""


@dataclass(frozen=True)
class GainStudy:
    """What is done.

    Attributes:
        reference: finished folder of ``prophrl prophet reference``.
        out: folder of the study.
        tasks: which tasks.
        few: demonstrations that the first policy learns from; without ``policy_steps`` one of the reference's numbers.
        policy_steps: of the first policy's training; 0: the reference's policy.
        seeds: of reinforcement.
        trials: placements in the fast lane.
        robot_trials: placements through ROS, each with both policies; 0: none.
        starts: placements of the rollouts that are carried out; 0: none.
        play: attempts that the first policy itself makes first, of each kind of ``PLAY``; 0: the reference's must do.
        planned: attempts that it plans in the adapted world model, for a judge of trajectories; 0: the others must do.
        world_steps: of the adaptation; 0: the reference's world as it is.
        judge_steps: of the judge's training.
        judge_kind: what it looks at (``imagination``).
        settings: of reinforcement, a file.
        steps: of reinforcement; 0: as the settings say.
        host: loopback address of the twin.
    """

    reference: Path
    out: Path
    settings: Path
    tasks: tuple[str, ...] = TASK_IDS
    few: int = 14
    policy_steps: int = 0
    seeds: tuple[int, ...] = (0, 1)
    trials: int = 100
    robot_trials: int = 20
    starts: int = 12
    play: int = 0
    planned: int = 0
    world_steps: int = 1000
    judge_steps: int = 400
    judge_kind: JudgeKind = "trajectory"
    steps: int = 0
    host: str = "127.0.0.1"

    def claim(self) -> None:
        """Check what the study starts from and claim its folder.

        Raises:
            FileNotFoundError: the reference folder lacks a part.
            StudyChanged: the folder holds a study with other numbers.
        """
        wanted = [self.reference / PACKED / PROVENANCE, self.reference / DEMONSTRATIONS / DATASET_FILE]
        wanted += [] if self.policy_steps else [self._first(task) / PROVENANCE for task in self.tasks]
        wanted += [file / DATASET_FILE for task in self.tasks for file in self._recorded(task)]
        missing = [str(file) for file in wanted if not file.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.reference} is no finished folder of prophrl prophet reference, or its policies learned from "
                f"other numbers of demonstrations than {self.few}; missing: {', '.join(missing)}"
            )
        facts = {
            name: value for name, value in vars(self).items() if name not in ("out", "host", "reference", "settings")
        }
        facts |= {"world": id_of(json.loads(wanted[0].read_text(encoding="utf-8")))}
        facts |= {"settings": self.settings.read_text(encoding="utf-8")}
        claim_study(self.out, facts, may_grow=("tasks", "seeds", "trials", "robot_trials", "starts"))

    def jobs(self) -> list[Job]:
        """All parts in order, task by task."""
        return [job for task in self.tasks for job in (*self._preparation(task), *self._measured(task))]

    # ---- where things are

    def _first(self, task: str) -> Path:
        home = self.out / task / "imitation" if self.policy_steps else self.reference / f"policy_{self.few}_{task}"
        return home / CHECKPOINT_FOLDER

    def _recorded(self, task: str) -> list[Path]:
        return [self.reference / f"{kind}_{task}" for kind in PLAY]

    def _plays(self, task: str) -> list[tuple[Path, Job]]:
        if not self.play:
            return []
        return plays(task, self._first(task), self.out / task, self.out / "logs", self.play, self.settings, PLAY_SEED)

    def _imagination(self, task: str) -> Imagination:
        home = self.out / task
        attempts = (*self._recorded(task), *(dataset for dataset, _ in self._plays(task)))
        return Imagination(
            task, home, self.out / "logs", home / "demonstrations", attempts,
            self.reference / PACKED, self.out / "latents", self.settings, self.world_steps, self.judge_steps,
            self.judge_kind, self._first(task), self.planned, PLANNED_SEED,
        )  # fmt: skip

    def _log(self, task: str, part: str) -> Path:
        return self.out / "logs" / f"{task}_{part}.log"

    # ---- what is done

    def _preparation(self, task: str) -> list[Job]:
        imagination = self._imagination(task)
        own = imagination.demonstrations
        select = prophrl("dataset", "select", self.reference / DEMONSTRATIONS, own, "--task", task)
        chosen = Job(f"{task}: demonstrations", select, self._log(task, "demonstrations"), lambda: is_complete(own))
        played = [job for _, job in self._plays(task)]
        return [chosen, *self._imitation(task), *played, *imagination.preparation()]

    def _imitation(self, task: str) -> list[Job]:
        if not self.policy_steps:
            return []
        home = self.out / task
        return imitation(
            task, home / DEMONSTRATIONS, self.few, home / "few", home / "imitation",
            lambda folder: self._log(task, folder.name), self.policy_steps, seed=0,
        )  # fmt: skip

    def _measured(self, task: str) -> list[Job]:
        imagination, first = self._imagination(task), self._first(task)
        runs = [imagination.run(seed) for seed in self.seeds]
        jobs = [imagination.reinforcement(first, seed, self.steps) for seed in self.seeds]
        if self.starts:
            jobs.insert(0, self._enacted(imagination, "before", first))
            jobs.append(self._enacted(imagination, "after", imagination.reinforced(self.seeds[0])))
        return [*jobs, self._fast(task, runs), *(self._robot(task, runs[0]) if self.robot_trials else [])]

    def _enacted(self, imagination: Imagination, when: str, policy: Path) -> Job:
        out, task = imagination.home / when, imagination.name
        command = prophrl("rl", "enact", out, "--task", task, *imagination.parts(policy), "--starts", self.starts)
        return Job(
            f"{task}: imagined rollouts carried out, {when}", command, self._log(task, when), (out / ENACTED).is_file,
            lambda: imagination.is_prepared() and (policy / PROVENANCE).is_file(),
        )  # fmt: skip

    def _fast(self, task: str, runs: Sequence[Path]) -> Job:
        file = self.out / task / "fast.json"
        policies = [f"{FIRST}={self._first(task)}", *(f"{REINFORCED}={run / CHECKPOINT_FOLDER}" for run in runs)]
        command = prophrl(
            "trials", "fast", *policies, "--task", task, "--trials", self.trials, "--execute", EXECUTE, "--videos", 3,
            "--out", file,
        )  # fmt: skip
        log = file.with_suffix(".jsonl")
        return Job(
            f"{task}: trials in simulated time", command, self._log(task, "fast"),
            lambda: self._outcomes(task) is not None, lambda: all(is_trained(run) for run in runs),
            lambda: log.read_bytes().count(b"\n") if log.is_file() else 0, self.trials * len(policies), "trial",
        )  # fmt: skip

    def _robot(self, task: str, run: Path) -> list[Job]:
        folder = self.out / task / "trials"
        plan = folder / "plan.json"
        named = f"{FIRST}='{self._first(task).resolve()}' {REINFORCED}='{(run / CHECKPOINT_FOLDER).resolve()}'"
        fix = prophrl(
            "trials", "plan", folder, "--task", task, "--trials", self.robot_trials, "--policy", FIRST, "--policy",
            REINFORCED,
        )  # fmt: skip
        act = prophrl(
            "launch", "evaluate", "cell:=twin", f"host:={self.host}", f"policies:={named}", f"plan:={plan}",
            f"execute_length:={EXECUTE}", f"output:={folder}",
        )  # fmt: skip

        def done() -> int:
            log = log_of(folder)
            return len(log.valid) if log else 0

        return [
            Job(f"{task}: plan of the trials", fix, self._log(task, "plan"), plan.is_file, lambda: is_trained(run)),
            Job(
                f"{task}: trials through ROS", act, self._log(task, "robot"),
                lambda: plan.is_file() and done() >= len(TrialPlan.load(plan).trials), plan.is_file,
                done, 2 * self.robot_trials, "trial",
            ),
            Job(
                f"{task}: report of the trials", prophrl("trials", "report", folder), self._log(task, "report"),
                (folder / "report.html").is_file,
                lambda: plan.is_file() and done() >= len(TrialPlan.load(plan).trials),
            ),
        ]  # fmt: skip

    # ---- what came of it

    def measured(self) -> bool:
        """Whether a task's trials are done."""
        return any(self._outcomes(task) is not None for task in self.tasks)

    def result(self, failed: Mapping[str, str]) -> Gain:
        """What is measured so far.

        Raises:
            ValueError: no task is.
        """
        found = {task: self._gain(task) for task in self.tasks}
        missing = tuple(task for task, gain in found.items() if gain is None)
        return Gain(tuple(gain for gain in found.values() if gain is not None), missing, dict(failed))

    def write(self, failed: Mapping[str, str]) -> Path:
        """Write the page of what is measured so far; errors as ``result``."""
        provenance = {
            "reference": f"{self.reference.name}, first policies from {self.few} demonstrations"
            + (f" in {self.policy_steps} steps" if self.policy_steps else ""),
            "world model": f"{PACKED}, adapted in {self.world_steps} steps" if self.world_steps else PACKED,
            "reinforcement": f"{self.settings.name}, {self.steps or 'its own'} steps, "
            f"seeds {', '.join(map(str, self.seeds))}",
            "trials": f"{self.trials} placements in simulated time, {self.robot_trials} through ROS",
        }
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return write_gain_report(self.result(failed), self.out, provenance=provenance, created_at=now)

    def _outcomes(self, task: str) -> list[tuple[bool, ...]] | None:
        """Of the first policy and of each seed's, of exactly these checkpoints; None where trials are missing."""
        file = self.out / task / "fast.json"
        policies = [self._first(task), *(self._imagination(task).reinforced(seed) for seed in self.seeds)]
        if not file.is_file() or not all((policy / PROVENANCE).is_file() for policy in policies):
            return None
        known = read_outcomes(file, task)
        found = [known.get(id_of(json.loads((p / PROVENANCE).read_text(encoding="utf-8")))) for p in policies]
        whole = [tuple(outcomes) for outcomes in found if outcomes is not None and len(outcomes) == self.trials]
        return whole if len(whole) == len(policies) else None

    def _gain(self, task: str) -> TaskGain | None:
        outcomes = self._outcomes(task)
        if outcomes is None:
            return None
        runs = tuple(
            arm_run(self._imagination(task).run(seed), seed, trials, self.out)
            for seed, trials in zip(self.seeds, outcomes[1:], strict=True)
        )
        found = {name: read for name in ("before", "after") if (read := verdicts(self.out / task / name))}
        robot, rates = robot_result(self.out / task / "trials", FIRST, REINFORCED)
        return TaskGain(task, outcomes[0], runs, robot, rates, found)
