"""Attempts of several policies in the fast lane (``lane_play``) as a dataset, made by one or two processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from calibration.storage import load_calibration, save_camera
from prophrl_models.data.dataset_format import DatasetError, DatasetHeader, json_sha256
from prophrl_models.data.dataset_writer import DatasetWriter
from prophrl_models.data.episode import Episode
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.serving.engine import PolicyEngine, id_of
from prophrl_models.training.checkpoint import read_checkpoint
from prophrl_nodes.studies.cell_pool import MAX_WORKERS, run_in_cells
from prophrl_nodes.studies.fast_trials import TrialSettings, check_spec
from prophrl_nodes.studies.lane_play import PlayingLane, PlaySettings

SERIAL = "TWIN00000000"
"""The twin's camera."""


@dataclass(frozen=True)
class Played:
    """What a dataset of attempts holds, by outcome."""

    content_hash: str
    successes: int
    failures: int


@dataclass(frozen=True)
class _Job:
    folder: Path
    settings: PlaySettings
    index: int
    name: str
    calibration_id: str
    source_id: str


def write_play(
    checkpoints: Sequence[str | Path],
    settings: PlaySettings,
    attempts: int,
    out: str | Path,
    *,
    workers: int = MAX_WORKERS,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Played:
    """So many attempts of the policies in turn; those that are in the dataset already are not made again.

    An attempt follows from checkpoint, settings and its number alone, so that more of them can be added later.

    Args:
        tell: (attempts in the dataset, attempts in all).

    Raises:
        CheckpointError: a checkpoint cannot be used.
        DatasetError: policies that see or act differently, or ``out`` holds something else.
        StudyError: a policy was not trained for the task.
        ValueError: no policy, no attempt, or too many workers.
    """
    if not checkpoints or attempts < 1 or not 1 <= workers <= MAX_WORKERS:
        raise ValueError(
            f"need a policy, an attempt and 1..{MAX_WORKERS} workers, got {len(checkpoints)}, {attempts} and {workers}"
        )
    files = [read_checkpoint(Path(folder)) for folder in checkpoints]
    for one in files:
        check_spec(one.spec, TrialSettings(settings.task, 1, settings.keep), str(one.folder))
    headers = [
        DatasetHeader(one.spec.convention, one.sync or SyncSpec(control_rate_hz=one.spec.control_rate_hz))
        for one in files
    ]
    for one, header in zip(files, headers, strict=True):
        if header != headers[0]:
            raise DatasetError(
                f"{one.folder} sees or acts differently from {files[0].folder}; give each a dataset of its own"
            )
    calibration_yaml, calibration_id = calibration_of(settings)
    with closing(DatasetWriter(out, headers[0])) as writer:
        jobs = []
        for index in range(attempts):
            one = files[index % len(files)]
            checkpoint_id = id_of(one.provenance)
            source = json_sha256({"checkpoint": checkpoint_id, "play": settings.to_json(), "index": index})
            if source not in writer.source_ids:
                name = f"play-{settings.task}-{source[:12]}"
                jobs.append(_Job(one.folder, settings, index, name, calibration_id, source))
        tell(attempts - len(jobs), attempts)
        for done, (job, episode) in enumerate(run_in_cells(_Cell, jobs, workers), attempts - len(jobs) + 1):
            writer.add(episode, job.source_id, calibration_yaml=calibration_yaml)
            tell(done, attempts)
        digest = writer.finish()
        successes = sum(row.outcome == "success" for row in writer.rows)
        return Played(digest, successes, len(writer.rows) - successes)


def calibration_of(settings: PlaySettings) -> tuple[str, str]:
    """The lane's camera as a calibration file's text, and its id."""
    with closing(PlayingLane(settings)) as lane, tempfile.TemporaryDirectory(prefix="prophrl-play-") as folder:
        file = Path(folder) / "calibration.yaml"
        save_camera(file, lane.camera, serial=SERIAL)
        return file.read_text(encoding="utf-8"), load_calibration(file).id


class _Cell:
    """The policy and the lane of one process."""

    def __init__(self) -> None:
        self._engines: dict[Path, PolicyEngine] = {}
        self._lane: PlayingLane | None = None

    def run(self, job: _Job) -> Episode:
        if job.folder not in self._engines:
            self._engines[job.folder] = PolicyEngine.load(job.folder, "cpu", threads=1)
        if self._lane is None:
            self._lane = PlayingLane(job.settings)
        return self._lane.attempt(self._engines[job.folder], job.index, job.name, job.calibration_id)

    def close(self) -> None:
        if self._lane is not None:
            self._lane.close()
