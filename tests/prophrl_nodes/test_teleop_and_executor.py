"""Teleop and executor as processes on a real graph; the test plays the leader, the arm node and the policy."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from prophrl_interfaces.msg import ActionChunk, ExecutorStatus, ServoStatus, ServoTarget
from prophrl_interfaces.srv import OperatorVerb
from prophrl_nodes import qos
from prophrl_nodes.messages import ARM_JOINTS, GRIPPER_JOINT, header, pose_stamped, to_matrix, to_nanoseconds, to_pose
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from calibration.poses import ActionConvention, transform

HOME = np.array([0.0, -1.57, 1.57, -1.57, -1.57, 0.0])
T_HOME = transform((-0.6, 0.1, 0.3), Rotation.from_euler("xyz", (math.pi, 0.0, 1.2)))


class Surroundings:
    """Publishes what leader and arm node would, at 50 Hz, and answers ``arm/command`` as the arm node does."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.q_leader_6: np.ndarray | None = HOME.copy()
        self.opening = 1.0
        self.source = ""
        self.state = ServoStatus.IDLE
        self.reason = ""
        self.arm_alive = True
        self.refuse = ""
        self.verbs: list[tuple[str, str]] = []
        node = graph.node
        self._leader = node.create_publisher(JointState, "gello/joint_states", qos.STREAM)
        self._joints = node.create_publisher(JointState, "joint_states", qos.STREAM)
        self._pose = node.create_publisher(PoseStamped, "tcp_pose_broadcaster/pose", qos.STREAM)
        self._status = node.create_publisher(ServoStatus, "servo/status", qos.STATE)
        node.create_service(OperatorVerb, "arm/command", self._command)
        self.targets = graph.collect(ServoTarget, "servo/target")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(2.0)

    def _command(self, request: Any, response: Any) -> Any:
        self.verbs.append((request.verb, request.argument))
        response.success, response.message = not self.refuse, self.refuse or "done"
        if request.verb == "engage" and not self.refuse:
            self.source, self.state = request.argument, ServoStatus.FOLLOWING
        elif request.verb == "disengage":
            self.source, self.state = "", ServoStatus.IDLE
        return response

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            now_ns = time.time_ns()
            if self.q_leader_6 is not None:
                names, positions = [*ARM_JOINTS, GRIPPER_JOINT], [*self.q_leader_6.tolist(), self.opening]
                self._leader.publish(JointState(header=header(now_ns), name=names, position=positions))
            if self.arm_alive:
                self._joints.publish(JointState(header=header(now_ns), name=ARM_JOINTS, position=HOME.tolist()))
                self._pose.publish(pose_stamped(T_HOME, now_ns, "base"))
                self._status.publish(
                    ServoStatus(header=header(now_ns), state=self.state, source=self.source, reason=self.reason)
                )


@pytest.fixture
def cell(graph: Any) -> Iterator[Surroundings]:
    surroundings = Surroundings(graph)
    yield surroundings
    surroundings.stop()


def engage(graph: Any, node: str) -> None:
    """Engage as an operator does: as soon as the node is ready."""
    graph.wait_said(node, "ready to engage")
    answer = graph.call(Trigger, f"{node}/engage")
    assert answer.success, answer.message


def test_teleop_gates_follows_stops_and_needs_a_new_engage_after_a_lost_leader(graph: Any, cell: Surroundings) -> None:
    assert cell.q_leader_6 is not None
    cell.q_leader_6[2] += 0.3
    graph.start("prophrl_nodes.nodes.teleop")
    graph.wait_said("teleop", "cannot engage: leader and follower differ by +0.30 rad at elbow_joint")
    answer = graph.call(Trigger, "teleop/engage")
    assert not answer.success
    assert "elbow_joint" in answer.message
    assert cell.verbs == []

    cell.q_leader_6 = HOME + 2.0 * math.pi * np.array([0, 0, 0, 0, 0, 1])  # the leader lost count by a turn
    engage(graph, "teleop")
    assert cell.verbs == [("engage", "teleop")]
    cell.q_leader_6 = cell.q_leader_6 + 0.05
    cell.opening = 0.25
    graph.until(lambda: cell.targets and cell.targets[-1].gripper_opening == 0.25, "targets that follow the leader")
    target = cell.targets[-1]
    np.testing.assert_allclose(target.joint_positions, HOME + 0.05, atol=1e-9)
    assert (target.source, target.mode) == ("teleop", ServoTarget.JOINT)
    assert [t.sequence for t in cell.targets] == sorted({t.sequence for t in cell.targets})
    age_s = (time.time_ns() - to_nanoseconds(target.header.stamp)) * 1e-9
    assert age_s < 1.0  # stamped with the leader's measurement

    cell.q_leader_6 = None
    silent = graph.wait_said("teleop", "leader silent for")
    assert silent.level == DiagnosticStatus.ERROR
    graph.until(lambda: ("disengage", "") in cell.verbs, "teleop to let go of the arm")
    count = len(cell.targets)
    since = len(graph.statuses)
    cell.q_leader_6 = HOME.copy()
    graph.wait_said("teleop", "engage again", since=since)
    assert len(cell.targets) == count  # nothing moves before the operator says so
    assert graph.call(Trigger, "teleop/engage").success
    graph.until(lambda: len(cell.targets) > count, "targets after engaging again")


def test_teleop_lets_go_when_it_is_told_to_end_or_when_the_arm_stops(graph: Any, cell: Surroundings) -> None:
    process = graph.start("prophrl_nodes.nodes.teleop")
    engage(graph, "teleop")
    cell.source, cell.state, cell.reason = "", ServoStatus.STOPPED, "protective stop"
    graph.wait_said("teleop", "disengaged: arm is stopped: protective stop")
    cell.state, cell.reason = ServoStatus.IDLE, ""
    assert graph.call(Trigger, "teleop/engage").success
    cell.verbs.clear()
    assert process.stop() == 0  # at once: the arm has not yet said that it obeys
    graph.until(lambda: cell.verbs == [("disengage", "")], "a last word to the arm")


def test_teleop_reports_a_refusal_of_the_arm_and_a_missing_arm(graph: Any, cell: Surroundings) -> None:
    graph.start("prophrl_nodes.nodes.teleop")
    graph.wait_said("teleop", "ready to engage")
    cell.refuse = "engaged by 'executor': disengage it first"
    answer = graph.call(Trigger, "teleop/engage")
    assert not answer.success
    assert answer.message == "arm refused to engage: engaged by 'executor': disengage it first"
    cell.arm_alive = False
    said = graph.wait_said("teleop", "no joint positions from the follower")
    assert said.level == DiagnosticStatus.WARN


def a_chunk(sequence: int, **changes: Any) -> ActionChunk:
    actions = np.zeros((20, 7), np.float32)
    actions[:, 0] = 0.005
    actions[:, 6] = 0.5
    chunk = ActionChunk(header=header(time.time_ns(), "base"), sequence=sequence, policy_id="test")
    chunk.convention = int(ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    chunk.rate_hz, chunk.chunk_length, chunk.execute_length, chunk.action_dim = 20.0, 20, 8, 7
    chunk.actions = actions.reshape(-1).tolist()
    chunk.reference = to_pose(T_HOME)
    for name, value in changes.items():
        setattr(chunk, name, value)
    return chunk


def test_the_executor_streams_a_chunk_waits_stops_and_needs_a_new_engage(graph: Any, cell: Surroundings) -> None:
    graph.start("prophrl_nodes.nodes.executor", wait_s=0.6)
    statuses = graph.collect(ExecutorStatus, "executor/status", qos.STATE)
    chunks = graph.node.create_publisher(ActionChunk, "policy/chunk", qos.COMMAND)
    graph.until(lambda: chunks.get_subscription_count() == 1, "the executor to listen")
    graph.wait_said("executor", "ready to engage")
    chunks.publish(a_chunk(1))
    graph.wait_said("executor", "chunk refused: the executor is not engaged")

    engage(graph, "executor")
    assert cell.verbs == [("engage", "executor")]
    chunks.publish(a_chunk(2))
    graph.until(lambda: statuses[-1].state == ExecutorStatus.STOPPED, "the executor to give up waiting")
    states = [s.state for s in statuses if s.sequence == 2]
    assert sorted(states, key=[1, 2, 3].index) == states
    assert max(s.step for s in statuses if s.sequence == 2) == 8
    assert "no new chunk for 0.6 s" in statuses[-1].reason
    graph.until(lambda: ("disengage", "") in cell.verbs, "the executor to let go of the arm")

    x = np.array([to_matrix(t.pose)[0, 3] for t in cell.targets])
    assert x[0] == pytest.approx(-0.6, abs=0.003)
    assert x[-1] == pytest.approx(-0.6 + 8 * 0.005, abs=1e-6)
    assert np.all(np.diff(x) >= -1e-9)
    assert np.max(np.diff(x)) < 0.008  # 0.1 m/s at 100 Hz: no leap, even on a busy machine
    assert {(t.source, t.mode, t.header.frame_id) for t in cell.targets} == {("executor", ServoTarget.TCP_POSE, "base")}
    assert {t.gripper_opening for t in cell.targets} == {0.5}

    count = len(cell.targets)
    chunks.publish(a_chunk(3))
    graph.wait_said("executor", "chunk refused: the executor is not engaged", since=len(graph.statuses))
    assert len(cell.targets) == count
    assert graph.call(Trigger, "executor/engage").success


def test_the_executor_refuses_senseless_chunks_and_says_why(graph: Any, cell: Surroundings) -> None:
    graph.start("prophrl_nodes.nodes.executor")
    chunks = graph.node.create_publisher(ActionChunk, "policy/chunk", qos.COMMAND)
    graph.until(lambda: chunks.get_subscription_count() == 1, "the executor to listen")
    engage(graph, "executor")
    far = T_HOME.copy()
    far[2, 3] += 0.2
    for sequence, (changes, words) in enumerate(
        [
            ({"convention": 9}, "action convention 9 is unknown"),
            ({"actions": [0.0] * 21}, "21 numbers do not fill 20 rows of 7"),
            ({"actions": [math.nan] * 140}, "finite"),
            ({"reference": to_pose(far)}, "starts 0.200 m from the measured TCP"),
            ({"execute_length": 0}, "execute_length must lie in [1, 20]"),
        ],
        start=1,
    ):
        chunks.publish(a_chunk(sequence, **changes))
        said = graph.wait_said("executor", words)
        assert said.level == DiagnosticStatus.ERROR
        assert f"chunk {sequence} of policy 'test'" in said.message
    assert cell.targets == []


def test_the_executor_stops_when_the_arm_node_falls_silent(graph: Any, cell: Surroundings) -> None:
    graph.start("prophrl_nodes.nodes.executor")
    chunks = graph.node.create_publisher(ActionChunk, "policy/chunk", qos.COMMAND)
    graph.until(lambda: chunks.get_subscription_count() == 1, "the executor to listen")
    engage(graph, "executor")

    def moving() -> bool:
        if not cell.targets:  # refused until the executor has heard where the arm is
            chunks.publish(a_chunk(1, rate_hz=2.0))
        return len(cell.targets) > 10

    graph.until(moving, "targets")
    cell.arm_alive = False
    assert graph.wait_said("executor", "disengaged: arm node silent for").level == DiagnosticStatus.WARN
    count = len(cell.targets)
    graph.wait_said("executor", "disengaged", since=len(graph.statuses))
    assert len(cell.targets) - count <= 1
