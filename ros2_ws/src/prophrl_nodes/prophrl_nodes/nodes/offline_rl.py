"""Offline reinforcement as a ROS action: bags and two checkpoints in, a reinforced policy out; the robot stands still.

The action ``reinforce_offline`` (ReinforceOffline) runs the flow of ``prophrl rl offline`` in a process of its own, so
that training never shares an interpreter with callbacks; its progress is the feedback. Cancelling, or stopping the
node, interrupts the flow, which saves; the same goal goes on. With ``run`` set it does so once by itself and
ends. With ``after`` set, goals are further rounds of that finished run, and bring bags but neither policy nor world.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prophrl_interfaces.action import ReinforceOffline
from rclpy.action import ActionServer, CancelResponse, GoalResponse

from prophrl_nodes.offline.child import ChildFailed, ChildStopped, run_child
from prophrl_nodes.offline.plan import OfflinePlan, PlanError, settings_argument
from prophrl_nodes.offline.progress import FlowProgress, read_progress
from prophrl_nodes.offline.result import OUTCOME, FlowResult, read_result
from prophrl_nodes.offline.rounds import begin
from prophrl_nodes.ros import Health, Level, ParameterSpec, ProphNode, Value, run

PARAMETERS = (
    ParameterSpec("run", False, "run once with these parameters, then end; false waits for goals"),
    ParameterSpec("bags", "", "bags, or folders of bags, several with colons between them"),
    ParameterSpec("policy", "", "policy checkpoint to start from"),
    ParameterSpec("world", "", "Prophet checkpoint to adapt; empty: one is trained from nothing"),
    ParameterSpec(
        "after", "", "folder of a finished run that is continued with new bags; its policy and world are used"
    ),
    ParameterSpec("task", "", "which task to reinforce; empty: the only one the bags hold"),
    ParameterSpec(
        "judge",
        "",
        "classifier:FOLDER, local:FOLDER or server:ADDRESS,MODEL; empty: one is trained on the bags",
    ),
    ParameterSpec("planned", "", "bags of attempts planned in a world model, for the judge; several with colons"),
    ParameterSpec(
        "audit", "none", "what imagined success is held against: twin (bags of the twin only), a second judge, or none"
    ),
    ParameterSpec("preset", "small", "reinforcement settings, by name or file"),
    ParameterSpec("world_preset", "small_adapt", "settings of the world model's adaptation, by name or file"),
    ParameterSpec("steps", 0, "reinforcement steps; 0: as the preset says", 0, 1_000_000),
    ParameterSpec("world_steps", 0, "steps of the adaptation; 0: as its preset says", 0, 10_000_000),
    ParameterSpec("gates", True, "stop where the check before reinforcement fails"),
    ParameterSpec("seed", 0, "of everything random", 0, 2**31 - 1),
    ParameterSpec("threads", 0, "CPU threads; 0: torch decides", 0, 256),
    ParameterSpec("output", "runs/offline_rl", "folder of the run, new or to be continued"),
)


class OfflineRlNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("offline_rl", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Offer the action."""
        self._place = threading.Lock()  # of the one run, from the moment it is accepted
        self._busy = threading.Lock()  # while it works: what halting waits for
        self._stopping = threading.Event()
        self._progress = FlowProgress("waiting")
        self._last = ""
        self._server = ActionServer(
            self, ReinforceOffline, "reinforce_offline", self._execute, callback_group=self.callbacks,
            goal_callback=self._accept_goal, cancel_callback=lambda _: CancelResponse.ACCEPT,
        )  # fmt: skip

    def start(self) -> None:
        """Begin the one run that was asked for."""
        self._stopping.clear()
        if self.value("run"):
            threading.Thread(target=self._run_once, name="flow", daemon=True).start()

    def halt(self) -> None:
        """Interrupt a flow and wait until it has saved."""
        self._stopping.set()
        with self._busy:
            pass

    def teardown(self) -> None:
        """Take the action away."""
        self._server.destroy()

    def health(self) -> Health:
        """The stage at work, or the last result."""
        progress = self._progress
        values: dict[str, Value] = {"phase": progress.phase, "step": progress.step, "steps": progress.steps}
        if self._busy.locked():
            return Health(Level.OK, f"{progress.phase}: {progress.message}", values)
        failed = self._last.startswith(("failed", "refused"))
        return Health(Level.WARN if failed else Level.OK, self._last or "waiting for a goal", values)

    # ---- the action

    def _accept_goal(self, goal: ReinforceOffline.Goal) -> GoalResponse:
        if not (self.active and self._place.acquire(blocking=False)):
            self.get_logger().error("goal rejected: the node is inactive, or busy with another run")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    async def _execute(self, handle: Any) -> ReinforceOffline.Result:
        def feedback(progress: FlowProgress) -> None:
            handle.publish_feedback(
                ReinforceOffline.Feedback(
                    phase=progress.phase, step=progress.step, steps=progress.steps, elapsed_s=progress.elapsed_s,
                    message=progress.message,
                )
            )  # fmt: skip

        def work() -> FlowResult:
            try:
                return self._reinforce(handle.request, feedback, handle)
            finally:
                self._place.release()

        result = await self.in_thread(work)
        if handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.succeed()
        return ReinforceOffline.Result(**{name: getattr(result, name) for name in OUTCOME})

    def _run_once(self) -> None:
        try:
            with self._place:
                result = self._reinforce(ReinforceOffline.Goal(), lambda progress: None, None)
        except Exception as error:
            self.fail(error)
            return
        if not self._stopping.is_set():
            self.request_stop(result.message, 0 if result.accepted else 1)

    def _reinforce(self, goal: Any, feedback: Callable[[FlowProgress], None], handle: Any) -> FlowResult:
        """One flow from start to end; blocks."""
        output = Path(goal.output or self.value("output")).expanduser().resolve()
        with self._busy:
            try:
                begin(self._plan(goal), output)
            except PlanError as error:
                return self._ended(FlowResult(False, f"refused: {error}"))

            def watch() -> None:
                progress = read_progress(output)
                if progress is not None and progress != self._progress:
                    if progress.phase != self._progress.phase:
                        self.get_logger().info(f"{progress.phase}: {progress.message}")
                    self._progress = progress
                    feedback(progress)

            def should_stop() -> bool:
                return self._stopping.is_set() or (handle is not None and handle.is_cancel_requested)

            command = [sys.executable, "-m", "prophrl_nodes.offline.flow", str(output)]
            try:
                run_child(command, output / "logs" / "flow.log", watch, should_stop)
            except ChildStopped as stopped:
                return self._ended(FlowResult(False, str(stopped)))
            except ChildFailed as failure:
                return self._ended(FlowResult(False, f"failed: {failure}"))
            return self._ended(read_result(output))

    def _ended(self, result: FlowResult) -> FlowResult:
        self._last = result.message
        level = self.get_logger().info if result.accepted else self.get_logger().warning
        level(result.message)
        return result

    def _plan(self, goal: Any) -> OfflinePlan:
        """The goal, completed by the node's parameters; paths made absolute.

        Raises:
            PlanError: not enough to begin with.
        """
        bags = goal.bags or self.value("bags")
        return OfflinePlan(
            bags=tuple(_absolute(path) for path in bags.split(":") if path),
            policy=_absolute(goal.policy or self.value("policy")),
            world=_absolute(goal.world or self.value("world")),
            task=goal.task or self.value("task"),
            judge=goal.judge or self.value("judge"),
            audit=self.value("audit"),
            planned=tuple(_absolute(path) for path in self.value("planned").split(":") if path),
            preset=settings_argument(goal.preset or self.value("preset")),
            world_preset=settings_argument(self.value("world_preset")),
            steps=goal.steps or self.value("steps"),
            world_steps=self.value("world_steps"),
            gates=self.value("gates"),
            seed=goal.seed or self.value("seed"),
            threads=self.value("threads"),
            after=_absolute(self.value("after")),
        )


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve()) if path else ""


def main() -> int:
    """Entry point."""
    return run(OfflineRlNode)


if __name__ == "__main__":
    sys.exit(main())
