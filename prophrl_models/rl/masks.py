"""Which actions of a rollout count: 1 for actions the policy chose, 0 for those after the end of its episode.

A rollout has S policy calls of CH actions each. An episode that ends after f actions keeps slot (s, c) where
s * CH + c < f (Zhang et al. 2025, arXiv 2511.20633, in the form of its development code: s < f // CH, or s = f // CH
and c < f % CH). Imagined rollouts run to the horizon; their judge may say when the task was finished.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NEVER = -1
"""A finish step, as tensors hold it, of a rollout that did not end before its horizon."""


def finish_mask(
    finish_step_B: Tensor | Sequence[int | None],
    *,
    steps: int,
    chunk: int,
    device: torch.device | None = None,
) -> Tensor:
    """Valid slots [B, S, CH] (bool) of rollouts that end after ``finish_step_B`` actions.

    Args:
        finish_step_B: number of actions executed until the end, the last one included; None or ``NEVER``: no end.
            Frame i of a rollout (frame 0 is the start) shows the state after i actions, so a judge's frame index is
            this number.
        steps, chunk: S and CH.

    Raises:
        ValueError: another negative number, one beyond S * CH, or no steps.
    """
    if steps < 1 or chunk < 1:
        raise ValueError(f"a rollout needs at least one step and one action a step, got S={steps}, CH={chunk}")
    horizon = steps * chunk
    given = finish_step_B.tolist() if isinstance(finish_step_B, Tensor) else list(finish_step_B)
    ends = [horizon if f is None or f == NEVER else int(f) for f in given]
    wrong = [f for f in ends if not 0 <= f <= horizon]
    if wrong:
        raise ValueError(
            f"finish steps are counted in actions from 0 to S*CH = {horizon}, got {wrong[:5]}; "
            f"None or {NEVER} means no end"
        )
    end_B = torch.tensor(ends, dtype=torch.long, device=device)
    slot_SC = torch.arange(horizon, device=device).reshape(steps, chunk)
    return slot_SC < end_B[:, None, None]


def masked_mean(values: Tensor, mask: Tensor, *, count: Tensor | float | None = None) -> Tensor:
    """Mean of ``values`` where ``mask`` (broadcastable to it) is set; 0, with a gradient of 0, where it is nowhere.

    Masked values have no influence, not even infinities and NaNs.

    Args:
        count: divide by this number of values instead of the mask's own, so that the micro-batches of a mini-batch
            add up to the mean over all of it.
    """
    on = mask.bool().expand(values.shape)
    total = torch.where(on, values, torch.zeros_like(values)).sum()
    return total / at_least_one(on.sum() if count is None else count)


def at_least_one(count: Tensor | float) -> Tensor | float:
    """A divisor for sums that are 0 when nothing was counted."""
    return count.clamp_min(1) if isinstance(count, Tensor) else max(count, 1.0)
