"""The stochastic sampler: steps against plain numpy, marginals, grids, and agreement with the policies' own sampler."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from prophrl_models.policies import flow
from prophrl_models.rl.sde import (
    chain_log_prob,
    gaussian_kl,
    grid_std,
    sample_chain,
    sde_step,
    shifted_grid,
    step_log_prob,
    uniform_grid,
)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def linear_velocity(gain: Tensor) -> flow.Velocity:
    return lambda x, t: gain * x * (0.5 + t[:, None, None])


# The reference below was written from the formulas alone: loops over numbers, nothing shared with the code.


def reference_step(x: float, v: float, t: float, t_next: float, a: float) -> tuple[float, float]:
    one_minus = 1.0 - (t_next if t == 1.0 else t)
    sigma = a * math.sqrt(t / one_minus)
    d = t - t_next
    noise_estimate = x + (1.0 - t) * v
    score = -noise_estimate / t
    drift = v - 0.5 * sigma**2 * score
    return x - d * drift, sigma * math.sqrt(d)


def reference_log_density(x: float, mean: float, std: float) -> float:
    return math.log(1.0 / (std * math.sqrt(2.0 * math.pi)) * math.exp(-0.5 * ((x - mean) / std) ** 2))


@pytest.mark.parametrize("level", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("grid", [uniform_grid(10, dtype=torch.float64), shifted_grid(6, dtype=torch.float64)])
def test_steps_agree_with_a_loop_over_plain_numbers(grid: Tensor, level: float) -> None:
    x, v, drawn = normal(4, 3, seed=1), normal(4, 3, seed=2), normal(4, 3, seed=3)
    for t, t_next in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        mean, std = sde_step(x, v, t, t_next, noise_level=level)
        logp = step_log_prob(mean + std * drawn, mean, std)
        for i in range(4):
            for j in range(3):
                m, s = reference_step(x[i, j].item(), v[i, j].item(), t, t_next, level)
                assert mean[i, j].item() == pytest.approx(m, abs=1e-12)
                assert std.item() == pytest.approx(s, abs=1e-12)
                at = m + s * drawn[i, j].item()
                assert logp[i, j].item() == pytest.approx(reference_log_density(at, m, s), abs=1e-9)


def test_float64_stays_and_half_precisions_become_float32() -> None:
    x = normal(2, 3)
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        mean, std = sde_step(x.to(dtype), x.to(dtype), 0.5, 0.4, noise_level=0.5)
        assert mean.dtype == std.dtype == step_log_prob(x.to(dtype), mean, std).dtype == expected
        assert gaussian_kl(mean, mean, std).dtype == expected
    exact = sde_step(x, x, 0.3, 0.1, noise_level=0.5)[0]
    assert (exact - sde_step(x.float(), x.float(), 0.3, 0.1, noise_level=0.5)[0].double()).abs().max() > 0


def test_first_step_takes_the_next_label_in_the_denominator() -> None:
    x = torch.zeros(1, dtype=torch.float64)
    for K in (1, 4, 10):
        _, std = sde_step(x, x, 1.0, 1.0 - 1.0 / K, noise_level=0.7)
        assert std.item() == pytest.approx(0.7)  # a sqrt(1 / (1/K)) sqrt(1/K)


@pytest.mark.parametrize(("K", "level"), [(10, 0.5), (4, 0.7), (10, 1.0)])
def test_uniform_deviations_follow_the_closed_form(K: int, level: float) -> None:
    expected = [level] + [level * math.sqrt((K - k) / (k * K)) for k in range(1, K)]
    assert grid_std(uniform_grid(K), noise_level=level).tolist() == pytest.approx(expected, rel=1e-5)
    assert grid_std(uniform_grid(K), noise_level=level).tolist() == pytest.approx(
        flow.sde_std(K, level).tolist(), rel=1e-5
    )


def test_the_shifted_grid_with_shift_one_is_uniform_and_otherwise_dwells_near_the_noise() -> None:
    assert torch.equal(shifted_grid(7, shift=1.0), uniform_grid(7))
    torch.testing.assert_close(uniform_grid(10), flow.time_grid(10), atol=1e-7, rtol=0)
    shifted = shifted_grid(10, shift=3.0, dtype=torch.float64)
    assert shifted[0] == 1.0 and shifted[-1] == 0.0 and (shifted.diff() < 0).all()
    assert shifted[5].item() == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert (shifted[1:-1] > uniform_grid(10, dtype=torch.float64)[1:-1]).all()


def test_labels_of_leading_dimensions_mean_their_own_rows() -> None:
    x, v = normal(2, 3, 4, 5, 7, seed=4), normal(2, 3, 4, 5, 7, seed=5)
    t_BSK = torch.rand(2, 3, 4, generator=generator(6), dtype=torch.float64) * 0.8 + 0.15
    mean, std = sde_step(x, v, t_BSK, t_BSK - 0.1, noise_level=0.6)
    assert std.shape == (2, 3, 4, 1, 1)
    one, one_std = sde_step(x[1, 2, 3], v[1, 2, 3], t_BSK[1, 2, 3], t_BSK[1, 2, 3] - 0.1, noise_level=0.6)
    assert torch.equal(mean[1, 2, 3], one) and torch.equal(std[1, 2, 3, 0, 0], one_std)
    grid = uniform_grid(4, dtype=torch.float64)
    by_step, _ = sde_step(x, v, grid[:-1, None, None], grid[1:, None, None], noise_level=0.6)
    assert torch.equal(by_step[:, :, 2], sde_step(x[:, :, 2], v[:, :, 2], 0.5, 0.25, noise_level=0.6)[0])


def test_deviations_of_leading_dimensions_mean_their_own_rows() -> None:
    a, b = normal(2, 3, 4, 5, 7, seed=20), normal(2, 3, 4, 5, 7, seed=21)
    std_BSK = torch.rand(2, 3, 4, generator=generator(22), dtype=torch.float64) + 0.1
    assert torch.equal(step_log_prob(a, b, std_BSK)[1, 2, 3], step_log_prob(a[1, 2, 3], b[1, 2, 3], std_BSK[1, 2, 3]))
    assert torch.equal(gaussian_kl(a, b, std_BSK), gaussian_kl(a, b, std_BSK[..., None, None]))
    with pytest.raises(ValueError, match="fits both ends"):
        gaussian_kl(normal(4, 4), normal(4, 4), torch.ones(4))


def test_labels_that_could_mean_two_things_are_refused_unless_a_last_dimension_of_one_tells() -> None:
    x = normal(4, 4, 5, 7)  # as many rows as steps
    grid = uniform_grid(4, dtype=torch.float64)
    mean, _ = sde_step(x, x, grid[:-1, None, None], grid[1:, None, None], noise_level=0.5)
    assert torch.equal(mean[:, 1], sde_step(x[:, 1], x[:, 1], 0.75, 0.5, noise_level=0.5)[0])
    x = normal(7, 5, 7)
    with pytest.raises(ValueError, match="fits both ends"):
        sde_step(x, x, torch.full((7,), 0.5), 0.4, noise_level=0.5)
    with pytest.raises(ValueError, match="does not broadcast"):
        sde_step(x, x, torch.full((3,), 0.5), 0.4, noise_level=0.5)


@pytest.mark.parametrize(("t", "t_next"), [(0.4, 0.5), (0.5, 0.5), (0.0, -0.1), (1.2, 0.5)])
def test_labels_out_of_order_are_refused(t: float, t_next: float) -> None:
    x = normal(2, 2)
    with pytest.raises(ValueError, match="t = 1 is noise"):
        sde_step(x, x, t, t_next, noise_level=0.5)


def test_other_bad_inputs_are_refused() -> None:
    x = normal(2, 2)
    with pytest.raises(ValueError, match="noise_level"):
        sde_step(x, x, 0.5, 0.4, noise_level=-0.1)
    with pytest.raises(ValueError, match="one shape"):
        sde_step(x, x[:1], 0.5, 0.4, noise_level=0.1)
    with pytest.raises(ValueError, match="num_steps"):
        uniform_grid(0)
    with pytest.raises(ValueError, match="shift"):
        shifted_grid(3, shift=0.0)
    with pytest.raises(ValueError, match="from 1 to 0"):
        grid_std(torch.tensor([0.9, 0.5, 0.0]), noise_level=0.5)


def test_without_noise_the_step_is_eulers_and_has_no_density() -> None:
    x, v = normal(3, 2, seed=7).requires_grad_(), normal(3, 2, seed=8).requires_grad_()
    mean, std = sde_step(x, v, 1.0, 0.9, noise_level=0.0)
    torch.testing.assert_close(mean, x - 0.1 * v)
    logp, kl = step_log_prob(mean, mean, std), gaussian_kl(mean, mean + 1, std)
    assert std == 0 and (logp == 0).all() and (kl == 0).all()
    (logp.sum() + kl.sum()).backward()
    assert torch.equal(v.grad, torch.zeros_like(v)) and torch.equal(x.grad, torch.zeros_like(x))


def test_kl_is_that_of_torch_distributions() -> None:
    a, b = normal(5, 3, seed=9), normal(5, 3, seed=10)
    std = torch.tensor(0.3, dtype=torch.float64)
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(a, std), torch.distributions.Normal(b, std))
    torch.testing.assert_close(gaussian_kl(a, b, std), expected)
    torch.testing.assert_close(gaussian_kl(a, b, 0.3), expected)


@pytest.mark.parametrize("level", [0.3, 0.7])
def test_the_uniform_chain_is_that_of_the_policies_sampler(level: float) -> None:
    velocity = linear_velocity(torch.tensor(0.7))
    noise = normal(4, 5, 3, seed=11, dtype=torch.float32)
    ours = sample_chain(velocity, noise, uniform_grid(10), noise_level=level, generator=generator(12))
    theirs = flow.sample(velocity, noise, 10, "sde", level, generator(12))
    torch.testing.assert_close(ours.chain_BKCD, theirs.chain_BKCD, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours.std_K, theirs.std_K, atol=1e-6, rtol=1e-6)
    logp, _, std_K = chain_log_prob(velocity, theirs.chain_BKCD, uniform_grid(10), noise_level=level)
    torch.testing.assert_close(logp, flow.trace_log_prob(velocity, theirs), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(std_K, theirs.std_K, atol=1e-6, rtol=1e-6)


def test_marked_steps_alone_draw_noise_as_in_the_policies_sampler() -> None:
    mask = torch.zeros(6, dtype=torch.bool)
    mask[2] = True
    velocity = linear_velocity(torch.tensor(0.4))
    noise = normal(3, 2, 2, seed=13, dtype=torch.float32)
    ours = sample_chain(velocity, noise, uniform_grid(6), noise_level=0.5, generator=generator(14), sde_mask_K=mask)
    theirs = flow.sample(velocity, noise, 6, "sde", 0.5, generator(14), mask)
    torch.testing.assert_close(ours.chain_BKCD, theirs.chain_BKCD, atol=1e-6, rtol=1e-6)
    logp, _, std_K = chain_log_prob(velocity, ours.chain_BKCD, uniform_grid(6), noise_level=0.5, sde_mask_K=mask)
    torch.testing.assert_close(logp, ours.logp_BKCD, atol=1e-5, rtol=1e-5)
    assert (logp[:, ~mask] == 0).all() and logp[:, mask].abs().min() > 0 and std_K.nonzero().tolist() == [[2]]


@pytest.mark.parametrize("grid", [uniform_grid(5, dtype=torch.float64), shifted_grid(5, dtype=torch.float64)])
def test_recomputed_log_probs_of_a_fresh_chain_give_ratio_one_and_the_right_gradient(grid: Tensor) -> None:
    gain = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    noise = normal(4, 3, 2, seed=15)
    with torch.no_grad():
        trace = sample_chain(linear_velocity(gain), noise, grid, noise_level=0.5, generator=generator(16))
    logp, mean, std_K = chain_log_prob(linear_velocity(gain), trace.chain_BKCD, grid, noise_level=0.5)
    assert logp.shape == mean.shape == (4, 5, 3, 2) and logp.dtype == torch.float64
    torch.testing.assert_close(logp, trace.logp_BKCD, atol=1e-10, rtol=0)
    torch.testing.assert_close(std_K, trace.std_K)
    logp.sum().backward()
    h, sums = 1e-5, []
    for sign in (1, -1):
        moved = torch.tensor(0.7 + sign * h, dtype=torch.float64)
        sums.append(chain_log_prob(linear_velocity(moved), trace.chain_BKCD, grid, noise_level=0.5)[0].sum())
    assert gain.grad is not None
    assert gain.grad.item() == pytest.approx(((sums[0] - sums[1]) / (2 * h)).item(), rel=1e-6)


def test_chains_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="6 states"):
        chain_log_prob(linear_velocity(torch.tensor(1.0)), torch.zeros(1, 4, 2, 2), uniform_grid(5), noise_level=0.5)


class Mixture:
    """Two Gaussians on the plane, deviation 0.2, and the exact velocity of the flow to them."""

    weight = np.array([0.7, 0.3])
    centre = np.array([[-1.0, 0.5], [1.5, -0.5]])
    deviation = 0.2

    def draw(self, count: int, rng: np.random.Generator) -> Tensor:
        mode = rng.choice(2, size=count, p=self.weight)
        return torch.from_numpy(self.centre[mode] + self.deviation * rng.standard_normal((count, 2)))

    def velocity(self, x_N12: Tensor, t_N: Tensor) -> Tensor:
        x, t = x_N12[:, 0], t_N[:, None].to(x_N12.dtype)
        variance = t**2 + ((1 - t) * self.deviation) ** 2
        away = x[:, None] - (1 - t)[:, None] * torch.from_numpy(self.centre).to(x.dtype)
        log_weight = torch.from_numpy(np.log(self.weight)).to(x.dtype)
        share = torch.softmax(log_weight - away.square().sum(-1) / (2 * variance), dim=1)
        score = -(share[..., None] * away).sum(1) / variance
        # From the probability flow of x_t = t n + (1 - t) a: v = -(x + t score) / (1 - t) with n = -t score.
        t_safe = torch.clamp(1 - t, min=1e-12)
        noise = -t * score
        data = torch.where(t < 1.0, (x - t * noise) / t_safe, (share @ torch.from_numpy(self.centre).to(x.dtype)))
        return (noise - data)[:, None]


def sliced_w2(a: Tensor, b: Tensor) -> float:
    angles = torch.arange(48, dtype=a.dtype) * math.pi / 48
    directions = torch.stack([angles.cos(), angles.sin()])
    gap = (a @ directions).sort(dim=0)[0] - (b @ directions).sort(dim=0)[0]
    return gap.square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("level", "grid"), [(0.3, uniform_grid(200)), (0.7, uniform_grid(200)), (0.7, shifted_grid(200))]
)
def test_the_sde_has_the_marginals_of_the_ode(level: float, grid: Tensor) -> None:
    data, count = Mixture(), 4_000
    rng = np.random.default_rng(0)
    start = torch.from_numpy(rng.standard_normal((count, 1, 2))).float()
    sde = sample_chain(data.velocity, start, grid, noise_level=level, generator=generator(17))
    ode = sample_chain(data.velocity, start, grid, noise_level=0.0)
    truth = data.draw(count, rng).float()
    assert sliced_w2(sde.actions_BCD[:, 0], ode.actions_BCD[:, 0]) < 0.15
    assert sliced_w2(sde.actions_BCD[:, 0], truth) < 0.15
    assert sliced_w2(sde.chain_BKCD[:, 100, 0], ode.chain_BKCD[:, 100, 0]) < 0.05
    # The test can fail: twice the noise in the drawing alone is another process.
    k = 150
    assert sliced_w2(sde.chain_BKCD[:, k, 0] + 0.5 * start[:, 0], ode.chain_BKCD[:, k, 0]) > 0.1
