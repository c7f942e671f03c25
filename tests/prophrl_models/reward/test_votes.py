"""The majority decides; what was lost is asked for again and never counts as a failure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.prompts import Question
from prophrl_models.reward.votes import Lost, VoteRule, VotingJudge, decide

T, F, N = True, False, None
TASK = "put the red cube into the bowl"


class Script:
    """A model that says what it was told to, in order, question by question."""

    name = "script"

    def __init__(self, *rounds: list[str | Lost]) -> None:
        self._rounds, self.asked = list(rounds), []

    def answers(self, questions: Sequence[Question], counts: Sequence[int], attempt: int) -> list[list[str | Lost]]:
        self.asked.append((attempt, list(counts)))
        return [self._rounds.pop(0)[:count] for count in counts]


def video(frames: int = 40) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 255, (frames, 24, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ((T, T, T, F, F), True),
        ((T, T, F, F, F), False),
        ((N, N, N, N, N), None),
        ((T, T, N, N, N), True),
        ((T, N, N, N, N), True),
        ((F, N, N, N, N), False),
        ((T, T, F, N, N), True),
        ((T, F, N, N, N), None),
        ((T, T, F, F, N), None),
    ],
)
def test_lost_votes_leave_the_decision_to_the_others(votes: tuple[bool | None, ...], said: bool | None) -> None:
    assert decide(votes, VoteRule()) is said


def test_losing_votes_never_turns_a_unanimous_yes_into_a_failure() -> None:
    for pattern in itertools.product((T, N), repeat=5):
        assert decide(pattern, VoteRule()) in (True, None)
    for votes in itertools.product((T, F, N), repeat=5):  # yes and no are treated alike by 3 of 5
        mirrored = tuple(None if vote is None else not vote for vote in votes)
        said = decide(votes, VoteRule())
        assert decide(mirrored, VoteRule()) is (None if said is None else not said)


def test_a_quorum_below_which_nothing_is_decided() -> None:
    assert decide((T, N, N, N, N), VoteRule(quorum=2)) is None
    assert decide((T, T, N, N, N), VoteRule(quorum=2)) is True


def test_impossible_rules_are_refused() -> None:
    with pytest.raises(JudgeError, match="of 5 votes"):
        VoteRule(needed=6)


def test_a_judgement_reports_votes_score_and_the_winning_reason() -> None:
    yes, no = r"it lies in the bowl \box{Success}", r"it lies beside \box{Failure}"
    verdict = VotingJudge(Script([yes, no, yes, yes, no])).judge([video()], [TASK])[0]

    assert (verdict.success, verdict.score, verdict.votes) == (True, 0.6, (T, F, T, T, F))
    assert verdict.finish_step == 39, "no vote named a frame, so it is the last one"
    assert "3 of 5" in verdict.reason and "lies in the bowl" in verdict.reason


def test_only_what_is_missing_is_asked_for_again() -> None:
    yes = r"\box{Success}"
    script = Script([yes, Lost("down"), "I can't help with that.", yes, yes], [yes, r"\box{Failure}"])
    judge = VotingJudge(script)
    verdict = judge.judge([video()], [TASK])[0]

    assert script.asked == [(0, [5]), (1, [2])]
    assert verdict.votes == (T, T, T, T, F)
    assert (judge.statistics.lost, judge.statistics.empty, judge.statistics.split) == (1, 1, 1)
    assert judge.statistics.rates()["lost"] == pytest.approx(1 / 7)


def test_an_outage_is_no_judgement() -> None:
    lost: list[str | Lost] = [Lost("the server answered 500")] * 5
    judge = VotingJudge(Script(lost, lost))
    verdict = judge.judge([video()], [TASK])[0]

    assert (verdict.success, verdict.score, verdict.finish_step) == (None, 0.5, None)
    assert verdict.votes == (None,) * 5
    assert "500" in verdict.reason
    assert judge.statistics.unjudged == 1 and judge.statistics.reasons == {"the server answered 500": 10}


def test_the_earliest_named_frame_snaps_to_one_that_was_shown() -> None:
    replies: list[str | Lost] = [
        '{"success": true, "finish_step": 251}',
        '{"success": true, "finish_step": 236}',
        '{"success": false, "finish_step": 3}',
        '{"success": true, "finish_step": -1}',
        '{"success": true, "finish_step": 299}',
    ]
    verdict = VotingJudge(Script(replies), style="libero").judge([video(300)], ["open the drawer"])[0]

    shown = np.unique(np.round(np.linspace(0, 299, 50)))
    assert verdict.finish_step == shown[np.abs(shown - 236).argmin()] != 236


def test_each_video_is_asked_about_its_own_task_and_frames() -> None:
    seen: list[Question] = []

    class Watching(Script):
        def answers(self, questions, counts, attempt):  # type: ignore[no-untyped-def]
            seen.extend(questions)
            return [[r"\box{Failure}"] * count for count in counts]

    videos = [video(n) for n in (1, 2, 100)]
    verdicts = VotingJudge(Watching(), batch=2).judge(videos, ["grasp_bottle", TASK, "pull_tissue"])

    assert [verdict.success for verdict in verdicts] == [False] * 3
    assert [len(q.frames) for q in seen] == [1, 2, 30]
    assert "bottle" in seen[0].text and TASK in seen[1].text and "tissue" in seen[2].text
    assert seen[2].tags[0] == "frame_step0" and seen[2].tags[-1] == "frame_step99"
    assert all((a == b).all() for a, b in zip(seen[2].frames, videos[2][seen[2].index_F], strict=True))


def test_a_task_without_a_prompt_needs_a_style() -> None:
    with pytest.raises(JudgeError, match=r"fold the towel.*bridge, bridge_grasp, libero"):
        VotingJudge(Script()).judge([video()], ["fold the towel"])
