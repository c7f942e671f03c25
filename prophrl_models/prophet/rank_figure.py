"""The scatter plot of the ranking report as inline SVG: success in the imagination over success in truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from prophrl_models.trials.statistics import SuccessRate

_SIZE, _LEFT, _FOOT, _TOP, _RIGHT = 440.0, 56.0, 48.0, 12.0, 130.0
_LABEL_HEIGHT = 15.0


@dataclass(frozen=True)
class Point:
    """One policy's rates on both sides."""

    name: str
    true: SuccessRate
    imagined: SuccessRate


def rank_plot(points: Sequence[Point]) -> str:
    """Points with 95 % intervals in both directions, and the diagonal on which both sides agree."""

    def at(true: float, imagined: float) -> tuple[float, float]:
        return _LEFT + true * _SIZE, _TOP + (1.0 - imagined) * _SIZE

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = at(tick, tick)
        parts.append(f'<line class="hair" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + _SIZE}"/>')
        parts.append(f'<line class="hair" x1="{_LEFT}" x2="{_LEFT + _SIZE}" y1="{y:.1f}" y2="{y:.1f}"/>')
        percent = round(100 * tick)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{_TOP + _SIZE + 18:.0f}" text-anchor="middle">{percent}</text>'
        )
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    (x0, y0), (x1, y1) = at(0.0, 0.0), at(1.0, 1.0)
    parts.append(f'<line class="agree" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>')
    for point in points:
        x, y = at(point.true.rate, point.imagined.rate)
        across, along = point.true.interval, point.imagined.interval
        (low_x, high_y), (high_x, low_y) = at(across.low, along.high), at(across.high, along.low)
        parts.append(f'<line class="reach" x1="{low_x:.1f}" x2="{high_x:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<line class="reach" x1="{x:.1f}" x2="{x:.1f}" y1="{low_y:.1f}" y2="{high_y:.1f}"/>')
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: -p.imagined.rate):
        x, y = at(point.true.rate, point.imagined.rate)
        label_y = y - 7.0
        while any(abs(label_y - b) < _LABEL_HEIGHT and abs(x - a) < _RIGHT for a, b in taken):
            label_y += _LABEL_HEIGHT  # labels of neighbours must not overlap
        taken.append((x, label_y))
        told = f"{point.name}: {_percent(point.true)} in truth, {_percent(point.imagined)} imagined"
        parts.append(f'<circle class="policy" cx="{x:.1f}" cy="{y:.1f}" r="5.5"><title>{escape(told)}</title></circle>')
        short = point.name if len(point.name) <= 18 else point.name[:17] + "…"
        parts.append(f'<text class="who" x="{x + 9:.1f}" y="{label_y:.1f}">{escape(short)}</text>')
    middle, below = _LEFT + _SIZE / 2, _TOP + _SIZE + 40
    parts.append(f'<text class="tick" x="{middle}" y="{below}" text-anchor="middle">success on the twin, %</text>')
    turned = f"rotate(-90 14 {_TOP + _SIZE / 2})"
    parts.append(
        f'<text class="tick" x="14" y="{_TOP + _SIZE / 2}" text-anchor="middle" transform="{turned}">'
        "success in the world model, %</text>"
    )
    said = "; ".join(f"{p.name} {_percent(p.true)} and {_percent(p.imagined)}" for p in points)
    width, height = _LEFT + _SIZE + _RIGHT, _TOP + _SIZE + _FOOT
    return (
        f'<svg class="plot ranking" viewBox="0 0 {width:.0f} {height:.0f}" role="group" '
        f'aria-label="Success on the twin and in the world model. {escape(said)}">'
        f"<title>Success on the twin and in the world model</title>{''.join(parts)}</svg>"
    )


def _percent(rate: SuccessRate) -> str:
    return f"{100 * rate.rate:.0f} % ({rate.successes} of {rate.trials})"
