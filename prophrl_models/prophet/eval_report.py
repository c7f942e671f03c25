"""The world model's report: one HTML page, the closed loops' videos beside it, and the same facts as JSON.

<folder>/report.html     words, tables and curves; opens anywhere, without a network
<folder>/videos/*.mp4    real video and models side by side, linked relatively
<folder>/report.json     every number, for programs
"""

from __future__ import annotations

import base64
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prophrl_models.data.dataset import Dataset
from prophrl_models.prophet.eval_data import ClipReader
from prophrl_models.prophet.eval_figures import Line, horizon_plot
from prophrl_models.prophet.eval_video import write_clip_video
from prophrl_models.prophet.evaluate import BASELINE, CHUNK, LOOP, Evaluation, Row
from prophrl_models.prophet.metrics import METRICS, Metric
from prophrl_models.prophet.scores import Paired, Spread
from prophrl_models.prophet.sensitivity import CHOICES, OTHER_NOISE, SHUFFLED, TRUE, VERDICT_METRICS, Sensitivity
from prophrl_models.trials.page import HOUSE, environment, style, write_page
from prophrl_models.trials.report_model import Machine
from prophrl_models.trials.video import TrialMedia

RESOURCES = Path(__file__).parent / "resources"
REPORT_FILE, FACTS_FILE, VIDEOS = "report.html", "report.json", "videos"
PLOTTED = ("psnr_db", "ssim", "epe_px", "cosine_moving")
_READING = (
    "PSNR is limited to 100 dB, the value of equal frames. EPE and cosines compare the optical flow of consecutive "
    "frames (Farneback) with the real video's. The method invents the same little motion at the picture's edges in "
    "every video, so at the paper's threshold one that stands still scores well in cos; cos 0.5 leaves it out; in cos "
    "moving it scores about 0. Bold is the best of a column."
)
_MEANS = (
    "Mean over all frames. ± is the sample deviation over a row's members: networks trained with different seeds, and "
    "seeds of noise."
)


def write_report(
    evaluation: Evaluation,
    dataset: Dataset,
    folder: str | Path,
    *,
    provenance: Mapping[str, str],
    created_at: str,
    kept_frames: Path | None = None,
) -> Path:
    """Write page, facts and videos; returns the path of the page.

    Args:
        evaluation: what was measured.
        dataset: that it was measured on.
        folder: made if absent; an earlier report in it is replaced.
        provenance: further lines of where everything came from.
        created_at: when, in words.
        kept_frames: the ``frames_folder`` that was given to ``evaluate``; no videos without it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / VIDEOS, ignore_errors=True)
    loops = _videos(evaluation, dataset, folder / VIDEOS, kept_frames) if kept_frames else []
    lines = {
        "dataset": f"{dataset.folder.name}, content hash {dataset.content_hash}",
        "held out": ", ".join(dataset.table[p].episode_id for p in evaluation.split.held_out),
        "settings": ", ".join(f"{name} {value}" for name, value in asdict(evaluation.settings).items()),
        "time per chunk": "; ".join(_timing(row) for row in evaluation.rows if row.name != BASELINE),
        **provenance,
        "machine": str(Machine.here()),
        "written": created_at,
    }
    html = render(evaluation, dataset, list(lines.items()), loops)
    said = {**facts(evaluation, dataset), "provenance": lines}
    return write_page(folder / REPORT_FILE, html, folder / FACTS_FILE, said)


def render(
    evaluation: Evaluation, dataset: Dataset, provenance: Sequence[tuple[str, str]], loops: Sequence[Mapping[str, Any]]
) -> str:
    """The page's HTML."""
    templates = environment(RESOURCES)
    templates.filters["jpeg"] = lambda data: "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
    height, width = evaluation.image
    frames = evaluation.settings.chunks * evaluation.actions
    return templates.get_template("eval_report.html.j2").render(
        style=style(HOUSE / "report.css", RESOURCES / "eval_report.css"),
        headline=_headline(evaluation),
        dataset=dataset.folder.name,
        notes=evaluation.notes,
        counts={
            "windows": len(evaluation.windows),
            "loops": len(evaluation.loops),
            "loop_s": frames / evaluation.rate_hz,
            "held_out": len(evaluation.split.held_out),
            "episodes": len(dataset),
            "width": width,
            "height": height,
            "rate_hz": evaluation.rate_hz,
            "actions": evaluation.actions,
        },
        tables=[
            _score_table(evaluation, CHUNK, "Single chunk, mean", _MEANS),
            _score_table(evaluation, CHUNK, "Single chunk, median", "Median over all frames.", median=True),
            _score_table(evaluation, LOOP, "Closed loop, mean", "Everything after the first frame is imagined."),
            _score_table(evaluation, LOOP, "Closed loop, median", "Median over all frames.", median=True),
        ],
        reading=_READING,
        plots=_plots(evaluation),
        sensitivities=[
            _sensitivity(row.name, row.sensitivity) for row in evaluation.rows if row.sensitivity is not None
        ],
        loops=loops,
        videos=VIDEOS,
        provenance=provenance,
    )


def facts(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any]:
    """Every number, for programs; NaN where nothing counts."""

    def scores(row: Row, protocol: str) -> dict[str, Any]:
        return {
            metric: {
                "mean": asdict(row.spread(protocol, metric)),
                "median": asdict(row.spread(protocol, metric, median=True)),
                "members": [asdict(member.scores[protocol].summary(metric)) for member in row.members],
            }
            for metric in row.metrics
        }

    return {
        "metrics": {name: asdict(METRICS[name]) for name in evaluation.rows[0].metrics},
        "settings": asdict(evaluation.settings),
        "dataset": {"folder": dataset.folder.name, "content_hash": dataset.content_hash},
        "held_out": [dataset.table[p].episode_id for p in evaluation.split.held_out],
        "image": {"height": evaluation.image[0], "width": evaluation.image[1]},
        "rate_hz": evaluation.rate_hz,
        "actions": evaluation.actions,
        "notes": list(evaluation.notes),
        "clips": {
            CHUNK: [[dataset.table[c.position].episode_id, c.start, c.frames] for c in evaluation.windows],
            LOOP: [[dataset.table[c.position].episode_id, c.start, c.frames] for c in evaluation.loops],
        },
        "rows": [
            {
                "name": row.name,
                "members": [
                    {"source": m.source, "noise_seed": m.noise_seed, "batch_s": m.batch_s, "batch": m.batch}
                    for m in row.members
                ],
                CHUNK: scores(row, CHUNK),
                LOOP: scores(row, LOOP),
                "horizon": {metric: row.curves(metric).tolist() for metric in row.metrics},
                "sensitivity": None if row.sensitivity is None else _sensitivity_facts(row.sensitivity),
            }
            for row in evaluation.rows
        ],
    }


def _videos(evaluation: Evaluation, dataset: Dataset, folder: Path, kept: Path) -> list[dict[str, Any]]:
    reader = ClipReader(dataset, *evaluation.image)
    rows = [row.name for row in evaluation.rows if row.name != BASELINE]
    shown = []
    for number in evaluation.shown:
        clip = evaluation.loops[number]
        media: TrialMedia = write_clip_video(
            folder, f"loop_{number:03d}", reader, clip, number, rows, kept, evaluation.rate_hz
        )
        row = dataset.table[clip.position]
        shown.append({"episode": row.episode_id, "instruction": row.instruction, "media": media})
    return shown


def _headline(evaluation: Evaluation) -> str:
    """What to know at a glance: how often the first model beats standing still, and whether it obeys."""
    still, model = evaluation.rows[0], evaluation.rows[1]
    frames = evaluation.settings.chunks * evaluation.actions / evaluation.rate_hz
    a, b = still.spread(LOOP, "psnr_db").mean, model.spread(LOOP, "psnr_db").mean
    return f"{model.name}: {b:.1f} dB over {frames:g} s of closed loop, {a:.1f} dB for copying the last frame"


def _score_table(
    evaluation: Evaluation, protocol: str, title: str, lead: str, *, median: bool = False
) -> dict[str, Any]:
    columns = {
        metric: [row.spread(protocol, metric, median=median) for row in evaluation.rows]
        for metric in evaluation.rows[0].metrics
    }
    rows = [
        {"name": row.name, "cells": [_cell(METRICS[metric], column, k) for metric, column in columns.items()]}
        for k, row in enumerate(evaluation.rows)
    ]
    heads = [_head(METRICS[metric]) for metric in columns]
    return {"title": title, "lead": lead, "corner": "model", "heads": heads, "rows": rows}


def _head(metric: Metric) -> dict[str, str]:
    label = f"{metric.label}, {metric.unit}" if metric.unit else metric.label
    return {"label": label, "arrow": "↑" if metric.higher_is_better else "↓", "meaning": metric.meaning}


def _cell(metric: Metric, column: Sequence[Spread], k: int) -> dict[str, Any]:
    values = [spread.mean if metric.higher_is_better else -spread.mean for spread in column]
    finite = [value for value in values if math.isfinite(value)]
    here = column[k]
    return {
        "text": f"{here.mean:.{metric.decimals}f}" if math.isfinite(here.mean) else "–",
        "deviation": f"{here.deviation:.{metric.decimals}f}" if math.isfinite(here.deviation) else "",
        "best": len(set(finite)) > 1 and math.isfinite(here.mean) and values[k] == max(finite),
    }


def _plots(evaluation: Evaluation) -> list[dict[str, Any]]:
    plots = []
    for name in PLOTTED:
        metric = METRICS[name]
        lines = [Line(row.name, row.curves(name)) for row in evaluation.rows]
        svg = horizon_plot(lines, metric.label, metric.unit, evaluation.rate_hz, evaluation.actions)
        if svg:
            label = f"{metric.label}, {metric.unit}" if metric.unit else metric.label
            plots.append({"label": label, "svg": Markup(svg), "meaning": metric.meaning})
    return plots


def _sensitivity(name: str, test: Sensitivity) -> dict[str, Any]:
    """A row's test as the page shows it."""
    columns = {
        metric: [Spread.of([test.scores[choice].summary(metric).mean]) for choice in CHOICES]
        for metric in VERDICT_METRICS
    }
    rows = []
    for k, choice in enumerate(CHOICES):
        cells = [_cell(METRICS[metric], column, k) for metric, column in columns.items()]
        apart = [test.apart_grey.get(choice), test.apart_px.get(choice)]
        cells += [{"text": "–" if x is None else f"{x.mean():.3f}", "deviation": "", "best": False} for x in apart]
        rows.append({"name": f"{choice} actions", "cells": cells})
    noise = [test.apart_grey[OTHER_NOISE], test.apart_px[OTHER_NOISE]]
    empty = [{"text": "–", "deviation": "", "best": False}] * len(columns)
    cells = empty + [{"text": f"{x.mean():.3f}", "deviation": "", "best": False} for x in noise]
    rows.append({"name": OTHER_NOISE, "cells": cells})
    heads = [_head(METRICS[metric]) for metric in columns]
    heads += [
        {"label": "apart, grey levels", "arrow": "", "meaning": "mean difference to the video of the true actions"},
        {"label": "apart, px", "arrow": "", "meaning": "end-point error between the flows of the two videos"},
    ]
    epe, cosine = test.paired(SHUFFLED, "epe_px"), test.paired(SHUFFLED, "cosine_moving")
    more = Paired.of(test.apart_px[OTHER_NOISE], test.apart_px[SHUFFLED])
    return {
        "name": name,
        "follows": test.follows,
        "responds": test.responds,
        "finding": f"against actions of other clips, its own lower the EPE by {_paired(epe)} px "
        f"and raise cos moving by {_paired(cosine)}.",
        "response": f"other actions change the flow by {_paired(more)} px more than other noise does.",
        "table": {"title": f"Actions of {name}", "corner": "played with", "heads": heads, "rows": rows},
    }


def _paired(paired: Paired) -> str:
    return (
        f"{paired.difference:.4f} ± {paired.error:.4f} (standard error over {paired.clips} clips, "
        f"larger in {100 * paired.share:.0f} %)"
    )


def _sensitivity_facts(test: Sensitivity) -> dict[str, Any]:
    metrics = test.scores[TRUE].names
    return {
        "follows": test.follows,
        "responds": test.responds,
        "scores": {
            choice: {metric: asdict(test.scores[choice].summary(metric)) for metric in metrics} for choice in CHOICES
        },
        "true_minus": {
            choice: {metric: asdict(test.paired(choice, metric)) for metric in metrics}
            for choice in CHOICES
            if choice != TRUE
        },
        "apart_grey": {way: float(values.mean()) for way, values in test.apart_grey.items()},
        "apart_px": {way: float(values.mean()) for way, values in test.apart_px.items()},
    }


def _timing(row: Row) -> str:
    member = row.members[0]
    share = 1e3 * member.batch_s / member.batch
    return f"{row.name} {1e3 * member.batch_s:.0f} ms for a batch of {member.batch} ({share:.0f} ms each)"
