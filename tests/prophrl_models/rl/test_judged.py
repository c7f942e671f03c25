"""What judges are shown of rollouts and logged episodes: where the commands led, in front of the start picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from prophrl_models.reward.judge import JudgeError, Verdict, Video
from prophrl_models.reward.trajectory import Trajectory
from prophrl_models.rl.check import CheckSettings, LabelledVideo, run_check
from prophrl_models.rl.replays import LoggedEpisode, compare_outcomes, logged_attempts
from prophrl_models.rl.rollouts import RolloutWorker, Unit
from prophrl_models.rl.settings import RolloutOptions
from tests.helpers.dot_world import (
    CALLS,
    CHUNK,
    CONVENTION,
    REACH_PX,
    RED,
    DotJudge,
    DotState,
    DotWorld,
    centre,
    new_policy,
    pixels,
    starts,
)  # fmt: skip

OPTIONS = RolloutOptions(calls=CALLS, keep=CHUNK, noise_level=0.7)
UNIT = Unit(tuple(range(6)), tuple(range(40, 46)), video=True)


class PathJudge:
    """Exact without a video: the end of the commands against the square of the start picture."""

    name = "path oracle"

    def __init__(self) -> None:
        self.seen: list[Trajectory] = []

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        raise AssertionError("it looks at commands")

    def judge_trajectories(self, trajectories: Sequence[Trajectory], tasks: Sequence[str]) -> list[Verdict]:
        self.seen += trajectories
        verdicts = []
        for trajectory in trajectories:
            square = centre(trajectory.image_HW3, RED)
            assert square is not None
            end = np.round(trajectory.camera.project(trajectory.state_T7[-1:, :3])[0][0])
            distance = float(np.linalg.norm(end - np.round(square)))
            verdicts.append(Verdict(distance <= REACH_PX, float(np.exp(-distance / 8.0)), (distance <= REACH_PX,)))
        return verdicts


class Blank(DotWorld):
    """Shows what was there at first, whatever the hand does."""

    def advance(self, world: DotState, actions_BCD: Tensor, keep: int | Tensor) -> tuple[DotState, Tensor]:
        state, video = super().advance(world, actions_BCD, keep)
        first = world.frame_BHW3[:, None].expand_as(video)
        return replace(state, frame_BHW3=first[:, -1]), first


def test_a_judge_of_trajectories_sees_what_a_judge_of_true_pictures_would() -> None:
    begin, paths = starts(6, 3), PathJudge()
    by_path = RolloutWorker(new_policy(), DotWorld(0.0), paths, begin, OPTIONS).run(UNIT)
    by_video = RolloutWorker(new_policy(), DotWorld(0.0), DotJudge(), begin, OPTIONS).run(UNIT)
    apart_px = 8.0 * (by_path.score_B.log() - by_video.score_B.log()).abs()
    assert apart_px.max() < 1.5 and apart_px.median() < 1e-3, "but for a place half-way between two pixels"
    assert by_video.score_B.std() > 0.1
    worker = RolloutWorker(new_policy(), DotWorld(0.0), paths, begin, OPTIONS)
    commanded = worker.executed_BSN7(by_path).reshape(6, -1, 7)
    for prompt, actions, seen in zip(begin, commanded, paths.seen, strict=True):
        assert seen.image_HW3 is prompt.image_HW3 and len(seen.state_T7) == CALLS * CHUNK + 1
        way = np.cumsum(actions[:, :2], axis=0)
        np.testing.assert_allclose(seen.state_T7[1:, :2] - np.asarray(prompt.state_7)[:2], way, atol=1e-5)


def test_what_the_world_shows_at_the_end_cannot_deceive_it() -> None:
    """The same commands: only what the policy saw on its way differs, and this policy does not look."""
    begin = starts(6, 3)
    blind, seeing = (
        RolloutWorker(new_policy(), world, PathJudge(), begin, replace(OPTIONS, calls=1)).run(UNIT)
        for world in (Blank(0.0), DotWorld(0.0))
    )
    assert (blind.score_B == seeing.score_B).all() and blind.videos != seeing.videos


def test_starts_without_a_camera_are_refused() -> None:
    begin = [replace(start, camera=None) for start in starts(6, 3)]
    worker = RolloutWorker(new_policy(), DotWorld(0.0), PathJudge(), begin, OPTIONS)
    with pytest.raises(JudgeError, match=r"path oracle looks at where the hand goes .* 6 of 6 attempts"):
        worker.run(UNIT)


def logged(count: int) -> list[LoggedEpisode]:
    """Straight ways; every second one ends beside the square."""
    found = []
    for number, prompt in enumerate(starts(count, 8)):
        square = centre(prompt.image_HW3, RED)
        assert square is not None
        goal = np.array([(square[0] - 23.5) / 100, (15.5 - square[1]) / 100 + 0.1 * (number % 2)])
        actions = np.zeros((7, 7), np.float32)
        actions[:, :2] = (goal - np.asarray(prompt.state_7)[:2]) / 7
        found.append(LoggedEpisode(prompt, actions, number % 2 == 0))
    return found


def test_logged_episodes_are_judged_by_their_actions_whatever_their_pictures_show() -> None:
    episodes = logged(8)
    nothing = [np.zeros((8, 4, 4, 3), np.uint8)] * len(episodes)
    assert compare_outcomes(PathJudge(), nothing, episodes, CONVENTION).accuracy == 1.0
    attempts = logged_attempts(nothing, episodes, CONVENTION)
    for attempt, episode in zip(attempts, episodes, strict=True):
        assert attempt.trajectory is not None and len(attempt.trajectory.state_T7) == 8
        square = centre(episode.prompt.image_HW3, RED)
        assert square is not None
        apart = np.linalg.norm(pixels(attempt.trajectory.state_T7[-1:, :2])[0] - square)
        assert apart == pytest.approx(0.0 if episode.success else 10.0, abs=1e-3)


def test_a_check_does_not_ask_it_about_episodes_imagined_again() -> None:
    episodes, said = logged(40), list[str]()
    blank = [np.zeros((8, 4, 4, 3), np.uint8)] * len(episodes)
    attempts = logged_attempts(blank, episodes, CONVENTION)
    labelled = [
        LabelledVideo(a.video_THW3, a.task, e.success, trajectory=a.trajectory)
        for a, e in zip(attempts, episodes, strict=True)
    ]
    report = run_check(
        new_policy(), DotWorld(), PathJudge(), starts(2, 1), replace(OPTIONS, group_size=2),
        labelled=labelled, logged=episodes, settings=CheckSettings(starts=2), say=said.append,
    )  # fmt: skip
    status = {finding.gate: finding.status for finding in report.findings}
    assert status["judge recall"] == status["judge precision"] == "pass" and "outcome agreement" not in status
    assert any("never looks at imagined pictures" in line for line in said)
