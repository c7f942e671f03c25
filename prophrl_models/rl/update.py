"""The update: several optimiser steps on one batch of rollouts, as GRPO does it, for flow policies.

All log-probabilities of a batch, old, reference and new, come from ``chain_terms`` on micro-batches of the same rows
in the same order. So the first ratio is exactly 1, and what follows does not depend on how the experience was gathered.

A row is one policy call of one rollout. Rows without a valid action (after the end of an episode) are left out. They
are shuffled once for a batch and cut into micro-batches, which are dealt to mini-batches anew in every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prophrl_models.policies.interface import FlowPolicy, Inputs
from prophrl_models.rl.flow_scale import flow_scale_weights
from prophrl_models.rl.losses import closed_form_kl, fa_grpo_loss, flow_grpo_loss
from prophrl_models.rl.masks import finish_mask
from prophrl_models.rl.rollouts import NEVER, Rollouts, arithmetic
from prophrl_models.rl.sde import gaussian_kl, sde_step, step_log_prob
from prophrl_models.rl.settings import UpdateOptions
from prophrl_models.rl.update_log import UpdateLog, UpdateResult
from prophrl_models.training.loop import trained
from prophrl_models.training.lora import LoraOptions, Trainable, choose_trained
from prophrl_models.training.settings import TrainingError


@dataclass(frozen=True)
class Rows:
    """N policy calls, shuffled, on the CPU.

    Attributes:
        inputs: what the policy saw.
        chain_NKCD: denoising chains [N, K+1, *chain_shape].
        advantage_N: of the rollout each call belongs to.
        mask_NC: executed actions before the end of the episode [N, keep].
        grid_K1, noise_level: how the chains were drawn.
    """

    inputs: Inputs
    chain_NKCD: Tensor
    advantage_N: Tensor
    mask_NC: Tensor
    grid_K1: Tensor
    noise_level: float

    def __len__(self) -> int:
        return len(self.advantage_N)


@dataclass(frozen=True)
class Terms:
    """Log-densities and means [N, K, keep, D] of stored chains, the steps' standard deviations [K], and the velocities
    they came from, [N * K, *chain_shape] (all steps of row 0 first)."""

    logp_NKCD: Tensor
    mean_NKCD: Tensor
    std_K: Tensor
    velocity_MCD: Tensor


def rows_of(rollouts: Rollouts, advantage_B: Tensor, seed: int) -> Rows:
    """The rows of rollouts in a random order that depends on ``seed`` alone.

    Raises:
        ValueError: not one advantage for each rollout, or nothing to learn from.
    """
    B, S = len(rollouts), rollouts.calls
    if advantage_B.shape != (B,):
        raise ValueError(f"{B} rollouts need {B} advantages, got {tuple(advantage_B.shape)}")
    ends = [None if f == NEVER else min(int(f), S * rollouts.keep) for f in rollouts.finish_B.tolist()]
    mask_RC = finish_mask(ends, steps=S, chunk=rollouts.keep).reshape(B * S, rollouts.keep)
    alive = mask_RC.any(1).nonzero()[:, 0]
    if not len(alive):
        raise ValueError("no rollout has a valid action; the judge ended them all before they began")
    order = alive[torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))]
    return Rows(
        inputs=rollouts.inputs.select(order),
        chain_NKCD=rollouts.chain_BSKCD.flatten(0, 1)[order],
        advantage_N=advantage_B.float().repeat_interleave(S)[order],
        mask_NC=mask_RC[order],
        grid_K1=rollouts.grid_K1,
        noise_level=rollouts.noise_level,
    )


def chain_terms(policy: FlowPolicy, rows: Rows, part: slice, precision: str = "fp32") -> Terms:
    """Terms of some rows under the policy's current parameters, differentiable; on the policy's device."""
    device = next(policy.parameters()).device
    inputs = rows.inputs.select(part).to(device)
    chain = rows.chain_NKCD[part].to(device)
    grid_K1 = rows.grid_K1.to(device)
    K, keep = len(grid_K1) - 1, rows.mask_NC.shape[1]
    with arithmetic(precision, device):
        cond = policy.ready(policy.embed(inputs)).repeat(K)
        x_MCD = chain[:, :-1].flatten(0, 1)
        v_MCD = policy.velocity(cond, x_MCD, grid_K1[:-1].repeat(len(chain))).float()
    t_1K11, next_1K11 = grid_K1[None, :-1, None, None], grid_K1[None, 1:, None, None]
    v_NKCD = v_MCD.unflatten(0, (len(chain), K))
    mean, std = sde_step(chain[:, :-1], v_NKCD, t_1K11, next_1K11, noise_level=rows.noise_level)
    logp = step_log_prob(chain[:, 1:], mean, std)
    logp, mean = (policy.environment(x)[:, :, :keep] for x in (logp, mean))
    return Terms(logp, mean, std.flatten(), v_MCD)


def choose_parameters(policy: FlowPolicy, options: UpdateOptions) -> None:
    """Freeze what does not train; see ``UpdateOptions.trainable``.

    Raises:
        TrainingError: the policy has no such part.
    """
    if options.trainable == "all":
        policy.requires_grad_(True)
    elif isinstance(policy, Trainable):
        choose_trained(policy, options.trainable, LoraOptions(options.lora_rank, options.lora_rank))
    elif options.trainable == "lora":
        raise TrainingError(f"a {policy.kind} policy has no backbone to adapt; set update.trainable to all or head")
    else:
        for name, parameter in policy.named_parameters():
            parameter.requires_grad_(name.startswith("head."))
    if not any(True for _ in trained(policy)):
        raise TrainingError(f"nothing of a {policy.kind} policy is called its head; set update.trainable to all")
    if options.gradient_checkpointing and isinstance(policy, Trainable):
        policy.enable_gradient_checkpointing()


class Updater:
    """Holds the optimiser and the reference: the trained parameters as they are when this is made.

    Args:
        policy: in evaluation mode (no dropout: a ratio compares two policies, not two masks); trained in place.
    """

    def __init__(self, policy: FlowPolicy, options: UpdateOptions) -> None:
        self.policy, self.options = policy, options
        self.reference = {name: p.detach().cpu().clone() for name, p in trained(policy)}
        matrices = [p for _, p in trained(policy) if p.ndim >= 2]
        vectors = [p for _, p in trained(policy) if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=options.learning_rate,
            betas=options.betas,
        )

    def update(self, rows: Rows, *, mini_batches: int, seed: int) -> UpdateResult:
        """All optimiser steps on a batch.

        Args:
            mini_batches: optimiser steps of an epoch; fewer where there are fewer rows.
            seed: of how micro-batches are dealt.

        Raises:
            FloatingPointError: a loss or gradient that is not finite; the policy is left as it was before that step.
        """
        o = self.options
        size = max(1, min(o.micro_batch, math.ceil(len(rows) / mini_batches)))
        parts = [slice(i, min(i + size, len(rows))) for i in range(0, len(rows), size)]
        old = self._recomputed(rows, parts)
        with reference_weights(self.policy, self.reference):
            reference = self._recomputed(rows, parts)
        generator = torch.Generator().manual_seed(seed)
        log = UpdateLog()
        stopped = False
        for _ in range(o.epochs):
            order = torch.randperm(len(parts), generator=generator)
            for dealt in order.tensor_split(min(mini_batches, len(parts))):
                kl = self._step(rows, [(parts[i], old[i], reference[i]) for i in dealt.tolist()], log)
                stopped = o.target_kl > 0.0 and kl > o.target_kl
                if stopped:
                    break
            if stopped:
                break
        result = log.result()
        result.scalars["stopped_by_kl"] = float(stopped)
        return result

    def _recomputed(self, rows: Rows, parts: list[slice]) -> list[Terms]:
        with torch.no_grad():
            return [chain_terms(self.policy, rows, part, self.options.precision) for part in parts]

    def _step(self, rows: Rows, batch: list[tuple[slice, Terms, Terms]], log: UpdateLog) -> float:
        """One optimiser step, unless the policy has gone too far from the old one already; returns that KL."""
        o, device = self.options, next(self.policy.parameters()).device
        slots = float(sum(int(rows.mask_NC[part].sum()) for part, _, _ in batch))
        self.optimiser.zero_grad(set_to_none=True)
        moved_kl = 0.0
        for part, old, reference in batch:
            new = chain_terms(self.policy, rows, part, o.precision)
            new.velocity_MCD.retain_grad()
            mask = rows.mask_NC[part].to(device)[:, None]
            std = new.std_K.detach()
            surrogate, metrics = self._surrogate(new, old, rows.advantage_N[part].to(device), mask, std, slots)
            kl, kl_K = closed_form_kl(
                new.mean_NKCD[:, None], reference.mean_NKCD[:, None], std[None, None], mask, valid_slots=slots
            )
            (surrogate + o.beta * kl).backward()
            with torch.no_grad():
                moved_K = _moved(new.mean_NKCD, old.mean_NKCD, std, mask[:, 0], slots)
            moved_kl += float(moved_K.sum())
            gradient = new.velocity_MCD.grad
            assert gradient is not None
            log.add_pass(
                float(mask.sum()) / slots,
                {"surrogate": -surrogate.detach(), "kl_reference": kl.detach(), "kl_old": moved_K.sum()},
                metrics,
                {"kl_reference": kl_K, "kl_old": moved_K},
                gradient.unflatten(0, (-1, len(std))).transpose(0, 1),
            )
        if o.target_kl > 0.0 and moved_kl > o.target_kl:
            self.optimiser.zero_grad(set_to_none=True)
            log.discard()
            return moved_kl
        norm = float(nn.utils.clip_grad_norm_([p for _, p in trained(self.policy)], o.gradient_clip))
        if not math.isfinite(norm):
            self.optimiser.zero_grad(set_to_none=True)
            raise FloatingPointError(
                f"the gradient norm is {norm}; lower update.learning_rate (now {o.learning_rate:.2e}), raise "
                "rollout.noise_level (small steps make large ratios), or look for NaN in the rollouts"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        self.optimiser.step()
        weights = self._weights(std)
        log.end_step(norm, {"std": std, "weight": torch.ones_like(std) if weights is None else weights})
        return moved_kl

    def _learning_rate(self) -> float:
        """Of the next step. AdamW's first one moves every number by the whole rate, however sure the gradient is."""
        taken = max((int(state["step"]) for state in self.optimiser.state.values()), default=0)
        return self.options.learning_rate * min(1.0, (taken + 1) / max(1, self.options.warmup))

    def _surrogate(
        self, new: Terms, old: Terms, advantage_N: Tensor, mask: Tensor, std_K: Tensor, slots: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        o = self.options
        loss = fa_grpo_loss if o.objective == "fa_grpo" else flow_grpo_loss
        weights = self._weights(std_K)
        return loss(
            new.logp_NKCD[:, None],
            old.logp_NKCD[:, None],
            advantage_N,
            mask,
            clip_low=o.clip_low,
            clip_high=o.clip_high,
            weights_BSK=None if weights is None else weights[None, None],
            flow_scale_form="straight_through" if o.flow_scale == "none" else o.flow_scale,
            valid_slots=slots,
        )

    def _weights(self, std_K: Tensor) -> Tensor | None:
        o = self.options
        if o.flow_scale == "none":
            return None
        return flow_scale_weights(std_K, power=o.power, alpha=o.alpha, w_min=o.w_min, w_max=o.w_max)


@contextmanager
def reference_weights(policy: FlowPolicy, reference: Mapping[str, Tensor]) -> Iterator[None]:
    """The policy as it was when ``reference`` was taken; trained parameters are exchanged and put back."""
    current = {name: p.detach().clone() for name, p in trained(policy)}
    try:
        _copy(policy, reference)
        yield
    finally:
        _copy(policy, current)


def _copy(policy: FlowPolicy, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in trained(policy):
            parameter.copy_(tensors[name])


def _moved(mean: Tensor, mean_old: Tensor, std_K: Tensor, mask_NC: Tensor, slots: float) -> Tensor:
    """Exact KL of an action number to the policy that gathered the experience, by denoising step [K]."""
    kl = gaussian_kl(mean, mean_old, std_K[None, :, None, None]) * mask_NC[:, None, :, None]
    return kl.sum(dim=(0, 2, 3)) / (slots * mean.shape[-1])
