"""Judging by vote: a vision-language model is asked several times about each video, and the majority decides.

A vote that was lost (no answer in time, a broken server) or says nothing (a refusal, garbage) is no vote. It is asked
for again; if it stays lost, the others decide in the same proportion. The published implementations count it as a
failure, so an outage looks like a policy that collapsed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prophrl_models.reward.frames import snap
from prophrl_models.reward.judge import JudgeError, Verdict, Video, check_videos
from prophrl_models.reward.parse import Answer, parse_answer
from prophrl_models.reward.prompts import JudgePrompt, Question, prompt_for, question


@dataclass(frozen=True)
class Lost:
    """An answer that never came, and why."""

    reason: str


class Answerer(Protocol):
    """A vision-language model: here, or behind a server."""

    name: str

    def answers(self, questions: Sequence[Question], counts: Sequence[int], attempt: int) -> list[list[str | Lost]]:
        """``counts[i]`` independent answers to question i; ``attempt`` 0, 1, ... makes a repetition a new draw.

        Raises:
            JudgeError: it can never answer (a wrong key, no such model).
        """
        ...


@dataclass(frozen=True)
class VoteRule:
    """How many votes are asked for and needed.

    Attributes:
        votes: asked for; 5 as published.
        needed: yes votes for a success when all are cast.
        quorum: cast votes without which there is no judgement.
        repeats: how often lost votes are asked for again.
    """

    votes: int = 5
    needed: int = 3
    quorum: int = 1
    repeats: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.needed <= self.votes and 1 <= self.quorum <= self.votes and self.repeats >= 0):
            raise JudgeError(
                f"of {self.votes} votes between 1 and {self.votes} are needed and form a quorum, and repeats is not "
                f"negative; got {self}"
            )


def decide(votes: Sequence[bool | None], rule: VoteRule) -> bool | None:
    """The majority's word. With lost votes, yes and no each need the share of the cast ones that they need of all; a
    tie that only the lost votes could break is no judgement, and so are fewer cast votes than the quorum."""
    yes, no = sum(vote is True for vote in votes), sum(vote is False for vote in votes)
    cast = yes + no
    if cast < rule.quorum:
        return None
    if yes * rule.votes >= rule.needed * cast:
        return True
    return False if no * rule.votes >= (rule.votes - rule.needed + 1) * cast else None


@dataclass
class VoteStatistics:
    """Counts since the judge was made, for a training log.

    ``lost`` and ``empty`` are single answers that did not come or said nothing, repeated ones included; ``split``
    counts videos whose votes were not all alike, ``unjudged`` videos without a judgement.
    """

    videos: int = 0
    answers: int = 0
    lost: int = 0
    empty: int = 0
    split: int = 0
    unjudged: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def rates(self) -> dict[str, float]:
        """Shares of answers and videos; zeros before the first."""
        answers, videos = max(self.answers, 1), max(self.videos, 1)
        return {
            "lost": self.lost / answers,
            "empty": self.empty / answers,
            "split": self.split / videos,
            "unjudged": self.unjudged / videos,
        }


class VotingJudge:
    """Asks a vision-language model about each video and counts votes.

    Args:
        style: prompt file for tasks that have none of their own (``prompts``).
        force_style: use that file for all tasks.
        batch: videos whose questions are held in memory at a time.
    """

    def __init__(
        self,
        answerer: Answerer,
        rule: VoteRule | None = None,
        *,
        style: str | None = None,
        force_style: bool = False,
        batch: int = 32,
    ) -> None:
        self.name, self._answerer, self.rule = answerer.name, answerer, rule or VoteRule()
        self._style, self._force, self._batch = style, force_style, batch
        self.statistics = VoteStatistics()

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        """One verdict for each video; see ``Judge.judge``."""
        check_videos(videos, tasks)
        verdicts: list[Verdict] = []
        for first in range(0, len(videos), self._batch):
            rows = slice(first, first + self._batch)
            verdicts += self._judge(videos[rows], tasks[rows])
        return verdicts

    def _judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        asked = [question(self._prompt(task), video, task) for video, task in zip(videos, tasks, strict=True)]
        cast: list[list[tuple[Answer, str]]] = [[] for _ in asked]
        trouble: list[list[str]] = [[] for _ in asked]
        for attempt in range(self.rule.repeats + 1):
            open_rows = [row for row, votes in enumerate(cast) if len(votes) < self.rule.votes]
            if not open_rows:
                break
            missing = [self.rule.votes - len(cast[row]) for row in open_rows]
            replies = self._answerer.answers([asked[row] for row in open_rows], missing, attempt)
            for row, answers in zip(open_rows, replies, strict=True):
                for answer in answers:
                    self._take(answer, asked[row], cast[row], trouble[row])
        return [self._verdict(*parts) for parts in zip(asked, cast, trouble, strict=True)]

    def _prompt(self, task: str) -> JudgePrompt:
        return prompt_for("" if self._force else task, self._style)

    def _take(self, answer: str | Lost, asked: Question, cast: list[tuple[Answer, str]], trouble: list[str]) -> None:
        self.statistics.answers += 1
        if isinstance(answer, Lost):
            self.statistics.lost += 1
            self.statistics.reasons[answer.reason] = self.statistics.reasons.get(answer.reason, 0) + 1
            trouble.append(answer.reason)
            return
        read = parse_answer(answer, asked.style)
        if read.success is None:
            self.statistics.empty += 1
            trouble.append(f"said neither: {' '.join(answer.split())[-80:]!r}")
        else:
            cast.append((read, answer))

    def _verdict(self, asked: Question, cast: Sequence[tuple[Answer, str]], trouble: Sequence[str]) -> Verdict:
        said = [answer.success for answer, _ in cast]
        votes = (*said, *[None] * (self.rule.votes - len(said)))
        success, yes = decide(votes, self.rule), sum(vote is True for vote in said)
        self.statistics.videos += 1
        self.statistics.split += len(set(said)) > 1
        self.statistics.unjudged += success is None
        lost = f"; {len(votes) - len(said)} without a vote ({trouble[-1]})" if len(said) < len(votes) else ""
        heard = next((text for answer, text in cast if answer.success is success), "")
        reason = f"{yes} of {len(said)} votes for success{lost}" + (f": {_shortened(heard)}" if heard else "")
        score = yes / len(said) if said else 0.5
        return Verdict(success, score, votes, _finish(cast, asked) if success else None, reason)


def _finish(cast: Sequence[tuple[Answer, str]], asked: Question) -> int:
    """The earliest frame that a yes vote names, moved to the nearest shown one; the last frame if none names any."""
    named = [answer.finish_step for answer, _ in cast if answer.success and answer.finish_step is not None]
    inside = [step for step in named if step >= 0]
    return snap(min(inside), asked.index_F) if inside else int(asked.index_F[-1])


def _shortened(text: str, longest: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: math.ceil(longest / 2)]} ... {text[-longest // 2 :]}"
