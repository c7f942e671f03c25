"""Rigid transforms and the three meanings of a pose-delta action.

A pose is a 4x4 homogeneous matrix ``T_a_b`` that maps points given in frame b to frame a (metres).
Euler angles are extrinsic xyz in radians, ``R = Rz(e_z) @ Ry(e_y) @ Rx(e_x)``, as in the paper's data
(design specification section 2). Quaternions are xyzw. UR poses are ``[x, y, z, rx, ry, rz]`` with a
rotation vector, as PolyScope prints them.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]


class ActionConvention(IntEnum):
    """What the six pose numbers of an action mean; stored with every dataset, chunk and checkpoint.

    Values equal the constants in ``prophrl_interfaces/msg/ActionChunk.msg``.
    """

    LOCAL_FRAME_DELTA = 1
    """Motion expressed in the previous TCP frame: ``T_next = T_prev @ delta`` (pre-training)."""
    ABSOLUTE_POSE_DIFFERENCE = 2
    """Difference of successive absolute positions and Euler angles (real robot, BRIDGE)."""
    CONTROLLER_SERVO = 3
    """Servo command: translation and rotation vector in the base frame, ``R_next = exp(w) @ R_prev`` (LIBERO)."""


def transform(position: ArrayLike, rotation: Rotation | None = None) -> Array:
    """Build a 4x4 transform from a position [3] in metres and a rotation (identity when omitted)."""
    T = np.eye(4)
    T[:3, 3] = np.asarray(position, dtype=np.float64)
    if rotation is not None:
        T[:3, :3] = rotation.as_matrix()
    return T


def inverse(T_a_b: Array) -> Array:
    """Return ``T_b_a`` for a rigid 4x4 transform, without a general matrix inversion."""
    R = T_a_b[:3, :3]
    T_b_a = np.eye(4)
    T_b_a[:3, :3] = R.T
    T_b_a[:3, 3] = -R.T @ T_a_b[:3, 3]
    return T_b_a


def from_ur(pose: ArrayLike) -> Array:
    """4x4 transform of a UR pose ``[x, y, z, rx, ry, rz]`` (metres, rotation vector in radians)."""
    pose = np.asarray(pose, dtype=np.float64)
    return transform(pose[:3], Rotation.from_rotvec(pose[3:6]))


def to_ur(T: Array) -> Array:
    """UR pose ``[x, y, z, rx, ry, rz]`` of a 4x4 transform."""
    return np.concatenate([T[:3, 3], Rotation.from_matrix(T[:3, :3]).as_rotvec()])


def from_quaternion(position: ArrayLike, quaternion_xyzw: ArrayLike) -> Array:
    """4x4 transform of a position [3] and a quaternion xyzw [4] of any positive norm.

    Raises:
        ValueError: the quaternion's norm is zero.
    """
    return transform(position, Rotation.from_quat(np.asarray(quaternion_xyzw, dtype=np.float64)))


def to_quaternion(T: Array) -> tuple[Array, Array]:
    """Position [3] and unit quaternion xyzw [4] (w >= 0) of a 4x4 transform."""
    return T[:3, 3].copy(), Rotation.from_matrix(T[:3, :3]).as_quat(canonical=True)


def from_euler(vector: ArrayLike) -> Array:
    """4x4 transform of ``[x, y, z, e_x, e_y, e_z]`` (metres, extrinsic xyz radians)."""
    vector = np.asarray(vector, dtype=np.float64)
    return transform(vector[:3], Rotation.from_euler("xyz", vector[3:6]))


def to_euler(T: Array) -> Array:
    """``[x, y, z, e_x, e_y, e_z]`` of a 4x4 transform; angles in (-pi, pi]."""
    return np.concatenate([T[:3, 3], Rotation.from_matrix(T[:3, :3]).as_euler("xyz")])


def wrap_angle(angle: ArrayLike) -> Array:
    """Wrap angles in radians to (-pi, pi], element by element."""
    angle = np.asarray(angle, dtype=np.float64)
    return -((-angle + np.pi) % (2.0 * np.pi) - np.pi)


def difference(T_prev: Array, T_next: Array, convention: ActionConvention) -> Array:
    """Pose part [6] of the action that leads from one TCP pose to the next (both ``T_base_tcp``)."""
    convention = ActionConvention(convention)
    if convention is ActionConvention.LOCAL_FRAME_DELTA:
        return to_euler(inverse(T_prev) @ T_next)
    if convention is ActionConvention.ABSOLUTE_POSE_DIFFERENCE:
        delta = to_euler(T_next) - to_euler(T_prev)
        delta[3:] = wrap_angle(delta[3:])
        return delta
    rotation = Rotation.from_matrix(T_next[:3, :3] @ T_prev[:3, :3].T)
    return np.concatenate([T_next[:3, 3] - T_prev[:3, 3], rotation.as_rotvec()])


def integrate(T_prev: Array, delta: ArrayLike, convention: ActionConvention) -> Array:
    """The TCP pose reached from ``T_prev`` by one action's pose part [6]: the inverse of ``difference``."""
    convention = ActionConvention(convention)
    delta = np.asarray(delta, dtype=np.float64)[:6]
    if convention is ActionConvention.LOCAL_FRAME_DELTA:
        return T_prev @ from_euler(delta)
    if convention is ActionConvention.ABSOLUTE_POSE_DIFFERENCE:
        return from_euler(to_euler(T_prev) + delta)
    R_next = Rotation.from_rotvec(delta[3:]) * Rotation.from_matrix(T_prev[:3, :3])
    return transform(T_prev[:3, 3] + delta[:3], R_next)


def integrate_chunk(T_start: Array, actions_CHD: ArrayLike, convention: ActionConvention) -> Array:
    """Poses [CH, 4, 4] after each action of a chunk [CH, >=6] executed from ``T_start``."""
    poses = []
    T = np.asarray(T_start, dtype=np.float64)
    for action in np.asarray(actions_CHD, dtype=np.float64):
        T = integrate(T, action, convention)
        poses.append(T)
    return np.stack(poses) if poses else np.zeros((0, 4, 4))


def interpolate(T_a: Array, T_b: Array, fraction: float) -> Array:
    """Pose between two poses: straight line in position, constant-rate rotation; fraction in [0, 1]."""
    R_a = Rotation.from_matrix(T_a[:3, :3])
    step = (R_a.inv() * Rotation.from_matrix(T_b[:3, :3])).as_rotvec()
    position = T_a[:3, 3] + fraction * (T_b[:3, 3] - T_a[:3, 3])
    return transform(position, R_a * Rotation.from_rotvec(fraction * step))
