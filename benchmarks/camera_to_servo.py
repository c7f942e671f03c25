#!/usr/bin/env python3
"""From a picture to the arm's motion, without a model: every real process and DDS of a twin cell.

A stand-in for the policy answers each picture at once with a two-row chunk that moves the tool by 3 mm. Times count
from the picture's stamp (the instant the world was drawn) to: its arrival, the first servo target that comes of it,
and the first motion of the simulated joints. Prints one JSON line, with the lab's own pace beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Pose, PoseStamped
from prophrl_interfaces.msg import ActionChunk, ExecutorStatus, ServoStatus, ServoTarget
from prophrl_nodes import qos
from prophrl_nodes.environment import ensure_environment
from prophrl_nodes.messages import header
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from twin_cell import DEADLINE_S, SpunNode, cell_arguments, end, start_node, until

from prophrl_models.data.streams import color_sample
from robot_bridge.twin.lab import Lab
from robot_bridge.twin.lab_client import LabClient
from robot_bridge.twin.shared_state import WorldStateReader

NODES = ("camera", "arm", "executor")
STEP_M = 0.0015
STARTED_M = 0.0001
MOVING_RADPS = 0.002


class Bench:
    """Answers pictures with chunks and notes when what comes of them."""

    def __init__(self, lab: Lab, domain: int) -> None:
        self.world = WorldStateReader(lab.directory)
        self.node = SpunNode("camera_to_servo")
        self.pose: Pose | None = None
        self.executor_state = self.servo_state = -1
        self.sequence = 0
        self.direction = 1.0
        self.armed = False
        self.refusal = "the arm reports no pose, or there is no executor"
        self.sent: tuple[int, int, float] | None = None
        self.first_target_ns = 0
        self.chunks = self.node.create_publisher(ActionChunk, "policy/chunk", qos.COMMAND)
        node = self.node
        node.create_subscription(Image, "camera/color/image_raw", self._on_image, qos.IMAGE_LATEST, raw=True)
        node.create_subscription(PoseStamped, "tcp_pose_broadcaster/pose", self._on_pose, qos.STREAM)
        node.create_subscription(ServoTarget, "servo/target", self._on_target, qos.RECORD)
        node.create_subscription(ExecutorStatus, "executor/status", self._on_executor, qos.STATE)
        node.create_subscription(ServoStatus, "servo/status", self._on_servo, qos.STATE)
        self.engage = node.create_client(Trigger, "executor/engage")
        settings = {name: [f"host:={lab.host}"] for name in ("camera", "arm")}
        self.processes = [start_node(name, domain, settings.get(name, ())) for name in NODES]

    def once(self) -> tuple[float, float, float]:
        """Milliseconds from the picture's stamp to its arrival, to the first target, and to the first motion."""
        self.direction = -self.direction
        self.sent, self.first_target_ns = None, 0
        until(lambda: self.world.read().qd is not None and np.abs(self.world.read().qd).max() < 1e-4, "rest")
        self.armed = True
        until(lambda: self.sent is not None, "a picture", poll_s=0.001)
        moving_ns = 0
        deadline_s = time.monotonic() + DEADLINE_S
        while not (moving_ns and self.first_target_ns):
            state = self.world.read()
            if not moving_ns and float(np.abs(state.qd).max()) > MOVING_RADPS:
                moving_ns = state.stamp_ns
            if time.monotonic() > deadline_s:
                raise TimeoutError("the chunk moved nothing; is the executor engaged?")
            time.sleep(0.0005)
        assert self.sent is not None
        stamp_ns, arrived_ns, _ = self.sent
        return tuple((ns - stamp_ns) * 1e-6 for ns in (arrived_ns, self.first_target_ns, moving_ns))  # type: ignore[return-value]

    def ready(self) -> bool:
        """Ask the executor to take over the arm."""
        answer = None if self.pose is None else self.node.ask(self.engage)
        self.refusal = "no answer" if answer is None else answer
        return answer == ""

    def close(self) -> None:
        """Stop the nodes."""
        end(self.processes)
        self.node.finish()

    def _on_image(self, cdr: bytes) -> None:
        if not self.armed or self.pose is None:
            return
        stamp_ns, _ = color_sample(cdr)
        self.armed = False
        self.sequence += 1
        message = ActionChunk(
            header=header(time.time_ns(), "base"),
            sequence=self.sequence,
            policy_id="benchmark",
            convention=ActionChunk.ABSOLUTE_POSE_DIFFERENCE,
            rate_hz=10.0,
            chunk_length=2,
            execute_length=2,
            action_dim=7,
            reference=self.pose,
        )
        row = [0.0, 0.0, self.direction * STEP_M, 0.0, 0.0, 0.0, 1.0]
        message.actions = row + row
        self.sent = (stamp_ns, time.time_ns(), self.pose.position.z)
        self.chunks.publish(message)

    def _on_target(self, message: ServoTarget) -> None:
        if self.sent and not self.first_target_ns and abs(message.pose.position.z - self.sent[2]) > STARTED_M:
            self.first_target_ns = time.time_ns()

    def _on_pose(self, message: PoseStamped) -> None:
        self.pose = message.pose

    def _on_executor(self, message: ExecutorStatus) -> None:
        self.executor_state = message.state

    def _on_servo(self, message: ServoStatus) -> None:
        self.servo_state = message.state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cell_arguments(parser)
    parser.add_argument("--repeat", type=int, default=60, help="pictures answered (default 60)")
    options = parser.parse_args()
    rclpy.init(domain_id=options.domain)
    with Lab("twin", options.host) as lab:
        bench = Bench(lab, options.domain)
        try:
            try:
                until(bench.ready, "the executor to engage", poll_s=0.5)
            except TimeoutError as error:
                raise TimeoutError(f"{error}; the last answer: {bench.refusal}") from None
            rows = np.array([bench.once() for _ in range(options.repeat)])
            status = LabClient(lab.host).call("status")
            report: dict[str, Any] = {"pictures": len(rows)}
            for name, column in zip(("arrival", "first_target", "first_motion"), rows.T, strict=True):
                p50, p99 = np.percentile(column, [50, 99])
                report[f"{name}_ms"] = {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}
            report["lab"] = {key: status[key] for key in ("real_time_ratio", "lateness") if key in status}
            print(json.dumps(report), flush=True)
        finally:
            bench.close()
    rclpy.try_shutdown()


if __name__ == "__main__":
    ensure_environment()
    main()
