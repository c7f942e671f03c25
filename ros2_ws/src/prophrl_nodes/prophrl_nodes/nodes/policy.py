"""The policy: looks when the last chunk is done, thinks, and publishes the next chunk of actions.

Subscribes to ``camera/color/image_raw``, ``tcp_pose_broadcaster/pose``, ``gripper/state``, ``executor/status`` and
``servo/status``; publishes ``policy/chunk``. Verbs: ``policy/command`` (``start`` with the instruction as argument,
``stop``) and ``~/start``, ``~/stop``. A run begins only when an operator says so, also after a restart of this node.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from prophrl_interfaces.msg import ActionChunk, ExecutorStatus, GripperState
from prophrl_interfaces.srv import OperatorVerb
from sensor_msgs.msg import Image

from prophrl_models.data.episode import Observation
from prophrl_models.data.streams import COLOR, GRIPPER, TCP_POSE, color_sample, gripper_sample, pose_sample
from prophrl_models.data.synchronise import Snapshot, Synchroniser
from prophrl_nodes import qos
from prophrl_nodes.arm_link import ArmLink
from prophrl_nodes.messages import header, to_nanoseconds, to_pose
from prophrl_nodes.policy_turn import PolicyTurn
from prophrl_nodes.ros import Health, Level, ParameterSpec, PeriodicThread, ProphNode, Refused, Value, run

if TYPE_CHECKING:
    from prophrl_nodes.policy_runner import PolicyRunner

POLL_S = 0.01

PARAMETERS = (
    ParameterSpec("checkpoint", "", "folder of the policy checkpoint to run"),
    ParameterSpec("instruction", "", "what to do, in the words of the training set", changeable=True),
    ParameterSpec(
        "execute_length",
        0,
        "actions of each chunk to execute before looking again, 0: the whole chunk",
        0,
        200,
        changeable=True,
    ),
    ParameterSpec("settle_s", 0.15, "pause after a chunk before the next observation, for the arm to settle", 0.0, 2.0),
    ParameterSpec("device", "auto", "torch device", choices=("auto", "cpu", "cuda")),
    ParameterSpec("seed", 0, "seed of the sampling noise, the same at each start", 0, 2**31 - 1),
    ParameterSpec("torch_threads", 1, "CPU threads for the policy, 0: torch decides", 0, 64),
)


class PolicyNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("policy", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Load the checkpoint and connect the topics."""
        self._runner = self._load()
        self._synchroniser = Synchroniser(self._runner.sync, self.value("instruction"))
        self._turn = PolicyTurn(self.value("settle_s"))
        self._lock = threading.Lock()
        self._running = False
        self._doing = ""
        self._trouble = ""
        self._sequence = 0
        self._inference_s = 0.0
        self._unusable: dict[str, str] = {}
        self._chunks = self.publisher(ActionChunk, "policy/chunk", qos.COMMAND)
        self._arm = ArmLink(self, "policy")
        self.subscribe(Image, "camera/color/image_raw", self._on_image, qos.IMAGE_LATEST, raw=True)
        self.subscribe(PoseStamped, "tcp_pose_broadcaster/pose", self._on_pose, qos.STREAM)
        self.subscribe(GripperState, "gripper/state", self._on_gripper, qos.STREAM)
        self.subscribe(ExecutorStatus, "executor/status", self._on_executor, qos.STATE)
        self.service(OperatorVerb, "policy/command", self._on_command)
        self.verb("start", self._start_run)
        self.verb("stop", self._stop_run)
        self._thread: PeriodicThread | None = None

    def start(self) -> None:
        """Start the thread that looks and thinks; it waits for the verb ``start``."""
        self._thread = PeriodicThread("policy", POLL_S, self._work, self.fail)
        self._thread.start()

    def halt(self) -> None:
        """Publish no more chunks."""
        self._running = False
        if self._thread is not None:
            self._thread.stop(timeout_s=10.0)

    def health(self) -> Health:
        """Running or not, what is waited for, and how old the inputs are."""
        snapshot = self._synchroniser.snapshot(time.time_ns())
        values: dict[str, Value] = {
            "policy": self._runner.policy_id,
            "device": self._runner.device,
            "instruction": self._synchroniser.instruction,
            "running": self._running,
            "chunks": self._sequence,
            "inference_s": self._inference_s,
            **{f"{stream}_age_s": age_s for stream, age_s in snapshot.age_s.items()},
        }
        if self._unusable:
            stream, why = next(iter(self._unusable.items()))
            return Health(Level.ERROR, f"unusable {stream}: {why}", values)
        if self._trouble:
            return Health(Level.ERROR, self._trouble, values)
        if self._running:
            doing = f"waiting for {self._doing}" if self._doing else "thinking"
            return Health(Level.OK, f"running: {doing}", values)
        if snapshot.problems:
            return Health(Level.WARN, f"not ready: {'; '.join(snapshot.problems)}", values)
        return Health(Level.OK, "ready; call policy/start", values)

    def _load(self) -> PolicyRunner:
        folder = self.value("checkpoint")
        if not folder:
            raise Refused("no policy: set the parameter 'checkpoint' to a folder written by prophrl train")
        from prophrl_nodes.policy_runner import CheckpointError, PolicyRunner

        try:
            return PolicyRunner(folder, self.value("device"), self.value("seed"), self.value("torch_threads"))
        except CheckpointError as error:
            raise Refused(str(error)) from error

    # ---- verbs

    async def _on_command(self, request: Any) -> str:
        if request.verb == "start":
            return await self._start_run(request.argument)
        if request.verb == "stop":
            return await self._stop_run()
        raise Refused(f"unknown verb {request.verb!r}, this node knows start <instruction> and stop")

    async def _start_run(self, instruction: str = "") -> str:
        instruction = instruction or self.value("instruction")
        known = self._runner.spec.instructions
        if not instruction or (known and instruction not in known):
            raise Refused(f"instruction {instruction!r} is not one this policy was trained on: {'; '.join(known)}")
        length = self.value("execute_length")
        if length > self._runner.spec.chunk:
            raise Refused(f"execute_length {length} exceeds the policy's chunk of {self._runner.spec.chunk} actions")
        with self._lock:
            self._synchroniser.instruction = instruction
            self._runner.restart()
            self._turn.begin()
            self._trouble, self._running = "", True
        return f"running {self._runner.policy_id}: {instruction}"

    async def _stop_run(self) -> str:
        with self._lock:
            was_running, self._running, self._trouble = self._running, False, ""
        return "stopped; the executor finishes its chunk and then holds" if was_running else "was not running"

    # ---- inputs

    def _on_image(self, cdr: bytes) -> None:
        self._take(COLOR, lambda: color_sample(cdr))

    def _on_pose(self, message: PoseStamped) -> None:
        self._take(TCP_POSE, lambda: pose_sample(message))

    def _on_gripper(self, message: GripperState) -> None:
        self._take(GRIPPER, lambda: gripper_sample(message))

    def _take(self, stream: str, read: Callable[[], tuple[int, Any]]) -> None:
        try:
            self._synchroniser.push(stream, *read())
        except ValueError as error:  # a publisher that sends something else than we were trained on
            self._unusable[stream] = str(error)
        else:
            self._unusable.pop(stream, None)

    def _on_executor(self, message: ExecutorStatus) -> None:
        stamp_ns = to_nanoseconds(message.header.stamp)
        self._turn.on_executor(int(message.state), int(message.sequence), str(message.reason), stamp_ns)

    # ---- the loop

    def _work(self) -> None:
        """One poll: when it is our turn and the observation is fresh, answer it."""
        if not self._running:
            return
        status = self._arm.status
        source, state = (None, 0) if status is None else (str(status.source), int(status.state))
        turn = self._turn.ask(time.time_ns(), source, state)
        if not turn.mine:
            self._doing, self._trouble = turn.waiting_for, ""
            return
        snapshot = self._synchroniser.snapshot(time.time_ns())
        if snapshot.observation is None:
            self._trouble = f"cannot look: {'; '.join(snapshot.problems)}; the arm waits"
        elif min(snapshot.stamp_ns.values()) < turn.not_before_ns:
            self._doing, self._trouble = "the arm to settle", ""
        else:
            self._answer(snapshot.observation, snapshot)

    def _answer(self, observation: Observation, snapshot: Snapshot) -> None:
        self._doing, self._trouble = "", ""
        actions, self._inference_s = self._runner.infer(observation)
        with self._lock:
            if not self._running:
                return  # stopped while thinking: say nothing
            self._sequence += 1
            self._turn.on_sent(self._sequence, time.time_ns())
            self._chunks.publish(self._message(actions, snapshot))

    def _message(self, actions_CHD: NDArray[np.float32], snapshot: Snapshot) -> ActionChunk:
        spec = self._runner.spec
        rows, columns = actions_CHD.shape
        message = ActionChunk(
            header=header(snapshot.now_ns, "base"),
            sequence=self._sequence,
            policy_id=self._runner.policy_id,
            convention=int(spec.convention),
            rate_hz=float(spec.control_rate_hz),
            chunk_length=rows,
            execute_length=self.value("execute_length") or rows,
            action_dim=columns,
            inference_s=self._inference_s,
        )
        message.actions = actions_CHD.reshape(-1).tolist()
        assert snapshot.T_base_tcp is not None  # an observation has a pose
        message.reference = to_pose(snapshot.T_base_tcp)
        return message


def main() -> None:
    """Entry point of the executable ``policy``."""
    sys.exit(run(PolicyNode))


if __name__ == "__main__":
    main()
