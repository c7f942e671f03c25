"""How good a judge is: precision and recall on videos whose outcome is known, whole ones and ones made to fail."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from prophrl_models.reward.classifier_data import DONE, LabelledVideo
from prophrl_models.reward.judge import Confusion, Judge, Verdict, Video
from prophrl_models.reward.undo import undone
from prophrl_models.trials.statistics import clopper_pearson

WHOLE, CUT, TURNED_BACK, TAKEN_BACK = "whole", "cut", "turned back", "taken back"
_SHORTEST = 8
"""Frames before the task was done that a success needs so that failures are made from it."""


@dataclass(frozen=True)
class Trial:
    """A video with a known outcome.

    ``kind``: "whole" (as it was recorded), "cut" (ends before the task was done), "turned back" (played to that moment
    and then backwards), "taken back" (the hand does all it should, but the object is not where it belongs).
    """

    kind: str
    task: str
    frames_THW3: Video
    success: bool


@dataclass(frozen=True)
class Judged:
    """One trial and what the judge said about it; ``video`` is the id of the recording."""

    video: str
    kind: str
    task: str
    success: bool
    verdict: Verdict


def trials(video: LabelledVideo, *, made: bool = True) -> Iterator[Trial]:
    """The video as it is; of a success also, with ``made``, failures: cut at the latest moment certainly before the
    task was done, cut half-way, played back from either moment to half of it, and, where that can be painted, with the
    object taken back from where it was put."""
    frames, before = np.asarray(video.frames_THW3), video.undecided_from
    yield Trial(WHOLE, video.task, frames, video.success)
    if not (made and video.success and before >= _SHORTEST):
        return
    for end in (before, before // 2):
        yield Trial(CUT, video.task, frames[:end], False)
        back = frames[end // 2 : end - 1][::-1]
        yield Trial(TURNED_BACK, video.task, np.concatenate([frames[:end], back]), False)
    taken_back = without_result(video)
    if taken_back is not None:
        yield Trial(TAKEN_BACK, video.task, taken_back, False)


def without_result(video: LabelledVideo) -> Video | None:
    """A success without its carry and its result (see ``undo``), the same one each time; None where it has no such."""
    done = np.flatnonzero(video.label_T == DONE)
    if not video.released or video.untouched < 2 or not len(done):
        return None
    frames = np.asarray(video.frames_THW3)
    late = frames[done[0] :]
    spread = late[np.linspace(0, len(late) - 1, 6).astype(np.int64)]
    rng = np.random.default_rng(zlib.crc32(video.id.encode()))
    changed = undone(frames[0], spread, late, rng)
    return None if changed is None else np.concatenate([frames[: video.untouched], changed])


def judge_all(judge: Judge, videos: Iterable[LabelledVideo], *, made: bool = True) -> Iterator[Judged]:
    """Judge video after video; one is in memory at a time."""
    for video in videos:
        shown = list(trials(video, made=made))
        verdicts = judge.judge([trial.frames_THW3 for trial in shown], [trial.task for trial in shown])
        for trial, verdict in zip(shown, verdicts, strict=True):
            yield Judged(video.id, trial.kind, trial.task, trial.success, verdict)


def summary(judged: Iterable[Judged]) -> dict[str, Any]:
    """Counts, precision, recall and their 95 % Clopper-Pearson intervals: of all, and by task; mistakes by kind.

    Precision depends on how many failures there are, made ones included: compare it only between equal sets.
    """
    rows = list(judged)
    groups = {"all": rows} | {task: [r for r in rows if r.task == task] for task in sorted({r.task for r in rows})}
    kinds = sorted({(row.success, row.kind) for row in rows}, reverse=True)
    return {
        "rates": {name: _rates(group) for name, group in groups.items()},
        "mistakes": [_mistakes(rows, success, kind) for success, kind in kinds],
    }


def _rates(rows: list[Judged]) -> dict[str, Any]:
    found = Confusion.of([row.verdict.success for row in rows], [row.success for row in rows])
    return {
        **dataclasses.asdict(found),
        "precision": found.precision,
        "precision_interval": _interval(found.true_success, found.true_success + found.false_success),
        "recall": found.recall,
        "recall_interval": _interval(found.true_success, found.true_success + found.false_failure),
    }


def _interval(part: int, whole: int) -> list[float] | None:
    if whole == 0:
        return None
    interval = clopper_pearson(part, whole)
    return [interval.low, interval.high]


def _mistakes(rows: list[Judged], success: bool, kind: str) -> dict[str, Any]:
    chosen = [row for row in rows if (row.success, row.kind) == (success, kind)]
    return {
        "kind": kind,
        "success": success,
        "videos": len(chosen),
        "mistaken": sum(row.verdict.success is (not success) for row in chosen),
        "no_judgement": sum(row.verdict.success is None for row in chosen),
    }
