"""The fast lane and the wire path are the same world: one policy, same placements, same outcome, same way.

The policy is a plan from a known placement, given the measured pose at each step like any policy: it corrects what it
finds. Through ROS and RTDE its chunks go to the executor node; in the fast lane they are executed in-process.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from prophrl_interfaces.msg import ActionChunk, ExecutorStatus
from prophrl_interfaces.srv import OperatorVerb
from prophrl_nodes import qos
from prophrl_nodes.messages import header, to_matrix, to_pose
from scipy.spatial import cKDTree
from std_srvs.srv import Trigger

from calibration.poses import ActionConvention, difference, interpolate
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.lab import Lab
from robot_bridge.twin.lab_client import LabClient
from robot_bridge.twin.shared_state import WorldStateReader
from robot_bridge.twin.tasks import Placement, get_task, held_out_placements, top_down

Array = NDArray[np.float64]
CONVENTION = ActionConvention.ABSOLUTE_POSE_DIFFERENCE
RATE_HZ = 10.0
SPEED_MPS = 0.15
LIVENESS_S = 60.0


def plan(placement: Placement) -> list[tuple[Array, float, int]]:
    """(TCP pose, opening, shortest number of actions) of each leg of place_cube."""
    grasp = get_task(placement.task).grasp
    T_object, T_target = np.eye(4), np.eye(4)
    x, y, yaw = placement.objects["cube"]
    T_object[:3, 3] = (x, y, 0.0225)
    T_object[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    T_target[:2, 3] = placement.objects["bowl"][:2]
    at_cube = grasp.grasp_pose(T_object)
    at_bowl = grasp.place_pose(T_target, at_cube)

    def above(T: Array, height_m: float) -> Array:
        raised = T.copy()
        raised[2, 3] += height_m
        return raised

    over_cube = top_down(above(at_cube, 0.12)[:3, 3], 0.0)
    return [
        (over_cube, 1.0, 5), (above(at_cube, 0.08), 1.0, 5), (at_cube, 1.0, 5), (at_cube, 0.0, 12),
        (above(at_cube, 0.14), 0.0, 5), (above(at_bowl, 0.10), 0.0, 5), (at_bowl, 0.0, 8), (at_bowl, 1.0, 8),
        (above(at_bowl, 0.14), 1.0, 5), (above(at_bowl, 0.14), 1.0, 10),
    ]  # fmt: skip


def chunk(T_measured: Array, leg: tuple[Array, float, int]) -> Array:
    """Actions [CH, 7] from the measured pose to the end of a leg, at a steady pace."""
    T_goal, opening, shortest = leg
    count = max(shortest, int(np.ceil(np.linalg.norm(T_goal[:3, 3] - T_measured[:3, 3]) / SPEED_MPS * RATE_HZ)))
    poses = [interpolate(T_measured, T_goal, k / count) for k in range(count + 1)]
    steps = [difference(a, b, CONVENTION) for a, b in itertools.pairwise(poses)]
    return np.column_stack([np.array(steps), np.full(count, opening)])


def run_fast(placement: Placement) -> tuple[bool, Array]:
    """Outcome and TCP path [N, 3] in the fast lane."""
    with FastLane(placement.task, render=False) as lane:
        lane.reset(placement)
        for leg in plan(placement):
            lane.execute_chunk(chunk(lane.world.T_base_tcp, leg), CONVENTION)
            lane.hold(0.3)
        return lane.success().success, lane.trajectory[:, :3, 3]


class Wire:
    """Arm and executor nodes on a lab; executes chunks as the policy node would have them executed."""

    def __init__(self, graph: Any, lab: Lab) -> None:
        assert lab.cell.twin is not None
        self.graph = graph
        self.client = LabClient(lab.host, lab.cell.twin.lab_port)
        self.world = WorldStateReader(lab.directory)
        self.progress: list[ExecutorStatus] = graph.collect(ExecutorStatus, "executor/status", qos.STATE)
        self.poses: list[PoseStamped] = graph.collect(PoseStamped, "tcp_pose_broadcaster/pose")
        self.chunks = graph.node.create_publisher(ActionChunk, "policy/chunk", qos.COMMAND)
        graph.start("prophrl_nodes.nodes.arm", host=lab.host)
        graph.start("prophrl_nodes.nodes.executor", wait_s=30.0)
        self.sequence = 0

    def verb(self, verb: str, argument: str = "") -> bool:
        request = OperatorVerb.Request(verb=verb, argument=argument)
        return bool(self.graph.call(OperatorVerb, "arm/command", request, timeout_s=LIVENESS_S).success)

    def run(self, placement: Placement) -> tuple[bool, Array]:
        """Outcome and TCP path [N, 3] through DDS, executor, servo, RTDE and URScript."""
        self.graph.until(lambda: self.verb("disengage"), "the arm to be ready", LIVENESS_S)
        assert self.verb("gripper", "1.0")
        assert self.verb("home")
        self.client.reset_scene(placement.task, placement.to_json())
        engage = "executor/engage"
        self.graph.until(lambda: self.graph.call(Trigger, engage).success, f"{engage} to succeed", LIVENESS_S)
        path: list[Array] = []
        for leg in plan(placement):
            self._execute(chunk(to_matrix(self.poses[-1].pose), leg), path)
        success = bool(self.client.truth()["success"])
        assert self.graph.call(Trigger, "executor/disengage").success
        return success, np.array(path)

    def _execute(self, actions_CHD: Array, path: list[Array]) -> None:
        self.sequence += 1
        measured = self.poses[-1]
        self.chunks.publish(
            ActionChunk(
                header=header(measured.header.stamp.sec * 10**9 + measured.header.stamp.nanosec, "base"),
                sequence=self.sequence,
                policy_id="plan",
                convention=int(CONVENTION),
                rate_hz=RATE_HZ,
                chunk_length=len(actions_CHD),
                execute_length=len(actions_CHD),
                action_dim=7,
                actions=actions_CHD.astype(np.float32).reshape(-1).tolist(),
                reference=to_pose(to_matrix(measured.pose)),
            )
        )

        def done() -> bool:
            path.append(self.world.read().T_base_tcp[:3, 3])
            said = self.progress[-1]
            assert said.state != ExecutorStatus.STOPPED, said.reason
            return said.sequence == self.sequence and said.state == ExecutorStatus.WAITING

        self.graph.until(done, f"chunk {self.sequence} to be executed", LIVENESS_S)
        still: list[Array] = []

        def settled() -> bool:
            path.append(self.world.read().T_base_tcp[:3, 3])
            still.append(path[-1])
            return len(still) > 30 and bool(np.linalg.norm(still[-1] - still[-20]) < 1e-4)

        self.graph.until(settled, "the arm to settle", LIVENESS_S)


@pytest.mark.slow
def test_the_same_policy_on_the_same_placements_does_the_same_in_both_lanes(graph: Any, loopback_host: str) -> None:
    with Lab("twin", loopback_host) as lab:
        wire = Wire(graph, lab)
        for placement in held_out_placements("place_cube", 3):
            fast_success, fast_path = run_fast(placement)
            wire_success, wire_path = wire.run(placement)
            assert (fast_success, wire_success) == (True, True), placement
            # Ways are compared, not times: through ROS the arm waits a little longer between chunks.
            away_m = cKDTree(fast_path).query(wire_path)[0]
            back_m = cKDTree(wire_path).query(fast_path)[0]
            assert np.percentile(away_m, 95) < 0.003
            assert np.percentile(back_m, 95) < 0.003
            assert max(away_m.max(), back_m.max()) < 0.008
