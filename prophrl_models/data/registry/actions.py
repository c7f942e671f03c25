"""Stored poses in whatever rotation they are written, to 7-D states and actions in one of the three conventions.

Actions are differences of consecutive measured poses, in the terms of ``calibration.poses``: the datasets' own
action columns are commands, velocities or normalised values of many kinds, and the paper's pre-training actions are
motions that happened (design specification 2.2). The exception is LIBERO's servo command.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from calibration.poses import ActionConvention, wrap_angle
from prophrl_models.data.registry.errors import RegistryError

Array = NDArray[np.float64]


class Representation(Enum):
    """How a dataset writes an orientation."""

    EULER_XYZ = "extrinsic xyz Euler angles, R = Rz Ry Rx"
    EULER_ZXY = "extrinsic zxy Euler angles (scipy 'zxy')"
    QUATERNION_XYZW = "quaternion xyzw"
    QUATERNION_WXYZ = "quaternion wxyz"
    ROTATION_VECTOR = "rotation vector"
    ROT6D_ROWS = "first two rows of the rotation matrix"
    ROT6D_COLUMNS = "first two columns of the rotation matrix"
    NONE = "not stored"

    @property
    def columns(self) -> int:
        """Numbers per orientation."""
        if self in (Representation.QUATERNION_XYZW, Representation.QUATERNION_WXYZ):
            return 4
        if self in (Representation.ROT6D_ROWS, Representation.ROT6D_COLUMNS):
            return 6
        return 0 if self is Representation.NONE else 3


def rotations(values_TK: ArrayLike, representation: Representation) -> Rotation:
    """Rotations of T stored orientations [T, K].

    Raises:
        RegistryError: a wrong number of columns, a value that is not finite, or a degenerate orientation (a quaternion
            of norm 0, parallel rows of a 6-D rotation); the message names the frame.
    """
    values = np.asarray(values_TK, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != representation.columns:
        raise RegistryError(
            f"an orientation as {representation.value} takes {representation.columns} columns, got {values.shape}"
        )
    if representation is Representation.NONE:
        return Rotation.from_rotvec(np.zeros((len(values), 3)))
    _refuse(_not_finite(values), "orientation", "is not finite")
    if representation is Representation.EULER_XYZ:
        return Rotation.from_euler("xyz", values)
    if representation is Representation.EULER_ZXY:
        return Rotation.from_euler("zxy", values)
    if representation is Representation.ROTATION_VECTOR:
        return Rotation.from_rotvec(values)
    if representation.columns == 4:
        _refuse(np.linalg.norm(values, axis=1) < 1e-6, "quaternion", "has norm 0")
        return Rotation.from_quat(
            values if representation is Representation.QUATERNION_XYZW else values[:, [1, 2, 3, 0]]
        )
    return Rotation.from_matrix(_from_6d(values, representation is Representation.ROT6D_ROWS))


def poses(positions_T3: ArrayLike, orientations: Rotation) -> Array:
    """Transforms ``T_base_tcp`` [T, 4, 4] of positions in metres and as many rotations."""
    positions = np.asarray(positions_T3, dtype=np.float64)
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise RegistryError(f"positions are [T, 3] in metres, got {positions.shape}")
    _refuse(_not_finite(positions), "position", "is not finite")
    T = np.tile(np.eye(4), (len(positions), 1, 1))
    T[:, :3, :3] = orientations.as_matrix()
    T[:, :3, 3] = positions
    return T


def poses_from_joints(joints_TJ: ArrayLike, forward: Callable[[Array], Array]) -> Array:
    """Transforms [T, 4, 4] of joint angles [T, J] by the robot's own forward kinematics (one pose [4, 4] per row).

    No dataset in the registry needs it: all of them store the end-effector's pose.
    """
    joints = np.asarray(joints_TJ, dtype=np.float64)
    _refuse(_not_finite(joints), "joint vector", "is not finite")
    return np.stack([np.asarray(forward(row), dtype=np.float64) for row in joints])


def states(T_base_tcp_T44: Array, opening_T: ArrayLike) -> Array:
    """``[x y z ex ey ez g]`` [T, 7] of poses and openings."""
    return np.column_stack([_to_euler(T_base_tcp_T44), np.asarray(opening_T, dtype=np.float64)])


def measured_motion(T_base_tcp_T44: Array, convention: ActionConvention) -> Array:
    """Pose part [T, 6] of the actions from each pose to the next; the last row, which nothing follows, is zero.

    The same numbers as ``calibration.poses.difference`` of each pair (a test holds both together), for a whole episode
    at once: pair by pair an episode of DROID takes as long as decoding its pictures.
    """
    T_prev, T_next = T_base_tcp_T44[:-1], T_base_tcp_T44[1:]
    result = np.zeros((len(T_base_tcp_T44), 6))
    if convention is ActionConvention.LOCAL_FRAME_DELTA:
        R_prev_T = T_prev[:, :3, :3].transpose(0, 2, 1)
        local = np.tile(np.eye(4), (len(T_prev), 1, 1))
        local[:, :3, :3] = R_prev_T @ T_next[:, :3, :3]
        local[:, :3, 3] = np.einsum("tij,tj->ti", R_prev_T, T_next[:, :3, 3] - T_prev[:, :3, 3])
        result[:-1] = _to_euler(local)
    elif convention is ActionConvention.ABSOLUTE_POSE_DIFFERENCE:
        vectors = _to_euler(T_base_tcp_T44)
        result[:-1] = np.diff(vectors, axis=0)
        result[:-1, 3:] = wrap_angle(result[:-1, 3:])
    else:
        turned = Rotation.from_matrix(T_next[:, :3, :3] @ T_prev[:, :3, :3].transpose(0, 2, 1))
        result[:-1] = np.column_stack([T_next[:, :3, 3] - T_prev[:, :3, 3], turned.as_rotvec()])
    return result


def next_opening(opening_T: ArrayLike) -> Array:
    """The opening measured one step later [T]; the last one is repeated."""
    opening = np.asarray(opening_T, dtype=np.float64)
    return np.append(opening[1:], opening[-1:])


def _to_euler(T_44: Array) -> Array:
    """``[x y z ex ey ez]`` [T, 6] of transforms."""
    return np.column_stack([T_44[:, :3, 3], Rotation.from_matrix(T_44[:, :3, :3]).as_euler("xyz")])


def _from_6d(values_T6: Array, rows: bool) -> Array:
    """Rotation matrices [T, 3, 3] of two of their rows or columns, made orthonormal."""
    first, second = values_T6[:, :3], values_T6[:, 3:]
    _refuse(np.linalg.norm(np.cross(first, second), axis=1) < 1e-6, "6-D rotation", "has parallel vectors")
    x = first / np.linalg.norm(first, axis=1, keepdims=True)
    z = np.cross(x, second)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    matrices = np.stack([x, np.cross(z, x), z], axis=1)
    return matrices if rows else matrices.transpose(0, 2, 1)


def _not_finite(values_TK: Array) -> NDArray[np.bool_]:
    return np.asarray(~np.isfinite(values_TK).all(axis=1), dtype=np.bool_)


def _refuse(bad_T: NDArray[np.bool_], what: str, problem: str) -> None:
    frames = np.flatnonzero(bad_T)
    if len(frames):
        raise RegistryError(
            f"the {what} at frame {frames[0]} {problem} ({len(frames)} of {len(bad_T)} frames); leave this episode out"
        )
