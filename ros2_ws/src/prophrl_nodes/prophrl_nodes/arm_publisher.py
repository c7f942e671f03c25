"""Measurements of arm and gripper as ROS messages, under the names that ur_robot_driver uses where it has them."""

from __future__ import annotations

import math
import time

from geometry_msgs.msg import PoseStamped
from prophrl_interfaces.msg import GripperState, RobotMode, SafetyMode, ServoStatus
from sensor_msgs.msg import JointState

from prophrl_nodes import qos
from prophrl_nodes.messages import ARM_JOINTS, pose_stamped, to_stamp
from prophrl_nodes.node_base import ProphNode
from robot_bridge.arm_types import ArmState
from robot_bridge.robotiq_gripper import GripperReading
from robot_bridge.servo import ServoSnapshot

STATUS_PERIOD_S = 0.05


class ArmPublisher:
    """Publishers of the arm node. Measurements go out as they come, states on change and twenty times a second.

    Args:
        node: the arm node; call in its ``setup``.
        tf_prefix: put before frame and joint names.
    """

    def __init__(self, node: ProphNode, tf_prefix: str) -> None:
        self._base = f"{tf_prefix}base"
        self._joints = node.publisher(JointState, "joint_states", qos.STREAM)
        self._pose = node.publisher(PoseStamped, "tcp_pose_broadcaster/pose", qos.STREAM)
        self._robot_mode = node.publisher(RobotMode, "io_and_status_controller/robot_mode", qos.STATE)
        self._safety_mode = node.publisher(SafetyMode, "io_and_status_controller/safety_mode", qos.STATE)
        self._servo = node.publisher(ServoStatus, "servo/status", qos.STATE)
        self._gripper = node.publisher(GripperState, "gripper/state", qos.STREAM)
        self._joint_message = JointState(name=[f"{tf_prefix}{joint}" for joint in ARM_JOINTS])
        self._modes: tuple[int, int] | None = None
        self._servo_said: tuple[int, str, str] | None = None
        self._servo_said_s = -math.inf

    def state(self, state: ArmState) -> None:
        """Publish one measurement: joints, TCP pose, and the modes when they changed."""
        self._joint_message.header.stamp = to_stamp(state.stamp_ns)
        self._joint_message.position = list(state.q)
        self._joint_message.velocity = list(state.qd)
        self._joints.publish(self._joint_message)
        self._pose.publish(pose_stamped(state.T_base_tcp, state.stamp_ns, self._base))
        modes = (int(state.robot_mode), int(state.safety_mode))
        if modes != self._modes:
            self._modes = modes
            self._robot_mode.publish(RobotMode(mode=modes[0]))
            self._safety_mode.publish(SafetyMode(mode=modes[1]))

    def servo(self, snapshot: ServoSnapshot) -> None:
        """Publish the setpoint generator's status when it changed or its period has passed."""
        now_s = time.monotonic()
        saying = (int(snapshot.state), snapshot.source, snapshot.reason)
        if saying == self._servo_said and now_s - self._servo_said_s < STATUS_PERIOD_S:
            return
        self._servo_said, self._servo_said_s = saying, now_s
        message = ServoStatus(
            state=saying[0],
            source=snapshot.source,
            reason=snapshot.reason,
            ticks=snapshot.ticks,
            clamped=snapshot.clamped,
            refused=snapshot.refused,
            stale=snapshot.stale,
            target_age_s=float(snapshot.target_age_s),
        )
        message.header.stamp = to_stamp(time.time_ns())
        message.joint_targets = [float(q) for q in snapshot.q_target]
        self._servo.publish(message)

    def gripper(self, reading: GripperReading) -> None:
        """Publish one gripper reading."""
        message = GripperState(
            opening=float(reading.opening),
            target_opening=float(reading.target_opening),
            moving=bool(reading.moving),
            object_detected=bool(reading.object_detected),
            fault=int(reading.fault),
        )
        message.header.stamp = to_stamp(reading.stamp_ns)
        self._gripper.publish(message)
