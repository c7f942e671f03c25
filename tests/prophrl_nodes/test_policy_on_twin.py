"""Policy and executor on the digital lab: chunks flow, and a kill -9 of either leaves the arm held.

The policy is a real checkpoint of the tiny policy with untrained weights: its chunks are small random motions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from prophrl_interfaces.msg import ActionChunk, ExecutorStatus, ServoStatus
from prophrl_interfaces.srv import OperatorVerb
from prophrl_nodes import qos
from prophrl_nodes.messages import to_matrix, to_nanoseconds
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from calibration.poses import ActionConvention
from prophrl_models.data.episode import ACTION_NAMES, STATE_NAMES
from prophrl_models.data.normalise import Normalisation, StatisticsAccumulator
from prophrl_models.policies.interface import PolicySpec, Scaling
from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.training.checkpoint import save_policy
from robot_bridge.twin.lab import Lab
from tests.helpers.untrained_worlds import write_untrained_world

INSTRUCTION = "place the cube in the bowl"
LIVENESS_S = 60.0
CHUNK = 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained: a zero-initialised head leaves the noise as it is, which the scaling turns into 2 mm steps."""
    spec = PolicySpec(
        ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
        action_scaling=Scaling((0.0,) * 6 + (1.0,), (0.002,) * 3 + (1e-4,) * 3 + (1e-3,)),
        state_scaling=Scaling((0.0,) * 7, (1.0,) * 7),
        chunk=CHUNK,
        num_steps=2,
        instructions=(INSTRUCTION,),
    )
    accumulators = StatisticsAccumulator(STATE_NAMES), StatisticsAccumulator(ACTION_NAMES)
    for accumulator in accumulators:
        accumulator.add(np.random.default_rng(0).normal(size=(10, 7)))
    statistics = Normalisation(*(accumulator.result() for accumulator in accumulators), "none")
    folder = tmp_path_factory.mktemp("policy") / "untrained"
    return save_policy(folder, TinyPolicy(spec), statistics, {"dataset_hash": "none", "calibration_ids": []})


@pytest.fixture
def lab(loopback_host: str) -> Iterator[Lab]:
    with Lab("twin", loopback_host) as lab:
        yield lab


class Run:
    """Arm, camera, executor and policy on one lab, and what they say."""

    def __init__(self, graph: Any, lab: Lab, checkpoint: Path, wait_s: float, **policy: Any) -> None:
        self.graph, self.host, self.checkpoint, self.wait_s = graph, lab.host, checkpoint, wait_s
        self.policy = policy
        self.chunks: list[ActionChunk] = graph.collect(ActionChunk, "policy/chunk")
        self.progress: list[ExecutorStatus] = graph.collect(ExecutorStatus, "executor/status", qos.STATE)
        self.servo: list[ServoStatus] = graph.collect(ServoStatus, "servo/status", qos.STATE)
        self.poses: list[PoseStamped] = graph.collect(PoseStamped, "tcp_pose_broadcaster/pose")
        self.joints: list[JointState] = graph.collect(JointState, "joint_states")
        self.nodes = {name: self.start(name) for name in ("arm", "camera", "executor", "policy")}

    def start(self, name: str) -> Any:
        parameters: dict[str, Any] = {"host": self.host}
        if name == "executor":
            parameters = {"wait_s": self.wait_s}
        elif name == "policy":
            parameters = {"checkpoint": self.checkpoint, **self.policy}
        return self.graph.start(f"prophrl_nodes.nodes.{name}", **parameters)

    def engage_and_start(self) -> None:
        self.graph.until(self._engaged, "the executor to engage", LIVENESS_S)
        self.graph.until(self._started, "the policy to start", LIVENESS_S)

    def wait_chunks(self, more: int) -> None:
        count = len(self.chunks)
        self.graph.until(lambda: len(self.chunks) >= count + more, f"{more} more chunks", LIVENESS_S)

    def wait_executing(self) -> None:
        self.graph.until(
            lambda: self.progress[-1].state == ExecutorStatus.EXECUTING, "a chunk in execution", LIVENESS_S
        )

    def wait_held(self) -> None:
        def resting() -> bool:
            return max(map(abs, self.joints[-1].velocity)) < 0.005 and self.servo[-1].state != ServoStatus.FOLLOWING

        self.graph.until(resting, "the arm to hold", LIVENESS_S)

    def _engaged(self) -> bool:
        return bool(self.graph.call(Trigger, "executor/engage", timeout_s=LIVENESS_S).success)

    def _started(self) -> bool:
        request = OperatorVerb.Request(verb="start", argument=INSTRUCTION)
        return bool(self.graph.call(OperatorVerb, "policy/command", request, timeout_s=LIVENESS_S).success)


@pytest.mark.slow
def test_chunks_flow_and_a_killed_policy_leaves_the_arm_held_until_the_operator_starts_again(
    graph: Any, lab: Lab, checkpoint: Path
) -> None:
    run = Run(graph, lab, checkpoint, wait_s=1.5)
    refused = graph.call(
        OperatorVerb, "policy/command", OperatorVerb.Request(verb="start", argument="dance"), timeout_s=LIVENESS_S
    )
    assert not refused.success
    assert INSTRUCTION in refused.message

    run.engage_and_start()
    run.wait_chunks(3)
    chunk = run.chunks[-1]
    assert (chunk.chunk_length, chunk.execute_length, chunk.action_dim, chunk.policy_id) == (8, 8, 7, "untrained")
    assert chunk.convention == ActionConvention.ABSOLUTE_POSE_DIFFERENCE
    # The reference is where the arm stood when the policy looked: among the measured poses, to the digit.
    references = [to_matrix(c.reference) for c in run.chunks]
    measured = np.array([to_matrix(p.pose) for p in run.poses])
    for T in references:
        assert np.abs(measured - T).max(axis=(1, 2)).min() < 1e-9

    run.wait_executing()
    run.nodes["policy"].kill()
    said = graph.wait_said("executor", "disengaged: no new chunk for 1.5 s", timeout_s=LIVENESS_S)
    assert said.level == DiagnosticStatus.WARN
    run.wait_held()

    since, count = len(graph.statuses), len(run.chunks)
    run.start("policy")
    graph.wait_said("policy", "ready; call policy/start", since=since, timeout_s=LIVENESS_S)
    assert len(run.chunks) == count
    run.engage_and_start()
    run.wait_chunks(2)


@pytest.mark.slow
def test_a_killed_executor_or_camera_holds_the_arm_and_the_policy_says_what_it_waits_for(
    graph: Any, lab: Lab, checkpoint: Path
) -> None:
    run = Run(graph, lab, checkpoint, wait_s=60.0)
    run.engage_and_start()
    run.wait_chunks(1)
    run.nodes["camera"].kill()
    said = graph.wait_said("policy", "cannot look: color: newest sample is", timeout_s=LIVENESS_S)
    assert said.level == DiagnosticStatus.ERROR
    count = len(run.chunks)
    run.start("camera")
    graph.until(lambda: len(run.chunks) > count, "the policy to go on when the camera is back", LIVENESS_S)

    run.wait_executing()
    run.nodes["executor"].kill()
    run.wait_held()
    graph.wait_said("arm", "holding: no valid target from executor", timeout_s=LIVENESS_S)
    count = len(run.chunks)
    run.start("executor")
    graph.wait_said("executor", "ready to engage", since=len(graph.statuses), timeout_s=LIVENESS_S)
    run.engage_and_start()
    graph.until(lambda: len(run.chunks) > count + 1, "chunks after the executor was started again", LIVENESS_S)


@pytest.mark.slow
def test_what_was_being_thought_when_the_run_was_stopped_is_not_said_in_the_next_one(
    graph: Any, lab: Lab, checkpoint: Path
) -> None:
    run = Run(graph, lab, checkpoint, wait_s=60.0, extra_latency_s=2.0)
    run.engage_and_start()
    graph.wait_said("policy", "running: thinking", timeout_s=LIVENESS_S)
    stop = graph.call(OperatorVerb, "policy/command", OperatorVerb.Request(verb="stop"), timeout_s=LIVENESS_S)
    assert stop.success and not run.chunks
    restarted_ns = time.time_ns()
    assert run._started()
    run.wait_chunks(1)
    assert to_nanoseconds(run.chunks[0].header.stamp) > restarted_ns, "the chunk is about what was seen in this run"


@pytest.mark.slow
def test_a_plan_made_in_imagination_is_executed_unseen_and_is_void_when_the_arm_is_taken_away(
    graph: Any, lab: Lab, checkpoint: Path, tmp_path: Path
) -> None:
    world = write_untrained_world(tmp_path / "world")
    run = Run(graph, lab, checkpoint, wait_s=60.0, host=lab.host, plan_in=world, plan_calls=3, execute_length=4)
    plans: list[ActionChunk] = graph.collect(ActionChunk, "policy/plan")
    run.engage_and_start()
    run.wait_chunks(2)
    graph.until(lambda: len(plans) == 1, "the plan", LIVENESS_S)
    whole = np.array(plans[0].actions).reshape(-1, 7)
    assert len(whole) == plans[0].chunk_length == 3 * 4 and plans[0].execute_length == 4
    assert np.array_equal(whole[:4], np.array(run.chunks[0].actions).reshape(-1, 7)[:4])
    (thinking_s, asked_s), moves = ([c.inference_s for c in run.chunks[:2]], np.array(run.chunks[1].actions))
    assert asked_s < thinking_s / 3.0, "the whole plan is the first answer"
    assert run.chunks[0].execute_length == 4 and np.abs(moves.reshape(-1, 7)[:4, :6]).max() > 0.0
    run.wait_executing()
    assert graph.call(Trigger, "executor/disengage", timeout_s=LIVENESS_S).success
    said = graph.wait_said("policy", "a chunk of the plan was not executed", timeout_s=LIVENESS_S)
    assert said.level == DiagnosticStatus.ERROR
    count = len(run.chunks)
    run.engage_and_start()  # the operator says so: a new look, a new plan
    run.wait_chunks(1)
    assert run.chunks[count].inference_s > 3.0 * asked_s
    graph.until(lambda: len(plans) == 2, "another plan", LIVENESS_S)


def test_a_policy_without_a_valid_checkpoint_does_not_start_and_says_why(graph: Any, tmp_path: Path) -> None:
    missing = graph.start("prophrl_nodes.nodes.policy")
    empty = graph.start("prophrl_nodes.nodes.policy", checkpoint=tmp_path)
    assert missing.wait(LIVENESS_S) == 1
    assert "set the parameter 'checkpoint'" in missing.log
    assert empty.wait(LIVENESS_S) == 1
    assert "has no model.safetensors" in empty.log
    assert "Traceback" not in empty.log
