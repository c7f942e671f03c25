"""Ground truth for the audit of a reinforcement run: the policy's success on the digital twin, by its geometric judge.

For runs on data of the twin only; on a robot the truth is a few real trials. The look is for watching: nothing of it
reaches the update.
"""

from __future__ import annotations

from pathlib import Path

from prophrl_models.policies.interface import FlowPolicy, PolicySpec
from prophrl_models.rl.audit import AuditRule, Look, OutcomeRate
from prophrl_models.trials.statistics import SuccessRate
from prophrl_nodes.studies.engine_runner import EngineRunner
from prophrl_nodes.studies.fast_placements import fast_placements
from prophrl_nodes.studies.fast_trials import FastTrial, TrialSettings, check_spec, run_trial
from robot_bridge.twin.fast_lane import FastLane


class TwinExaminer:
    """Runs the same fast-lane trials with every policy it is shown; an ``Examiner`` of ``rl.trainer``.

    The placements and the noise are the same each time, so looks differ by the policies alone. It draws nothing from
    torch's global generators and leaves the policy as it was.

    Args:
        settings: task, number of trials and how they are run.
        confidence: of the rate's interval; the audit's own by default.
    """

    def __init__(self, settings: TrialSettings, *, confidence: float | None = None) -> None:
        self.settings = settings
        self.confidence = AuditRule().confidence if confidence is None else confidence
        self.placements = fast_placements(settings.task, settings.trials, settings.seed)
        self.latest: list[FastTrial] = []
        """Trials of the last examination."""

    def __call__(self, policy: FlowPolicy, step: int) -> Look:
        """The look at a policy in memory; ``imagined`` is for the trainer to fill in.

        Raises:
            StudyError: the policy was not trained for the task.
        """
        return Look(step, audited=self.examine(EngineRunner.of_policy(policy)))

    def examine_checkpoint(self, folder: str | Path, device: str = "cpu") -> SuccessRate:
        """Success of a checkpoint.

        Raises:
            CheckpointError, StudyError: it cannot be used, or was not trained for the task.
        """
        return self.examine(EngineRunner.of_checkpoint(folder, device))

    def examine(self, runner: EngineRunner) -> SuccessRate:
        """Run the trials."""
        self.check(runner.spec)
        with FastLane(self.settings.task, control_rate_hz=runner.spec.control_rate_hz) as lane:
            self.latest = [
                run_trial(lane, runner, placement, index, self.settings)
                for index, placement in enumerate(self.placements)
            ]
        return OutcomeRate.of([trial.success for trial in self.latest], self.confidence)

    def check(self, spec: PolicySpec) -> None:
        """Refuse a policy before a run begins.

        Raises:
            StudyError: see ``fast_trials.check_spec``.
        """
        check_spec(spec, self.settings, "the policy")
