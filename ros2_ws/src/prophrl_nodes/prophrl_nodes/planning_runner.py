"""A policy that looks once: it plans the whole attempt in a world model and gives out the plan, chunk by chunk.

So a robot makes the attempts that a judge of commands learns best from (``prophrl_models.rl.planner``): what came of
commands that were chosen in imagination and that nobody corrected. With ``policy_runner`` the only module of the nodes
that imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera
from prophrl_models.data.episode import Observation
from prophrl_models.data.image import policy_camera
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.grip import firm_grip
from prophrl_models.policies.interface import PolicySpec
from prophrl_models.prophet.imagined import Prompt
from prophrl_models.prophet.regions import check_regions
from prophrl_models.prophet.worlds import load_world
from prophrl_models.rl.planner import Planner
from prophrl_models.rl.settings import RolloutOptions
from prophrl_models.serving.engine import PolicyAnswer, PolicyEngine, PolicyRequest
from prophrl_models.serving.errors import ServingError
from prophrl_nodes.policy_runner import Answer, TimedRunner

if TYPE_CHECKING:
    from prophrl_models.policies.chunking import Committed

PLANNING_S = 60.0
"""Longest acceptable answer: the first one is the whole plan."""


class PlanningRunner(TimedRunner):
    """See ``policy_runner.PolicyRunner``. After the plan's last chunk the arm is told to stay where it is.

    Args:
        checkpoint: folder as ``prophrl train`` writes it.
        world: folder of a world model that shows what the policy sees.
        camera: gives the calibrated camera of the whole picture, fixed in the base frame; None where there is none.
        calls: chunks of the plan.
        keep: rows of each that are executed, 0: all; the node must execute as many.
        noise_level: to explore with, as reinforcement does; 0: the policy as it is deployed.
        device, seed, threads: see ``policy_runner.InProcessRunner``.

    Raises:
        CheckpointError: a folder cannot be trusted or built.
        TrainingError: policy, world model and numbers do not go together.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        world: str | Path,
        camera: Callable[[], PinholeCamera | None],
        *,
        calls: int,
        keep: int,
        noise_level: float,
        device: str = "auto",
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        check_regions(Path(checkpoint), Path(world), [])
        self._engine = PolicyEngine.load(checkpoint, device, threads=threads)
        super().__init__(seed, 0.0, PLANNING_S)
        self.keep = keep or self._engine.spec.chunk
        """Rows of each chunk that are to be executed."""
        options = RolloutOptions(calls=calls, keep=self.keep, noise_level=noise_level)
        self._planner = Planner(self._engine.policy, load_world(world, device=self._engine.device), options)
        self._camera = camera
        self._plan_SN7: NDArray[np.float32] | None = None

    @property
    def policy_id(self) -> str:
        return self._engine.policy_id

    @property
    def checkpoint_id(self) -> str:
        return self._engine.checkpoint_id

    @property
    def device(self) -> str:
        return str(self._engine.device)

    @property
    def spec(self) -> PolicySpec:
        return self._engine.spec

    @property
    def sync(self) -> SyncSpec:
        return self._engine.sync

    @property
    def plan_SN7(self) -> NDArray[np.float32] | None:
        """All chunks of this run as they are given out; None before the first look."""
        return None if self._plan_SN7 is None else firm_grip(self._plan_SN7, self.close_below)

    def restart(self, run: int = 0) -> None:
        """Begin a run: the next observation is what is planned from."""
        super().restart(run)
        self._plan_SN7 = None

    def infer(self, observation: Observation, *, committed: Committed | None = None) -> Answer:
        """The next chunk of the plan, which the first observation of the run makes.

        Raises:
            UnknownInstruction, ValueError: as ``PolicyRunner.infer``; or ``committed``.
            ServingError: there is no calibrated camera yet, or it has no fixed place.
        """
        if committed is not None:
            raise ValueError("a plan made in imagination continues nothing; run it with chunking 'synchronous'")
        return self._timed(self._request(observation, None), self._next)

    def close(self) -> None:
        """Nothing to let go of before the process ends."""

    def _next(self, request: PolicyRequest) -> PolicyAnswer:
        if self._plan_SN7 is None:
            self._plan_SN7 = self._plan(request)
        rows_CHD = np.zeros((self.spec.chunk, self.spec.action_dim), dtype=np.float32)
        done = self.chunks_given >= len(self._plan_SN7)
        planned_ND = self._plan_SN7[min(self.chunks_given, len(self._plan_SN7) - 1)]
        rows_CHD[:, 6] = planned_ND[-1, 6]
        if not done:
            rows_CHD[: len(planned_ND)] = planned_ND
        return PolicyAnswer(rows_CHD, {})

    def _plan(self, request: PolicyRequest) -> NDArray[np.float32]:
        self._engine.check(request)
        camera = self._camera()
        if camera is None:
            raise ServingError(
                "a plan in imagination needs a calibrated camera with a fixed place; calibrate the cell (eye to hand)"
            )
        seen = request.observation
        shown = policy_camera(camera, self.sync.image_region)
        prompt = Prompt(seen.image_HW3, seen.state_7, seen.instruction, shown, "what the robot sees")
        plan_SN7: NDArray[np.float32] = self._planner.plans_BSN7([prompt], [request.seed])[0]
        return plan_SN7
