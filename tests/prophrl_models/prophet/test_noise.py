"""The noise a world model is trained on, against the base model's formulation in sigma."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from prophrl_models.prophet.noise import (
    T_CONDITION,
    NoiseOptions,
    clip_of_velocity,
    draw_sigma,
    flow_sigmas,
    karras_sigmas,
    noised,
    sigma_of_t,
    t_of_sigma,
    velocity_loss,
)

SHAPE = (3, 4, 6, 2, 5)


def _clip_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def test_velocity_loss_is_the_base_models_weighted_clip_error() -> None:
    clip, noise = _clip_and_noise()
    sigma = torch.tensor([0.03, 1.7, 40.0], dtype=torch.float64)
    t = t_of_sigma(sigma)
    velocity = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    training = noised(clip, noise, t)

    # The other formulation: x = clip + sigma noise, clip_hat = c_skip x + c_out F, weight (1 + sigma)^2 / sigma^2.
    x = clip.numpy() + sigma.numpy()[:, None, None, None, None] * noise.numpy()
    s = sigma.numpy()[:, None, None, None, None]
    predicted = x / (1.0 + s) - s / (1.0 + s) * velocity.numpy()
    weighted = ((1.0 + s) ** 2 / s**2 * (clip.numpy() - predicted) ** 2)[:, :, 1:]
    ours = velocity_loss(velocity, training.target_BCLHW)
    assert float(ours) == pytest.approx(10.0 * weighted.mean(), rel=1e-5)  # the loss is float32
    np.testing.assert_allclose(training.input_BCLHW[:, :, 1:].numpy(), (x / (1.0 + s))[:, :, 1:], rtol=1e-12)


def test_the_known_frame_enters_clean_with_its_own_time() -> None:
    clip, noise = _clip_and_noise()
    training = noised(clip, noise, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))
    assert torch.equal(training.input_BCLHW[:, :, 0], clip[:, :, 0])
    assert training.t_BL[:, 0].tolist() == [T_CONDITION] * 3
    assert abs(T_CONDITION - 1e-4) < 2e-8
    assert training.t_BL[:, 1:].unique(dim=1).shape == (3, 1)


def test_the_known_frame_and_padding_have_no_loss() -> None:
    target = torch.zeros(SHAPE)
    predicted = torch.zeros(SHAPE)
    predicted[:, :, 0] = 100.0
    predicted[:, :, 4:] = 3.0
    valid = torch.ones(3, 6)
    valid[:, 4:] = 0.0
    assert float(velocity_loss(predicted, target, valid)) == 0.0
    assert float(velocity_loss(predicted, target)) == pytest.approx(10.0 * 9.0 * 2 / 5)


def test_channels_count_by_their_weight() -> None:
    predicted, target = torch.zeros(2, 4, 3, 2, 2), torch.zeros(2, 4, 3, 2, 2)
    predicted[:, 1] = 2.0
    weight_C = torch.tensor([2.0, 0.5, 1.0, 0.5])
    plain = float(velocity_loss(predicted, target))
    assert float(velocity_loss(predicted, target, weight_C=weight_C)) == pytest.approx(0.5 * plain)
    assert float(velocity_loss(predicted, target, weight_C=torch.ones(4))) == plain


def test_the_true_velocity_gives_the_clip_back() -> None:
    clip, noise = _clip_and_noise()
    t = torch.tensor([0.1, 0.6, 0.98], dtype=torch.float64)
    training = noised(clip, noise, t)
    found = clip_of_velocity(training.input_BCLHW, training.target_BCLHW, t[:, None, None, None, None])
    torch.testing.assert_close(found[:, :, 1:], clip[:, :, 1:])


def test_draws_are_log_normal_times_the_root_of_the_latent_frames() -> None:
    sigma = draw_sigma(40_000, 6, generator=torch.Generator().manual_seed(0)).log()
    assert float(sigma.mean()) == pytest.approx(0.5 * math.log(6.0), abs=0.02)
    assert float(sigma.std()) == pytest.approx(1.0, abs=0.02)


def test_a_share_of_the_draws_is_log_uniform_and_high() -> None:
    options = NoiseOptions(high_sigma_share=0.3)
    sigma = draw_sigma(40_000, 6, options, torch.Generator().manual_seed(1))
    high = sigma[sigma >= 200.0].log()
    assert len(high) / len(sigma) == pytest.approx(0.3, abs=0.01)
    quarters = torch.histc(high, 4, math.log(200.0), math.log(1e5)) / len(high)
    np.testing.assert_allclose(quarters.numpy(), 0.25, atol=0.02)


def test_draws_repeat_with_their_generator() -> None:
    draws = [draw_sigma(8, 6, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)


def test_karras_levels_are_even_in_the_seventh_root() -> None:
    sigmas = karras_sigmas(12, 0.002, 80.0)
    assert sigmas[0].item() == pytest.approx(80.0) and sigmas[-1].item() == pytest.approx(0.002)
    roots = np.diff(sigmas.numpy() ** (1 / 7))
    np.testing.assert_allclose(roots, roots[0])
    assert karras_sigmas(1, 0.002, 80.0).tolist() == [80.0]


def test_flow_levels_are_even_in_time_before_the_shift() -> None:
    t = t_of_sigma(flow_sigmas(4, 0.002, 1e4))
    np.testing.assert_allclose(t.numpy(), [1.0, 0.75, 0.5, 0.25], atol=1e-3)
    shifted = t_of_sigma(flow_sigmas(4, 0.002, 1e4, shift=3.0))
    np.testing.assert_allclose(shifted.numpy()[1:], [0.9, 0.75, 0.5], atol=1e-9)
    torch.testing.assert_close(sigma_of_t(t_of_sigma(torch.tensor(3.0))), torch.tensor(3.0))


@pytest.mark.parametrize("steps, low, high", [(0, 0.002, 80.0), (4, 0.0, 80.0), (4, 2.0, 1.0), (4, 0.1, math.inf)])
def test_schedules_refuse_levels_that_cannot_be(steps: int, low: float, high: float) -> None:
    for make in (karras_sigmas, flow_sigmas):
        with pytest.raises(ValueError, match="sigma_min"):
            make(steps, low, high)


def test_the_loss_refuses_a_clip_without_anything_to_predict() -> None:
    with pytest.raises(ValueError, match="at least two latent frames"):
        velocity_loss(torch.zeros(1, 4, 1, 2, 2), torch.zeros(1, 4, 1, 2, 2))
