"""The training loop: AdamW, cosine schedule, moving average of the weights, and exact resumption.

All randomness of a step comes from a generator seeded by (seed, step), so a run that was interrupted and resumed
follows the loss curve of one that was not. The resume file is safetensors, like checkpoints; nothing is pickled.
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

LossFunction = Callable[[int, torch.Generator], dict[str, Tensor]]
"""(step, generator) -> named scalars; ``loss`` is minimised, the others are logged."""


@dataclass(frozen=True)
class LoopOptions:
    """Optimiser settings.

    Attributes:
        steps: optimiser steps of the whole run.
        learning_rate: peak, reached after ``warmup`` steps and annealed along a cosine to a hundredth of it.
        weight_decay: AdamW's, on matrices only.
        gradient_clip: largest gradient norm.
        ema: decay of the moving average that becomes the checkpoint.
        log_every, save_every: steps between log lines and between resume files (0: none).
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
    """Exponential moving average of a module's parameters; the first steps average over few."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, parameter in model.named_parameters():
            self.values[name].lerp_(parameter, 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            parameter.copy_(self.values[name])


def learning_rate(step: int, options: LoopOptions) -> float:
    """Linear warm-up, then half a cosine down to one percent."""
    if step < options.warmup:
        return options.learning_rate * (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


class Loop:
    """One training run; its state is the model, the optimiser, the moving average and the step count.

    Args:
        folder: receives ``log.jsonl`` and ``resume.safetensors``.
        fingerprint: describes data and settings; a resume file of another run is refused.
    """

    def __init__(self, model: nn.Module, options: LoopOptions, folder: Path, fingerprint: str = "") -> None:
        self.model, self.options, self.folder, self.fingerprint = model, options, folder, fingerprint
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        self.optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=options.learning_rate,
            betas=(0.9, 0.98),
        )
        self.average = MovingAverage(model, options.ema)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def resume_file(self) -> Path:
        return self.folder / "resume.safetensors"

    def run(self, loss: LossFunction, report: Callable[[Progress], None] | None = None) -> None:
        """Train up to ``options.steps``; the model holds the raw weights afterwards, ``average`` the smooth ones.

        An exception (Ctrl-C included) leaves a resume file behind before it travels on.
        """
        finished = False
        try:
            self._run(loss, report)
            finished = True
        finally:
            if self.options.save_every and not finished:
                self.save()

    def _run(self, loss: LossFunction, report: Callable[[Progress], None] | None) -> None:
        o = self.options
        sums: dict[str, float] = {}
        count = 0
        generator = torch.Generator()
        self.model.train()
        while self.step < o.steps:
            generator.manual_seed(o.seed * 1_000_003 + self.step)
            losses = loss(self.step, generator)
            if not torch.isfinite(losses["loss"]):
                raise FloatingPointError(
                    f"the loss is {losses['loss'].item()} at step {self.step}; lower the learning rate "
                    f"(now {learning_rate(self.step, o):.2e}) or look for NaN in the dataset"
                )
            self.optimiser.zero_grad(set_to_none=True)
            losses["loss"].backward()
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), o.gradient_clip)
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.step, o)
            self.optimiser.step()
            self.step += 1
            self.average.update(self.model, self.step)

            for name, value in {**losses, "gradient_norm": norm}.items():
                sums[name] = sums.get(name, 0.0) + value.item()
            count += 1
            if self.step % o.log_every == 0 or self.step == o.steps:
                means = {name: value / count for name, value in sums.items()}
                self._log(means)
                if report is not None:
                    report(Progress(self.step, o.steps, means))
                sums, count = {}, 0
            if o.save_every and self.step % o.save_every == 0 and self.step < o.steps:
                self.save()

    def _log(self, means: dict[str, float]) -> None:
        line = {"step": self.step, "learning_rate": learning_rate(self.step - 1, self.options), **means}
        with open(self.folder / "log.jsonl", "a") as log:
            log.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}) + "\n")

    def save(self) -> None:
        """Write the resume file (atomically)."""
        tensors = {f"model/{name}": p.detach().contiguous() for name, p in self.model.named_parameters()}
        tensors |= {f"average/{name}": value.contiguous() for name, value in self.average.values.items()}
        for name, parameter, state in self._moments():
            for key in ("exp_avg", "exp_avg_sq"):
                value = state.get(key)
                tensors[f"{key}/{name}"] = (torch.zeros_like(parameter) if value is None else value).contiguous()
        metadata = {"step": str(self.step), "fingerprint": self.fingerprint}
        write_atomically(self.resume_file, lambda path: save_file(tensors, path, metadata=metadata))

    def resume(self) -> bool:
        """Load the resume file when there is one; True if the run goes on from it.

        Raises:
            CheckpointError: the file belongs to other data or settings.
        """
        if not self.resume_file.is_file():
            return False
        metadata = read_metadata(self.resume_file)
        if metadata.get("fingerprint") != self.fingerprint:
            raise CheckpointError(
                f"{self.resume_file} belongs to a run with other data or settings; use a new output folder, or delete "
                "that file to start over"
            )
        tensors = load_file(self.resume_file)
        self.step = int(metadata["step"])
        with torch.no_grad():
            for name, parameter, state in self._moments():
                parameter.copy_(tensors[f"model/{name}"])
                self.average.values[name].copy_(tensors[f"average/{name}"])
                state["step"] = torch.tensor(float(self.step))
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = tensors[f"{key}/{name}"].to(parameter).clone(memory_format=torch.preserve_format)
        self._trim_log()
        return True

    def _trim_log(self) -> None:
        """Drop log lines of steps that will be repeated."""
        log = self.folder / "log.jsonl"
        if log.is_file():
            kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= self.step]
            write_atomically(log, lambda path: path.write_text("".join(line + "\n" for line in kept)))

    def _moments(self) -> Iterator[tuple[str, nn.Parameter, dict[str, Tensor]]]:
        for name, parameter in self.model.named_parameters():
            yield name, parameter, self.optimiser.state[parameter]

    def remove_resume_file(self) -> None:
        """Forget how to resume; for when the result has been saved."""
        self.resume_file.unlink(missing_ok=True)


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors file, without its tensors."""
    with safe_open(str(path), framework="pt") as file:
        metadata: dict[str, str] | None = file.metadata()
    return metadata or {}
