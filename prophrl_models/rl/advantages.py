"""Advantages of GRPO: how much better a rollout did than the others from the same start."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Deviation = Literal["group", "pooled"]


def group_advantages(
    rewards_B: Tensor,
    *,
    group_size: int,
    eps: float = 1e-6,
    keep_between: tuple[float, float] = (0.1, 0.9),
    deviation: Deviation = "group",
) -> tuple[Tensor, Tensor]:
    """``(R - mean) / (std + eps)`` within each group, std being the sample standard deviation (n - 1).

    Source: arXiv 2511.20633 (group of 8); sample deviation, eps and the filter as in its development code. A group
    whose rewards are all equal has advantage exactly 0 and is never kept: it carries no signal, whatever its mean.

    The paper's rewards are 1 or 0, so every mixed group has about the same deviation. Scores are not: a group of 0.80
    to 0.88 holds the judge's noise, and divided by its own deviation it counts as much as one of 0.1 to 0.9. With
    ``deviation="pooled"``, ours, all are divided by one deviation, that of the kept groups together.

    Args:
        rewards_B: rewards [B], the rows of a group next to each other: group i is rows i * G ... i * G + G - 1. NaN is
            a rollout without a verdict (the judge did not answer): it counts for nothing, its row gets advantage 0 and
            is not kept, and its group is formed by the others.
        group_size: G, at least 2.
        eps: added to the deviation.
        keep_between: groups are kept while their mean reward lies in this interval, both ends included.
        deviation: "group": each group's own, as in the paper; "pooled": one for all.

    Returns:
        advantage_B [B], in the type of the rewards (float32 for integers and bools) and also given for groups that
        the filter drops; keep_B [B] (bool), equal within a group but for rows without a verdict. Drop the rows that
        are not kept before the loss: they would dilute its mean.

    Raises:
        ValueError: rewards that do not form groups, infinite rewards, an impossible interval, or another deviation.
    """
    low, high = keep_between
    if group_size < 2:
        raise ValueError(f"group_size must be at least 2, got {group_size}: a single rollout has nothing to beat")
    if rewards_B.ndim != 1 or len(rewards_B) % group_size:
        raise ValueError(
            f"rewards need shape [groups * {group_size}], got {tuple(rewards_B.shape)}; "
            "keep groups whole and their rows next to each other"
        )
    if not low <= high:
        raise ValueError(f"keep_between must be (low, high) with low <= high, got {keep_between}")
    if deviation not in get_args(Deviation):
        raise ValueError(f"deviation must be one of {', '.join(get_args(Deviation))}, got {deviation!r}")
    rewards = rewards_B.detach()
    if not rewards.is_floating_point():
        rewards = rewards.float()
    if bool(rewards.isinf().any()):
        raise ValueError("rewards must be finite; use NaN for a rollout that was not judged")

    # float64 inside: the mean of seven successes in ten must not fall below the 0.7 somebody wrote.
    reward_NG = rewards.double().reshape(-1, group_size)
    judged_NG = ~reward_NG.isnan()
    zero_NG = torch.zeros_like(reward_NG)
    count_N1 = judged_NG.sum(1, keepdim=True)
    mean_N1 = torch.where(judged_NG, reward_NG, zero_NG).sum(1, keepdim=True) / count_N1.clamp_min(1)
    centred_NG = torch.where(judged_NG, reward_NG - mean_N1, zero_NG)
    square_N1, free_N1 = centred_NG.square().sum(1, keepdim=True), (count_N1 - 1).clamp_min(1)

    # Equal rewards, found by comparison: their computed mean can be off in the last digit, and eps is small, too.
    first_N1 = torch.where(judged_NG, reward_NG, torch.full_like(reward_NG, torch.inf)).amin(1, keepdim=True)
    differ_N1 = (judged_NG & (reward_NG != first_N1)).any(1, keepdim=True)
    keep_N1 = differ_N1 & (mean_N1 >= low) & (mean_N1 <= high)
    if deviation == "pooled":
        kept_N1 = keep_N1 if bool(keep_N1.any()) else torch.ones_like(keep_N1)
        std_N1 = (square_N1[kept_N1].sum() / free_N1[kept_N1].sum()).sqrt()
    else:
        std_N1 = (square_N1 / free_N1).sqrt()
    advantage_NG = torch.where(differ_N1, centred_NG / (std_N1 + eps), zero_NG)
    keep_NG = judged_NG & keep_N1
    return advantage_NG.reshape(-1).to(rewards.dtype), keep_NG.reshape(-1)
