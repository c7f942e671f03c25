"""Ground truth for the audit of a reinforcement run: the policy's trials on the digital twin, by its geometric judge.

    success of the trials                                             -> Look.audited
    the run's judge on the trials' pictures, against that truth       -> Look.judge
    the trials' actions imagined by the run's world, judged likewise  -> Look.outcome

For runs on data of the twin only; on a robot the truth is a few real trials. The look is for watching: nothing of it
reaches the update.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np
import torch

from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.interface import FlowPolicy, PolicySpec
from prophrl_models.prophet.rollout import ImaginedWorld
from prophrl_models.prophet.worlds import load_world
from prophrl_models.reward.attempts import TrajectoryJudge, judge_attempts
from prophrl_models.reward.factory import open_judge
from prophrl_models.reward.judge import Confusion, Judge
from prophrl_models.rl.audit import AuditRule, Look, OutcomeRate
from prophrl_models.rl.open_run import WORLD_DTYPES, Sources
from prophrl_models.rl.replays import LoggedEpisode, logged_attempts, replay_videos
from prophrl_models.rl.settings import RlSettings
from prophrl_nodes.studies.engine_runner import EngineRunner
from prophrl_nodes.studies.fast_placements import fast_placements
from prophrl_nodes.studies.fast_trials import FastTrial, TrialSettings, check_spec, run_trial
from prophrl_nodes.studies.watched_lane import WatchedLane
from robot_bridge.twin.tasks import get_task

MOST_REPLAYS = 32
"""So many trials of a look are imagined again, spread evenly over the placements: a failed one has 300 frames."""
_AT_ONCE = 8

Parts = tuple[Judge, ImaginedWorld]
"""The judge and the world model of a run."""


def open_parts(sources: Sources, settings: RlSettings) -> Parts:
    """A run's judge and world once more: its own may live in other processes.

    Raises:
        CheckpointError, JudgeError: see ``load_world`` and ``open_judge``.
    """
    dtype = WORLD_DTYPES[settings.rollout.world_precision]
    world = load_world(sources.world, device=sources.device, dtype=dtype, steps=sources.world_steps)
    return open_judge(sources.judge), world


class TwinExaminer:
    """Runs the same fast-lane trials with every policy it is shown; an ``Examiner`` of ``rl.trainer``.

    Placements and noise are the same each time, the imagination's too, so looks differ by the policies alone. It draws
    nothing from torch's global generators and leaves the policy as it was.

    Args:
        settings: task, number of trials and how they are run.
        parts: opens judge and world; called at the first look.
        confidence: of the rate's interval; the audit's own by default.
        sync: how the policies' observations are formed; the usual way when None.
    """

    def __init__(
        self,
        settings: TrialSettings,
        parts: Callable[[], Parts],
        *,
        confidence: float | None = None,
        sync: SyncSpec | None = None,
    ) -> None:
        self.settings, self._open_parts, self._sync = settings, parts, sync
        self.confidence = AuditRule().confidence if confidence is None else confidence
        self.placements = fast_placements(settings.task, settings.trials, settings.seed)
        self.latest: list[FastTrial] = []
        """Trials of the last look."""

    def __call__(self, policy: FlowPolicy, step: int) -> Look:
        """The look at a policy in memory; ``imagined`` is for the trainer to fill in.

        Raises:
            StudyError: the policy was not trained for the task.
            JudgeError, CheckpointError: judge or world cannot be used.
        """
        runner = EngineRunner.of_policy(policy, self._sync)
        self.check(runner.spec)
        judge, world = self._parts
        task, count = get_task(self.settings.task), len(self.placements)
        replayed = {place * count // MOST_REPLAYS for place in range(MOST_REPLAYS)}
        self.latest, verdicts, episodes = [], [], []
        with closing(WatchedLane(task.id, control_rate_hz=runner.spec.control_rate_hz)) as lane:
            for index, placement in enumerate(self.placements):
                trial = run_trial(lane, runner, placement, index, self.settings)
                self.latest.append(trial)
                episode = lane.episode(task.instruction, runner.sync, world.convention, trial.success)
                attempts = logged_attempts([np.asarray(episode.frames_THW3)], [episode], world.convention)
                verdicts += judge_attempts(judge, attempts)
                if index in replayed:
                    episodes.append(dataclasses.replace(episode, frames_THW3=None))  # 70 MB in half a minute
        truth = [trial.success for trial in self.latest]
        return Look(
            step,
            judge=Confusion.of([verdict.success for verdict in verdicts], truth),
            outcome=self._imagined_again(episodes),
            audited=OutcomeRate.of(truth, self.confidence),
        )

    def check(self, spec: PolicySpec) -> None:
        """Refuse a policy before a run begins.

        Raises:
            StudyError: see ``fast_trials.check_spec``.
        """
        check_spec(spec, self.settings, "the policy")

    def _imagined_again(self, episodes: Sequence[LoggedEpisode]) -> Confusion | None:
        """What the judge sees where the world imagines the trials' actions, against what happened; None of a judge that
        does not look."""
        judge, world = self._parts
        if isinstance(judge, TrajectoryJudge):
            return None
        verdicts = []
        for first in range(0, len(episodes), _AT_ONCE):
            part = episodes[first : first + _AT_ONCE]
            videos = replay_videos(world, part, seed=self.settings.seed + first)
            verdicts += judge_attempts(judge, logged_attempts(videos, part, world.convention))
        return Confusion.of([verdict.success for verdict in verdicts], [episode.success for episode in episodes])

    @functools.cached_property
    def _parts(self) -> Parts:
        with torch.random.fork_rng():  # a model's weights are drawn before they are read
            return self._open_parts()
