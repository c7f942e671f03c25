"""Rollouts: the policy acts inside the frozen world model, a judge looks at what came of it.

What is kept of a rollout is what the update needs to compute everything again: the policy's prepared inputs and the
denoising chain of every call. Keys and values of a backbone are never kept; they are as old as the weights.

Bytes of one rollout with S calls: S (image + text + 28 for the state + 4 (K+1) CH D). For the tiny policy, S = 6,
K = 10, CH = 20, D = 7: 6 (57 600 + 64 + 28 + 6 160) = 0.38 MB, so 256 rollouts take 98 MB; a big policy keeps
6 x 224 x 224 bytes of image for each call: 256 rollouts of 6 calls take 0.46 GB. Frames live until the judge has
spoken; a video is kept compressed, and only when it was asked for.

Every number drawn for a rollout comes from that rollout's seed, so it does not matter which others are in the batch
(up to rounding of matrix products) or who computes it.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prophrl_models.policies.grip import firm_grip
from prophrl_models.policies.interface import FlowPolicy, Inputs, ObservationBatch
from prophrl_models.prophet.rollout import ImaginedWorld, Prompt, imagine
from prophrl_models.reward.attempts import judge_attempts
from prophrl_models.reward.judge import Judge, Verdict
from prophrl_models.rl.judged import imagined_attempts
from prophrl_models.rl.sde import sde_step, shifted_grid
from prophrl_models.rl.settings import Reward, RolloutOptions
from prophrl_models.training.settings import TrainingError
from prophrl_models.trials.video import write_video

Mode = Literal["sde", "ode"]
NEVER = -1
"""``finish_B`` of a rollout whose judge named no moment of success: all its actions count."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that is always computed together, whoever does it.

    Attributes:
        starts: index of each rollout's start state.
        seeds: one for each rollout; members of a group have the same start and different seeds.
        mode: "sde" for experience, "ode" for evaluation as deployed.
        video: keep compressed videos.
    """

    starts: tuple[int, ...]
    seeds: tuple[int, ...]
    mode: Mode = "sde"
    video: bool = False

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.seeds) or not self.starts:
            raise ValueError(f"a unit needs a seed for each start, got {len(self.starts)} and {len(self.seeds)}")


@dataclass(frozen=True)
class Rollouts:
    """B judged rollouts of S policy calls; tensors on the CPU.

    Attributes:
        inputs: the policy's prepared observations, B * S rows, row b * S + s.
        chain_BSKCD: denoising chains [B, S, K+1, *chain_shape], normalised units, float32.
        grid_K1: time labels of the chain's states, from 1 to 0 [K+1].
        noise_level: a of the SDE; 0 where the ODE was walked.
        keep: actions executed of each chunk.
        success_B: 1 or 0, NaN where the judge gave no judgement.
        score_B: the judge's score.
        agreement_B: share of the given votes that agree with the verdict.
        unparsed_B: votes that could not be read.
        finish_B: actions after which the task was done, or ``NEVER``.
        audited_B: what a second judge said, 1 or 0; NaN where there was none or it gave no judgement.
        start_B, seed_B: where each came from.
        videos: MP4 files' bytes, empty where none was asked for.
        reasons: what the judge said.
        seconds: time in policy, world and judge.
    """

    inputs: Inputs
    chain_BSKCD: Tensor
    grid_K1: Tensor
    noise_level: float
    keep: int
    success_B: Tensor
    score_B: Tensor
    agreement_B: Tensor
    unparsed_B: Tensor
    finish_B: Tensor
    audited_B: Tensor
    start_B: Tensor
    seed_B: Tensor
    videos: tuple[bytes, ...]
    reasons: tuple[str, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.success_B)

    @property
    def calls(self) -> int:
        return int(self.chain_BSKCD.shape[1])

    def reward_B(self, kind: Reward) -> Tensor:
        """What each earns, 0..1: the judge's verdict or its score; NaN without a judgement."""
        return self.success_B if kind == "verdict" else self.score_B.where(~self.success_B.isnan(), torch.nan)

    def select(self, rows: Sequence[int]) -> Rollouts:
        """Some of the rollouts, in the order given; times stay those of all."""
        index = torch.as_tensor(list(rows), dtype=torch.int64)
        calls = (index[:, None] * self.calls + torch.arange(self.calls)).flatten()
        vectors: dict[str, Any] = {name: getattr(self, name)[index] for name in _VECTORS}
        return replace(
            self,
            inputs=self.inputs.select(calls),
            chain_BSKCD=self.chain_BSKCD[index],
            videos=tuple(self.videos[i] for i in index.tolist()),
            reasons=tuple(self.reasons[i] for i in index.tolist()),
            **vectors,
        )


_VECTORS = ("success_B", "score_B", "agreement_B", "unparsed_B", "finish_B", "audited_B", "start_B", "seed_B")


def joined(parts: Sequence[Rollouts]) -> Rollouts:
    """All rollouts of several pieces, in order; times add up.

    Raises:
        ValueError: no pieces, or pieces sampled differently.
    """
    if not parts or len({(p.noise_level, p.keep, p.chain_BSKCD.shape[1:]) for p in parts}) != 1:
        raise ValueError(f"{len(parts)} pieces of rollouts cannot be joined: they need the same noise, calls and steps")
    text = max(p.inputs.text.shape[1] for p in parts)
    texts = [torch.nn.functional.pad(p.inputs.text, (0, text - p.inputs.text.shape[1]), value=-1) for p in parts]
    names = {name for p in parts for name in p.seconds}
    vectors: dict[str, Any] = {name: torch.cat([getattr(p, name) for p in parts]) for name in _VECTORS}
    return replace(
        parts[0],
        inputs=Inputs(
            torch.cat([p.inputs.image for p in parts]), torch.cat([p.inputs.state_B7 for p in parts]), torch.cat(texts)
        ),
        chain_BSKCD=torch.cat([p.chain_BSKCD for p in parts]),
        videos=tuple(v for p in parts for v in p.videos),
        reasons=tuple(r for p in parts for r in p.reasons),
        seconds={name: sum(p.seconds.get(name, 0.0) for p in parts) for name in sorted(names)},
        **vectors,
    )


class RolloutWorker:
    """Rolls out and judges units of work.

    Args:
        policy: in evaluation mode, on its device; may be the one that is being trained.
        world: frozen.
        starts: what the units' indices mean.
        options: calls, keep, steps and noise.
        auditor: a second judge, independent of the first; looks at evaluations only.
        precision: "bf16" computes the policy in bfloat16, as the update does then.

    Raises:
        TrainingError: policy, world and options do not go together; says what differs.
    """

    def __init__(
        self,
        policy: FlowPolicy,
        world: ImaginedWorld,
        judge: Judge,
        starts: Sequence[Prompt],
        options: RolloutOptions,
        *,
        auditor: Judge | None = None,
        precision: str = "fp32",
    ) -> None:
        spec = policy.spec
        if spec.convention is not world.convention or spec.control_rate_hz != world.control_rate_hz:
            raise TrainingError(
                f"the policy acts in {spec.convention.name} at {spec.control_rate_hz:g} Hz, the world model in "
                f"{world.convention.name} at {world.control_rate_hz:g} Hz; train one of them for the other's"
            )
        self.keep = options.keep or min(spec.chunk, world.actions)
        if not 1 <= self.keep <= min(spec.chunk, world.actions):
            raise TrainingError(
                f"rollout.keep must be between 1 and {min(spec.chunk, world.actions)}, got {self.keep}: the policy "
                f"plans {spec.chunk} actions and the world model takes {world.actions}"
            )
        self.policy, self.world, self.judge, self.starts = policy, world, judge, list(starts)
        self.options, self.auditor, self.precision = options, auditor, precision
        device = next(policy.parameters()).device
        self.grid_K1 = shifted_grid(options.num_steps or spec.num_steps, shift=options.time_shift, device=device)
        self.deployed_grid_K1 = shifted_grid(spec.num_steps, shift=1.0, device=device)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over trained parameters by name."""
        mine = dict(self.policy.named_parameters())
        with torch.no_grad():
            for name, value in tensors.items():
                mine[name].copy_(value)

    def run(self, unit: Unit) -> Rollouts:
        """Roll a unit out and judge it."""
        sde = unit.mode == "sde"
        noise_level = self.options.noise_level if sde else 0.0
        grid_K1 = self.grid_K1 if sde else self.deployed_grid_K1
        # The world is told the whole plan though it executes only ``keep`` of it, as the robot's driver is.
        planned = min(self.policy.spec.chunk, self.world.actions)
        sampler = _Sampler(self.policy, unit, self.options, planned, grid_K1, noise_level, self.precision)
        prompts = [self.starts[i] for i in unit.starts]
        began_s = time.perf_counter()
        with torch.no_grad():
            imagined = imagine(
                self.world,
                prompts,
                sampler.choose,
                steps=self.options.calls,
                keep=self.keep,
                seeds=list(unit.seeds),
                batch=len(prompts),
            )
        rolled_s = time.perf_counter()
        attempts = imagined_attempts(imagined)
        verdicts = judge_attempts(self.judge, attempts)
        audited = torch.full((len(prompts),), float("nan"))
        if self.auditor is not None and not sde:
            audited = torch.tensor([_rated(v.success) for v in judge_attempts(self.auditor, attempts)])
        judged_s = time.perf_counter()
        rate_hz = self.policy.spec.control_rate_hz
        return Rollouts(
            inputs=sampler.inputs(),
            chain_BSKCD=sampler.chain_BSKCD,
            grid_K1=grid_K1.cpu(),
            noise_level=noise_level,
            keep=self.keep,
            audited_B=audited,
            start_B=torch.tensor(unit.starts, dtype=torch.int64),
            seed_B=torch.tensor(unit.seeds, dtype=torch.int64),
            videos=tuple(_compressed(video, rate_hz) if unit.video else b"" for video in imagined.frames_BTHW3),
            reasons=tuple(v.reason for v in verdicts),
            seconds={
                "policy": sampler.spent_s,
                "world": rolled_s - began_s - sampler.spent_s,
                "judge": judged_s - rolled_s,
            },
            **_columns(verdicts),
        )

    def executed_BSN7(self, rollouts: Rollouts) -> NDArray[np.float32]:
        """The actions that were executed in imagination [B, S, keep, 7], in units of the environment."""
        with torch.no_grad():
            last = rollouts.chain_BSKCD[:, :, -1].flatten(0, 1).to(self.grid_K1.device)
            actions = _in_units(self.policy, last, self.options)[:, : rollouts.keep]
        return actions.reshape(len(rollouts), rollouts.calls, *actions.shape[1:]).numpy()


class _Sampler:
    """The policy's part of a rollout: chunks from each row's own noise, and a record of how they came about."""

    def __init__(
        self,
        policy: FlowPolicy,
        unit: Unit,
        options: RolloutOptions,
        planned: int,
        grid_K1: Tensor,
        noise_level: float,
        precision: str,
    ) -> None:
        self.policy, self.unit, self.options, self.planned = policy, unit, options, planned
        self.grid_K1, self.noise_level, self.precision = grid_K1, noise_level, precision
        self.chain_BSKCD = torch.zeros(len(unit.seeds), options.calls, len(grid_K1), *policy.chain_shape)
        self.spent_s = 0.0
        self._seen: list[list[Inputs | None]] = [[None] * options.calls for _ in unit.seeds]

    def choose(self, obs: ObservationBatch, rows: Sequence[int], step: int) -> tuple[Tensor, None]:
        """Chunks [b, C, D] in environment units for some rows of the unit, at their ``step``-th call."""
        began_s = time.perf_counter()
        policy, device = self.policy, self.grid_K1.device
        moved = ObservationBatch(obs.image_BHW3.to(device), obs.state_B7.to(device), obs.instruction_B)
        policy.check(moved)
        inputs = policy.prepare(moved)
        noise = torch.stack([self._noise(row, step) for row in rows]).to(device)
        with arithmetic(self.precision, device):
            chain = sample_chain(policy, inputs, noise, self.grid_K1, self.noise_level)
        actions = _in_units(policy, chain[:, -1], self.options)[:, : self.planned]
        for place, row in enumerate(rows):
            self.chain_BSKCD[row, step] = chain[place].cpu()
            kept = inputs.select(slice(place, place + 1))
            self._seen[row][step] = Inputs(kept.image.cpu().clone(), kept.state_B7.cpu().clone(), kept.text.cpu())
        self.spent_s += time.perf_counter() - began_s
        return actions, None

    def inputs(self) -> Inputs:
        """What the policy saw, B * S rows."""
        seen = [entry for row in self._seen for entry in row if entry is not None]
        if len(seen) != self.chain_BSKCD.shape[0] * self.chain_BSKCD.shape[1]:
            raise RuntimeError(f"the world asked for {len(seen)} chunks, {self.chain_BSKCD.shape[:2]} were planned")
        width = max(entry.text.shape[1] for entry in seen)
        texts = [torch.nn.functional.pad(e.text, (0, width - e.text.shape[1]), value=-1) for e in seen]
        return Inputs(torch.cat([e.image for e in seen]), torch.cat([e.state_B7 for e in seen]), torch.cat(texts))

    def _noise(self, row: int, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derived_seed(self.unit.seeds[row], "policy", step))
        return torch.randn(len(self.grid_K1), *self.policy.chain_shape, generator=generator)


def _in_units(policy: FlowPolicy, last_NCD: Tensor, options: RolloutOptions) -> Tensor:
    """What the ends of denoising chains mean to the arm [N, CH, 7], on the CPU."""
    actions = policy.spec.action_scaling.restore(policy.environment(last_NCD)).cpu()
    return torch.from_numpy(firm_grip(actions.float().numpy(), options.close_below))


@torch.no_grad()
def sample_chain(policy: FlowPolicy, inputs: Inputs, noise_NKCD: Tensor, grid_K1: Tensor, noise_level: float) -> Tensor:
    """Denoising chains [N, K+1, *chain_shape] from given noise of the same shape.

    ``noise_NKCD[:, 0]`` is the start of the chain, the others are drawn into the K steps (unused with
    ``noise_level`` 0, which walks the ODE).
    """
    cond = policy.ready(policy.embed(inputs))
    x = noise_NKCD[:, 0].float()
    chain = [x]
    for k in range(len(grid_K1) - 1):
        v = policy.velocity(cond, x, grid_K1[k].expand(len(x))).float()
        mean, std = sde_step(x, v, grid_K1[k], grid_K1[k + 1], noise_level=noise_level)
        x = mean + std * noise_NKCD[:, k + 1]
        chain.append(x)
    return torch.stack(chain, 1)


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """How a policy computes: the same for rollouts and updates, or their ratios would not begin at 1."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on all parts and on nothing else."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _rated(success: bool | None) -> float:
    return float("nan") if success is None else float(success)


def _columns(verdicts: Sequence[Verdict]) -> dict[str, Tensor]:
    success = [_rated(v.success) for v in verdicts]
    votes = [[vote for vote in v.votes if vote is not None] for v in verdicts]
    agreement = [
        sum(vote == v.success for vote in given) / len(given) if given and v.success is not None else float("nan")
        for given, v in zip(votes, verdicts, strict=True)
    ]
    finish = [NEVER if v.finish_step is None or not v.success else max(1, v.finish_step) for v in verdicts]
    return {
        "success_B": torch.tensor(success),
        "score_B": torch.tensor([float(v.score) for v in verdicts]),
        "agreement_B": torch.tensor(agreement),
        "unparsed_B": torch.tensor([sum(vote is None for vote in v.votes) for v in verdicts], dtype=torch.int64),
        "finish_B": torch.tensor(finish, dtype=torch.int64),
    }


def _compressed(frames_THW3: NDArray[np.uint8], rate_hz: float) -> bytes:
    with tempfile.TemporaryDirectory(prefix="prophrl-video-") as folder:
        file = Path(folder) / "rollout.mp4"
        write_video(file, iter(frames_THW3), rate_hz)
        return file.read_bytes()
