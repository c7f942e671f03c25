"""Attempts planned in imagination (``rl.planner``) and executed on the twin without looking, as a dataset.

What came of a plan is its label. The same on a robot: ``planning_runner``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.dataset_format import DatasetHeader, json_sha256
from prophrl_models.data.dataset_writer import DatasetWriter
from prophrl_models.data.episode import Episode
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.prophet.checkpoint import PROVENANCE
from prophrl_models.prophet.regions import check_regions
from prophrl_models.prophet.rollout import ImaginedWorld
from prophrl_models.rl.planner import Planner
from prophrl_models.rl.rollouts import derived_seed
from prophrl_models.rl.settings import RolloutOptions
from prophrl_models.serving.engine import PolicyEngine, id_of
from prophrl_models.training.checkpoint import read_checkpoint
from prophrl_nodes.studies.cell_pool import MAX_WORKERS, run_in_cells
from prophrl_nodes.studies.fast_trials import TrialSettings, check_spec
from prophrl_nodes.studies.lane_play import PlayingLane, PlaySettings, placement_of
from prophrl_nodes.studies.lane_play_files import Played, calibration_of
from prophrl_nodes.studies.lane_starts import lane_prompts
from robot_bridge.twin.tasks import Placement

PIECE = 128
"""Attempts that are imagined before the first of them is carried out."""


@dataclass(frozen=True)
class _Job:
    folder: Path
    settings: PlaySettings
    placement: Placement
    plan_SN7: NDArray[np.float32]
    name: str
    calibration_id: str
    source_id: str


def write_planned(
    checkpoint: Path,
    load_world: Callable[[], ImaginedWorld],
    world: Path,
    settings: PlaySettings,
    attempts: int,
    out: Path,
    *,
    device: str = "cpu",
    workers: int = MAX_WORKERS,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Played:
    """So many attempts; those that are in the dataset already are not made again.

    Args:
        checkpoint: the policy.
        load_world: gives the world model of the folder ``world``; asked only if there is something to do.
        tell: (attempts in the dataset, attempts in all).

    Raises:
        CheckpointError: a checkpoint cannot be used.
        DatasetError: ``out`` holds something else.
        StudyError: the policy was not trained for the task.
        TrainingError: policy and world model do not go together.
        ValueError: no attempt, or too many workers.
    """
    if attempts < 1 or not 1 <= workers <= MAX_WORKERS:
        raise ValueError(f"need an attempt and 1..{MAX_WORKERS} workers, got {attempts} and {workers}")
    file = read_checkpoint(checkpoint)
    check_spec(file.spec, TrialSettings(settings.task, 1, settings.keep), str(checkpoint))
    check_regions(checkpoint, world, [])
    sync = file.sync or SyncSpec(control_rate_hz=file.spec.control_rate_hz)
    facts = {
        "checkpoint": id_of(file.provenance),
        "world": id_of(json.loads((world / PROVENANCE).read_text(encoding="utf-8"))),
        "planned": settings.to_json(),
    }
    calibration_yaml, calibration_id = calibration_of(settings)
    with closing(DatasetWriter(out, DatasetHeader(file.spec.convention, sync))) as writer:
        sources = [json_sha256({**facts, "index": index}) for index in range(attempts)]
        wanted = [index for index, source in enumerate(sources) if source not in writer.source_ids]
        done = attempts - len(wanted)
        tell(done, attempts)
        planner = _planner(checkpoint, load_world(), settings, device) if wanted else None
        for first in range(0, len(wanted), PIECE):
            indices = wanted[first : first + PIECE]
            assert planner is not None  # something is wanted
            starts = lane_prompts(settings.task, [placement_of(settings, index) for index in indices], sync)
            seeds = [derived_seed(settings.seed, "planned", index) for index in indices]
            jobs = [
                _Job(
                    checkpoint, settings, placement_of(settings, index), plan_SN7,
                    f"planned-{settings.task}-{sources[index][:12]}", calibration_id, sources[index],
                )
                for index, plan_SN7 in zip(indices, planner.plans_BSN7(starts, seeds), strict=True)
            ]  # fmt: skip
            for job, episode in run_in_cells(_Cell, jobs, workers):
                writer.add(episode, job.source_id, calibration_yaml=calibration_yaml)
                done += 1
                tell(done, attempts)
        digest = writer.finish()
        successes = sum(row.outcome == "success" for row in writer.rows)
        return Played(digest, successes, len(writer.rows) - successes)


def _planner(checkpoint: Path, world: ImaginedWorld, settings: PlaySettings, device: str) -> Planner:
    options = RolloutOptions(calls=settings.calls, keep=settings.keep, noise_level=settings.noise_level)
    return Planner(PolicyEngine.load(checkpoint, device).policy, world, options)


class _Cell:
    """The policy's conventions and the lane of one process."""

    def __init__(self) -> None:
        self._engine: PolicyEngine | None = None
        self._lane: PlayingLane | None = None

    def run(self, job: _Job) -> Episode:
        if self._engine is None or self._lane is None:
            self._engine = PolicyEngine.load(job.folder, "cpu", threads=1)
            self._lane = PlayingLane(job.settings)
        return self._lane.follow(self._engine, job.placement, job.plan_SN7, job.name, job.calibration_id)

    def close(self) -> None:
        if self._lane is not None:
            self._lane.close()
