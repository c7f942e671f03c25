"""Round after round: collect episodes with the policy of one flow, re-fit the world model on them, continue from there.

A later round has a plan with ``after``, the folder of the finished round before it, and takes from the rounds:

- their datasets, beside one of its own with the new bags: every dataset keeps its split, episodes their side;
- the adapted world model, adapted once more, to all datasets, windows of the new one drawn more often;
- a judge that was given to one of them; else a new one is trained on all datasets, with the new trials' outcomes;
- the reinforced policy, which is also the new reference of the KL term: the leash keeps a policy where the world model
  has data, and now it has data of this policy.

Bags that an earlier round had are left out. The folders of earlier rounds are only read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prophrl_nodes.offline.plan import PLAN_FILE, OfflinePlan, PlanError, is_settings_file
from prophrl_nodes.offline.progress import read_progress
from prophrl_nodes.offline.result import RESULT_FILE, FlowResult, read_result
from prophrl_nodes.offline.stages import Folders

MOST_OFTEN = 4.0
"""Windows of new bags are drawn at most so much more often than others: a handful would be learned by heart."""
_CANCELLED = "cancelled"
"""How the note of a trial begins that somebody broke off: its bag says "failure", the policy may not have failed."""


@dataclass(frozen=True)
class Round:
    """A finished round: its number from 1, where it is, its plan as it was written, and its result."""

    number: int
    folder: Path
    plan: Mapping[str, Any]
    result: FlowResult

    @property
    def at(self) -> Folders:
        return Folders(self.folder)


@dataclass(frozen=True)
class NewBags:
    """What a later round's bags are.

    Attributes:
        paths: bags that no earlier round has.
        known: number of bags that one has.
        trials: of each policy label, (successes, trials) among the new bags that recorded a trial.
    """

    paths: tuple[str, ...]
    known: int = 0
    trials: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def begin(plan: OfflinePlan, folder: Path) -> None:
    """Check the rounds before and the bags, then settle the plan in its folder.

    Raises:
        PlanError: see ``earlier_rounds``, ``new_bags``, ``work_of``, ``check_split`` and ``OfflinePlan.settle``.
    """
    if plan.after and Path(plan.after).resolve() == folder.resolve():
        raise PlanError(f"{folder} cannot continue itself; give the new round a folder of its own")
    try:
        rounds = earlier_rounds(plan)
        if rounds:
            check_split(plan, rounds[-1])
            work_of(plan, rounds, new_bags(plan, rounds))
    except PlanError:
        raise
    except ValueError as error:  # a damaged dataset, a preset that does not exist
        raise PlanError(str(error)) from error
    plan.settle(folder)


def earlier_rounds(plan: OfflinePlan) -> tuple[Round, ...]:
    """The rounds that a plan continues, oldest first; none for a first round.

    Raises:
        PlanError: one is not there, is no folder of a flow, or has not finished.
    """
    found: list[tuple[Path, Mapping[str, Any], FlowResult]] = []
    after = plan.after
    while after:
        folder = Path(after)
        if any(folder == known for known, _, _ in found):
            raise PlanError(f"{folder} comes after itself; its {PLAN_FILE} was changed by hand")
        said = _finished(folder)
        found.append((folder, said, read_result(folder)))
        after = said.get("after", "")
    return tuple(Round(number, *parts) for number, parts in enumerate(reversed(found), 1))


def _finished(folder: Path) -> Mapping[str, Any]:
    """The plan of a finished flow; its own inputs need not exist any more."""
    if not folder.is_dir():
        raise PlanError(f"the round to continue from is not found: {folder}")
    if not (folder / PLAN_FILE).is_file():
        raise PlanError(f"{folder} is no folder of an offline reinforcement: it has no {PLAN_FILE}")
    if not (folder / RESULT_FILE).is_file():
        progress = read_progress(folder)
        where = f", its last word is {progress.phase!r}" if progress else ""
        raise PlanError(f"{folder} is unfinished{where}; give its own command again, then continue from it")
    result = read_result(folder)
    if not result.checkpoint:
        raise PlanError(
            f"{folder} was stopped by its check and has no policy to continue from ({result.message}); give its bags "
            "and the new ones together to a run of its own, or finish it with --no-gates"
        )
    at = Folders(folder)
    needed = (at.dataset / "dataset.json", at.refitted / "provenance.json", at.policy / "provenance.json")
    missing = [str(file) for file in needed if not file.is_file()]
    if missing:
        raise PlanError(f"{folder} has finished, but lacks {', '.join(missing)}; restore it, or begin a first round")
    plan: Mapping[str, Any] = json.loads((folder / PLAN_FILE).read_text(encoding="utf-8"))
    return plan


def task_of(rounds: Sequence[Round]) -> str:
    """The task that the rounds are about."""
    from prophrl_models.data.dataset import Dataset

    return Dataset(rounds[0].at.dataset).table[0].task


def new_bags(plan: OfflinePlan, rounds: Sequence[Round]) -> NewBags:
    """The plan's bags without those that an earlier round has, and what the trials among them came to.

    Raises:
        PlanError: another task, or nothing new.
    """
    from prophrl_models.data.bag import Bag, BagError, find_bags
    from prophrl_models.data.dataset import Dataset

    task = task_of(rounds)
    if plan.task not in ("", task):
        raise PlanError(f"{plan.after} is about {task!r}, not {plan.task!r}; another task is a first round of its own")
    known_ids = {row.episode_id for entry in rounds for row in Dataset(entry.at.dataset).table}
    paths, known, others = [], 0, Counter[str]()
    trials: dict[str, tuple[int, int]] = {}
    for path in find_bags(plan.bags, discarded=True):
        try:
            said = Bag(path).metadata
        except BagError:
            paths.append(str(path))  # the dataset's list of bags that were left out will say what is wrong with it
            continue
        if said.episode_id in known_ids:
            known += 1
        elif said.task != task:
            others[said.task] += 1
        else:
            paths.append(str(path))
            tried = "trial_id" in said.extra and not said.note.startswith(_CANCELLED)
            if tried and said.outcome in ("success", "failure"):
                label = str(said.extra.get("policy_id") or "?")
                successes, count = trials.get(label, (0, 0))
                trials[label] = (successes + (said.outcome == "success"), count + 1)
    if not paths:
        what = [f"{known} of them are in earlier rounds"] if known else []
        what += [f"{count} are of task {name!r}, not {task!r}" for name, count in sorted(others.items())]
        raise PlanError(
            f"none of the bags is new ({'; '.join(what) or 'there are none'}); record episodes of {task!r} with the "
            f"policy of {plan.after} and give their bags"
        )
    return NewBags(tuple(paths), known, trials)


def check_split(plan: OfflinePlan, last: Round) -> None:
    """That the world model's held-out episodes stay held out.

    Raises:
        PlanError: the adaptation's settings draw another split than the last round's world model has.
    """
    import yaml

    from prophrl_nodes.cli.presets import preset_file

    before = json.loads((last.at.refitted / "provenance.json").read_text(encoding="utf-8")).get("held_out")
    name = plan.world_preset
    file = Path(name) if is_settings_file(name) else preset_file("prophet", name)
    if not file.is_file():
        raise PlanError(f"not found: {file}")
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    now = {"fraction": settings.get("held_out", 0.0), "seed": settings.get("split_seed", 0)}
    if before is not None and before != now:
        raise PlanError(
            f"the world model of {last.folder} was trained with held_out {before['fraction']} and split_seed "
            f"{before['seed']}, {name} has {now['fraction']} and {now['seed']}: episodes would change sides and what "
            "is measured on held-out ones would mean nothing; take settings with the same split (world_preset)"
        )


def work_of(plan: OfflinePlan, rounds: Sequence[Round], bags: NewBags) -> OfflinePlan:
    """The plan as its stages carry it out: what comes from earlier rounds filled in.

    Raises:
        PlanError: the judge that an earlier round was given is gone.
    """
    last = rounds[-1]
    # A judge that is to learn from planned attempts is trained anew, whoever judged before.
    given = [] if plan.planned else [entry.plan.get("judge", "") for entry in reversed(rounds)]
    return replace(
        plan,
        after="",
        bags=bags.paths,
        policy=str(last.at.policy),
        world=str(last.at.refitted),
        task=task_of(rounds),
        judge=plan.judge or next((judge for judge in given if judge), ""),
    )


def weights_of(steps: Sequence[int]) -> tuple[float, ...]:
    """How often windows of each round's dataset are drawn, from the number of their steps: new ones more often.

    The newest dataset is drawn as often as all others together, but none of its windows more than ``MOST_OFTEN`` times
    as often as one of theirs, nor less often.
    """
    older, newest = sum(steps[:-1]), steps[-1]
    more = min(MOST_OFTEN, max(1.0, older / newest))
    return (*(1.0 for _ in steps[:-1]), round(more, 3))
