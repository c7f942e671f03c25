"""The policy: looks, thinks, and publishes the next chunk of actions.

With ``chunking`` "synchronous" it looks when the last chunk is done. With "real_time" it looks while that is still in
execution, early enough (by the latency it measures) that the answer comes before the rows run out, and the answer
continues what is in execution: see docs/chunking.md.

Subscribes to ``camera/color/image_raw``, ``tcp_pose_broadcaster/pose``, ``gripper/state``, ``executor/status`` and
``servo/status``; publishes ``policy/chunk``, and ``policy/plan`` where it has one. Verbs: ``policy/command`` (``start``
with the instruction as argument, ``stop``) and ``~/start``, ``~/stop``. A run begins only when an operator says so,
also after a restart of this node.

With ``plan_in`` it looks once: it plans the whole attempt in that world model, executes the plan unseen and then holds.
A plan of which a chunk was not executed (the arm was stopped or taken away) ends the run.

With ``policies`` and ``plan`` it has all policies of a trial plan at hand, and ``policy/command`` takes ``choose`` with
a letter of the plan. From then on, also in its messages, the policy is called by this letter: nobody at the table is to
know which one moves the arm.
"""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from prophrl_interfaces.msg import ActionChunk, ExecutorStatus, GripperState
from prophrl_interfaces.srv import OperatorVerb
from sensor_msgs.msg import Image

from prophrl_models.data.episode import Observation
from prophrl_models.data.streams import TCP_POSE
from prophrl_models.data.synchronise import Snapshot
from prophrl_models.policies.grip import CLOSE_BELOW
from prophrl_nodes import qos
from prophrl_nodes.arm_link import ArmLink
from prophrl_nodes.chunk_player import Chunk
from prophrl_nodes.chunk_schedule import TRACKING_LAG_S, Continuation
from prophrl_nodes.loaded_policy import LoadedPolicy, load_policy, wanted_policies
from prophrl_nodes.messages import header, to_nanoseconds, to_pose
from prophrl_nodes.policy_turn import PolicyTurn
from prophrl_nodes.ros import (
    CELL_PARAMETERS,
    Health,
    Level,
    ParameterSpec,
    PeriodicThread,
    ProphNode,
    Refused,
    Value,
    run,
)

POLL_S = 0.01
NICENESS = -5
"""The arm waits for what this node thinks, or acts on old pictures meanwhile; camera and recorder have time."""

PARAMETERS = (
    *CELL_PARAMETERS,
    ParameterSpec("checkpoint", "", "folder of the policy checkpoint to run, or the ws:// address of a policy server"),
    ParameterSpec("policies", "", "instead of checkpoint: NAME=CHECKPOINT for each policy of a trial plan"),
    ParameterSpec("plan", "", "trial plan that these policies are compared in; its key lies beside it"),
    ParameterSpec("token_file", "", "file with the bearer token of that server, when it asks for one"),
    ParameterSpec("instruction", "", "what to do, in the words of the training set", changeable=True),
    ParameterSpec(
        "execute_length",
        0,
        "actions of each chunk to execute before looking again, 0: the whole chunk",
        0,
        200,
        changeable=True,
    ),
    ParameterSpec("plan_in", "", "world model: plan the whole attempt in it at the first look, execute that unseen"),
    ParameterSpec("plan_calls", 16, "chunks of such a plan", 1, 200),
    ParameterSpec("plan_noise", 0.7, "noise to explore with in such a plan, 0: as the policy is deployed", 0.0, 2.0),
    ParameterSpec("settle_s", 0.15, "pause after a chunk before the next observation, for the arm to settle", 0.0, 2.0),
    ParameterSpec("device", "auto", "torch device", choices=("auto", "cpu", "cuda")),
    ParameterSpec(
        "precision",
        "auto",
        "of a big policy in this process; auto: bfloat16 on a GPU, else as it was saved",
        choices=("auto", "float32", "bfloat16"),
    ),
    ParameterSpec("compile", False, "torch.compile the policy in this process: minutes at the start, then faster"),
    ParameterSpec("seed", 0, "of the sampling noise; start number n, from 0, has that of seed + n", 0, 2**31 - 1),
    ParameterSpec("torch_threads", 1, "CPU threads for the policy, 0: torch decides", 0, 64),
    ParameterSpec(
        "chunking",
        "synchronous",
        "synchronous: look when a chunk is done; real_time: look before, and continue it",
        choices=("synchronous", "real_time"),
    ),
    ParameterSpec(
        "tracking_lag_s",
        TRACKING_LAG_S,
        "how far the measured TCP runs behind its target, for real-time chunking",
        0.0,
        1.0,
    ),
    ParameterSpec(
        "close_below",
        CLOSE_BELOW,
        "a gripper opening the policy says below this is sent as closed, 0: as it is said",
        0.0,
        1.0,
        changeable=True,
    ),
    ParameterSpec(
        "extra_latency_s", 0.0, "added to each answer, for experiments with slow policies", 0.0, 10.0, changeable=True
    ),
)


class PolicyNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("policy", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Load the checkpoints and connect the topics."""
        wanted = wanted_policies(self.value("checkpoint"), self.value("policies"), self.value("plan"))
        self._loaded: dict[str, LoadedPolicy] = {}
        for letter, where in wanted.items():
            self._loaded[letter] = load_policy(where, letter, self.value)
        self._chosen = len(self._loaded) == 1
        self._turn = PolicyTurn(self.value("settle_s"))
        self._use(next(iter(self._loaded.values())))
        self._lock = threading.Lock()
        self._running = False
        self._run = 0  # counts starts: an answer that was asked for in an earlier run is not for this one
        self._doing = ""
        self._trouble = ""
        self._sequence = 0
        self._inference_s = 0.0
        self._chunks = self.publisher(ActionChunk, "policy/chunk", qos.COMMAND)
        self._plans = self.publisher(ActionChunk, "policy/plan", qos.COMMAND)
        self._arm = ArmLink(self, "policy")
        image, pose, state = "camera/color/image_raw", "tcp_pose_broadcaster/pose", "gripper/state"
        self.subscribe(Image, image, lambda cdr: self._inputs.on_image(cdr), qos.IMAGE_LATEST, raw=True)
        self.subscribe(PoseStamped, pose, lambda message: self._inputs.on_pose(message), qos.STREAM)
        self.subscribe(GripperState, state, lambda message: self._inputs.on_gripper(message), qos.STREAM)
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

    def teardown(self) -> None:
        """Let go of the policies, which may be connections."""
        for loaded in self._loaded.values():
            loaded.runner.close()

    def health(self) -> Health:
        """Running or not, what is waited for, and how old the inputs are."""
        snapshot = self._inputs.snapshot(time.time_ns())
        values: dict[str, Value] = {
            "policy": self._name,
            "device": self._runner.device,
            "instruction": self._inputs.instruction,
            "running": self._running,
            "chunks": self._sequence,
            "chunking": self.value("chunking"),
            "close_below": self.value("close_below"),
            "inference_s": self._inference_s,
            "latency_typical_s": self._budget.typical_s,
            "latency_expected_s": self._budget.expected_s,
            "latency_worst_s": self._budget.worst_s,
            "latency_overruns": self._budget.overruns,
            **self._real_time_values(),
            **{f"{stream}_age_s": age_s for stream, age_s in snapshot.age_s.items()},
        }
        if self._inputs.unusable:
            stream, why = next(iter(dict(self._inputs.unusable).items()))
            return Health(Level.ERROR, f"unusable {stream}: {why}", values)
        if self._trouble:
            return Health(Level.ERROR, self._trouble, values)
        if self._running:
            doing = f"waiting for {self._doing}" if self._doing else "thinking"
            return Health(Level.OK, f"running: {doing}", values)
        if snapshot.problems:
            return Health(Level.WARN, f"not ready: {'; '.join(snapshot.problems)}", values)
        if not self._chosen:
            return Health(Level.OK, f"waiting for policy/command choose, one of {', '.join(self._loaded)}", values)
        return Health(Level.OK, "ready; call policy/start", values)

    def _use(self, loaded: LoadedPolicy) -> None:
        """From now on this policy looks and thinks."""
        self._name, self._runner, self._inputs, self._feed = loaded.name, loaded.runner, loaded.inputs, loaded.feed
        self._budget, self._schedule = loaded.budget, loaded.schedule
        self._turn.schedule, self._planner = loaded.schedule, loaded.planner

    def _execute_length(self) -> int:
        return int(self.value("execute_length") or self._runner.spec.chunk)

    def _real_time_values(self) -> dict[str, Value]:
        """The budget of real-time chunking: rows of a chunk until the next look, and those left for the answer."""
        if self._schedule is None:
            return {}
        left_s = (self._schedule.chunk - self._schedule.look_at) / self._schedule.rate_hz
        return {"look_at_step": self._schedule.look_at, "latency_budget_s": left_s}

    # ---- verbs

    async def _on_command(self, request: Any) -> str:
        if request.verb == "start":
            return await self._start_run(request.argument)
        if request.verb == "stop":
            return await self._stop_run()
        if request.verb == "choose":
            return self._choose(request.argument)
        raise Refused(f"unknown verb {request.verb!r}, this node knows choose, start <instruction> and stop")

    def _choose(self, letter: str) -> str:
        if "" in self._loaded:
            raise Refused(f"this node runs {self._name} and no other; start it with policies and plan to choose")
        if letter not in self._loaded:
            raise Refused(f"no policy {letter!r} here, there are {', '.join(self._loaded)}")
        with self._lock:
            if self._running:
                raise Refused(f"policy {self._name} is running; stop it before another one is chosen")
            self._use(self._loaded[letter])
            self._chosen = True
        return f"policy {letter}"

    async def _start_run(self, instruction: str = "") -> str:
        if not self._chosen:
            raise Refused(f"no policy is chosen; say choose with one of {', '.join(self._loaded)}")
        instruction = instruction or self.value("instruction")
        known = self._runner.spec.instructions
        if not instruction or (known and instruction not in known):
            raise Refused(f"instruction {instruction!r} is not one this policy was trained on: {'; '.join(known)}")
        length = self.value("execute_length")
        if length > self._runner.spec.chunk:
            raise Refused(f"execute_length {length} exceeds the policy's chunk of {self._runner.spec.chunk} actions")
        if self._planner and self._execute_length() != self._planner.keep:
            raise Refused(
                f"execute_length is {length}, the plan would be of {self._planner.keep} rows; restart the node"
            )
        with self._lock:
            self._inputs.instruction = instruction
            self._runner.restart(self._run)
            self._turn.begin()
            self._feed.begin()
            if self._schedule is not None:
                self._schedule.execute_length = self._execute_length()
            self._trouble, self._running = "", True
            self._run += 1
        return f"running {self._name}: {instruction}"

    async def _stop_run(self) -> str:
        with self._lock:
            was_running, self._running, self._trouble = self._running, False, ""
        return "stopped; the executor finishes its chunk and then holds" if was_running else "was not running"

    # ---- inputs

    def _on_executor(self, message: ExecutorStatus) -> None:
        stamp_ns = to_nanoseconds(message.header.stamp)
        self._turn.on_executor(
            int(message.state), int(message.sequence), str(message.reason), stamp_ns, float(message.progress)
        )

    # ---- the loop

    def _work(self) -> None:
        """One poll: when it is our turn and the observation is fresh, answer it."""
        if not self._running:
            return
        status = self._arm.status
        source, state = (None, 0) if status is None else (str(status.source), int(status.state))
        turn = self._turn.ask(time.time_ns(), source, state)
        if self._planner and self._turn.begun and (turn.lost or (turn.mine and not self._turn.taken())):
            self._end_plan()
            return
        if not turn.mine:
            self._doing, self._trouble = turn.waiting_for, ""
            return
        snapshot = self._inputs.snapshot(time.time_ns())
        if snapshot.observation is None:
            self._trouble = f"cannot look: {'; '.join(snapshot.problems)}; the arm waits"
        elif min(snapshot.stamp_ns.values()) < turn.not_before_ns:
            self._doing, self._trouble = "the arm to settle", ""
        else:
            self._answer(snapshot.observation, snapshot, turn.continues)

    def _end_plan(self) -> None:
        """What was planned goes on from where the arm is no more."""
        with self._lock:
            self._running = False
            self._trouble = (
                "a chunk of the plan was not executed, so the rest of it is void; put everything back where it was and "
                "start again"
            )
        self.get_logger().warning(self._trouble)

    def _answer(self, observation: Observation, snapshot: Snapshot, continues: bool) -> None:
        from prophrl_nodes.policy_runner import ServingError

        assert snapshot.T_base_tcp is not None  # an observation has a pose
        self._doing, self._trouble = "", ""
        run = self._run
        # Everything is counted from the pose that the chunk starts from: on a busy machine that is tens of ms old.
        seen_ns = snapshot.stamp_ns[TCP_POSE]
        continuation = self._turn.continuation(seen_ns, snapshot.T_base_tcp) if continues else None
        committed = None if continuation is None else continuation.committed
        self._runner.extra_latency_s = self.value("extra_latency_s")
        self._runner.close_below = self.value("close_below")
        try:
            answer = self._runner.infer(self._feed.observe(observation, self._turn.taken()), committed=committed)
        except ServingError as error:
            self._trouble = f"{error}; the executor finishes its chunk and holds, and the policy asks again"
            return
        self._inference_s = answer.inference_s
        with self._lock:
            if not self._running or run != self._run:
                return  # stopped, and perhaps started again, while thinking: say nothing
            self._sequence += 1
            now_ns = time.time_ns()
            chunk = self._chunk(answer.actions_CHD, snapshot, continuation)
            self._budget.add((now_ns - seen_ns) * 1e-9)
            self._turn.on_sent(self._sequence, now_ns)
            self._feed.sent(answer.actions_CHD[: chunk.execute_length])
            if self._schedule is not None:
                self._schedule.sent(chunk)
            if self._planner and self._planner.chunks_given == 1:
                self._publish_plan(chunk, snapshot)
            self._chunks.publish(self._message(chunk, snapshot, committed.frozen if committed else 0))

    def _chunk(self, actions_CHD: NDArray[np.float32], snapshot: Snapshot, continuation: Continuation | None) -> Chunk:
        """In real time all rows are for execution: those behind the next look are the reserve for a late answer."""
        real_time = self._schedule is not None
        spec = self._runner.spec
        return Chunk(
            self._sequence,
            np.asarray(snapshot.T_base_tcp),
            actions_CHD.astype(np.float64),
            spec.convention,
            float(spec.control_rate_hz),
            len(actions_CHD) if real_time else self._execute_length(),
            follows=continuation.follows if continuation else 0,
            start_step=continuation.start_step if continuation else 0.0,
            real_time=real_time,
        )

    def _publish_plan(self, first: Chunk, snapshot: Snapshot) -> None:
        """All rows of the plan at once: a recording has them whatever becomes of the attempt."""
        assert self._planner is not None and self._planner.plan_SN7 is not None  # it has just given its first chunk
        whole = self._planner.plan_SN7.reshape(-1, first.actions_CHD.shape[1])
        self._plans.publish(self._message(replace(first, actions_CHD=whole.astype(np.float64)), snapshot, 0))

    def _message(self, chunk: Chunk, snapshot: Snapshot, frozen: int) -> ActionChunk:
        rows, columns = chunk.actions_CHD.shape
        message = ActionChunk(
            header=header(snapshot.now_ns, "base"),
            sequence=chunk.sequence,
            policy_id=self._name,
            convention=int(chunk.convention),
            rate_hz=chunk.rate_hz,
            chunk_length=rows,
            execute_length=chunk.execute_length,
            action_dim=columns,
            inference_s=self._inference_s,
            follows=chunk.follows,
            start_step=chunk.start_step,
            frozen=frozen,
            real_time=chunk.real_time,
        )
        message.actions = chunk.actions_CHD.astype(np.float32).reshape(-1).tolist()
        message.reference = to_pose(chunk.T_base_reference)
        return message


def main() -> None:
    """Entry point of the executable ``policy``."""
    sys.exit(run(PolicyNode, niceness=NICENESS))


if __name__ == "__main__":
    main()
