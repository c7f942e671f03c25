"""A policy engine as the runner of fast-lane trials, with the noise of a trial named by the caller."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prophrl_models.data.episode import Observation
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.grip import CLOSE_BELOW, firm_grip
from prophrl_models.policies.interface import FlowPolicy, PolicySpec
from prophrl_models.serving.engine import PolicyEngine, PolicyRequest, chunk_seed
from prophrl_models.serving.latency import LatencyMeter
from prophrl_nodes.policy_runner import Answer, chunk_duration_s

if TYPE_CHECKING:
    from prophrl_models.policies.chunking import Committed


class EngineRunner:
    """See ``policy_runner.PolicyRunner``. ``begin`` names the noise, so that paired trials start from the same one."""

    extra_latency_s = 0.0
    close_below = CLOSE_BELOW

    def __init__(self, engine: PolicyEngine) -> None:
        self.engine = engine
        self.latency = LatencyMeter(chunk_duration_s(engine.spec))
        self._seed = self._run = self._index = 0

    @classmethod
    def of_checkpoint(cls, folder: str | Path, device: str = "cpu", threads: int = 1) -> EngineRunner:
        """The runner of a checkpoint folder.

        Raises:
            CheckpointError: the checkpoint cannot be trusted or built.
        """
        return cls(PolicyEngine.load(folder, device, threads=threads))

    @classmethod
    def of_policy(cls, policy: FlowPolicy, sync: SyncSpec | None = None) -> EngineRunner:
        """The runner of a policy in memory, which stays as it is: the engine works on a shallow copy of it.

        The copy shares weights, so it is the policy of this moment: use it before the next update.

        Args:
            sync: how its observations were formed in training, see ``CheckpointFiles.sync``; the usual way when None.
        """
        shared = copy.copy(policy)  # the engine sets the copy's spec, not the caller's
        return cls(PolicyEngine(shared, next(policy.parameters()).device, sync=sync))

    @property
    def policy_id(self) -> str:
        return self.engine.policy_id

    @property
    def checkpoint_id(self) -> str:
        return self.engine.checkpoint_id

    @property
    def device(self) -> str:
        return str(self.engine.device)

    @property
    def spec(self) -> PolicySpec:
        return self.engine.spec

    @property
    def sync(self) -> SyncSpec:
        return self.engine.sync

    def begin(self, seed: int) -> None:
        """The next trial's noise is that of ``seed``."""
        self._seed = seed

    def restart(self, run: int = 0) -> None:
        self._run, self._index = run, 0

    def infer(self, observation: Observation, *, committed: Committed | None = None) -> Answer:
        request = PolicyRequest(observation, chunk_seed(self._seed + self._run, self._index), committed)
        self._index += 1
        with torch.no_grad():
            answer = self.engine.answer([request])[0]
        return Answer(firm_grip(answer.actions_CHD, self.close_below), answer.timing["total_ms"] * 1e-3, answer.timing)

    def close(self) -> None:
        """Nothing to let go of."""
