"""Rotation formulas as tensors agree with scipy and with the house's Euler convention."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from calibration.poses import from_euler
from prophrl_models.policies.rotations import matrix_from_euler, relative_rotation, rotation_vector


def test_euler_matrices_follow_the_house_convention() -> None:
    euler = np.random.default_rng(0).uniform(-3, 3, (20, 3))
    expected = np.stack([from_euler([0, 0, 0, *e])[:3, :3] for e in euler])
    np.testing.assert_allclose(matrix_from_euler(torch.from_numpy(euler)).numpy(), expected, atol=1e-12)


def test_rotation_vectors_agree_with_scipy_down_to_tiny_angles() -> None:
    rng = np.random.default_rng(1)
    direction = rng.normal(size=(30, 3))
    vectors = direction / np.linalg.norm(direction, axis=1, keepdims=True) * np.geomspace(1e-9, 2.8, 30)[:, None]
    matrices = torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix())
    np.testing.assert_allclose(rotation_vector(matrices).numpy(), vectors, atol=1e-7)


def test_relative_rotation_is_continuous_where_euler_angles_wrap() -> None:
    down = torch.tensor([np.pi, 0.0, np.pi / 2])
    both_sides = torch.tensor([[np.pi - 0.01, 0.0, np.pi / 2], [-np.pi + 0.01, 0.0, np.pi / 2]])
    relative = relative_rotation(down, both_sides)
    assert (relative[0] - relative[1]).norm() < 0.021
    np.testing.assert_allclose(relative.norm(dim=1).numpy(), [0.01, 0.01], atol=1e-5)


def test_gradient_at_rest_is_finite() -> None:
    euler = torch.zeros(1, 3, requires_grad=True)
    rotation_vector(matrix_from_euler(euler)).sum().backward()
    assert euler.grad is not None and torch.isfinite(euler.grad).all()
