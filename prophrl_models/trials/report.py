"""The trial report: one HTML file that needs nothing else, and the trials' videos beside it.

<folder>/report.html     words, figures and stills; opens anywhere, without a network
<folder>/videos/*.mp4    what happened, linked relatively
<folder>/report.json     the same facts for programs, without pictures
"""

from __future__ import annotations

import base64
import json
import shutil
import statistics as summary
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prophrl_models.data.quality import COLUMNS, QualityRow, format_cell
from prophrl_models.trials.figures import (
    FAILURE,
    SUCCESS,
    VOID,
    Curve,
    Mark,
    Workspace,
    curve_plot,
    interval_bar,
    placement_map,
    trial_strip,
)
from prophrl_models.trials.page import environment, style, write_page
from prophrl_models.trials.plan import PlanKey
from prophrl_models.trials.report_model import Machine, TimingRow, TrialCard, TrialReport
from prophrl_models.trials.results import ResultLog, TrialResult
from prophrl_models.trials.video import TrialMedia

__all__ = ["Curve", "Machine", "TimingRow", "TrialCard", "TrialReport", "Workspace", "cards_of", "write_report"]

RESOURCES = Path(__file__).parent / "resources"
_UNITS = {"s": "s", "ms": "ms", "hz": "Hz", "m": "m", "mm": "mm", "rad": "rad", "mps": "m/s"}
REPORT_FILE, FACTS_FILE, VIDEOS = "report.html", "report.json", "videos"


def cards_of(
    log: ResultLog, key: PlanKey, media: Mapping[str, TrialMedia] | None = None, primary_object: str = ""
) -> list[TrialCard]:
    """Cards of all logged trials.

    Args:
        log: the results.
        key: says which policy is which.
        media: pictures by trial id.
        primary_object: the object whose position is mapped; the placement's first one when empty.

    Raises:
        PlanError: the key does not belong to the plan.
    """
    key.check(log.plan)
    return [_card(log, key, result, media or {}, primary_object) for result in log.results]


def write_report(report: TrialReport, folder: str | Path, videos_from: str | Path | None = None) -> Path:
    """Write the report into a folder and return the path of the page.

    Args:
        report: what to show.
        folder: made if absent; an earlier report in it is replaced.
        videos_from: where the trials' videos lie, if not in the folder's ``videos`` already.

    Raises:
        FileNotFoundError: a video that a trial names is not there.
    """
    folder = Path(folder)
    (folder / VIDEOS).mkdir(parents=True, exist_ok=True)
    for card in report.trials:
        if card.media is None:
            continue
        target = folder / VIDEOS / card.media.video
        if videos_from is not None and Path(videos_from).resolve() != target.parent.resolve():
            shutil.copyfile(Path(videos_from) / card.media.video, target)
        if not target.is_file():
            raise FileNotFoundError(f"trial {card.trial_id} has no video at {target}; write it with video.write_media")
    return write_page(folder / REPORT_FILE, render(report), folder / FACTS_FILE, facts(report))


def render(report: TrialReport) -> str:
    """The page's HTML."""
    templates = environment(RESOURCES)
    templates.filters["jpeg"] = lambda data: "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
    templates.filters["points"] = lambda share: f"{100 * share:+.0f}".replace("-", "\N{MINUS SIGN}")
    shown = [card for card in report.trials if card.outcome != VOID]
    panels = [_panel(report, policy) for policy in report.policies]
    return templates.get_template("report.html.j2").render(
        report=report,
        style=style(RESOURCES / "report.css"),
        headline=panels[0],
        panels=panels,
        failures=_failures(shown),
        voided=[card for card in report.trials if card.outcome == VOID],
        curve=Markup(curve_plot(report.curves)),
        quality_columns=COLUMNS,
        quality_cell=format_cell,
        quality_summary=_quality_summary(report.quality),
        videos=VIDEOS,
    )


def facts(report: TrialReport) -> dict[str, Any]:
    """The report for programs: everything but the pictures."""

    def trial(card: TrialCard) -> dict[str, Any]:
        raw = asdict(card)
        raw["media"] = f"{VIDEOS}/{card.media.video}" if card.media else None
        return raw

    policies = {}
    for policy in report.policies:
        rate = report.rate(policy)
        policies[policy] = {
            "successes": rate.successes,
            "trials": rate.trials,
            "rate": rate.rate,
            "interval_95": asdict(rate.interval),
        }
    raw = {
        "task": report.task,
        "instruction": report.instruction,
        "policy": report.policy,
        "created_at": report.created_at,
        "machine": asdict(report.machine),
        "provenance": dict(report.provenance),
        "policies": policies,
        "comparison": asdict(report.comparison) if report.comparison else None,
        "trials": [trial(card) for card in report.trials],
        "timing": [asdict(row) for row in report.timing],
        "quality": [asdict(row) for row in report.quality],
    }
    plain: dict[str, Any] = json.loads(json.dumps(raw), parse_constant=lambda _: None)  # NaN is not JSON
    return plain


def _panel(report: TrialReport, policy: str) -> dict[str, Any]:
    """The drawings and figures of one policy."""
    cards = [card for card in report.trials if card.policy == policy and card.outcome != VOID]
    marks = [
        Mark(card.trial_id, card.outcome, f"#{card.trial_id}", card.x_m, card.y_m, card.duration_s) for card in cards
    ]
    rate = report.rate(policy)
    return {
        "policy": policy,
        "rate": rate,
        "interval": Markup(interval_bar(rate)),
        "strip": Markup(trial_strip(marks)),
        "map": Markup(placement_map([mark for mark in marks if mark.x_m == mark.x_m], report.workspace)),
        "median_s": summary.median([card.duration_s for card in cards if card.outcome == SUCCESS] or [0.0]),
    }


def _failures(cards: Sequence[TrialCard]) -> list[dict[str, Any]]:
    """Reasons of failure with the trials they ended, most frequent first."""
    ended: dict[str, list[str]] = {}
    for card in cards:
        if card.outcome == FAILURE:
            ended.setdefault(card.reason or "no reason given", []).append(card.trial_id)
    most = max(map(len, ended.values()), default=1)
    ordered = sorted(ended.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    return [{"reason": reason, "trials": ids, "share": len(ids) / most} for reason, ids in ordered]


def _quality_summary(rows: Sequence[QualityRow]) -> list[tuple[str, str]]:
    """What to know about the demonstrations at a glance, as (value, meaning)."""
    if not rows:
        return []
    minutes = sum(row.duration_s for row in rows) / 60.0
    known = [row.clamped for row in rows if row.clamped is not None]
    return [
        (f"{len(rows)}", f"demonstrations, {minutes:.1f} minutes"),
        (f"{summary.median(row.color_rate_hz for row in rows):.1f} Hz", "camera, median episode"),
        (f"{sum(row.color_missing for row in rows)}", "camera frames lost"),
        (f"{1000 * max(row.largest_gap_s for row in rows):.0f} ms", "longest gap in any stream"),
        (f"{sum(row.stale_ticks for row in rows)}", "ticks with a stale sample"),
        (f"{sum(known)}" if known else "–", "commands clamped by the safety envelope"),
    ]


def _quantity(name: str, value: float) -> tuple[str, str]:
    """A figure named with its unit (``inference_s``) as people write it."""
    words, _, unit = name.rpartition("_")
    if unit not in _UNITS:
        return name.replace("_", " "), f"{value:.3g}"
    return words.replace("_", " "), f"{value:.3g} {_UNITS[unit]}"


def _card(
    log: ResultLog, key: PlanKey, result: TrialResult, media: Mapping[str, TrialMedia], primary_object: str
) -> TrialCard:
    trial = log.plan.trial(result.trial_id)
    placement = log.plan.placement(trial)
    objects: Mapping[str, Sequence[float]] = placement.get("objects") or {}
    position = objects.get(primary_object or next(iter(objects), ""), (float("nan"), float("nan")))
    cell = placement.get("cell")
    outcome = (SUCCESS if result.success else FAILURE) if result.valid else VOID
    details = {"bag": result.bag} if result.bag else {}
    details |= dict(_quantity(name, value) for name, value in result.timing.items())
    return TrialCard(
        trial_id=result.trial_id,
        policy=key.policies[trial.label],
        outcome=outcome,
        reason=result.stop_reason,
        duration_s=result.duration_s,
        x_m=float(position[0]),
        y_m=float(position[1]),
        placement=f"grid cell {cell[0] + 1}, {cell[1] + 1}" if cell else f"placement {trial.placement + 1}",
        media=media.get(result.trial_id) if result.valid else None,
        details=details,
    )
