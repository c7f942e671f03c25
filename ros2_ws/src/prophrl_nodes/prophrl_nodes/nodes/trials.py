"""The trial node: runs one trial on request (action ``run_trial``), or a whole frozen plan, and writes it down.

With ``plan`` set it runs the plan's trials in order, appends each to ``<output>/trials.jsonl`` and ends; a plan that
was interrupted goes on after its last written trial. On hardware a person places and judges through the verbs
``~/placed``, ``~/success`` and ``~/failure``.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse

from prophrl_interfaces.action import RunTrial
from prophrl_models.trials.plan import TrialPlan
from prophrl_nodes.cell_calls import CellCalls
from prophrl_nodes.cells import open_cell
from prophrl_nodes.diagnostics import Health, Level
from prophrl_nodes.node_base import ProphNode, Refused, run
from prophrl_nodes.parameters import ParameterSpec
from prophrl_nodes.scene_host import PersonSceneHost, open_scene
from prophrl_nodes.trial_sequence import TrialOutcome, TrialRequest, TrialSequence
from robot_bridge.twin.tasks import Placement, get_task

MAX_CONSECUTIVE_INVALID = 3

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
        self._plan = TrialPlan.load(Path(self.value("plan"))) if self.value("plan") else None
        self._scene = open_scene(cell)
        self._sequence = TrialSequence(CellCalls(self), self._scene, self._on_phase)
        self._server = ActionServer(
            self, RunTrial, "run_trial", self._execute, callback_group=self.callbacks,
            goal_callback=self._accept_goal, cancel_callback=lambda _: CancelResponse.ACCEPT,
        )  # fmt: skip
        if isinstance(self._scene, PersonSceneHost):
            self.verb("placed", self._placed)
            self.verb("success", self._judge_success)
            self.verb("failure", self._judge_failure)

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
            self._run_trials(plan)
        except Exception as error:
            self.fail(error)

    def _run_trials(self, plan: TrialPlan) -> None:
        log = Path(self.value("output")) / "trials.jsonl"
        log.parent.mkdir(parents=True, exist_ok=True)
        written = {json.loads(line)["trial_id"] for line in log.read_text().splitlines()} if log.is_file() else set()
        invalid_in_a_row = 0
        for trial in plan.trials:
            if trial.trial_id in written:
                continue
            placement = Placement.from_json(trial.placement)
            instruction = get_task(placement.task).instruction
            request = TrialRequest(
                trial.trial_id, placement, instruction, trial.policy_id, self.value("max_duration_s")
            )
            outcome = self._run_one(request, self._stopping.is_set)
            if self._stopping.is_set():
                return
            if not outcome.valid:
                self.get_logger().error(f"trial {trial.trial_id} void: {outcome.stop_reason}")
                invalid_in_a_row += 1
                if invalid_in_a_row >= MAX_CONSECUTIVE_INVALID:
                    self.request_stop(f"three trials in a row were void; the last: {outcome.stop_reason}", exit_code=1)
                    return
            else:
                invalid_in_a_row = 0
            with log.open("a") as file:
                file.write(json.dumps({**asdict(trial), **asdict(outcome)}) + "\n")
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

    async def _placed(self) -> str:
        self._person("placed").confirm_placed()
        return "thank you"

    async def _judge_success(self) -> str:
        self._person().judge(True, "judged by the operator")
        return "noted: success"

    async def _judge_failure(self) -> str:
        self._person().judge(False, "judged by the operator")
        return "noted: failure"

    def _person(self, verb: str = "") -> PersonSceneHost:
        if not isinstance(self._scene, PersonSceneHost):
            raise Refused("this cell judges by itself (twin)")
        if verb == "placed" and not self._scene.request:
            raise Refused("no placement is being asked for; see /diagnostics")
        return self._scene


def main() -> int:
    """Entry point."""
    return run(TrialsNode)


if __name__ == "__main__":
    sys.exit(main())
