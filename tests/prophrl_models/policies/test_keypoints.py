"""Positions read from maps, and the camera's rays that make them metric."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prophrl_models.policies.camera_rays import CameraRays
from prophrl_models.policies.keypoints import ImageTrunk, cell_centres, peak_position, target_map
from tests.helpers.reaches import camera

HEIGHT, WIDTH = 60, 80


def rays() -> CameraRays:
    module = CameraRays(320, 240)
    module.set(camera())
    return module


def test_label_and_readout_of_a_position_agree_to_a_twentieth_of_a_cell() -> None:
    position = torch.empty(200, 2).uniform_(-0.9, 0.9, generator=torch.Generator().manual_seed(0))
    read, _ = peak_position(target_map(position, HEIGHT, WIDTH, 0.8), HEIGHT, WIDTH, radius=3)
    cells = (read - position) / torch.tensor([2 / WIDTH, 2 / HEIGHT])
    assert cells.abs().max() < 0.05


def test_second_candidate_does_not_pull_the_readout() -> None:
    near, far = torch.tensor([[-0.5, 0.2]]), torch.tensor([[0.6, -0.4]])
    mixed = 0.6 * target_map(near, HEIGHT, WIDTH, 0.8) + 0.4 * target_map(far, HEIGHT, WIDTH, 0.8)
    read, weight = peak_position(mixed, HEIGHT, WIDTH, radius=3)
    assert (read - near).abs().max() < 0.005
    assert weight.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_position_outside_the_image_is_labelled_at_the_border() -> None:
    label = target_map(torch.tensor([[3.0, 0.0]]), HEIGHT, WIDTH, 0.8)
    centre = cell_centres(HEIGHT, WIDTH)[label.argmax()]
    assert centre[0].item() == pytest.approx(1 - 1 / WIDTH) and torch.isfinite(label).all()


def test_projection_agrees_with_the_camera_model() -> None:
    points = np.random.default_rng(0).uniform([-0.85, -0.28, 0.0], [-0.48, 0.28, 0.3], (50, 3))
    pixels, _ = camera().project(points)
    position = rays().project(torch.from_numpy(points.astype(np.float32))).numpy()
    expected = (2 * pixels + 1) / np.array([320, 240]) - 1
    np.testing.assert_allclose(position, expected, atol=1e-4)


def test_ray_at_a_height_leads_back_to_the_point() -> None:
    points = torch.from_numpy(
        np.random.default_rng(1).uniform([-0.85, -0.28, 0.0], [-0.48, 0.28, 0.3], (50, 3)).astype(np.float32)
    )
    found = rays().at_height(rays().project(points), points[:, 2])
    torch.testing.assert_close(found, points, atol=2e-4, rtol=0)


def test_ray_above_the_horizon_stays_finite() -> None:
    points = rays().at_height(torch.tensor([[0.0, -5.0]]), torch.zeros(1))
    assert torch.isfinite(points).all() and points.norm() < 50


def test_camera_of_another_image_size_is_refused() -> None:
    with pytest.raises(ValueError, match="424x240"):
        CameraRays(320, 240).set(replace(camera(), width=424))


def test_an_object_moves_its_map_by_as_much() -> None:
    torch.manual_seed(0)
    trunk = ImageTrunk(channels=16, text_width=8)
    text = torch.zeros(2, 8)
    image = torch.zeros(2, 3, 120, 160)
    image[0, :, 40:48, 40:48] = 2.0
    image[1, :, 56:64, 72:80] = 2.0  # the same square 16 rows lower and 32 columns further right
    with torch.no_grad():
        fine, summary = trunk(image, text)
    assert fine.shape == (2, 16, 60, 80) and summary.shape == (2, trunk.summary_channels)
    torch.testing.assert_close(fine[0, :, 16:28, 14:30], fine[1, :, 24:36, 30:46], atol=1e-4, rtol=1e-3)
