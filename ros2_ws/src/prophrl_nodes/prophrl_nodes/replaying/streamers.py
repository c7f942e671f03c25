"""Sending a plan's targets over ROS: as one action chunk through the executor node, or as joint targets of our own.

Both are ordinary sources to the arm node: it obeys them only while they are engaged, within its safety envelope, and
holds when they fall silent.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from prophrl_interfaces.msg import ActionChunk, ExecutorStatus, GripperState, ServoStatus, ServoTarget
from sensor_msgs.msg import JointState

from prophrl_nodes import qos
from prophrl_nodes.arm_link import ArmLink
from prophrl_nodes.calls import CallError, wait_future
from prophrl_nodes.cell_calls import CellCalls
from prophrl_nodes.chunk_player import MAX_CLOCK_STEP_S
from prophrl_nodes.engage_gate import EngageGate, GateClosed
from prophrl_nodes.messages import ARM_JOINTS, header, joint_positions, to_matrix, to_nanoseconds
from prophrl_nodes.node_base import ProphNode, Refused
from prophrl_nodes.periodic import PeriodicThread
from prophrl_nodes.replaying.plan import ReplayMode, ReplayPlan
from prophrl_nodes.replaying.targets import JointStream, delayed_actions
from prophrl_nodes.replaying.track import TRACK_RATE_HZ, Samples, Track

Array = NDArray[np.float64]

SOURCE = "replay"
POLICY_ID = "replay"
HELD_S = 2.0
"""An arm that has held for this long in the midst of a stream refuses its targets; shorter holds end by themselves."""
TAKE_TIMEOUT_S = 10.0
OFFER_AGAIN_S = 0.5
BEHIND_SHARE = 0.6
"""Of the engage gate's limit, beyond which an arm that had to hold would not take up the stream again by itself."""
POSE_AGE_S = 0.2
STATUS_AGE_S = 0.2
"""The arm node speaks 20 times a second; after a longer silence nobody knows whether it follows."""


class RosStreamer:
    """Implements ``sequence.Streamer``; its methods are called from a thread that is not the executor's.

    Args:
        node: the node that speaks; call in its ``setup``.
        cell: verbs of the cell.
        engage_difference_rad: how far from the first pose the arm may stand when it is engaged.
    """

    def __init__(self, node: ProphNode, cell: CellCalls, engage_difference_rad: float) -> None:
        self._node, self._cell = node, cell
        self._gate = EngageGate(engage_difference_rad, max_age_s=POSE_AGE_S)
        self._arm = ArmLink(node, SOURCE)
        self._thread: PeriodicThread | None = None
        self._mode = ReplayMode.JOINTS
        self._clock_s = self._sent_s = 0.0
        self._start_ns = 0
        self._sequence = 0
        self._running = self._finished = False
        self._executor: ExecutorStatus | None = None
        self._pose: PoseStamped | None = None
        self._q_6, self._q_at_s = np.zeros(6), -np.inf
        self._turns_6 = np.zeros(6)
        self._samples = _fresh_samples()
        self._target = ServoTarget(source=SOURCE, mode=ServoTarget.JOINT)
        self._targets = node.publisher(ServoTarget, "servo/target", qos.COMMAND)
        self._chunks = node.publisher(ActionChunk, "policy/chunk", qos.COMMAND)
        node.subscribe(ExecutorStatus, "executor/status", self._on_executor, qos.STATE)
        node.subscribe(JointState, "joint_states", self._on_joints, qos.RECORD)
        node.subscribe(PoseStamped, "tcp_pose_broadcaster/pose", self._on_pose, qos.RECORD)
        node.subscribe(GripperState, "gripper/state", self._on_gripper, qos.RECORD)

    # ---- what the sequence asks

    def gate(self, q_first_6: Array) -> None:
        age_s = time.monotonic() - self._q_at_s
        try:
            # The recording stands where the leader of a teleoperation stands, and is held to the same rule.
            self._turns_6 = self._gate.turns(q_first_6, 0.0, self._q_6, age_s)
        except GateClosed as closed:
            raise CallError(f"the arm is not at the first pose of the recording: {closed}") from closed

    def begin(self, plan: ReplayPlan, gripper_delay_s: float) -> None:
        self._mode, self._finished = plan.mode, False
        self._samples = _fresh_samples()
        self._start_ns, self._running = time.time_ns(), True
        if plan.mode is ReplayMode.ACTIONS:
            self._begin_actions(plan, gripper_delay_s)
        else:
            self._begin_joints(plan, gripper_delay_s)

    def done(self) -> bool:
        if self._mode is ReplayMode.JOINTS:
            return self._finished
        status = self._executor
        return status is not None and (status.sequence, status.state) == (self._sequence, ExecutorStatus.WAITING)

    def lost_reason(self) -> str:
        status = self._executor
        if self._mode is ReplayMode.JOINTS:
            if lost := self._arm.lost_reason():
                return lost
        elif status is None or status.state in (ExecutorStatus.STOPPED, ExecutorStatus.IDLE):
            return f"the executor stopped: {status.reason if status else 'it is silent'}"
        servo = self._cell.servo
        if servo is not None and servo.state == ServoStatus.HOLDING and HELD_S < servo.target_age_s < math.inf:
            return f"the arm holds: {servo.reason}"
        return ""

    def end(self) -> None:
        self._stop_thread()
        if self._running and self._mode is ReplayMode.ACTIONS:
            try:
                self._cell.disengage_executor()
            except CallError as error:  # its targets end without us as well, and the arm's watchdog holds
                self._node.get_logger().warning(f"the executor could not be disengaged: {error}")
        self._arm.let_go()
        self._running = False

    def track(self) -> Track:
        return Track.of(*self._samples, start_ns=self._start_ns)

    def halt(self) -> None:
        """Send nothing more and let go of the arm without waiting for answers: the node is ending."""
        self._stop_thread()
        self._arm.let_go()
        self._running = False

    # ---- actions, through the executor

    def _begin_actions(self, plan: ReplayPlan, gripper_delay_s: float) -> None:
        self._cell.engage_executor()
        actions = delayed_actions(plan, gripper_delay_s)
        self._sequence += 1
        chunk = ActionChunk(
            sequence=self._sequence,
            policy_id=POLICY_ID,
            convention=int(plan.convention),
            rate_hz=float(plan.rate_hz),
            chunk_length=len(actions),
            execute_length=len(actions),
            action_dim=actions.shape[1],
            actions=actions.ravel().tolist(),
        )
        deadline_s = time.monotonic() + TAKE_TIMEOUT_S
        while not self._taken():
            if time.monotonic() > deadline_s:
                raise CallError("the executor did not take the actions; its reason is on /diagnostics")
            pose = self._fresh_pose()
            if pose is not None:
                chunk.header, chunk.reference = header(to_nanoseconds(pose.header.stamp), "base"), pose.pose
                self._chunks.publish(chunk)
            again_s = time.monotonic() + OFFER_AGAIN_S
            while not self._taken() and time.monotonic() < again_s:
                time.sleep(0.005)

    def _taken(self) -> bool:
        status = self._executor
        if status is None or status.sequence != self._sequence or status.state != ExecutorStatus.EXECUTING:
            return False
        if int(status.step) == 0:
            self._start_ns = to_nanoseconds(status.header.stamp)
        return True

    def _fresh_pose(self) -> PoseStamped | None:
        pose = self._pose
        if pose is None or (time.time_ns() - to_nanoseconds(pose.header.stamp)) * 1e-9 > POSE_AGE_S:
            return None
        return pose

    # ---- joints, as a source of our own

    def _begin_joints(self, plan: ReplayPlan, gripper_delay_s: float) -> None:
        executor = self._node.executor
        assert executor is not None  # the sequence runs while the node spins
        try:
            wait_future(executor.create_task(self._arm.engage()), 10.0, "the arm")
        except Refused as refusal:
            raise CallError(str(refusal)) from refusal
        stream = JointStream.of(plan, gripper_delay_s)
        self._start_ns, self._clock_s, self._sent_s = time.time_ns(), 0.0, time.monotonic()
        self._thread = PeriodicThread(
            "replay-targets", 1.0 / TRACK_RATE_HZ, lambda: self._send(stream), self._node.fail
        )
        self._thread.start()

    def _send(self, stream: JointStream) -> None:
        """One target; after the last one it is repeated until ``end``, so that the arm does not fall into a hold."""
        now_s = time.monotonic()
        # As the chunk player: a process that was starved goes on late, without a leap that the arm would refuse. And
        # while the arm does not follow, does not say so, or has fallen far behind, the recording waits for it.
        q_due, _ = stream.at(self._clock_s)
        behind_rad = float(np.abs(q_due + self._turns_6 - self._q_6).max())
        if self._followed() and behind_rad < BEHIND_SHARE * self._gate.limit_rad:
            self._clock_s += min(now_s - self._sent_s, MAX_CLOCK_STEP_S)
        elif self._clock_s == 0.0:
            self._start_ns = time.time_ns()
        self._sent_s = now_s
        q, opening = stream.at(self._clock_s)
        target = self._target
        target.header = header(time.time_ns())
        target.sequence += 1
        target.joint_positions = q + self._turns_6
        target.gripper_opening = opening
        self._targets.publish(target)
        self._finished = self._clock_s >= stream.duration_s

    def _followed(self) -> bool:
        status = self._arm.status
        return (
            status is not None
            and self._arm.silent_s() <= STATUS_AGE_S
            and (status.source, status.state) == (SOURCE, ServoStatus.FOLLOWING)
        )

    def _stop_thread(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    # ---- what is heard

    def _on_executor(self, message: ExecutorStatus) -> None:
        self._executor = message

    def _on_joints(self, message: JointState) -> None:
        self._q_6, self._q_at_s = joint_positions(message, ARM_JOINTS), time.monotonic()
        self._note(0, message, self._q_6)

    def _on_pose(self, message: PoseStamped) -> None:
        self._pose = message
        self._note(1, message, to_matrix(message.pose))

    def _on_gripper(self, message: GripperState) -> None:
        self._note(2, message, message.opening)

    def _note(self, stream: int, message: Any, value: Array | float) -> None:
        if self._running:
            self._samples[stream].add(to_nanoseconds(message.header.stamp), value)


def _fresh_samples() -> tuple[Samples, Samples, Samples]:
    return Samples("joint_states"), Samples("tcp_pose_broadcaster/pose"), Samples("gripper/state")
