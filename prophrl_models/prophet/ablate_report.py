"""The page of a world model's ablation: the finding, the table, drawings, and what each arm imagines.

<folder>/report.html     opens anywhere, without a network; videos are those of the runs' evaluations beside it
<folder>/report.json     every number, for programs
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from prophrl_models.prophet.ablate_result import (
    PROTOCOLS,
    SHOWN,
    VERDICT,
    AblationResult,
    ArmResult,
    Comparison,
    label,
)
from prophrl_models.prophet.eval_figures import Line, horizon_plot
from prophrl_models.prophet.evaluate import BASELINE
from prophrl_models.prophet.metrics import METRICS
from prophrl_models.prophet.scores import Spread
from prophrl_models.trials.arms_figure import ArmMark, arms_plot
from prophrl_models.trials.page import HOUSE, environment, style, write_page
from prophrl_models.trials.report_model import Machine

RESOURCES = Path(__file__).parent / "resources"
REPORT_FILE, FACTS_FILE = "report.html", "report.json"
DRAWN = ("epe_px", "cosine", "cosine_half_px", "psnr_db")
CURVES = ("epe_px", "psnr_db")
SHOWN_CLIPS = 2


def write_ablation_report(
    result: AblationResult, folder: str | Path, *, provenance: Mapping[str, str], created_at: str
) -> Path:
    """Write page and facts; returns the path of the page.

    Args:
        folder: of the study; an earlier report in it is replaced.
        provenance: further lines of where everything came from.
        created_at: when, in words.
    """
    folder = Path(folder)
    facts = result.first.runs[0].facts
    lines = {
        "held out": ", ".join(facts["held_out"]),
        "measured with": ", ".join(f"{name} {value}" for name, value in facts["settings"].items()),
        **provenance,
        "machine": str(Machine.here()),
        "written": created_at,
    }
    html = render(result, folder, list(lines.items()))
    return write_page(folder / REPORT_FILE, html, folder / FACTS_FILE, {**result.to_json(), "provenance": lines})


def render(result: AblationResult, folder: Path, provenance: Sequence[tuple[str, str]]) -> str:
    """The page's HTML."""
    facts = result.first.runs[0].facts
    return (
        environment(RESOURCES)
        .get_template("ablate_report.html.j2")
        .render(
            style=style(HOUSE / "report.css", RESOURCES / "eval_report.css", HOUSE / "arms.css"),
            result=result,
            dataset=facts["dataset"]["folder"],
            held_out=len(facts["held_out"]),
            loop_s=facts["settings"]["chunks"] * facts["actions"] / facts["rate_hz"],
            tables=[{"title": title(protocol), **score_table(result, protocol)} for protocol in PROTOCOLS],
            comparisons=_comparisons(result),
            drawings=[
                {
                    "title": f"{METRICS[m].label}, {p}",
                    "meaning": METRICS[m].meaning,
                    "svg": Markup(drawing(result, p, m)),
                }
                for m in DRAWN
                for p in PROTOCOLS
            ],
            curves=_curves(result),
            clips=_clips(result, folder),
            provenance=provenance,
        )
    )


def title(protocol: str) -> str:
    """A protocol as a heading."""
    return protocol[0].upper() + protocol[1:]


def score_table(result: AblationResult, protocol: str) -> dict[str, Any]:
    """Heads and rows of a protocol's table: copying the last frame, then the arms in their order."""
    columns = {
        metric: [
            Spread(result.baseline(protocol, metric), math.nan, 1),
            *(arm.spread(protocol, metric) for arm in result.arms),
        ]
        for metric in SHOWN
    }
    names = [(BASELINE, "needs no training", 0), *((a.arm.name, a.arm.meaning, len(a.runs)) for a in result.arms)]
    rows = [
        {
            "name": name,
            "meaning": meaning,
            "seeds": seeds,
            "parameters": "" if not k else f"{result.arms[k - 1].parameters / 1e6:.2f}",
            "cells": [_cell(metric, column, k) for metric, column in columns.items()],
        }
        for k, (name, meaning, seeds) in enumerate(names)
    ]
    heads = [
        {
            "label": f"{METRICS[m].label}, {METRICS[m].unit}" if METRICS[m].unit else METRICS[m].label,
            "arrow": "↑" if METRICS[m].higher_is_better else "↓",
            "meaning": METRICS[m].meaning,
        }
        for m in SHOWN
    ]
    return {"heads": heads, "rows": rows}


def drawing(result: AblationResult, protocol: str, metric: str) -> str:
    """All arms in one number."""
    form = f"{{:.{METRICS[metric].decimals}f}}"
    marks = []
    for arm in result.arms:
        values = [run.score(protocol, metric) for run in arm.runs]
        marks.append(ArmMark(arm.arm.name, values, kind="first" if arm is result.first else "arm"))
    marks.append(ArmMark(BASELINE, [result.baseline(protocol, metric)], kind="baseline"))
    return arms_plot(marks, label(metric, protocol), form, width=420.0)


def _cell(metric: str, column: Sequence[Spread], k: int) -> dict[str, Any]:
    known = METRICS[metric]
    values = [spread.mean if known.higher_is_better else -spread.mean for spread in column]
    finite = [value for value in values if math.isfinite(value)]
    here = column[k]
    return {
        "text": f"{here.mean:.{known.decimals}f}" if math.isfinite(here.mean) else "–",
        "deviation": f"{here.deviation:.{known.decimals}f}" if math.isfinite(here.deviation) else "",
        "best": len(set(finite)) > 1 and math.isfinite(here.mean) and values[k] == max(finite),
    }


def _comparisons(result: AblationResult) -> dict[str, Any]:
    found = (*result.comparisons, *result.against_baseline)
    columns = [(metric, protocol) for metric in VERDICT for protocol in PROTOCOLS]
    others = [*(arm.arm.name for arm in result.arms[1:]), BASELINE]
    rows = [
        {"name": other, "cells": [_margin(c) for c in found if c.other == other]} for other in others
    ]  # in the order of the columns
    heads = [{"metric": METRICS[metric].label, "protocol": protocol} for metric, protocol in columns]
    return {"heads": heads, "rows": rows}


def _margin(c: Comparison) -> dict[str, str]:
    decimals = METRICS[c.metric].decimals
    if not math.isfinite(c.margin):
        return {"text": "–", "spread": "", "verdict": c.verdict}
    spread = f"{c.spread:.{decimals}f}" if math.isfinite(c.spread) else "unknown"
    return {"text": f"{c.margin:+.{decimals}f}", "spread": spread, "verdict": c.verdict}


def _curves(result: AblationResult) -> list[dict[str, Any]]:
    """Closed loops over time; the baseline has the style sheet's first colour."""
    facts = result.first.runs[0].facts
    plots = []
    for metric in CURVES:
        still = result.first.runs[0].curve(metric, baseline=True)[None]
        lines = [Line(BASELINE, still)]
        lines += [Line(arm.arm.name, np.stack([run.curve(metric) for run in arm.runs])) for arm in result.arms]
        svg = horizon_plot(lines, METRICS[metric].label, METRICS[metric].unit, facts["rate_hz"], facts["actions"])
        if svg:
            plots.append({"label": METRICS[metric].label, "svg": Markup(svg), "meaning": METRICS[metric].meaning})
    return plots


def _clips(result: AblationResult, folder: Path) -> list[dict[str, Any]]:
    """The same closed loops as each arm imagines them, from the evaluation of its first training."""
    names = _videos(result.first, folder)[:SHOWN_CLIPS]
    clips = []
    for number, name in enumerate(names, 1):
        shown = [
            {"arm": arm.arm.name, "file": f"{arm.runs[0].folder}/eval/videos/{name}"}
            for arm in result.arms
            if name in _videos(arm, folder)
        ]
        clips.append({"title": f"Closed loop {number}", "shown": shown})
    return clips


def _videos(arm: ArmResult, folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / arm.runs[0].folder / "eval" / "videos").glob("*.mp4"))
