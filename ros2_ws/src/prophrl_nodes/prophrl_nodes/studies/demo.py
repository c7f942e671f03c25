"""`make demo`: the whole pipeline on the digital twin, from an empty table to a report.

Cell up, demonstrations through the leader arm and ROS 2, bags, dataset, a small flow policy, trials at held-out
placements, report. With reinforcement the policy also learns in a world model's imagination (``demo_reinforcement``),
and the trials compare both policies, interleaved and blinded. Nothing is pre-recorded. Interrupted with Ctrl-C it goes
on where it stopped; a finished run is moved aside, never overwritten.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from prophrl_nodes.studies.ablation_jobs import claim_study
from prophrl_nodes.studies.demo_reinforcement import FIRST, REINFORCED, DemoReinforcement, Presets
from prophrl_nodes.studies.progress import progress_bar
from prophrl_nodes.studies.stages import launch_command, run_stage
from robot_bridge.twin.tasks import get_task, held_out_placements

REPORT = "report.html"
SESSION_LOG, TRIAL_LOG = Path("sessions/session.jsonl"), Path("trials/trials.jsonl")
EXECUTE_LENGTH = 8
"""Actions of each chunk that are executed before the policy looks again: 0.8 of its 2 s."""

DEMONSTRATION_GB, TRIAL_GB, SPARE_GB = 0.24, 0.16, 3.0
"""Measured: a demonstration's bag and its part of the dataset; a trial's bag; what recorder and training want free."""


class DemoRefused(ValueError):
    """The demo would not come to its end; the message says what to change."""


@dataclass(frozen=True)
class DemoOptions:
    """What to run.

    Attributes:
        trials: placements; each is tried with every policy.
        reinforcement: how the policy is reinforced; None: it is not.
        host, domain_id: keep two demos on one machine apart.
    """

    task: str = "place_cube"
    episodes: int = 30
    trials: int = 20
    output: Path = Path("runs/demo")
    headless: bool = True
    host: str = "127.0.0.1"
    domain_id: int | None = None
    seed: int = 0
    reinforcement: Presets | None = None

    @property
    def policies(self) -> int:
        """How many are tried."""
        return 1 if self.reinforcement is None else 2

    @property
    def reinforced(self) -> str:
        """Whether, and in what."""
        if self.reinforcement is None:
            return "no"
        return "in the shipped world model" if self.reinforcement.effort.start else "in a world model from nothing"


class Demo:
    """The stages, each resumable.

    Raises:
        DemoRefused: what is left to record does not fit on the disk.
        StudyChanged: the folder holds an interrupted demo of another kind.
    """

    def __init__(self, options: DemoOptions) -> None:
        self.options = options
        self.task = get_task(options.task)
        check_disk(options)
        self.folder = _fresh_folder(options.output)
        claim_study(self.folder, {"task": self.task.id, "seed": options.seed, "reinforced": options.reinforced})
        self.logs = self.folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / "training" / "policy"
        self.timings_s: dict[str, float] = {}
        self.reinforcement: DemoReinforcement | None = None
        if options.reinforcement is not None:
            self.reinforcement = DemoReinforcement(self.folder, self.task.id, options.reinforcement, options.seed)
            self.reinforcement.check()

    def run(self) -> Path:
        """Run what is left to do; returns the report's path."""
        stages = [
            ("collect", self.collect),
            ("dataset", self.build_dataset),
            ("train", self.train),
            *([("reinforce", self.reinforce)] if self.reinforcement else []),
            ("evaluate", self.evaluate),
            ("report", self.report),
        ]
        for number, (name, stage) in enumerate(stages, start=1):
            print(f"[{number}/{len(stages)}] {name}: {(stage.__doc__ or '').splitlines()[0]}", flush=True)
            start = time.monotonic()
            stage()
            self.timings_s[name] = time.monotonic() - start
        return self.folder / REPORT

    # ---- stages

    def collect(self) -> None:
        """the scripted operator demonstrates through GELLO, ROS 2 and RTDE"""
        from prophrl_nodes.collection import read_attempts

        log = self.folder / SESSION_LOG
        kept = sum(attempt.accepted for attempt in read_attempts(log))
        if kept >= self.options.episodes:
            return
        command = launch_command(
            "collect.launch.yaml",
            {
                "cell": "twin",
                "host": self.options.host,
                "task": self.options.task,
                "episodes": self.options.episodes,
                "seed": self.options.seed,
                "output": self.folder,
            },
        )
        with progress_bar(self.options.episodes, "demonstration", initial=kept) as bar:

            def watch() -> None:
                attempts = read_attempts(log)
                bar.update(sum(attempt.accepted for attempt in attempts) - bar.n)
                bar.set_postfix(attempts=len(attempts), refresh=False)

            run_stage(command, self.logs / "collect.log", watch, domain_id=self.options.domain_id)

    def build_dataset(self) -> None:
        """bags become synchronised episodes"""
        from prophrl_models.data.build import build_dataset

        header = None if self.reinforcement is None else self.reinforcement.header
        bags, tasks = [self.folder / "bags"], (self.options.task,)
        report = build_dataset(bags, self.folder / "dataset", tasks=tasks, header=header)
        print(f"      {report.converted + report.resumed} episodes, {report.steps} steps, {report.content_hash[:12]}")

    def train(self) -> None:
        """a small flow policy learns from them"""
        from prophrl_nodes.studies.training import train_with_progress

        if not (self.checkpoint / "provenance.json").is_file():
            base = None if self.reinforcement is None else self.reinforcement.training
            train_with_progress(self.folder / "dataset", self.folder / "training", seed=self.options.seed, base=base)

    def reinforce(self) -> None:
        """it learns in imagination: a world model of its own attempts, a judge, FA-GRPO + FlowScale"""
        assert self.reinforcement is not None
        self.reinforcement.run(lambda line: print(f"      {line}", flush=True))

    def evaluate(self) -> None:
        """the policy moves the twin's arm at held-out placements"""
        from prophrl_models.trials.plan import TrialPlan, make_plan
        from prophrl_models.trials.results import ResultLog

        plan_path = self.folder / "trials" / "plan.json"
        if not plan_path.is_file():
            placements = [place.to_json() for place in held_out_placements(self.task.id, self.options.trials)]
            plan, key = make_plan(
                self.task.id, self.task.instruction, placements, list(self._policies), seed=self.options.seed,
                max_duration_s=self.task.max_duration_s,
            )  # fmt: skip
            key.save(self.folder / "trials" / "key.json")
            plan.save(plan_path)
        plan = TrialPlan.load(plan_path)
        log_path = self.folder / TRIAL_LOG
        done = ResultLog(log_path, plan)
        if done.next_trial() is None:
            return
        command = launch_command(
            "evaluate.launch.yaml",
            {
                "cell": "twin",
                "host": self.options.host,
                **self._loaded(),
                "execute_length": EXECUTE_LENGTH,
                "plan": plan_path,
                "output": self.folder / "trials",
            },
        )
        with progress_bar(len(plan.trials), "trial", initial=len(done.valid)) as bar:

            def watch() -> None:
                log = ResultLog(log_path, plan)
                bar.update(len(log.valid) - bar.n)
                bar.set_postfix(success=sum(result.success for result in log.valid.values()), refresh=False)

            run_stage(command, self.logs / "evaluate.log", watch, domain_id=self.options.domain_id)

    @property
    def _policies(self) -> dict[str, Path]:
        """Who is tried, by name."""
        if self.reinforcement is None:
            return {"policy": self.checkpoint}
        return {FIRST: self.checkpoint, REINFORCED: self.reinforcement.reinforced}

    def _loaded(self) -> dict[str, object]:
        """How the launch file is told."""
        if self.reinforcement is None:
            return {"checkpoint": self.checkpoint}
        return {"policies": " ".join(f"{name}='{path.resolve()}'" for name, path in self._policies.items())}

    def report(self) -> None:
        """what happened, with every video"""
        from prophrl_nodes.studies.demo_report import write_demo_report

        write_demo_report(self.folder, self.task.id, self.timings_s)


def check_disk(options: DemoOptions) -> None:
    """Refuse at the door what would end in a full disk half an hour later.

    Raises:
        DemoRefused: what is left to record does not fit.
    """
    from prophrl_nodes.collection import read_attempts

    folder = options.output.resolve()
    kept = tried = 0
    if not (folder / REPORT).is_file():  # a finished run is moved aside, one that was stopped goes on
        kept = sum(attempt.accepted for attempt in read_attempts(folder / SESSION_LOG))
        log = folder / TRIAL_LOG
        tried = len(log.read_text(encoding="utf-8").splitlines()) if log.is_file() else 0
    episodes, trials = max(options.episodes - kept, 0), max(options.trials * options.policies - tried, 0)
    learning_gb = 0.0 if options.reinforcement is None else options.reinforcement.effort.need_gb
    need_gb = episodes * DEMONSTRATION_GB + trials * TRIAL_GB + learning_gb + SPARE_GB
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    if free_gb < need_gb:
        raise DemoRefused(
            f"{episodes} demonstrations and {trials} trials need about {need_gb:.0f} GB, and "
            f"{free_gb:.1f} GB are free in {there}: make room, name a folder on another disk (--output, or make demo "
            "OUTPUT=...), or record fewer (--episodes, or EPISODES=...)"
        )


def _fresh_folder(folder: Path) -> Path:
    """The folder to work in; a finished run that stands there is moved aside."""
    if (folder / REPORT).is_file():
        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime((folder / REPORT).stat().st_mtime))
        aside = folder.with_name(f"{folder.name}-{stamp}")
        folder.rename(aside)
        print(f"the finished run in {folder} was moved to {aside}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(options: DemoOptions) -> Path:
    """Run the demo and say what came out."""
    started = time.monotonic()
    # A plain SIGTERM would leave the launch of the present stage running without us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with_rl = " with reinforcement in imagination" if options.reinforcement else ""
    print(f"prophrl demo: {options.task} on the digital twin{with_rl}, in {options.output}")
    report = Demo(options).run()
    print(f"done in {(time.monotonic() - started) / 60:.1f} minutes: {report}")
    if not options.headless and not webbrowser.open(report.resolve().as_uri()):
        print("no browser was found to open it with; HEADLESS=1 does not try, and BROWSER=<program> names one")
    return report
