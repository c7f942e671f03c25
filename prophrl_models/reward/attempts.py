"""What judges are asked about: a video, or where the hand was told to go. Some look at the one, some at the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from prophrl_models.reward.judge import Judge, JudgeError, Verdict, Video
from prophrl_models.reward.trajectory import Trajectory


@dataclass(frozen=True)
class Attempt:
    """One attempt at a task: an instruction, or a task's name; ``trajectory`` None: the camera is not known."""

    video_THW3: Video
    task: str
    trajectory: Trajectory | None = None


@runtime_checkable
class TrajectoryJudge(Protocol):
    """A judge that looks at commands and start pictures, never at what was imagined."""

    name: str

    def judge_trajectories(self, trajectories: Sequence[Trajectory], tasks: Sequence[str]) -> list[Verdict]:
        """One verdict for each trajectory and its task.

        Raises:
            JudgeError: a task it does not know.
        """
        ...


def judge_attempts(judge: Judge, attempts: Sequence[Attempt]) -> list[Verdict]:
    """One verdict for each attempt, by what the judge looks at.

    Raises:
        JudgeError: see ``Judge.judge``; or the judge needs trajectories and the cell's camera is not known.
    """
    if not attempts:
        return []
    tasks = [attempt.task for attempt in attempts]
    if not isinstance(judge, TrajectoryJudge):
        return judge.judge([attempt.video_THW3 for attempt in attempts], tasks)
    known = [attempt.trajectory for attempt in attempts if attempt.trajectory is not None]
    if len(known) < len(attempts):
        raise JudgeError(
            f"{judge.name} looks at where the hand goes in the start picture, and {len(attempts) - len(known)} of "
            f"{len(attempts)} attempts have no calibrated camera; calibrate the cell, or use a judge of videos"
        )
    return judge.judge_trajectories(known, tasks)
