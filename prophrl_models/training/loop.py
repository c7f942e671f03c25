"""The training loop: AdamW, cosine schedule, moving average of the weights, and exact resumption.

A step consists of one or more batches, spread over passes (gradient accumulation) and processes. Batches are numbered
through the run, and all randomness of a batch comes from a generator seeded by (seed, number). So a run that was
interrupted and resumed follows the loss curve of one that was not, and how batches are spread does not matter either.
The resume file is safetensors, like checkpoints; nothing is pickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prophrl_models.training.checkpoint import CheckpointError, write_atomically
from prophrl_models.training.distributed import ALONE, Processes, local, whole
from prophrl_models.training.log import TrainingLog

LossFunction = Callable[[int, torch.Generator], dict[str, Tensor]]
"""(number of the batch, generator) -> named scalars; ``loss`` is minimised, the others are logged. Where a step is one
batch on one process the number is the step."""


@dataclass(frozen=True)
class LoopOptions:
    """Optimiser settings.

    Attributes:
        steps: optimiser steps of the whole run.
        learning_rate: peak, reached after ``warmup`` steps and annealed along a cosine to
            ``final_fraction`` of it.
        weight_decay: AdamW's, on matrices only.
        betas: AdamW's.
        gradient_clip: largest gradient norm.
        ema: decay of the moving average that becomes the checkpoint; 0: the weights themselves become it.
        log_every, save_every: steps between log lines and between resume files (0: none).
        tensorboard: write event files for TensorBoard beside ``log.jsonl``.
    """

    steps: int = 1200
    learning_rate: float = 1.5e-3
    warmup: int = 50
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema: float = 0.99
    seed: int = 0
    log_every: int = 20
    save_every: int = 200
    final_fraction: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    tensorboard: bool = False


@dataclass(frozen=True)
class Progress:
    """What the loop reports at every log line; ``losses`` are means since the last one."""

    step: int
    steps: int
    losses: dict[str, float]

    @property
    def fraction(self) -> float:
        return self.step / self.steps


class MovingAverage:
    """Exponential moving average of a module's trained parameters; the first steps average over few.

    With a decay of 0 it holds nothing, and the parameters are their own average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in trained(model)} if decay > 0.0 else {}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, parameter in trained(model):
            if name in self.values:
                self.values[name].lerp_(parameter, 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, parameter in trained(model):
            if name in self.values:
                parameter.copy_(self.values[name])


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of a model that are not frozen."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def learning_rate(step: int, options: LoopOptions) -> float:
    """Linear warm-up, then half a cosine down to ``final_fraction`` of the peak."""
    if step < options.warmup:
        return options.learning_rate * (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return options.learning_rate * (options.final_fraction + (1.0 - options.final_fraction) * cosine)


class Loop:
    """One training run; its state is the model, the optimiser, the moving average and the step count.

    Frozen parameters are left alone and are not in the resume file: who resumes has built them again.

    Args:
        folder: receives ``log.jsonl`` and ``resume.safetensors`` (one file for each process where there are several).
        fingerprint: describes data and settings; a resume file of another run is refused.
        processes: all processes of the run; their gradients must be averaged already (FSDP does).
        accumulate: batches of a step on each process, one after the other.
    """

    def __init__(
        self,
        model: nn.Module,
        options: LoopOptions,
        folder: Path,
        fingerprint: str = "",
        processes: Processes = ALONE,
        accumulate: int = 1,
    ) -> None:
        self.model, self.options, self.folder, self.fingerprint = model, options, folder, fingerprint
        self.processes, self.accumulate = processes, accumulate
        matrices = [p for _, p in trained(model) if p.ndim >= 2]
        vectors = [p for _, p in trained(model) if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=options.learning_rate,
            betas=options.betas,
        )
        self.average = MovingAverage(model, options.ema)
        self.step = 0
        self._sums: dict[str, float] = {}  # of what is logged, since the last log line
        self._count = 0
        self._whole_step = True
        folder.mkdir(parents=True, exist_ok=True)
        self.log = TrainingLog(folder, tensorboard=options.tensorboard)

    @property
    def resume_file(self) -> Path:
        """Where this process's state goes; the newest of them where several processes keep a number of steps."""
        if self.processes.world == 1:
            return self.folder / "resume.safetensors"
        return self._shard_file(max(self._complete_steps(), default=self.step))

    def run(self, loss: LossFunction, report: Callable[[Progress], None] | None = None) -> None:
        """Train up to ``options.steps``; the model holds the raw weights afterwards, ``average`` the smooth ones.

        An exception (Ctrl-C included) leaves a resume file behind before it travels on, unless it came from the middle
        of an update or of one process among several: then the last regular one stands.
        """
        finished = False
        try:
            self._run(loss, report)
            finished = True
        finally:
            self.log.close()
            if self.options.save_every and not finished and self._whole_step and self.processes.world == 1:
                self.save()

    def _run(self, loss: LossFunction, report: Callable[[Progress], None] | None) -> None:
        o = self.options
        generator = torch.Generator(device=self.processes.device)
        self.model.train()
        while self.step < o.steps:
            losses = self._backward(loss, generator)
            norm = whole(nn.utils.clip_grad_norm_([p for _, p in trained(self.model)], o.gradient_clip)).item()
            for name, value in (("loss", losses["loss"]), ("gradient norm", norm)):
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"the {name} is {value} at step {self.step}; lower the learning rate "
                        f"(now {learning_rate(self.step, o):.2e}) or look for NaN in the dataset"
                    )
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.step, o)
            self._whole_step = False
            self.optimiser.step()
            self.step += 1
            self.average.update(self.model, self.step)
            for name, value in {**losses, "gradient_norm": norm}.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._count += 1
            self._whole_step = True

            if self.step % o.log_every == 0 or self.step == o.steps:
                means = {name: value / self._count for name, value in self._sums.items()}
                self._sums, self._count = {}, 0
                if self.processes.is_main:
                    self.log.write(self.step, {"learning_rate": learning_rate(self.step - 1, o), **means})
                if report is not None:
                    report(Progress(self.step, o.steps, means))
            if o.save_every and self.step % o.save_every == 0 and self.step < o.steps:
                self.save()

    def _backward(self, loss: LossFunction, generator: torch.Generator) -> dict[str, float]:
        """Gradients of one step; the named scalars are means over its batches on all processes."""
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for part in range(self.accumulate):
            number = (self.step * self.accumulate + part) * self.processes.world + self.processes.rank
            generator.manual_seed(self.options.seed * 1_000_003 + number)
            losses = loss(number, generator)
            (losses["loss"] / self.accumulate).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.item() / self.accumulate
        return self.processes.mean(sums)

    def save(self) -> None:
        """Write the resume file (atomically; a state spread over processes counts when all files are there)."""
        tensors: dict[str, Tensor] = {}
        for name, parameter, state in self._moments():
            tensors[f"model/{name}"] = local(parameter.detach()).contiguous()
            if name in self.average.values:
                tensors[f"average/{name}"] = local(self.average.values[name]).contiguous()
            for key in ("exp_avg", "exp_avg_sq"):
                value = state.get(key)
                tensors[f"{key}/{name}"] = local(torch.zeros_like(parameter) if value is None else value).contiguous()
        metadata = {
            "step": str(self.step),
            "fingerprint": self.fingerprint,
            "since_log": json.dumps({"count": self._count, "sums": self._sums}),
        }
        alone = self.processes.world == 1
        file = self.resume_file if alone else self._shard_file(self.step)
        write_atomically(file, lambda path: save_file(tensors, path, metadata=metadata))
        self.processes.wait()
        if not alone:
            self._remove_shards(keep=self.step)

    def resume(self) -> bool:
        """Load the resume file when there is one; True if the run goes on from it.

        Raises:
            CheckpointError: the file belongs to other data or settings, or to another number of processes.
        """
        self._refuse_other_world()
        if not self.resume_file.is_file():
            if self.processes.is_main:
                self.log.trim(0)  # of a start that was killed before its first resume file
            return False
        metadata = read_metadata(self.resume_file)
        if metadata.get("fingerprint") != self.fingerprint:
            raise CheckpointError(
                f"{self.resume_file} belongs to a run with other data or settings; use a new output folder, or delete "
                "that file to start over"
            )
        tensors = load_file(self.resume_file)
        self.step = int(metadata["step"])
        since_log = json.loads(metadata.get("since_log", '{"count": 0, "sums": {}}'))
        self._sums, self._count = since_log["sums"], since_log["count"]
        with torch.no_grad():
            for name, parameter, state in self._moments():
                local(parameter).copy_(tensors[f"model/{name}"])
                if name in self.average.values:
                    local(self.average.values[name]).copy_(tensors[f"average/{name}"])
                state["step"] = torch.tensor(float(self.step))
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = torch.zeros_like(parameter)
                    local(state[key]).copy_(tensors[f"{key}/{name}"])
        if self.processes.is_main:
            self.log.trim(self.step)
        return True

    def remove_resume_file(self) -> None:
        """Forget how to resume; for when the result has been saved."""
        if self.processes.world == 1:
            self.resume_file.unlink(missing_ok=True)
        else:
            self._remove_shards(keep=None)

    def _moments(self) -> Iterator[tuple[str, nn.Parameter, dict[str, Tensor]]]:
        for name, parameter in trained(self.model):
            yield name, parameter, self.optimiser.state[parameter]

    def _shard_file(self, step: int, rank: int | None = None) -> Path:
        rank = self.processes.rank if rank is None else rank
        return self.folder / f"resume-{step:08d}.rank{rank}-of-{self.processes.world}.safetensors"

    def _complete_steps(self) -> list[int]:
        """Steps of which every process's file is there."""
        ranks = range(self.processes.world)
        steps = {int(file.name[7:15]) for file in self.folder.glob("resume-????????.rank*.safetensors")}
        return [step for step in steps if all(self._shard_file(step, rank).is_file() for rank in ranks)]

    def _remove_shards(self, keep: int | None) -> None:
        rank, world = self.processes.rank, self.processes.world
        for file in self.folder.glob(f"resume-????????.rank{rank}-of-{world}.safetensors"):
            if keep is None or file != self._shard_file(keep):
                file.unlink()

    def _refuse_other_world(self) -> None:
        world = self.processes.world
        for file in sorted(self.folder.glob("resume*.safetensors")):
            wrote = int(file.stem.rpartition("-of-")[2]) if "-of-" in file.stem else 1
            if wrote != world:
                raise CheckpointError(
                    f"{file} was written by a run on {wrote} processes, this one has {world}; continue on {wrote}, "
                    "use a new output folder, or delete the resume files to start over"
                )


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors file, without its tensors."""
    with safe_open(str(path), framework="pt") as file:
        metadata: dict[str, str] | None = file.metadata()
    return metadata or {}
