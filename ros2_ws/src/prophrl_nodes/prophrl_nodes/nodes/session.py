"""The collection session node: collects a number of good demonstrations of one task, then ends.

On the twin the lab's scripted operator demonstrates; on hardware a person does, and answers through the verbs
``~/placed``, ``~/accept`` and ``~/discard``. Attempts are appended to ``<output>/session.jsonl``.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from prophrl_models.data.lines import LineError
from prophrl_nodes.calls import CallError
from prophrl_nodes.cell_calls import CellCalls
from prophrl_nodes.collection import Attempt, CollectionSession, SessionPlan
from prophrl_nodes.diagnostics import Health, Level
from prophrl_nodes.parameters import ParameterSpec
from prophrl_nodes.ros import ProphNode, Refused, run
from prophrl_nodes.scene_host import PersonSceneHost, open_scene
from robot_bridge.cell_files import open_cell
from robot_bridge.twin.tasks import TASK_IDS

PARAMETERS = (
    ParameterSpec("cell", "twin", "cell name or path of a cell file"),
    ParameterSpec("host", "", "address that replaces {host} in the cell file"),
    ParameterSpec("task", "place_cube", "task to demonstrate", choices=TASK_IDS),
    ParameterSpec("episodes", 10, "good demonstrations to collect", minimum=1, maximum=100_000),
    ParameterSpec("seed", 0, "seed of placements and of the scripted operator", minimum=0, maximum=20_000),
    ParameterSpec("output", "runs/session", "folder for session.jsonl"),
    ParameterSpec("operator_name", "scripted operator", "who demonstrates; stored with every episode"),
    ParameterSpec("instruction", "", "what the robot is told; empty: the task's own words"),
)


class SessionNode(ProphNode):
    """Runs a ``CollectionSession`` in a thread of its own."""

    def __init__(self) -> None:
        super().__init__("session", PARAMETERS)
        self._phase = "starting"
        self._session: CollectionSession | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def setup(self) -> None:
        cell = open_cell(self.value("cell"), self.value("host"))
        self._scene = open_scene(cell)
        self._calls = CellCalls(self)
        if isinstance(self._scene, PersonSceneHost):
            self.verb("placed", self._placed)
            self.verb("accept", self._accept)
            self.verb("discard", self._discard)

    def start(self) -> None:
        plan = SessionPlan(
            task=self.value("task"),
            episodes=self.value("episodes"),
            seed=self.value("seed"),
            output=Path(self.value("output")),
            operator_name=self.value("operator_name"),
            instruction=self.value("instruction"),
        )
        self._stopping.clear()
        self._thread = threading.Thread(target=self._collect, args=(plan,), name="session", daemon=True)
        self._thread.start()

    def halt(self) -> None:
        self._stopping.set()

    def health(self) -> Health:
        session = self._session
        asked = self._scene.request if isinstance(self._scene, PersonSceneHost) else ""
        return Health(
            Level.OK,
            f"waiting for you: {asked}" if asked else self._phase,
            {"kept": str(session.kept), "attempts": str(session.attempts)} if session else {},
        )

    def _collect(self, plan: SessionPlan) -> None:
        try:
            session = CollectionSession(plan, self._calls, self._scene, self._on_phase, self._on_attempt)
            self._session = session
            kept = session.run(self._stopping.is_set)
        except (CallError, LineError) as error:
            self.request_stop(f"collection stopped: {error}", exit_code=1)
        except Exception as error:
            self.fail(error)
        else:
            self.request_stop(f"{kept} of {plan.episodes} demonstrations collected")

    def _on_phase(self, phase: str) -> None:
        self._phase = phase

    def _on_attempt(self, attempt: Attempt) -> None:
        kept = self._session.kept if self._session else 0
        self.get_logger().info(
            f"attempt {attempt.index + 1}: {attempt.outcome} in {attempt.duration_s:.1f} s, "
            f"{kept} of {self.value('episodes')} kept ({attempt.reason})"
        )

    async def _placed(self) -> str:
        self._person().confirm_placed()
        return "thank you, recording starts"

    async def _accept(self) -> str:
        self._person().judge(True, "accepted by the operator")
        return "kept"

    async def _discard(self) -> str:
        self._person().judge(False, "discarded by the operator")
        return "moved to discarded"

    def _person(self) -> PersonSceneHost:
        if not isinstance(self._scene, PersonSceneHost) or not self._scene.request:
            raise Refused("nothing is being asked right now; see /diagnostics for the session's phase")
        return self._scene


def main() -> int:
    """Entry point."""
    return run(SessionNode)


if __name__ == "__main__":
    sys.exit(main())
