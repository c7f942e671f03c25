"""Offline reinforcement from start to end: ``python -m prophrl_nodes.offline.flow FOLDER`` runs the plan in FOLDER.

    bags -> dataset -> adapted world model -> judge -> check -> reinforcement -> result.json

Where there are planned attempts, the judge learns from them instead of the bags.

A flow that continues another one works on the datasets of both, from what the other made (``rounds``).
Each stage goes on where it was interrupted; a finished one is not repeated. progress.json says where the flow is,
logs/ what the stages said.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prophrl_models.data.files import write_json
from prophrl_nodes.offline.child import STAGE_STOP_TIMEOUT_S, ChildFailed, run_child
from prophrl_nodes.offline.plan import TWIN, VIDEO, OfflinePlan, PlanError, check_twin_task, read_plan
from prophrl_nodes.offline.progress import FlowProgress, ProgressFile
from prophrl_nodes.offline.reality import compare, promise, sentence
from prophrl_nodes.offline.result import OWN, FlowResult, is_finished, read_result, write_result
from prophrl_nodes.offline.rounds import NewBags, Round, earlier_rounds, new_bags, weights_of, work_of
from prophrl_nodes.offline.stages import (
    Folders,
    Stage,
    check_stage,
    dataset_stage,
    judge_of,
    judge_stage,
    planned_stage,
    read_findings,
    reinforce_stage,
    replay_stage,
    world_stage,
)


class Flow:
    """One flow in its folder.

    Args:
        report: told about every change of phase, step or message.
    """

    def __init__(
        self, plan: OfflinePlan, folder: Path, report: Callable[[FlowProgress], None] = lambda progress: None
    ) -> None:
        self.plan, self.at = plan, Folders(folder)
        self._progress = ProgressFile(folder)
        self._report = report
        self._said: tuple[object, ...] = ()
        self._chain = FlowResult(False, "")

    def run(self) -> FlowResult:
        """Run what is left; the result is also in the folder. A finished flow gives its result again.

        Raises:
            ChildFailed: a stage ended with an error.
            PlanError: the bags do not hold what the plan asks for.
        """
        if is_finished(self.at.root):
            return self._told(read_result(self.at.root))
        rounds = earlier_rounds(self.plan)
        work, bags = self.plan, NewBags(self.plan.bags)
        if rounds:
            bags = new_bags(self.plan, rounds)
            work = work_of(self.plan, rounds, bags)
        self._chain = chain_of(rounds, bags)
        self._do(dataset_stage(work, self.at))
        datasets = [*(entry.at.dataset for entry in rounds), self.at.dataset]
        task, instructions, steps = self._look_at(datasets)
        if rounds:
            self._say("dataset", 0, about(rounds[-1], self._chain))
        self._do(world_stage(work, self.at, datasets, weights_of(steps) if rounds else ()))
        if work.judge == VIDEO:
            self._do(replay_stage(work, self.at, datasets))
        if work.judge in ("", VIDEO):
            planned = [] if work.judge == VIDEO else self._planned(work, rounds)
            self._do(judge_stage(work, self.at, planned or datasets))
        judge = judge_of(work, self.at)
        check = check_stage(work, self.at, datasets, judge, instructions)
        findings = self._checked(check)
        failed = sentences(findings, "fail")
        if failed and self.plan.gates:
            return self._ended(FlowResult(False, f"the check says no: {'; '.join(failed)}"))
        undecided = sentences(findings, "not enough")
        if undecided:
            self._say("check", 0, f"going on, though the check could not tell: {'; '.join(undecided)}")
        self._do(reinforce_stage(work, self.at, datasets, judge, instructions, task))
        return self._ended(outcome(self.at.policy))

    def _planned(self, work: OfflinePlan, rounds: Sequence[Round]) -> list[Path]:
        """Datasets of planned attempts, earlier rounds' among them."""
        if work.planned:
            self._do(planned_stage(work, self.at))
        folders = [*(entry.at.planned for entry in rounds), self.at.planned]
        return [folder for folder in folders if folder.is_dir()]

    def _do(self, stage: Stage) -> None:
        if stage.is_done():
            return

        def watch() -> None:
            self._say(stage.name, stage.step(), stage.what)

        watch()
        log = self._log(stage)
        log.unlink(missing_ok=True)  # of an earlier try; the stage's own files go on
        try:
            run_child(list(stage.command), log, watch, stop_timeout_s=STAGE_STOP_TIMEOUT_S)
        except ChildFailed as failure:
            if failure.code not in stage.tolerated:
                self._say("failed", 0, f"{stage.name}: {failure}")
                raise

    def _checked(self, check: Stage) -> list[dict[str, Any]]:
        """The findings of the check; kept as soon as they are known to be such, and only then."""
        found = read_findings(self.at.check)
        if found is None:
            self._do(check)
            log = self._log(check)
            found = read_findings(log)
            if found is None:
                failure = ChildFailed(f"its answer holds no findings; see {log}, then give the command again", 0)
                self._say("failed", 0, f"{check.name}: {failure}")
                raise failure
            write_json(self.at.check, {"findings": found})
        return found

    def _look_at(self, datasets: Sequence[Path]) -> tuple[str, list[str], list[int]]:
        """(the task that is to be reinforced, its instructions, steps of each dataset)"""
        from prophrl_models.data.dataset import Dataset
        from prophrl_models.rl.replays import KNOWN_OUTCOMES

        tables = [Dataset(folder).table for folder in datasets]
        rows = [row for table in tables for row in table]
        tasks = sorted({row.task for row in rows})
        if not self.plan.task and len(tasks) != 1:
            raise PlanError(f"the bags hold several tasks ({', '.join(tasks)}); say which one is to be reinforced")
        if not any(row.outcome in KNOWN_OUTCOMES and row.valid_steps == row.steps for row in rows):
            said = ", ".join(
                f"{count} {outcome}" for outcome, count in sorted(Counter(row.outcome for row in rows).items())
            )
            raise PlanError(
                f"no gapless episode of the bags is marked success or failure ({said}): neither a judge nor the check "
                "could be told what is true; record episodes with an outcome, or write it into the bags' episode.json"
            )
        if self.plan.audit == TWIN:
            check_twin_task(tasks[0])
        steps = [sum(row.steps for row in table) for table in tables]
        return tasks[0], sorted({row.instruction for row in rows}), steps

    def _ended(self, result: FlowResult) -> FlowResult:
        """The result, with what is to be said of the rounds, kept."""
        chain = self._chain
        result = dataclasses.replace(chain, **{name: getattr(result, name) for name in OWN})
        if chain.round > 1:
            said = sentence(chain.round - 1, chain.reality)
            result = dataclasses.replace(result, message=f"round {chain.round}: {result.message}; {said}")
        write_result(self.at.root, result)
        return self._told(result)

    def _told(self, result: FlowResult) -> FlowResult:
        self._say("done", 0, result.message)
        return result

    def _say(self, phase: str, step: int, message: str) -> None:
        if (phase, step, message) != self._said:
            self._said = (phase, step, message)
            self._report(self._progress.say(phase, step, self._steps(phase), message))

    def _steps(self, phase: str) -> int:
        return {"world": self.plan.world_steps, "reinforce": self.plan.steps}.get(phase, 0)

    def _log(self, stage: Stage) -> Path:
        return self.at.root / "logs" / f"{stage.name}.log"


def chain_of(rounds: Sequence[Round], bags: NewBags) -> FlowResult:
    """What a result says of the rounds before it and of the new bags; the outcome is still open."""
    if not rounds:
        return FlowResult(False, "")
    last = rounds[-1]
    reality = compare(last.at.policy, bags.trials)
    seen = [*(entry.result.reality for entry in rounds[1:]), reality]  # each was found by the round after it
    earlier = [
        {
            "round": entry.number,
            "folder": str(entry.folder),
            "imagined_before": entry.result.imagined_before,
            "imagined_after": entry.result.imagined_after,
            "reality": found,
        }
        for entry, found in zip(rounds, seen, strict=True)
    ]
    return FlowResult(
        False,
        "",
        round=last.number + 1,
        after=str(last.folder),
        known_bags=bags.known,
        reality=reality,
        earlier=tuple(earlier),
    )


def about(last: Round, chain: FlowResult) -> str:
    """What is worth knowing before a later round goes on."""
    said = [f"round {chain.round} continues {last.folder}"]
    if chain.known_bags:
        said.append(f"{chain.known_bags} bags are left out, earlier rounds have them")
    return "; ".join([*said, sentence(last.number, chain.reality)])


def sentences(findings: Sequence[Mapping[str, Any]], status: str) -> list[str]:
    """What the check says of the gates with this status ("pass", "fail", "not enough"), one sentence a gate."""
    return [f"{f['gate']}: {f['message']} {f['advice']}".strip() for f in findings if f["status"] == status]


def outcome(checkpoint: Path) -> FlowResult:
    """The result of a finished reinforcement, from the own record of the checkpoint that it delivers.

    Better is what has more of what it was reinforced for: success, or where settings say so the judge's mean score.
    """
    record = json.loads((checkpoint / "provenance.json").read_text(encoding="utf-8"))
    stopped, promised = record.get("stopped", ""), promise(record)
    why = f"; stopped early: {stopped}" if stopped else ""
    if promised is None:
        what = f"trained {record['step']} steps, without evaluations on held-out starts{why}"
        return FlowResult(True, what, str(checkpoint), stopped=stopped)
    first = record["evaluations"][0]
    before, after = first["success"], promised["success"]
    numbers = f"imagined success on held-out starts {before:.0%} before, {after:.0%} after"
    worth = "success"
    if record.get("reinforcement", {}).get("rollout", {}).get("reward") == "score" and "score" in first:
        worth = "score"
        numbers += f", mean score {first[worth]:.2f} and {promised[worth]:.2f}"
    better = record["step"] > 0 and promised[worth] > first[worth]
    what = f"{numbers}, at step {record['step']}: {checkpoint}"
    if not better:
        what = f"no step was better than the start ({numbers})"
    return FlowResult(better, what + why, str(checkpoint), before, after, stopped=stopped)


def main() -> int:
    """Entry point of the child process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if len(sys.argv) != 2:
        print("usage: python -m prophrl_nodes.offline.flow FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        result = Flow(read_plan(folder), folder, lambda progress: print(progress, flush=True)).run()
    except (ChildFailed, PlanError) as error:
        print(f"error: {error}", flush=True)
        return 1
    except KeyboardInterrupt:
        return 130
    print(result.message, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
