"""Offline reinforcement from start to end: ``python -m prophrl_nodes.offline.flow FOLDER`` runs the plan in FOLDER.

    bags -> dataset -> adapted world model -> judge -> check -> reinforcement -> result.json

Each stage goes on where it was interrupted; a finished one is not repeated. progress.json says where the flow is,
logs/ what the stages said.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from prophrl_nodes.offline.child import ChildFailed, run_child
from prophrl_nodes.offline.plan import OfflinePlan, PlanError, read_plan
from prophrl_nodes.offline.progress import FlowProgress, ProgressFile
from prophrl_nodes.offline.result import FlowResult, is_finished, read_result, write_result
from prophrl_nodes.offline.stages import (
    Folders,
    Stage,
    check_stage,
    dataset_stage,
    judge_of,
    judge_stage,
    reinforce_stage,
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

    def run(self) -> FlowResult:
        """Run what is left; the result is also in the folder. A finished flow gives its result again.

        Raises:
            ChildFailed: a stage ended with an error.
            PlanError: the bags do not hold what the plan asks for.
        """
        if is_finished(self.at.root):
            return self._ended(read_result(self.at.root))
        self._do(dataset_stage(self.plan, self.at))
        instructions = self._instructions()
        self._do(world_stage(self.plan, self.at))
        if not self.plan.judge:
            self._do(judge_stage(self.plan, self.at))
        judge = judge_of(self.plan, self.at)
        check = check_stage(self.plan, self.at, judge, instructions)
        if not check.is_done():
            self._do(check)
            self.at.check.write_text(self._log(check).read_text(encoding="utf-8"), encoding="utf-8")
        failed = failed_gates(self.at.check)
        if failed and self.plan.gates:
            return self._ended(FlowResult(False, f"the check says no: {'; '.join(failed)}"))
        self._do(reinforce_stage(self.plan, self.at, judge, instructions))
        return self._ended(outcome(self.at.reinforced / "policy"))

    def _do(self, stage: Stage) -> None:
        if stage.is_done():
            return

        def watch() -> None:
            self._say(stage.name, stage.step(), stage.what)

        watch()
        log = self._log(stage)
        log.unlink(missing_ok=True)  # of an earlier try; the stage's own files go on
        try:
            run_child(list(stage.command), log, watch)
        except ChildFailed as failure:
            if failure.code not in stage.tolerated:
                self._say("failed", 0, f"{stage.name}: {failure}")
                raise

    def _instructions(self) -> list[str]:
        """The instructions of the task that is to be reinforced."""
        from prophrl_models.data.dataset import Dataset

        table = Dataset(self.at.dataset).table
        tasks = sorted({row.task for row in table})
        if not self.plan.task and len(tasks) != 1:
            raise PlanError(f"the bags hold several tasks ({', '.join(tasks)}); say which one is to be reinforced")
        return sorted({row.instruction for row in table})

    def _ended(self, result: FlowResult) -> FlowResult:
        write_result(self.at.root, result)
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


def failed_gates(file: Path) -> list[str]:
    """What the check found wrong, one sentence a gate; empty when it passed, or had too little to tell."""
    text = file.read_text(encoding="utf-8")
    said, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])  # libraries may have written around it
    findings = said["findings"]
    return [f"{f['gate']}: {f['message']} {f['advice']}".strip() for f in findings if f["status"] == "fail"]


def outcome(checkpoint: Path) -> FlowResult:
    """The result of a finished reinforcement, from its best checkpoint's own record."""
    record = json.loads((checkpoint / "provenance.json").read_text(encoding="utf-8"))
    evaluations = record.get("evaluations", [])
    if not evaluations:
        return FlowResult(
            True, f"trained {record['step']} steps, without evaluations on held-out starts", str(checkpoint)
        )
    before = evaluations[0]["success"]
    after = max(entry["success"] for entry in evaluations)
    numbers = f"imagined success on held-out starts {before:.0%} before, {after:.0%} after"
    if record["step"] == 0 or after <= before:
        return FlowResult(False, f"no step was better than the start ({numbers})", str(checkpoint), before, after)
    return FlowResult(True, f"{numbers}, at step {record['step']}: {checkpoint}", str(checkpoint), before, after)


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
