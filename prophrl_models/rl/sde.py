"""The stochastic flow sampler of reinforcement learning, on any time grid: step, log-probability, exact KL.

Convention as everywhere: t = 1 is noise, t = 0 the action, v = noise - action. One step from t to t_next, with
d = t - t_next and noise level a (Flow-GRPO's SDE in rectified-flow form; it has the marginals of the ODE):

    sigma = a * sqrt(t / (1 - t)); at t = 1, where 1 - t is zero, the denominator is 1 - t_next
    mean  = x - d * [ v + sigma^2 / (2 t) * (x + (1 - t) v) ]
    std   = sigma * sqrt(d)

x + (1 - t) v is the velocity's estimate of the noise, so the second term is the score correction.

One grid serves drift and noise alike. Code that walked a uniform grid with the noise scales of a shifted one visits
states with up to 1.9 times the variance they should have (docs/flowscale.md); nothing here can mix two.
``policies/flow.py`` holds the same step for the uniform grid alone.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from prophrl_models.policies.flow import Trace

TimeLike = Tensor | float


class BatchVelocity(Protocol):
    """dx/dt of rows ``x`` [N, CH, D] at labels ``t`` [N]."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor: ...


def uniform_grid(num_steps: int, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """Labels t_k = 1 - k/K from 1 to 0 [K+1].

    Raises:
        ValueError: fewer than one step.
    """
    return shifted_grid(num_steps, shift=1.0, dtype=dtype, device=device)


def shifted_grid(
    num_steps: int, *, shift: float = 3.0, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Labels t_k = s u / (1 + (s - 1) u), u = 1 - k/K, from 1 to 0 [K+1]; a shift s > 1 dwells near the noise.

    The resolution-dependent shift of Stable Diffusion 3 (Esser et al. 2024, section 5.3.2); 1 is the uniform grid.

    Raises:
        ValueError: fewer than one step, or a shift that is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}; the default of the policies is 10")
    if not 0.0 < shift < math.inf:
        raise ValueError(f"shift must be positive and finite, got {shift}; 1 is the uniform grid, 3 is usual")
    u = 1.0 - torch.arange(num_steps + 1, dtype=torch.float64, device=device) / num_steps
    return (shift * u / (1.0 + (shift - 1.0) * u)).to(dtype)


def sde_step(x: Tensor, v: Tensor, t: TimeLike, t_next: TimeLike, *, noise_level: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the next state, element by element.

    Args:
        x, v: state and velocity, one shape. Half precisions are widened to float32, float64 stays.
        t, t_next: labels with 0 <= t_next < t <= 1: numbers, or tensors that broadcast to ``x`` by the usual rule
            (trailing dimensions meet). Labels of the leading dimensions ([B], [B, S] or [B, S, K] for ``x``
            [B, S, K, CH, D]) are taken, too, unless their shape fits at both ends; [K, 1, 1] is always torch's rule.
        noise_level: a; 0 gives the Euler step of the ODE with std 0.

    Returns:
        mean in the shape of ``x``, std in the shape of the labels, broadcastable to ``x``.

    Raises:
        ValueError: shapes that do not fit, a negative noise level, or labels out of order. Labels on a GPU are not
            looked at: that would wait for it at every step.
    """
    if x.shape != v.shape:
        raise ValueError(f"state and velocity need one shape, got {tuple(x.shape)} and {tuple(v.shape)}")
    if not 0.0 <= noise_level < math.inf:
        raise ValueError(f"noise_level must be 0 (the ODE) or positive, got {noise_level}; 0.5 is mild")
    x, v = _at_least_float32(x), _at_least_float32(v)
    t, t_next = _label(t, x, "t"), _label(t_next, x, "t_next")
    _check_order(t, t_next)
    d = t - t_next
    remaining = 1.0 - torch.where(t == 1.0, t_next, t)
    sigma = noise_level * torch.sqrt(t / remaining)
    mean = x - d * (v + sigma.square() / (2.0 * t) * (x + (1.0 - t) * v))
    return mean, sigma * torch.sqrt(d)


def step_log_prob(x_next: Tensor, mean: Tensor, std: TimeLike) -> Tensor:
    """Log-density of N(mean, std^2) at ``x_next``, element by element; 0 where std is 0, as nothing was drawn there.

    ``std`` is a number or broadcasts to the others, as the labels of ``sde_step`` do.

    Computed in float32 or wider: bfloat16 means alone move the ratio of a policy to itself by 5 % (docs/flowscale.md).
    """
    x_next, mean = _at_least_float32(x_next), _at_least_float32(mean)
    std, drawn = _safe_std(std, x_next, mean)
    logp = -(x_next - mean).square() / (2.0 * std.square()) - std.log() - 0.5 * math.log(2.0 * math.pi)
    return torch.where(drawn, logp, torch.zeros_like(logp))


def gaussian_kl(mean: Tensor, mean_ref: Tensor, std: TimeLike) -> Tensor:
    """KL(N(mean, std^2) || N(mean_ref, std^2)) = (mean - mean_ref)^2 / (2 std^2), element by element.

    Exact for a step, because the schedule alone sets std, for both policies. 0 where std is 0: such steps count
    neither here nor in the log-probabilities.
    """
    mean, mean_ref = _at_least_float32(mean), _at_least_float32(mean_ref)
    std, drawn = _safe_std(std, mean, mean_ref)
    kl = (mean - mean_ref).square() / (2.0 * std.square())
    return torch.where(drawn, kl, torch.zeros_like(kl))


def grid_std(grid_K1: Tensor, *, noise_level: float) -> Tensor:
    """Standard deviation of each step of a grid [K].

    Raises:
        ValueError: not a grid from 1 down to 0.
    """
    t_K, next_K = _steps(grid_K1)
    zero = torch.zeros_like(t_K)
    return sde_step(zero, zero, t_K, next_K, noise_level=noise_level)[1]


def sample_chain(
    velocity: BatchVelocity,
    noise_BCD: Tensor,
    grid_K1: Tensor,
    *,
    noise_level: float,
    generator: torch.Generator | None = None,
    sde_mask_K: Tensor | None = None,
) -> Trace:
    """Walk from noise to actions along a grid, keeping the chain.

    Args:
        noise_level: a; 0 walks the ODE.
        sde_mask_K: True where a step draws noise; all do when omitted.

    Returns:
        The trace, in float32 or wider. For the uniform grid it is that of ``policies.flow.sample``.

    Raises:
        ValueError: not a grid from 1 down to 0, or a negative noise level.
    """
    t_K, next_K = _steps(grid_K1)
    draws = [noise_level > 0.0 and (sde_mask_K is None or bool(sde_mask_K[k])) for k in range(len(t_K))]
    x = _at_least_float32(noise_BCD)
    states, logps, stds = [x], [], []
    for k, draw in enumerate(draws):
        v = velocity(x, t_K[k].expand(len(x)))
        mean, std = sde_step(x, v, t_K[k], next_K[k], noise_level=noise_level if draw else 0.0)
        x = mean
        if draw:
            x = mean + std * torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        states.append(x)
        logps.append(step_log_prob(x, mean, std))
        stds.append(std)
    drawn_K = torch.tensor(draws, device=x.device)
    return Trace(torch.stack(states, 1), torch.stack(logps, 1), t_K, torch.stack(stds), drawn_K, noise_level)


def chain_log_prob(
    velocity: BatchVelocity,
    chain_BKCD: Tensor,
    grid_K1: Tensor,
    *,
    noise_level: float,
    sde_mask_K: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-densities and means of stored chains under ``velocity``, differentiable in its parameters.

    The K steps are folded into the batch: ``velocity`` sees [B * K, CH, D] once, rows batch-major (all steps of row 0
    first). Old, reference and current policy must all go through this one path, so that the ratio of a policy to
    itself is 1.

    Args:
        chain_BKCD: states x_0 (noise) ... x_K (action) [B, K+1, CH, D].

    Returns:
        logp_BKCD and mean_BKCD [B, K, CH, D], std_K [K]; log-density and std are 0 at steps without noise.

    Raises:
        ValueError: not a grid, or a chain of another number of steps.
    """
    t_K, next_K = _steps(grid_K1)
    B, states, CH, D = chain_BKCD.shape
    K = len(t_K)
    if states != K + 1:
        raise ValueError(f"a grid of {K} steps needs chains of {K + 1} states, got {states}; use the rollout's grid")
    x_BKCD = _at_least_float32(chain_BKCD[:, :-1])
    v_NCD = velocity(x_BKCD.reshape(B * K, CH, D), t_K.repeat(B))
    v_BKCD = _at_least_float32(v_NCD).reshape(B, K, CH, D)
    mean, std = sde_step(x_BKCD, v_BKCD, t_K[:, None, None], next_K[:, None, None], noise_level=noise_level)
    if sde_mask_K is not None:
        euler = x_BKCD - (t_K - next_K)[:, None, None] * v_BKCD
        drawn = sde_mask_K.to(x_BKCD.device).bool()[:, None, None]
        mean, std = torch.where(drawn, mean, euler), torch.where(drawn, std, torch.zeros_like(std))
    return step_log_prob(chain_BKCD[:, 1:], mean, std), mean, std[:, 0, 0]


def _steps(grid_K1: Tensor) -> tuple[Tensor, Tensor]:
    """Starts and ends of the steps of a grid, each [K]."""
    if grid_K1.ndim != 1 or len(grid_K1) < 2:
        raise ValueError(f"a grid is one row of at least two labels, got shape {tuple(grid_K1.shape)}")
    grid_K1 = _at_least_float32(grid_K1)
    if grid_K1.device.type == "cpu" and (grid_K1[0] != 1.0 or grid_K1[-1] != 0.0):
        raise ValueError(f"a grid runs from 1 to 0, got {grid_K1.tolist()}; take uniform_grid or shifted_grid")
    return grid_K1[:-1], grid_K1[1:]


def _label(t: TimeLike, x: Tensor, name: str) -> Tensor:
    """The label as a tensor that broadcasts to ``x``."""
    if not isinstance(t, Tensor):
        return torch.tensor(float(t), dtype=x.dtype, device=x.device)
    t = _aligned(_at_least_float32(t), x.shape, name)
    if not _fits(t.shape, x.shape):
        raise ValueError(f"{name} of shape {tuple(t.shape)} does not broadcast to x {tuple(x.shape)}")
    return t


def _aligned(small: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """``small`` with trailing dimensions of 1 where its shape fits the leading dimensions of ``shape`` alone.

    Raises:
        ValueError: it fits both ends, so nobody can say which was meant. A last dimension of 1 says it.
    """
    if not 0 < small.ndim < len(shape) or small.shape[-1] == 1 or not _fits(small.shape[::-1], shape[::-1]):
        return small
    if _fits(small.shape, shape):
        raise ValueError(
            f"{name} of shape {tuple(small.shape)} fits both ends of {tuple(shape)}; add dimensions of size 1 to say "
            "which one it means"
        )
    return small.reshape(*small.shape, *([1] * (len(shape) - small.ndim)))


def _fits(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Does ``small`` broadcast to ``large``, last dimensions first?"""
    pairs = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(a in (1, b) for a, b in pairs)


def _check_order(t: Tensor, t_next: Tensor) -> None:
    if t.device.type == "cpu" and not bool(((t_next >= 0.0) & (t_next < t) & (t <= 1.0)).all()):
        raise ValueError(
            "labels must satisfy 0 <= t_next < t <= 1 (t = 1 is noise, t = 0 the action), "
            f"got t up to {t.max().item():g} and t_next down to {t_next.min().item():g}"
        )


def _safe_std(std: TimeLike, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """std with ones where it is 0, so that no infinity enters the graph, and where it is not 0."""
    if isinstance(std, Tensor):
        std = _aligned(_at_least_float32(std), torch.broadcast_shapes(a.shape, b.shape), "std")
    else:
        std = torch.tensor(float(std), dtype=a.dtype, device=a.device)
    drawn = std > 0.0
    return torch.where(drawn, std, torch.ones_like(std)), drawn


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
