"""Puts recorded episodes back on the cell and measures how far the arm was from what it did then.

Parameters name a bag or a folder of bags; each is replayed from its recorded joints, or from its delta actions through
the executor node, and a report is written to ``output``. On the twin the recorded scene is restored and the truth
judges; on hardware a person places and judges through ``~/placed``, ``~/success`` and ``~/failure``. After any stop
everything is dropped, and nothing moves before a person has said ``~/proceed``.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from prophrl_models.data.bag import BagError, find_bags
from prophrl_nodes.calls import CallError
from prophrl_nodes.camera_file import CameraFile
from prophrl_nodes.cell_calls import READY_TIMEOUT_S, CellCalls
from prophrl_nodes.person_verbs import add_person_verbs
from prophrl_nodes.replaying.outcome import EpisodeOutcome, outcome_of, rates, void, write_outcome
from prophrl_nodes.replaying.plan import ReplayError, ReplayMode, ReplayPlan, check_cell, read_plan
from prophrl_nodes.replaying.sequence import ReplaySequence
from prophrl_nodes.replaying.streamers import RosStreamer
from prophrl_nodes.ros import CELL_PARAMETERS, Health, Level, ParameterSpec, ProphNode, Refused, run
from prophrl_nodes.scene_host import PersonSceneHost, SceneError, open_scene
from robot_bridge.cell_files import open_cell
from robot_bridge.twin.lab_client import LabError

MAX_CONSECUTIVE_VOID = 3
MAX_GRIPPER_DELAY_S = 1.0

PARAMETERS = (
    *CELL_PARAMETERS,
    ParameterSpec("bags", "", "bag, or folder of bags, to replay; several with colons between them"),
    ParameterSpec("limit", 0, "replay the first so many of them; 0: all", minimum=0, maximum=100_000),
    ParameterSpec(
        "mode", "actions", "from the delta actions or the recorded joints", choices=tuple(m.value for m in ReplayMode)
    ),
    ParameterSpec(
        "gripper_delay_s",
        0.0,
        "let the gripper's commands wait for the arm, which comes behind its targets",
        minimum=0.0,
        maximum=MAX_GRIPPER_DELAY_S,
    ),
    ParameterSpec("output", "runs/replay", "folder for one report per episode"),
    ParameterSpec("same_calibration", True, "refuse bags recorded under another camera calibration"),
    ParameterSpec("unattended", False, "twin only: go on after a stop without waiting for ~/proceed"),
)


class ReplayNode(ProphNode):
    """Replays in a thread of its own and ends when all bags were tried."""

    def __init__(self) -> None:
        super().__init__("replay", PARAMETERS)
        self._phase = "starting"
        self._waiting = ""
        self._stopped_by = ""  # what stopped the last episode once the arm was asked to move; a bad bag moves nothing
        self._stopping = threading.Event()
        self._proceed_said = threading.Event()
        self._outcomes: list[EpisodeOutcome] = []

    def setup(self) -> None:
        self._cell = open_cell(self.value("cell"), self.value("host"))
        if self.value("unattended") and self._cell.twin is None:
            raise Refused("unattended is for the twin: beside a real arm a person decides when it moves again")
        self._bags = _bags(self.value("bags"), self.value("limit"))
        self._scene = open_scene(self._cell)
        self._camera = CameraFile(self._cell)
        self._calls = CellCalls(self)
        self._streamer = RosStreamer(self, self._calls, self._cell.safety.engage_difference_rad)
        self._sequence = ReplaySequence(self._calls, self._scene, self._streamer, self._on_phase)
        self.verb("proceed", self._proceed)
        add_person_verbs(self, self._scene)

    def start(self) -> None:
        self._stopping.clear()
        threading.Thread(target=self._work, name="replay", daemon=True).start()

    def halt(self) -> None:
        """Send nothing more and let go of the arm."""
        self._stopping.set()
        self._streamer.halt()

    def health(self) -> Health:
        asked = self._scene.request if isinstance(self._scene, PersonSceneHost) else ""
        wins = sum(outcome.success for outcome in self._outcomes)
        figures = {"bags": len(self._bags), "replayed": len(self._outcomes), "succeeded": wins}
        if self._waiting:
            return Health(Level.WARN, f"waiting for ~/proceed: {self._waiting}", figures)
        return Health(Level.OK, f"waiting for you: {asked}" if asked else self._phase, figures)

    # ---- the work

    def _work(self) -> None:
        try:
            self._wait_until_ready()
            self._replay_all()
        except CallError as error:
            self.request_stop(f"replay stopped: {error}", exit_code=1)
        except Exception as error:
            self.fail(error)

    def _wait_until_ready(self) -> None:
        """Nodes of one launch come up in any order."""
        self._phase = "waiting for the cell"
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not self._stopping.is_set():
            try:
                self._calls.arm("disengage")
                return
            except CallError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.5)

    def _replay_all(self) -> None:
        void_in_a_row = 0
        for number, path in enumerate(self._bags, 1):
            self._phase = f"reading {path.name}"
            self._stopped_by = ""
            outcome = self._replay(path)
            if self._stopping.is_set():
                return
            self._outcomes.append(outcome)
            write_outcome(Path(self.value("output")), outcome)
            self._say(number, outcome)
            void_in_a_row = 0 if outcome.valid else void_in_a_row + 1
            if void_in_a_row >= MAX_CONSECUTIVE_VOID and number < len(self._bags):
                raise CallError(f"{void_in_a_row} episodes in a row could not be replayed; the last: {outcome.reason}")
            if self._stopped_by and number < len(self._bags):
                self._wait_for_operator(self._stopped_by)
        found = [f"{r.successes} of {r.trials} of {task}" for task, r in rates(self._outcomes).items()]
        self.request_stop(
            f"{len(self._outcomes)} episodes replayed; succeeded again: {', '.join(found) or 'none judged'}"
        )

    def _replay(self, path: Path) -> EpisodeOutcome:
        mode, delay_s = self.value("mode"), float(self.value("gripper_delay_s"))
        plan: ReplayPlan | None = None
        try:
            plan = read_plan(path, mode, rate_hz=self._cell.control_rate_hz)
            self._camera.reload_if_changed()
            check_cell(plan, self._cell.name, self._camera.calibration_id if self.value("same_calibration") else "")
            replayed = self._sequence.run(plan, delay_s, self._stopping.is_set)
        except (BagError, ReplayError) as error:
            return void(str(path), mode, self._cell.name, str(error), plan)
        except (CallError, SceneError, LabError) as error:
            self._stopped_by = "; ".join([str(error), *self._calls.let_go()])
            return void(str(path), mode, self._cell.name, self._stopped_by, plan)
        self._stopped_by = replayed.stop_reason
        return outcome_of(plan, replayed, lane=self._cell.name, gripper_delay_s=delay_s)

    def _say(self, number: int, outcome: EpisodeOutcome) -> None:
        tracking = outcome.tracking
        error = f", {tracking['position_mm']['p95']:.1f} mm p95" if tracking else ""
        word = ("success" if outcome.success else "failure") if outcome.valid else "not replayed"
        reason = outcome.stop_reason or outcome.reason
        self.get_logger().info(f"{number} of {len(self._bags)}, {outcome.episode_id}: {word}{error} ({reason})")

    def _wait_for_operator(self, reason: str) -> None:
        """Nothing moves until a person says so; the next episode begins with recovery, which seeds the servo anew."""
        if self.value("unattended"):
            return
        self._proceed_said.clear()
        self._waiting = reason
        self.get_logger().warning(f"waiting for replay/proceed: {reason}")
        while not self._proceed_said.wait(0.2) and not self._stopping.is_set():
            pass
        self._waiting = ""

    def _on_phase(self, phase: str) -> None:
        self._phase = phase

    # ---- verbs

    async def _proceed(self) -> str:
        if not self._waiting:
            raise Refused(f"nothing waits for this; the node is {self._phase}")
        self._proceed_said.set()
        return "the next episode begins"


def _bags(words: str, limit: int) -> list[Path]:
    """The bags meant by the parameter.

    Raises:
        Refused: none given, or none there.
    """
    roots = [word for word in words.split(os.pathsep) if word]
    if not roots:
        raise Refused("bags is empty; name a bag or a folder of bags, as bags:=runs/collect/bags")
    try:
        found = find_bags(roots)
    except BagError as error:
        raise Refused(str(error)) from error
    if not found:
        raise Refused(f"no bag below {', '.join(roots)}; discarded and incomplete ones are not replayed from a folder")
    return found[: limit or None]


def main() -> int:
    """Entry point of the executable ``replay``."""
    return run(ReplayNode)


if __name__ == "__main__":
    sys.exit(main())
