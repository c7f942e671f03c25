"""What a run needs to go on after it was killed at any moment, on disk, and nothing pickled.

resume.safetensors          trained parameters, optimiser moments; the run's facts and fingerprint as metadata
rollouts/step_000012/       finished units of the step under way; removed when the step's update has been saved

Everything drawn in a step is a function of (seed, step), so the step under way is repeated from its finished units and
gives the same numbers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prophrl_models.policies.interface import FlowPolicy, Inputs
from prophrl_models.rl.rollouts import Rollouts, Unit
from prophrl_models.rl.update import Updater
from prophrl_models.training.checkpoint import CheckpointError, write_atomically
from prophrl_models.training.loop import read_metadata, trained

RESUME_FILE, ROLLOUT_FOLDER = "resume.safetensors", "rollouts"
_TENSORS = (
    "chain_BSKCD",
    "grid_K1",
    "success_B",
    "score_B",
    "agreement_B",
    "unparsed_B",
    "finish_B",
    "audited_B",
    "start_B",
    "seed_B",
)
_INPUTS = ("image", "state_B7", "text")


@dataclass
class RunFacts:
    """Where a run stands, beside its weights.

    Attributes:
        step: steps that are finished.
        evaluations: one mapping for each evaluation on held-out starts: step, success, rollouts, audited.
        audit: ``audit.Audit`` as plain values: all looks of the run.
        best_step, best_success, best_worth: of the evaluation whose policy is the result so far; -1 before the first.
            It is the best by its worth: mean score or success, whichever is reinforced.
        trusted_step, trusted_rate: of the policy with the best audited success that no audit doubted; -1 before one.
        empty_steps: steps in a row without a group of mixed outcome.
        stopped: why the run ended early; empty while it has not.
        policy_steps: optimiser steps so far.
    """

    step: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    best_step: int = -1
    best_success: float = -1.0
    best_worth: float = -1.0
    trusted_step: int = -1
    trusted_rate: float = -1.0
    empty_steps: int = 0
    stopped: str = ""
    policy_steps: int = 0


class RunStore:
    """The resumable part of a run's folder.

    Args:
        fingerprint: describes data, weights, world, judge and settings; files of another run are refused.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    @property
    def file(self) -> Path:
        return self.folder / RESUME_FILE

    def save(self, policy: FlowPolicy, updater: Updater, facts: RunFacts) -> None:
        """Write the resume file, atomically."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in trained(policy):
            state = updater.optimiser.state.get(parameter, {})
            tensors[f"model/{name}"] = parameter.detach().cpu().contiguous()
            for key in ("exp_avg", "exp_avg_sq"):
                if key in state:
                    tensors[f"{key}/{name}"] = state[key].detach().cpu().contiguous()
        metadata = {"fingerprint": self.fingerprint, "facts": json.dumps(dataclasses.asdict(facts))}
        write_atomically(self.file, lambda path: save_file(tensors, path, metadata=metadata))

    def resume(self, policy: FlowPolicy, updater: Updater) -> RunFacts:
        """Load what was saved last; a new run's facts when nothing was.

        Raises:
            CheckpointError: the file belongs to another run, or is damaged.
        """
        if not self.file.is_file():
            return RunFacts()
        try:
            metadata, tensors = read_metadata(self.file), load_file(self.file)
        except SafetensorError as error:
            raise CheckpointError(f"{self.file} is damaged ({error}); delete it to start the run over") from error
        if metadata.get("fingerprint") != self.fingerprint:
            raise CheckpointError(
                f"{self.file} belongs to a run with other data, weights or settings; use a new output folder, or "
                "delete that file to start over"
            )
        facts = RunFacts(**json.loads(metadata["facts"]))
        with torch.no_grad():
            for name, parameter in trained(policy):
                parameter.copy_(tensors[f"model/{name}"])
                if f"exp_avg/{name}" in tensors:
                    updater.optimiser.state[parameter] = {
                        "step": torch.tensor(float(facts.policy_steps)),
                        **{
                            key: tensors[f"{key}/{name}"].to(parameter.device).clone()
                            for key in ("exp_avg", "exp_avg_sq")
                        },
                    }
        return facts

    def forget(self) -> None:
        """Remove everything that is only there to resume."""
        self.file.unlink(missing_ok=True)
        shutil.rmtree(self.folder / ROLLOUT_FOLDER, ignore_errors=True)

    def unit_file(self, step: int, name: str) -> Path:
        return self.folder / ROLLOUT_FOLDER / f"step_{step:06d}" / f"{name}.safetensors"

    def save_unit(self, step: int, name: str, unit: Unit, rollouts: Rollouts) -> None:
        """Keep a finished unit, unless the judge was silent on some of it: it may answer the next time."""
        if bool(rollouts.success_B.isnan().any()):
            return
        file = self.unit_file(step, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda path: save_rollouts(path, rollouts, {"unit": self._identity(unit)}))

    def load_unit(self, step: int, name: str, unit: Unit) -> Rollouts | None:
        """A unit that was finished before, or None."""
        file = self.unit_file(step, name)
        if not file.is_file() or read_metadata(file).get("unit") != self._identity(unit):
            return None
        return load_rollouts(file)

    def keep_only(self, step: int) -> None:
        """Remove the rollouts of all other steps."""
        for folder in (self.folder / ROLLOUT_FOLDER).glob("step_*"):
            if folder.name != f"step_{step:06d}":
                shutil.rmtree(folder, ignore_errors=True)

    def _identity(self, unit: Unit) -> str:
        parts = f"{self.fingerprint}\n{unit.starts}\n{unit.seeds}\n{unit.mode}\n{unit.video}"
        return hashlib.sha256(parts.encode()).hexdigest()


def save_rollouts(path: Path, rollouts: Rollouts, metadata: Mapping[str, str] | None = None) -> None:
    """Write rollouts as safetensors (not atomic by itself)."""
    tensors = {name: getattr(rollouts, name).contiguous() for name in _TENSORS}
    tensors |= {f"inputs.{name}": getattr(rollouts.inputs, name).contiguous() for name in _INPUTS}
    for number, video in enumerate(rollouts.videos):
        tensors[f"video.{number}"] = torch.frombuffer(bytearray(video or b"\0"), dtype=torch.uint8)
    facts: dict[str, Any] = {
        "noise_level": rollouts.noise_level,
        "keep": rollouts.keep,
        "reasons": list(rollouts.reasons),
        "seconds": dict(rollouts.seconds),
        "videos": [len(video) for video in rollouts.videos],
    }
    save_file(tensors, path, metadata={**(metadata or {}), "facts": json.dumps(facts)})


def load_rollouts(path: Path) -> Rollouts:
    """Inverse of ``save_rollouts``.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        videos = [bytes(tensors[f"video.{i}"].numpy().tobytes())[:length] for i, length in enumerate(facts["videos"])]
        return Rollouts(
            inputs=Inputs(*(tensors[f"inputs.{name}"] for name in _INPUTS)),
            noise_level=float(facts["noise_level"]),
            keep=int(facts["keep"]),
            videos=tuple(videos),
            reasons=tuple(facts["reasons"]),
            seconds=facts["seconds"],
            **{name: tensors[name] for name in _TENSORS},
        )
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it, the run computes it again") from error
