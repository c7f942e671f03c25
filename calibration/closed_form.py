"""Closed-form hand-eye and robot-world calibration: the starting values of the joint refinement.

Two problems over rigid transforms, from the papers' mathematics:

* ``A_i X = X B_i`` over relative motions: Tsai & Lenz 1989, Park & Martin 1994, Horaud & Dornaika 1995,
  Andreff, Horaud & Espiau 1999, Daniilidis 1999.
* ``A_i X = Y B_i`` over absolute poses: Shah 2013, Li, Wang & Wu 2010.

None of them weighs its measurements, so with 0.2 mm of robot noise they stay at millimetres; see ``refine.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from calibration.hand_eye_types import Mode
from calibration.poses import inverse
from calibration.tangent import dual_quaternion, nearest_rotation, quaternion_left, quaternion_right, skew

Array = NDArray[np.float64]


class ClosedFormFailed(ValueError):
    """A closed form has no answer for these motions (too few, or all about one axis)."""


def motions(T_base_tool_N44: Array, T_camera_board_N44: Array, mode: Mode) -> tuple[Array, Array]:
    """All pairwise motions (A [M, 4, 4], B [M, 4, 4]) with ``A X = X B`` for the X of ``mode``."""
    A, B = [], []
    for i, j in combinations(range(len(T_base_tool_N44)), 2):
        T_i, T_j, C_i, C_j = T_base_tool_N44[i], T_base_tool_N44[j], T_camera_board_N44[i], T_camera_board_N44[j]
        A.append(T_i @ inverse(T_j) if mode == "eye_to_hand" else inverse(T_i) @ T_j)
        B.append(C_i @ inverse(C_j))
    return np.array(A).reshape(-1, 4, 4), np.array(B).reshape(-1, 4, 4)


def solve_ax_xb(A_N44: ArrayLike, B_N44: ArrayLike, method: str = "park") -> Array:
    """X [4, 4] of ``A_i X = X B_i`` by one of ``AX_XB_METHODS``.

    Raises:
        ClosedFormFailed: fewer than two motions, or motions that leave X open.
        ValueError: unknown method.
    """
    if method not in _AX_XB:
        raise ValueError(f"unknown closed form {method!r} of A X = X B; choose {', '.join(_AX_XB)}")
    return _checked(_AX_XB[method](*_pair(A_N44, B_N44, 2)), method)


def solve_ax_yb(A_N44: ArrayLike, B_N44: ArrayLike, method: str = "shah") -> tuple[Array, Array]:
    """(X [4, 4], Y [4, 4]) of ``A_i X = Y B_i`` by one of ``AX_YB_METHODS``; errors as ``solve_ax_xb``."""
    if method not in _AX_YB:
        raise ValueError(f"unknown closed form {method!r} of A X = Y B; choose {', '.join(_AX_YB)}")
    X, Y = _AX_YB[method](*_pair(A_N44, B_N44, 3))
    return _checked(X, method), _checked(Y, method)


def closed_form(T_base_tool_N44: Array, T_camera_board_N44: Array, mode: Mode, method: str) -> tuple[Array, Array]:
    """(X, Y) of ``mode`` (see ``hand_eye_types``) from poses, by any of ``METHODS``; errors as ``solve_ax_xb``."""
    T, C = np.asarray(T_base_tool_N44), np.asarray(T_camera_board_N44)
    if method in _AX_YB:
        if mode == "eye_to_hand":  # T Y = X C
            Y, X = solve_ax_yb(T, C, method)
        else:  # T X = Y inv(C)
            X, Y = solve_ax_yb(T, np.array([inverse(C_i) for C_i in C]), method)
        return X, Y
    X = solve_ax_xb(*motions(T, C, mode), method)
    return X, mean_pose(
        [(inverse(T_i) if mode == "eye_to_hand" else T_i) @ X @ C_i for T_i, C_i in zip(T, C, strict=True)]
    )


def mean_pose(poses: list[Array]) -> Array:
    """Mean of poses: arithmetic in position, chordal in rotation."""
    T = np.eye(4)
    stack = np.array(poses)
    T[:3, :3] = nearest_rotation(stack[:, :3, :3].sum(axis=0))
    T[:3, 3] = stack[:, :3, 3].mean(axis=0)
    return T


def _tsai(A: Array, B: Array) -> Array:
    """Tsai & Lenz: modified Rodrigues vectors P = 2 sin(angle/2) axis; skew(Pa + Pb) P' = Pb - Pa."""
    P_a, P_b = 2.0 * _quaternions(A)[:, :3], 2.0 * _quaternions(B)[:, :3]
    rows = np.concatenate([skew(p) for p in P_a + P_b])
    P, *_ = np.linalg.lstsq(rows, (P_b - P_a).reshape(-1), rcond=None)
    P = 2.0 * P / np.sqrt(1.0 + P @ P)
    R = (1.0 - P @ P / 2.0) * np.eye(3) + 0.5 * (np.outer(P, P) + np.sqrt(max(4.0 - P @ P, 0.0)) * skew(P))
    return _with_translation(R, A, B)


def _park(A: Array, B: Array) -> Array:
    """Park & Martin: R aligns the rotation vectors, log(A) = R log(B), by the polar factor."""
    return _with_translation(nearest_rotation(_logs(A).T @ _logs(B)), A, B)


def _horaud(A: Array, B: Array) -> Array:
    """Horaud & Dornaika: unit quaternion that minimises |q_A q - q q_B|^2, an eigenvector of a 4x4 matrix."""
    M = np.zeros((4, 4))
    for q_a, q_b in zip(_quaternions(A), _quaternions(B), strict=True):
        D = quaternion_left(q_a) - quaternion_right(q_b)
        M += D.T @ D
    q = np.linalg.eigh(M)[1][:, 0]
    return _with_translation(Rotation.from_quat(q).as_matrix(), A, B)


def _andreff(A: Array, B: Array) -> Array:
    """Andreff, Horaud & Espiau: one linear system in the nine entries of R and in t, then R made orthonormal."""
    n = len(A)
    rows, right = np.zeros((12 * n, 12)), np.zeros(12 * n)
    for k in range(n):
        R_a, R_b = A[k, :3, :3], B[k, :3, :3]
        rows[12 * k : 12 * k + 9, :9] = np.eye(9) - np.kron(R_a, R_b)
        rows[12 * k + 9 : 12 * k + 12, :9] = np.kron(np.eye(3), B[k, :3, 3])
        rows[12 * k + 9 : 12 * k + 12, 9:] = np.eye(3) - R_a
        right[12 * k + 9 : 12 * k + 12] = A[k, :3, 3]
    solution, *_ = np.linalg.lstsq(rows, right, rcond=None)
    return _rigid(nearest_rotation(solution[:9].reshape(3, 3)), solution[9:])


def _daniilidis(A: Array, B: Array) -> Array:
    """Daniilidis: unit dual quaternion q + eps q' in the two-dimensional null space of the screw equations."""
    rows = []
    for T_a, T_b in zip(A, B, strict=True):
        (v_a, d_a), (v_b, d_b) = dual_quaternion(T_a), dual_quaternion(T_b)
        upper = np.column_stack([v_a - v_b, skew(v_a + v_b)])
        lower = np.column_stack([d_a - d_b, skew(d_a + d_b)])
        rows += [np.hstack([upper, np.zeros((3, 4))]), np.hstack([lower, upper])]
    null = np.linalg.svd(np.concatenate(rows))[2][-2:]
    (u1, v1), (u2, v2) = (null[0, :4], null[0, 4:]), (null[1, :4], null[1, 4:])
    # q = l1 u1 + l2 u2 must have unit length and q . q' = 0: a quadratic in s = l1 / l2.
    a, b, c = u1 @ v1, u1 @ v2 + u2 @ v1, u2 @ v2
    if abs(a) < 1e-14:
        raise ClosedFormFailed("daniilidis: the screw equations leave more than one answer; add rotations")
    roots = np.roots([a, b, c]).real
    lengths = [s * s * (u1 @ u1) + 2.0 * s * (u1 @ u2) + u2 @ u2 for s in roots]
    s, length = roots[int(np.argmax(lengths))], max(lengths)
    l2 = 1.0 / np.sqrt(length)
    q, dual = l2 * (s * u1 + u2), l2 * (s * v1 + v2)  # w first
    R = Rotation.from_quat(np.roll(q, -1)).as_matrix()
    t = 2.0 * (q[0] * dual[1:] - dual[0] * q[1:] + np.cross(q[1:], dual[1:]))
    return _rigid(R, t)


def _shah(A: Array, B: Array) -> tuple[Array, Array]:
    """Shah: rotations from the leading singular pair of the sum of Kronecker products, then the translations."""
    K = np.einsum("nij,nkl->ikjl", A[:, :3, :3], B[:, :3, :3]).reshape(9, 9)
    left, _, right = np.linalg.svd(K)
    R_y, R_x = left[:, 0].reshape(3, 3), right[0].reshape(3, 3)
    if np.linalg.det(R_x) < 0.0:  # a singular pair is known up to its common sign
        R_x, R_y = -R_x, -R_y
    R_x, R_y = nearest_rotation(R_x), nearest_rotation(R_y)
    rows = np.concatenate([np.hstack([T[:3, :3], -np.eye(3)]) for T in A])
    right_side = (B[:, :3, 3] @ R_y.T - A[:, :3, 3]).reshape(-1)
    t, *_ = np.linalg.lstsq(rows, right_side, rcond=None)
    return _rigid(R_x, t[:3]), _rigid(R_y, t[3:])


def _li(A: Array, B: Array) -> tuple[Array, Array]:
    """Li, Wang & Wu: one linear system in both rotations and both translations, then made orthonormal."""
    n = len(A)
    rows, right = np.zeros((12 * n, 24)), np.zeros(12 * n)
    for k in range(n):
        R_a, R_b = A[k, :3, :3], B[k, :3, :3]
        rows[12 * k : 12 * k + 9, :9] = np.kron(R_a, np.eye(3))
        rows[12 * k : 12 * k + 9, 9:18] = -np.kron(np.eye(3), R_b.T)
        rows[12 * k + 9 : 12 * k + 12, 9:18] = np.kron(np.eye(3), B[k, :3, 3])
        rows[12 * k + 9 : 12 * k + 12, 18:21] = -R_a
        rows[12 * k + 9 : 12 * k + 12, 21:] = np.eye(3)
        right[12 * k + 9 : 12 * k + 12] = A[k, :3, 3]
    s, *_ = np.linalg.lstsq(rows, right, rcond=None)
    R_x, R_y = nearest_rotation(s[:9].reshape(3, 3)), nearest_rotation(s[9:18].reshape(3, 3))
    return _rigid(R_x, s[18:21]), _rigid(R_y, s[21:])


_AX_XB: dict[str, Callable[[Array, Array], Array]] = {
    "tsai": _tsai,
    "park": _park,
    "horaud": _horaud,
    "andreff": _andreff,
    "daniilidis": _daniilidis,
}
_AX_YB: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {"shah": _shah, "li": _li}
AX_XB_METHODS = tuple(_AX_XB)
AX_YB_METHODS = tuple(_AX_YB)
METHODS = AX_XB_METHODS + AX_YB_METHODS


def _with_translation(R: Array, A: Array, B: Array) -> Array:
    """Translation of ``A X = X B`` for a known rotation: least squares on (R_A - I) t = R t_B - t_A."""
    rows = (A[:, :3, :3] - np.eye(3)).reshape(-1, 3)
    t, *_ = np.linalg.lstsq(rows, (B[:, :3, 3] @ R.T - A[:, :3, 3]).reshape(-1), rcond=None)
    return _rigid(R, t)


def _rigid(R: NDArray[np.floating], t: NDArray[np.floating]) -> Array:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


def _logs(T: Array) -> Array:
    return np.asarray(Rotation.from_matrix(T[:, :3, :3]).as_rotvec())


def _quaternions(T: Array) -> Array:
    """xyzw with w >= 0, so that the vector parts of A and B belong together."""
    return np.asarray(Rotation.from_matrix(T[:, :3, :3]).as_quat(canonical=True))


def _pair(A: ArrayLike, B: ArrayLike, least: int) -> tuple[Array, Array]:
    A, B = np.asarray(A, dtype=np.float64), np.asarray(B, dtype=np.float64)
    if A.shape != B.shape or A.ndim != 3 or A.shape[1:] != (4, 4):
        raise ValueError(f"A and B must both be [N, 4, 4], got {A.shape} and {B.shape}")
    if len(A) < least:
        raise ClosedFormFailed(f"{len(A)} transforms are too few, {least} are needed; take more views")
    return A, B


def _checked(T: Array, method: str) -> Array:
    if not np.isfinite(T).all():
        raise ClosedFormFailed(f"{method}: no finite answer; these motions leave the transform open, add rotations")
    return T
