"""Drawings of the evaluation report as inline SVG; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from prophrl_models.prophet.metrics import Array

COLOURS = 6
"""Classes ``k0`` .. ``k5`` of the style sheet; further lines begin again."""


@dataclass(frozen=True)
class Line:
    """One row's curves over the horizon.

    Attributes:
        name: of the row.
        members_MT: one curve for each member [M, T]; NaN where nothing counts.
    """

    name: str
    members_MT: Array


def horizon_plot(lines: Sequence[Line], label: str, unit: str, rate_hz: float, chunk: int) -> str:
    """A metric over the time since the last real frame: mean of the members, and a band from least to most.

    Args:
        lines: at least one, all over the same frames.
        label, unit: of the metric.
        rate_hz: frames per second.
        chunk: frames of a chunk; boundaries are marked.
    """
    width, height, left, right, top, foot = 640.0, 250.0, 52.0, 128.0, 12.0, 34.0
    values = np.concatenate([line.members_MT.ravel() for line in lines])
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    frames = lines[0].members_MT.shape[1]
    ticks = round_ticks(float(values.min()), float(values.max()))
    low, high = ticks[0], ticks[-1]

    def at(frame: float | np.integer[Any], value: float) -> tuple[float, float]:
        x = left + float(frame) / frames * (width - left - right)
        return x, top + (high - value) / (high - low) * (height - top - foot)

    parts = []
    for value in ticks:
        y = at(0, value)[1]
        parts.append(f'<line class="hair" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for frame in range(0, frames + 1, chunk):
        x = at(frame, low)[0]
        parts.append(f'<line class="chunk" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - foot}"/>')
        seconds = f"{frame / rate_hz:g} s"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 12}" text-anchor="middle">{seconds}</text>')
    names = []
    for k, line in enumerate(lines):
        colour = f"k{k % COLOURS}"
        present = np.flatnonzero(np.isfinite(line.members_MT).any(axis=0))
        if not len(present):
            continue
        seen = line.members_MT[:, present]
        mean, least, most = np.nanmean(seen, axis=0), np.nanmin(seen, axis=0), np.nanmax(seen, axis=0)
        if len(seen) > 1:
            edge = [at(f + 1, v) for f, v in zip(present, most, strict=True)]
            edge += [at(f + 1, v) for f, v in zip(present[::-1], least[::-1], strict=True)]
            parts.append(f'<polygon class="spread {colour}" points="{_points(edge)}"/>')
        path = [at(f + 1, v) for f, v in zip(present, mean, strict=True)]
        parts.append(f'<polyline class="curve {colour}" points="{_points(path)}"/>')
        names.append((path[-1][1], path[-1][0], colour, line.name, float(mean[-1])))
    y_free = -math.inf
    for y, x, colour, name, value in sorted(names):
        y_free = max(y, y_free + 28.0)  # labels of neighbouring curves must not overlap
        short = name if len(name) <= 17 else name[:16] + "…"
        parts.append(f'<circle class="end {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        parts.append(
            f'<text class="name {colour}" x="{width - right + 10:.1f}" y="{y_free:.1f}">{escape(short)}</text>'
        )
        parts.append(f'<text class="tick" x="{width - right + 10:.1f}" y="{y_free + 13:.1f}">{value:.3g} {unit}</text>')
    title = f"{label} over the horizon"
    said = "; ".join(f"{name} ends at {value:.3g} {unit}".strip() for _, _, _, name, value in names)
    tall = max(height, y_free + 20.0)
    return (
        f'<svg class="plot horizon" viewBox="0 0 {width:.0f} {tall:.0f}" role="group" '
        f'aria-label="{escape(title)}. {escape(said)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values at equal distances that enclose ``low .. high``, at least two and about ``most`` of them."""
    reach = max(high - low, 1e-9 * max(abs(high), abs(low), 1.0))
    raw = reach / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


def _points(path: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
