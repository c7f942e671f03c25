"""Sampling a clip: from noise to latents in a few passes of the network.

The state is x = clip + sigma * noise. In lambda = -log(sigma) it follows dx / dlambda = clip_hat(x) - x, where clip_hat
is the clip that the network's velocity implies. Between two levels this is integrated exactly with clip_hat constant
("euler") or a straight line through the last two predictions ("ab2": Adams-Bashforth of second order in the clip, the
solver the base model was published with). The prediction at the last level is the result, so ``steps`` levels cost
``steps`` passes.

The state stays float32 whatever type the network computes in. Each row has noise of its own, so what a row becomes does
not depend on its neighbours in the batch (up to the rounding of batched matrix products).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from prophrl_models.prophet.noise import (
    T_CONDITION,
    clip_of_velocity,
    flow_sigmas,
    karras_sigmas,
    sigma_of_t,
    with_condition,
)

Solver = Literal["ab2", "euler"]
Schedule = Literal["karras", "flow"]
FRAMES_PER_LATENT = 4


class VelocityNetwork(Protocol):
    """What the sampler needs of ``network.Prophet``; ``remember`` is asked once for a sample."""

    def __call__(
        self,
        latent_BCLHW: Tensor,
        t_BL: Tensor,
        *,
        actions_BAX: Tensor | None = None,
        frame_latent_BCLHW: Tensor | None = None,
        memory: Any = None,
    ) -> Tensor: ...

    def remember(self, history_BCMHW: Tensor) -> Any: ...


Velocity = Callable[[Tensor, Tensor], Tensor]
"""(input [B, C, L, h, w] in network scale, t [B, L]) -> velocity."""


class Sampler:
    """Draws clips from a network; build one and keep it, so that what ``compile`` made is used again."""

    def __init__(
        self,
        network: VelocityNetwork,
        *,
        steps: int = 10,
        solver: Solver = "ab2",
        schedule: Schedule = "karras",
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        shift: float = 3.0,
        times: Sequence[float] = (),
        batch: int | None = None,
        compile: bool = False,
        cuda_graphs: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Args:
            steps: passes of the network for a clip. With fewer than five choose schedule "flow", whose last level is
                not almost clean.
            schedule, sigma_min, sigma_max, rho, shift: see ``noise.karras_sigmas`` and ``noise.flow_sigmas``.
            times: falling noise levels t in (0, 1] that a distilled network was taught, instead of a schedule.
            batch: rows of one pass; more are sampled in parts and fewer are padded, so that shapes never change.
            compile: compile the network (torch.compile); the first call of each shape takes long.
            cuda_graphs: let the compiler replay whole passes as CUDA graphs; needs ``compile``, a GPU, and ``batch``.
            dtype: type the network computes in, by autocast where its weights have another.

        Raises:
            ValueError: unknown solver or schedule, levels that do not fall, or graphs without what they need.
        """
        if solver not in get_args(Solver) or schedule not in get_args(Schedule):
            raise ValueError(
                f"solver {solver!r} must be one of {get_args(Solver)}, schedule {schedule!r} of {get_args(Schedule)}"
            )
        if cuda_graphs and not (compile and batch and torch.cuda.is_available()):
            raise ValueError("cuda_graphs needs compile=True, a fixed batch, and a CUDA device; leave it off here")
        if batch is not None and batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.network, self.solver, self.batch, self.dtype = network, solver, batch, dtype
        if times:
            sigmas = sigma_of_t(torch.tensor(list(times), dtype=torch.float64)).clamp(max=sigma_max)
        elif schedule == "karras":
            sigmas = karras_sigmas(steps, sigma_min, sigma_max, rho)
        else:
            sigmas = flow_sigmas(steps, sigma_min, sigma_max, shift)
        self.sigmas: tuple[float, ...] = tuple(sigmas.tolist())
        falling = all(a > b for a, b in zip(self.sigmas, self.sigmas[1:], strict=False))
        if not falling or self.sigmas[-1] <= 0.0:
            raise ValueError(
                f"noise levels must fall and stay positive, got {[round(s, 4) for s in self.sigmas]}; use fewer steps, "
                "a larger sigma_max or a smaller sigma_min"
            )
        self._forward: Callable[..., Tensor] = network
        if compile:
            mode = "reduce-overhead" if cuda_graphs else None
            self._forward = torch.compile(network, mode=mode, dynamic=False if batch else None)

    @property
    def steps(self) -> int:
        """Passes of the network for a clip."""
        return len(self.sigmas)

    @torch.no_grad()
    def sample(
        self,
        condition_BC1HW: Tensor,
        history_BCMHW: Tensor | None,
        actions_BAX: Tensor | None,
        frame_latent_BCLHW: Tensor | None = None,
        *,
        latent_frames: int | None = None,
        noise_BCLHW: Tensor | None = None,
        seeds_B: Sequence[int] | Tensor | None = None,
    ) -> Tensor:
        """Clips [B, C, L, h, w], float32; their first latent frame is ``condition_BC1HW``, unchanged.

        Args:
            condition_BC1HW: latents of the known frame.
            history_BCMHW: latents of the frames before it, oldest first; None for a network without memory.
            actions_BAX: actions in the network's units.
            frame_latent_BCLHW: latents of the action frames, for networks that look at them.
            latent_frames: L; 1 + A / 4 when omitted.
            noise_BCLHW: start of the chain, standard normal; or
            seeds_B: one seed for each row, from which its noise is drawn.

        Raises:
            ValueError: shapes that do not fit, neither or both of noise and seeds, or latents that are not finite.
        """
        B = len(condition_BC1HW)
        if condition_BC1HW.ndim != 5 or condition_BC1HW.shape[2] != 1:
            raise ValueError(f"the known frame is one latent frame [B, C, 1, h, w], got {tuple(condition_BC1HW.shape)}")
        if latent_frames is None:
            if actions_BAX is None:
                raise ValueError("without actions the length of the clip is unknown; give latent_frames")
            latent_frames = 1 + math.ceil(actions_BAX.shape[1] / FRAMES_PER_LATENT)
        if (noise_BCLHW is None) == (seeds_B is None):
            raise ValueError("give either noise_BCLHW or seeds_B")
        for name, value in (
            ("history", history_BCMHW),
            ("actions", actions_BAX),
            ("action frames", frame_latent_BCLHW),
            ("noise", noise_BCLHW),
            ("seeds", seeds_B),
        ):
            if value is not None and len(value) != B:
                raise ValueError(f"{name} of {len(value)} rows for {B} known frames")
        shape = (*condition_BC1HW.shape[:2], latent_frames, *condition_BC1HW.shape[3:])
        if noise_BCLHW is None:
            assert seeds_B is not None
            noise_BCLHW = draw_noise(seeds_B, shape[1:]).to(condition_BC1HW.device)
        elif tuple(noise_BCLHW.shape) != shape:
            raise ValueError(f"noise has shape {tuple(noise_BCLHW.shape)}, the clip {shape}")
        inputs = (condition_BC1HW, history_BCMHW, actions_BAX, frame_latent_BCLHW, noise_BCLHW)
        if self.batch is None:
            return self._sample(*inputs)
        parts = []
        for first in range(0, B, self.batch):
            rows = slice(first, first + self.batch)
            part = [None if value is None else _padded(value[rows], self.batch) for value in inputs]
            parts.append(self._sample(*part)[: B - first])  # type: ignore[arg-type]
        return torch.cat(parts)

    def _sample(
        self,
        condition: Tensor,
        history: Tensor | None,
        actions: Tensor | None,
        frame_latent: Tensor | None,
        noise: Tensor,
    ) -> Tensor:
        with self._precision(condition.device):
            memory = None if history is None else self.network.remember(history)

            def velocity(latent: Tensor, t_BL: Tensor) -> Tensor:
                return self._forward(
                    latent, t_BL, actions_BAX=actions, frame_latent_BCLHW=frame_latent, memory=memory
                ).float()

            return denoise(velocity, condition.float(), noise.float(), self.sigmas, self.solver)

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.dtype)


def denoise(
    velocity: Velocity, condition_BC1HW: Tensor, noise_BCLHW: Tensor, sigmas: Sequence[float], solver: Solver = "ab2"
) -> Tensor:
    """Walk from noise along falling ``sigmas``; the clip predicted at the last one, with the known frame in front."""
    B, L = noise_BCLHW.shape[0], noise_BCLHW.shape[2]
    x = sigmas[0] * noise_BCLHW
    clip, before = x, None
    for k, sigma in enumerate(sigmas):
        t = sigma / (1.0 + sigma)
        t_BL = torch.full((B, L), t, dtype=torch.float32, device=x.device)
        t_BL[:, 0] = T_CONDITION
        scaled = with_condition((1.0 - t) * x, condition_BC1HW)
        clip = with_condition(clip_of_velocity(scaled, velocity(scaled, t_BL), t), condition_BC1HW)
        if k + 1 < len(sigmas):
            previous = None if k == 0 or solver == "euler" else (before, sigmas[k - 1])
            x = _step(x, clip, sigma, sigmas[k + 1], previous)
            before = clip
    return clip


def _step(
    x: Tensor, clip: Tensor, sigma: float, sigma_next: float, previous: tuple[Tensor | None, float] | None
) -> Tensor:
    """x at the next level: exact for a clip that is constant, or linear in log sigma where there is a previous one."""
    h = math.log(sigma / sigma_next)
    x = math.exp(-h) * x - math.expm1(-h) * clip
    if previous is None or previous[0] is None:
        return x
    slope = (clip - previous[0]) / math.log(previous[1] / sigma)
    return x + (h + math.expm1(-h)) * slope


def draw_noise(seeds_B: Sequence[int] | Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal noise [B, *shape] on the CPU, each row from its own seed, the same on every machine."""
    rows = []
    for seed in seeds_B:
        generator = torch.Generator().manual_seed(int(seed))
        rows.append(torch.randn(tuple(shape), generator=generator))
    return torch.stack(rows)


def mixed_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers, for streams that must not repeat each other (row, step)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        # The finaliser of SplitMix64: every bit of the input reaches every bit of the output.
        state = (state + int(number) * 0xD1342543DE82EF95 + 1) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def _padded(value: Tensor, rows: int) -> Tensor:
    """A batch filled up to ``rows`` with copies of its last row."""
    if len(value) == rows:
        return value
    return torch.cat([value, value[-1:].expand(rows - len(value), *value.shape[1:])])
