"""The report of a reinforcement run: one page of curves and rollout videos, written anew while the run goes on.

<folder>/report.html    curves, plots over denoising steps, best, worst and borderline rollouts
<folder>/report.json    the same facts for programs
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prophrl_models.rl.run_state import RunFacts
from prophrl_models.training.log import LOG_FILE
from prophrl_models.training.run_folder import SETTINGS_FILE
from prophrl_models.trials.page import HOUSE, environment, style, write_page

RESOURCES = Path(__file__).parent / "resources"
REPORT_FILE, FACTS_FILE, VIDEOS = "report.html", "report.json", "videos"
NOTABLE = ("best", "worst", "borderline")
SHOWN_VIDEO_STEPS = 6

CURVES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("Success", (("imagined_success", "imagined (SDE)"), ("held_out/success", "held out"),
                 ("held_out/audited", "audited"))),
    ("Judge and world against the truth",
     (("held_out/judge_recall", "judge: recall"), ("held_out/judge_precision", "judge: precision"),
      ("held_out/outcome_agreement", "world: same outcome"), ("held_out/imagined_precision", "world: precision"))),
    ("Groups with mixed outcome", (("kept_fraction", "kept"),)),
    ("Surrogate", (("surrogate_first", "first step"), ("surrogate_last", "last step"))),
    ("Exact KL of an action number", (("kl_reference", "to the first policy"), ("kl_old", "to the last batch's"))),
    ("Clipped ratios", (("clip_fraction", "share"),)),
    ("Largest ratio", (("ratio_max", "max"), ("ratio_p95", "95 %"))),
    ("Gradient norm", (("gradient_norm", "before the clip"),)),
    ("Judge", (("judge/score", "mean score"), ("judge/vote_agreement", "vote agreement"))),
    ("Seconds", (("rollout_s", "rollouts"), ("update_s", "update"))),
)  # fmt: skip
BY_STEP = (
    ("Gradient of the loss by velocity", "gradient_k"),
    ("Exact KL to the first policy", "kl_reference_k"),
    ("FlowScale weight", "weight_k"),
    ("Standard deviation", "std_k"),
)


def read_log(folder: Path) -> dict[str, dict[int, float]]:
    """Values of the run's log by name and step; where a step was repeated the last line counts."""
    values: dict[str, dict[int, float]] = {}
    file = folder / LOG_FILE
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line of a run that was killed while it wrote
        for name, value in entry.items():
            if name != "step":
                values.setdefault(name, {})[int(entry["step"])] = float(value)
    return values


def write_report(folder: str | Path, facts: RunFacts | None = None) -> Path:
    """Write the page and its facts; returns the path of the page.

    Args:
        folder: of the run.
        facts: where the run stands; read off the log when omitted (for runs that are not under way).
    """
    folder = Path(folder)
    log = read_log(folder)
    for entry in facts.evaluations if facts else ():
        for name in ("success", "audited"):
            if name in entry:
                log.setdefault(f"held_out/{name}", {})[int(entry["step"])] = entry[name]
    file = folder / FACTS_FILE
    earlier: Mapping[str, Any] = json.loads(file.read_text()) if facts is None and file.is_file() else {}
    stopped = facts.stopped if facts else str(earlier.get("stopped", ""))
    settings_file = folder / SETTINGS_FILE
    settings: Mapping[str, Any] = json.loads(settings_file.read_text()) if settings_file.is_file() else {}
    held_out = log.get("held_out/success", {})
    best = max(held_out.items(), key=lambda item: (item[1], -item[0]), default=None)
    # An audit may have ruled out the highest value, and scores may have chosen another; only the run itself knows.
    if facts and facts.best_step >= 0:
        best = (facts.best_step, facts.best_success)
    elif earlier.get("best_step") is not None:
        best = (int(earlier["best_step"]), float(earlier["best_success"]))
    summary = {
        "steps": max(log.get("imagined_success", {0: 0.0})),
        "first_success": held_out.get(min(held_out)) if held_out else None,
        "best_success": best[1] if best else None,
        "best_step": best[0] if best else None,
        "stopped": stopped,
        "facts": dataclasses.asdict(facts) if facts else None,
    }
    html = (
        environment(RESOURCES)
        .get_template("report.html.j2")
        .render(
            style=style(HOUSE / "report.css", RESOURCES / "report.css"),
            name=folder.name,
            summary=summary,
            curves=[(title, Markup(line_plot(title, lines))) for title, lines in _curves(log)],
            by_step=[(title, Markup(line_plot(title, lines, "denoising step k"))) for title, lines in _by_step(log)],
            videos=_videos(folder),
            settings=sorted(settings.items()),
        )
    )
    return write_page(folder / REPORT_FILE, html, folder / FACTS_FILE, {**summary, "curves": log})


Line = tuple[str, Sequence[tuple[float, float]]]


def line_plot(title: str, lines: Sequence[Line], x_name: str = "step") -> str:
    """Lines on linear axes as inline SVG; points that are not finite are left out."""
    width, height, left, right, top, foot = 480.0, 210.0, 52.0, 12.0, 12.0, 34.0
    kept = [(name, [(x, y) for x, y in points if math.isfinite(y)]) for name, points in lines]
    kept = [(name, points) for name, points in kept if points]
    if not kept:
        return ""
    xs = [x for _, points in kept for x, _ in points]
    ys = [y for _, points in kept for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(*ys, 0.0), max(ys)
    y1 = y1 if y1 > y0 else y0 + 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - x0) / (x1 - x0 or 1.0) * (width - left - right),
            top + (y1 - y) / (y1 - y0) * (height - top - foot),
        )

    body = ""
    for share in (0.0, 0.5, 1.0):
        value = y0 + share * (y1 - y0)
        y = at(x0, value)[1]
        body += f'<line class="hair" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        body += f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>'
    body += f'<text class="tick" x="{left}" y="{height - 10}">{x0:g}</text>'
    body += f'<text class="tick" x="{width - right}" y="{height - 10}" text-anchor="end">{escape(x_name)} {x1:g}</text>'
    for number, (_, points) in enumerate(kept):
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(x, y) for x, y in points))
        body += f'<polyline class="curve c{number % 3}" points="{path}"/>'
        end = at(*points[-1])
        body += f'<circle class="end c{number % 3}" cx="{end[0]:.1f}" cy="{end[1]:.1f}" r="3"/>'
    told = "; ".join(f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in kept)
    keys = " ".join(
        f'<tspan class="c{n % 3}">{escape(name)} {points[-1][1]:.3g}</tspan>' for n, (name, points) in enumerate(kept)
    )
    return (
        f'<svg class="plot" viewBox="0 -18 {width:.0f} {height + 18:.0f}" role="img" '
        f'aria-label="{escape(title)}. {escape(told)}"><title>{escape(told)}</title>'
        f'<text class="name" x="{left}" y="-4">{keys}</text>{body}</svg>'
    )


def _curves(log: Mapping[str, Mapping[int, float]]) -> list[tuple[str, list[Line]]]:
    found = []
    for title, names in CURVES:
        lines = [(label, sorted(log[name].items())) for name, label in names if name in log]
        if lines:
            found.append((title, lines))
    return found  # type: ignore[return-value]


def _by_step(log: Mapping[str, Mapping[int, float]]) -> list[tuple[str, list[Line]]]:
    """The first and the newest update over the denoising steps."""
    found: list[tuple[str, list[Line]]] = []
    for title, prefix in BY_STEP:
        names = sorted((n for n in log if n.startswith(f"{prefix}/")), key=lambda n: int(n.rpartition("/")[2]))
        if not names:
            continue
        first, last = min(log[names[0]]), max(log[names[0]])
        lines: list[Line] = [
            (f"step {step}", [(k, log[name].get(step, math.nan)) for k, name in enumerate(names)])
            for step in dict.fromkeys((first, last))
        ]
        found.append((title, lines))
    return found


def _videos(folder: Path) -> list[dict[str, Any]]:
    """The newest steps with videos: the file and what the judge said, for each notable rollout."""
    rows = []
    for file in sorted((folder / VIDEOS).glob("step_*.json"), reverse=True)[:SHOWN_VIDEO_STEPS]:
        said = json.loads(file.read_text())
        shown = [
            {"name": name, "file": f"{VIDEOS}/{file.stem}_{name}.mp4", **said[name]}
            for name in NOTABLE
            if name in said and (folder / VIDEOS / f"{file.stem}_{name}.mp4").is_file()
        ]
        rows.append({"step": int(file.stem.rpartition("_")[2]), "rollouts": shown})
    return rows
