"""Teleoperation: the leader's joints become the follower's targets, once both stand in the same pose.

Subscribes to ``gello/joint_states``, ``joint_states`` and ``servo/status``; publishes ``servo/target`` for every leader
sample while engaged. Verbs: ``~/engage`` (refused while leader and follower differ), ``~/disengage``.
A leader that falls silent stops the targets at once; the arm node's watchdog then holds the arm.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np
from prophrl_interfaces.msg import ServoTarget
from sensor_msgs.msg import JointState

from prophrl_nodes import qos
from prophrl_nodes.arm_link import ArmLink
from prophrl_nodes.engage_gate import EngageGate, GateClosed
from prophrl_nodes.messages import ARM_JOINTS, GRIPPER_JOINT, joint_positions
from prophrl_nodes.ros import CELL_PARAMETERS, Health, Level, ParameterSpec, ProphNode, RateMeter, Refused, Value, run
from robot_bridge.cell_files import open_cell

SOURCE = "teleop"

PARAMETERS = (
    *CELL_PARAMETERS,
    ParameterSpec(
        "leader_lost_s",
        0.5,
        "seconds of leader silence after which the operator must engage again; shorter gaps recover by themselves",
        minimum=0.1,
        maximum=5.0,
    ),
)


class TeleopNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("teleop", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Read the cell's limits and connect the topics."""
        cell = open_cell(self.value("cell"), self.value("host"))
        self._gate = EngageGate(cell.safety.engage_difference_rad)
        self._lost_s = self.value("leader_lost_s")
        self._engaged = False
        self._dropped = ""
        self._turns_6 = np.zeros(6)
        self._q_leader_6 = np.zeros(6)
        self._q_follower_6 = np.zeros(6)
        self._leader_problem = ""
        self._leader, self._follower = RateMeter(), RateMeter()
        self._target = ServoTarget(source=SOURCE, mode=ServoTarget.JOINT)
        self._publisher = self.publisher(ServoTarget, "servo/target", qos.COMMAND)
        self._arm = ArmLink(self, SOURCE)
        self.subscribe(JointState, "gello/joint_states", self._on_leader, qos.STREAM)
        self.subscribe(JointState, "joint_states", self._on_follower, qos.STREAM)
        self.timer(0.02, self._watch)
        self.verb("engage", self._engage)
        self.verb("disengage", self._disengage)

    def halt(self) -> None:
        """Send no more targets and let go of the arm; without our word its watchdog would hold it as well."""
        self._engaged = False
        self._arm.let_go()

    def health(self) -> Health:
        """Engaged or why not, and the figures behind it."""
        now_s = time.monotonic()
        leader_age_s, follower_age_s = self._leader.age_s(now_s), self._follower.age_s(now_s)
        difference = self._gate.difference(self._q_leader_6, self._q_follower_6)
        worst = int(np.argmax(np.abs(difference)))
        values: dict[str, Value] = {
            "engaged": self._engaged,
            "leader_rate_hz": self._leader.rate_hz(now_s),
            "leader_age_s": leader_age_s,
            "follower_rate_hz": self._follower.rate_hz(now_s),
            "follower_age_s": follower_age_s,
            "difference_rad": float(difference[worst]),
            "difference_joint": ARM_JOINTS[worst],
            "difference_limit_rad": self._gate.limit_rad,
            "targets": int(self._target.sequence),
        }
        if self._leader_problem:
            return Health(Level.ERROR, self._leader_problem, values)
        if leader_age_s > self._gate.max_age_s and (self._engaged or math.isfinite(leader_age_s)):
            held = "; the arm holds" if self._engaged or self._dropped else ""
            message = f"leader silent for {leader_age_s:.1f} s{held}; look at the gello node and the leader's cable"
            return Health(Level.ERROR, message, values)
        if self._engaged:
            return Health(Level.OK, "engaged: the follower follows the leader", values)
        if self._dropped:
            return Health(Level.WARN, f"disengaged: {self._dropped}", values)
        try:
            self._gate.turns(self._q_leader_6, leader_age_s, self._q_follower_6, follower_age_s)
        except GateClosed as closed:
            level = Level.OK if max(leader_age_s, follower_age_s) <= self._gate.max_age_s else Level.WARN
            return Health(level, f"cannot engage: {closed}", values)
        return Health(Level.OK, "ready to engage", values)

    async def _engage(self) -> str:
        if self._engaged:
            return "already engaged"
        now_s = time.monotonic()
        try:
            turns_6 = self._gate.turns(
                self._q_leader_6, self._leader.age_s(now_s), self._q_follower_6, self._follower.age_s(now_s)
            )
        except GateClosed as closed:
            raise Refused(str(closed)) from closed
        message = await self._arm.engage()
        self._turns_6, self._engaged, self._dropped = turns_6, True, ""
        return message

    async def _disengage(self) -> str:
        self._engaged, self._dropped = False, ""
        return await self._arm.disengage()

    def _on_leader(self, message: JointState) -> None:
        try:
            positions = joint_positions(message, (*ARM_JOINTS, GRIPPER_JOINT))
        except ValueError as error:
            self._leader_problem = f"{error}; is another publisher on gello/joint_states?"
            return
        if not np.isfinite(positions).all():
            self._leader_problem = "the leader sent a joint position that is not a number; look at the gello node"
            return
        self._leader_problem = ""
        self._leader.tick(time.monotonic())
        self._q_leader_6 = positions[:6]
        if self._engaged:
            self._send(message, float(positions[6]))

    def _send(self, leader: JointState, opening: float) -> None:
        target = self._target
        target.header.stamp = leader.header.stamp  # when the leader was there: what the arm's watchdog counts from
        target.sequence += 1
        target.joint_positions = self._q_leader_6 + self._turns_6
        target.gripper_opening = opening
        self._publisher.publish(target)

    def _on_follower(self, message: JointState) -> None:
        self._q_follower_6 = joint_positions(message, ARM_JOINTS)
        self._follower.tick(time.monotonic())

    def _watch(self) -> None:
        """Drop the engagement when the leader is lost or the arm no longer obeys."""
        if not self._engaged:
            return
        silent_s = self._leader.age_s(time.monotonic())
        lost = f"the leader was silent for {self._lost_s:.1f} s; engage again" if silent_s > self._lost_s else ""
        lost = lost or self._arm.lost_reason()
        if lost:
            self._engaged, self._dropped = False, lost
            self._arm.let_go()


def main() -> None:
    """Entry point of the executable ``teleop``."""
    sys.exit(run(TeleopNode))


if __name__ == "__main__":
    main()
