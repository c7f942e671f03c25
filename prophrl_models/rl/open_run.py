"""A run from folders: policy checkpoint, world model, judge and dataset to a ready trainer."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import json_sha256
from prophrl_models.policies.interface import FlowPolicy
from prophrl_models.policies.load import load_policy
from prophrl_models.prophet.regions import check_regions
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.prophet.worlds import load_world
from prophrl_models.reward.factory import JudgeSettings, judge_identity, open_judge
from prophrl_models.rl.executor import Executor, InProcessExecutor
from prophrl_models.rl.report import write_report
from prophrl_models.rl.rollouts import RolloutWorker
from prophrl_models.rl.settings import RlSettings
from prophrl_models.rl.starts import StartSplit, joined_starts, split_starts, starts_hash
from prophrl_models.rl.trainer import Examiner, StepReport, Trainer
from prophrl_models.rl.update import choose_parameters
from prophrl_models.training.checkpoint import PROVENANCE, read_checkpoint, sha256

WORLD_DTYPES = {"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Sources:
    """What a run is made of.

    Attributes:
        policy: checkpoint to start from; also the reference of the KL term.
        world: checkpoint folder of a world model.
        datasets: their episodes' first pictures are the start states.
        judge, auditor: see ``reward.factory``; the auditor is a second judge that looks at evaluations only.
        instructions: only starts with one of these; all when empty.
        device: where policy and world run.
        world_steps: passes of the world model for a chunk; its own when None.
    """

    policy: Path
    world: Path
    datasets: tuple[Path, ...]
    judge: JudgeSettings
    auditor: JudgeSettings | None = None
    instructions: tuple[str, ...] = ()
    device: str = "cpu"
    world_steps: int | None = None


@dataclass(frozen=True)
class Starts:
    """The start states of a run.

    Attributes:
        prompts: the held-out ones last.
        training, held_out: how many there are of each.
        split: sides of all starts that the policy has met, in earlier runs (by its checkpoint's record) and in this.
    """

    prompts: list[Prompt]
    training: int
    held_out: int
    split: StartSplit


def open_starts(sources: Sources, settings: RlSettings, policy: FlowPolicy) -> Starts:
    """The starts of the datasets; a policy that was reinforced before keeps its held-out ones."""
    datasets = [Dataset(folder) for folder in sources.datasets]
    check_regions(sources.policy, sources.world, datasets)
    found = joined_starts(
        datasets,
        instructions=sources.instructions,
        height=policy.spec.image_height,
        width=policy.spec.image_width,
    )
    held_out = settings.watch.held_out if settings.watch.evaluate_every else 0
    earlier = StartSplit.of_provenance(json.loads((sources.policy / PROVENANCE).read_text(encoding="utf-8")))
    training, kept_away = split_starts(found, held_out, settings.seed, earlier)
    return Starts(training + kept_away, len(training), len(kept_away), earlier.with_run(training, kept_away))


def open_worker(sources: Sources, settings: RlSettings, policy: FlowPolicy | None = None) -> RolloutWorker:
    """A worker; builds everything but a policy that is given. Actors of Ray call this in their own process."""
    if policy is None:
        policy = load_policy(sources.policy, sources.device)
        choose_parameters(policy, settings.update)
    starts = open_starts(sources, settings, policy).prompts
    return RolloutWorker(
        policy,
        load_world(
            sources.world,
            device=sources.device,
            dtype=WORLD_DTYPES[settings.rollout.world_precision],
            steps=sources.world_steps,
        ),
        open_judge(sources.judge),
        starts,
        settings.rollout,
        auditor=open_judge(sources.auditor) if sources.auditor else None,
        precision=settings.update.precision,
    )


def second_judge(sources: Sources) -> str:
    """The auditor in the words that ask for it; empty without one."""
    judge = sources.auditor
    if judge is None:
        return ""
    place = f"{judge.kind}:{judge.place}" + (f",{judge.model}" if judge.model else "")
    usual = JudgeSettings()
    other = {n: getattr(judge, n) for n in ("style", "votes", "needed") if getattr(judge, n) != getattr(usual, n)}
    return f"--second-judge {place}" + "".join(f",{name}={value}" for name, value in other.items())


def open_trainer(
    sources: Sources,
    settings: RlSettings,
    out_dir: str | Path,
    *,
    ray_workers: int = 0,
    ray_gpus: float = 0.0,
    examiner: Examiner | None = None,
    audit: str = "",
    watch: Callable[[StepReport], None] | None = None,
) -> Trainer:
    """A trainer; with ``ray_workers`` rollouts are computed by so many actors, each with a policy and world of its own.

    Args:
        examiner: see ``Trainer``; ``audit`` says in words what it does.

    Raises:
        CheckpointError, DatasetError, JudgeError, TrainingError: a part is missing or does not fit the others.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)  # adapters, where there are any, are drawn here and in every actor alike
    files = read_checkpoint(sources.policy)
    policy = load_policy(sources.policy, sources.device)
    choose_parameters(policy, settings.update)
    starts = open_starts(sources, settings, policy)
    executor: Executor
    if ray_workers:
        from prophrl_models.rl.executor_ray import RayExecutor

        recipe = functools.partial(open_worker, sources, settings)
        executor = RayExecutor(recipe, ray_workers, threads=torch.get_num_threads(), gpus=ray_gpus)
    else:
        executor = InProcessExecutor(open_worker(sources, settings, policy))
    hashes = [Dataset(folder).content_hash for folder in sources.datasets]
    provenance: dict[str, Any] = {
        "dataset_hash": files.provenance["dataset_hash"],
        "calibration_ids": files.provenance["calibration_ids"],
        "parent": {"checkpoint": sources.policy.name, "sha256": files.provenance["sha256"]["model.safetensors"]},
        "world": {
            "checkpoint": sources.world.name,
            "sha256": sha256(sources.world / "model.safetensors"),
            "steps": sources.world_steps,
        },
        "judge": judge_identity(sources.judge),
        "starts": starts_hash(starts.prompts),
        "starts_dataset": hashes[0] if len(hashes) == 1 else json_sha256(hashes),
    }
    if sources.auditor:
        provenance["second_judge"] = judge_identity(sources.auditor)
    if "sync" in files.provenance:
        provenance["sync"] = files.provenance["sync"]
    return Trainer(
        policy,
        executor,
        settings,
        out_dir,
        training_starts=starts.training,
        held_out_starts=starts.held_out,
        normalisation=files.normalisation,
        provenance=provenance,
        record={"starts_split": starts.split.to_json()},
        examiner=examiner,
        audit=audit or second_judge(sources),
        watch=watch,
        write_report=write_report,
    )
