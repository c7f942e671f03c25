"""The trial node: runs one trial on request (action ``run_trial``), or a whole frozen plan, and writes it down.

With ``plan`` set it runs the plan's trials in order, appends each to ``<output>/trials.jsonl`` and ends; a plan that
was interrupted goes on after its last valid trial. Of a plan that compares policies it knows their letters only, and
tells the policy node which one is next. On hardware a person places and judges through the verbs
``~/placed``, ``~/success`` and ``~/failure``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from prophrl_interfaces.action import RunTrial
from rclpy.action import ActionServer, CancelResponse, GoalResponse

from prophrl_models.data.lines import LineError
from prophrl_models.trials.plan import PlanError, TrialPlan
from prophrl_models.trials.results import ResultError, ResultLog, TrialResult
from prophrl_nodes.calls import CallError
from prophrl_nodes.cell_calls import CellCalls
from prophrl_nodes.diagnostics import Health, Level
from prophrl_nodes.parameters import ParameterSpec
from prophrl_nodes.person_verbs import add_person_verbs
from prophrl_nodes.ros import ProphNode, Refused, run
from prophrl_nodes.scene_host import PersonSceneHost, open_scene
from prophrl_nodes.trial_sequence import TrialOutcome, TrialRequest, TrialSequence
from robot_bridge.cell_files import open_cell
from robot_bridge.twin.tasks import Placement

MAX_CONSECUTIVE_VOID = 3

PARAMETERS = (
    ParameterSpec("cell", "twin", "cell name or path of a cell file"),
    ParameterSpec("host", "", "address that replaces {host} in the cell file"),
    ParameterSpec("plan", "", "trial plan to run; empty: wait for run_trial goals"),
    ParameterSpec("output", "runs/trials", "folder for trials.jsonl"),
    ParameterSpec("max_duration_s", 30.0, "time limit of one trial", minimum=1.0, maximum=600.0),
)


class TrialsNode(ProphNode):
    """One trial at a time, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__("trials", PARAMETERS)
        self._phase = "waiting for a trial"
        self._busy = threading.Lock()
        self._stopping = threading.Event()
        self._done = self._successes = 0

    def setup(self) -> None:
        cell = open_cell(self.value("cell"), self.value("host"))
        self._plan = _load_plan(self.value("plan")) if self.value("plan") else None
        self._scene = open_scene(cell)
        self._calls = CellCalls(self)
        self._sequence = TrialSequence(self._calls, self._scene, self._on_phase)
        self._server = ActionServer(
            self, RunTrial, "run_trial", self._execute, callback_group=self.callbacks,
            goal_callback=self._accept_goal, cancel_callback=lambda _: CancelResponse.ACCEPT,
        )  # fmt: skip
        add_person_verbs(self, self._scene)

    def start(self) -> None:
        self._stopping.clear()
        if self._plan is not None:
            threading.Thread(target=self._run_plan, args=(self._plan,), name="plan", daemon=True).start()

    def halt(self) -> None:
        self._stopping.set()

    def teardown(self) -> None:
        if hasattr(self, "_server"):
            self._server.destroy()

    def health(self) -> Health:
        asked = self._scene.request if isinstance(self._scene, PersonSceneHost) else ""
        return Health(Level.OK, f"waiting for you: {asked}" if asked else self._phase, {"trials done": str(self._done)})

    # ---- one trial on request

    def _accept_goal(self, goal: RunTrial.Goal) -> GoalResponse:
        try:
            Placement.from_json(goal.placement_json)
        except ValueError as error:
            self.get_logger().error(f"trial {goal.trial_id!r} rejected: {error}")
            return GoalResponse.REJECT
        if not self.active or self._plan is not None or self._busy.locked():
            self.get_logger().error(f"trial {goal.trial_id!r} rejected: inactive, or busy with another trial or plan")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    async def _execute(self, handle: Any) -> RunTrial.Result:
        goal = handle.request
        request = TrialRequest(
            goal.trial_id, Placement.from_json(goal.placement_json), goal.instruction, goal.policy_id,
            goal.max_duration_s or self.value("max_duration_s"),
        )  # fmt: skip
        outcome = await self.in_thread(lambda: self._run_one(request, lambda: handle.is_cancel_requested))
        if handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.succeed()
        return RunTrial.Result(
            valid=outcome.valid,
            success=outcome.success,
            stop_reason=outcome.stop_reason,
            verdict_json=json.dumps(asdict(outcome.verdict)),
            bag_path=outcome.bag_path,
            duration_s=outcome.duration_s,
        )

    # ---- a plan

    def _run_plan(self, plan: TrialPlan) -> None:
        try:
            self._calls.wait_until_ready()
            for letter in _letters(plan):  # a policy that is missing is said before the first trial
                self._calls.choose_policy(letter)
            self._run_trials(ResultLog(Path(self.value("output")) / "trials.jsonl", plan))
        except (CallError, ResultError, PlanError, LineError) as error:
            self.request_stop(str(error), exit_code=1)
        except Exception as error:
            self.fail(error)

    def _run_trials(self, log: ResultLog) -> None:
        void_in_a_row, several = 0, bool(_letters(log.plan))
        while (trial := log.next_trial()) is not None:
            request = TrialRequest(
                trial.trial_id, Placement.from_json(log.plan.placement(trial)), log.plan.instruction, trial.label,
                log.plan.max_duration_s, trial.label if several else "",
            )  # fmt: skip
            started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
            outcome = self._run_one(request, self._stopping.is_set)
            if self._stopping.is_set():
                return
            log.append(_result(trial.trial_id, outcome, started_at, log.path.parent))
            void_in_a_row = 0 if outcome.valid else void_in_a_row + 1
            if void_in_a_row >= MAX_CONSECUTIVE_VOID:
                self.request_stop(f"{void_in_a_row} trials in a row were void; the last: {outcome.stop_reason}", 1)
                return
        self.request_stop(f"{self._successes} of {self._done} trials succeeded")

    def _run_one(self, request: TrialRequest, should_stop: Any) -> TrialOutcome:
        with self._busy:
            outcome = self._sequence.run(request, lambda: should_stop() or self._stopping.is_set())
        self._phase = "waiting for a trial"
        self._done += outcome.valid
        self._successes += outcome.success
        word = "success" if outcome.success else ("failure" if outcome.valid else "void")
        self.get_logger().info(
            f"trial {request.trial_id}: {word} after {outcome.duration_s:.1f} s ({outcome.stop_reason})"
        )
        return outcome

    def _on_phase(self, phase: str) -> None:
        self._phase = phase


def _load_plan(path: str) -> TrialPlan:
    try:
        return TrialPlan.load(path)
    except PlanError as error:
        raise Refused(str(error)) from error


def _letters(plan: TrialPlan) -> tuple[str, ...]:
    """The policies to choose among; none where there is only one."""
    return plan.labels if len(plan.labels) > 1 else ()


def _result(trial_id: str, outcome: TrialOutcome, started_at: str, folder: Path) -> TrialResult:
    """The log's line; the bag's path is relative to the log, so that the folder can be moved."""
    return TrialResult(
        trial_id=trial_id,
        valid=outcome.valid,
        success=outcome.success,
        stop_reason=outcome.stop_reason if outcome.success else f"{outcome.stop_reason}: {outcome.verdict.reason}",
        duration_s=outcome.duration_s,
        verdict=asdict(outcome.verdict),
        bag=os.path.relpath(outcome.bag_path, folder) if outcome.bag_path else "",
        timing={"wall_s": outcome.wall_s},
        started_at=started_at,
    )


def main() -> int:
    """Entry point."""
    return run(TrialsNode)


if __name__ == "__main__":
    sys.exit(main())
