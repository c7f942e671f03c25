"""Policy-gradient losses for flow policies: FA-GRPO, its baseline Flow-GRPO, FlowScale, and the KL to a reference.

Tensors are [B, S, K, CH, D]: trajectories, policy calls, denoising steps, actions of a chunk, action dimensions. With
l = log-probability of one number of one denoising step, A the advantage of a trajectory, M the mask of valid slots and
f_clip(r, A) = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A):

    FA-GRPO    - sum_scd  M f_clip(exp(sum_k l - l_old), A) / (D sum M)     one ratio for each number the robot gets
    Flow-GRPO  - sum_sck  M f_clip(exp(sum_d l - l_old), A) / (D sum M)     one ratio for each denoising step

Both are divided by the number of valid (s, c, d), and Flow-GRPO *sums* over k: at ratio 1 either gradient is then
A sum_k sum_d grad l / (D sum M), so learning rate, KL coefficient and gradient clip mean the same for both. (Its value
at ratio 1 is K / D times FA-GRPO's; a constant without gradient.) A mean over (s, k, c) would be D / K as strong.

FlowScale weights w_{s,k} (``rl.flow_scale``) enter in one of these forms:

    straight_through   l~ = w l + (1 - w) stopgrad(l): the ratio keeps its value, so the clip sees the true one; the
                       gradient of each step is multiplied by w. Default.
    tempered           w (l - l_old) in place of l - l_old: another ratio, not the policies' likelihood ratio.
    per_step           what the development code ran: ratios per (s, c, k), advantage D w A, mean over (s, k, c). Not
                       FA-GRPO's granularity, and D^2 / K (4.9 for D = 7, K = 10) times its gradient, which makes a KL
                       term that much weaker.
    per_step_matched   the same with FA-GRPO's gradient scale, for ablations that change one thing at a time.
    literal            the published formula, sum_scdk M f_clip(r_scd, w_sk A). r does not depend on k and w is positive
                       with mean 1, so this is K times FA-GRPO and FlowScale does nothing. For the proof.

Sources: FA-GRPO and FlowScale: Zhang et al. 2025 (arXiv 2511.20633); Flow-GRPO: Liu et al. 2025 (arXiv 2505.05470),
there with log-probabilities averaged over d and a clip of 1e-4. docs/flowscale.md tells where we depart, and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from prophrl_models.rl.masks import at_least_one, masked_mean
from prophrl_models.rl.sde import gaussian_kl

FLOW_SCALE_FORMS = ("straight_through", "tempered", "per_step", "per_step_matched", "literal")
PER_STEP_FORMS = ("per_step", "per_step_matched")
QUANTILES = (0.05, 0.5, 0.95)


def fa_grpo_loss(
    logp_BSKCD: Tensor,
    logp_old_BSKCD: Tensor,
    advantage_B: Tensor,
    mask_BSC: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    weights_BSK: Tensor | None = None,
    flow_scale_form: str = "straight_through",
    valid_slots: Tensor | float | None = None,
    log_ratio_limit: float = 20.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate with one ratio per (s, c, d), log-probabilities summed over the denoising steps.

    Args:
        logp_BSKCD: of the policy that is trained, with gradient; logp_old_BSKCD of the one that sampled. Both must come
            from the same code path. float64 stays, half precisions are widened to float32.
        advantage_B: one per trajectory. Leave rows out that their group filter dropped.
        mask_BSC: 1 for valid slots, 0 for those after the end of an episode; whatever those hold has no influence.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        weights_BSK: FlowScale weights, constants of the loss. None is the same as ones.
        flow_scale_form: how they act; see the head of this file.
        valid_slots: number of valid (s, c) to divide by, where this is a micro-batch of a larger mini-batch.
        log_ratio_limit: log-ratios are clamped to +- this before the exponential, so that it stays finite. The
            development code clamps to 4; that takes the gradient away from the very samples that the minimum leaves
            unclipped on purpose (advantage below 0, ratio large), so the default only guards against overflow.

    Returns:
        The scalar loss to minimise (0, with gradient 0, where no slot is valid) and metrics, detached scalars:
        clip_fraction (share of ratios whose gradient the clip cut), clip_low_fraction, clip_high_fraction,
        ratio_mean, ratio_min, ratio_p05, ratio_p50, ratio_p95, ratio_max, approx_kl (mean of r - 1 - log r, estimates
        KL(old || new) per ratio) and valid_slots.

    Raises:
        ValueError: shapes that do not fit, an unusable clip range, or an unknown form.
    """
    form = _checked_form(flow_scale_form, FLOW_SCALE_FORMS)
    if form in PER_STEP_FORMS:
        return flow_grpo_loss(
            logp_BSKCD,
            logp_old_BSKCD,
            advantage_B,
            mask_BSC,
            clip_low=clip_low,
            clip_high=clip_high,
            weights_BSK=weights_BSK,
            flow_scale_form=form,
            valid_slots=valid_slots,
            log_ratio_limit=log_ratio_limit,
        )
    clip = (clip_low, clip_high)
    given = _prepare(logp_BSKCD, logp_old_BSKCD, advantage_B, mask_BSC, weights_BSK, clip, log_ratio_limit)
    if form == "literal":
        log_ratio_BSCD = given.delta_BSKCD.sum(dim=2)
    else:
        log_ratio_BSCD = _weighted(given.delta_BSKCD, given.weights_BSKCD, form).sum(dim=2)
    ratio_BSCD = _bounded_exp(log_ratio_BSCD, log_ratio_limit)
    advantage = given.advantage_B[:, None, None, None]
    mask = given.mask_BSC[..., None]
    if form == "literal":
        terms_BSKCD = clipped_surrogate(
            ratio_BSCD[:, :, None], advantage[..., None] * given.weights_BSKCD, clip_low, clip_high
        )
        terms_BSCD = terms_BSKCD.sum(dim=2)
    else:
        terms_BSCD = clipped_surrogate(ratio_BSCD, advantage, clip_low, clip_high)
    slots = given.mask_BSC.sum() if valid_slots is None else valid_slots
    loss = -masked_mean(terms_BSCD, mask, count=slots * logp_BSKCD.shape[-1])
    return loss, _metrics(given, ratio_BSCD, advantage, mask, clip)


def flow_grpo_loss(
    logp_BSKCD: Tensor,
    logp_old_BSKCD: Tensor,
    advantage_B: Tensor,
    mask_BSC: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    weights_BSK: Tensor | None = None,
    flow_scale_form: str = "straight_through",
    valid_slots: Tensor | float | None = None,
    log_ratio_limit: float = 20.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate with one ratio per (s, c, k), log-probabilities summed over the action dimensions.

    The sum over (s, c, k) divided by the number of valid (s, c, d): the gradient at ratio 1 is FA-GRPO's. Arguments,
    results and errors as ``fa_grpo_loss``; "literal" (f_clip with w A) is what "per_step_matched" does here, as
    a ratio per step leaves the weight something to act on.
    """
    form = _checked_form(flow_scale_form, FLOW_SCALE_FORMS)
    clip = (clip_low, clip_high)
    given = _prepare(logp_BSKCD, logp_old_BSKCD, advantage_B, mask_BSC, weights_BSK, clip, log_ratio_limit)
    _, _, K, _, D = logp_BSKCD.shape
    weight_on_advantage = form in (*PER_STEP_FORMS, "literal")
    if weight_on_advantage:
        log_ratio_BSKC = given.delta_BSKCD.sum(dim=-1)
    else:
        log_ratio_BSKC = _weighted(given.delta_BSKCD, given.weights_BSKCD, form).sum(dim=-1)
    ratio_BSKC = _bounded_exp(log_ratio_BSKC, log_ratio_limit)
    advantage = given.advantage_B[:, None, None, None]
    if weight_on_advantage:
        advantage = advantage * given.weights_BSKCD[..., 0]
    mask = given.mask_BSC[:, :, None]
    terms_BSKC = clipped_surrogate(ratio_BSKC, advantage, clip_low, clip_high)
    slots = given.mask_BSC.sum() if valid_slots is None else valid_slots
    if form == "per_step":
        loss = -D * masked_mean(terms_BSKC, mask, count=slots * K)
    else:
        loss = -masked_mean(terms_BSKC, mask, count=slots * D)
    return loss, _metrics(given, ratio_BSKC, advantage, mask, clip)


def clipped_surrogate(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), element by element."""
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage)


def closed_form_kl(
    mean_BSKCD: Tensor,
    mean_ref_BSKCD: Tensor,
    std_BSK: Tensor,
    mask_BSC: Tensor,
    *,
    valid_slots: Tensor | float | None = None,
) -> tuple[Tensor, Tensor]:
    """KL of the denoising chains to those of a reference policy, exact given the states that were visited:

        sum_k (mean - mean_ref)^2 / (2 std^2), averaged over valid (s, c, d)

    Its gradient pulls every mean to the reference's. Steps with a small std dominate (with the uniform grid and
    K = 10 the last one has 46 % of the sum of 1 / std^2), so a coefficient belongs to one K, grid and noise level.

    Returns:
        The scalar, and each denoising step's part of it [K], detached. No gradient reaches the reference.

    Raises:
        ValueError: shapes that do not fit.
    """
    B, S, K, C, D = _checked_shape("mean_BSKCD", mean_BSKCD)
    _check_equal("mean_ref_BSKCD", mean_ref_BSKCD, (B, S, K, C, D))
    _check_equal("mask_BSC", mask_BSC, (B, S, C))
    std = _broadcast_BSK("std_BSK", std_BSK, (B, S, K))[..., None, None].detach()
    on_BSKCD = mask_BSC.bool()[:, :, None, :, None]
    kl_BSKCD = gaussian_kl(
        torch.where(on_BSKCD, mean_BSKCD, 0.0), torch.where(on_BSKCD, mean_ref_BSKCD.detach(), 0.0), std
    )
    slots = mask_BSC.bool().sum() if valid_slots is None else valid_slots
    kl_K = kl_BSKCD.sum(dim=(0, 1, 3, 4)) / at_least_one(slots * D)
    return kl_K.sum(), kl_K.detach()


def log_ratio_kl(logp_BSKCD: Tensor, logp_ref_BSKCD: Tensor, mask_BSC: Tensor) -> Tensor:
    """Masked mean over (s, c, d) of sum_k (l - l_ref): the KL term in common use, kept for comparison only.

    Its value estimates the KL, but not its gradient: under the policy's own samples E[grad l] = 0, whatever the
    reference, so on-policy it adds noise and no pull. Use ``closed_form_kl``.

    Raises:
        ValueError: shapes that do not fit.
    """
    B, S, K, C, D = _checked_shape("logp_BSKCD", logp_BSKCD)
    _check_equal("logp_ref_BSKCD", logp_ref_BSKCD, (B, S, K, C, D))
    _check_equal("mask_BSC", mask_BSC, (B, S, C))
    return masked_mean((logp_BSKCD - logp_ref_BSKCD.detach()).sum(dim=2), mask_BSC[..., None])


@dataclass(frozen=True)
class _Given:
    """The inputs of a loss, checked, in one floating type, masked."""

    delta_BSKCD: Tensor
    advantage_B: Tensor
    mask_BSC: Tensor
    weights_BSKCD: Tensor


def _prepare(
    logp: Tensor,
    logp_old: Tensor,
    advantage: Tensor,
    mask: Tensor,
    weights: Tensor | None,
    clip: tuple[float, float],
    limit: float,
) -> _Given:
    B, S, K, C, D = _checked_shape("logp_BSKCD", logp)
    _check_equal("logp_old_BSKCD", logp_old, (B, S, K, C, D))
    _check_equal("advantage_B", advantage, (B,))
    _check_equal("mask_BSC", mask, (B, S, C))
    if not (0.0 <= clip[0] < 1.0 and clip[1] >= 0.0):
        raise ValueError(f"the clip needs 0 <= clip_low < 1 and clip_high >= 0, got {clip}; 0.2 and 0.28 are usual")
    if not limit > 0.0:
        raise ValueError(f"log_ratio_limit must be positive, got {limit}; 20 only guards against overflow")
    floats = [x.dtype for x in (logp, logp_old, advantage, weights) if x is not None and x.is_floating_point()]
    dtype = reduce(torch.promote_types, floats, torch.float32)
    on = mask.bool()
    # Selected before anything is computed from it: 0 * inf in a masked slot would be NaN in the loss and the gradient.
    on_BSKCD = on[:, :, None, :, None]
    delta = torch.where(on_BSKCD, logp.to(dtype), 0.0) - torch.where(on_BSKCD, logp_old.detach().to(dtype), 0.0)
    if weights is None:
        w = torch.ones((B, S, K), dtype=dtype, device=logp.device)
    else:
        w = _broadcast_BSK("weights_BSK", weights, (B, S, K)).detach().to(dtype)
    return _Given(delta, advantage.detach().to(dtype), on, w[..., None, None])


def _weighted(delta: Tensor, weights: Tensor, form: str) -> Tensor:
    """Log-ratios of the steps, weighted: the value and the gradient (tempered), or the gradient alone."""
    if form == "tempered":
        return weights * delta
    value = delta.detach()
    return value + weights * (delta - value)  # the bracket is 0 and carries the gradient


def _bounded_exp(log_ratio: Tensor, limit: float) -> Tensor:
    return log_ratio.clamp(-limit, limit).exp()


@torch.no_grad()
def _metrics(
    given: _Given, ratio: Tensor, advantage: Tensor, mask: Tensor, clip: tuple[float, float]
) -> dict[str, Tensor]:
    on = mask.expand(ratio.shape)
    high = (ratio > 1.0 + clip[1]) & (advantage > 0.0)
    low = (ratio < 1.0 - clip[0]) & (advantage < 0.0)
    r = ratio[on]
    if not r.numel():
        r = ratio.new_ones(1)
    quantiles = _quantiles(r)
    return {
        "clip_fraction": masked_mean((high | low).to(ratio.dtype), on),
        "clip_low_fraction": masked_mean(low.to(ratio.dtype), on),
        "clip_high_fraction": masked_mean(high.to(ratio.dtype), on),
        "ratio_mean": r.mean(),
        "ratio_min": r.min(),
        **{f"ratio_p{round(100 * q):02d}": value for q, value in zip(QUANTILES, quantiles, strict=True)},
        "ratio_max": r.max(),
        "approx_kl": (r - 1.0 - r.log()).mean(),
        "valid_slots": given.mask_BSC.sum().to(ratio.dtype),
    }


def _quantiles(values: Tensor) -> list[Tensor]:
    """Nearest-rank quantiles; torch.quantile refuses more than 16 million values."""
    ordered = values.flatten().sort()[0]
    return [ordered[round(q * (len(ordered) - 1))] for q in QUANTILES]


def _checked_form(form: str, choices: tuple[str, ...]) -> str:
    if form not in choices:
        raise ValueError(f"unknown flow_scale_form {form!r}; choose one of {', '.join(choices)}")
    return form


def _checked_shape(name: str, x: Tensor) -> tuple[int, int, int, int, int]:
    if x.ndim != 5:
        raise ValueError(f"{name} needs shape [B, S, K, CH, D], got {tuple(x.shape)}")
    B, S, K, C, D = x.shape
    return B, S, K, C, D


def _check_equal(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    # No broadcasting of inputs: a [B, 1] advantage or a [S, CH] mask is a mistake more often than a wish.
    if tuple(x.shape) != shape:
        raise ValueError(f"{name} needs shape {shape}, got {tuple(x.shape)}")


def _broadcast_BSK(name: str, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """[B, S, K], or sizes of 1 in their place, or [K] alone."""
    if x.ndim == 1:
        x = x[None, None]
    if x.ndim != 3 or any(a not in (1, b) for a, b in zip(x.shape, shape, strict=True)):
        raise ValueError(f"{name} needs shape {shape}, with 1 where it does not vary, got {tuple(x.shape)}")
    return x.expand(shape)
