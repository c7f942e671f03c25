"""Trials of several policies in the fast lane, on the same placements with the same noise, in one or two processes.

Every trial is a function of (checkpoint, settings, placement, number): it can be run anywhere and kept in a log, so an
interrupted study goes on where it stopped, and a policy can be added to a finished one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prophrl_models.policies.interface import PolicySpec
from prophrl_models.serving.engine import chunk_seed, id_of
from prophrl_models.training.checkpoint import read_checkpoint
from prophrl_nodes.state_feed import StateFeed
from prophrl_nodes.studies.cell_pool import MAX_WORKERS, run_in_cells
from prophrl_nodes.studies.engine_runner import EngineRunner
from prophrl_nodes.studies.fast_placements import fast_placements
from prophrl_nodes.studies.fast_trials_log import TrialLog
from prophrl_nodes.studies.filmed_lane import VIDEO_RATE_HZ, FilmedLane
from prophrl_nodes.studies.lane_trial import LaneSettings, run_lane_trial
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.tasks import Placement, get_task

TIME_LIMIT, PROTECTIVE_STOP = "time limit", "protective stop"


class StudyError(ValueError):
    """A study that cannot be run as asked for; the message says what to change."""


@dataclass(frozen=True)
class TrialSettings:
    """What every policy is put through.

    Attributes:
        task: what is tried.
        trials: placements, see ``fast_placements``.
        execute_length, chunking, latency_s, max_duration_s: see ``LaneSettings``.
        seed: of the placements after the grid, and of the policies' noise.
    """

    task: str
    trials: int
    execute_length: int = 8
    chunking: str = "synchronous"
    latency_s: float = 0.0
    max_duration_s: float = 0.0
    seed: int = 0

    @property
    def lane(self) -> LaneSettings:
        return LaneSettings(self.chunking, self.latency_s, self.execute_length, self.max_duration_s)

    def of_a_trial(self) -> dict[str, Any]:
        """What a trial's outcome depends on; not how many there are."""
        return {name: value for name, value in asdict(self).items() if name != "trials"}


@dataclass(frozen=True)
class Contender:
    """A policy in the study; several of one name are seeds of one training."""

    name: str
    folder: Path
    checkpoint_id: str = ""


@dataclass(frozen=True)
class FastTrial:
    """One trial.

    Attributes:
        index: number of its placement.
        success: the judge's verdict at the end.
        reason: in words; empty after a success.
        stop: what ended a failed trial, ``TIME_LIMIT`` or ``PROTECTIVE_STOP``; empty after a success.
        unmet: the task's conditions that did not hold at the end of a failed trial.
        duration_s: simulated time.
        chunks, refused: chunks executed, and those the player did not take.
    """

    index: int
    success: bool
    reason: str
    stop: str
    unmet: tuple[str, ...]
    duration_s: float
    chunks: int
    refused: int

    @staticmethod
    def from_json(raw: dict[str, Any]) -> FastTrial:
        return FastTrial(**{**raw, "unmet": tuple(raw["unmet"])})


@dataclass(frozen=True)
class _Job:
    place: int
    index: int
    folder: Path
    placement: Placement
    settings: TrialSettings
    device: str
    video: Path | None = field(default=None)


def run_fast_trials(
    contenders: Sequence[Contender],
    settings: TrialSettings,
    *,
    workers: int = 1,
    device: str = "cpu",
    log: TrialLog | None = None,
    videos: int = 0,
    video_folder: Path | None = None,
    on_trial: Callable[[FastTrial], None] = lambda trial: None,
) -> list[list[FastTrial]]:
    """All trials of all contenders, in the order of the placements.

    Args:
        workers: processes, at most ``MAX_WORKERS``.
        device: where the policies run.
        log: results are kept in it and taken from it.
        videos: so many placements of every contender are filmed, into ``video_folder``.
        on_trial: told about every trial, those from the log included.

    Raises:
        CheckpointError: a checkpoint cannot be used.
        StudyError: a policy and the settings do not go together.
    """
    if not 1 <= workers <= MAX_WORKERS or settings.trials < 1:
        raise StudyError(f"need 1..{MAX_WORKERS} workers and at least one trial, got {workers} and {settings.trials}")
    placements = fast_placements(settings.task, settings.trials, settings.seed)
    done: list[dict[int, FastTrial]] = []
    jobs: list[_Job] = []
    for place, contender in enumerate(contenders):
        done.append({})
        for index, placement in enumerate(placements):
            video = None
            if index < videos and video_folder is not None:
                video = video_folder / f"{place + 1:02d}_{_file_name(contender.name)}_{index + 1:03d}.mp4"
            known = log.find(contender.checkpoint_id, settings.of_a_trial(), index) if log is not None else None
            if known is not None and (video is None or video.is_file()):
                done[place][index] = FastTrial.from_json(known)
                on_trial(done[place][index])
            else:
                jobs.append(_Job(place, index, contender.folder, placement, settings, device, video))
    for job, trial in run_in_cells(_Cell, jobs, workers):
        done[job.place][job.index] = trial
        if log is not None:
            log.add(contenders[job.place].checkpoint_id, settings.of_a_trial(), job.placement.to_json(), asdict(trial))
        on_trial(trial)
    return [[found[index] for index in range(settings.trials)] for found in done]


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, with a number where one occurs more than once."""
    return [f"{n} ({list(names[: k + 1]).count(n)})" if names.count(n) > 1 else n for k, n in enumerate(names)]


def identified(contenders: Sequence[Contender], settings: TrialSettings) -> list[Contender]:
    """The contenders with the identities of their checkpoints, each checked against the settings.

    Raises:
        CheckpointError: a checkpoint is damaged.
        StudyError: it was not trained for the task, or cannot be run like this.
    """
    found = []
    for contender in contenders:
        files = read_checkpoint(contender.folder)
        check_spec(files.spec, settings, f"{contender.name} ({contender.folder})")
        found.append(Contender(contender.name, contender.folder, id_of(files.provenance)))
    return found


def check_spec(spec: PolicySpec, settings: TrialSettings, name: str) -> None:
    """Refuse a policy that could not be tried.

    Raises:
        StudyError: says why.
    """
    task, lane = get_task(settings.task), settings.lane
    if spec.instructions and task.instruction not in spec.instructions:
        raise StudyError(
            f"{name} was not trained on {task.instruction!r} ({task.id}); it knows "
            f"{', '.join(map(repr, spec.instructions))}"
        )
    if not 1 <= lane.execute_length <= spec.chunk:
        raise StudyError(
            f"{name} plans {spec.chunk} actions: execute 1..{spec.chunk} of them, not {lane.execute_length}"
        )
    try:
        StateFeed(spec, real_time=lane.chunking != "synchronous")
    except ValueError as error:
        raise StudyError(f"{name}: {error}") from error


def run_trial(
    lane: FastLane, runner: EngineRunner, placement: Placement, index: int, settings: TrialSettings
) -> FastTrial:
    """One trial with the noise of (settings.seed, index)."""
    runner.begin(chunk_seed(settings.seed, index))
    trial = run_lane_trial(lane, runner, placement, settings.lane)
    unmet = () if trial.success else tuple(name for name, holds in lane.success().terms.items() if not holds)
    stop = "" if trial.success else PROTECTIVE_STOP if lane.protective_stop else TIME_LIMIT
    return FastTrial(index, trial.success, trial.reason, stop, unmet, trial.duration_s, trial.chunks, trial.refused)


class _Cell:
    """The policy and the lane that were used last: jobs come sorted by policy, so this is all a process keeps."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._runner: EngineRunner | None = None
        self._lane: FilmedLane | None = None
        self._lane_of: tuple[str, float] | None = None

    def run(self, job: _Job) -> FastTrial:
        if self._runner is None or self._folder != job.folder:
            self._runner, self._folder = EngineRunner.of_checkpoint(job.folder, job.device), job.folder
        rate_hz = self._runner.spec.control_rate_hz
        if self._lane is None or self._lane_of != (job.settings.task, rate_hz):
            self.close()
            self._lane = FilmedLane(job.settings.task, control_rate_hz=rate_hz)
            self._lane_of = (job.settings.task, rate_hz)
        lane = self._lane
        if job.video is None:
            return run_trial(lane, self._runner, job.placement, job.index, job.settings)
        from prophrl_models.trials.video import write_video

        lane.start_filming()
        trial = run_trial(lane, self._runner, job.placement, job.index, job.settings)
        job.video.parent.mkdir(parents=True, exist_ok=True)
        write_video(job.video, lane.stop_filming(), VIDEO_RATE_HZ)
        return trial

    def close(self) -> None:
        if self._lane is not None:
            self._lane.close()
            self._lane = None


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name)
