"""What a judge of videos is, what it says, and how its sayings compare with the truth.

A judge looks at whole videos and says for each whether its task was accomplished. "I could not look" is a verdict of
its own (``success`` None): an outage of a server must not look like a policy that got worse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Video = NDArray[np.uint8]
"""RGB frames [T, H, W, 3], oldest first."""


class JudgeError(ValueError):
    """A judge that cannot work as it was set up, or a video that cannot be judged; the message says what to change."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says about one video.

    Attributes:
        success: accomplished or not; None when there is no judgement (an outage), which is never a failure.
        score: 0..1; share of yes among the votes that were cast, or a calibrated probability; 0.5 without a judgement.
        votes: each vote; None for one that was lost or said nothing.
        finish_step: index of the frame by which the task was accomplished; None when not accomplished or not asked.
        reason: why, in words, for people who read the report.
    """

    success: bool | None
    score: float
    votes: tuple[bool | None, ...]
    finish_step: int | None = None
    reason: str = ""


class Judge(Protocol):
    """Anything that judges videos."""

    name: str

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        """One verdict for each video and its task (an instruction, or a task's name).

        Raises:
            JudgeError: the judge cannot work at all (a wrong key, a task it does not know), or a video is none.
        """
        ...


def check_videos(videos: Sequence[Video], tasks: Sequence[str]) -> None:
    """Refuse what is not a video.

    Raises:
        JudgeError: as many tasks as videos are needed, and RGB uint8 [T, H, W, 3] with at least one frame.
    """
    if len(videos) != len(tasks):
        raise JudgeError(f"each video needs its task: got {len(videos)} videos and {len(tasks)} tasks")
    for number, video in enumerate(videos):
        if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8 or 0 in video.shape:
            raise JudgeError(
                f"video {number} is {video.dtype} {video.shape}; expected RGB uint8 [T, H, W, 3] with T >= 1"
            )


def video_id(video: Video) -> str:
    """Hash of a video's size and pixels."""
    digest = hashlib.sha256(str(video.shape).encode())
    for frame in video:
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


class LabelJudge:
    """Answers with labels that somebody has given: a person, or an oracle that knew where the objects were.

    For auditing other judges: it knows the videos it was told about, by their pixels, and no others.
    """

    def __init__(self, labels: Mapping[str, bool], name: str = "labels") -> None:
        """``labels``: ``video_id`` to whether the task was accomplished."""
        self.name, self._labels = name, dict(labels)

    @classmethod
    def of(cls, videos: Sequence[Video], successes: Sequence[bool], name: str = "labels") -> LabelJudge:
        """A judge that knows these videos."""
        return cls({video_id(v): bool(s) for v, s in zip(videos, successes, strict=True)}, name)

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        """The labels; ``success`` None for a video nobody has labelled."""
        check_videos(videos, tasks)
        return [self._verdict(self._labels.get(video_id(video)), len(video)) for video in videos]

    def _verdict(self, label: bool | None, frames: int) -> Verdict:
        if label is None:
            return Verdict(None, 0.5, (), reason="nobody has labelled this video")
        return Verdict(label, float(label), (label,), frames - 1 if label else None, "as labelled")


@dataclass(frozen=True)
class Confusion:
    """Verdicts against the truth. Videos without a judgement are counted apart and touch no rate."""

    true_success: int
    false_success: int
    true_failure: int
    false_failure: int
    no_judgement: int = 0

    @classmethod
    def of(cls, verdicts: Sequence[bool | None], truth: Sequence[bool]) -> Confusion:
        """Count; ``verdicts`` may hold None."""
        pairs = list(zip(verdicts, truth, strict=True))
        return cls(
            sum(v is True and t for v, t in pairs),
            sum(v is True and not t for v, t in pairs),
            sum(v is False and not t for v, t in pairs),
            sum(v is False and t for v, t in pairs),
            sum(v is None for v, _ in pairs),
        )

    @property
    def judged(self) -> int:
        return self.true_success + self.false_success + self.true_failure + self.false_failure

    @property
    def precision(self) -> float | None:
        """Share of true ones among the successes it saw; None if it saw none."""
        return _share(self.true_success, self.true_success + self.false_success)

    @property
    def recall(self) -> float | None:
        """Share of the true successes it saw; None if there were none."""
        return _share(self.true_success, self.true_success + self.false_failure)

    @property
    def specificity(self) -> float | None:
        """Share of the true failures it saw; None if there were none."""
        return _share(self.true_failure, self.true_failure + self.false_success)

    @property
    def accuracy(self) -> float | None:
        return _share(self.true_success + self.true_failure, self.judged)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
