"""A policy checkpoint that answers observations with action chunks. The only module of the nodes that imports torch."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from prophrl_models.data.episode import Observation
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.interface import ObservationBatch, PolicySpec, UnknownInstruction
from prophrl_models.policies.load import load_policy
from prophrl_models.training.checkpoint import CheckpointError, read_checkpoint


class PolicyRunner:
    """Loads a checkpoint and samples chunks from it.

    Args:
        checkpoint: folder as ``prophrl train`` writes it.
        device: torch device, "auto" takes a GPU when there is one.
        seed: of the sampling noise; the same observations then give the same chunks.
        threads: CPU threads torch may use, 0 leaves torch's own choice.

    Raises:
        CheckpointError: the checkpoint cannot be trusted or built.
    """

    def __init__(self, checkpoint: str, device: str = "auto", seed: int = 0, threads: int = 1) -> None:
        if threads:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        folder = Path(checkpoint).expanduser()
        self.policy = load_policy(folder, device)
        self.device = device
        self.policy_id = folder.resolve().name
        self._provenance = read_checkpoint(folder).provenance
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._seed = seed

    @property
    def spec(self) -> PolicySpec:
        """What the checkpoint promises."""
        return self.policy.spec

    @property
    def sync(self) -> SyncSpec:
        """How observations were formed in training, so that they are formed alike here."""
        stored = self._provenance.get("sync")
        return SyncSpec.from_json(stored) if stored else SyncSpec(control_rate_hz=self.spec.control_rate_hz)

    def restart(self) -> None:
        """Begin a run: the noise starts anew from the seed."""
        self._generator.manual_seed(self._seed)

    def infer(self, observation: Observation) -> tuple[NDArray[np.float32], float]:
        """One chunk [CH, D] in environment units, and the seconds it took.

        Raises:
            UnknownInstruction, ValueError: the observation is not one this policy was trained on.
        """
        started_s = time.perf_counter()
        chunk_BCD, _trace = self.policy.sample_actions(ObservationBatch.of([observation]), generator=self._generator)
        actions = chunk_BCD[0].float().cpu().numpy()
        return actions, time.perf_counter() - started_s


__all__ = ["CheckpointError", "PolicyRunner", "UnknownInstruction"]
