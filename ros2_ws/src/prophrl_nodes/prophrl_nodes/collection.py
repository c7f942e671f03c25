"""A collection session: place, home, engage, record, demonstrate, judge, keep; again until enough are kept.

The sequence is the same on the twin and on hardware; what differs is the scene host.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from prophrl_interfaces.action import RecordEpisode

from prophrl_models.data.lines import LineError, append_line, read_lines
from prophrl_nodes.calls import CallError
from prophrl_nodes.cell_calls import CellCalls
from prophrl_nodes.scene_host import SceneError, SceneHost, Verdict
from robot_bridge.twin.lab_client import LabError
from robot_bridge.twin.tasks import Placement, get_task, sample_placement

MAX_CONSECUTIVE_ERRORS = 3
"""A cell that cannot finish three attempts in a row needs a person, not a fourth attempt."""
SETTLE_S = 0.5
"""Still images after the operator let go: the last frames of a demonstration show the outcome."""


@dataclass(frozen=True)
class SessionPlan:
    """What to collect. ``operator_name`` and ``instruction`` are stored with every episode."""

    task: str
    episodes: int
    seed: int
    output: Path
    operator_name: str
    instruction: str
    attempts_factor: float = 2.0


@dataclass(frozen=True)
class Attempt:
    """One line of ``session.jsonl``."""

    index: int
    seed: int
    accepted: bool
    outcome: str
    reason: str
    bag_path: str
    duration_s: float
    placement: dict[str, object]


def read_attempts(log: Path) -> list[Attempt]:
    """Attempts written so far.

    Raises:
        LineError: a line is damaged (half a line at the end, of a program that died, is no damage).
    """
    found = []
    for number, record in read_lines(log):
        try:
            found.append(Attempt(**record))
        except TypeError as error:
            raise LineError(log, number, error) from error
    return found


class CollectionSession:
    """Runs a plan; ``on_attempt`` hears of every attempt as soon as it is on disk.

    ``attempts`` and ``kept`` count those of an interrupted session, too.
    """

    def __init__(
        self, plan: SessionPlan, cell: CellCalls, scene: SceneHost, on_phase: Callable[[str], None],
        on_attempt: Callable[[Attempt], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._plan, self._cell, self._scene = plan, cell, scene
        self._on_phase, self._on_attempt = on_phase, on_attempt
        self._task = get_task(plan.task)
        self._instruction = plan.instruction or self._task.instruction
        plan.output.mkdir(parents=True, exist_ok=True)
        self._log = plan.output / "session.jsonl"
        earlier = read_attempts(self._log)
        self.attempts, self.kept = len(earlier), sum(attempt.accepted for attempt in earlier)

    def run(self, should_stop: Callable[[], bool]) -> int:
        """Collect until enough episodes are kept, those of an interrupted session included; returns how many are.

        An attempt that breaks (a node died, a protective stop) is logged, let go of and repeated with a new
        placement.

        Raises:
            CallError: three attempts in a row broke, or too many attempts failed; the message has the last reason.
        """
        errors = 0
        self._on_phase("waiting for the cell")
        self._cell.wait_until_ready()
        limit = int(np.ceil(self._plan.episodes * self._plan.attempts_factor)) + MAX_CONSECUTIVE_ERRORS
        while self.kept < self._plan.episodes and not should_stop():
            index = self.attempts
            if index >= limit:
                raise CallError(
                    f"only {self.kept} of {self._plan.episodes} demonstrations were good after {index} attempts"
                )
            try:
                attempt = self._attempt(index)
                errors = 0
            except (CallError, SceneError, LabError) as error:
                errors += 1
                attempt = Attempt(index, self._seed(index), False, "error", str(error), "", 0.0, {})
                problems = self._cell.let_go()
                if errors >= MAX_CONSECUTIVE_ERRORS:
                    reasons = "; ".join([str(error), *problems])
                    raise CallError(f"{errors} attempts in a row broke; the last: {reasons}") from error
            self._record(attempt)
        return self.kept

    def _seed(self, index: int) -> int:
        return self._plan.seed * 100_000 + index

    def _attempt(self, index: int) -> Attempt:
        seed = self._seed(index)
        placement = sample_placement(self._plan.task, np.random.default_rng(seed))
        self._on_phase("homing")
        self._cell.home()
        self._on_phase("placing the objects")
        self._scene.place(placement)
        self._scene.align_leader()
        self._cell.engage_teleop()
        self._on_phase("recording")
        handle = self._cell.start_recording(self._goal(placement, index))
        started = time.monotonic()
        ended = self._scene.demonstrate(seed, self._task.max_duration_s)
        time.sleep(SETTLE_S)
        verdict = self._judge(ended)
        self._on_phase("saving")
        outcome = "success" if verdict.success else "failure"
        episode = self._cell.finish_recording(handle, accept=verdict.success, outcome=outcome, note=verdict.reason)
        self._cell.disengage_teleop()
        duration_s = episode.duration_s or time.monotonic() - started
        return Attempt(
            index, seed, verdict.success, outcome, verdict.reason, episode.bag_path, duration_s, placement.to_json()
        )

    def _judge(self, ended: str) -> Verdict:
        stopped = self._cell.stopped_reason()
        if stopped:
            return Verdict(False, f"the arm stopped: {stopped}", "servo")
        verdict = self._scene.verdict()
        return verdict if verdict.success else replace(verdict, reason=f"{verdict.reason} ({ended})")

    def _goal(self, placement: Placement, index: int) -> RecordEpisode.Goal:
        return RecordEpisode.Goal(
            episode_id="",
            task=self._plan.task,
            instruction=self._instruction,
            operator_name=self._plan.operator_name,
            placement_json=json.dumps(placement.to_json()),
            metadata_json=json.dumps({"session_seed": self._plan.seed, "attempt": index}),
            max_duration_s=2.0 * self._task.max_duration_s,
        )

    def _record(self, attempt: Attempt) -> None:
        append_line(self._log, asdict(attempt))
        self.attempts += 1
        self.kept += attempt.accepted
        self._on_attempt(attempt)
