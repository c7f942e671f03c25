"""Imagined rollouts carried out on the twin: the same commands, from the same starts, and what came of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from prophrl_nodes.cli import rl_enact
from prophrl_nodes.cli.rl_shared import UsageError
from prophrl_nodes.studies import enact as study
from prophrl_nodes.studies.enact import Enacted, EnactSettings, EnactSummary, enact

from calibration.poses import ActionConvention
from prophrl_models.data.image import ImageRegion
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.interface import Scaling
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.prophet.worlds import load_world
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import save_classifier
from prophrl_models.reward.frames import read_video
from prophrl_models.reward.judge import Confusion, Verdict, Video
from prophrl_models.rl.rollouts import RolloutWorker
from prophrl_models.rl.settings import RolloutOptions
from prophrl_models.trials.video import write_video
from robot_bridge.twin.tasks import Placement, get_task
from tests.helpers.twin_policies import untrained_policy, write_untrained
from tests.helpers.untrained_worlds import write_untrained_world

TASK = "place_cube"
DONE = Placement(TASK, {"cube": (-0.65, 0.1, 0.0), "bowl": (-0.65, 0.1, 0.0)})
UNDER_THE_HAND = Placement("pull_tissue", {"tissue_box": (-0.663, -0.2, 0.0)})
CALLS, KEEP = 2, 3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained_world(tmp_path_factory.mktemp("worlds") / "world")


class Alternating:
    """Says success, failure, nothing, success, ... and remembers single videos, which are the twin's."""

    name = "alternating"

    def __init__(self) -> None:
        self.single: list[Video] = []

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        if len(videos) == 1:
            self.single.append(videos[0])
        said = [(True, False, None)[i % 3] for i in range(len(videos))]
        return [Verdict(answer, float(answer or 0), (answer,)) for answer in said]


def job_of(tmp_path: Path, placement: Placement, actions_SN7: np.ndarray) -> study._Job:
    """As ``enact`` would make it, with a grey imagined video."""
    raw = tmp_path / "raw.mp4"
    frames = 1 + actions_SN7.shape[0] * actions_SN7.shape[1]
    write_video(raw, iter(np.full((frames, 24, 32, 3), 128, np.uint8)), 10.0)
    return study._Job(
        placement.task, placement, actions_SN7.astype(np.float32), ActionConvention.ABSOLUTE_POSE_DIFFERENCE, 10.0,
        ImageRegion(), raw.read_bytes(), tmp_path / "beside.mp4",
    )  # fmt: skip


def standing(calls: int = 2, keep: int = 4) -> np.ndarray:
    actions = np.zeros((calls, keep, 7))
    actions[..., 6] = 1.0
    return actions


def test_success_is_what_the_twin_says_in_the_end(tmp_path: Path) -> None:
    cell = study._Cell()
    try:
        done = cell.run(job_of(tmp_path, DONE, standing()))
        assert (done.true, done.stop) == (True, "") and done.pictures_THW3.shape == (1 + 2 * 4, 24, 32, 3)
        apart = Placement(TASK, {"cube": (-0.65, -0.2, 0.0), "bowl": (-0.65, 0.1, 0.0)})
        done = cell.run(job_of(tmp_path, apart, standing()))
        assert (done.true, done.stop) == (False, "")
    finally:
        cell.close()


def test_an_arm_that_presses_into_something_stops_and_has_failed(tmp_path: Path) -> None:
    down = standing(6, 8)
    down[..., 2] = -0.02
    cell = study._Cell()
    try:
        done = cell.run(job_of(tmp_path, UNDER_THE_HAND, down))
    finally:
        cell.close()
    assert not done.true and done.stop


def test_the_video_shows_imagination_and_the_twin_step_by_step(tmp_path: Path) -> None:
    sideways = standing()
    sideways[..., 1] = 0.02
    cell = study._Cell()
    try:
        cell.run(job_of(tmp_path, DONE, sideways))
    finally:
        cell.close()
    frames = read_video(tmp_path / "beside.mp4").astype(int)
    assert frames.shape == (1 + 2 * 4, 24, 64, 3)
    left, right = frames[:, :, :32], frames[:, :, 32:]
    assert abs(left - 128).max() < 8
    moved = abs(np.diff(right, axis=0)).mean(axis=(1, 2, 3))
    assert (moved > 0.3).all(), f"the arm moves in every step, also over the chunks' seam: {moved}"


def test_every_rollout_is_carried_out_from_its_own_start(world: Path, tmp_path: Path) -> None:
    policy = untrained_policy(TASK)
    policy.spec = policy.spec.__class__(**{**vars(policy.spec), "action_scaling": Scaling((0.0,) * 7, (0.002,) * 7)})
    asked: list[Sequence[Prompt]] = []

    def make_worker(prompts: Sequence[Prompt]) -> RolloutWorker:
        asked.append(prompts)
        options = RolloutOptions(calls=CALLS, keep=KEEP, noise_level=0.7)
        return RolloutWorker(policy, load_world(world, steps=1), judge, prompts, options)

    judge = Alternating()
    told: list[tuple[int, int]] = []
    settings = EnactSettings(TASK, starts=3, group_size=2, starts_at_once=2)
    results = enact(
        make_worker, SyncSpec(), settings, tmp_path, workers=1, tell=lambda done, total: told.append((done, total))
    )
    (prompts,) = asked
    assert len(prompts) == 3 and len({prompt.image_HW3.tobytes() for prompt in prompts}) == 3
    assert [result.group for result in results] == [0, 0, 1, 1, 2, 2]
    assert [result.imagined for result in results] == [True, False, None, True, True, False]  # units of 4 and 2
    assert not any(result.true for result in results) and told[0] == (0, 6) and told[-1] == (6, 6)
    videos = [read_video(tmp_path / result.video) for result in results]
    assert {len(video) for video in videos} == {1 + CALLS * KEEP} and len({result.video for result in results}) == 6
    assert [result.seen for result in results] == [True] * 6 and len(judge.single) == 6
    for video, shown in zip(videos, judge.single, strict=True):  # compressed on the left, exact on the right
        right = video[:, :, video.shape[2] // 2 :].astype(int)
        assert shown.shape == right.shape and abs(shown.astype(int) - right).mean() < 6
    for video, result in zip(videos, results, strict=True):
        height, width = video.shape[1], video.shape[2] // 2
        start = prompts[result.group].image_HW3.astype(int)
        rows = np.linspace(0, start.shape[0] - 1, height).astype(int)
        columns = np.linspace(0, start.shape[1] - 1, width).astype(int)
        shown = video[0, :, width:].astype(int)
        own = abs(shown - start[rows][:, columns]).mean()
        others = [abs(shown - p.image_HW3.astype(int)[rows][:, columns]).mean() for p in prompts]
        assert own == min(others), "the twin's first picture is that of the start"


def test_the_summary_leaves_out_what_was_not_judged() -> None:
    results = [
        Enacted(0, True, 0.9, True, "", "a", True),
        Enacted(0, True, 0.8, False, "stopped", "b", True),
        Enacted(0, False, 0.1, True, "", "c", True),
        Enacted(1, False, 0.2, False, "", "d", None),
        Enacted(1, None, 0.0, True, "", "e", False),
    ]
    summary = EnactSummary.of(results)
    assert (summary.rollouts, summary.unjudged, summary.imagined, summary.true) == (4, 1, 0.5, 0.5)
    assert summary.stopped == 0.25 and summary.confusion == Confusion(1, 1, 1, 1)
    assert summary.confusion_seen == Confusion(2, 1, 0, 1, 1)
    assert (summary.separation.within.value, summary.separation.within.pairs) == (0.5, 2)
    assert summary.separation.overall.value == 0.5 and summary.separation.overall.pairs == 4
    assert "imagined success 0.50, on the twin 0.50" in summary.text() and "without a verdict: 1" in summary.text()
    with pytest.raises(ValueError, match="no verdict on any of 1 rollouts"):
        EnactSummary.of([results[-1]])


def test_the_command_writes_every_rollout_and_refuses_to_overwrite(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = ClassifierConfig(
        (get_task(TASK).instruction,), frames=4, height=24, width=32, channels=(8, 8, 8, 8), token=16, heads=2
    )
    judge = save_classifier(tmp_path / "judge", SuccessClassifier(looks).eval(), Decision(), {"made_for": "a test"})
    policy = write_untrained(tmp_path / "policy", TASK)
    config = tmp_path / "rl.yaml"
    config.write_text("rollout: {calls: 2, keep: 3, group_size: 2}\n")
    parser = argparse.ArgumentParser()
    rl_enact.register(parser)
    words = [
        tmp_path / "out", "--task", TASK, "--policy", policy, "--world", world, "--judge", f"classifier:{judge}",
        "--world-steps", 1, "--starts", 2, "--workers", 1, "--config", config, "--device", "cpu",
    ]  # fmt: skip
    options = parser.parse_args([*map(str, words), "--json"])
    assert rl_enact.run(options) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "out" / "enacted.json").read_text())
    assert len(said["rollouts"]) == said["summary"]["rollouts"] == 4 and said["settings"]["mode"] == "sde"
    assert all((tmp_path / "out" / rollout["video"]).is_file() for rollout in said["rollouts"])
    with pytest.raises(UsageError, match="holds an earlier result"):
        rl_enact.run(options)
