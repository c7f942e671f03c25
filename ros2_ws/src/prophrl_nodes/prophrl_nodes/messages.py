"""Small conversions between ROS messages and the house's own types: stamps in nanoseconds, poses as 4x4 matrices."""

from __future__ import annotations

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, TransformStamped
from numpy.typing import NDArray
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from calibration.poses import from_quaternion, to_quaternion

ARM_JOINTS = (
    "shoulder_pan_joint",
    "shoulder_lift_joint",
    "elbow_joint",
    "wrist_1_joint",
    "wrist_2_joint",
    "wrist_3_joint",
)
"""Joint names of ur_robot_driver, from base to wrist; our arrays are in this order."""

CAMERA_FRAME = "camera_color_optical_frame"
"""Frame of the colour image and of the depth that is registered to it (z forward)."""

CAMERA_BODY_FRAME = "camera_color_frame"
"""The colour sensor in REP-103's body axes (x forward, y left, z up), as realsense-ros names it."""

GRIPPER_JOINT = "gripper"
"""Seventh joint of the leader: its position is the opening fraction, 0 closed, 1 open."""


def to_stamp(stamp_ns: int) -> Time:
    """ROS time of nanoseconds since the epoch."""
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    return Time(sec=seconds, nanosec=nanoseconds)


def to_nanoseconds(stamp: Time) -> int:
    """Nanoseconds since the epoch of a ROS time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def header(stamp_ns: int, frame_id: str = "") -> Header:
    """Header with a stamp in nanoseconds."""
    return Header(stamp=to_stamp(stamp_ns), frame_id=frame_id)


def to_pose(T: NDArray[np.float64]) -> Pose:
    """Pose message of a 4x4 transform."""
    position, quaternion = to_quaternion(T)
    pose = Pose()
    pose.position.x, pose.position.y, pose.position.z = map(float, position)
    pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w = map(float, quaternion)
    return pose


def to_matrix(pose: Pose) -> NDArray[np.float64]:
    """4x4 transform of a pose message.

    Raises:
        ValueError: the orientation's norm is zero (a pose nobody filled in).
    """
    at, turn = pose.position, pose.orientation
    return from_quaternion([at.x, at.y, at.z], [turn.x, turn.y, turn.z, turn.w])


def pose_stamped(T: NDArray[np.float64], stamp_ns: int, frame_id: str) -> PoseStamped:
    """Stamped pose of ``T_frame_x``."""
    return PoseStamped(header=header(stamp_ns, frame_id), pose=to_pose(T))


def transform_stamped(T_parent_child: NDArray[np.float64], stamp_ns: int, parent: str, child: str) -> TransformStamped:
    """The TF message that places ``child`` in ``parent``."""
    message = TransformStamped(header=header(stamp_ns, parent), child_frame_id=child)
    pose = to_pose(T_parent_child)
    message.transform.translation.x = pose.position.x
    message.transform.translation.y = pose.position.y
    message.transform.translation.z = pose.position.z
    message.transform.rotation = pose.orientation
    return message


def joint_positions(message: JointState, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Positions of the named joints, in that order, whatever order or tf_prefix the publisher chose.

    Raises:
        ValueError: a joint is missing; names the ones the message holds.
    """
    by_name: dict[str, float] = {}
    for published, position in zip(message.name, message.position, strict=False):
        for name in names:
            if published.endswith(name):
                by_name[name] = position
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ValueError(f"joint state lacks {', '.join(missing)}; it holds {', '.join(message.name) or 'no joints'}")
    return np.array([by_name[name] for name in names], dtype=np.float64)
