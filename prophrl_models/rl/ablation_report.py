"""The page of a reinforcement ablation: the finding, success of every arm, differences, and every single run.

<folder>/report.html     opens anywhere, without a network; links to the runs' own reports beside it
<folder>/report.json     every number, for programs
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prophrl_models.rl.ablation_plan import START
from prophrl_models.rl.ablation_result import IMAGINED, TWIN, ArmOutcome, Difference, RlAblation
from prophrl_models.trials.arms_figure import ArmMark, arms_plot
from prophrl_models.trials.page import HOUSE, environment, style, write_page
from prophrl_models.trials.report_model import Machine
from prophrl_models.trials.statistics import SuccessRate

RESOURCES = Path(__file__).parent / "resources"
REPORT_FILE, FACTS_FILE = "report.html", "report.json"


def write_rl_ablation_report(
    result: RlAblation, folder: str | Path, *, provenance: Mapping[str, str], created_at: str
) -> Path:
    """Write page and facts; returns the path of the page.

    Args:
        folder: of the study; an earlier report in it is replaced.
        provenance: where everything came from.
        created_at: when, in words.
    """
    folder = Path(folder)
    lines = {**provenance, "machine": str(Machine.here()), "written": created_at}
    html = render(result, list(lines.items()))
    return write_page(folder / REPORT_FILE, html, folder / FACTS_FILE, {**result.to_json(), "provenance": lines})


def render(result: RlAblation, provenance: Sequence[tuple[str, str]]) -> str:
    """The page's HTML."""
    return (
        environment(RESOURCES)
        .get_template("ablation_report.html.j2")
        .render(
            style=style(HOUSE / "report.css", HOUSE / "arms.css", RESOURCES / "ablation_report.css"),
            result=result,
            on_twin=result.measure == TWIN,
            start=START,
            rows=[_row(result, arm) for arm in result.arms],
            start_row=_rate(result.start_rate),
            success=Markup(success_plot(result)),
            differences=[
                {
                    "against": "the start policy",
                    "plot": Markup(difference_plot(result.to_start)),
                    "rows": result.to_start,
                },
                {
                    "against": result.baseline,
                    "plot": Markup(difference_plot(result.to_baseline)),
                    "rows": result.to_baseline,
                },
            ],
            runs=[_run(arm, k) for arm in result.arms for k in range(len(arm.runs))],
            provenance=provenance,
        )
    )


def success_plot(result: RlAblation) -> str:
    """Success of every arm in percent, with the interval of all its trials together."""
    marks = [_mark(START, [result.start_rate.rate], result.start_rate, "baseline")]
    for arm in result.arms:
        values = [run.rate(result.measure).rate for run in arm.runs]
        marks.append(
            _mark(arm.name, values, arm.rate(result.measure), "first" if arm.name == result.baseline else "arm")
        )
    return arms_plot(marks, "Success, percent", "{:.0f} %")


def difference_plot(found: Sequence[Difference]) -> str:
    """Differences in points, with their 95 % intervals."""
    marks = [
        ArmMark(
            d.name,
            [100 * d.difference],
            100 * d.interval.low,
            100 * d.interval.high,
            kind="first" if d.verdict in ("better", "worse") else "arm",
        )
        for d in found
    ]
    return arms_plot(marks, "Difference, points", "{:+.0f}", zero=True)


def _mark(name: str, values: Sequence[float], rate: SuccessRate, kind: str) -> ArmMark:
    low, high = (100 * rate.interval.low, 100 * rate.interval.high) if rate.trials else (math.nan, math.nan)
    return ArmMark(name, [100 * value for value in values], low, high, kind)


def _row(result: RlAblation, arm: ArmOutcome) -> dict[str, Any]:
    spread = arm.spread(result.measure)
    imagined = arm.spread(IMAGINED)
    return {
        "name": arm.name,
        "meaning": arm.meaning
        or ", ".join(f"{name} {value}" for name, value in arm.changes.items())
        or "as the preset",
        "rate": _rate(arm.rate(result.measure)),
        "mean": _percent(spread.mean),
        "deviation": _percent(spread.deviation),
        "seeds": ", ".join(_percent(run.rate(result.measure).rate) for run in arm.runs),
        "imagined": _percent(imagined.mean),
    }


def _run(arm: ArmOutcome, k: int) -> dict[str, Any]:
    run = arm.runs[k]
    return {
        "name": arm.name,
        "seed": run.seed,
        "best_step": run.best_step,
        "before": _percent(run.imagined_start.rate) if run.imagined_start else "–",
        "imagined": _percent(run.imagined.rate) if run.imagined else "–",
        "twin": f"{sum(run.trials)} of {len(run.trials)}" if run.trials else "–",
        "report": f"{run.folder}/report.html",
    }


def _rate(rate: SuccessRate) -> dict[str, str]:
    if not rate.trials:
        return {"percent": "–", "detail": ""}
    ends = rate.interval
    detail = f"{rate.successes} of {rate.trials}, {100 * ends.low:.0f} .. {100 * ends.high:.0f}"
    return {"percent": _percent(rate.rate), "detail": detail}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"
