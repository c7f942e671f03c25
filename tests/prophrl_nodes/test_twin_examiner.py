"""The audit on the twin: the truth about a policy that is being trained, without touching it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from prophrl_nodes.studies.fast_trials import StudyError, TrialSettings
from prophrl_nodes.studies.twin_examiner import TwinExaminer

from prophrl_models.rl.audit import OutcomeRate
from robot_bridge.twin.tasks import Placement
from tests.helpers.twin_policies import untrained_policy

TASK = "place_cube"
DONE = Placement(TASK, {"cube": (-0.65, 0.1, 0.0), "bowl": (-0.65, 0.1, 0.0)})


def test_a_look_counts_successes_and_leaves_the_policy_alone() -> None:
    examiner = TwinExaminer(TrialSettings(TASK, 2, max_duration_s=1.5))
    examiner.placements[1] = DONE  # the cube lies in the bowl from the start
    policy = untrained_policy(TASK)
    spec, weights = policy.spec, {name: value.clone() for name, value in policy.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    look = examiner(policy, 10)
    assert torch.equal(torch.rand(3), expected)
    assert look.step == 10 and look.imagined is None and look.audited is not None
    assert (look.audited.successes, look.audited.trials, look.audited.confidence) == (1, 2, 0.9)
    assert isinstance(look.audited, OutcomeRate) and look.audited.outcomes == (False, True)
    assert policy.spec is spec
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())


def test_a_policy_for_another_task_is_refused() -> None:
    examiner = TwinExaminer(replace(TrialSettings(TASK, 1), task="pull_tissue"))
    with pytest.raises(StudyError, match="the policy was not trained on 'pull a tissue out of the box'"):
        examiner.check(untrained_policy(TASK).spec)
