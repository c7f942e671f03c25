"""Arms of a study side by side as inline SVG: every seed a ring, their mean a bar, an interval where there is one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_LABEL, _VALUE, _PITCH, _TOP, _FOOT = 146.0, 66.0, 30.0, 8.0, 26.0


@dataclass(frozen=True)
class ArmMark:
    """One line of the drawing.

    Attributes:
        name: at the left.
        values: one for each seed; those that are NaN are left out.
        low, high: ends of an interval of the mean; NaN draws none.
        kind: "first", "baseline" or "arm"; a class of the style sheet.
    """

    name: str
    values: Sequence[float]
    low: float = math.nan
    high: float = math.nan
    kind: str = "arm"

    @property
    def seen(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]

    @property
    def mean(self) -> float:
        return sum(self.seen) / len(self.seen) if self.seen else math.nan


def arms_plot(
    marks: Sequence[ArmMark], title: str, form: str = "{:.2f}", *, zero: bool = False, width: float = 640.0
) -> str:
    """The drawing; empty where no arm has a number.

    Args:
        form: of the numbers, a format string.
        zero: draw a line at 0 (for differences) and keep it on the scale.
        width: of the drawing; words keep their size, so a narrow one has fewer marks on its scale.
    """
    numbers = [v for mark in marks for v in (*mark.seen, mark.low, mark.high) if math.isfinite(v)]
    if not numbers:
        return ""
    if zero:
        numbers.append(0.0)
    ticks = _ticks(min(numbers), max(numbers), 5 if width > 500 else 3)
    low, high = ticks[0], ticks[-1]
    height = _TOP + _PITCH * len(marks) + _FOOT
    bottom = height - _FOOT

    def at(value: float) -> float:
        return _LABEL + (value - low) / (high - low) * (width - _LABEL - _VALUE)

    parts = []
    for tick in ticks:
        x = at(tick)
        kind = "axis" if zero and tick == 0.0 else "hair"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8:.1f}" text-anchor="middle">{tick:g}</text>')
    for k, mark in enumerate(marks):
        y = _TOP + _PITCH * (k + 0.5)
        short = mark.name if len(mark.name) <= 20 else mark.name[:19] + "…"
        inner = [f'<text class="who" x="{_LABEL - 12:.0f}" y="{y + 4.5:.1f}" text-anchor="end">{escape(short)}</text>']
        if math.isfinite(mark.low) and math.isfinite(mark.high):
            inner.append(f'<line class="reach" x1="{at(mark.low):.1f}" x2="{at(mark.high):.1f}" y1="{y}" y2="{y}"/>')
        if math.isfinite(mark.mean):
            x = at(mark.mean)
            inner.append(f'<line class="mean" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 9:.1f}" y2="{y + 9:.1f}"/>')
            value = form.format(mark.mean)
            inner.append(f'<text class="tick" x="{width:.0f}" y="{y + 4.5:.1f}" text-anchor="end">{value}</text>')
        if len(mark.seen) > 1:
            inner += [f'<circle class="seed" cx="{at(v):.1f}" cy="{y:.1f}" r="4"/>' for v in mark.seen]
        parts.append(f'<g class="arm {mark.kind}">{"".join(inner)}</g>')
    said = "; ".join(f"{mark.name} {form.format(mark.mean)}" for mark in marks if math.isfinite(mark.mean))
    return (
        f'<svg class="plot arms" viewBox="0 0 {width:.0f} {height:.0f}" role="group" '
        f'aria-label="{escape(title)}. {escape(said)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round values at equal distances that enclose ``low .. high``."""
    reach = max(high - low, 1e-6 * max(abs(high), abs(low), 1.0))
    raw = reach / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]
