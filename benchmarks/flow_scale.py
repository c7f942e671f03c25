#!/usr/bin/env python3
"""The numbers of docs/flowscale.md: FlowScale as published and as run here, which KL pulls, which grid to use.

Everything here is exact or a Monte Carlo estimate on tensors; no policy is trained. About 15 seconds on one core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prophrl_models.rl.flow_scale import flow_scale_weights, step_shares
from prophrl_models.rl.losses import closed_form_kl, fa_grpo_loss, flow_grpo_loss, log_ratio_kl
from prophrl_models.rl.masks import finish_mask
from prophrl_models.rl.sde import grid_std, sample_chain, sde_step, shifted_grid, step_log_prob, uniform_grid

B, S, K, CH, D = 64, 3, 10, 5, 7
NOISE = 0.7
DOUBLE = torch.float64
DEVELOPMENT_TABLE = (1.0, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.2780, 0.0089)
"""Noise labels that the development code looks up, whatever K-step grid its drift walks (uniform, t = 1, 0.9, ...)."""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def numbers(values: Tensor, digits: int = 3) -> list[str]:
    return [f"{value:.{digits}f}" for value in values.tolist()]


def development_std() -> Tensor:
    """Deviations of the development code's mixed schedule [10]: noise from its table, steps of a tenth."""
    label = torch.tensor(DEVELOPMENT_TABLE, dtype=DOUBLE)
    remaining = 1.0 - label
    remaining[0] = 1.0 - label[1]
    return NOISE * torch.sqrt(label / remaining) * math.sqrt(0.1)


def no_op() -> None:
    print("## What the forms do to the loss and the gradient\n")
    print(f"Random chains [B, S, K, CH, D] = {[B, S, K, CH, D]}, a = {NOISE}, uniform grid, some episodes end early.")
    print("`apart` is the standard deviation of the change of a step's log-probability. Ratios to FA-GRPO.\n")
    g = torch.Generator().manual_seed(0)
    old = torch.randn(B, S, K, CH, D, generator=g, dtype=DOUBLE)
    advantage = torch.randn(B, generator=g, dtype=DOUBLE)
    mask = finish_mask(torch.randint(4, S * CH + 1, (B,), generator=g), steps=S, chunk=CH)
    weights = flow_scale_weights(grid_std(uniform_grid(K, dtype=DOUBLE), noise_level=NOISE))[None, None]
    rows = []
    for apart in (0.0, 0.05, 0.15):
        new = (old + apart * torch.randn(old.shape, generator=g, dtype=DOUBLE)).requires_grad_()

        def gradient(loss: Tensor, new: Tensor = new) -> Tensor:
            return torch.autograd.grad(loss, new)[0]

        plain, metrics = fa_grpo_loss(new, old, advantage, mask)
        reference = gradient(plain)
        for form in ("literal", "straight_through", "tempered", "per_step", "per_step_matched", "Flow-GRPO"):
            if form == "Flow-GRPO":
                loss, found = flow_grpo_loss(new, old, advantage, mask)
            else:
                loss, found = fa_grpo_loss(new, old, advantage, mask, weights_BSK=weights, flow_scale_form=form)
            moved = gradient(loss)
            by_step = moved.square().sum((0, 1, 3, 4)).sqrt() / reference.square().sum((0, 1, 3, 4)).sqrt()
            cosine = torch.nn.functional.cosine_similarity(moved.flatten(), reference.flatten(), dim=0)
            rows.append(
                [f"{apart:g}", form, f"{loss / plain:.4f}", f"{by_step[0]:.3f}", f"{by_step[-1]:.3f}",
                 f"{cosine:.4f}", f"{found['clip_fraction']:.3f}", f"{found['ratio_max']:.2f}"]
            )  # fmt: skip
    table(["apart", "form", "loss", "gradient, step 0", "step 9", "cosine", "clip fraction", "largest ratio"], rows)
    print(f"(FA-GRPO itself at the last `apart`: clip fraction {metrics['clip_fraction']:.3f}, largest ratio "
          f"{metrics['ratio_max']:.2f}.) Weights: {', '.join(numbers(weights[0, 0]))}\n")  # fmt: skip


def step_factors(grid: Tensor) -> Tensor:
    """|d mean / d v| of each step."""
    v = torch.zeros(len(grid) - 1, dtype=DOUBLE, requires_grad=True)
    mean, _ = sde_step(torch.ones_like(v), v, grid[:-1], grid[1:], noise_level=NOISE)
    return torch.autograd.grad(mean.sum(), v)[0].abs()


def schedules() -> None:
    print("## How the gradient is shared among the steps\n")
    print("Expected gradient norm of the log-probability of step k with respect to its mean is 1 / std_k. Last step's")
    print("share of the sum of squares, without weights, with the defaults (alpha 0.3), and with alpha 0, no clip.\n")
    uniform, shifted = uniform_grid(K, dtype=DOUBLE), shifted_grid(K, dtype=DOUBLE)
    stds = {
        "development code (mixed)": development_std(),
        "uniform": grid_std(uniform, noise_level=NOISE),
        "shifted by 3": grid_std(shifted, noise_level=NOISE),
    }
    rows = []
    for name, std in stds.items():
        full = flow_scale_weights(std, alpha=0.0, w_min=0.0, w_max=math.inf, eps=0.0)
        shares = [step_shares(w / std)[-1] for w in (torch.ones_like(std), flow_scale_weights(std), full)]
        spread = [(w / std).max() / (w / std).min() for w in (torch.ones_like(std), flow_scale_weights(std), full)]
        rows.append([name, *(f"{share:.0%} ({s:.1f}x)" for share, s in zip(shares, spread, strict=True))])
    table(["schedule", "no weights", "FlowScale, defaults", "alpha 0"], rows)
    print("(In brackets: largest over smallest expected gradient norm among the steps.)\n")
    table(["std of step"] + [str(k) for k in range(K)], [[name, *numbers(std)] for name, std in stds.items()])
    print("The velocity is what the network puts out; its gradient has the factor |d mean / d v| of the step, too:\n")
    rows = []
    for name, grid in (("uniform", uniform), ("shifted by 3", shifted)):
        factor, std = step_factors(grid), stds[name]
        norms = [factor * w / std for w in (torch.ones_like(std), flow_scale_weights(std))]
        cells = [f"{step_shares(n)[-1]:.0%} ({n.max() / n.min():.1f}x)" for n in norms]
        rows.append([name, f"{factor.max() / factor.min():.2f}x", *cells])
    table(["schedule", "factor varies by", "no weights", "FlowScale, defaults"], rows)


def variances(data_var: float, schedule: str) -> tuple[float, float]:
    """(largest variance over the one it should be, final variance) of a chain with the exact velocity.

    The data are N(0, data_var), so the velocity is linear and the variance can be followed exactly.
    """
    grid = uniform_grid(K, dtype=DOUBLE) if schedule != "shifted" else shifted_grid(K, dtype=DOUBLE)
    one, variance, worst = torch.ones((), dtype=DOUBLE), 1.0, 1.0
    table_std = development_std()
    for k in range(K):
        t, t_next = grid[k], grid[k + 1]
        v = (t - (1 - t) * data_var) / (t**2 + (1 - t) ** 2 * data_var)  # E[noise - action | x = 1]
        if schedule == "mixed":
            d = t - t_next
            sigma_squared = table_std[k] ** 2 / d
            gain, std = one - d * (v + sigma_squared / (2 * t) * (one + (1 - t) * v)), table_std[k]
        else:
            gain, std = sde_step(one, v, t, t_next, noise_level=0.0 if schedule == "ode" else NOISE)
        variance = float(gain**2 * variance + std**2)
        target = float(t_next**2 + (1 - t_next) ** 2 * data_var)
        worst = max(worst, variance / target)
    return worst, variance


def marginals() -> None:
    print("## Which states are visited: variance with the exact velocity of Gaussian data\n")
    print(f"K = {K}, a = {NOISE}. Largest variance over the right one along the chain; variance at its end.\n")
    names = {"mixed": "mixed", "uniform": "uniform", "shifted": "shifted by 3", "ode": "ODE, uniform"}
    rows = []
    for data_var in (0.05, 0.25, 1.0):
        found = [variances(data_var, schedule) for schedule in names]
        rows.append([f"{data_var:g}", *(f"{worst:.2f}; {end:.3f}" for worst, end in found)])
    table(["data variance", *names.values()], rows)


class Mixture:
    """Three Gaussians in the plane and the exact velocity of the flow to them."""

    weight = torch.tensor([0.6, 0.3, 0.1])
    centre = torch.tensor([[-1.5, 0.0], [1.5, 1.0], [0.5, -2.0]])
    deviation = 0.15

    def draw(self, count: int, g: torch.Generator) -> Tensor:
        mode = torch.multinomial(self.weight, count, replacement=True, generator=g)
        return self.centre[mode] + self.deviation * torch.randn(count, 2, generator=g)

    def velocity(self, x_N12: Tensor, t_N: Tensor) -> Tensor:
        x, t = x_N12[:, 0], t_N[:, None]
        variance = t.square() + ((1 - t) * self.deviation).square()
        away = x[:, None] - (1 - t)[:, None] * self.centre
        share = (self.weight.log() - away.square().sum(-1) / (2 * variance)).softmax(1)
        scaled = away / variance[..., None]
        noise, action = t[..., None] * scaled, self.centre + ((1 - t) * self.deviation**2)[..., None] * scaled
        return (share[..., None] * (noise - action)).sum(1)[:, None]


def sliced_w2(a: Tensor, b: Tensor) -> float:
    angle = torch.arange(64) * math.pi / 64
    directions = torch.stack([angle.cos(), angle.sin()])
    return (a @ directions).sort(dim=0)[0].sub((b @ directions).sort(dim=0)[0]).square().mean().sqrt().item()


def mixture() -> None:
    print(
        "## Distribution of the samples: distance to data of three Gaussians (sliced 2-Wasserstein, 20 000 samples)\n"
    )
    data, g, count = Mixture(), torch.Generator().manual_seed(1), 20_000
    truth, again = data.draw(count, g), data.draw(count, g)
    start = torch.randn(count, 1, 2, generator=g)
    rows = []
    for name, grid in (
        ("uniform, K = 200", uniform_grid(200)),
        ("uniform, K = 10", uniform_grid(10)),
        ("shifted by 3, K = 10", shifted_grid(10)),
        ("uniform, K = 4", uniform_grid(4)),
    ):
        chains = [sample_chain(data.velocity, start, grid, noise_level=a, generator=g) for a in (0.0, 0.3, 0.7, 1.0)]
        rows.append([name, *(f"{sliced_w2(chain.actions_BCD[:, 0], truth):.3f}" for chain in chains)])
    table(["grid", "ODE", "a = 0.3", "a = 0.7", "a = 1"], rows)
    print(f"Two samples of the data are {sliced_w2(truth, again):.3f} apart.\n")


def divergences() -> None:
    print("## Which KL pulls towards the reference\n")
    samples, distance = 200_000, 0.4
    std_K = grid_std(uniform_grid(K, dtype=DOUBLE), noise_level=NOISE)
    std = std_K.reshape(1, 1, K, 1, 1)
    x = std * torch.randn(samples, 1, K, 1, 1, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    ref, mask = (distance * std).expand_as(x), torch.ones(samples, 1, 1)
    print(f"On-policy samples; the reference's mean is {distance} std away at every step, {samples} samples. Gradient")
    print("of each term with respect to the mean of step k, times std_k (exact pull: -0.4), mean +- standard error,")
    print("and the standard deviation of a single sample's gradient.\n")
    rows = []
    for name in ("log-ratio (l - l_ref)", "closed form"):
        mean = torch.zeros_like(x).requires_grad_()
        if name == "closed form":
            loss = closed_form_kl(mean, ref, std_K, mask)[0]
        else:
            loss = log_ratio_kl(step_log_prob(x, mean, std), step_log_prob(x, ref, std), mask)
        gradient = torch.autograd.grad(loss, mean)[0].reshape(samples, K) * samples * std_K
        first, last = gradient[:, 0], gradient[:, -1]
        cells = [f"{c.mean():+.4f} +- {c.std() / math.sqrt(samples):.4f}" for c in (first, last)]
        rows.append([name, *cells, f"{gradient.std():.2f}", f"{loss.item():.3f}"])
    table(["term", "step 0", "step 9", "noise of one sample", "value"], rows)
    kl_K = closed_form_kl(torch.zeros_like(x[:1]), 0.1 * torch.ones_like(x[:1]), std_K, mask[:1])[1]
    print(
        f"Of the KL of means that are equally far apart at all steps, the last step has {kl_K[-1] / kl_K.sum():.0%}.\n"
    )

    print("Gradient descent on the KL alone (one mean, std 1, 64 new samples a step, rate 0.05, started at 1, the")
    print("reference at 0; 200 runs): mean and standard deviation over the runs.\n")
    rows = []
    for steps in (0, 50, 200, 800):
        rows.append([steps, *(f"{m:+.3f} +- {s:.3f}" for m, s in (descent(k, steps) for k in ("log_ratio", "closed")))])
    table(["steps", "log-ratio", "closed form"], rows)


def descent(kind: str, steps: int) -> tuple[float, float]:
    g, runs = torch.Generator().manual_seed(3), 200
    mean = torch.ones(runs, 1, 1, 1, 1, dtype=DOUBLE)
    reference, one = torch.zeros_like(mean), torch.ones((), dtype=DOUBLE)
    for _ in range(steps):
        mean = mean.detach().requires_grad_()
        if kind == "closed":
            loss = closed_form_kl(mean, reference, one.expand(1), torch.ones(runs, 1, 1))[0] * runs
        else:
            x = mean.detach() + torch.randn(runs, 1, 1, 64, 1, generator=g, dtype=DOUBLE)
            difference = step_log_prob(x, mean, one) - step_log_prob(x, reference.expand_as(x), one)
            loss = log_ratio_kl(difference, torch.zeros_like(difference), torch.ones(runs, 1, 64)) * runs
        mean = mean - 0.05 * torch.autograd.grad(loss, mean)[0]
    return mean.mean().item(), mean.std().item()


def precision() -> None:
    print("## Why log-probabilities are float32\n")
    print("FA-GRPO ratio of a policy to itself (truly 1) when one side is rounded to bfloat16.\n")
    std = grid_std(uniform_grid(K), noise_level=NOISE)[:, None, None]
    g = torch.Generator().manual_seed(4)
    z, mean = (torch.randn(4096, K, CH, D, generator=g) for _ in range(2))
    x_next = mean + std * z
    logp = step_log_prob(x_next, mean, std)
    rounded = {
        "log-probability of each step": logp.bfloat16().float().sum(1),
        "their sum over k": logp.sum(1).bfloat16().float(),
        "mean of each step": step_log_prob(x_next, mean.bfloat16().float(), std).sum(1),
    }
    rows = []
    for name, value in rounded.items():
        ratio = (value - logp.sum(1)).exp()
        outside = ((ratio < 0.8) | (ratio > 1.28)).float().mean()
        rows.append([name, f"{ratio.quantile(0.05):.3f} to {ratio.quantile(0.95):.3f}", f"{outside:.1%}"])
    table(["rounded", "5 % to 95 % of the ratios", "clipped (0.8, 1.28)"], rows)


def main() -> None:
    torch.manual_seed(0)
    for part in (no_op, schedules, marginals, mixture, divergences, precision):
        part()


if __name__ == "__main__":
    main()
