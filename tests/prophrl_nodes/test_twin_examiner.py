"""The audit on the twin: the truth about a policy in training, its judge and its world, without touching any."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from prophrl_nodes.studies.fast_trials import StudyError, TrialSettings
from prophrl_nodes.studies.twin_examiner import MOST_REPLAYS, Parts, TwinExaminer, open_parts

from prophrl_models.data.image import Image, ImageRegion, policy_image
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.interface import Inputs, ObservationBatch
from prophrl_models.prophet.worlds import load_world
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import save_classifier
from prophrl_models.reward.factory import JudgeSettings
from prophrl_models.reward.judge import Confusion, Verdict, Video
from prophrl_models.reward.trajectory import Trajectory
from prophrl_models.rl.audit import OutcomeRate
from prophrl_models.rl.open_run import Sources
from prophrl_models.rl.settings import RlSettings
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.tasks import Placement, get_task
from tests.helpers.twin_policies import untrained_policy
from tests.helpers.untrained_worlds import write_untrained_world

TASK = "place_cube"
DONE = Placement(TASK, {"cube": (-0.65, 0.1, 0.0), "bowl": (-0.65, 0.1, 0.0)})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained_world(tmp_path_factory.mktemp("worlds") / "world")


class Lenient:
    """Takes every trial on the twin for a success, and imagined ones where they are as long as a failed trial."""

    name = "lenient"

    def __init__(self) -> None:
        self.lengths: list[tuple[bool, int]] = []
        self.first_pictures: list[Image] = []

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        assert set(tasks) == {get_task(TASK).instruction}
        real = [video.shape[1:] == (240, 320, 3) for video in videos]
        self.lengths += [(r, len(video)) for r, video in zip(real, videos, strict=True)]
        self.first_pictures += [np.asarray(video[0]) for video in videos]
        answers = [r or len(video) > 12 for r, video in zip(real, videos, strict=True)]
        return [Verdict(answer, float(answer), (answer,)) for answer in answers]


def examiner_of(parts: Parts) -> TwinExaminer:
    examiner = TwinExaminer(TrialSettings(TASK, 2, max_duration_s=1.5), lambda: parts)
    examiner.placements[1] = DONE  # the cube lies in the bowl from the start
    return examiner


def test_a_look_tests_policy_judge_and_world_against_the_twins_truth(world: Path) -> None:
    judge = Lenient()
    look = examiner_of((judge, load_world(world, steps=1)))(untrained_policy(TASK), 10)
    assert look.step == 10 and look.imagined is None and look.audited is not None
    assert (look.audited.successes, look.audited.trials, look.audited.confidence) == (1, 2, 0.9)
    # A failure of 1.5 s and a shorter success: both seen as successes on the twin, imagined the other way round.
    assert look.judge == Confusion(1, 1, 0, 0)
    assert look.outcome == Confusion(0, 1, 0, 1)
    (_, whole), (_, short), *imagined = judge.lengths
    assert whole == 16 and 8 <= short <= 12
    assert imagined == [(False, whole), (False, short)]
    assert look.agreement() == {
        "judge_recall": 1.0, "judge_precision": 0.5, "outcome_agreement": 0.0, "imagined_precision": 0.0,
    }  # fmt: skip


class OfHeights:
    """A judge of trajectories: success is to end higher than one began; keeps what it saw."""

    name = "heights"

    def __init__(self) -> None:
        self.seen: list[Trajectory] = []

    def judge(self, videos: Sequence[Video], tasks: Sequence[str]) -> list[Verdict]:
        raise AssertionError("it looks at commands")

    def judge_trajectories(self, trajectories: Sequence[Trajectory], tasks: Sequence[str]) -> list[Verdict]:
        self.seen += trajectories
        return [Verdict(bool(t.state_T7[-1, 2] > t.state_T7[0, 2]), 0.5, ()) for t in trajectories]


def test_a_judge_of_trajectories_is_shown_the_trials_commands_and_nothing_imagined(world: Path) -> None:
    judge = OfHeights()
    look = examiner_of((judge, load_world(world, steps=1)))(untrained_policy(TASK), 10)
    assert look.outcome is None and look.judge is not None and look.judge.judged == 2
    whole, short = judge.seen
    assert len(whole.state_T7) == 16 and 8 <= len(short.state_T7) <= 12
    assert whole.image_HW3.shape == (240, 320, 3) and np.ptp(whole.state_T7[:, :3], axis=0).max() > 0.001
    assert look.agreement().keys() <= {"judge_recall", "judge_precision"}


def test_a_look_leaves_policy_and_random_numbers_alone_and_repeats_itself(world: Path, tmp_path: Path) -> None:
    looks = ClassifierConfig(
        (get_task(TASK).instruction,), frames=4, height=24, width=32, channels=(8, 8, 8, 8), token=16, heads=2
    )
    judge = save_classifier(tmp_path / "judge", SuccessClassifier(looks).eval(), Decision(), {"made_for": "a test"})
    sources = Sources(tmp_path, world, (), JudgeSettings("classifier", str(judge)), world_steps=1)
    policy = untrained_policy(TASK)
    spec, weights = policy.spec, {name: value.clone() for name, value in policy.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    found = []
    for _ in range(2):
        examiner = TwinExaminer(
            TrialSettings(TASK, 2, max_duration_s=1.0), functools.partial(open_parts, sources, RlSettings())
        )
        torch.manual_seed(5)
        found.append(examiner(policy, 0))
        assert torch.equal(torch.rand(3), expected)
        assert [trial.success for trial in examiner.latest] == [False, False]
    assert found[0] == found[1] and found[0].judge is not None and found[0].outcome is not None
    assert (found[0].judge.judged, found[0].outcome.judged) == (2, 2)
    audited = found[0].audited
    assert isinstance(audited, OutcomeRate) and audited.outcomes == (False, False), "looks are compared in pairs"
    assert policy.spec is spec
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())


def test_of_many_trials_a_fixed_part_is_imagined_again(monkeypatch: pytest.MonkeyPatch, world: Path) -> None:
    judge = Lenient()
    examiner = TwinExaminer(TrialSettings(TASK, 3, max_duration_s=0.3), lambda: (judge, load_world(world, steps=1)))
    monkeypatch.setattr("prophrl_nodes.studies.twin_examiner.MOST_REPLAYS", 2)
    look = examiner(untrained_policy(TASK), 0)
    assert look.judge is not None and look.outcome is not None and MOST_REPLAYS > 2
    assert (look.judge.judged, look.outcome.judged) == (3, 2)


def test_policy_and_judge_are_shown_the_region_that_the_policy_was_trained_on(
    monkeypatch: pytest.MonkeyPatch, world: Path
) -> None:
    region = ImageRegion(0.2, 0.3, 0.5)
    judge = Lenient()
    examiner = TwinExaminer(
        TrialSettings(TASK, 1, max_duration_s=0.2),
        lambda: (judge, load_world(world, steps=1)),
        sync=SyncSpec(image_region=region),
    )
    with FastLane(TASK) as lane:
        seen = lane.reset(examiner.placements[0]).image_HW3
    policy = untrained_policy(TASK)
    looked_at: list[ObservationBatch] = []
    prepare = policy.prepare

    def noting(batch: ObservationBatch) -> Inputs:
        looked_at.append(batch)
        return prepare(batch)

    monkeypatch.setattr(policy, "prepare", noting)
    examiner(policy, 0)
    np.testing.assert_array_equal(looked_at[0].image_BHW3[0].numpy(), policy_image(seen, region))
    np.testing.assert_array_equal(judge.first_pictures[0], policy_image(seen, region))


def test_a_policy_for_another_task_is_refused(world: Path) -> None:
    examiner = TwinExaminer(TrialSettings("pull_tissue", 1), lambda: (Lenient(), load_world(world)))
    with pytest.raises(StudyError, match="the policy was not trained on 'pull a tissue out of the box'"):
        examiner.check(untrained_policy(TASK).spec)
