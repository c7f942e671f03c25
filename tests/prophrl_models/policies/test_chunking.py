"""Guided chunks: the mask, the gradient against finite differences, and a policy that could do something else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calibration.poses import ActionConvention, from_euler, integrate_chunk
from prophrl_models.policies import flow
from prophrl_models.policies.chunking import (
    Committed,
    committed_actions,
    guidance_weight,
    guided_flow,
    guided_sample,
    guided_velocity,
    rejoin,
    soft_mask,
)
from prophrl_models.policies.interface import Cond, FlowPolicy, Inputs, ObservationBatch, PolicySpec, Scaling

CHUNK, DIM = 12, 7


# ---- the mask


def test_frozen_rows_weigh_one_later_ones_less_and_less_and_those_behind_the_overlap_nothing() -> None:
    weights = soft_mask(CHUNK, frozen=3, overlap=8)
    assert weights[:3].tolist() == [1.0, 1.0, 1.0]
    assert (weights.diff() <= 0.0).all()
    assert 0.0 < weights[7] < weights[3] < 1.0
    assert weights[8:].tolist() == [0.0] * 4


def test_the_decay_follows_the_published_formula() -> None:
    weights = soft_mask(20, frozen=4, overlap=15)
    for i in range(4, 15):
        c = (15 - i) / (15 - 4 + 1)
        assert float(weights[i]) == pytest.approx(c * (math.e**c - 1.0) / (math.e - 1.0), rel=1e-5)


def test_a_mask_may_be_all_frozen_or_not_frozen_at_all() -> None:
    assert soft_mask(6, frozen=6, overlap=6).tolist() == [1.0] * 6
    assert soft_mask(6, frozen=0, overlap=0).tolist() == [0.0] * 6
    with pytest.raises(ValueError, match="got 5, 4, 6"):
        soft_mask(6, frozen=5, overlap=4)


# ---- the gradient


class Curved(nn.Module):
    """A smooth velocity field whose Jacobian is neither symmetric nor diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(CHUNK * DIM + 1, 32), nn.Tanh(), nn.Linear(32, CHUNK * DIM))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([x.flatten(1), t[:, None]], 1)).reshape(x.shape)
        return out


@pytest.mark.parametrize("t", [1.0, 0.7, 0.2])
def test_the_guidance_is_the_downhill_direction_of_half_the_weighted_squared_error(t: float) -> None:
    generator = torch.Generator().manual_seed(3)
    field = Curved().double()
    x, target = torch.randn((2, 1, CHUNK, DIM), generator=generator, dtype=torch.float64)
    weight = soft_mask(CHUNK, 3, 9).double()[None, :, None].expand_as(x)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = field(x, t.double())
        return out

    def error(x: Tensor) -> Tensor:
        x0_hat = x - t * velocity(x, torch.tensor([t]))
        half: Tensor = 0.5 * (weight * (target - x0_hat).square()).sum()
        return half

    def float_free(x: Tensor, t: Tensor) -> Tensor:
        return velocity(x.double(), t)

    limit = 2.5
    guided = guided_velocity(float_free, x, t, target, weight, limit)
    pull = (velocity(x, torch.tensor([t])) - guided) / guidance_weight(t, limit)
    step = 1e-5
    for at in [(0, 0, 0), (0, 2, 5), (0, 6, 1), (0, 11, 6)]:
        there, back = x.clone(), x.clone()
        there[at] += step
        back[at] -= step
        with torch.no_grad():
            downhill = -(error(there) - error(back)) / (2.0 * step)
        assert pull[at].item() == pytest.approx(downhill.item(), rel=1e-3, abs=2e-6)


def test_the_weight_of_the_guidance_is_symmetric_in_time_and_clipped() -> None:
    assert guidance_weight(0.5, 100.0) == pytest.approx(2.0)
    assert guidance_weight(0.2, 100.0) == pytest.approx(guidance_weight(0.8, 100.0))
    # The paper's form with u = 1 - t: (1 - u) / (u r^2), r^2 = (1 - u)^2 / (u^2 + (1 - u)^2).
    u = 0.3
    r2 = (1.0 - u) ** 2 / (u**2 + (1.0 - u) ** 2)
    assert guidance_weight(1.0 - u, 100.0) == pytest.approx((1.0 - u) / (u * r2))
    assert guidance_weight(1.0, 5.0) == guidance_weight(0.0, 5.0) == 5.0


def test_no_graph_is_left_behind_and_none_is_needed() -> None:
    field = Curved()
    with torch.no_grad():
        zeros = torch.zeros(1, CHUNK, DIM)
        x, relaxed = guided_flow(field, zeros, zeros, torch.ones(1, CHUNK, DIM), 4)
    assert not x.requires_grad
    assert not relaxed.requires_grad
    assert all(p.grad is None for p in field.parameters())


def test_without_weights_the_walk_is_the_plain_one() -> None:
    field, noise = Curved(), torch.randn(2, CHUNK, DIM, generator=torch.Generator().manual_seed(0))
    target = torch.ones_like(noise)
    plain = flow.sample(field, noise, 5).actions_BCD
    for walked in guided_flow(field, noise, target, torch.zeros_like(noise), 5):
        torch.testing.assert_close(walked, plain.detach())


# ---- a policy with two modes


class TwoModes:
    """The exact velocity of actions drawn from two Gaussians: chunks that bear left, and chunks that bear right."""

    def __init__(self, spread: float = 0.15) -> None:
        ramp = torch.linspace(0.3, 1.5, CHUNK)[:, None] * torch.tensor([1.0, -0.5, 0.3, 0.1, 0.0, 0.2, 1.0])
        self.modes = torch.stack([ramp, -ramp])  # [2, CH, D]
        self.spread = spread

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(-1, 1, 1, 1)
        variance = t.square() + ((1.0 - t) * self.spread).square()
        away = x[:, None] - (1.0 - t) * self.modes  # [B, 2, CH, D]
        log_share = -(away.square() / (2.0 * variance)).sum((2, 3))
        share = log_share.softmax(1)[:, :, None, None]
        noise_minus_action = t / variance * away - (self.modes + (1.0 - t) * self.spread**2 / variance * away)
        return (share * noise_minus_action).sum(1)

    def mode_of(self, x: Tensor) -> Tensor:
        """Index of the nearer mode [B] by the rows behind the overlap."""
        return (x[:, None, 8:] - self.modes[:, 8:]).square().sum((2, 3)).argmin(1)

    def is_typical(self, x: Tensor) -> Tensor:
        """Whether each chunk [B] lies within four deviations (root mean square) of a mode."""
        nearest = (x[:, None] - self.modes).square().mean((2, 3)).sqrt().min(1).values
        return nearest < 4.0 * self.spread


def test_without_guidance_chunks_switch_between_the_modes_with_guidance_they_stay_where_the_arm_is_going() -> None:
    field, generator = TwoModes(), torch.Generator().manual_seed(1)
    noise = torch.randn(64, CHUNK, DIM, generator=generator)
    committed = field.modes[0] + 0.1 * torch.randn(CHUNK, DIM, generator=generator)
    weight = soft_mask(CHUNK, frozen=3, overlap=8)[None, :, None].expand_as(noise)

    free = field.mode_of(flow.sample(field, noise, 20).actions_BCD)
    assert 16 < int(free.sum()) < 48  # a coin is tossed at each chunk

    guided, relaxed = guided_flow(field, noise, committed.expand_as(noise), weight, 20)
    stays = field.mode_of(guided) == 0  # judged by the rows that nobody committed
    assert int(stays.sum()) >= 62
    assert (field.mode_of(relaxed) == field.mode_of(guided)).all()  # the mode is settled when guidance relaxes
    assert field.is_typical(guided).all()
    assert field.is_typical(relaxed).all()
    error = (guided[stays, :3] - committed[:3]).abs()
    assert float(error.max()) < 0.1  # the spread of a mode is 0.15, the distance between modes up to 3
    assert float(error.mean()) < 0.02


def test_more_guidance_reproduces_frozen_rows_better() -> None:
    field, generator = TwoModes(), torch.Generator().manual_seed(2)
    noise = torch.randn(16, CHUNK, DIM, generator=generator)
    committed = (field.modes[1] + 0.15 * torch.randn(CHUNK, DIM, generator=generator)).expand_as(noise)
    weight = soft_mask(CHUNK, frozen=4, overlap=9)[None, :, None].expand_as(noise)
    errors = [
        float((guided_flow(field, noise, committed, weight, 10, beta)[0][:, :4] - committed[:, :4]).abs().mean())
        for beta in (0.5, 2.0, 10.0)
    ]
    assert errors == sorted(errors, reverse=True)


# ---- back to where the policy wants to be


@pytest.mark.parametrize(("frozen", "overlap"), [(3, 8), (0, 8), (4, 12), (6, 6), (9, 10)])
def test_what_committed_rows_displace_is_given_back_behind_them_over_several_rows(frozen: int, overlap: int) -> None:
    relaxed = torch.full((CHUNK, 6), 0.01)
    guided = relaxed.clone()
    guided[:overlap] += 0.002
    chunk = rejoin(guided, relaxed, soft_mask(CHUNK, frozen, overlap), frozen, overlap)
    assert (chunk[:frozen] == guided[:frozen]).all()
    torch.testing.assert_close(chunk.sum(0), relaxed.sum(0))
    returned = (guided - chunk)[:, 0]
    assert (returned >= -1e-6).all()
    assert returned.max() <= 0.5 * returned.sum()


def test_what_the_policy_makes_up_for_by_itself_is_not_given_back_again() -> None:
    relaxed = torch.full((CHUNK, 6), 0.01)
    guided = relaxed.clone()
    guided[:3] += 0.004
    guided[3:6] -= 0.004
    torch.testing.assert_close(rejoin(guided, relaxed, soft_mask(CHUNK, 3, 8), 3, 8), guided)


def test_rows_that_are_all_frozen_stay_as_they_are() -> None:
    guided, relaxed = torch.ones(CHUNK, 6), torch.zeros(CHUNK, 6)
    assert (rejoin(guided, relaxed, soft_mask(CHUNK, CHUNK, CHUNK), CHUNK, CHUNK) == guided).all()


class IndependentRows(TwoModes):
    """One Gaussian with independent rows: a policy that does not make up for a prefix it would not have chosen."""

    def __init__(self) -> None:
        super().__init__(spread=0.3)
        self.modes = self.modes[:1]


def test_a_chunk_behind_a_strange_prefix_still_ends_where_the_policy_wants_to_go() -> None:
    policy = TwoModePolicy()
    policy.field = IndependentRows()
    wanted = policy.spec.action_scaling.restore(policy.field.modes[0])
    prefix = wanted[:8].clone()
    prefix[:, :3] += 0.004  # 12 mm too far when the frozen rows are over
    chunks = guided_sample(
        policy, a_condition(64), Committed(prefix.numpy(), 3), generator=torch.Generator().manual_seed(0)
    )
    end = chunks[:, :, :3].sum(1).mean(0)
    assert (chunks[:, :3] == prefix[:3]).all()
    torch.testing.assert_close(end, wanted[:, :3].sum(0), atol=0.006, rtol=0.0)


# ---- in environment units


class TwoModePolicy(FlowPolicy):
    """``TwoModes`` behind the interface of a policy, with a head that denoises padded chunks."""

    def __init__(self) -> None:
        scale = (0.01, 0.01, 0.01, 0.05, 0.05, 0.05, 0.5)
        spec = PolicySpec(
            ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
            Scaling((0.0,) * 6 + (0.5,), scale),
            Scaling((0.0,) * 7, (1.0,) * 7),
            chunk=CHUNK,
        )
        super().__init__(spec)
        self.anchor = nn.Parameter(torch.zeros(1))
        self.field = TwoModes()

    @property
    def chain_shape(self) -> tuple[int, int]:
        return CHUNK + 2, DIM + 3

    def prepare(self, obs: ObservationBatch) -> Inputs:
        raise NotImplementedError

    def embed(self, inputs: Inputs) -> Cond:
        raise NotImplementedError

    def config(self) -> dict[str, object]:
        return {}

    def velocity(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        padding = torch.ones_like(x_BCD)  # a velocity of its own; must not matter
        padding[:, :CHUNK, :DIM] = 0.0
        return self.pad(self.field(self.environment(x_BCD), t_B)) + padding


def a_condition(rows: int) -> Cond:
    return Cond(torch.zeros(rows, 1, 4), torch.zeros(rows, 4))


def test_sampled_chunks_hold_frozen_rows_exactly_in_environment_units_and_stay_in_the_mode() -> None:
    policy = TwoModePolicy()
    rows = policy.spec.action_scaling.restore(policy.field.modes[1][:8]).numpy()
    chunks = guided_sample(
        policy, a_condition(8), Committed(rows, frozen=3), generator=torch.Generator().manual_seed(5)
    )
    assert chunks.shape == (8, CHUNK, DIM)
    assert (chunks[:, :3] == torch.as_tensor(rows[:3])).all()
    assert (policy.field.mode_of(policy.spec.action_scaling.normalise(chunks)) == 1).all()
    assert not chunks.requires_grad


def test_robots_of_one_batch_may_continue_different_chunks_or_none() -> None:
    policy, noise = TwoModePolicy(), torch.randn(3, CHUNK + 2, DIM + 3, generator=torch.Generator().manual_seed(0))
    left, right = (policy.spec.action_scaling.restore(mode).numpy() for mode in policy.field.modes)
    together = guided_sample(
        policy, a_condition(3), [Committed(left, 4), None, Committed(right[:6], 2)], noise=noise, num_steps=8
    )
    alone = guided_sample(policy, a_condition(1), Committed(right[:6], 2), noise=noise[2:], num_steps=8)
    free, _ = policy.sample_actions(a_condition(1), noise[1:2], num_steps=8)
    torch.testing.assert_close(together[2:], alone)
    torch.testing.assert_close(together[1:2], free)
    assert policy.field.mode_of(policy.spec.action_scaling.normalise(together))[[0, 2]].tolist() == [0, 1]


def test_what_does_not_fit_the_policy_is_refused_with_its_shape() -> None:
    policy = TwoModePolicy()
    with pytest.raises(ValueError, match=r"\(13, 7\) do not fit this policy's chunk \(12, 7\)"):
        guided_sample(policy, a_condition(1), Committed(np.zeros((13, 7), np.float32), 0))
    with pytest.raises(ValueError, match="1 committed chunks for a batch of 2"):
        guided_sample(policy, a_condition(2), [None])
    with pytest.raises(ValueError, match=r"frozen must lie in 0..4"):
        Committed(np.zeros((4, 7), np.float32), 5)
    with pytest.raises(ValueError, match="finite"):
        Committed(np.full((4, 7), np.nan, np.float32), 0)
    with pytest.raises(ValueError, match="max_guidance must be positive"):
        guided_sample(policy, a_condition(1), Committed(np.zeros((4, 7), np.float32), 0), max_guidance=0.0)


# ---- deltas


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_committed_deltas_lead_from_where_the_arm_is_onto_the_commanded_path(convention: ActionConvention) -> None:
    rng = np.random.default_rng(4)
    path = [from_euler([-0.6, 0.1, 0.3, 3.1, 0.05, 1.2])]
    for _ in range(9):
        path.append(path[-1] @ from_euler(rng.normal(0.0, 0.02, 6)))
    T_measured = path[0] @ from_euler(rng.normal(0.0, 0.003, 6))
    opening = rng.uniform(size=9)
    actions = committed_actions(T_measured, np.array(path[1:]), opening, convention)
    np.testing.assert_allclose(integrate_chunk(T_measured, actions, convention), path[1:], atol=2e-6)
    np.testing.assert_allclose(actions[:, 6], opening, atol=1e-6)
