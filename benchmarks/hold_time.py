#!/usr/bin/env python3
"""How soon the arm stands after a process is killed with -9: on the twin, through every real process and DDS.

The leader swings its base joint, the follower follows at up to 0.25 m/s of the tool, then one node is killed. Time
counts from the stamp of the last leader sample that reached the arm; the arm's speed is that of the simulated joints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import numpy as np
import rclpy
from prophrl_interfaces.msg import ServoStatus, ServoTarget
from prophrl_nodes import qos
from prophrl_nodes.environment import ensure_environment
from prophrl_nodes.messages import to_nanoseconds
from std_srvs.srv import Trigger
from twin_cell import SpunNode, cell_arguments, end, start_node, until

from robot_bridge.twin.lab import Lab
from robot_bridge.twin.lab_client import OperatorClient
from robot_bridge.twin.shared_state import WorldStateReader

NODES = ("arm", "gello", "teleop")
SWING_RAD, SWING_S = 0.8, 2.4
AT_REST_RADPS = 0.01


class Bench:
    """One twin cell, its nodes, and an observer."""

    def __init__(self, lab: Lab, domain: int) -> None:
        self.lab, self.domain = lab, domain
        self.operator = OperatorClient(lab.host)
        self.world = WorldStateReader(lab.directory)
        self.node = SpunNode("hold_time_observer")
        self.servo: ServoStatus | None = None
        self.refusal: str | None = None
        self.last_target_ns = 0
        self.node.create_subscription(ServoStatus, "servo/status", self._on_servo, qos.STATE)
        self.node.create_subscription(ServoTarget, "servo/target", self._on_target, qos.RECORD)
        self.engage = self.node.create_client(Trigger, "teleop/engage")
        self.recover = self.node.create_client(Trigger, "arm/recover")
        self.processes = {name: self._start(name) for name in NODES}

    def once(self, victim: str) -> tuple[float, float, float]:
        """Kill ``victim`` in mid-swing; peak speed [rad/s] and the times [s] to a tenth of it and to rest.

        A swing that something else ended first (a starved machine stopped the robot's program) is swung again.
        """
        while (times := self._swing(victim)) is None:
            print(f"the arm no longer followed when {victim} was killed; again", file=sys.stderr)
        return times

    def _swing(self, victim: str) -> tuple[float, float, float] | None:
        self.operator.call("align")
        until(lambda: not self.operator.status()["busy"], "the leader to align")
        until(self._engaged, "teleop to engage", why_not=lambda: f": {self.refusal}; {self.servo}")
        q_6 = list(self.operator.status()["q"])
        q_6[0] += SWING_RAD if q_6[0] < 0.0 else -SWING_RAD
        self.operator.call("set_joints", q=q_6, seconds=SWING_S)
        time.sleep(0.5 * SWING_S)
        samples: list[tuple[int, float]] = []
        followed = self.servo is not None and self.servo.state == ServoStatus.FOLLOWING
        self.processes[victim].kill()
        killed_ns = time.time_ns()
        while time.time_ns() < killed_ns + 1_000_000_000:
            state = self.world.read()
            samples.append((state.stamp_ns, float(np.abs(state.qd).max())))
            time.sleep(0.002)
        self.processes[victim].wait()
        self.processes[victim] = self._start(victim)
        if not followed:
            return None
        last_ns = self.last_target_ns if victim != "arm" else min(self.last_target_ns, killed_ns)
        peak = max(speed for _, speed in samples)
        slow = max(stamp for stamp, speed in samples if speed > 0.1 * peak)
        moving = max(stamp for stamp, speed in samples if speed > AT_REST_RADPS)
        return peak, (slow - last_ns) * 1e-9, (moving - last_ns) * 1e-9

    def _engaged(self) -> bool:
        """Engage; a starved machine may have stopped the robot's program, which the operator recovers first.

        Arms that came to differ meanwhile are aligned again.
        """
        if self.servo is not None and self.servo.state == ServoStatus.STOPPED:
            self.node.ask(self.recover)
        self.refusal = self.node.ask(self.engage)
        if self.refusal and "differ" in self.refusal and not self.operator.status()["busy"]:
            self.operator.call("align")
        return self.refusal == ""

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        return start_node(name, self.domain, [f"host:={self.lab.host}"])

    def close(self) -> None:
        end(list(self.processes.values()))
        self.node.finish()

    def _on_servo(self, message: ServoStatus) -> None:
        self.servo = message

    def _on_target(self, message: ServoTarget) -> None:
        self.last_target_ns = to_nanoseconds(message.header.stamp)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cell_arguments(parser)
    parser.add_argument("--repeat", type=int, default=5, help="kills of each node (default 5)")
    options = parser.parse_args()
    rclpy.init(domain_id=options.domain)
    with Lab("twin", options.host) as lab:
        bench = Bench(lab, options.domain)
        try:
            for victim in ("teleop", "gello", "arm"):
                runs = [bench.once(victim) for _ in range(options.repeat)]
                peak, slow, rest = (list(column) for column in zip(*runs, strict=True))
                report = {
                    "killed": victim,
                    "peak_radps": round(max(peak), 3),
                    "to_a_tenth_ms": [round(1e3 * value) for value in sorted(slow)],
                    "to_rest_ms": [round(1e3 * value) for value in sorted(rest)],
                    "to_rest_median_ms": round(1e3 * statistics.median(rest)),
                }
                print(json.dumps(report), flush=True)
        finally:
            bench.close()
    rclpy.try_shutdown()


if __name__ == "__main__":
    ensure_environment()
    main()
