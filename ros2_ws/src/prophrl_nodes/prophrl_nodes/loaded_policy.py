"""A policy that the policy node has at hand: loaded, warmed up, with what belongs to it alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calibration.camera import PinholeCamera
from prophrl_models.trials.plan import PlanError
from prophrl_nodes.blinded import policies_by_letter
from prophrl_nodes.camera_file import CameraFile
from prophrl_nodes.chunk_schedule import ChunkSchedule, LatencyBudget
from prophrl_nodes.policy_inputs import PolicyInputs
from prophrl_nodes.ros import Refused
from prophrl_nodes.state_feed import StateFeed
from robot_bridge.cell_files import open_cell

if TYPE_CHECKING:
    from prophrl_nodes.planning_runner import PlanningRunner
    from prophrl_nodes.policy_runner import PolicyRunner


@dataclass(frozen=True)
class LoadedPolicy:
    """One policy.

    Attributes:
        name: what it is called in messages: its checkpoint's name, or its letter in a blinded plan.
        runner: answers observations.
        inputs: brings together what this policy was trained to look at.
        feed: the state as it was trained to have it.
        budget, schedule: of its latency; no schedule without real-time chunking.
        planner: the runner, where it looks once: its chunks are one plan, void when one of them is not executed.
    """

    name: str
    runner: PolicyRunner
    inputs: PolicyInputs
    feed: StateFeed
    budget: LatencyBudget
    schedule: ChunkSchedule | None
    planner: PlanningRunner | None = None


def wanted_policies(checkpoint: str, policies: str, plan: str) -> dict[str, str]:
    """Checkpoint folder or server by letter; the letter of a policy that is not of a plan is empty.

    Raises:
        Refused: none, both kinds, or not those of the plan.
    """
    if checkpoint and policies:
        raise Refused(f"both checkpoint ({checkpoint}) and policies ({policies}) are given; leave one of them out")
    if checkpoint:
        return {"": checkpoint}
    if not policies:
        raise Refused("no policy: set the parameter 'checkpoint' to a folder written by prophrl train")
    try:
        return policies_by_letter(policies, plan)
    except (PlanError, ValueError) as error:
        raise Refused(str(error)) from error


def load_policy(where: str, letter: str, value: Callable[[str], Any]) -> LoadedPolicy:
    """Load a policy.

    Args:
        where: checkpoint folder or server's address.
        letter: its letter in a plan, or empty.
        value: gives the policy node's parameters.

    Raises:
        Refused: it cannot be loaded, or not be run as the parameters say.
    """
    planner = _open_planning(where, value) if value("plan_in") else None
    runner = planner or _open(where, value)
    spec, budget, schedule = runner.spec, LatencyBudget(), None
    if value("chunking") == "real_time":
        length = int(value("execute_length") or spec.chunk)
        schedule = ChunkSchedule(spec.chunk, spec.control_rate_hz, length, value("tracking_lag_s"), budget)
    try:
        feed = StateFeed(spec, real_time=schedule is not None)
    except ValueError as error:
        raise Refused(str(error)) from error
    inputs = PolicyInputs(runner.sync, value("instruction"))
    return LoadedPolicy(letter or runner.policy_id, runner, inputs, feed, budget, schedule, planner)


def _open(where: str, value: Callable[[str], Any]) -> PolicyRunner:
    from prophrl_nodes.policy_runner import CheckpointError, ServingError, SetupError, TokenError, open_runner

    try:
        return open_runner(
            where,
            device=value("device"),
            seed=value("seed"),
            threads=value("torch_threads"),
            precision=value("precision"),
            compile=value("compile"),
            extra_latency_s=value("extra_latency_s"),
            token_file=value("token_file"),
            real_time=value("chunking") == "real_time",
        )
    except (CheckpointError, ServingError, SetupError, TokenError) as error:
        raise Refused(str(error)) from error


def _open_planning(where: str, value: Callable[[str], Any]) -> PlanningRunner:
    from prophrl_models.training.settings import TrainingError
    from prophrl_nodes.planning_runner import PlanningRunner
    from prophrl_nodes.policy_runner import REMOTE, CheckpointError, SetupError

    if where.startswith(REMOTE) or value("chunking") != "synchronous":
        raise Refused(
            f"plan_in {value('plan_in')}: a whole attempt is planned by a policy in this process and with chunking "
            f"'synchronous', got {where} and {value('chunking')!r}; name a checkpoint folder, or leave plan_in out"
        )
    camera_file = CameraFile(open_cell(value("cell"), value("host")))

    def camera() -> PinholeCamera | None:
        camera_file.reload_if_changed()
        return camera_file.camera

    try:
        return PlanningRunner(
            where,
            value("plan_in"),
            camera,
            calls=value("plan_calls"),
            keep=value("execute_length"),
            noise_level=value("plan_noise"),
            device=value("device"),
            seed=value("seed"),
            threads=value("torch_threads"),
        )
    except (CheckpointError, SetupError, TrainingError) as error:
        raise Refused(str(error)) from error
