"""The classifier of trajectories: as a network, as a judge, in its folder, and learning from drawn reaches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.camera import PinholeCamera
from prophrl_models.data.dataset import Dataset
from prophrl_models.reward import trajectory_train
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import (
    load_classifier,
    load_trajectory_judge,
    read_provenance,
    save_classifier,
)
from prophrl_models.reward.factory import JudgeSettings, judge_identity, open_judge
from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.trajectory import Trajectory
from prophrl_models.reward.trajectory_classifier import TrajectoryClassifier, TrajectoryConfig
from prophrl_models.reward.trajectory_data import LabelledTrajectory, labelled_trajectories
from prophrl_models.reward.trajectory_judge import TrajectoryClassifierJudge
from prophrl_models.reward.trajectory_train import TrajectoryTraining, judge_trajectories, train_trajectory_classifier
from prophrl_models.training.loop import LoopOptions
from tests.helpers.aimed_reaches import write_aimed
from tests.helpers.reaches import INSTRUCTION

TASKS = (INSTRUCTION, "put it back")
SMALL = TrajectoryConfig(TASKS, frames=8, view=16, channels=(8, 8, 8), token=64, heads=2, members=2)


def network(seed: int = 0) -> TrajectoryClassifier:
    """A network whose heads are not zero, so that everything before them shows."""
    torch.manual_seed(seed)
    model = TrajectoryClassifier(SMALL)
    for member in model.members:
        torch.nn.init.normal_(member.out.weight)
    return model.eval()


@pytest.fixture(scope="module")
def reaches(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_aimed(tmp_path_factory.mktemp("reaches") / "data", 6)


@torch.inference_mode()
def test_no_logit_sees_a_later_moment_and_every_logit_sees_its_own_view_and_motion() -> None:
    model, task = network(), torch.tensor([0, 1])
    views, motion = torch.randint(0, 256, (2, 5, 16, 16, 6), dtype=torch.uint8), torch.randn(2, 5, 6)
    logits = model(views, motion, task)
    for t in range(5):
        for changed_views, changed_motion in ((True, False), (False, True)):
            other, moved = views.clone(), motion.clone()
            if changed_views:
                other[:, t] = 255 - other[:, t]
            if changed_motion:
                moved[:, t] += 1.0
            change = (model(other, moved, task) - logits).abs().amax(0)
            assert (t == 0 or change[:t].max() < 1e-6) and change[t] > 1e-4
    assert not torch.allclose(model(views, motion, task.flip(0)), logits), "the task matters"
    with pytest.raises(JudgeError, match="squares of 16 pixels"):
        model(views[:, :, :8, :8], motion, task)


@torch.inference_mode()
def test_what_counts_is_the_mean_of_members_that_differ() -> None:
    model, task = network(), torch.tensor([0, 1])
    shown = torch.randint(0, 256, (2, 5, 16, 16, 6), dtype=torch.uint8), torch.randn(2, 5, 6), task
    one, other = (member(*shown) for member in model.members)
    assert (one - other).abs().min() > 1e-4
    torch.testing.assert_close(model(*shown), (one + other) / 2)
    with pytest.raises(JudgeError, match=r"a length in metres, got 0\.0"):
        replace(SMALL, side_m=0.0)
    with pytest.raises(JudgeError, match="one or more members, got 0"):
        replace(SMALL, members=0)


def test_a_judge_in_its_folder_says_what_it_said_in_memory(reaches: Dataset, tmp_path: Path) -> None:
    found = list(labelled_trajectories(reaches))
    trajectories, tasks = [each.trajectory for each in found], [each.task for each in found]
    judge = TrajectoryClassifierJudge(network(), Decision(1.5, 0.4), batch=4)
    folder = save_classifier(tmp_path / "judge", judge.model, judge.decision, {"videos": {}})
    again = open_judge(JudgeSettings("trajectory", str(folder)))
    assert isinstance(again, TrajectoryClassifierJudge)
    said = judge.judge_trajectories(trajectories, tasks)
    assert said == again.judge_trajectories(trajectories, tasks) and len({v.score for v in said}) == len(said)
    for one, verdict in zip(trajectories, said, strict=True):  # whoever is beside it
        (alone,) = judge.judge_trajectories([one], [INSTRUCTION.upper()])
        assert alone.score == pytest.approx(verdict.score, abs=1e-6) and alone.success == (alone.score >= 0.4)
    assert len(judge_identity(JudgeSettings("trajectory", str(folder)))["sha256"]) == 64
    with pytest.raises(JudgeError, match="not trained on the task 'fold it'"):
        judge.judge_trajectories(trajectories[:1], ["fold it"])
    with pytest.raises(JudgeError, match="judges commands in front of a start picture"):
        again.judge([], [])


def test_a_folder_of_the_other_kind_is_refused_with_its_name(tmp_path: Path) -> None:
    of_videos = SuccessClassifier(ClassifierConfig(TASKS, frames=4, height=24, width=32, token=16, heads=2))
    videos = save_classifier(tmp_path / "videos", of_videos, Decision(), {"videos": {}})
    paths = save_classifier(tmp_path / "paths", network(), Decision(), {"videos": {}})
    with pytest.raises(JudgeError, match=f"name it classifier:{videos}"):
        load_trajectory_judge(videos)
    with pytest.raises(JudgeError, match=f"name it trajectory:{paths}"):
        load_classifier(paths)


def test_short_trajectories_are_judged_as_they_are(reaches: Dataset) -> None:
    judge, first = TrajectoryClassifierJudge(network(), Decision()), next(labelled_trajectories(reaches)).trajectory
    short = replace(first, state_T7=first.state_T7[:3])
    (logit_T,) = judge.logits([short], [INSTRUCTION])
    longer = judge.logits([short, first], [INSTRUCTION] * 2)
    assert len(logit_T) == 3 and len(longer[1]) == 8
    np.testing.assert_allclose(longer[0], logit_T, atol=1e-5)


def test_episodes_give_commanded_trajectories_with_the_labels_of_their_frames(reaches: Dataset) -> None:
    found = list(labelled_trajectories(reaches))
    assert [each.success for each in found] == [True, False] * 3
    for position, each in enumerate(found):
        episode = reaches[position]
        measured = np.concatenate([episode.state_T7, episode.final.state_7[None]])
        assert len(each.label_T) == len(each.trajectory.state_T7) == len(measured)
        np.testing.assert_allclose(each.trajectory.state_T7[:, :3], measured[:, :3], atol=1e-5)
        np.testing.assert_array_equal(each.trajectory.state_T7[1:, 6], episode.action_T7[:, 6])
        assert np.array_equal(each.trajectory.image_HW3, episode.color_THW3[0])
        assert each.label_T[-1] == each.success and not each.label_T[0]


def test_without_a_camera_it_says_what_to_do(tmp_path: Path) -> None:
    uncalibrated = write_aimed(tmp_path / "data", 4, calibrated=False)
    with pytest.raises(JudgeError, match=r"no episode of .* has a calibrated camera"):
        list(labelled_trajectories(uncalibrated))


TRAINING = TrajectoryTraining(
    network=replace(SMALL, view=32, frames=16), batch_size=8, threads=1,
    loop=LoopOptions(steps=80, learning_rate=3e-3, ema=0.9, log_every=20),
)  # fmt: skip


@pytest.mark.parametrize("failures", [True, False], ids=["failures", "successes only"])
def test_it_learns_to_tell_a_hit_from_a_miss_that_it_never_saw(failures: bool, tmp_path: Path) -> None:
    """Where only successes were recorded, it learns from the same motion elsewhere."""
    data = write_aimed(tmp_path / "data", 32, failures=failures)
    folder = train_trajectory_classifier([data.folder], tmp_path / "run", TRAINING)
    judge = load_trajectory_judge(folder)
    new = list(labelled_trajectories(write_aimed(tmp_path / "new", 40, seed=9)))
    judged = judge_trajectories(judge, new)
    scores = {outcome: [row.verdict.score for row in judged if row.success == outcome] for outcome in (True, False)}
    above = np.greater.outer(scores[True], scores[False]).mean()
    assert above > 0.9
    made = [row for row in judge_trajectories(judge, new, made=True) if row.kind == "moved"]
    assert len(made) == len(scores[True]) and sum(row.verdict.success for row in made) <= 2
    record = read_provenance(folder)
    assert {"reach-0-0", "reach-0-2"} <= {name for part in record["videos"].values() for name in part}
    assert record["validation"]["rates"]["all"]["recall"] is not None


def test_every_member_learns_from_batches_of_its_own(reaches: Dataset) -> None:
    model = TrajectoryClassifier(TRAINING.network)
    first, second = model.members
    second.load_state_dict(first.state_dict())
    step = trajectory_train._step(model, list(labelled_trajectories(reaches)), TRAINING)
    step(0, torch.Generator().manual_seed(0))["loss"].backward()
    assert first.out.weight.grad.abs().max() > 0
    assert not torch.allclose(first.out.weight.grad, second.out.weight.grad)


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data = write_aimed(tmp_path / "data", 8)
    short = replace(TRAINING, loop=replace(TRAINING.loop, steps=6, save_every=2, log_every=1))
    whole = train_trajectory_classifier([data.folder], tmp_path / "whole", short)

    class Killed(Exception):
        pass

    def stop(progress: object) -> None:
        if progress.step == 4:  # type: ignore[attr-defined]
            raise Killed

    with pytest.raises(Killed):
        train_trajectory_classifier([data.folder], tmp_path / "killed", short, stop)
    again = train_trajectory_classifier([data.folder], tmp_path / "killed", short)
    sha = [
        json.loads((folder / "provenance.json").read_text())["sha256"]["model.safetensors"] for folder in (whole, again)
    ]
    assert sha[0] == sha[1]


def test_too_few_successes_are_refused(tmp_path: Path) -> None:
    data = write_aimed(tmp_path / "data", 2)
    with pytest.raises(JudgeError, match="no successful episode is left for validation: 2 gapless ones"):
        train_trajectory_classifier([data.folder], tmp_path / "run", TRAINING)


def labelled(name: str, successes: int, failures: int, task: str = INSTRUCTION) -> list[LabelledTrajectory]:
    """Episodes of one dataset, of which only names, task and outcome matter."""
    motion = Trajectory(np.zeros((4, 6, 3), np.uint8), np.zeros((2, 7)), PinholeCamera(5.0, 5.0, 2.5, 1.5, 6, 4))
    outcomes = [True] * successes + [False] * failures
    return [
        LabelledTrajectory(f"{name}/{number}", task, motion, np.zeros(2, np.int8), outcome)
        for number, outcome in enumerate(outcomes)
    ]


def names(part: Sequence[LabelledTrajectory]) -> set[str]:
    return {each.id.split("/")[0] for each in part}


def test_the_threshold_is_set_by_attempts_that_could_fail_and_demonstrations_are_only_learned_from() -> None:
    datasets = [labelled("demonstrations", 24, 0), labelled("planned", 20, 40)]
    training, validation, test = trajectory_train.divided(datasets, TRAINING)
    assert names(validation) == names(test) == {"planned"}
    assert sum(each.id.startswith("demonstrations") for each in training) == 24
    assert len(training) + len(validation) + len(test) == 84
    assert {each.success for each in validation} == {each.success for each in test} == {True, False}


@pytest.mark.parametrize("planned", [(9, 40), (40, 9), (0, 0)])
def test_where_too_few_attempts_tell_demonstrations_set_the_threshold_too(planned: tuple[int, int]) -> None:
    datasets = [labelled("demonstrations", 24, 0), labelled("planned", *planned)]
    _, validation, _ = trajectory_train.divided(datasets, TRAINING)
    assert "demonstrations" in names(validation)


def test_every_task_is_divided_by_itself_and_no_recording_stands_on_both_sides() -> None:
    poor = "put it back"
    told = [*labelled("planned", 20, 40), *labelled("poor", 1, 3, poor)]
    again = [each for each in told if each.success and each.task == INSTRUCTION]  # the same recordings once more
    datasets = [[*labelled("demonstrations", 5, 0), *labelled("others", 5, 0, poor)], told, again]
    training, validation, test = trajectory_train.divided(datasets, TRAINING)
    assert "others" in names([*validation, *test]) and "demonstrations" not in names([*validation, *test])
    assert not {each.recording for each in training} & {each.recording for each in (*validation, *test)}
