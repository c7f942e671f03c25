"""What reinforcement gained: the mean of tasks, how sure it is, and a page that says so and no more."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prophrl_models.rl.ablation_result import ArmRun
from prophrl_models.rl.gain_report import write_gain_report
from prophrl_models.rl.gain_result import Gain, TaskGain
from prophrl_models.trials.results import Comparison
from prophrl_models.trials.statistics import Interval, SuccessRate

SUMMARY: dict[str, Any] = {
    "rollouts": 24, "imagined": 0.5, "true": 0.25,
    "confusion": {"true_success": 3, "false_success": 9, "true_failure": 9, "false_failure": 3, "no_judgement": 0},
    "confusion_seen": {"true_success": 6, "false_success": 0, "true_failure": 9, "false_failure": 1, "no_judgement": 0},
    "separation": {"within": {"value": 0.68, "low": 0.6, "high": 0.75, "pairs": 30}},
}  # fmt: skip


def outcomes(successes: int, trials: int = 100) -> tuple[bool, ...]:
    return tuple(k < successes for k in range(trials))


def task(name: str, first: int, *after: int, **more: Any) -> TaskGain:
    rate = SuccessRate(10, 32)
    runs = tuple(ArmRun(seed, rate, rate, 5, outcomes(n), f"{name}/rl_{seed}") for seed, n in enumerate(after))
    return TaskGain(name, outcomes(first), runs, **more)


def test_tasks_count_alike_however_many_seeds_they_have() -> None:
    gain = Gain((task("a", 20, 50, 60), task("b", 40, 30)))
    assert gain.mean == pytest.approx((0.35 - 0.10) / 2)
    assert [t.difference.difference for t in gain.tasks] == pytest.approx([0.35, -0.10])


def test_the_interval_of_the_mean_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        tasks = []
        for name, (p, q) in {"a": (0.3, 0.5), "b": (0.6, 0.5), "c": (0.2, 0.45)}.items():
            hard = rng.random(60)  # placements differ in difficulty, so the pairs resemble each other
            runs = [ArmRun(s, None, None, 1, tuple((0.5 * hard + 0.5 * rng.random(60) < q).tolist())) for s in (0, 1)]
            tasks.append(TaskGain(name, tuple((0.5 * hard + 0.5 * rng.random(60) < p).tolist()), tuple(runs)))
        gain = Gain(tuple(tasks))
        truth = np.mean([_below(q) - _below(p) for p, q in ((0.3, 0.5), (0.6, 0.5), (0.2, 0.45))])
        covered += gain.interval.low <= truth <= gain.interval.high
    assert 0.92 < covered / 400 < 0.98


def _below(level: float) -> float:
    """P(mean of two uniform numbers < level)."""
    return 2 * level**2 if level < 0.5 else 1 - 2 * (1 - level) ** 2


def test_the_finding_names_what_is_better_worse_and_not_told_apart() -> None:
    gain = Gain((task("up", 20, 60, 62), task("down", 70, 40, 41), task("same", 50, 51, 50), task("one", 10, 58)))
    said = " ".join(gain.sentences)
    assert "Better by more than the noise of trials and trainings: up." in said
    assert "Worse by more than that noise: down." in said and "No difference beyond the noise: same." in said
    assert "with one training its noise is unknown: one." in said
    assert gain.headline.startswith("+15 points on average over 4 tasks (95 %: ")
    unchanged = TaskGain("kept", outcomes(5), (ArmRun(3, None, None, 0, outcomes(5)),))
    assert "so it is the result: kept 3." in " ".join(Gain((unchanged,)).sentences)


def test_a_single_placement_has_no_interval_and_nothing_measured_no_gain() -> None:
    gain = Gain((TaskGain("a", (True,), (ArmRun(0, None, None, 1, (False,)),)),))
    assert math.isnan(gain.interval.low) and "unknown" in gain.headline
    with pytest.raises(ValueError, match="no task is measured yet"):
        Gain(())


def test_the_page_has_every_number_and_links_to_what_was_measured(tmp_path: Path) -> None:
    robot = Comparison("first", "reinforced", 0.15, Interval(-0.1, 0.4), 1, 4, 20, 0.375)
    full = task(
        "place_cube", 38, 50, 52, robot=robot, robot_rates=(SuccessRate(8, 20), SuccessRate(11, 20)),
        verdicts={"before": SUMMARY, "after": SUMMARY},
    )  # fmt: skip
    gain = Gain((full, task("pull_tissue", 62, 50, 55)), missing=("grasp_bottle",), failed={"x: judge": "<disk full>"})
    page = write_gain_report(gain, tmp_path, provenance={"world model": "small"}, created_at="now").read_text()
    for text in (
        gain.headline, "38 of 100", "50 of 100", "8 of 20", "11 of 20", "place_cube/trials/report.html",
        "place_cube/rl_1/report.html", "place_cube/after/videos", "0.25 / 0.50", "1.00 / 0.86", "0.68 of 30",
        "Not measured yet: grasp_bottle", "&lt;disk full&gt;", "<svg",
    ):  # fmt: skip
        assert text in page, text
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["mean"] == pytest.approx(gain.mean) and facts["tasks"][0]["robot"]["only_b"] == 4
    assert facts["tasks"][0]["start"]["successes"] == 38 and len(facts["tasks"][1]["arms"][0]["runs"]) == 2
