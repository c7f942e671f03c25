"""Variation of training rows: light changes pictures only, a displaced hand finds its way back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from calibration.poses import ActionConvention
from prophrl_models.policies.interface import Inputs, TrainingBatch
from prophrl_models.training.augment import AugmentOptions, augment, check_augment, coarsen, displace_hand, vary_light
from prophrl_models.training.settings import TrainingError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    state = torch.zeros(count, 7)
    state[:, 6] = 1.0
    chunk = 0.01 * torch.randn(count, 20, 7, generator=generator(1))
    chunk[:, :, 6] = 1.0
    return state, chunk


def test_hands_are_displaced_only_where_deltas_are_in_the_base_frame() -> None:
    with pytest.raises(TrainingError, match=r"augment\.position_m \(0\.008\).*local deltas need 0"):
        check_augment(AugmentOptions(), ActionConvention.LOCAL_FRAME_DELTA)
    check_augment(AugmentOptions(position_m=0.0), ActionConvention.LOCAL_FRAME_DELTA)
    check_augment(AugmentOptions(), ActionConvention.ABSOLUTE_POSE_DIFFERENCE)


def test_displaced_hand_is_led_back_to_the_demonstrated_path() -> None:
    state, chunk = rows()
    options = AugmentOptions(position_m=0.01, return_steps=6)
    moved, led = displace_hand(state, chunk, options, generator())
    offset = moved[:, :3] - state[:, :3]
    assert 0.005 < offset.std() < 0.015
    path, demonstrated = moved[:, None, :3] + led[:, :, :3].cumsum(1), state[:, None, :3] + chunk[:, :, :3].cumsum(1)
    torch.testing.assert_close(path[:, 5:], demonstrated[:, 5:], atol=1e-6, rtol=0)
    assert not torch.allclose(path[:, 0], demonstrated[:, 0], atol=1e-3)
    assert torch.equal(led[:, :, 3:], chunk[:, :, 3:]) and torch.equal(moved[:, 3:], state[:, 3:])


def test_hand_keeps_its_place_while_the_gripper_is_about_to_move() -> None:
    state, chunk = rows()
    chunk[:32, 5:, 6] = 0.0
    moved, led = displace_hand(state, chunk, AugmentOptions(), generator())
    assert torch.equal(moved[:32], state[:32]) and torch.equal(led[:32], chunk[:32])
    assert not torch.equal(moved[32:], state[32:])


def test_light_varies_between_rows_but_not_within_a_flat_picture() -> None:
    image = torch.full((8, 3, 12, 16), 100, dtype=torch.uint8)
    varied = vary_light(image, AugmentOptions(pixel_noise=0.0), generator())
    assert varied.flatten(2).std(dim=2).max() < 1e-3
    assert varied[:, :, 0, 0].std(dim=0).min() > 3.0


def test_pixel_noise_has_the_asked_strength_and_differs_between_rows() -> None:
    image = torch.full((4, 3, 60, 80), 100, dtype=torch.uint8)
    options = AugmentOptions(brightness=0.0, contrast=0.0, colour=0.0, pixel_noise=3.0)
    varied = vary_light(image, options, generator())
    assert abs(varied.std().item() - 3.0) < 0.15
    assert not torch.equal(varied[0], varied[1])


def test_nothing_changes_when_everything_is_turned_off() -> None:
    state, chunk = rows(4)
    image = torch.randint(0, 255, (4, 3, 12, 16), generator=generator(), dtype=torch.uint8)
    ones = torch.ones(4)
    batch = TrainingBatch(Inputs(image, state, torch.zeros(4, 16).long()), chunk, ones, state, ones)
    off = AugmentOptions(brightness=0.0, contrast=0.0, colour=0.0, pixel_noise=0.0, position_m=0.0)
    same = augment(batch, off, generator())
    assert torch.equal(same.inputs.image, image.float()) and torch.equal(same.actions_BCD, chunk)


def test_same_generator_state_gives_the_same_rows() -> None:
    state, chunk = rows(4)
    image = torch.randint(0, 255, (4, 3, 12, 16), generator=generator(), dtype=torch.uint8)
    ones = torch.ones(4)
    batch = TrainingBatch(Inputs(image, state, torch.zeros(4, 16).long()), chunk, ones, state, ones)
    a, b, c = (augment(batch, replace(AugmentOptions()), generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(a.inputs.image, b.inputs.image) and torch.equal(a.inputs.state_B7, b.inputs.state_B7)
    assert not torch.equal(a.inputs.image, c.inputs.image)


def test_coarse_pictures_lose_fine_detail_and_keep_their_mean() -> None:
    image = torch.randint(0, 255, (64, 3, 24, 32), generator=generator(), dtype=torch.uint8).float()
    coarse = coarsen(image, AugmentOptions(coarse_share=0.5, coarse_scale=0.5), generator(3))
    changed = (coarse != image).flatten(1).any(1)
    assert 16 < int(changed.sum()) < 48, "about half of the rows"
    assert float(coarse[changed].std()) < 0.8 * float(image[changed].std())
    torch.testing.assert_close(coarse.mean((1, 2, 3)), image.mean((1, 2, 3)), atol=2.0, rtol=0.0)
    flat = torch.full((2, 3, 24, 32), 80.0)
    torch.testing.assert_close(coarsen(flat, AugmentOptions(coarse_share=1.0), generator()), flat)
