"""Few-step world models: a student that goes from noise to a clip in at most a handful of passes.

Method: segment distillation at fixed noise levels, with the student's own states among the starting points. The
teacher's path from noise to the clip is cut at K levels. A student pass at level k has to reach in one Euler step the
point at level k + 1 that the teacher reaches with several passes from the same point; the last pass has to give the
teacher's clip.

Why this and not something else:
- Progressive distillation halves the passes again and again, and so trains log2(N / K) students; with fixed levels the
  last one is reached at once.
- Consistency training asks for the clip itself from every noise level; at few levels that is a harder map than a
  segment of the path, and blurs what is small and moves, which is what a reward looks at.
- Distribution matching (self-forcing with a critic) trains two further networks, and gives up the map from noise to
  clip. Here a seed means nearly the same future in student and teacher, so what a policy is judged on can be checked
  against the teacher roll-out by roll-out.
What it takes over from self-forcing: ``own_share`` of the starting points are where the student itself gets to, so it
learns to come back from its own errors.

Sources of the ideas: Salimans and Ho, Progressive Distillation (2202.00512); Heek et al., Multistep Consistency Models
(2403.06807); Huang et al., Self Forcing (2506.08009).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prophrl_models.data.latents_build import Tell
from prophrl_models.prophet.checkpoint import Sampling, load_prophet, read_sampling
from prophrl_models.prophet.clips import ClipBatch, ClipSource, ReadAhead, vary
from prophrl_models.prophet.history import apart, look_of
from prophrl_models.prophet.imagined_past import Look, with_imagined_past
from prophrl_models.prophet.memory import Memory
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.noise import (
    T_CONDITION,
    clip_of_velocity,
    flow_sigmas,
    t_of_sigma,
    velocity_loss,
    with_condition,
)
from prophrl_models.prophet.train import Run, fit
from prophrl_models.prophet.train_data import continued_world, open_datasets
from prophrl_models.prophet.train_open import Origin, Resume, Say, check_start, identity, open_clips, open_network
from prophrl_models.prophet.train_settings import ProphetTrainConfig
from prophrl_models.training.distributed import ALONE, Processes
from prophrl_models.training.loop import LossFunction, Progress
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.vla import autocast

MOST_PASSES = 4

Predict = Callable[[Tensor, float], Tensor]
"""(x = clip + sigma * noise, sigma) -> predicted clip, the known frame in front."""


@dataclass(frozen=True)
class DistilOptions:
    """How a student is made.

    Attributes:
        passes: K, passes of the student for a clip.
        teacher_passes: passes of the teacher for one segment.
        own_share: part of the batches that start where the student's own passes lead, not at a noised clip.
        sigma_min, sigma_max, shift: noise levels: those of ``noise.flow_sigmas`` for K steps; the teacher goes down to
            ``sigma_min``.
    """

    passes: int = MOST_PASSES
    teacher_passes: int = 3
    own_share: float = 0.25
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    shift: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.passes <= MOST_PASSES or self.teacher_passes < 2 or not 0.0 <= self.own_share <= 1.0:
            raise TrainingError(
                f"distillation needs 1..{MOST_PASSES} passes, at least 2 teacher passes and an own share in 0..1, got "
                f"{self.passes}, {self.teacher_passes} and {self.own_share}"
            )

    def sigmas(self) -> tuple[float, ...]:
        """The student's noise levels, falling, K of them."""
        return tuple(flow_sigmas(self.passes, self.sigma_min, self.sigma_max, self.shift).tolist())

    def sampling(self, short_clips: bool = False) -> Sampling:
        """What the checkpoint says of it."""
        times = tuple(float(t_of_sigma(torch.tensor(s))) for s in self.sigmas())
        return Sampling(self.passes, "euler", times, short_clips)


def euler(x: Tensor, clip: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """x at the next noise level when the predicted clip stays what it is: noise shrinks in proportion."""
    return clip + (sigma_next / sigma) * (x - clip)


def walk(predict: Predict, x: Tensor, sigmas: Sequence[float], *, to_clip: bool) -> Tensor:
    """Along falling noise levels with the second-order multistep solver, from x at the first.

    Args:
        to_clip: return the clip predicted at the last level (one pass for each level); else x at the last level (one
            pass less).
    """
    before: tuple[Tensor, float] | None = None
    for sigma, sigma_next in itertools.pairwise(sigmas):
        clip = predict(x, sigma)
        h = math.log(sigma / sigma_next)
        following = euler(x, clip, sigma, sigma_next)
        if before is not None:
            slope = (clip - before[0]) / math.log(before[1] / sigma)
            following = following + (h + math.expm1(-h)) * slope
        before, x = (clip, sigma), following
    return predict(x, sigmas[-1]) if to_clip else x


def teacher_target(
    predict: Predict, x: Tensor, sigma: float, sigma_next: float | None, options: DistilOptions
) -> Tensor:
    """The clip that a single Euler step has to predict at ``sigma`` to land where the teacher lands.

    Args:
        predict: the teacher.
        sigma_next: end of the segment; None for the last one, which ends at the clip.
    """
    end = options.sigma_min if sigma_next is None else sigma_next
    count = options.teacher_passes
    levels = [sigma * (end / sigma) ** (k / count) for k in range(count + 1)]  # even in log sigma
    if sigma_next is None:
        return walk(predict, x, levels[:-1], to_clip=True)
    reached = walk(predict, x, levels, to_clip=False)
    ratio = sigma_next / sigma
    return (reached - ratio * x) / (1.0 - ratio)


def predictor(network: Prophet, batch: ClipBatch, precision: str, *, remember: bool = False) -> Predict:
    """A network with its conditioning, as a map from (x, sigma) to the clip.

    Args:
        remember: make the memory once for all calls; for networks that are not sharded, without gradients.
    """
    memory = None
    if remember and batch.history_BCMHW is not None:
        with autocast(precision, batch.latent_BCLHW.device):
            memory = network.remember(batch.history_BCMHW)

    def predict(x: Tensor, sigma: float) -> Tensor:
        t = sigma / (1.0 + sigma)
        velocity, scaled = _velocity(network, batch, x, sigma, precision, memory)
        return with_condition(clip_of_velocity(scaled, velocity, t), batch.latent_BCLHW[:, :, :1])

    return predict


def _velocity(
    network: Prophet, batch: ClipBatch, x: Tensor, sigma: float, precision: str, memory: Memory | None = None
) -> tuple[Tensor, Tensor]:
    """Velocity at x = clip + sigma * noise, and the network's input there."""
    t = sigma / (1.0 + sigma)
    scaled = with_condition((1.0 - t) * x, batch.latent_BCLHW[:, :, :1])
    t_BL = torch.full((x.shape[0], x.shape[2]), t, device=x.device)
    t_BL[:, 0] = T_CONDITION
    with autocast(precision, x.device):
        velocity = network(
            scaled,
            t_BL,
            actions_BAX=batch.actions_BAX,
            frame_latent_BCLHW=batch.frame_latent_BCLHW,
            history_BCMHW=batch.history_BCMHW if memory is None else None,
            memory=memory,
        )
    return velocity.float(), scaled


def segment_loss(
    student: Prophet,
    teacher: Prophet,
    clips: ClipSource,
    config: ProphetTrainConfig,
    options: DistilOptions,
    processes: Processes = ALONE,
    look: Look = apart,
) -> LossFunction:
    """The loss of one batch: one segment, drawn for the batch; velocity error against the teacher's target.

    Args:
        look: how both networks see known latents and histories.
    """
    device = processes.device
    sigmas = options.sigmas()

    def loss(number: int, generator: torch.Generator) -> dict[str, Tensor]:
        batch = clips.batch(number).to(device)
        with autocast(config.precision, device):
            batch = with_imagined_past(student, batch, generator, look)
        batch = vary(batch, config.clips, generator)
        clean = batch.latent_BCLHW
        # All processes of a step must make the same number of passes, or sharded weights would wait for ever.
        chance = np.random.default_rng((config.loop.seed, number // processes.world))
        segment, own = int(chance.integers(len(sigmas))), bool(chance.random() < options.own_share)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        sigma = sigmas[segment]
        with torch.no_grad():
            if own or segment == 0:
                # At the first level a sampler starts from noise alone; so does training.
                x = sigmas[0] * noise
                act = predictor(student, batch, config.precision)
                for k in range(segment):
                    x = euler(x, act(x, sigmas[k]), sigmas[k], sigmas[k + 1])
            else:
                x = clean + sigma * noise
            following = sigmas[segment + 1] if segment + 1 < len(sigmas) else None
            target = teacher_target(
                predictor(teacher, batch, config.precision, remember=True), x, sigma, following, options
            )
        velocity, scaled = _velocity(student, batch, x, sigma, config.precision)
        wanted = (scaled - target) / (sigma / (1.0 + sigma))
        return {"loss": velocity_loss(velocity, wanted, batch.valid_BL)}

    return loss


def distil_prophet(
    teacher_dir: str | Path,
    dataset_dirs: Sequence[str | Path],
    out_dir: str | Path,
    config: ProphetTrainConfig | None = None,
    options: DistilOptions | None = None,
    *,
    origin: Origin | None = None,
    resume: Resume = "automatic",
    progress: Callable[[Progress], None] | None = None,
    tell: Callable[[str], Tell] = lambda name: lambda done, total: None,
    say: Say = lambda line: None,
    processes: Processes = ALONE,
) -> Path:
    """Distil a trained world model into one of few passes; arguments and errors are those of ``train_prophet``.

    Args:
        teacher_dir: checkpoint of the teacher, whose codec, streams and units the student takes over.
        origin: where latents and a camera are; its ``init`` and ``codec`` are the teacher's.
    """
    config, options = config or ProphetTrainConfig(), options or DistilOptions()
    if config.train != "full" or config.network or config.mixture:
        raise TrainingError("a student is its teacher's copy and trains in full, on dataset folders: set train: full "
                            "and leave network and mixture out")  # fmt: skip
    if read_sampling(teacher_dir).times:
        raise TrainingError(f"{teacher_dir} is distilled itself; give the network it was made from")
    # A student learns its teacher's segments with all channels alike; its record is not to say otherwise.
    config = dataclasses.replace(config, channel_weighting="none")
    out_dir, teacher_dir = Path(out_dir), Path(teacher_dir)
    config.passes(processes.world)
    check_start(out_dir, resume)
    datasets = open_datasets(dataset_dirs)
    teacher, codec, world, _ = load_prophet(teacher_dir, processes.device)
    teacher.requires_grad_(False)
    origin = dataclasses.replace(origin or Origin(), init=teacher_dir, codec=None)
    world = continued_world(world, config, datasets)
    source, record = open_clips(datasets, None, codec, world, config, out_dir, origin, tell=tell, processes=processes)
    student = open_network(world, config, teacher_dir)
    provenance = {**record, "parent": identity(teacher_dir), "distilled": dataclasses.asdict(options)}
    run = Run(world, codec, datasets, provenance, options.sampling(config.clips.short_share > 0.0))
    clips = ReadAhead(source, config.read_ahead, processes.world)
    try:
        loss = segment_loss(student, teacher, clips, config, options, processes, look_of(world.network, codec))
        return fit(student, loss, run, out_dir, config, progress=progress, say=say, processes=processes)
    finally:
        clips.close()
