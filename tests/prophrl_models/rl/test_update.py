"""The update: starts from a ratio of exactly 1, goes up, and obeys its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.rl.advantages import group_advantages
from prophrl_models.rl.losses import fa_grpo_loss
from prophrl_models.rl.rollouts import Unit
from prophrl_models.rl.settings import UpdateOptions
from prophrl_models.rl.update import Rows, Updater, chain_terms, choose_parameters, reference_weights, rows_of
from prophrl_models.training.settings import TrainingError
from tests.helpers.dot_runs import SETTINGS, dot_worker

OPTIONS = replace(SETTINGS.update, learning_rate=2e-4, beta=0.0, micro_batch=48)


@pytest.fixture(scope="module")
def rows(taught_file: object) -> Rows:
    """Eight groups of four; rewards are the judge's scores, so that no group is lost."""
    from tests.helpers.dot_runs import reopened

    policy = reopened(taught_file)  # type: ignore[arg-type]
    unit = Unit(tuple(g for g in range(8) for _ in range(4)), tuple(range(32)))
    found = dot_worker(policy).run(unit)
    advantage_B, keep_B = group_advantages(found.score_B, group_size=4, keep_between=(0.0, 1.0))
    assert bool(keep_B.all())
    return rows_of(found, advantage_B, seed=3)


def updater(policy: TinyPolicy, **changes: object) -> Updater:
    options = replace(OPTIONS, **changes)  # type: ignore[arg-type]
    choose_parameters(policy, options)
    return Updater(policy, options)


def weights(policy: TinyPolicy) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


def surrogate(policy: TinyPolicy, rows: Rows, old: Tensor) -> float:
    with torch.no_grad():
        new = chain_terms(policy, rows, slice(None)).logp_NKCD
    return -float(fa_grpo_loss(new[:, None], old[:, None], rows.advantage_N, rows.mask_NC[:, None])[0])


@pytest.mark.parametrize("micro_batch", [5, 64])
@pytest.mark.parametrize("form", ["none", "straight_through", "tempered", "per_step"])
def test_the_first_ratio_is_exactly_one(taught: TinyPolicy, rows: Rows, micro_batch: int, form: str) -> None:
    result = updater(taught, micro_batch=micro_batch, flow_scale=form, epochs=1).update(rows, mini_batches=1, seed=0)
    assert result.scalars["ratio_off_first"] == 0.0
    assert result.scalars["kl_old"] == 0.0 and result.scalars["kl_reference"] == 0.0


@pytest.mark.parametrize("objective", ["fa_grpo", "flow_grpo"])
def test_the_surrogate_rises(taught: TinyPolicy, rows: Rows, objective: str) -> None:
    with torch.no_grad():
        old = chain_terms(taught, rows, slice(None)).logp_NKCD
    before = surrogate(taught, rows, old)
    result = updater(taught, objective=objective, epochs=4).update(rows, mini_batches=2, seed=0)
    assert result.scalars["updates"] == 8.0
    assert abs(before) < 1e-5
    assert surrogate(taught, rows, old) > 0.005


def test_passes_of_any_size_take_the_same_step(taught: TinyPolicy, rows: Rows) -> None:
    start = weights(taught)
    after = []
    for size in (5, 96):
        taught.load_state_dict(start, strict=False)
        gradients = updater(taught, micro_batch=size, epochs=1, gradient_clip=1e9, learning_rate=1e-12)
        gradients.update(rows, mini_batches=1, seed=0)
        after.append({name: p.grad.clone() for name, p in taught.named_parameters() if p.grad is not None})
    largest = max(float(g.abs().max()) for g in after[0].values())
    for name, gradient in after[0].items():
        torch.testing.assert_close(gradient, after[1][name], atol=1e-4 * largest, rtol=1e-3)


def test_the_step_is_the_gradient_of_the_whole_loss(taught: TinyPolicy, rows: Rows) -> None:
    """An independent derivation: at ratio 1 it is that of the mean of advantage times weighted log-density."""
    fresh = updater(taught, micro_batch=16, epochs=1, gradient_clip=1e9, learning_rate=1e-12)
    result = fresh.update(rows, mini_batches=1, seed=0)
    found = {name: p.grad.clone() for name, p in taught.named_parameters() if p.grad is not None}
    taught.zero_grad()
    logp = chain_terms(taught, rows, slice(None)).logp_NKCD
    w_K = torch.tensor(result.per_k["weight"])
    weight = rows.advantage_N[:, None, None, None] * w_K[None, :, None, None] * rows.mask_NC[:, None, :, None]
    loss = -(weight * logp).sum() / (rows.mask_NC.sum() * logp.shape[-1])
    loss.backward()
    for name, parameter in taught.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-2)


def test_actions_after_the_end_have_no_influence(taught: TinyPolicy, rows: Rows) -> None:
    mask = rows.mask_NC.clone()
    mask[::3, 2:] = False
    other = rows.chain_NKCD.clone()
    other[::3, -1, 2:] += 0.5  # the last state is nobody's input, only an outcome
    start = weights(taught)
    ends = []
    for chain in (rows.chain_NKCD, other):
        taught.load_state_dict(start, strict=False)
        updater(taught, epochs=1).update(replace(rows, mask_NC=mask, chain_NKCD=chain), mini_batches=1, seed=0)
        ends.append(weights(taught))
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name])


def test_rows_after_the_end_are_left_out(taught: TinyPolicy) -> None:
    found = dot_worker(taught).run(Unit((0, 1), (1, 2)))
    found = replace(found, finish_B=torch.tensor([5, -1]))  # in the second of three calls of four
    rows = rows_of(found, torch.tensor([1.0, -1.0]), seed=0)
    assert len(rows) == 5
    assert rows.mask_NC[rows.advantage_N > 0].sum() == 5 and rows.mask_NC[rows.advantage_N < 0].sum() == 12


def test_the_kl_term_holds_the_policy_back(taught: TinyPolicy, rows: Rows) -> None:
    start, far = weights(taught), {}
    for beta in (0.0, 10.0):
        taught.load_state_dict(start, strict=False)
        result = updater(taught, beta=beta, epochs=4).update(rows, mini_batches=2, seed=0)
        far[beta] = result.scalars["kl_reference_last"]
        assert sum(result.per_k["kl_reference"]) == pytest.approx(result.scalars["kl_reference"], rel=1e-5)
    assert far[10.0] < 0.5 * far[0.0]


def test_the_head_alone_trains_when_asked(taught: TinyPolicy, rows: Rows) -> None:
    start = weights(taught)
    updater(taught, trainable="head").update(rows, mini_batches=1, seed=0)
    moved = {name for name, value in weights(taught).items() if not torch.equal(value, start[name])}
    assert moved and all(name.startswith("head.") for name in moved)
    with pytest.raises(TrainingError, match="no backbone to adapt"):
        choose_parameters(taught, UpdateOptions(trainable="lora"))


def test_updates_stop_when_the_policy_has_gone_too_far(taught: TinyPolicy, rows: Rows) -> None:
    fast = updater(taught, learning_rate=3e-3, target_kl=0.005, epochs=5)
    result = fast.update(rows, mini_batches=2, seed=0)
    assert result.scalars["stopped_by_kl"] == 1.0 and 1.0 <= result.scalars["updates"] < 10.0
    assert result.scalars["kl_old"] <= 0.005  # of the steps that were taken


def test_the_learning_rate_rises_over_the_first_steps(taught: TinyPolicy, rows: Rows) -> None:
    start = weights(taught)

    def moved(steps: int, **changes: object) -> dict[str, Tensor]:
        taught.load_state_dict(start, strict=False)
        updater(taught, weight_decay=0.0, epochs=steps, **changes).update(rows, mini_batches=1, seed=0)
        return {name: value - start[name] for name, value in weights(taught).items()}

    whole, first = moved(1), moved(1, warmup=4)
    assert any(bool(value.any()) for value in whole.values())
    for name, value in first.items():
        torch.testing.assert_close(4.0 * value, whole[name], atol=1e-6, rtol=1e-3)
    slow = updater(taught, warmup=4, epochs=6)
    slow.update(rows, mini_batches=1, seed=0)
    assert {group["lr"] for group in slow.optimiser.param_groups} == {OPTIONS.learning_rate}


def test_the_reference_is_the_first_policy_and_goes_away_again(taught: TinyPolicy, rows: Rows) -> None:
    start = weights(taught)
    trained = updater(taught)
    trained.update(rows, mini_batches=1, seed=0)
    after = weights(taught)
    with reference_weights(taught, trained.reference):
        assert all(torch.equal(value, start[name]) for name, value in weights(taught).items())
    assert all(torch.equal(value, after[name]) for name, value in weights(taught).items())
    assert any(not torch.equal(value, start[name]) for name, value in after.items())


def test_numbers_that_are_not_finite_change_nothing(taught: TinyPolicy, rows: Rows) -> None:
    start = weights(taught)
    broken = rows.chain_NKCD.clone()
    broken[0] = float("nan")
    with pytest.raises(FloatingPointError, match="gradient norm is nan"):
        updater(taught).update(replace(rows, chain_NKCD=broken), mini_batches=1, seed=0)
    assert all(torch.equal(value, start[name]) for name, value in weights(taught).items())


def test_weights_flatten_the_gradient_over_denoising_steps(taught: TinyPolicy, rows: Rows) -> None:
    """What FlowScale is for: without it the last steps dominate."""
    start, spread = weights(taught), {}
    for form in ("none", "straight_through"):
        taught.load_state_dict(start, strict=False)
        result = updater(taught, flow_scale=form, alpha=0.0, w_max=10.0, w_min=0.0, epochs=1).update(
            rows, mini_batches=1, seed=0
        )
        norms = result.per_k["gradient"]
        assert len(norms) == len(result.per_k["std"]) == len(rows.grid_K1) - 1
        spread[form] = max(norms) / min(norms)
    assert spread["straight_through"] < 0.7 * spread["none"]
