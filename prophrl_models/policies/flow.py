"""Flow matching in one time convention: t = 1 is noise, t = 0 is the action, v = noise - action.

On that straight path ``x_t = t * noise + (1 - t) * action`` this file holds the training pair, the K-step ODE
sampler, the SDE sampler that shares its marginals (Flow-GRPO's, in the rectified-flow form of the design notes)
and the log-probability of a stored SDE chain. Nothing here knows about images or robots: a velocity is a
callable ``(x [N, CH, D], t [N]) -> [N, CH, D]``.

The SDE step from t_k = 1 - k/K to t_{k+1}, with d = 1/K and noise level a:
    sigma_k = a * sqrt(t_k / (1 - t_k)), at k = 0 with 1 - t_1 in the denominator (1 - t_0 is zero)
    mean_k  = x_k * (1 - sigma^2 d / (2 t)) - v * d * (1 + sigma^2 (1 - t) / (2 t))
    std_k   = sigma_k * sqrt(d)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]

SAMPLING_MODES = ("ode", "sde")


@dataclass(frozen=True)
class Trace:
    """One sampled chain of a batch of action chunks, in normalised units, all float32.

    Attributes:
        chain_BKCD: states x_0 (noise) ... x_K (action) [B, K+1, CH, D].
        logp_BKCD: element-wise log-density of each stochastic step [B, K, CH, D]; zero at deterministic steps.
        t_K: time label of each step's start [K].
        std_K: standard deviation of each step [K]; zero where the step is deterministic.
        sde_mask_K: True where the step drew noise [K].
        noise_level: the level a that the stochastic steps used.
    """

    chain_BKCD: Tensor
    logp_BKCD: Tensor
    t_K: Tensor
    std_K: Tensor
    sde_mask_K: Tensor
    noise_level: float

    @property
    def num_steps(self) -> int:
        return int(self.t_K.shape[0])

    @property
    def actions_BCD(self) -> Tensor:
        """The final state of the chain: normalised action chunks [B, CH, D]."""
        return self.chain_BKCD[:, -1]

    def select(self, rows: Tensor | slice) -> Trace:
        """The same trace for some rows of the batch."""
        return replace(self, chain_BKCD=self.chain_BKCD[rows], logp_BKCD=self.logp_BKCD[rows])


def interpolate(action: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point x_t of the path; ``t`` [N] is broadcast over the trailing dimensions of ``action`` [N, ...]."""
    t = t.reshape(-1, *([1] * (action.ndim - 1)))
    return t * noise + (1.0 - t) * action


def velocity_target(action: Tensor, noise: Tensor) -> Tensor:
    """dx/dt along the path, the regression target at every t."""
    return noise - action


def sample_times(count: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """Training times [count] from Beta(1.5, 1) on (0.001, 1]: weight on the noisy end, where the mode is chosen."""
    uniform = torch.rand(count, generator=generator, device=device)
    return uniform.pow(1.0 / 1.5) * 0.999 + 0.001


def time_grid(num_steps: int, device: torch.device | None = None) -> Tensor:
    """Labels t_0 = 1 ... t_K = 0 [K+1].

    Raises:
        ValueError: fewer than one step.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}; the default of the policies is 10")
    return 1.0 - torch.arange(num_steps + 1, dtype=torch.float32, device=device) / num_steps


def sde_sigma(num_steps: int, noise_level: float, device: torch.device | None = None) -> Tensor:
    """Diffusion coefficient sigma_k of each step [K]."""
    t = time_grid(num_steps, device)
    remaining = 1.0 - t[:-1]
    remaining[0] = 1.0 - t[1]
    return noise_level * torch.sqrt(t[:-1] / remaining)


def sde_std(num_steps: int, noise_level: float, device: torch.device | None = None) -> Tensor:
    """Standard deviation of each step [K]: a at k = 0, then a * sqrt((K - k) / (k K))."""
    return sde_sigma(num_steps, noise_level, device) / math.sqrt(num_steps)


def sde_mean(x: Tensor, v: Tensor, t: Tensor, std: Tensor, num_steps: int) -> Tensor:
    """Mean of the next state; with std = 0 it is the Euler step of the ODE.

    Args:
        x, v: state and velocity [N, ...].
        t, std: time label and standard deviation of the step, broadcastable to ``x``.
    """
    d = 1.0 / num_steps
    variance = std.square()  # sigma^2 d
    return x * (1.0 - variance / (2.0 * t)) - v * (d + variance * (1.0 - t) / (2.0 * t))


def gaussian_logp(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Element-wise log-density of N(mean, std^2) at x, in float32."""
    x, mean, std = x.float(), mean.float(), std.float()
    return -(x - mean).square() / (2.0 * std.square()) - std.log() - 0.5 * math.log(2.0 * math.pi)


def flow_loss(predicted_v: Tensor, action: Tensor, noise: Tensor, cumulative_weight: float = 0.0) -> Tensor:
    """Squared velocity error of each chunk [N] for predictions [N, CH, D].

    ``cumulative_weight`` adds the squared error of the running sum over the chunk. The weighting is a positive
    definite metric on the same error, so the minimiser is the same velocity field, but errors that share a sign
    over many steps, which displace the end of the chunk, cost more than errors that cancel.
    """
    error = predicted_v - velocity_target(action, noise)
    loss = error.square().mean(dim=(1, 2))
    if cumulative_weight > 0.0:
        loss = loss + cumulative_weight * error.cumsum(dim=1).square().mean(dim=(1, 2))
    return loss


def sample(
    velocity: Velocity,
    noise: Tensor,
    num_steps: int,
    mode: str = "ode",
    noise_level: float = 0.5,
    generator: torch.Generator | None = None,
    sde_mask_K: Tensor | None = None,
) -> Trace:
    """Walk from ``noise`` [B, CH, D] to actions in K steps.

    Args:
        mode: "ode" (Euler) or "sde" (every step draws noise, or those that ``sde_mask_K`` [K] marks).
        noise_level: a; 0.5 is mild, with K = 10 up to 1 keeps most of a policy's skill.

    Raises:
        ValueError: unknown mode, or a noise level that is not positive in mode "sde".
    """
    if mode not in SAMPLING_MODES:
        raise ValueError(f"unknown sampling mode {mode!r}; choose one of {', '.join(SAMPLING_MODES)}")
    if mode == "sde" and noise_level <= 0.0:
        raise ValueError(f"noise_level must be positive in mode 'sde', got {noise_level}; use mode='ode' for none")
    device = noise.device
    t_K = time_grid(num_steps, device)[:-1]
    # The mask stays a list in the loop: asking a GPU tensor for its value would wait for the GPU at every step.
    draws = [mode == "sde"] * num_steps if sde_mask_K is None else [mode == "sde" and bool(m) for m in sde_mask_K]
    stochastic = torch.tensor(draws, device=device)
    std_K = torch.where(stochastic, sde_std(num_steps, noise_level, device), torch.zeros_like(t_K))
    x = noise.float()
    states, logps = [x], []
    for k in range(num_steps):
        v = velocity(x, t_K[k].expand(len(x))).float()
        mean = sde_mean(x, v, t_K[k], std_K[k], num_steps)
        if draws[k]:
            x = mean + std_K[k] * torch.randn(mean.shape, generator=generator, device=device)
            logps.append(gaussian_logp(x, mean, std_K[k]))
        else:
            x = mean
            logps.append(torch.zeros_like(mean))
        states.append(x)
    return Trace(torch.stack(states, 1), torch.stack(logps, 1), t_K, std_K, stochastic, noise_level)


def trace_log_prob(velocity: Velocity, trace: Trace) -> Tensor:
    """Log-density [B, K, CH, D] of a stored chain under ``velocity``, differentiable in its parameters.

    The K steps are folded into the batch: ``velocity`` sees [B * K, CH, D] once, rows ordered batch-major (all
    steps of row 0 first). Deterministic steps have log-density zero, as in ``Trace.logp_BKCD``.
    """
    B, _, CH, D = trace.chain_BKCD.shape
    K = trace.num_steps
    x = trace.chain_BKCD[:, :-1]
    v = velocity(x.reshape(B * K, CH, D), trace.t_K.repeat(B)).float().reshape(B, K, CH, D)
    t, std = trace.t_K.reshape(1, K, 1, 1), trace.std_K.reshape(1, K, 1, 1)
    mean = sde_mean(x, v, t, std, K)
    # Deterministic steps get a unit std so that no infinity enters the graph, and are masked afterwards.
    mask = trace.sde_mask_K.reshape(1, K, 1, 1)
    logp = gaussian_logp(trace.chain_BKCD[:, 1:], mean, torch.where(mask, std, torch.ones_like(std)))
    return torch.where(mask, logp, torch.zeros_like(logp))
