"""One evaluation trial: place, home, record, run the policy, judge. Used by the run_trial action and by plans."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from prophrl_interfaces.action import RecordEpisode

from prophrl_nodes.calls import CallError
from prophrl_nodes.cell_calls import CellCalls
from prophrl_nodes.scene_host import SceneError, SceneHost, Verdict
from robot_bridge.twin.lab_client import LabError
from robot_bridge.twin.tasks import Placement, get_task

POLL_S = 0.2
CANCELLED = "cancelled"
STEADY_S = 0.6
"""Success must hold this long before it ends a trial: a cube that bounces out was never in."""


@dataclass(frozen=True)
class TrialRequest:
    """What to try. ``policy_id`` goes into the record, not to anyone at the table.

    ``choose``: the policy node has several policies and is to take the one of this letter.
    """

    trial_id: str
    placement: Placement
    instruction: str
    policy_id: str
    max_duration_s: float
    choose: str = ""


@dataclass(frozen=True)
class TrialOutcome:
    """``valid`` is False when the trial could not be run, which is not a failure of the policy.

    ``duration_s`` is in the scene's time, ``wall_s`` in the wall clock's: a twin on a busy machine runs slower.
    """

    valid: bool
    success: bool
    stop_reason: str
    verdict: Verdict
    bag_path: str = ""
    duration_s: float = 0.0
    wall_s: float = 0.0


class TrialSequence:
    """Runs trials one after the other; ``on_phase`` hears where it is."""

    def __init__(self, cell: CellCalls, scene: SceneHost, on_phase: Callable[[str], None]) -> None:
        self._cell, self._scene, self._on_phase = cell, scene, on_phase

    def run(self, request: TrialRequest, should_stop: Callable[[], bool] = lambda: False) -> TrialOutcome:
        """Run one trial; infrastructure errors give an invalid outcome, after everything was let go of."""
        try:
            return self._run(request, should_stop)
        except (CallError, SceneError, LabError) as error:
            problems = self._cell.let_go()
            reason = "; ".join([str(error), *problems])
            return TrialOutcome(False, False, reason, Verdict(False, reason, "nobody"))

    def _run(self, request: TrialRequest, should_stop: Callable[[], bool]) -> TrialOutcome:
        self._on_phase("homing")
        self._cell.home()
        if request.choose:
            self._cell.choose_policy(request.choose)
        self._on_phase("placing the objects")
        self._scene.place(request.placement)
        self._on_phase("recording")
        handle = self._cell.start_recording(self._goal(request))
        self._on_phase("running")
        self._scene.start_trial()
        self._cell.engage_executor()
        self._cell.start_policy(request.instruction)
        started_s, wall_started_s = self._scene.clock_s(), time.monotonic()
        stop_reason, verdict = self._watch(request.max_duration_s, should_stop)
        duration_s, wall_s = self._scene.clock_s() - started_s, time.monotonic() - wall_started_s
        self._cell.stop_policy()
        self._cell.disengage_executor()
        self._on_phase("judging")
        verdict = verdict or self._scene.verdict()
        # Whoever broke a trial off has not seen how it would have ended; judges learn from what the bag says.
        outcome = "success" if verdict.success else "unknown" if stop_reason == CANCELLED else "failure"
        note = f"{stop_reason}; {verdict.reason}"
        episode = self._cell.finish_recording(handle, accept=True, outcome=outcome, note=note)
        return TrialOutcome(True, verdict.success, stop_reason, verdict, episode.bag_path, duration_s, wall_s)

    def _watch(self, max_duration_s: float, should_stop: Callable[[], bool]) -> tuple[str, Verdict | None]:
        """Wait until the task is done, the arm stops, time is up or we are asked to stop."""
        deadline_s = self._scene.clock_s() + max_duration_s
        steady_since_s: float | None = None
        while True:
            now_s = self._scene.clock_s()
            if self._cell.stopped_reason():
                return f"arm stopped: {self._cell.stopped_reason()}", None
            verdict = self._scene.try_verdict()
            if verdict is not None and verdict.judge == "operator":
                return "judged by the operator", verdict
            if verdict is not None and verdict.success:
                steady_since_s = now_s if steady_since_s is None else steady_since_s
                if now_s - steady_since_s >= STEADY_S:
                    return "task done", verdict
            else:
                steady_since_s = None
            if now_s > deadline_s:
                return f"time limit of {max_duration_s:.0f} s", None
            if should_stop():
                return CANCELLED, None
            time.sleep(POLL_S)

    def _goal(self, request: TrialRequest) -> RecordEpisode.Goal:
        task = get_task(request.placement.task)
        return RecordEpisode.Goal(
            episode_id="",
            task=task.id,
            instruction=request.instruction or task.instruction,
            operator_name="policy",
            placement_json=json.dumps(request.placement.to_json()),
            metadata_json=json.dumps({"trial_id": request.trial_id, "policy_id": request.policy_id}),
            max_duration_s=2.0 * request.max_duration_s,
        )
