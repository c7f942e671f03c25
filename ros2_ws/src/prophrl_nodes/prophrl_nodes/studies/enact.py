"""What imagination promised, carried out: the commands of imagined rollouts, executed on the twin from the same starts.

A policy's own trials say whether the policy is good; this says whether a rollout's verdict is true. The policy acted on
imagined pictures, so nothing on the twin helps it: where imagination was wrong, the hand closes beside the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention, integrate_chunk
from prophrl_models.data.image import Image, ImageRegion, policy_image
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.reward.attempts import TrajectoryJudge
from prophrl_models.reward.frames import read_video
from prophrl_models.reward.judge import Confusion, Judge
from prophrl_models.rl.rollouts import Mode, Rollouts, RolloutWorker, Unit, derived_seed
from prophrl_models.rl.separation import Separation, separation
from prophrl_models.trials.video import write_video
from prophrl_nodes.studies.cell_pool import MAX_WORKERS, run_in_cells
from prophrl_nodes.studies.lane_play import SETTLE_S
from prophrl_nodes.studies.lane_starts import lane_prompts
from prophrl_nodes.studies.watched_lane import WatchedLane
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.tasks import Placement, get_task, sample_placement

VIDEOS = "videos"


@dataclass(frozen=True)
class EnactSettings:
    """What is imagined and carried out.

    Attributes:
        task: the twin's task.
        starts: placements, drawn like those of demonstrations, never near the held-out ones.
        group_size: rollouts from each.
        mode: "sde" explores as reinforcement does, "ode" acts as deployed.
        seed: of placements and noise.
        starts_at_once: groups that are imagined together.
    """

    task: str
    starts: int = 20
    group_size: int = 8
    mode: Mode = "sde"
    seed: int = 0
    starts_at_once: int = 4

    def __post_init__(self) -> None:
        if self.starts < 1 or self.group_size < 1 or self.starts_at_once < 1:
            raise ValueError(f"need at least one start and rollout, got {self.starts} and {self.group_size}")


@dataclass(frozen=True)
class Enacted:
    """One rollout: what the judge made of its imagined pictures, and what came of its commands.

    Attributes:
        group: which start.
        imagined, score: the judge's verdict, None where it gave none, and its score.
        seen: its verdict on the twin's pictures of the same commands, if it looks at pictures.
        true: whether the task was done on the twin at the end, without a protective stop.
        stop: why the arm stopped, if it did.
        video: imagined beside the twin's pictures, relative to the output folder.
    """

    group: int
    imagined: bool | None
    score: float
    true: bool
    stop: str
    video: str
    seen: bool | None = None


@dataclass(frozen=True)
class EnactSummary:
    """All rollouts with a verdict together.

    Attributes:
        rollouts, unjudged: with a verdict, and without.
        imagined, true, stopped: shares of rollouts that imagination took for successes, that were, and that ended in a
            protective stop.
        confusion: verdicts against the twin.
        confusion_seen: the same of the judge alone on the twin's pictures; no judgements of one that looks
            at commands.
        separation: does the score tell which rollouts succeeded?
    """

    rollouts: int
    unjudged: int
    imagined: float
    true: float
    stopped: float
    confusion: Confusion
    confusion_seen: Confusion
    separation: Separation

    @classmethod
    def of(cls, results: Sequence[Enacted]) -> EnactSummary:
        """Sum up.

        Raises:
            ValueError: the judge gave no verdict at all.
        """
        judged = [result for result in results if result.imagined is not None]
        if not judged:
            raise ValueError(f"the judge gave no verdict on any of {len(results)} rollouts; look at their videos")
        truth = [result.true for result in judged]
        return cls(
            len(judged),
            len(results) - len(judged),
            float(np.mean([bool(result.imagined) for result in judged])),
            float(np.mean(truth)),
            float(np.mean([bool(result.stop) for result in judged])),
            Confusion.of([result.imagined for result in judged], truth),
            Confusion.of([result.seen for result in results], [result.true for result in results]),
            separation([result.score for result in judged], truth, [result.group for result in judged]),
        )

    def text(self) -> str:
        """For a terminal."""
        c, within, overall = self.confusion, self.separation.within, self.separation.overall
        s = self.confusion_seen
        said = [
            f"{self.rollouts} rollouts: imagined success {self.imagined:.2f}, on the twin {self.true:.2f}, protective "
            f"stops {self.stopped:.2f}",
            f"true among imagined successes: {_rate(c.precision)}; seen among true successes: {_rate(c.recall)}",
            f"a success has the higher score than a failure of the same start in {within.value:.2f} of {within.pairs} "
            f"pairs ({within.low:.2f} to {within.high:.2f}), of any start in {overall.value:.2f} ({overall.low:.2f} to "
            f"{overall.high:.2f}); 0.5 is guessing",
        ]
        if s.judged:
            said.insert(2, f"the judge on the twin's own pictures: {_rate(s.precision)} and {_rate(s.recall)}")
        if self.unjudged:
            said.append(f"without a verdict: {self.unjudged}")
        return "\n".join(said)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "separation": self.separation.to_json()}


def _rate(share: float | None) -> str:
    return "none" if share is None else f"{share:.2f}"


@dataclass(frozen=True)
class _Job:
    task: str
    placement: Placement
    actions_SN7: NDArray[np.float32]
    convention: ActionConvention
    rate_hz: float
    region: ImageRegion
    imagined: bytes
    video: Path


@dataclass(frozen=True)
class _Done:
    """What came of a job; the twin's pictures in the size of the imagined ones."""

    true: bool
    stop: str
    pictures_THW3: Image


def enact(
    make_worker: Callable[[Sequence[Prompt]], RolloutWorker],
    sync: SyncSpec,
    settings: EnactSettings,
    out: Path,
    *,
    workers: int = MAX_WORKERS,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[Enacted]:
    """Imagine groups of rollouts, then execute their commands on the twin.

    Args:
        make_worker: gives the worker for start states.
        sync: how the policy's observations are formed.
        out: folder of the videos.
        workers: processes for the twin.
        tell: (rollouts carried out, rollouts in all).
    """
    placements = [
        sample_placement(settings.task, np.random.default_rng((settings.seed, index)))
        for index in range(settings.starts)
    ]
    worker = make_worker(lane_prompts(settings.task, placements, sync))
    jobs: list[_Job] = []
    found: list[tuple[int, float, float]] = []
    for rollouts in _imagined(worker, settings):
        actions = worker.executed_BSN7(rollouts)
        for row, group in enumerate(rollouts.start_B.tolist()):
            found.append((group, float(rollouts.success_B[row]), float(rollouts.score_B[row])))
            video = out / VIDEOS / f"{group:03d}_{row % settings.group_size}.mp4"
            jobs.append(
                _Job(
                    settings.task, placements[group], actions[row], worker.policy.spec.convention,
                    worker.policy.spec.control_rate_hz, sync.image_region, rollouts.videos[row], video,
                )
            )  # fmt: skip
    (out / VIDEOS).mkdir(parents=True, exist_ok=True)
    results: list[Enacted] = []
    tell(0, len(jobs))
    for (group, imagined, score), (job, done) in zip(found, run_in_cells(_Cell, jobs, workers), strict=True):
        verdict = None if np.isnan(imagined) else bool(imagined)
        name = str(job.video.relative_to(out))
        results.append(Enacted(group, verdict, score, done.true, done.stop, name, _seen(worker.judge, done, job.task)))
        tell(len(results), len(jobs))
    return results


def _seen(judge: Judge, done: _Done, task: str) -> bool | None:
    """The judge's verdict on the twin's pictures; None of one that looks at commands, which are the same here."""
    if isinstance(judge, TrajectoryJudge):
        return None
    (looked,) = judge.judge([done.pictures_THW3], [get_task(task).instruction])
    return looked.success


def _imagined(worker: RolloutWorker, settings: EnactSettings) -> Iterator[Rollouts]:
    for first in range(0, settings.starts, settings.starts_at_once):
        groups = range(first, min(first + settings.starts_at_once, settings.starts))
        members = [(group, member) for group in groups for member in range(settings.group_size)]
        seeds = tuple(derived_seed(settings.seed, "enact", group, member) for group, member in members)
        yield worker.run(Unit(tuple(group for group, _ in members), seeds, settings.mode, video=True))


class _Cell:
    """The lane of one process."""

    def __init__(self) -> None:
        self._lane: WatchedLane | None = None

    def run(self, job: _Job) -> _Done:
        """Execute the commands; writes the video."""
        if self._lane is None:
            self._lane = WatchedLane(job.task, control_rate_hz=job.rate_hz)
        lane = self._lane
        lane.reset(job.placement)
        pictures = [_picture(lane, job)]
        for rows in job.actions_SN7.astype(np.float64):
            before = len(lane.moments)
            if not lane.protective_stop:
                lane.execute_pose_targets(
                    integrate_chunk(lane.world.T_base_tcp, rows, job.convention), rows[:, 6], job.rate_hz
                )
                lane.hold(SETTLE_S)
            # Each row is shown by the picture one tick after its end, when the arm has caught up.
            shown = [policy_image(moment.image_HW3, job.region) for moment in lane.moments[before + 2 :]][
                : len(rows) - 1
            ]
            pictures += [*shown, *[_picture(lane, job)] * (len(rows) - len(shown))]
        seen_THW3 = _write_beside(job, pictures)
        stop = lane.protective_stop or ""
        return _Done(not stop and lane.success().success, stop, seen_THW3)

    def close(self) -> None:
        if self._lane is not None:
            self._lane.close()


def _picture(lane: FastLane, job: _Job) -> Image:
    return policy_image(lane.observe().image_HW3, job.region)


def _write_beside(job: _Job, pictures: Sequence[Image]) -> Image:
    """Imagined left, the twin right, at the imagined size; returns the twin's."""
    raw = job.video.with_suffix(".imagined.mp4")
    raw.write_bytes(job.imagined)
    imagined_THW3 = read_video(raw)
    raw.unlink()
    height, width = imagined_THW3.shape[1:3]
    seen = [cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in pictures]
    beside = [np.concatenate(both, axis=1) for both in zip(imagined_THW3, seen, strict=False)]
    write_video(job.video, iter(beside), job.rate_hz, quality=18)
    return np.stack(seen)
