"""The report's drawings as inline SVG. Colours come from the page's style sheet, so they follow dark and light.

Every drawing has a title and a description for screen readers, and outcome is told by shape as well as by colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from prophrl_models.trials.statistics import SuccessRate

SUCCESS, FAILURE, VOID = "success", "failure", "void"


@dataclass(frozen=True)
class Workspace:
    """The part of the table where objects stand, in the robot's base frame (metres)."""

    x_min_m: float = -0.85
    x_max_m: float = -0.48
    y_min_m: float = -0.28
    y_max_m: float = 0.28


@dataclass(frozen=True)
class Mark:
    """One trial on the map or in the strip; ``href`` leads to it on the page."""

    name: str
    outcome: str
    href: str
    x_m: float = math.nan
    y_m: float = math.nan
    duration_s: float = 0.0


@dataclass(frozen=True)
class Curve:
    """A training curve: values (positive) over optimiser steps."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def interval_bar(rate: SuccessRate) -> str:
    """The success rate and its interval on a scale from 0 to 100 %."""
    width, height, left, right = 640.0, 92.0, 20.0, 20.0
    interval = rate.interval

    def at(fraction: float) -> float:
        return left + fraction * (width - left - right)

    ticks = "".join(
        f'<line class="hair" x1="{at(f):.1f}" x2="{at(f):.1f}" y1="37" y2="{51 if f in (0, 0.5, 1) else 47}"/>'
        f'<text class="tick" x="{at(f):.1f}" y="86" text-anchor="middle">{round(100 * f)}</text>'
        for f in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    low, high = at(interval.low), at(interval.high)
    point = "" if math.isnan(rate.rate) else f'<circle class="point" cx="{at(rate.rate):.1f}" cy="44" r="8"/>'
    return _svg(
        width,
        height,
        "Success rate with its interval",
        f"{rate.successes} of {rate.trials}; the interval runs from {interval.low:.0%} to {interval.high:.0%}",
        f'<line class="axis" x1="{at(0):.1f}" x2="{at(1):.1f}" y1="44" y2="44"/>{ticks}'
        f'<rect class="band" x="{low:.1f}" y="35" width="{high - low:.1f}" height="18" rx="9"/>{point}'
        f"{_end_label(low, interval.low)}{_end_label(high, interval.high)}",
        "interval",
    )


def trial_strip(marks: Sequence[Mark]) -> str:
    """All trials in the order they were run; the height of a bar is how long the trial took."""
    pitch, height, foot = 20.0, 82.0, 20.0
    longest = max((mark.duration_s for mark in marks), default=1.0) or 1.0
    bars = []
    for k, mark in enumerate(marks):
        tall = 10.0 + (height - foot - 16.0) * mark.duration_s / longest
        x, y = k * pitch + 4.0, height - foot - tall
        label = f"{mark.name}: {mark.outcome}, {mark.duration_s:.1f} s"
        shape = f'<rect class="bar {mark.outcome}" x="{x:.1f}" y="{y:.1f}" width="12" height="{tall:.1f}" rx="3"/>'
        if mark.outcome == FAILURE:
            shape += _cross(x + 6.0, y - 7.0, 3.2)
        bars.append(_link(mark.href, label, f'<rect class="hit" x="{k * pitch}" width="20" height="{height}"/>{shape}'))
    base = height - foot + 0.5
    total = max(len(marks), 4) * pitch  # room for both words
    return _svg(
        total,
        height,
        "Trials in the order they were run",
        "; ".join(f"{mark.name} {mark.outcome}" for mark in marks),
        f'<line class="axis" x1="0" x2="{total:.0f}" y1="{base}" y2="{base}"/>{"".join(bars)}'
        f'<text class="tick" x="0" y="{height - 1}">first</text>'
        f'<text class="tick" x="{total:.0f}" y="{height - 1}" text-anchor="end">last</text>',
        "strip",
    )


def placement_map(marks: Sequence[Mark], workspace: Workspace) -> str:
    """Where the object stood and what came of it, seen as the camera sees it: the robot behind, the camera in front."""
    scale, margin = 700.0, 30.0  # pixels per metre; room for the two labels
    wide = (workspace.y_max_m - workspace.y_min_m) * scale
    deep = (workspace.x_max_m - workspace.x_min_m) * scale

    def at(x_m: float, y_m: float) -> tuple[float, float]:
        return (workspace.y_max_m - y_m) * scale + 8.0, (workspace.x_max_m - x_m) * scale + margin

    lines = []
    step_m = 0.1
    for k in range(math.ceil(workspace.y_min_m / step_m), math.floor(workspace.y_max_m / step_m) + 1):
        column = at(0.0, k * step_m)[0]
        lines.append(f'<line class="hair" x1="{column:.1f}" x2="{column:.1f}" y1="{margin}" y2="{margin + deep:.1f}"/>')
    for k in range(math.ceil(workspace.x_min_m / step_m), math.floor(workspace.x_max_m / step_m) + 1):
        row = at(k * step_m, 0.0)[1]
        lines.append(f'<line class="hair" x1="8" x2="{wide + 8:.1f}" y1="{row:.1f}" y2="{row:.1f}"/>')
    dots = []
    for mark in marks:
        x, y = at(mark.x_m, mark.y_m)
        if mark.outcome == SUCCESS:
            shape = f'<circle class="dot success" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
        else:
            shape = f'<circle class="dot {mark.outcome}" cx="{x:.1f}" cy="{y:.1f}" r="9"/>{_cross(x, y, 4.0)}'
        where = f"{mark.name}: {mark.outcome} at x {mark.x_m:.2f} m, y {mark.y_m:.2f} m"
        dots.append(_link(mark.href, where, shape))
    middle = wide / 2 + 8.0
    failed = sum(mark.outcome == FAILURE for mark in marks)
    return _svg(
        wide + 16.0,
        deep + 2 * margin,
        "Where the object stood",
        f"{len(marks)} trials on the table, {failed} of them failed",
        f'<rect class="table" x="8" y="{margin}" width="{wide:.1f}" height="{deep:.1f}" rx="10"/>{"".join(lines)}'
        f'<text class="tick" x="{middle:.1f}" y="19" text-anchor="middle">robot</text>'
        f'<text class="tick" x="{middle:.1f}" y="{deep + 2 * margin - 9:.1f}" text-anchor="middle">camera</text>'
        f'<text class="tick" x="{wide + 8:.1f}" y="{deep + 2 * margin - 9:.1f}" text-anchor="end">grid 10 cm</text>'
        f"{''.join(dots)}",
        "map",
    )


def curve_plot(curves: Sequence[Curve]) -> str:
    """Training curves over steps, value axis logarithmic."""
    width, height, left, right, top, foot = 640.0, 240.0, 52.0, 96.0, 12.0, 30.0
    points = [(s, v) for curve in curves for s, v in zip(curve.steps, curve.values, strict=True) if v > 0]
    if len(points) < 2:
        return ""
    first, last = min(s for s, _ in points), max(s for s, _ in points)
    low, high = math.log10(min(v for _, v in points)), math.log10(max(v for _, v in points))
    if high - low < 0.1:
        low, high = low - 0.05, high + 0.05

    def at(step: float, value: float) -> tuple[float, float]:
        x = left + (step - first) / (last - first or 1.0) * (width - left - right)
        return x, top + (high - math.log10(value)) / (high - low) * (height - top - foot)

    grid = []
    for value in _log_ticks(low, high):
        y = at(first, value)[1]
        grid.append(f'<line class="hair" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        grid.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for step, anchor in ((first, "start"), (last, "end")):
        x = at(step, 10**low)[0]
        grid.append(f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="{anchor}">{_thousands(step)}</text>')
    lines, ends = [], []
    for k, curve in enumerate(curves):
        path = [at(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if v > 0]
        if not path:
            continue
        coordinates = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
        lines.append(f'<polyline class="curve c{k % 3}" points="{coordinates}"/>')
        ends.append((path[-1][1], k, curve.name, curve.values[-1], path[-1][0]))
    y_free = -math.inf
    for y, k, name, value, x in sorted(ends):
        y_free = max(y, y_free + 30.0)  # labels of neighbouring curves must not overlap
        lines.append(f'<circle class="end c{k % 3}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>')
        lines.append(f'<text class="name c{k % 3}" x="{x + 10:.1f}" y="{y_free:.1f}">{escape(name)}</text>')
        lines.append(f'<text class="tick" x="{x + 10:.1f}" y="{y_free + 14:.1f}">{value:.3g}</text>')
    return _svg(
        width,
        height,
        "Training curves",
        "; ".join(f"{curve.name} from {curve.values[0]:.3g} to {curve.values[-1]:.3g}" for curve in curves),
        "".join(grid + lines),
        "plot",
    )


def _svg(width: float, height: float, title: str, description: str, body: str, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="group" '
        f'aria-label="{escape(title)}. {escape(description)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def _end_label(x: float, fraction: float) -> str:
    anchor = "start" if fraction < 0.04 else "end" if fraction > 0.96 else "middle"
    return f'<text class="end" x="{x:.1f}" y="24" text-anchor="{anchor}">{100 * fraction:.0f} %</text>'


def _link(href: str, label: str, body: str) -> str:
    return f'<a href="{escape(href)}" aria-label="{escape(label)}"><title>{escape(label)}</title>{body}</a>'


def _cross(x: float, y: float, half: float) -> str:
    a, b, c, d = x - half, x + half, y - half, y + half
    return f'<path class="cross" d="M{a:.1f} {c:.1f}L{b:.1f} {d:.1f}M{a:.1f} {d:.1f}L{b:.1f} {c:.1f}"/>'


def _log_ticks(low: float, high: float) -> list[float]:
    """Round values (1, 2, 5 times a power of ten) between two logarithms; powers of ten alone over wide ranges."""
    digits = (1, 2, 5) if high - low < 2.0 else (1,)
    values = [d * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for d in digits]
    return [v for v in values if low - 1e-9 <= math.log10(v) <= high + 1e-9]


def _thousands(number: float) -> str:
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
