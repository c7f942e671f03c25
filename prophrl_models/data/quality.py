"""How good a recording is: cadence, gaps, lost samples, clamped commands. Reported, never repaired.

Rates come from stamps alone. A gap is an interval longer than 2.5 usual (median) intervals; ``missing`` counts the
samples that the usual interval would have put into the longer ones, so it is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAP_PERIODS = 2.5
_LISTED_GAPS = 10


@dataclass(frozen=True)
class TopicTiming:
    """Cadence of one topic. ``gaps`` lists the longest ones as (seconds after the episode began, seconds long)."""

    count: int
    rate_hz: float
    period_s: float
    largest_gap_s: float
    missing: int
    gaps: tuple[tuple[float, float], ...] = ()


def topic_timing(stamps_ns: NDArray[np.int64], start_ns: int) -> TopicTiming:
    """Cadence of stamps [N] in nanoseconds; rate and gaps are 0 with fewer than two stamps."""
    stamps_ns = np.sort(stamps_ns)
    if len(stamps_ns) < 2 or stamps_ns[-1] == stamps_ns[0]:
        return TopicTiming(len(stamps_ns), 0.0, 0.0, 0.0, 0)
    intervals_s = np.diff(stamps_ns) * 1e-9
    period_s = float(np.median(intervals_s))
    long_ = np.flatnonzero(intervals_s > GAP_PERIODS * period_s)
    longest = long_[np.argsort(intervals_s[long_])[::-1][:_LISTED_GAPS]]
    missing = np.maximum(np.round(intervals_s / period_s) - 1, 0).sum() if period_s > 0 else 0
    return TopicTiming(
        count=len(stamps_ns),
        rate_hz=float((len(stamps_ns) - 1) / ((stamps_ns[-1] - stamps_ns[0]) * 1e-9)),
        period_s=period_s,
        largest_gap_s=float(intervals_s.max()),
        missing=int(missing),
        gaps=tuple((float((stamps_ns[i] - start_ns) * 1e-9), float(intervals_s[i])) for i in sorted(longest)),
    )


class CounterGrowth:
    """How much a counter grew while it was watched, even if it was reset to zero in between (a new engage)."""

    def __init__(self) -> None:
        self.growth = 0
        self._last: int | None = None

    @property
    def seen(self) -> bool:
        return self._last is not None

    def see(self, value: int) -> None:
        if self._last is not None:
            self.growth += value - self._last if value >= self._last else value
        self._last = value


@dataclass(frozen=True)
class EpisodeQuality:
    """The report of one converted episode.

    Attributes:
        streams: cadence of the three streams by acquisition stamp.
        topics: cadence of every recorded topic by receive time.
        largest_age_s: oldest sample used at any tick, by stream.
        stale: runs of ticks with a missing or too old sample: (first tick, last tick, problem of the first).
        idle_steps: steps in which nothing moved and nothing was commanded.
        out_of_order, repeated: samples that came late or twice, by stream.
        unusable: samples that hold no finite numbers and were left out, by stream.
        dropped: messages lost between publisher and recorder, by topic, where the recorder could tell.
        clamped, refused, watchdog: what the servo's safety envelope had to do during the episode; None when the
            bag carries no servo status.
        depth: ``prophrl_models.data.depth.depth_summary``; None, and absent from the JSON, without depth.
    """

    streams: Mapping[str, TopicTiming]
    topics: Mapping[str, TopicTiming]
    largest_age_s: Mapping[str, float]
    stale: tuple[tuple[int, int, str], ...]
    idle_steps: int
    out_of_order: Mapping[str, int]
    repeated: Mapping[str, int]
    unusable: Mapping[str, int]
    dropped: Mapping[str, int]
    clamped: int | None
    refused: int | None
    watchdog: int | None
    depth: Mapping[str, Any] | None = None

    @property
    def stale_ticks(self) -> int:
        return sum(last - first + 1 for first, last, _ in self.stale)

    def to_json(self) -> dict[str, Any]:
        report = asdict(self)
        if self.depth is None:
            del report["depth"]
        return report


@dataclass(frozen=True)
class QualityRow:
    """One line of the quality table; counts are per episode, rates in Hz, gaps and ages in seconds."""

    episode_id: str
    outcome: str
    steps: int
    duration_s: float
    color_rate_hz: float
    color_missing: int
    pose_rate_hz: float
    largest_gap_s: float
    largest_age_s: float
    stale_ticks: int
    idle_fraction: float
    clamped: int | None
    refused: int | None
    watchdog: int | None

    @staticmethod
    def of(metadata: Mapping[str, Any], steps: int, duration_s: float, quality: Mapping[str, Any]) -> QualityRow:
        """The row of one stored episode (``episode.json``'s metadata and quality)."""
        streams = quality["streams"]
        return QualityRow(
            episode_id=str(metadata["episode_id"]),
            outcome=str(metadata["outcome"]),
            steps=steps,
            duration_s=duration_s,
            color_rate_hz=float(streams["color"]["rate_hz"]),
            color_missing=int(streams["color"]["missing"]),
            pose_rate_hz=float(streams["tcp_pose"]["rate_hz"]),
            largest_gap_s=max(float(timing["largest_gap_s"]) for timing in streams.values()),
            largest_age_s=max(map(float, quality["largest_age_s"].values())),
            stale_ticks=sum(int(last) - int(first) + 1 for first, last, _ in quality["stale"]),
            idle_fraction=int(quality["idle_steps"]) / max(steps, 1),
            clamped=quality["clamped"],
            refused=quality["refused"],
            watchdog=quality["watchdog"],
        )


COLUMNS: tuple[tuple[str, str], ...] = (
    ("episode_id", "episode"),
    ("outcome", "outcome"),
    ("steps", "steps"),
    ("duration_s", "s"),
    ("color_rate_hz", "camera Hz"),
    ("color_missing", "frames lost"),
    ("pose_rate_hz", "pose Hz"),
    ("largest_gap_s", "longest gap s"),
    ("largest_age_s", "oldest sample s"),
    ("stale_ticks", "stale ticks"),
    ("idle_fraction", "idle"),
    ("clamped", "clamped"),
    ("refused", "refused"),
    ("watchdog", "watchdog"),
)
"""Fields of ``QualityRow`` in the order they are shown, with their headings."""


def format_quality(rows: Iterable[QualityRow]) -> str:
    """The quality table as aligned text, for a terminal."""
    table = [[heading for _, heading in COLUMNS]]
    table += [[format_cell(getattr(row, name), name) for name, _ in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    return "\n".join(_aligned(line, widths) for line in table)


def format_cell(value: Any, name: str) -> str:
    """One value as people read it: a dash where nothing is known."""
    if value is None:
        return "–"
    if name == "idle_fraction":
        return f"{value:.0%}"
    if name in ("color_rate_hz", "pose_rate_hz", "duration_s"):
        return f"{value:.1f}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
    rest = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
    return "  ".join(first + rest).rstrip()
