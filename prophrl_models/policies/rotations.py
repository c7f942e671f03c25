"""The few rotation formulas the policies need as differentiable tensors; the rest of the house uses scipy."""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_from_euler(euler_B3: Tensor) -> Tensor:
    """Rotation matrices [B, 3, 3] of extrinsic xyz angles, ``Rz @ Ry @ Rx`` as in ``calibration.poses``."""
    cx, cy, cz = euler_B3.cos().unbind(-1)
    sx, sy, sz = euler_B3.sin().unbind(-1)
    rows = [
        torch.stack([cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx], -1),
        torch.stack([sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx], -1),
        torch.stack([-sy, cy * sx, cy * cx], -1),
    ]
    return torch.stack(rows, -2)


def rotation_vector(matrix_B33: Tensor) -> Tensor:
    """Rotation vectors [B, 3] of matrices; angles near pi lose precision (callers keep to small angles)."""
    vee = torch.stack(
        [
            matrix_B33[:, 2, 1] - matrix_B33[:, 1, 2],
            matrix_B33[:, 0, 2] - matrix_B33[:, 2, 0],
            matrix_B33[:, 1, 0] - matrix_B33[:, 0, 1],
        ],
        -1,
    )
    sine = 0.5 * vee.norm(dim=-1, keepdim=True)
    cosine = 0.5 * (matrix_B33.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1.0)
    angle = torch.atan2(sine, cosine)
    factor = torch.where(sine > 1e-6, angle / sine.clamp_min(1e-6), torch.ones_like(sine))
    return 0.5 * vee * factor


def relative_rotation(reference_euler_3: Tensor, euler_B3: Tensor) -> Tensor:
    """Rotation vectors [B, 3] that lead from a reference orientation to the given ones, in the reference's frame."""
    reference = matrix_from_euler(reference_euler_3[None])[0]
    return rotation_vector(reference.T @ matrix_from_euler(euler_B3))
