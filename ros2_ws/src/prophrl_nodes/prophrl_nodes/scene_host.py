"""Who puts the objects on the table, demonstrates and judges: the twin's lab, or a person.

Collection sessions and trials are the same sequence on the twin and on hardware; this is the only seam.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from robot_bridge.cell import CellConfig
from robot_bridge.twin.lab_client import LabClient, OperatorClient
from robot_bridge.twin.tasks import Placement

ALIGN_TIMEOUT_S = 10.0
SETTLE_S = 0.3
"""Scene time that objects need to come to rest and pictures of the scene before need to arrive."""


class SceneError(RuntimeError):
    """The scene could not be prepared, demonstrated or judged."""


@dataclass(frozen=True)
class Verdict:
    """Did the task succeed, in whose eyes and why."""

    success: bool
    reason: str
    judge: str
    terms: dict[str, bool] = field(default_factory=dict)


class SceneHost(Protocol):
    """What a session or a trial needs from whoever stands at the table."""

    def place(self, placement: Placement) -> None:
        """Put the objects where the placement says; returns when they stand there."""

    def align_leader(self) -> None:
        """Have the leader brought to the follower's pose, so that the engage gate can open."""

    def demonstrate(self, seed: int, timeout_s: float) -> str:
        """Let the operator demonstrate once; returns how it ended."""

    def verdict(self) -> Verdict:
        """Judge the scene as it is now."""

    def clock_s(self) -> float:
        """The time that limits are counted in: a twin on a busy machine runs slower than the wall clock."""

    def start_trial(self) -> None:
        """A policy is about to move: forget earlier verdicts."""

    def try_verdict(self) -> Verdict | None:
        """Like ``verdict`` where judging costs nothing (the twin); None where a person would be disturbed."""


class TwinSceneHost:
    """The digital lab: objects appear in place, the scripted operator demonstrates, ground truth judges."""

    def __init__(self, host: str, lab_port: int, operator_port: int) -> None:
        self._lab = LabClient(host, lab_port)
        self._operator = OperatorClient(host, operator_port)

    def place(self, placement: Placement) -> None:
        self._lab.reset_scene(placement.task, placement.to_json())
        settled_s = self.clock_s() + SETTLE_S
        while self.clock_s() < settled_s:
            time.sleep(0.02)

    def align_leader(self) -> None:
        self._operator.call("align")
        self._wait_idle(ALIGN_TIMEOUT_S)

    def demonstrate(self, seed: int, timeout_s: float) -> str:
        self._operator.demonstrate(seed)
        return str(self._wait_idle(timeout_s).get("outcome", ""))

    def stop_demonstration(self) -> None:
        """Make the operator let go of the leader where it is."""
        self._operator.stop()

    def verdict(self) -> Verdict:
        report = self._lab.truth()
        return Verdict(bool(report["success"]), str(report["reason"]), "twin ground truth", dict(report["terms"]))

    def clock_s(self) -> float:
        return float(self._lab.status()["time_s"])

    def start_trial(self) -> None:
        """Nothing to forget: the truth is asked for each time."""

    def try_verdict(self) -> Verdict | None:
        return self.verdict()

    def _wait_idle(self, timeout_s: float) -> dict[str, Any]:
        deadline_s = self.clock_s() + timeout_s
        while True:
            status = self._operator.status()
            if not status["busy"]:
                return status
            if self.clock_s() > deadline_s:
                self._operator.stop()
                raise SceneError(
                    f"the scripted operator was still in phase {status['phase']!r} after {timeout_s:.0f} s; "
                    "the demonstration was stopped"
                )
            time.sleep(0.05)


class PersonSceneHost:
    """A person at the table, who answers through services of the node that asks."""

    def __init__(self, timeout_s: float = 600.0) -> None:
        self._timeout_s = timeout_s
        self._placed = threading.Event()
        self._judged = threading.Event()
        self._verdict = Verdict(False, "not judged", "operator")
        self.request = ""

    def confirm_placed(self) -> None:
        """The operator says that everything stands as asked."""
        self._placed.set()

    def judge(self, success: bool, reason: str) -> None:
        """The operator's verdict; it also ends a demonstration in progress."""
        self._verdict = Verdict(success, reason, "operator")
        self._judged.set()

    def place(self, placement: Placement) -> None:
        self._placed.clear()
        self._ask(f"place the objects as in {placement.to_json()} and confirm", self._placed)

    def align_leader(self) -> None:
        """Nothing to do: the engage gate tells the operator which joint is off."""

    def demonstrate(self, seed: int, timeout_s: float) -> str:
        del seed
        self._judged.clear()
        self._ask("demonstrate the task, then say success or failure", self._judged, timeout_s)
        return "judged"

    def verdict(self) -> Verdict:
        self._ask("judge the trial: success or failure", self._judged)
        return self._verdict

    def try_verdict(self) -> Verdict | None:
        return self._verdict if self._judged.is_set() else None

    def clock_s(self) -> float:
        return time.monotonic()

    def start_trial(self) -> None:
        self._judged.clear()

    def _ask(self, request: str, answered: threading.Event, timeout_s: float | None = None) -> None:
        self.request = request
        if not answered.wait(timeout_s or self._timeout_s):
            raise SceneError(f"nobody answered the request {request!r} within {timeout_s or self._timeout_s:.0f} s")
        self.request = ""


def open_scene(cell: CellConfig) -> SceneHost:
    """The scene host of a cell: the lab when there is one, otherwise a person."""
    if cell.twin is None:
        return PersonSceneHost()
    return TwinSceneHost(cell.robot.host, cell.twin.lab_port, cell.twin.operator_port)
