"""Mathematics of rigid transforms for calibration: small motions, their Jacobians, quaternion products.

A tangent vector is ``[dt (m), dr (rad)]`` and acts on the right: ``T @ [exp(dr) | dt]``. Everything takes batches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from calibration.poses import inverse

Array = NDArray[np.float64]

_SMALL_RAD = 1e-4
"""Below this angle the series of the Jacobians is exact to double precision."""


def skew(v: ArrayLike) -> Array:
    """Cross-product matrices [..., 3, 3] of vectors [..., 3]: ``skew(a) @ b = a x b``."""
    v = np.asarray(v, dtype=np.float64)
    S = np.zeros((*v.shape, 3))
    S[..., 0, 1], S[..., 0, 2], S[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    S[..., 1, 0], S[..., 2, 0], S[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return S


def motion(delta: ArrayLike) -> Array:
    """``[exp(dr) | dt]`` [..., 4, 4] of tangent vectors [..., 6]."""
    delta = np.asarray(delta, dtype=np.float64)
    flat = delta.reshape(-1, 6)
    T = np.zeros((len(flat), 4, 4))
    T[:, :3, :3] = Rotation.from_rotvec(flat[:, 3:]).as_matrix()
    T[:, :3, 3] = flat[:, :3]
    T[:, 3, 3] = 1.0
    return T.reshape(*delta.shape[:-1], 4, 4)


def retract(T: Array, delta: ArrayLike) -> Array:
    """``T @ [exp(dr) | dt]`` of poses [..., 4, 4] and tangent vectors [..., 6]."""
    moved: Array = T @ motion(delta)
    return moved


def local(T_estimate: Array, T_other: Array) -> Array:
    """Tangent vector [6] that leads from one pose to another; the inverse of ``retract``."""
    E = inverse(T_estimate) @ T_other
    return np.concatenate([E[:3, 3], Rotation.from_matrix(E[:3, :3]).as_rotvec()])


def inverses(T_N44: Array) -> Array:
    """Inverses of rigid transforms [N, 4, 4]."""
    R_T = np.swapaxes(T_N44[:, :3, :3], 1, 2)
    inverted = np.zeros_like(T_N44)
    inverted[:, :3, :3] = R_T
    inverted[:, :3, 3] = -np.einsum("nij,nj->ni", R_T, T_N44[:, :3, 3])
    inverted[:, 3, 3] = 1.0
    return inverted


def adjoint(T_N44: Array) -> Array:
    """Matrices [N, 6, 6] that carry a small motion through a transform: ``T @ motion(d) = motion(Ad d) @ T``."""
    R = T_N44[:, :3, :3]
    Ad = np.zeros((len(T_N44), 6, 6))
    Ad[:, :3, :3] = Ad[:, 3:, 3:] = R
    Ad[:, :3, 3:] = skew(T_N44[:, :3, 3]) @ R
    return Ad


def right_jacobian(r_N3: Array) -> Array:
    """[N, 3, 3] with ``exp(r + d) = exp(r) exp(J d)`` to first order in d."""
    S, angle = skew(r_N3), np.linalg.norm(r_N3, axis=-1)[:, None, None]
    safe = np.maximum(angle, _SMALL_RAD)
    first = np.where(angle < _SMALL_RAD, 0.5 - angle**2 / 24.0, (1.0 - np.cos(safe)) / safe**2)
    second = np.where(angle < _SMALL_RAD, 1.0 / 6.0 - angle**2 / 120.0, (safe - np.sin(safe)) / safe**3)
    return np.asarray(np.eye(3) - first * S + second * (S @ S))


def left_jacobian_inverse(r_N3: Array) -> Array:
    """[N, 3, 3] with ``log(exp(d) exp(r)) = r + J d`` to first order in d; angles below pi."""
    return np.asarray(np.linalg.inv(right_jacobian(-r_N3)))


def nearest_rotation(M: ArrayLike) -> Array:
    """Rotation nearest to a matrix in the Frobenius norm."""
    U, _, Vt = np.linalg.svd(np.asarray(M, dtype=np.float64))
    R = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
    return np.asarray(R)


def quaternion_left(q: Array) -> Array:
    """Matrix L with q * p = L p (Hamilton product, xyzw)."""
    L = np.zeros((4, 4))
    L[:3, :3] = q[3] * np.eye(3) + skew(q[:3])
    L[:3, 3], L[3, :3], L[3, 3] = q[:3], -q[:3], q[3]
    return L


def quaternion_right(q: Array) -> Array:
    """Matrix R with p * q = R p (Hamilton product, xyzw)."""
    R = quaternion_left(q)
    R[:3, :3] = q[3] * np.eye(3) - skew(q[:3])
    return R


def dual_quaternion(T: Array) -> tuple[Array, Array]:
    """Vector parts [3], [3] of the real and the dual quaternion of a transform, real scalar >= 0."""
    q = Rotation.from_matrix(T[:3, :3]).as_quat(canonical=True)
    v, w, t = q[:3], q[3], T[:3, 3]
    return v, 0.5 * (w * t + np.cross(t, v))
