"""Flow matching: one time convention for training and sampling, SDE marginals, log-probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prophrl_models.policies import flow

K = 10


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_velocity_at_the_samplers_labels_is_the_training_target() -> None:
    action, noise = torch.randn(6, 20, 7, generator=generator(1)), torch.randn(6, 20, 7, generator=generator(2))
    seen: list[tuple[Tensor, Tensor]] = []

    def straight(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return flow.velocity_target(action, noise)

    trace = flow.sample(straight, noise, K)
    torch.testing.assert_close(trace.actions_BCD, action, atol=1e-5, rtol=0)
    assert [t[0].item() for _, t in seen] == pytest.approx([1 - k / K for k in range(K)])
    for x, t in seen:  # the sampler visits the very points that training labels with t
        torch.testing.assert_close(x, flow.interpolate(action, noise, t), atol=1e-5, rtol=0)


def test_time_ends_are_noise_and_action() -> None:
    action, noise = torch.full((1, 2, 3), 5.0), torch.full((1, 2, 3), -1.0)
    assert torch.equal(flow.interpolate(action, noise, torch.ones(1)), noise)
    assert torch.equal(flow.interpolate(action, noise, torch.zeros(1)), action)
    assert flow.time_grid(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize(("steps", "level"), [(10, 0.5), (4, 0.7), (10, 1.0)])
def test_step_deviations_follow_the_closed_form(steps: int, level: float) -> None:
    expected = [level] + [level * math.sqrt((steps - k) / (k * steps)) for k in range(1, steps)]
    assert flow.sde_std(steps, level).tolist() == pytest.approx(expected, rel=1e-5)


def test_step_mean_is_the_mixture_of_predicted_action_and_noise() -> None:
    x, v = torch.randn(5, 3, 2, generator=generator(3)), torch.randn(5, 3, 2, generator=generator(4))
    d, sigma = 1 / K, flow.sde_sigma(K, 0.7)
    for k in range(1, K):
        t = torch.tensor(1 - k / K)
        action, noise = x - v * t, x + v * (1 - t)
        expected = action * (1 - (t - d)) + noise * (t - d - sigma[k] ** 2 * d / (2 * t))
        torch.testing.assert_close(flow.sde_mean(x, v, t, sigma[k] * d**0.5, K), expected, atol=1e-5, rtol=1e-4)


def test_step_without_noise_is_the_euler_step() -> None:
    x, v = torch.randn(2, 3, 4, generator=generator(5)), torch.randn(2, 3, 4, generator=generator(6))
    mean = flow.sde_mean(x, v, torch.tensor(0.6), torch.tensor(0.0), K)
    torch.testing.assert_close(mean, x - v / K)


class Mixture:
    """Three Gaussians in the plane with the exact velocity of the flow to them."""

    weight = torch.tensor([0.6, 0.3, 0.1])
    centre = torch.tensor([[-1.5, 0.0], [1.5, 1.0], [0.5, -2.0]])
    deviation = 0.15

    def draw(self, count: int, g: torch.Generator) -> Tensor:
        mode = torch.multinomial(self.weight, count, replacement=True, generator=g)
        return self.centre[mode] + self.deviation * torch.randn(count, 2, generator=g)

    def velocity(self, x_N12: Tensor, t_N: Tensor) -> Tensor:
        x, t = x_N12[:, 0], t_N[:, None]
        variance = t.square() + ((1 - t) * self.deviation).square()  # [N, 1]
        r = x[:, None] - (1 - t)[:, None] * self.centre  # [N, 3, 2]
        posterior = (self.weight.log() - r.square().sum(-1) / (2 * variance)).softmax(1)
        noise = t[..., None] * r / variance[..., None]
        action = self.centre + ((1 - t) * self.deviation**2)[..., None] * r / variance[..., None]
        return (posterior[..., None] * (noise - action)).sum(1)[:, None]


def sliced_w2(a: Tensor, b: Tensor, g: torch.Generator) -> float:
    """Sliced 2-Wasserstein distance of two samples [N, 2] over 64 directions."""
    angle = torch.rand(64, generator=g) * math.pi
    direction = torch.stack([angle.cos(), angle.sin()])
    return (a @ direction).sort(dim=0)[0].sub((b @ direction).sort(dim=0)[0]).square().mean().sqrt().item()


@pytest.mark.parametrize("level", [0.3, 0.7])
def test_sde_keeps_the_marginal_of_the_data(level: float) -> None:
    data, g, count = Mixture(), generator(7), 20_000
    noise = torch.randn(count, 1, 2, generator=g)
    trace = flow.sample(data.velocity, noise, 200, mode="sde", noise_level=level, generator=g)
    assert sliced_w2(trace.actions_BCD[:, 0], data.draw(count, g), g) < 0.15


def test_sde_keeps_the_marginal_half_way() -> None:
    data, g, count = Mixture(), generator(8), 20_000
    noise = torch.randn(count, 1, 2, generator=g)
    trace = flow.sample(data.velocity, noise, 200, mode="sde", noise_level=0.7, generator=g)
    half = flow.interpolate(data.draw(count, g), torch.randn(count, 2, generator=g), torch.full((count,), 0.5))
    assert sliced_w2(trace.chain_BKCD[:, 100, 0], half, g) < 0.08


def linear_velocity(gain: Tensor) -> flow.Velocity:
    return lambda x, t: gain * x * (0.5 + t[:, None, None])


def test_recomputed_log_prob_of_a_fresh_trace_gives_ratio_one() -> None:
    gain = torch.tensor(0.7)
    noise = torch.randn(4, 5, 3, generator=generator(9))
    trace = flow.sample(linear_velocity(gain), noise, K, "sde", 0.5, generator(10))
    recomputed = flow.trace_log_prob(linear_velocity(gain), trace)
    assert recomputed.shape == (4, K, 5, 3) and recomputed.dtype == torch.float32
    ratio_BCD = (recomputed - trace.logp_BKCD).sum(1).exp()
    torch.testing.assert_close(ratio_BCD, torch.ones_like(ratio_BCD), atol=1e-4, rtol=0)


def test_log_prob_gradient_agrees_with_finite_differences() -> None:
    noise = torch.randn(3, 4, 2, generator=generator(11))
    trace = flow.sample(linear_velocity(torch.tensor(0.7)), noise, K, "sde", 0.8, generator(12))
    gain = torch.tensor(0.6, requires_grad=True)
    flow.trace_log_prob(linear_velocity(gain), trace).sum().backward()
    h = 1e-3
    up, down = (flow.trace_log_prob(linear_velocity(torch.tensor(0.6 + s * h)), trace).double().sum() for s in (1, -1))
    assert gain.grad is not None
    assert gain.grad.item() == pytest.approx((up - down).item() / (2 * h), rel=2e-2)


def test_log_prob_is_the_gaussian_density_of_the_step() -> None:
    noise = torch.randn(2, 3, 2, generator=generator(13))
    velocity = linear_velocity(torch.tensor(0.4))
    trace = flow.sample(velocity, noise, K, "sde", 0.5, generator(14))
    for k in (0, 4, 9):
        x, t, std = trace.chain_BKCD[:, k], trace.t_K[k], trace.std_K[k]
        mean = flow.sde_mean(x, velocity(x, t.expand(2)), t, std, K)
        expected = torch.distributions.Normal(mean, std).log_prob(trace.chain_BKCD[:, k + 1])
        torch.testing.assert_close(trace.logp_BKCD[:, k], expected, atol=1e-4, rtol=1e-4)


def test_only_marked_steps_draw_noise() -> None:
    mask = torch.zeros(K, dtype=torch.bool)
    mask[3] = True
    noise = torch.randn(2, 3, 2, generator=generator(15))
    velocity = linear_velocity(torch.tensor(0.4))
    traces = [flow.sample(velocity, noise, K, "sde", 0.5, generator(s), mask) for s in (16, 17)]
    chains = [trace.chain_BKCD for trace in traces]
    assert torch.equal(chains[0][:, :4], chains[1][:, :4]) and not torch.equal(chains[0][:, 4], chains[1][:, 4])
    recomputed = flow.trace_log_prob(velocity, traces[0])
    assert recomputed[:, 3].abs().min() > 0 and (recomputed[:, ~mask] == 0).all()


def test_a_batch_row_keeps_its_log_prob_when_selected() -> None:
    noise = torch.randn(4, 3, 2, generator=generator(18))
    velocity = linear_velocity(torch.tensor(0.4))
    trace = flow.sample(velocity, noise, K, "sde", 0.5, generator(19))
    part = flow.trace_log_prob(velocity, trace.select(torch.tensor([2, 0])))
    torch.testing.assert_close(part, trace.logp_BKCD[[2, 0]], atol=1e-4, rtol=1e-4)


def test_cumulative_weighting_does_not_move_the_minimum() -> None:
    action, noise = torch.randn(4096, 6, 2, generator=generator(20)), torch.randn(4096, 6, 2, generator=generator(21))
    mean = (noise - action).mean(0).requires_grad_()
    flow.flow_loss(mean.expand_as(action), action, noise, cumulative_weight=0.5).mean().backward()
    assert mean.grad is not None and mean.grad.abs().max() < 1e-5


def test_cumulative_weighting_charges_errors_that_add_up() -> None:
    zero, ones = torch.zeros(1, 8, 1), torch.ones(1, 8, 1)
    alternating = ones * torch.tensor([1.0, -1.0]).repeat(4)[None, :, None]
    costs = [flow.flow_loss(error, zero, zero, cumulative_weight=0.1).item() for error in (ones, alternating)]
    assert costs[0] > 2 * costs[1]


def test_training_times_stay_in_the_open_unit_interval_and_favour_noise() -> None:
    t = flow.sample_times(20_000, generator(22))
    assert t.min() >= 0.001 and t.max() <= 1.0
    assert t.mean().item() == pytest.approx(0.6, abs=0.02)  # Beta(1.5, 1)


def test_unknown_mode_names_the_choices() -> None:
    with pytest.raises(ValueError, match="ode, sde"):
        flow.sample(linear_velocity(torch.tensor(1.0)), torch.zeros(1, 1, 1), 2, mode="euler")


@pytest.mark.parametrize("level", [0.0, -0.5])
def test_noise_level_must_be_positive(level: float) -> None:
    with pytest.raises(ValueError, match="noise_level"):
        flow.sample(linear_velocity(torch.tensor(1.0)), torch.zeros(1, 1, 1), 2, "sde", level)


def test_zero_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps"):
        flow.time_grid(0)
