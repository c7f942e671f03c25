"""The pre-flight check: gates on numbers whose answer is known, and the whole of it in a small world."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from torch import Tensor

from prophrl_models.policies.interface import Cond, FlowPolicy, Inputs, ObservationBatch, PolicySpec, Scaling
from prophrl_models.reward.judge import Confusion, Verdict
from prophrl_models.rl.check import CheckReport, CheckSettings, LabelledVideo, LoggedEpisode, run_check
from prophrl_models.rl.gates import (
    NOTHING,
    correlation_of,
    judge_gates,
    outcome_gate,
    sde_gate,
    share_gate,
    signal_gate,
)
from prophrl_models.rl.replays import replay_videos
from prophrl_models.rl.settings import RolloutOptions
from prophrl_models.trials.paired import PairedOutcomes
from prophrl_models.trials.statistics import SuccessRate
from tests.helpers.dot_world import (
    CALLS,
    CHUNK,
    CONVENTION,
    HEIGHT,
    INSTRUCTION,
    RED,
    WIDTH,
    DotJudge,
    DotState,
    DotWorld,
    centre,
    starts,
)

SETTINGS = CheckSettings()


def rate(successes: int, trials: int) -> SuccessRate:
    return SuccessRate(successes, trials, SETTINGS.confidence)


@pytest.mark.parametrize(
    ("successes", "trials", "status"),
    [(190, 200, "pass"), (120, 200, "fail"), (9, 10, "not enough"), (0, 0, "not enough")],
)
def test_a_share_passes_fails_or_is_left_open(successes: int, trials: int, status: str) -> None:
    finding = share_gate("recall", rate(successes, trials), 0.8, "seen", "label more")
    assert finding.status == status
    assert ("label more" in finding.advice) == (status != "pass")


@pytest.mark.parametrize(
    ("sde", "ode", "status"),
    [
        ((500, 1000), (500, 1000), "pass"),
        ((250, 1000), (500, 1000), "fail"),
        ((80, 1000), (370, 1000), "fail"),  # K = 4, a = 1 of the measured table
        ((300, 1000), (350, 1000), "not enough"),  # 86 %: right at the limit
        ((8, 16), (8, 16), "not enough"),
        ((0, 0), (8, 16), "not enough"),
    ],
)
def test_the_sde_must_keep_the_skill(sde: tuple[int, int], ode: tuple[int, int], status: str) -> None:
    finding = sde_gate(rate(*sde), rate(*ode), 0.85, 0.5, 10)
    assert finding.status == status
    if sde[1]:
        assert finding.low <= finding.measured <= finding.high
        assert finding.measured == pytest.approx((sde[0] / sde[1]) / (ode[0] / ode[1]))
    if status == "fail":
        assert "rollout.noise_level" in finding.advice


def test_the_interval_of_the_sde_gate_holds_its_confidence() -> None:
    random = np.random.default_rng(0)
    for n, p, share in ((60, 0.45, 1.0), (200, 0.3, 0.85)):
        inside = 0
        for _ in range(2000):
            sde, ode = random.binomial(n, share * p), random.binomial(n, p)
            finding = sde_gate(rate(int(sde), n), rate(int(ode), n), share, 0.5, 10)
            inside += finding.low <= share <= finding.high  # the truth is that the share is exactly met
        assert inside / 2000 == pytest.approx(SETTINGS.confidence, abs=0.03)


def paired(random: np.random.Generator, ode: float, sde: float, starts: int = 16, group: int = 8) -> Any:
    """Outcomes (SDE, ODE) of the same starts and seeds: half of what decides is the start's, a fifth the seed's."""
    common = np.repeat(random.normal(size=starts), group) * 0.5**0.5 + random.normal(size=starts * group) * 0.2**0.5
    draws = [common + random.normal(size=starts * group) * 0.3**0.5 for _ in range(2)]
    return tuple((draw < ndtri(p)).tolist() for draw, p in zip(draws, (sde, ode), strict=True))


def sde_findings(ode: float, sde: float, count: int, *, alone: bool = False) -> list[Any]:
    random, found = np.random.default_rng(0), []
    while len(found) < count:
        noisy, quiet = paired(random, ode, sde)
        rates = [rate(sum(outcomes), len(outcomes)) for outcomes in (noisy, quiet)]
        if rates[1].successes:
            alike = 0.0 if alone else correlation_of(PairedOutcomes.of(noisy, quiet))
            found.append(sde_gate(rates[0], rates[1], SETTINGS.sde_share, 0.7, 10, alike))
    return found


def test_the_sde_gate_decides_at_its_default_size() -> None:
    for sde, least in ((0.25, 0.65), (0.2, 0.95)):  # 63 % and half of the skill is left
        statuses = [finding.status for finding in sde_findings(0.4, sde, 400)]
        independent = [finding.status for finding in sde_findings(0.4, sde, 400, alone=True)]
        assert statuses.count("fail") >= max(least * 400, independent.count("fail") + 20)
        assert not statuses.count("pass")
    # Of 16 x 8 rollouts 51 succeed with the ODE and 32 with the SDE: independent ones would leave it open.
    alone = sde_gate(rate(32, 128), rate(51, 128), 0.85, 0.7, 10)
    pairs = PairedOutcomes(28, 4, 23, 73)
    together = sde_gate(rate(32, 128), rate(51, 128), 0.85, 0.7, 10, correlation_of(pairs))
    assert (alone.status, together.status) == ("not enough", "fail")


def test_the_paired_interval_of_the_sde_gate_holds_its_confidence() -> None:
    findings = sde_findings(0.4, 0.34, 1500)  # the truth is that the share is exactly met
    inside = np.mean([finding.low <= 0.85 <= finding.high for finding in findings])
    assert inside == pytest.approx(SETTINGS.confidence, abs=0.03)


def test_outcomes_correlate_as_far_as_they_do() -> None:
    assert correlation_of(PairedOutcomes(0, 0, 0, 0)) == correlation_of(PairedOutcomes(9, 3, 0, 0)) == 0.0
    assert correlation_of(PairedOutcomes(5000, 0, 0, 5000)) == pytest.approx(1.0, abs=1e-3)
    assert correlation_of(PairedOutcomes(0, 5000, 5000, 0)) == pytest.approx(-1.0)
    assert correlation_of(PairedOutcomes(3, 1, 1, 3)) == pytest.approx((9 - 1 - 4) / 16)


def test_a_policy_that_never_succeeds_is_said_to_be_hopeless_only_after_enough_trials() -> None:
    assert sde_gate(rate(0, 100), rate(0, 100), 0.85, 0.5, 10).status == "fail"
    assert sde_gate(rate(0, 5), rate(0, 5), 0.85, 0.5, 10).status == "not enough"


def test_groups_must_carry_signal() -> None:
    mixed, solved, failed = [1.0, 0, 1, 0], [1.0] * 4, [0.0] * 4
    good = signal_gate(torch.tensor(mixed * 10 + solved * 20), 4, (0.1, 0.9), SETTINGS)
    assert good.status == "pass" and good.measured == pytest.approx(1 / 3)
    for groups, hint in ((solved * 40, "harder"), (failed * 40, "easier")):
        finding = signal_gate(torch.tensor(groups), 4, (0.1, 0.9), SETTINGS)
        assert finding.status == "fail" and hint in finding.advice


def test_a_judge_is_held_to_recall_precision_and_answers() -> None:
    def statuses(confusion: Confusion) -> list[str]:
        return [finding.status for finding in judge_gates(confusion, NOTHING, SETTINGS)]

    assert statuses(Confusion(95, 5, 95, 5)) == ["pass"] * 3
    assert statuses(Confusion(60, 5, 95, 40)) == ["fail", "pass", "pass"]
    assert statuses(Confusion(95, 60, 40, 5)) == ["pass", "fail", "pass"]
    assert statuses(Confusion(60, 2, 60, 3, no_judgement=125)) == ["pass", "pass", "fail"]
    assert statuses(Confusion(0, 0, 0, 0)) == ["not enough"] * 3


def test_without_recorded_failures_precision_and_agreement_stay_open() -> None:
    easy = Confusion(32, 0, 0, 0)
    recall, precision, answers = judge_gates(easy, NOTHING, SETTINGS)
    assert (recall.status, precision.status, answers.status) == ("pass", "not enough", "pass")
    assert "no recorded failures" in precision.message and "--outcome failure --discarded" in precision.advice
    agreement = outcome_gate(easy, easy, SETTINGS)
    assert agreement.status == "not enough" and "no recorded failures" in agreement.message
    assert not CheckReport((recall, precision, answers, agreement)).passed
    few, enough = Confusion(32, 0, 4, 0), Confusion(32, 0, 5, 0)
    assert "4 recorded failures, need 5" in judge_gates(few, NOTHING, SETTINGS)[1].message
    assert [outcome_gate(c, NOTHING, SETTINGS).status for c in (few, enough)] == ["not enough", "pass"]
    # The judge that never says yes agrees with every failure.
    never = outcome_gate(Confusion(0, 0, 40, 0), NOTHING, SETTINGS)
    assert never.status == "not enough" and "no recorded successes" in never.message
    # What fails on successes alone has failed.
    assert outcome_gate(Confusion(10, 0, 0, 22), NOTHING, SETTINGS).status == "fail"


def test_what_was_seen_in_training_can_fail_a_gate_but_not_pass_it() -> None:
    good, bad, few = Confusion(50, 0, 50, 0), Confusion(20, 25, 25, 30), Confusion(2, 0, 2, 0)
    for fresh, seen, status in (
        (NOTHING, good, "not enough"),
        (few, good, "not enough"),
        (NOTHING, bad, "fail"),
        (few, bad, "fail"),
        (good, bad, "fail"),
        (bad, good, "fail"),
        (good, good, "pass"),
    ):
        recall, precision, _ = judge_gates(fresh, seen, SETTINGS)
        outcome = outcome_gate(fresh, fresh, SETTINGS, seen, seen)
        assert {recall.status, precision.status, outcome.status} == {status}, (fresh, seen)
    left_out = judge_gates(few, good, SETTINGS)[0]
    assert "2 of 2 true successes" in left_out.message and "100 more were seen in training" in left_out.message
    assert "record episodes that the judge is not trained on" in left_out.advice
    assert "trained on these 100" in outcome_gate(few, few, SETTINGS, bad, bad).message


def test_disagreement_is_blamed_on_the_world_or_on_the_judge() -> None:
    right, wrong = Confusion(50, 0, 50, 0), Confusion(50, 25, 25, 0)
    world = outcome_gate(wrong, right, SETTINGS)
    assert world.status == "fail" and "too kind" in world.advice and "judge is wrong on 0%" in world.advice
    assert "improve the judge first" in outcome_gate(wrong, wrong, SETTINGS).advice
    assert "failures of what did succeed" in outcome_gate(Confusion(25, 0, 50, 25), NOTHING, SETTINGS).advice
    assert outcome_gate(right, right, SETTINGS).status == "pass"


def test_a_report_fails_when_one_gate_does_and_passes_when_all_do() -> None:
    passed = share_gate("a", rate(99, 100), 0.5, "x", "y")
    open_, failed = share_gate("b", rate(1, 2), 0.5, "x", "y"), share_gate("c", rate(1, 100), 0.5, "x", "do this")
    assert CheckReport((passed,)).passed and not CheckReport((passed, open_)).passed
    assert not CheckReport((passed, open_)).failed and CheckReport((passed, failed)).failed
    assert not CheckReport(()).passed
    assert "do this" in CheckReport((failed,)).text()
    raw = json.dumps(CheckReport((share_gate("d", rate(0, 0), 0.5, "x", "y"),)).to_json(), allow_nan=False)
    assert json.loads(raw)["findings"][0]["measured"] is None


@pytest.mark.parametrize(
    "bad", [{"recall": 1.5}, {"confidence": 1.0}, {"starts": 0}, {"failures": 0}, {"lower_noise": (1.5,)}]
)
def test_impossible_demands_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        CheckSettings(**bad)


# ---- the whole check, in a world where all answers are known ----


class StraightPolicy(FlowPolicy):
    """Finds the square in the picture and goes there in a straight line.

    Its velocity is that of the flow to a single point, so the ODE always arrives. With noise the last denoising step
    leaves a deviation a / sqrt(K (K - 1)) of each action, here times 5 cm: over 12 actions 3.9 cm for K = 5, a = 1, and
    the judge forgives 4 cm.
    """

    def __init__(self) -> None:
        scaling = Scaling((0.0,) * 6 + (0.5,), (0.05,) * 6 + (0.5,))
        spec = PolicySpec(
            CONVENTION, scaling, Scaling((0.0,) * 7, (1.0,) * 7), chunk=CHUNK, num_steps=5,
            image_height=HEIGHT, image_width=WIDTH, instructions=(INSTRUCTION,), state_source="integrated",
        )  # fmt: skip
        super().__init__(spec)
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # names the device
        self.calls = 0

    def prepare(self, obs: ObservationBatch) -> Inputs:
        return Inputs(obs.image_BHW3, obs.state_B7, torch.zeros(len(obs), 1, dtype=torch.int64))

    def embed(self, inputs: Inputs) -> Cond:
        step = self.calls % CALLS
        self.calls += 1
        vectors = []
        for image, state in zip(inputs.image.numpy(), inputs.state_B7.numpy(), strict=True):
            square = centre(image, RED)
            goal = state[:2] if square is None else np.array([(square[0] - 23.5) / 100, (15.5 - square[1]) / 100])
            vectors.append((goal - state[:2]) / ((CALLS - step) * CHUNK))
        return Cond(torch.zeros(len(inputs), 1, 1), torch.from_numpy(np.stack(vectors)).float())

    def velocity(self, cond: Cond, x_BCD: Tensor, t_B: Tensor) -> Tensor:
        action = torch.zeros_like(x_BCD)
        action[..., :2] = cond.vector_BE[:, None]
        action[..., 6] = 1.0
        action = self.spec.action_scaling.normalise(action)
        return (x_BCD - action) / t_B[:, None, None]

    def config(self) -> dict[str, object]:
        return {}


class KindWorld(DotWorld):
    """A world model that draws the dot on the square whatever was done."""

    def advance(self, world: DotState, actions_BCD: Tensor, keep: int | Tensor) -> tuple[DotState, Tensor]:
        kind = actions_BCD.clone()
        goal = torch.from_numpy(
            np.stack([(world.square_B2[:, 0] - 23.5) / 100, (15.5 - world.square_B2[:, 1]) / 100], 1)
        )
        kind[:, :, :2] = 0.0
        kind[:, 0, :2] = (goal - world.state_B7[:, :2]).float()
        return super().advance(world, kind, keep)


class ForgetfulJudge(DotJudge):
    """Misses every third success."""

    def judge(self, videos: Any, tasks: Any) -> list[Verdict]:
        found = super().judge(videos, tasks)
        return [replace(v, success=False) if v.success and i % 3 == 0 else v for i, v in enumerate(found)]


def logged(count: int) -> list[LoggedEpisode]:
    """Episodes of which every other one went to the square and the others away from it; lengths differ."""
    episodes = []
    for number, prompt in enumerate(starts(count, 3)):
        length = 9 + number % 5
        square = centre(prompt.image_HW3, RED)
        assert square is not None
        goal = np.array([(square[0] - 23.5) / 100, (15.5 - square[1]) / 100])
        if number % 2:
            goal = prompt.state_7[:2] + np.array([0.0, 0.1 if goal[1] < prompt.state_7[1] else -0.1])
        actions = np.zeros((length, 7), np.float32)
        actions[:, :2] = (goal - prompt.state_7[:2]) / length
        actions[:, 6] = 1.0
        episodes.append(LoggedEpisode(prompt, actions, number % 2 == 0))
    filmed = replay_videos(DotWorld(0.0), episodes)
    return [replace(episode, frames_THW3=video) for episode, video in zip(episodes, filmed, strict=True)]


OPTIONS = RolloutOptions(prompts=4, group_size=4, calls=CALLS, groups_at_once=8, noise_level=1.0)


@pytest.fixture(scope="module")
def episodes() -> list[LoggedEpisode]:
    return logged(60)


@pytest.fixture(scope="module")
def labelled(episodes: list[LoggedEpisode]) -> list[LabelledVideo]:
    return [
        LabelledVideo(e.frames_THW3, e.prompt.instruction, e.success) for e in episodes if e.frames_THW3 is not None
    ]


def by_gate(report: CheckReport) -> dict[str, Any]:
    return {finding.gate: finding for finding in report.findings}


def test_replays_have_a_frame_for_each_action_and_the_first_picture(episodes: list[LoggedEpisode]) -> None:
    videos = replay_videos(DotWorld(0.0), episodes[:7], batch=3)
    for episode, video in zip(episodes[:7], videos, strict=True):
        assert len(video) == len(episode.actions_T7) + 1
        assert (video[0] == episode.prompt.image_HW3).all() and (video == episode.frames_THW3).all()


def test_too_much_noise_is_found_and_a_level_that_was_tried_is_advised(
    episodes: list[LoggedEpisode], labelled: list[LabelledVideo]
) -> None:
    said: list[str] = []
    report = run_check(
        StraightPolicy(), DotWorld(), DotJudge(), starts(16, 1), OPTIONS,
        labelled=labelled, logged=episodes, settings=CheckSettings(starts=16), say=said.append,
    )  # fmt: skip
    gates = by_gate(report)
    assert report.failed and not report.passed
    assert gates["SDE keeps the skill"].status == "fail"
    # 1 - exp(-r^2 / (2 s^2)) with r = 4.5 cm (the judge rounds to pixels) and s = 3.9 cm
    assert gates["SDE keeps the skill"].measured == pytest.approx(0.48, abs=0.17)
    assert "set rollout.noise_level to 0.5" in gates["SDE keeps the skill"].advice
    assert [gates[name].status for name in ("judge recall", "judge precision", "judge answers")] == ["pass"] * 3
    assert gates["outcome agreement"].status == "pass" and gates["groups with signal"].status == "pass"
    assert any("trying noise" in line for line in said)


def test_a_check_on_its_own_training_episodes_does_not_pass(
    episodes: list[LoggedEpisode], labelled: list[LabelledVideo]
) -> None:
    settings, options = CheckSettings(starts=2), replace(OPTIONS, noise_level=0.2)

    def gates(judge: Any, seen: slice, by: str) -> dict[str, Any]:
        known = [replace(e, **{by: True}) if n in range(60)[seen] else e for n, e in enumerate(episodes)]
        films = [replace(v, seen=by == "seen_by_judge" and n in range(60)[seen]) for n, v in enumerate(labelled)]
        report = run_check(
            StraightPolicy(), DotWorld(), judge, starts(2, 1), options, labelled=films, logged=known, settings=settings
        )
        return by_gate(report)

    everything, most = slice(None), slice(6, None)
    by_judge = gates(DotJudge(), everything, "seen_by_judge")
    for gate in ("judge recall", "judge precision", "judge answers", "outcome agreement"):
        assert by_judge[gate].status == "not enough" and "60 more were seen in training" in by_judge[gate].message
    by_world = gates(DotJudge(), most, "seen_by_world")
    assert by_world["judge recall"].status == "pass"
    assert by_world["outcome agreement"].status == "not enough" and "6 of 6" in by_world["outcome agreement"].message
    assert gates(ForgetfulJudge(), everything, "seen_by_judge")["judge recall"].status != "pass"


def test_a_lower_noise_is_tried_also_where_too_few_rollouts_cannot_decide() -> None:
    options, brief = replace(OPTIONS, noise_level=0.8), CheckSettings(starts=2)
    report = run_check(StraightPolicy(), DotWorld(), DotJudge(), starts(2, 1), options, settings=brief)
    finding = by_gate(report)["SDE keeps the skill"]
    assert finding.status == "not enough" and finding.measured < 0.85
    assert "set rollout.noise_level to" in finding.advice


def test_little_noise_passes_but_groups_that_are_all_solved_teach_nothing() -> None:
    options = replace(OPTIONS, noise_level=0.2)
    report = run_check(
        StraightPolicy(), DotWorld(), DotJudge(), starts(40, 1), options, settings=CheckSettings(starts=40)
    )
    gates = by_gate(report)
    assert gates["SDE keeps the skill"].status == "pass"
    assert gates["groups with signal"].status == "fail" and "harder starts" in gates["groups with signal"].advice
    assert gates["judge recall"].status == gates["outcome agreement"].status == "not enough"


def test_a_kind_world_and_a_forgetful_judge_are_told_apart(
    episodes: list[LoggedEpisode], labelled: list[LabelledVideo]
) -> None:
    settings = CheckSettings(starts=2)
    options = replace(OPTIONS, noise_level=0.2)
    kind = by_gate(
        run_check(
            StraightPolicy(),
            KindWorld(),
            DotJudge(),
            starts(2, 1),
            options,
            labelled=labelled,
            logged=episodes,
            settings=settings,
        )
    )
    assert kind["outcome agreement"].status == "fail" and "too kind" in kind["outcome agreement"].advice
    assert kind["judge recall"].status == "pass"
    forgetful = by_gate(
        run_check(
            StraightPolicy(),
            DotWorld(),
            ForgetfulJudge(),
            starts(2, 1),
            options,
            labelled=labelled,
            logged=episodes,
            settings=settings,
        )
    )
    assert forgetful["judge recall"].status != "pass" and forgetful["judge precision"].status == "pass"
    assert "improve the judge first" in forgetful["outcome agreement"].advice


def test_silence_of_the_judge_is_no_failure_of_the_policy() -> None:
    silent = DotJudge(silent=range(10_000))
    report = run_check(
        StraightPolicy(),
        DotWorld(),
        silent,
        starts(2, 1),
        replace(OPTIONS, noise_level=0.2),
        settings=CheckSettings(starts=2),
    )
    assert not report.failed or by_gate(report)["groups with signal"].status == "fail"
    assert by_gate(report)["SDE keeps the skill"].status == "not enough"


def test_a_check_without_starts_is_refused() -> None:
    with pytest.raises(ValueError, match="start states"):
        run_check(StraightPolicy(), DotWorld(), DotJudge(), [], OPTIONS)
