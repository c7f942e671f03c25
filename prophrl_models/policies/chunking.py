"""Real-time chunking: a new chunk that continues actions already committed, drawn by guiding the flow as it denoises.

Source: Black, Galliker and Levine, "Real-Time Execution of Action Chunking Flow Policies" (arXiv 2506.07339), after the
pseudo-inverse guidance of Song et al. (ICLR 2023) and Pokle et al. (TMLR 2024). The paper counts flow time from noise
(0) to action (1); here t = 1 is noise and t = 0 the action, v = noise - action. With their time u = 1 - t, dx/du = -v:

    x0_hat(x) = x - t v(x, t)                      the action the flow would end at from here
    r^2       = t^2 / (t^2 + (1 - t)^2)            how uncertain that is
    g         = J^T W (y - x0_hat),  J = d x0_hat / dx
    v_guided  = v - min(beta, t / ((1 - t) r^2)) g

y are the committed actions and W the weight of each row. ``v`` walks against the direction of time, hence the minus:
the walk x <- x - v/K is pulled towards y. The weight grows without bound at both ends of the walk, so beta clips it.

What rows are committed, and relative to which pose, is in ``policies.committed``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prophrl_models.policies.committed import Committed, committed_actions
from prophrl_models.policies.flow import Velocity, time_grid
from prophrl_models.policies.interface import Cond, FlowPolicy

RELAX_AT = 0.5
"""Flow time at which the mode of a chunk is settled, but its rows are not."""
MIN_RETURN_ROWS = 4
"""A displacement is given back over at least so many rows: 0.4 s at 10 Hz."""
POSE_COLUMNS = 6


def soft_mask(chunk: int, frozen: int, overlap: int) -> Tensor:
    """Weights [chunk] of committed rows: 1 while frozen, falling exponentially to the overlap's end, then 0.

    With c = (overlap - i) / (overlap - frozen + 1) row i weighs c (e^c - 1) / (e - 1), as in the paper.

    Raises:
        ValueError: not 0 <= frozen <= overlap <= chunk.
    """
    if not 0 <= frozen <= overlap <= chunk:
        raise ValueError(f"a mask needs 0 <= frozen <= overlap <= chunk, got {frozen}, {overlap}, {chunk}")
    row = torch.arange(chunk, dtype=torch.float32)
    c = ((overlap - row) / (overlap - frozen + 1)).clamp(0.0, 1.0)
    weights = c * torch.expm1(c) / (math.e - 1.0)
    weights[:frozen] = 1.0
    return weights


def guidance_weight(t: float, limit: float) -> float:
    """min(limit, t / ((1 - t) r^2)) with r^2 = t^2 / (t^2 + (1 - t)^2): how hard to pull at time t in [0, 1]."""
    denominator = t * (1.0 - t)
    return limit if denominator <= 0.0 else min(limit, (t * t + (1.0 - t) ** 2) / denominator)


def guided_velocity(
    velocity: Velocity, x_BCD: Tensor, t: float, target_BCD: Tensor, weight_BCD: Tensor, limit: float
) -> Tensor:
    """The velocity [B, CH, D] with which the walk ends near the target where weights are large. No graph is kept."""
    with torch.enable_grad():
        x = x_BCD.detach().requires_grad_(True)
        v = velocity(x, torch.full((len(x),), t, device=x.device)).float()
        x0_hat = x - t * v
        pull = (weight_BCD * (target_BCD - x0_hat)).detach()
        (gradient,) = torch.autograd.grad(x0_hat, x, grad_outputs=pull)
    return v.detach() - guidance_weight(t, limit) * gradient


def guided_flow(
    velocity: Velocity,
    noise_BCD: Tensor,
    target_BCD: Tensor,
    weight_BCD: Tensor,
    num_steps: int,
    max_guidance: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Walk from noise to actions in K guided Euler steps, normalised units throughout.

    Args:
        max_guidance: beta; K when omitted. A step of 1/K then moves x0_hat at most all the way to the target, whatever
            K is (the paper's 5 goes with 5 steps); much more overshoots.

    Returns:
        The guided actions [B, CH, D]; and the *relaxed* ones, where guidance ended at t = 0.5: what the policy itself
        would do in the mode that was chosen by then.

    Raises:
        ValueError: max_guidance is not positive.
    """
    limit = float(num_steps) if max_guidance is None else max_guidance
    if not limit > 0.0:
        raise ValueError(f"max_guidance must be positive, got {max_guidance}; for no guidance use sample_actions")
    x = noise_BCD.float()
    relaxed = x
    for t in time_grid(num_steps)[:-1].tolist():
        guided = x - guided_velocity(velocity, x, t, target_BCD, weight_BCD, limit) / num_steps
        if t > RELAX_AT:
            relaxed = guided
        else:
            with torch.no_grad():
                relaxed = relaxed - velocity(relaxed, torch.full((len(x),), t, device=x.device)).float() / num_steps
        x = guided
    return x, relaxed


def rejoin(guided_CD: Tensor, relaxed_CD: Tensor, weights_C: Tensor, frozen: int, overlap: int) -> Tensor:
    """Pose deltas [CH, 6] whose sum comes back to the relaxed chunk's by the end of the overlap.

    Committed deltas that differ from what the policy would do now displace everything behind them: a policy whose rows
    are nearly independent does not make up for it, and misses its goal by the sum of the differences. The difference is
    given back as the commitment fades: each row behind the frozen ones returns the share by which its weight falls.
    What a policy makes up for by itself is not returned a second time.
    """
    chunk = len(guided_CD)
    last = min(chunk, max(overlap + 1, frozen + MIN_RETURN_ROWS))
    if frozen >= last:
        return guided_CD
    share = -torch.diff(weights_C, prepend=weights_C.new_ones(1))
    if last > overlap + 1:  # hardly any rows fade: return it evenly, not in one leap
        share = torch.ones_like(weights_C)
    share[:frozen], share[last:] = 0.0, 0.0
    share = share / share.sum()
    displaced = (guided_CD[:last] - relaxed_CD[:last]).sum(0)
    return guided_CD - share[:, None] * displaced


def guided_sample(
    policy: FlowPolicy,
    cond: Cond,
    committed: Committed | Sequence[Committed | None],
    *,
    num_steps: int | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    max_guidance: float | None = None,
) -> Tensor:
    """Chunks [B, CH, D] in environment units that continue what is committed.

    Frozen rows are returned exactly as they were given: by the time the chunk arrives they have been executed. The rows
    behind them lead back to where the policy wants to be (see ``rejoin``).

    Args:
        cond: condition of B observations; must not have been computed under ``torch.inference_mode``.
        committed: for all rows of the batch, or one for each (None: that row is sampled freely).
        num_steps: K; the policy's when omitted.
        noise: start of the chain [B, *chain_shape]; drawn when omitted.
        max_guidance: see ``guided_flow``.

    Raises:
        ValueError: committed actions that do not fit the policy's chunk, or a wrong number of them.
    """
    B = len(cond.vector_BE)
    rows = [committed] * B if isinstance(committed, Committed) else list(committed)
    if len(rows) != B:
        raise ValueError(f"{len(rows)} committed chunks for a batch of {B}; give one for each row, or None")
    if noise is None:
        noise = policy.draw_noise(B, generator)
    chunk, width = policy.spec.chunk, policy.spec.action_dim
    target_BCD, weight_BCD = noise.new_zeros((2, B, chunk, width)).unbind()
    for b, row in enumerate(rows):
        if row is None:
            continue
        count, columns = row.actions_MD.shape
        if count > chunk or columns != width:
            raise ValueError(f"committed actions {(count, columns)} do not fit this policy's chunk {(chunk, width)}")
        actions = torch.as_tensor(row.actions_MD, dtype=torch.float32, device=noise.device)
        target_BCD[b, :count] = policy.spec.action_scaling.normalise(actions)
        weight_BCD[b] = soft_mask(chunk, row.frozen, count)[:, None].to(noise.device)
    walked = guided_flow(
        lambda x, t: policy.velocity(cond, x, t),
        noise,
        policy.pad(target_BCD),
        policy.pad(weight_BCD),
        num_steps or policy.spec.num_steps,
        max_guidance,
    )
    guided_BCD, relaxed_BCD = (policy.spec.action_scaling.restore(policy.environment(x)) for x in walked)
    for b, row in enumerate(rows):
        if row is None:
            continue
        guided, frozen, overlap = guided_BCD[b], row.frozen, len(row.actions_MD)
        guided[:frozen] = torch.as_tensor(row.actions_MD[:frozen]).to(guided)
        poses, relaxed = guided[:, :POSE_COLUMNS], relaxed_BCD[b, :, :POSE_COLUMNS]
        guided[:, :POSE_COLUMNS] = rejoin(poses, relaxed, weight_BCD[b, :, 0], frozen, overlap)
    return guided_BCD


__all__ = [
    "Committed",
    "committed_actions",
    "guidance_weight",
    "guided_flow",
    "guided_sample",
    "guided_velocity",
    "rejoin",
    "soft_mask",
]
