"""Losses: against loops in plain numpy, and every claim the docs make about FlowScale and the KL."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prophrl_models.rl.flow_scale import flow_scale_weights
from prophrl_models.rl.losses import FLOW_SCALE_FORMS, closed_form_kl, fa_grpo_loss, flow_grpo_loss, log_ratio_kl
from prophrl_models.rl.masks import finish_mask
from prophrl_models.rl.sde import grid_std, sde_step, step_log_prob, uniform_grid

B, S, K, C, D = 5, 3, 10, 4, 7
LOSSES = {"fa": fa_grpo_loss, "flow": flow_grpo_loss}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Batch:
    """Random chains: old log-probabilities, new ones ``apart`` from them, advantages, a mask, FlowScale weights."""

    def __init__(self, apart: float = 0.1, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        g = generator(seed)
        std = grid_std(uniform_grid(K, dtype=dtype), noise_level=0.7)
        self.old = torch.distributions.Normal(0.0, 1.0).log_prob(torch.randn(B, S, K, C, D, generator=g, dtype=dtype))
        self.old = self.old - std.log()[:, None, None]
        self.new = (self.old + apart * torch.randn(B, S, K, C, D, generator=g, dtype=dtype)).requires_grad_()
        self.advantage = torch.randn(B, generator=g, dtype=dtype)
        self.advantage[1] = 0.0
        self.mask = finish_mask([12, 5, 0, 9, 11], steps=S, chunk=C)
        self.weights = flow_scale_weights(std.expand(B, S, K))

    def loss(self, kind: str = "fa", **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return LOSSES[kind](self.new, self.old, self.advantage, self.mask, **options)

    def gradient(self, kind: str = "fa", **options: Any) -> Tensor:
        (gradient,) = torch.autograd.grad(self.loss(kind, **options)[0], self.new)
        return gradient


# ---- golden values: written from the formulas, one number at a time ----


def golden(kind: str, batch: Batch, form: str, low: float, high: float) -> tuple[float, float]:
    """(loss, clip fraction) of FA-GRPO or Flow-GRPO with weights in a form."""
    new, old = batch.new.detach().numpy(), batch.old.numpy()
    advantage, mask, weights = batch.advantage.numpy(), batch.mask.numpy(), batch.weights.numpy()

    def surrogate(ratio: float, a: float) -> float:
        return min(ratio * a, min(max(ratio, 1.0 - low), 1.0 + high) * a)

    def clipped(ratio: float, a: float) -> bool:
        return bool((a > 0 and ratio > 1.0 + high) or (a < 0 and ratio < 1.0 - low))

    total, cut, ratios = 0.0, 0, 0
    for b in range(B):
        for s in range(S):
            for c in range(C):
                if not mask[b, s, c]:
                    continue
                if kind == "fa":
                    for d in range(D):
                        log_ratio = 0.0
                        for k in range(K):
                            w = weights[b, s, k] if form == "tempered" else 1.0
                            log_ratio += w * (new[b, s, k, c, d] - old[b, s, k, c, d])
                        ratio = math.exp(log_ratio)
                        if form == "literal":
                            total += sum(surrogate(ratio, weights[b, s, k] * advantage[b]) for k in range(K))
                        else:
                            total += surrogate(ratio, advantage[b])
                        ratios, cut = ratios + 1, cut + clipped(ratio, advantage[b])
                else:
                    for k in range(K):
                        log_ratio = sum(new[b, s, k, c, d] - old[b, s, k, c, d] for d in range(D))
                        a = advantage[b]
                        if form == "tempered":
                            log_ratio *= weights[b, s, k]
                        if form in ("per_step", "per_step_matched"):
                            a *= weights[b, s, k]
                        if form == "per_step":
                            a *= D
                        ratio = math.exp(log_ratio)
                        total += surrogate(ratio, a)
                        ratios, cut = ratios + 1, cut + clipped(ratio, a)
    slots = int(mask.sum())
    return -total / (slots * (K if form == "per_step" else D)), cut / ratios


@pytest.mark.parametrize("apart", [0.01, 0.15])
@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("fa", "straight_through"),
        ("fa", "tempered"),
        ("fa", "literal"),
        ("flow", "straight_through"),
        ("flow", "tempered"),
        ("flow", "per_step"),
        ("flow", "per_step_matched"),
    ],
)
def test_losses_agree_with_loops_over_plain_numbers(kind: str, form: str, apart: float) -> None:
    for low, high in ((0.2, 0.28), (0.05, 0.1)):
        batch = Batch(apart)
        loss, metrics = batch.loss(kind, weights_BSK=batch.weights, flow_scale_form=form, clip_low=low, clip_high=high)
        expected, cut = golden(kind, batch, form, low, high)
        assert loss.item() == pytest.approx(expected, abs=1e-9)
        assert metrics["clip_fraction"].item() == pytest.approx(cut, abs=1e-9)


def test_float32_losses_agree_with_the_loops_to_1e_6() -> None:
    batch = Batch(0.05, dtype=torch.float32)
    loss, _ = batch.loss()
    assert loss.item() == pytest.approx(golden("fa", batch, "none", 0.2, 0.28)[0], abs=1e-6)


def test_per_step_forms_of_fa_grpo_are_flow_grpos() -> None:
    batch = Batch()
    for form in ("per_step", "per_step_matched"):
        options: dict[str, Any] = {"weights_BSK": batch.weights, "flow_scale_form": form}
        assert torch.equal(batch.loss("fa", **options)[0], batch.loss("flow", **options)[0])


def test_kl_agrees_with_a_loop_over_plain_numbers() -> None:
    g, batch = generator(1), Batch()
    mean, ref = (torch.randn(B, S, K, C, D, generator=g, dtype=torch.float64) for _ in range(2))
    std = torch.rand(B, S, K, generator=g, dtype=torch.float64) + 0.1
    loss, by_step = closed_form_kl(mean, ref, std, batch.mask)
    m, r, sd, on = mean.numpy(), ref.numpy(), std.numpy(), batch.mask.numpy()
    expected = np.zeros(K)
    for b, s, k, c, d in np.ndindex(B, S, K, C, D):
        if on[b, s, c]:
            expected[k] += (m[b, s, k, c, d] - r[b, s, k, c, d]) ** 2 / (2 * sd[b, s, k] ** 2) / (on.sum() * D)
    assert by_step.tolist() == pytest.approx(expected.tolist(), abs=1e-9)
    assert loss.item() == pytest.approx(expected.sum(), abs=1e-9)


# ---- weights of one, and none ----


@pytest.mark.parametrize("kind", ["fa", "flow"])
@pytest.mark.parametrize("form", ["straight_through", "tempered", "per_step", "per_step_matched"])
def test_no_weights_are_weights_of_one_to_the_last_bit(kind: str, form: str) -> None:
    batch = Batch(0.15)
    ones = torch.ones_like(batch.weights)
    without, with_ones = (batch.loss(kind, weights_BSK=w, flow_scale_form=form) for w in (None, ones))
    assert torch.equal(without[0], with_ones[0])
    assert all(torch.equal(value, with_ones[1][name]) for name, value in without[1].items())
    gradients = [batch.gradient(kind, weights_BSK=w, flow_scale_form=form) for w in (None, ones)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("form", ["straight_through", "tempered"])
def test_weights_of_one_give_fa_grpo(form: str) -> None:
    batch = Batch(0.15)
    ratio = (batch.new - batch.old).sum(2).exp()
    a = batch.advantage[:, None, None, None]
    plain = torch.minimum(ratio * a, ratio.clamp(0.8, 1.28) * a)
    expected = -(plain * batch.mask[..., None]).sum() / (batch.mask.sum() * D)
    loss, _ = batch.loss(weights_BSK=torch.ones_like(batch.weights), flow_scale_form=form)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, batch.new)[0], torch.autograd.grad(expected, batch.new)[0])


# ---- the literal objective does nothing ----


@pytest.mark.parametrize("apart", [0.0, 0.02, 0.3])
def test_literal_published_flow_scale_is_k_times_fa_grpo(apart: float) -> None:
    batch = Batch(apart)
    assert (batch.weights.mean(-1) - 1).abs().max() < 1e-12 and batch.weights.max() / batch.weights.min() > 3
    literal, metrics = batch.loss(weights_BSK=batch.weights, flow_scale_form="literal")
    plain, _ = batch.loss()
    torch.testing.assert_close(literal, K * plain)
    gradient = batch.gradient(weights_BSK=batch.weights, flow_scale_form="literal")
    torch.testing.assert_close(gradient, K * batch.gradient(), rtol=1e-9, atol=1e-15)
    if apart == 0.3:  # also where the clip is at work
        assert 0.1 < metrics["clip_fraction"] < 0.9


# ---- straight-through ----


@pytest.mark.parametrize("kind", ["fa", "flow"])
@pytest.mark.parametrize("apart", [0.0, 0.15])
def test_straight_through_keeps_the_value_and_scales_each_steps_gradient_by_its_weight(kind: str, apart: float) -> None:
    batch = Batch(apart)
    plain, weighted = batch.loss(kind), batch.loss(kind, weights_BSK=batch.weights)
    assert torch.equal(plain[0], weighted[0])
    assert all(torch.equal(value, weighted[1][name]) for name, value in plain[1].items())
    expected = batch.gradient(kind) * batch.weights[..., None, None]
    assert expected.abs().max() > 0
    torch.testing.assert_close(batch.gradient(kind, weights_BSK=batch.weights), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("apart", [0.0, 0.15])
def test_straight_through_gradient_is_that_of_finite_differences_times_the_weight(apart: float) -> None:
    batch, h = Batch(apart), 1e-6
    gradient = batch.gradient(weights_BSK=batch.weights)
    rng = np.random.default_rng(0)
    nonzero = 0
    for _ in range(60):
        b, s, k, c, d = (int(rng.integers(n)) for n in (B, S, K, C, D))
        values = []
        for sign in (1, -1):
            moved = batch.new.detach().clone()
            moved[b, s, k, c, d] += sign * h
            values.append(fa_grpo_loss(moved, batch.old, batch.advantage, batch.mask)[0].item())
        slope = (values[0] - values[1]) / (2 * h)
        nonzero += slope != 0.0
        expected = batch.weights[b, s, k].item() * slope
        assert gradient[b, s, k, c, d].item() == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert nonzero > 10


def test_at_ratio_one_the_gradient_is_the_advantage_times_the_weighted_sum() -> None:
    batch = Batch(0.0)
    surrogate = (batch.weights[..., None, None] * batch.new).sum(2) * batch.advantage[:, None, None, None]
    expected = torch.autograd.grad(-(surrogate * batch.mask[..., None]).sum() / (batch.mask.sum() * D), batch.new)[0]
    torch.testing.assert_close(batch.gradient(weights_BSK=batch.weights), expected)
    torch.testing.assert_close(batch.gradient(weights_BSK=batch.weights, flow_scale_form="tempered"), expected)
    torch.testing.assert_close(batch.gradient(weights_BSK=batch.weights, flow_scale_form="per_step_matched"), expected)


def test_tempered_changes_the_ratio() -> None:
    batch = Batch(0.15)
    plain, tempered = batch.loss(), batch.loss(weights_BSK=batch.weights, flow_scale_form="tempered")
    assert (plain[1]["ratio_max"] - tempered[1]["ratio_max"]).abs() > 0.05


def test_no_gradient_reaches_weights_old_log_probs_or_advantages() -> None:
    for form in FLOW_SCALE_FORMS:
        batch = Batch(0.1)
        others = [x.clone().requires_grad_() for x in (batch.old, batch.advantage, batch.weights)]
        loss, _ = fa_grpo_loss(batch.new, others[0], others[1], batch.mask, weights_BSK=others[2], flow_scale_form=form)
        gradients = torch.autograd.grad(loss, [batch.new, *others], allow_unused=True)
        assert gradients[0].abs().max() > 0 and all(g is None for g in gradients[1:])


# ---- scale ----


def test_flow_grpo_has_the_gradient_of_fa_grpo_at_ratio_one() -> None:
    batch = Batch(0.0)
    torch.testing.assert_close(batch.gradient("flow"), batch.gradient("fa"))


def test_the_development_codes_form_is_d_squared_over_k_times_as_strong() -> None:
    batch = Batch(0.0)
    ones = torch.ones_like(batch.weights)
    strong = batch.gradient(weights_BSK=ones, flow_scale_form="per_step")
    torch.testing.assert_close(strong, 4.9 * batch.gradient())
    assert D**2 / K == 4.9


def test_micro_batches_with_a_common_count_add_up_to_the_mini_batch() -> None:
    batch = Batch(0.1)
    for kind, loss in LOSSES.items():
        parts = [
            loss(batch.new[i], batch.old[i], batch.advantage[i], batch.mask[i], valid_slots=batch.mask.sum())[0]
            for i in (slice(0, 2), slice(2, 3), slice(3, 5))
        ]
        torch.testing.assert_close(torch.stack(parts).sum(), batch.loss(kind)[0])


# ---- masks and degenerate batches ----


@pytest.mark.parametrize("kind", ["fa", "flow"])
@pytest.mark.parametrize("junk", [1e6, math.inf, -math.inf, math.nan])
def test_masked_slots_have_no_influence(kind: str, junk: float) -> None:
    clean, dirty = Batch(0.1), Batch(0.1)
    off = ~dirty.mask[:, :, None, :, None].expand(B, S, K, C, D)
    with torch.no_grad():
        dirty.new[off] = junk
    dirty.old[off] = -junk
    for form in FLOW_SCALE_FORMS:
        a, b = (x.loss(kind, weights_BSK=x.weights, flow_scale_form=form) for x in (clean, dirty))
        assert torch.equal(a[0], b[0])
        assert all(torch.equal(value, b[1][name]) for name, value in a[1].items())
        gradients = [x.gradient(kind, weights_BSK=x.weights, flow_scale_form=form) for x in (clean, dirty)]
        assert torch.equal(*gradients) and (gradients[1][off] == 0).all()


def test_next_states_in_masked_slots_do_not_move_the_parameters() -> None:
    g, grid = generator(3), uniform_grid(K, dtype=torch.float64)
    x, x_next = (torch.randn(B, S, K, C, D, generator=g, dtype=torch.float64) for _ in range(2))
    mask = finish_mask([12, 5, 0, 9, 11], steps=S, chunk=C)
    gradients = []
    for shift in (0.0, 3.0):
        gain = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        mean, std = sde_step(x, gain * x, grid[:-1, None, None], grid[1:, None, None], noise_level=0.7)
        logp = step_log_prob(torch.where(mask[:, :, None, :, None], x_next, x_next + shift), mean, std)
        loss, _ = fa_grpo_loss(logp, logp.detach(), torch.arange(5.0, dtype=torch.float64) - 2, mask)
        gradients.append(torch.autograd.grad(loss, gain)[0])
    assert torch.equal(*gradients) and gradients[0] != 0


def test_a_batch_without_valid_slots_costs_nothing() -> None:
    batch = Batch(0.1)
    batch.mask = torch.zeros_like(batch.mask)
    for kind in LOSSES:
        loss, metrics = batch.loss(kind, weights_BSK=batch.weights)
        assert loss == 0 and torch.equal(batch.gradient(kind), torch.zeros_like(batch.new))
        assert all(math.isfinite(float(value)) for value in metrics.values()) and metrics["valid_slots"] == 0
    kl, by_step = closed_form_kl(batch.new, batch.old, torch.ones(B, S, K), batch.mask)
    assert kl == 0 and (by_step == 0).all()


def test_masks_of_any_number_type_are_the_same() -> None:
    batch = Batch(0.1)
    losses = []
    for mask in (batch.mask, batch.mask.float(), batch.mask.double(), batch.mask.long()):
        batch.mask = mask
        losses.append(batch.loss()[0])
    assert all(torch.equal(loss, losses[0]) for loss in losses)


def test_huge_log_ratios_stay_finite_and_a_row_without_advantage_stays_silent() -> None:
    batch = Batch(0.0, dtype=torch.float32)
    with torch.no_grad():
        batch.new += 50.0
    loss, metrics = batch.loss()
    gradient = batch.gradient()
    assert math.isfinite(loss.item()) and gradient.isfinite().all()
    assert (gradient[1] == 0).all() and all(math.isfinite(float(value)) for value in metrics.values())


def test_the_default_keeps_the_gradient_of_bad_actions_that_became_likely_and_a_limit_of_four_does_not() -> None:
    old = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)
    new = torch.full_like(old, 5.0).requires_grad_()
    for limit, expected in ((20.0, math.exp(5.0)), (4.0, 0.0)):
        loss, _ = fa_grpo_loss(new, old, torch.tensor([-1.0]), torch.ones(1, 1, 1), log_ratio_limit=limit)
        assert torch.autograd.grad(loss, new)[0].item() == pytest.approx(expected)


# ---- types, metrics, refusals ----


def test_float64_stays_and_half_precision_is_widened() -> None:
    assert Batch(dtype=torch.float64).loss()[0].dtype == torch.float64
    assert Batch(dtype=torch.float32).loss()[0].dtype == torch.float32
    batch = Batch()
    loss, _ = fa_grpo_loss(batch.new.bfloat16(), batch.old.bfloat16(), batch.advantage.float(), batch.mask)
    assert loss.dtype == torch.float32
    mixed, _ = fa_grpo_loss(batch.new.float(), batch.old, batch.advantage, batch.mask)
    assert mixed.dtype == torch.float64


def test_metrics_describe_the_ratios_of_valid_slots() -> None:
    batch = Batch(0.1)
    loss, metrics = batch.loss()
    ratio = (batch.new - batch.old).sum(2).exp().detach()[batch.mask].flatten()
    assert metrics["ratio_mean"].item() == pytest.approx(ratio.mean().item())
    assert metrics["ratio_min"] == ratio.min() and metrics["ratio_max"] == ratio.max()
    assert metrics["ratio_p50"].item() == pytest.approx(ratio.median().item(), rel=0.02)
    assert metrics["approx_kl"].item() == pytest.approx((ratio - 1 - ratio.log()).mean().item())
    assert metrics["valid_slots"] == batch.mask.sum()
    assert metrics["clip_fraction"] == metrics["clip_low_fraction"] + metrics["clip_high_fraction"]
    assert loss.requires_grad and not any(value.requires_grad for value in metrics.values())
    assert all(value.ndim == 0 for value in metrics.values())


def test_approx_kl_estimates_the_kl_of_gaussians() -> None:
    g, shift, n = generator(5), 0.3, 40_000
    x = torch.randn(1, 1, 1, n, 1, generator=g, dtype=torch.float64)
    old, new = step_log_prob(x, torch.zeros_like(x), 1.0), step_log_prob(x, torch.full_like(x, shift), 1.0)
    _, metrics = fa_grpo_loss(new, old, torch.ones(1), torch.ones(1, 1, n))
    assert metrics["approx_kl"].item() == pytest.approx(shift**2 / 2, rel=0.05)


@pytest.mark.parametrize("loss", [fa_grpo_loss, flow_grpo_loss])
def test_unknown_forms_are_refused_with_the_choices(loss: Any) -> None:
    batch = Batch()
    with pytest.raises(ValueError, match="straight_through, tempered, per_step"):
        loss(batch.new, batch.old, batch.advantage, batch.mask, flow_scale_form="squared")


def test_shapes_that_do_not_fit_are_refused() -> None:
    batch = Batch()
    good = (batch.new, batch.old, batch.advantage, batch.mask)
    for place, bad, name in (
        (0, batch.new[0], "logp_BSKCD"),
        (1, batch.old[:1], "logp_old_BSKCD"),
        (2, batch.advantage[:, None], "advantage_B"),
        (3, batch.mask[0], "mask_BSC"),
    ):
        with pytest.raises(ValueError, match=name):
            fa_grpo_loss(*(bad if i == place else x for i, x in enumerate(good)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="weights_BSK"):
        batch.loss(weights_BSK=batch.weights[:, :, :4])
    with pytest.raises(ValueError, match="clip_low"):
        batch.loss(clip_low=1.5)
    with pytest.raises(ValueError, match="log_ratio_limit"):
        batch.loss(log_ratio_limit=0.0)


def test_weights_of_one_schedule_may_be_given_once() -> None:
    batch = Batch()
    whole = batch.gradient(weights_BSK=batch.weights)
    for once in (batch.weights[0, 0], batch.weights[:1, :1]):
        assert torch.equal(batch.gradient(weights_BSK=once), whole)


# ---- the KL that pulls, and the one that does not ----


def reference_pull(kind: str, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mean gradient of a KL term with respect to the means [K] of an on-policy Gaussian chain, and its standard error.

    Policy and samples have mean 0; the reference is 0.4 std away from it.
    """
    std_K = grid_std(uniform_grid(K, dtype=torch.float64), noise_level=0.7)
    std = std_K.reshape(1, 1, K, 1, 1)
    x = std * torch.randn(samples, 1, K, 1, 1, generator=generator(seed), dtype=torch.float64)
    mean = torch.zeros_like(x).requires_grad_()  # one leaf for each sample: its gradients are the samples' own
    ref, mask = (0.4 * std).expand_as(x), torch.ones(samples, 1, 1)
    if kind == "log_ratio":
        loss = log_ratio_kl(step_log_prob(x, mean, std), step_log_prob(x, ref, std), mask)
    else:
        loss, _ = closed_form_kl(mean, ref, std_K.expand(samples, 1, K), mask)
    gradient = torch.autograd.grad(loss, mean)[0].reshape(samples, K) * samples
    return gradient.mean(0), gradient.std(0) / math.sqrt(samples)


def test_log_ratio_kl_has_no_expected_gradient_and_the_closed_form_pulls_to_the_reference() -> None:
    std_K = grid_std(uniform_grid(K, dtype=torch.float64), noise_level=0.7)
    exact = -0.4 / std_K  # d/dm (m - ref)^2 / (2 std^2) at m = 0
    noise, error = reference_pull("log_ratio", 40_000, 7)
    assert (noise.abs() < 5 * error).all() and (noise.abs() < 0.1 * exact.abs()).all()
    assert (error > 0).all()  # noise it does add
    pull, error = reference_pull("closed_form", 100, 8)
    torch.testing.assert_close(pull, exact)
    assert (error < 1e-12).all()


def test_log_ratio_kl_is_zero_in_expectation_exactly() -> None:
    # Gauss-Hermite quadrature over the policy's own density: no sampling error.
    node, weight = np.polynomial.hermite_e.hermegauss(32)
    weight = torch.from_numpy(weight / weight.sum())
    std, ref = 0.3, 0.5
    x = (std * torch.from_numpy(node)).reshape(1, 1, 1, -1, 1)
    mean = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    log_ratio = step_log_prob(x, mean, std) - step_log_prob(x, torch.full_like(x, ref), std)
    expected_gradient = torch.autograd.grad((log_ratio.flatten() * weight).sum(), mean)[0]
    assert expected_gradient.abs().item() < 1e-12
    value = (log_ratio.detach().flatten() * weight).sum().item()
    assert value == pytest.approx(ref**2 / (2 * std**2))  # the value is right, the gradient is not its gradient


@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_masked_slots_do_not_reach_the_kl(junk: float) -> None:
    mask = finish_mask([2], steps=1, chunk=4)
    mean = torch.randn(1, 1, 2, 4, 3, generator=generator(9), dtype=torch.float64)
    clean = mean.clone().requires_grad_()
    dirty = torch.where(mask[:, :, None, :, None], mean, junk).requires_grad_()
    results = [closed_form_kl(x, torch.zeros_like(mean), torch.ones(2), mask)[0] for x in (clean, dirty)]
    assert torch.equal(*results)
    gradients = [torch.autograd.grad(r, x)[0] for r, x in zip(results, (clean, dirty), strict=True)]
    assert torch.equal(*gradients)
    losses = [log_ratio_kl(x, torch.zeros_like(mean), mask) for x in (clean, dirty)]
    assert torch.equal(*losses)
