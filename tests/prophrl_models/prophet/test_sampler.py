"""The sampler on velocities whose exact answer is known: Gaussians and a mixture of two clips."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prophrl_models.prophet.noise import T_CONDITION, flow_sigmas, karras_sigmas
from prophrl_models.prophet.sampler import Sampler, denoise, draw_noise, mixed_seed

C, L, H, W = 2, 3, 2, 3
MEAN, STD = 0.7, 0.4


def gaussian_velocity(x: Tensor, t_BL: Tensor) -> Tensor:
    """Exact velocity of clips from N(MEAN, STD^2): E[noise - clip | (1 - t) clip + t noise = x]."""
    t = t_BL[:, -1].reshape(-1, 1, 1, 1, 1).double()
    a, b = 1.0 - t, t
    variance = a**2 * STD**2 + b**2
    innovation = (x - a * MEAN) / variance
    return b * innovation - (MEAN + a * STD**2 * innovation)


class GaussianNetwork:
    """Velocity of N(mean, STD^2), where the mean of each row is what the network was told: action, history, frames."""

    def __init__(self) -> None:
        self.remembered = 0
        self.calls: list[tuple[Tensor, Tensor]] = []

    def remember(self, history: Tensor) -> Tensor:
        self.remembered += 1
        return history.mean(dim=(1, 2, 3, 4))

    def __call__(
        self,
        latent_BCLHW: Tensor,
        t_BL: Tensor,
        *,
        actions_BAX: Tensor | None = None,
        frame_latent_BCLHW: Tensor | None = None,
        memory: Any = None,
    ) -> Tensor:
        self.calls.append((latent_BCLHW.clone(), t_BL.clone()))
        mean = torch.zeros(len(latent_BCLHW))
        for told in (actions_BAX, frame_latent_BCLHW, memory):
            if told is not None:
                mean = mean + told.reshape(len(told), -1).mean(1)
        mean = mean.reshape(-1, 1, 1, 1, 1)
        t = t_BL[:, -1].reshape(-1, 1, 1, 1, 1)
        innovation = (latent_BCLHW - (1 - t) * mean) / ((1 - t) ** 2 * STD**2 + t**2)
        return t * innovation - (mean + (1 - t) * STD**2 * innovation)


def exact(noise: Tensor, sigma_max: float) -> Tensor:
    """Where the probability flow of N(MEAN, STD^2) takes sigma_max * noise: distances to the mean shrink in
    proportion to the deviation sqrt(STD^2 + sigma^2)."""
    return MEAN + STD * (sigma_max * noise - MEAN) / math.sqrt(STD**2 + sigma_max**2)


def _noise(rows: int = 4) -> Tensor:
    return torch.randn(rows, C, L, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _error(solver: Any, steps: int) -> float:
    noise = _noise()
    sigmas = karras_sigmas(steps, 1e-4, 80.0).tolist()
    found = denoise(gaussian_velocity, torch.zeros(4, C, 1, H, W, dtype=torch.float64), noise, sigmas, solver)
    return float((found - exact(noise, 80.0))[:, :, 1:].abs().max())


def test_both_solvers_converge_to_the_exact_flow_at_their_order() -> None:
    euler = [_error("euler", steps) for steps in (64, 128, 256)]
    ab2 = [_error("ab2", steps) for steps in (64, 128, 256)]
    assert ab2[2] < 1e-3 and euler[2] < 2e-2
    np.testing.assert_allclose([euler[0] / euler[1], euler[1] / euler[2]], 2.0, atol=0.1)
    np.testing.assert_allclose([ab2[0] / ab2[1], ab2[1] / ab2[2]], 4.0, atol=0.5)
    assert ab2[0] < euler[0]


def test_second_order_step_is_exact_for_a_clip_linear_in_log_sigma() -> None:
    sigmas = [9.0, 4.0, 1.5, 0.4]
    condition = torch.zeros(1, 1, 1, 1, 1, dtype=torch.float64)

    def clip_at(sigma: float) -> float:
        return 0.3 - 0.2 * math.log(sigma)

    def velocity(x: Tensor, t_BL: Tensor) -> Tensor:
        t = float(t_BL[0, -1])
        return (x - clip_at(t / (1 - t))) / t

    # dx / dlambda = clip - x with clip = a + b lambda: x = a + b (lambda - 1) + constant * exp(-lambda); the first
    # step knows no slope, so the exact solution starts from where it ends.
    x1 = 4.0 / 9.0 * 9.0 + (1 - 4.0 / 9.0) * clip_at(9.0)
    a, b = 0.3, 0.2
    lambdas = [-math.log(s) for s in sigmas]
    constant = (x1 - a - b * (lambdas[1] - 1)) * math.exp(lambdas[1])
    expected_x3 = a + b * (lambdas[3] - 1) + constant * math.exp(-lambdas[3])

    seen: list[float] = []

    def watched(x: Tensor, t_BL: Tensor) -> Tensor:
        t = float(t_BL[0, -1])
        seen.append(float(x[0, 0, -1, 0, 0]) / (1 - t))
        return velocity(x, t_BL)

    denoise(watched, condition, torch.ones(1, 1, 2, 1, 1, dtype=torch.float64), sigmas, "ab2")
    assert seen[3] == pytest.approx(expected_x3, rel=1e-6)


def test_a_mixture_of_two_clips_is_sampled_in_its_proportions() -> None:
    """Clips are -1 with probability 0.7 and +1 with 0.3; the exact velocity is known in closed form."""

    def velocity(x: Tensor, t_BL: Tensor) -> Tensor:
        t = t_BL[:, -1].reshape(-1, 1, 1, 1, 1)
        score = math.log(0.3 / 0.7) + 2.0 * (1 - t) * x / t**2
        clip = 2.0 * torch.sigmoid(score) - 1.0
        return (x - (1 - t) * clip) / t - clip

    noise = torch.randn(4000, 1, 2, 1, 1, generator=torch.Generator().manual_seed(1))
    found = denoise(velocity, torch.zeros(4000, 1, 1, 1, 1), noise, karras_sigmas(40, 0.002, 80.0).tolist())
    values = found[:, 0, 1, 0, 0]
    assert float((values > 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    torch.testing.assert_close(values.abs(), torch.ones(4000), atol=1e-3, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps_take_as_many_passes_and_end_at_the_last_prediction(steps: int) -> None:
    network = GaussianNetwork()
    sampler = Sampler(network, steps=steps, solver="euler", schedule="flow")
    actions = torch.full((2, 8, 14), 0.5)
    found = sampler.sample(torch.zeros(2, C, 1, H, W), None, actions, seeds_B=[1, 2])
    assert len(network.calls) == sampler.steps == steps
    assert found.shape == (2, C, 3, H, W)
    last_x, last_t = network.calls[-1]
    t = float(last_t[0, -1])
    expected = last_x - t * network(last_x, last_t, actions_BAX=actions)
    torch.testing.assert_close(found[:, :, 1:], expected[:, :, 1:])
    np.testing.assert_allclose(sampler.sigmas, flow_sigmas(steps, 0.002, 80.0, 3.0).tolist())


def test_the_known_frame_is_clean_at_every_pass_and_unchanged_in_the_result() -> None:
    network = GaussianNetwork()
    condition = torch.randn(2, C, 1, H, W, generator=torch.Generator().manual_seed(7))
    found = Sampler(network, steps=5).sample(condition, None, torch.zeros(2, 20, 14), seeds_B=[0, 1])
    assert found.shape == (2, C, 6, H, W)
    assert torch.equal(found[:, :, :1], condition)
    for latent, t_BL in network.calls:
        assert torch.equal(latent[:, :, :1], condition)
        assert t_BL[:, 0].tolist() == pytest.approx([T_CONDITION] * 2)
        assert len(set(t_BL[0, 1:].tolist())) == 1


def test_everything_that_is_known_reaches_the_network_and_memory_is_made_once() -> None:
    network = GaussianNetwork()
    shape = (3, C, L, H, W)
    found = Sampler(network, steps=12).sample(
        torch.zeros(3, C, 1, H, W),
        torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1, 1).expand(3, C, 15, H, W),
        torch.tensor([0.0, 10.0, 20.0]).reshape(3, 1, 1).expand(3, 8, 14),
        torch.full(shape, 100.0),
        noise_BCLHW=torch.zeros(shape),
    )
    np.testing.assert_allclose(found[:, 0, 1, 0, 0].numpy(), [101.0, 112.0, 123.0], atol=1.5)
    assert network.remembered == 1


def test_a_row_does_not_depend_on_its_neighbours_or_on_the_size_of_the_batch() -> None:
    sampler = Sampler(GaussianNetwork(), steps=6)
    actions = torch.linspace(-1, 1, 5).reshape(5, 1, 1).expand(5, 8, 14)
    condition = torch.zeros(5, C, 1, H, W)
    together = sampler.sample(condition, None, actions, seeds_B=[3, 1, 4, 1, 5])
    for row, seed in enumerate([3, 1, 4, 1, 5]):
        alone = sampler.sample(condition[:1], None, actions[row : row + 1], seeds_B=torch.tensor([seed]))
        assert torch.equal(alone[0], together[row])
    fixed = Sampler(GaussianNetwork(), steps=6, batch=2)
    assert torch.equal(fixed.sample(condition, None, actions, seeds_B=[3, 1, 4, 1, 5]), together)
    assert {len(latent) for latent, _ in fixed.network.calls} == {2}  # type: ignore[attr-defined]


def test_the_state_stays_float32_when_the_network_computes_in_bfloat16() -> None:
    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = torch.nn.Linear(W, W)
            self.types: set[torch.dtype] = set()

        def remember(self, history: Tensor) -> None: ...

        def forward(self, latent_BCLHW: Tensor, t_BL: Tensor, **_: Any) -> Tensor:
            out: Tensor = self.map(latent_BCLHW)
            self.types |= {out.dtype, latent_BCLHW.dtype}
            return out

    network = Linear()
    found = Sampler(network, steps=3, dtype=torch.bfloat16).sample(
        torch.zeros(1, C, 1, H, W), None, torch.zeros(1, 8, 14), seeds_B=[0]
    )
    assert found.dtype == torch.float32
    assert network.types == {torch.float32, torch.bfloat16}


@pytest.mark.slow
def test_a_compiled_network_samples_the_same_clip() -> None:
    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.map = torch.nn.Linear(W, W)

        def remember(self, history: Tensor) -> None: ...

        def forward(
            self,
            latent_BCLHW: Tensor,
            t_BL: Tensor,
            *,
            actions_BAX: Tensor | None = None,
            frame_latent_BCLHW: Tensor | None = None,
            memory: Tensor | None = None,
        ) -> Tensor:
            assert actions_BAX is not None
            out: Tensor = self.map(latent_BCLHW) + actions_BAX.mean() + t_BL[:, None, :, None, None]
            return out

    inputs = (torch.zeros(3, C, 1, H, W), None, torch.ones(3, 8, 14))
    eager = Sampler(Small(), steps=3).sample(*inputs, seeds_B=[0, 1, 2])
    compiled = Sampler(Small(), steps=3, compile=True, batch=2).sample(*inputs, seeds_B=[0, 1, 2])
    torch.testing.assert_close(compiled, eager, atol=1e-4, rtol=1e-4)


def test_seeds_of_rows_and_chunks_do_not_collide() -> None:
    seeds = {mixed_seed(row, chunk) for row in range(200) for chunk in range(50)}
    assert len(seeds) == 10_000 and min(seeds) >= 0 and max(seeds) < 2**63
    assert mixed_seed(1, 2) != mixed_seed(2, 1)
    first, second = draw_noise([mixed_seed(0, 0), mixed_seed(0, 1)], (2000,))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.08


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seeds_B": [1]}, "seeds of 1 rows for 2"),
        ({"seeds_B": None}, "either noise_BCLHW or seeds_B"),
        ({"noise_BCLHW": torch.zeros(2, C, 9, H, W), "seeds_B": None}, "noise has shape"),
        ({"actions_BAX": torch.zeros(3, 8, 14)}, "actions of 3 rows"),
        ({"condition_BC1HW": torch.zeros(2, C, 2, H, W)}, "one latent frame"),
        ({"actions_BAX": None}, "latent_frames"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    inputs: dict[str, Any] = {
        "condition_BC1HW": torch.zeros(2, C, 1, H, W),
        "history_BCMHW": None,
        "actions_BAX": torch.zeros(2, 8, 14),
        "seeds_B": [0, 1],
    }
    with pytest.raises(ValueError, match=message):
        Sampler(GaussianNetwork(), steps=2).sample(**{**inputs, **change})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"solver": "heun"}, "solver"),
        ({"schedule": "linear"}, "schedule"),
        ({"steps": 0}, "at least one step"),
        ({"cuda_graphs": True}, "cuda_graphs"),
        ({"times": (0.5, 0.9)}, "must fall"),
        ({"batch": 0}, "batch"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(GaussianNetwork(), **options)
