"""Pre-flight check of a reinforcement run: measure what the gates of ``rl.gates`` ask for, on a few rollouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention
from prophrl_models.policies.interface import FlowPolicy
from prophrl_models.prophet.rollout import ImaginedWorld, Prompt
from prophrl_models.reward.attempts import Attempt, TrajectoryJudge, judge_attempts
from prophrl_models.reward.judge import Confusion, Judge
from prophrl_models.reward.trajectory import Trajectory
from prophrl_models.rl.gates import (
    CheckReport,
    CheckSettings,
    Finding,
    correlation_of,
    judge_gates,
    outcome_gate,
    sde_gate,
    signal_gate,
)
from prophrl_models.rl.replays import LoggedEpisode, compare_outcomes, replay_videos
from prophrl_models.rl.rollouts import Rollouts, RolloutWorker, Unit, derived_seed, joined
from prophrl_models.rl.settings import RolloutOptions
from prophrl_models.rl.starts import draw_starts
from prophrl_models.trials.paired import PairedOutcomes
from prophrl_models.trials.statistics import SuccessRate

__all__ = ["CheckReport", "CheckSettings", "Finding", "LabelledVideo", "LoggedEpisode", "run_check"]


@dataclass(frozen=True)
class LabelledVideo:
    """A video uint8 [T, H, W, 3] whose outcome somebody knows.

    ``seen``: the judge was trained on it; ``trajectory``: where the hand was told to go, for judges that ask.
    """

    frames_THW3: NDArray[np.uint8]
    task: str
    success: bool
    seen: bool = False
    trajectory: Trajectory | None = None


def run_check(
    policy: FlowPolicy,
    world: ImaginedWorld,
    judge: Judge,
    starts: Sequence[Prompt],
    options: RolloutOptions,
    *,
    labelled: Sequence[LabelledVideo] = (),
    logged: Sequence[LoggedEpisode] = (),
    settings: CheckSettings | None = None,
    precision: str = "fp32",
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> CheckReport:
    """Measure everything and put it to the gates. Rollouts are those the run itself would make.

    Args:
        starts: start states of the run; some are drawn.
        options: how the run will sample.
        labelled: videos with known outcome for the judge; its gates say "not enough" without.
        logged: episodes with known outcome for the world model; likewise. What judge or world have seen in training can
            speak against them, but not for them.
        say: told what is going on.

    Raises:
        TrainingError: policy, world and options do not go together.
        ValueError: no starts.
    """
    if not starts:
        raise ValueError("a check needs start states; see starts.dataset_starts")
    settings, tell = settings or CheckSettings(), say or (lambda line: None)
    bench = _Bench(policy, world, judge, starts, options, settings, precision, seed)
    tell(f"rolling out {settings.starts} starts x {options.group_size} with the ODE")
    ode = bench.roll(0.0)
    tell(f"and with the SDE at noise {options.noise_level:g}")
    sde = bench.roll(options.noise_level)
    findings = [bench.sde_finding(sde, ode, options.noise_level)]
    if findings[0].measured < settings.sde_share:
        findings[0] = bench.with_better_noise(findings[0], ode, tell)
    kept = (options.keep_low, options.keep_high)
    findings.append(signal_gate(sde.reward_B(options.reward), options.group_size, kept, settings))
    tell(f"judging {len(labelled)} labelled videos")
    judged = [_judged(judge, [v for v in labelled if v.seen == seen]) for seen in KNOWN]
    findings += judge_gates(judged[0], judged[1], settings)
    if isinstance(judge, TrajectoryJudge):
        tell("the judge never looks at imagined pictures: nothing to be learned from logs imagined again")
        return CheckReport(tuple(findings))
    tell(f"imagining {len(logged)} logged episodes")
    videos = replay_videos(world, logged, keep=min(options.keep, world.actions), seed=seed) if logged else []
    imagined = [_outcomes(judge, videos, logged, seen, world.convention) for seen in KNOWN]
    filmed = [e for e in logged if e.frames_THW3 is not None]
    pictures = [np.asarray(e.frames_THW3) for e in filmed]
    real = [_outcomes(judge, pictures, filmed, seen, world.convention) for seen in KNOWN]
    findings.append(outcome_gate(imagined[0], real[0], settings, imagined[1], real[1]))
    return CheckReport(tuple(findings))


KNOWN = (False, True)
"""What was not seen in training, and what was."""


def _judged(judge: Judge, videos: Sequence[LabelledVideo]) -> Confusion:
    verdicts = judge_attempts(judge, [Attempt(v.frames_THW3, v.task, v.trajectory) for v in videos])
    return Confusion.of([v.success for v in verdicts], [v.success for v in videos])


def _outcomes(
    judge: Judge,
    videos: Sequence[NDArray[np.uint8]],
    episodes: Sequence[LoggedEpisode],
    seen: bool,
    convention: ActionConvention,
) -> Confusion:
    """Verdicts on videos of those episodes that judge or world have seen, or of the others."""
    rows = [row for row, e in enumerate(episodes) if (e.seen_by_judge or e.seen_by_world) == seen]
    if not rows:
        return Confusion(0, 0, 0, 0)
    return compare_outcomes(judge, [videos[row] for row in rows], [episodes[row] for row in rows], convention)


@dataclass(frozen=True)
class _Bench:
    """The same starts and seeds, rolled out with one noise level or another."""

    policy: FlowPolicy
    world: ImaginedWorld
    judge: Judge
    starts: Sequence[Prompt]
    options: RolloutOptions
    settings: CheckSettings
    precision: str
    seed: int

    @property
    def num_steps(self) -> int:
        return self.options.num_steps or self.policy.spec.num_steps

    def roll(self, noise_level: float) -> Rollouts:
        """Groups of rollouts; a noise level of 0 samples as deployed."""
        options = dataclasses.replace(self.options, noise_level=noise_level or self.options.noise_level)
        worker = RolloutWorker(self.policy, self.world, self.judge, self.starts, options, precision=self.precision)
        drawn = draw_starts(len(self.starts), self.settings.starts, self.seed)
        G, at_once, parts = options.group_size, options.groups_at_once, []
        for first in range(0, len(drawn), at_once):
            places = range(first, min(first + at_once, len(drawn)))
            unit = Unit(
                tuple(drawn[place] for place in places for _ in range(G)),
                tuple(derived_seed(self.seed, "check", place, member) for place in places for member in range(G)),
                mode="sde" if noise_level else "ode",
            )
            parts.append(worker.run(unit))
        return joined(parts)

    def sde_finding(self, sde: Rollouts, ode: Rollouts, noise_level: float) -> Finding:
        """Rollouts of one start and seed are compared; those that lack a judgement on either side are left out."""
        judged_B = ~(sde.success_B.isnan() | ode.success_B.isnan())
        noisy, quiet = ((found.success_B[judged_B] > 0.5).tolist() for found in (sde, ode))
        rates = [SuccessRate(sum(found), len(found), self.settings.confidence) for found in (noisy, quiet)]
        alike = correlation_of(PairedOutcomes.of(noisy, quiet))
        return sde_gate(rates[0], rates[1], self.settings.sde_share, noise_level, self.num_steps, alike)

    def with_better_noise(self, finding: Finding, ode: Rollouts, tell: Callable[[str], None]) -> Finding:
        """A finding below the limit, with an advice that was tried out."""
        for factor in self.settings.lower_noise:
            level = factor * self.options.noise_level
            tell(f"trying noise {level:g}")
            tried = self.sde_finding(self.roll(level), ode, level)
            if tried.measured >= self.settings.sde_share:
                advice = f"set rollout.noise_level to {level:g}: it keeps {tried.measured:.0%} ({tried.message})"
                return dataclasses.replace(finding, advice=advice)
        return finding
