"""The page of what reinforcement gained: the finding, a line for each task, the judge's part in it, the runs.

<folder>/report.html     opens anywhere, without a network; links to the runs' and trials' own reports beside it
<folder>/report.json     every number, for programs
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prophrl_models.rl.gain_result import Gain, TaskGain
from prophrl_models.trials.arms_figure import ArmMark, arms_plot
from prophrl_models.trials.page import HOUSE, environment, style, write_page
from prophrl_models.trials.report_model import Machine
from prophrl_models.trials.statistics import SuccessRate

RESOURCES = Path(__file__).parent / "resources"
REPORT_FILE, FACTS_FILE = "report.html", "report.json"


def write_gain_report(gain: Gain, folder: str | Path, *, provenance: Mapping[str, str], created_at: str) -> Path:
    """Write page and facts; returns the path of the page.

    Args:
        folder: of the study; an earlier report in it is replaced.
        provenance: where everything came from.
        created_at: when, in words.
    """
    folder = Path(folder)
    lines = {**provenance, "machine": str(Machine.here()), "written": created_at}
    html = render(gain, list(lines.items()))
    return write_page(folder / REPORT_FILE, html, folder / FACTS_FILE, {**gain.to_json(), "provenance": lines})


def render(gain: Gain, provenance: Sequence[tuple[str, str]]) -> str:
    """The page's HTML."""
    return (
        environment(RESOURCES)
        .get_template("gain_report.html.j2")
        .render(
            style=style(HOUSE / "report.css", HOUSE / "arms.css", RESOURCES / "ablation_report.css"),
            gain=gain,
            plot=Markup(difference_plot(gain)),
            rows=[_row(task) for task in gain.tasks],
            robot=[_robot(task) for task in gain.tasks if task.robot is not None],
            verdicts=[_verdict(task, name) for task in gain.tasks for name in task.verdicts],
            runs=[_run(task, k) for task in gain.tasks for k in range(len(task.runs))],
            provenance=provenance,
        )
    )


def difference_plot(gain: Gain) -> str:
    """Differences in points with their 95 % intervals, and their mean."""
    marks = [
        ArmMark(
            task.task,
            [100 * (run.rate("twin").rate - task.ablation.start_rate.rate) for run in task.runs],
            100 * task.difference.interval.low,
            100 * task.difference.interval.high,
            "first" if task.difference.verdict in ("better", "worse") else "arm",
        )
        for task in gain.tasks
    ]
    ends = gain.interval
    marks.append(ArmMark("mean of tasks", [100 * gain.mean], 100 * ends.low, 100 * ends.high, "baseline"))
    return arms_plot(marks, "Difference, points", "{:+.0f}", zero=True)


def _row(task: TaskGain) -> dict[str, Any]:
    found = task.difference
    assert found.pairs is not None  # trials on the twin are paired
    return {
        "task": task.task,
        "first": rate_text(task.ablation.start_rate),
        "reinforced": [rate_text(run.rate("twin")) for run in task.runs],
        "points": _points(found.difference),
        "interval": f"{_points(found.interval.low)} .. {_points(found.interval.high)}",
        "spread": f"± {100 * found.spread:.0f}" if math.isfinite(found.spread) else "unknown",
        "pairs": found.pairs,
        "p": f"{found.p_value:.2g}",
        "verdict": found.verdict,
    }


def _robot(task: TaskGain) -> dict[str, Any]:
    assert task.robot is not None and task.robot_rates is not None
    return {
        "task": task.task,
        "first": rate_text(task.robot_rates[0]),
        "reinforced": rate_text(task.robot_rates[1]),
        "points": _points(task.robot.difference),
        "interval": f"{_points(task.robot.interval.low)} .. {_points(task.robot.interval.high)}",
        "p": f"{task.robot.p_value:.2g}",
        "report": f"{task.task}/trials/report.html",
    }


def _verdict(task: TaskGain, name: str) -> dict[str, Any]:
    found = task.verdicts[name]
    within = found["separation"]["within"]
    return {
        "task": task.task,
        "when": name,
        "rollouts": found["rollouts"],
        "imagined": _percent(found["imagined"]),
        "true": _percent(found["true"]),
        "imagined_judge": _precision_recall(found["confusion"]),
        "twin_judge": _precision_recall(found["confusion_seen"]),
        "separation": "–" if within["value"] is None else f"{within['value']:.2f} of {within['pairs']}",
        "videos": f"{task.task}/{name}/videos",
    }


def _precision_recall(counts: Mapping[str, int]) -> str:
    if not any(counts[name] for name in ("true_success", "false_success", "true_failure", "false_failure")):
        return "–"  # a judge of commands is not asked twice

    def share(part: int, whole: int) -> str:
        return f"{part / whole:.2f}" if whole else "none"

    right = counts["true_success"]
    return f"{share(right, right + counts['false_success'])} / {share(right, right + counts['false_failure'])}"


def _run(task: TaskGain, k: int) -> dict[str, Any]:
    run = task.runs[k]
    return {
        "name": f"{task.task}, seed {run.seed}",
        "before": _percent(run.imagined_start.rate) if run.imagined_start else "–",
        "imagined": _percent(run.imagined.rate) if run.imagined else "–",
        "best_step": run.best_step,
        "twin": rate_text(run.rate("twin")),
        "report": f"{run.folder}/report.html",
    }


def rate_text(rate: SuccessRate) -> str:
    """Successes, share and interval in words."""
    ends = rate.interval
    return f"{rate.successes} of {rate.trials} ({100 * ends.low:.0f} .. {100 * ends.high:.0f} %)"


def _points(share: float) -> str:
    return f"{100 * share:+.0f}" if math.isfinite(share) else "–"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"
