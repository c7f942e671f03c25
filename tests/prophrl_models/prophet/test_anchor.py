"""A network that counts from the known frame: what it is shown, and what its output means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prophrl_models.prophet.anchor import SPREAD, anchored_input, anchored_velocity
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.noise import T_CONDITION, clip_of_velocity, noised


def clips(t: float, count: int = 64, spread: float = SPREAD) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Known frames plus Gaussian changes at noise level t: (input, labels, velocity)."""
    g = torch.Generator().manual_seed(int(1000 * t))
    known = torch.randn(count, 4, 1, 4, 6, generator=g)
    change = spread * torch.randn(count, 4, 3, 4, 6, generator=g)
    noise = torch.randn(count, 4, 4, 4, 6, generator=g)
    clip = noised(torch.cat([known, known + change], dim=2), noise, torch.full((count,), t))
    return clip.input_BCLHW, clip.t_BL, clip.target_BCLHW


@pytest.mark.parametrize("t", [0.03, 0.3, 0.7, 0.97])
def test_what_is_left_to_learn_has_deviation_one_and_is_not_in_the_input_linearly(t: float) -> None:
    x, t_BL, v = clips(t)
    silent = anchored_velocity(torch.zeros_like(x), x, t_BL)
    slope = anchored_velocity(torch.ones_like(x), x, t_BL) - silent
    left = ((v - silent) / slope)[:, :, 1:]
    assert float(left.square().mean().sqrt()) == pytest.approx(1.0, abs=0.05)
    z = anchored_input(x, t_BL)[:, :4, 1:]
    assert float(z.square().mean().sqrt()) == pytest.approx(1.0, abs=0.05)
    assert abs(float((left * z).mean())) < 0.05


@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_without_an_output_the_implied_clip_is_the_bayesian_estimate_of_a_gaussian_change(t: float) -> None:
    x, t_BL, _ = clips(t, 2)
    implied = clip_of_velocity(x, anchored_velocity(torch.zeros_like(x), x, t_BL), t)[:, :, 1:]
    known = x[:, :, :1].double().numpy()
    z = x[:, :, 1:].double().numpy() - (1 - t) * known
    posterior_mean = known + z * (1 - t) * SPREAD**2 / ((1 - t) ** 2 * SPREAD**2 + t**2)
    np.testing.assert_allclose(implied.numpy(), posterior_mean, atol=1e-5)


def test_from_pure_noise_an_untrained_network_expects_the_known_frame() -> None:
    config = preset("tiny")
    network = Prophet(replace(config.network, anchored=True))
    network.init_weights(torch.Generator().manual_seed(0))
    x = torch.randn(2, 16, 6, 4, 6)
    t_BL = torch.ones(2, 6)
    t_BL[:, 0] = T_CONDITION
    with torch.no_grad():
        velocity = network(x, t_BL, actions_BAX=torch.randn(2, 20, 14))
    torch.testing.assert_close(x[:, :, 1:] - velocity[:, :, 1:], x[:, :, :1].expand(-1, -1, 5, -1, -1))


def test_the_known_frame_reaches_every_place() -> None:
    """A network without attention between frames would still know what stood where."""
    x, t_BL, _ = clips(0.6, 3)
    shown = anchored_input(x, t_BL)
    assert shown.shape == (3, 8, 4, 4, 6)
    torch.testing.assert_close(shown[:, 4:], x[:, :, :1].expand(-1, -1, 4, -1, -1))


def test_small_is_anchored_and_networks_with_published_weights_are_not() -> None:
    assert preset("small").network.anchored
    assert not preset("2b").network.anchored and not preset("base").network.anchored
