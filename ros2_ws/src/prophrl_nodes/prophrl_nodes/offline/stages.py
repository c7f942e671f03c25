"""The stages of an offline reinforcement: what each runs, when it is done, and how far it is.

Every stage is one ``prophrl`` command in a process of its own: what a user would type, resumable by itself, and its
memory is free before the next one begins.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prophrl_nodes.offline.plan import TRAJECTORY, TWIN, VIDEO, OfflinePlan, is_settings_file

LOG_FILE = "log.jsonl"
CHECK_ANSWERS = (3, 4)
"""Exit codes of ``prophrl rl check``: a gate failed, not enough evidence. Both print findings, as success does."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: as progress and logs call it.
        what: what it does, in words.
        command: the process that does it.
        is_done: whether its result is there.
        step: steps that are finished, as its own log says.
        tolerated: exit codes that are an answer and no failure.
    """

    name: str
    what: str
    command: Sequence[str]
    is_done: Callable[[], bool]
    step: Callable[[], int] = lambda: 0
    tolerated: tuple[int, ...] = ()


@dataclass(frozen=True)
class Folders:
    """Where the stages of one flow work."""

    root: Path

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def world(self) -> Path:
        return self.root / "world"

    @property
    def refitted(self) -> Path:
        """The adapted world model."""
        return self.world / "prophet"

    @property
    def planned(self) -> Path:
        """Attempts planned in imagination, as they were commanded."""
        return self.root / "planned"

    @property
    def imagined(self) -> Path:
        """The bags' own actions in the adapted world model, as labelled videos."""
        return self.root / "imagined"

    @property
    def judge(self) -> Path:
        return self.root / "judge"

    @property
    def check(self) -> Path:
        return self.root / "check.json"

    @property
    def reinforced(self) -> Path:
        return self.root / "rl"

    @property
    def policy(self) -> Path:
        """The reinforced policy."""
        return self.reinforced / "policy"


def dataset_stage(plan: OfflinePlan, at: Folders) -> Stage:
    """All attempts that were recorded: successes, failures, play, discarded ones."""
    outcomes = [word for outcome in ("success", "failure", "unknown") for word in ("--outcome", outcome)]
    tasks = ["--task", plan.task] if plan.task else []
    region = _region_of(Path(plan.policy))
    command = _prophrl("dataset", "build", *plan.bags, at.dataset, *outcomes, *tasks, "--discarded", *region)
    return Stage("dataset", "bags become synchronised episodes", command, lambda: False)


def planned_stage(plan: OfflinePlan, at: Folders) -> Stage:
    """Attempts that were planned in imagination and executed unseen, by the rows of their plans."""
    command = _prophrl("dataset", "commanded", *plan.planned, at.planned, *_region_of(Path(plan.policy)))
    return Stage("planned", "attempts that were planned in imagination become episodes", command, lambda: False)


def world_stage(plan: OfflinePlan, at: Folders, datasets: Sequence[Path], weights: Sequence[float] = ()) -> Stage:
    """Prophet, adapted to the bags, or trained on them from nothing; ``weights``: one for each dataset, or none."""
    options = ["--seed", plan.seed, *_threads(plan)]
    if plan.world:
        options += [*_settings(plan.world_preset), "--init", plan.world]
    else:
        options += ["--preset", "small"]
    if plan.world_steps:
        options += ["--steps", plan.world_steps]
    options += [word for weight in weights for word in ("--weight", f"{weight:g}")]
    what = "Prophet is adapted to the bags" if plan.world else "a world model is trained from nothing: this takes hours"
    command = _prophrl("prophet", "train", *datasets, at.world, *options)
    return Stage("world", what, command, (at.refitted / "provenance.json").is_file, lambda: last_step(at.world))


def replay_stage(plan: OfflinePlan, at: Folders, datasets: Sequence[Path]) -> Stage:
    """The bags imagined again: a judge that has only seen photographs does not know the world model's pictures."""
    options = ["--world", at.refitted, *_settings(plan.preset), "--seed", plan.seed, *_threads(plan)]
    command = _prophrl("rl", "replay", *datasets, at.imagined, *options)
    return Stage("replay", "the bags' actions are imagined again, for the judge", command, at.imagined.is_dir)


def judge_stage(plan: OfflinePlan, at: Folders, datasets: Sequence[Path]) -> Stage:
    """A success classifier, trained on the bags; one of videos on what the world model makes of them, too."""
    kind, videos = (VIDEO, [at.imagined]) if plan.judge == VIDEO else (TRAJECTORY, [])
    command = _prophrl(
        "reward", "train", at.judge, *datasets, *videos, "--kind", kind, "--seed", plan.seed, *_threads(plan)
    )
    done = (at.judge / "classifier" / "provenance.json").is_file
    return Stage("judge", "a judge learns what success looks like", command, done, lambda: last_step(at.judge))


def check_stage(
    plan: OfflinePlan, at: Folders, datasets: Sequence[Path], judge: str, instructions: Sequence[str]
) -> Stage:
    """Gates that say beforehand whether a run has a chance."""
    command = _prophrl("rl", "check", *datasets, *_parts(plan, at, judge, instructions), "--json")
    what = "has it a chance? noise, judge and world model are tested"
    return Stage("check", what, command, lambda: read_findings(at.check) is not None, tolerated=CHECK_ANSWERS)


def reinforce_stage(
    plan: OfflinePlan, at: Folders, datasets: Sequence[Path], judge: str, instructions: Sequence[str], task: str
) -> Stage:
    """FA-GRPO with FlowScale in the adapted world; ``task``: the one that ``instructions`` are of."""
    more = ["--steps", plan.steps] if plan.steps else []
    if plan.audit:
        more += ["--audit-twin", task] if plan.audit == TWIN else ["--second-judge", plan.audit]
    command = _prophrl("rl", "run", *datasets, at.reinforced, *_parts(plan, at, judge, instructions), *more)
    return Stage(
        "reinforce", "the policy is trained in imagination", command, lambda: False, lambda: last_step(at.reinforced)
    )


def judge_of(plan: OfflinePlan, at: Folders) -> str:
    """The judge as ``prophrl rl`` takes it."""
    trained = at.judge / "classifier"
    return f"classifier:{trained}" if plan.judge == VIDEO else plan.judge or f"trajectory:{trained}"


def read_findings(file: Path) -> list[dict[str, Any]] | None:
    """What ``prophrl rl check --json`` found, from its output; None where there is none in it.

    Libraries may have written around it.
    """
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    for begin in re.finditer(r"\{", text):
        try:
            said, _ = json.JSONDecoder().raw_decode(text[begin.start() :])
        except ValueError:
            continue
        if isinstance(said.get("findings"), list):
            findings: list[dict[str, Any]] = said["findings"]
            return findings
    return None


def last_step(folder: Path) -> int:
    """The step of the newest line of a training log; 0 before the first."""
    file = folder / LOG_FILE
    if not file.is_file():
        return 0
    for line in reversed(file.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError):
            continue  # being written at this moment
    return 0


def _parts(plan: OfflinePlan, at: Folders, judge: str, instructions: Sequence[str]) -> list[object]:
    tasks = [word for instruction in instructions for word in ("--task", instruction)]
    parts = ["--policy", plan.policy, "--world", at.refitted, "--judge", judge, *_settings(plan.preset)]
    return [*parts, "--seed", plan.seed, *_threads(plan), *tasks]


def _region_of(policy: Path) -> list[object]:
    """The argument for a policy that was trained on a part of the picture: datasets for it show the same."""
    file = policy / "provenance.json"
    if not file.is_file():
        return []  # the stages that open the policy say what is wrong with it
    sync = json.loads(file.read_text(encoding="utf-8")).get("sync") or {}
    region = sync.get("image_region")
    return ["--image-region", *region] if region else []


def _settings(name: str) -> list[object]:
    return ["--config" if is_settings_file(name) else "--preset", name]


def _threads(plan: OfflinePlan) -> list[object]:
    return ["--threads", plan.threads] if plan.threads else []


def _prophrl(*words: object) -> list[str]:
    return [sys.executable, "-m", "prophrl_nodes.cli.main", *map(str, words)]
