"""FlowScale weights: their defining properties, and that they flatten what they are meant to flatten."""

from __future__ import annotations

import math

import pytest
import torch

from prophrl_models.rl.flow_scale import flow_scale_weights, step_gradient_norms, step_shares
from prophrl_models.rl.losses import fa_grpo_loss
from prophrl_models.rl.sde import grid_std, sde_step, shifted_grid, step_log_prob, uniform_grid

OPEN = {"w_min": 0.0, "w_max": math.inf}


def stds(K: int = 10, level: float = 0.7) -> torch.Tensor:
    return grid_std(uniform_grid(K, dtype=torch.float64), noise_level=level)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("power", [0.5, 1.0])
def test_weights_have_mean_one_before_the_clip_and_fall_with_the_deviation(alpha: float, power: float) -> None:
    std_BSK = torch.stack([stds(level=a) for a in (0.3, 0.7, 1.2)]).reshape(3, 1, 10)
    w = flow_scale_weights(std_BSK, alpha=alpha, power=power, **OPEN)
    torch.testing.assert_close(w.mean(-1), torch.ones(3, 1, dtype=torch.float64))
    assert (w.diff(dim=-1) <= 1e-15).all()


def test_weights_agree_with_a_loop_over_plain_numbers() -> None:
    std_BSK = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = flow_scale_weights(std_BSK, power=0.8, alpha=0.2, w_min=0.5, w_max=1.3, eps=1e-3)
    for b in range(2):
        for s in range(3):
            raw = [(x**2 + 1e-3) ** 0.8 for x in std_BSK[b, s].tolist()]
            for k in range(6):
                mixed = 0.8 * raw[k] / (sum(raw) / 6) + 0.2
                assert w[b, s, k].item() == pytest.approx(min(max(mixed, 0.5), 1.3), abs=1e-12)


def test_published_numbers_of_the_uniform_grid_are_reproduced() -> None:
    expected = [1.857, 1.777, 1.285, 1.052, 0.903, 0.792, 0.702, 0.622, 0.546, 0.464]
    assert flow_scale_weights(stds()).tolist() == pytest.approx(expected, abs=6e-4)


def test_nothing_is_renormalised_after_the_clip() -> None:
    std_K = torch.tensor([1.0, 0.01, 0.01, 0.01], dtype=torch.float64)
    w = flow_scale_weights(std_K, alpha=0.0)
    assert w.tolist() == [2.0, 0.3, 0.3, 0.3]


def test_power_one_half_makes_weights_proportional_to_the_deviation() -> None:
    ratio = flow_scale_weights(stds(), alpha=0.0, eps=0.0, **OPEN) / stds()
    torch.testing.assert_close(ratio, ratio[:1].expand(10))


def test_no_gradient_passes_through_the_weights() -> None:
    std = stds().requires_grad_()
    assert not flow_scale_weights(std).requires_grad


def test_float64_stays() -> None:
    assert flow_scale_weights(stds()).dtype == torch.float64
    assert flow_scale_weights(stds().float()).dtype == torch.float32
    assert flow_scale_weights(stds().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    "bad", [{"alpha": 1.5}, {"w_min": 2.0, "w_max": 1.0}, {"eps": -1.0}, {"power": math.nan}, {"w_min": -0.1}]
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        flow_scale_weights(stds(), **bad)


@pytest.mark.parametrize("grid", [uniform_grid(10, dtype=torch.float64), shifted_grid(10, dtype=torch.float64)])
def test_weighted_gradient_norms_of_the_means_are_equal_over_the_steps(grid: torch.Tensor) -> None:
    g = torch.Generator().manual_seed(1)
    B, S, K, C, D = 64, 2, 10, 4, 7
    std_K = grid_std(grid, noise_level=0.7)
    mean = torch.zeros(B, S, K, C, D, dtype=torch.float64, requires_grad=True)
    drawn = torch.randn(B, S, K, C, D, generator=g, dtype=torch.float64)
    logp = step_log_prob(std_K[:, None, None] * drawn, mean, std_K[:, None, None])
    weights = flow_scale_weights(std_K.expand(B, S, K), alpha=0.0, eps=0.0, **OPEN)
    advantage, mask = torch.randn(B, generator=g, dtype=torch.float64), torch.ones(B, S, C)
    norms = {}
    for name, w in (("plain", None), ("scaled", weights)):
        loss, _ = fa_grpo_loss(logp, logp.detach(), advantage, mask, weights_BSK=w)
        norms[name] = step_gradient_norms(loss, mean)
    expected = norms["plain"][0] * std_K[0] / std_K
    torch.testing.assert_close(norms["plain"], expected, rtol=0.1, atol=0)
    assert norms["plain"].max() / norms["plain"].min() > 3
    assert norms["scaled"].max() / norms["scaled"].min() < 1.15


def test_velocity_gradients_hold_the_factor_of_the_step() -> None:
    v = torch.zeros(1, 1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    x = torch.ones(1, 1, 2, 1, 1, dtype=torch.float64)
    grid = uniform_grid(2, dtype=torch.float64)
    mean, _ = sde_step(x, v, grid[:-1, None, None], grid[1:, None, None], noise_level=0.7)
    # d mean / d v = -d (1 + sigma^2 (1 - t) / (2 t)); sigma^2 = a^2 at t = 1/2
    assert step_gradient_norms(mean.sum(), v).tolist() == pytest.approx([0.5, 0.5 * (1 + 0.49 / 2)])


def test_shares_sum_to_one_and_survive_zeros() -> None:
    assert step_shares(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.36, 0.64])
    assert step_shares(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
