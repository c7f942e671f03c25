"""The flow head: starts as the exact velocity of a Gaussian, learns chunks, keeps batch rows apart."""

from __future__ import annotations

import torch
from torch import Tensor

from prophrl_models.policies import flow
from prophrl_models.policies.flow_head import FlowHead, time_features
from prophrl_models.policies.interface import Cond


def head(seed: int = 0, spread: float = 0.4) -> FlowHead:
    torch.manual_seed(seed)
    return FlowHead(action_dim=3, chunk=5, cond_width=8, width=32, depth=2, heads=4, spread=spread)


def cond(rows: int, seed: int = 1) -> Cond:
    g = torch.Generator().manual_seed(seed)
    return Cond(torch.randn(rows, 4, 8, generator=g), torch.randn(rows, 8, generator=g))


def test_untrained_head_samples_a_gaussian_of_the_given_spread() -> None:
    model, count, g = head(spread=0.5), 500, torch.Generator().manual_seed(2)
    c = cond(1).repeat(count)
    noise = torch.randn(count, 5, 3, generator=g)
    with torch.no_grad():
        actions = flow.sample(lambda x, t: model(c, x, t), noise, 100).actions_BCD
    assert actions.mean().abs() < 0.03
    assert abs(actions.std().item() - 0.5) < 0.03


def test_velocity_is_that_of_a_gaussian_about_the_learned_mean() -> None:
    model, g = head(), torch.Generator().manual_seed(3)
    last = model.mean[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.copy_(torch.linspace(-1, 1, 15))
        # noise and action of x_t for a ~ N(mean, spread^2): regress both on x_t, as the definition of v says
        t, count = 0.6, 400_000
        mean = last.bias.reshape(5, 3)
        action = mean + 0.4 * torch.randn(count, 5, 3, generator=g)
        noise = torch.randn(count, 5, 3, generator=g)
        x = flow.interpolate(action, noise, torch.tensor([t]))
        target = flow.velocity_target(action, noise)
        centred = x - x.mean(0)
        slope = (centred * target).mean(0) / centred.square().mean(0)
        probe = torch.randn(7, 5, 3, generator=g)
        expected = target.mean(0) + slope * (probe - x.mean(0))
        v = model(cond(7), probe, torch.full((7,), t))
    torch.testing.assert_close(v, expected, atol=0.03, rtol=0.02)


def test_ode_sampling_reproduces_the_chunks_it_was_trained_on() -> None:
    model, c, g = head(), cond(4), torch.Generator().manual_seed(4)
    action = torch.randn(4, 5, 3, generator=g)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(400):
        rows = torch.arange(4).repeat(8)
        noise = torch.randn(32, 5, 3, generator=g)
        t = flow.sample_times(32, g)
        v = model(c.select(rows), flow.interpolate(action[rows], noise, t), t)
        loss = flow.flow_loss(v, action[rows], noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / 400)
    with torch.no_grad():
        sampled = flow.sample(lambda x, t: model(c, x, t), torch.randn(4, 5, 3, generator=g), 10).actions_BCD
    assert (sampled - action).square().mean().sqrt() < 0.06  # of actions with deviation 1


def test_two_modes_of_one_condition_are_both_sampled() -> None:
    """The mean lies between the modes; the transformer has to correct the Gaussian."""
    model, c, g = head(), cond(1), torch.Generator().manual_seed(5)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(600):
        sign = torch.randint(0, 2, (64, 1, 1), generator=g) * 2.0 - 1.0
        action, noise = 0.6 * sign.expand(64, 5, 3), torch.randn(64, 5, 3, generator=g)
        t = flow.sample_times(64, g)
        v = model(c.repeat(64), flow.interpolate(action, noise, t), t)
        loss = flow.flow_loss(v, action, noise).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        many = c.repeat(200)
        drawn = flow.sample(lambda x, t: model(many, x, t), torch.randn(200, 5, 3, generator=g), 20).actions_BCD
    side = drawn.mean(dim=(1, 2))
    assert ((side.abs() - 0.6).abs() < 0.2).float().mean() > 0.85
    assert 0.3 < (side > 0).float().mean() < 0.7


def test_rows_do_not_influence_each_other() -> None:
    model, c = head(), cond(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(6)))
        x, t = torch.randn(3, 5, 3), torch.tensor([0.9, 0.5, 0.1])
        together = model(c, x, t)
        alone = torch.cat([model(c.select(slice(i, i + 1)), x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_repeated_condition_keeps_rows_together() -> None:
    c = cond(3)
    repeated = c.repeat(4)
    assert torch.equal(repeated.vector_BE.reshape(3, 4, 8)[:, 2], c.vector_BE)
    assert torch.equal(repeated.tokens_BNE.reshape(3, 4, 4, 8)[:, 3], c.tokens_BNE)


def test_time_features_tell_denoising_steps_apart() -> None:
    features: Tensor = time_features(flow.time_grid(10), 32)
    distance = torch.cdist(features, features) + 10 * torch.eye(11)
    assert distance.min() > 0.5
