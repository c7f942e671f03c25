"""Does a world model rank policies as the truth does? The finding, a scatter plot and a page.

<folder>/report.html     the finding, the plot, a table, videos; opens anywhere, without a network
<folder>/videos/*.mp4    what the policies did in the imagination, linked relatively
<folder>/report.json     every outcome, for programs
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prophrl_models.prophet.rank_figure import Point, rank_plot
from prophrl_models.trials.page import HOUSE, environment, style, write_page
from prophrl_models.trials.rank_correlation import RankCorrelation, rho_interval, spearman
from prophrl_models.trials.report_model import Machine
from prophrl_models.trials.statistics import Interval, SuccessRate

RESOURCES = Path(__file__).parent / "resources"
REPORT_FILE, FACTS_FILE, VIDEOS = "report.html", "report.json", "videos"
RHO_CONFIDENCE = 0.9
LEAST = 3
"""Policies that make an order worth testing."""


@dataclass(frozen=True)
class ImaginedVideo:
    """A rollout's video: file name in ``VIDEOS``, and what the judge said."""

    file: str
    success: bool | None
    reason: str


@dataclass(frozen=True)
class RankedPolicy:
    """One policy on both sides.

    Attributes:
        name: on the page.
        checkpoint_id: hash of its files.
        imagined: the judge's verdict on each rollout; None where it gave none.
        true: outcome of each trial on the twin.
        videos: some of the rollouts.
    """

    name: str
    checkpoint_id: str
    imagined: tuple[bool | None, ...]
    true: tuple[bool, ...]
    videos: tuple[ImaginedVideo, ...] = ()

    @property
    def judged(self) -> list[bool]:
        return [success for success in self.imagined if success is not None]

    @property
    def imagined_rate(self) -> SuccessRate:
        return SuccessRate(sum(self.judged), len(self.judged))

    @property
    def true_rate(self) -> SuccessRate:
        return SuccessRate(sum(self.true), len(self.true))


@dataclass(frozen=True)
class Ranking:
    """All policies; ``notes`` are what a reader must know about the data."""

    task: str
    world: str
    policies: tuple[RankedPolicy, ...]
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.policies) < LEAST:
            raise ValueError(
                f"an order needs at least {LEAST} policies, got {len(self.policies)}; give more checkpoints"
            )
        for policy in self.policies:
            if not policy.judged or not policy.true:
                raise ValueError(f"{policy.name} has no judged rollout or no trial on the twin; nothing to compare")

    @cached_property
    def correlation(self) -> RankCorrelation:
        return spearman(
            [policy.imagined_rate.rate for policy in self.policies], [policy.true_rate.rate for policy in self.policies]
        )

    @cached_property
    def interval(self) -> Interval:
        """Of rho, were rollouts and trials drawn anew with the same policies."""
        return rho_interval(
            [policy.judged for policy in self.policies],
            [policy.true for policy in self.policies],
            confidence=RHO_CONFIDENCE,
        )

    @property
    def bias(self) -> float:
        """Mean of imagined minus true success rate."""
        return sum(p.imagined_rate.rate - p.true_rate.rate for p in self.policies) / len(self.policies)

    @property
    def headline(self) -> str:
        """The finding in a line."""
        found = self.correlation
        if math.isnan(found.rho):
            return f"No order: all {found.count} policies do equally well on one side"
        return f"Spearman {found.rho:.2f} over {found.count} policies, p = {found.p_same_order:.2g}"


def write_rank_report(ranking: Ranking, folder: str | Path, *, provenance: Mapping[str, str], created_at: str) -> Path:
    """Write page and facts; the videos that policies name lie in the folder's ``VIDEOS`` already.

    Args:
        folder: made if absent; an earlier report in it is replaced.
        provenance: further lines of where everything came from.
        created_at: when, in words.

    Raises:
        FileNotFoundError: a video is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for policy in ranking.policies:
        for video in policy.videos:
            if not (folder / VIDEOS / video.file).is_file():
                raise FileNotFoundError(f"{policy.name} has no video at {folder / VIDEOS / video.file}")
    lines = {
        "world model": ranking.world,
        "settings": ", ".join(f"{name} {value}" for name, value in ranking.settings.items()),
        **{f"policy {p.name}": f"checkpoint {p.checkpoint_id[:16]}" for p in ranking.policies},
        **provenance,
        "machine": str(Machine.here()),
        "written": created_at,
    }
    html = render(ranking, list(lines.items()))
    return write_page(folder / REPORT_FILE, html, folder / FACTS_FILE, {**facts(ranking), "provenance": lines})


def render(ranking: Ranking, provenance: Sequence[tuple[str, str]]) -> str:
    """The page's HTML."""
    points = [Point(p.name, p.true_rate, p.imagined_rate) for p in ranking.policies]
    return (
        environment(RESOURCES)
        .get_template("rank_report.html.j2")
        .render(
            style=style(HOUSE / "report.css", RESOURCES / "eval_report.css", RESOURCES / "rank_report.css"),
            ranking=ranking,
            correlation=ranking.correlation,
            interval=ranking.interval,
            level=RHO_CONFIDENCE,
            plot=Markup(rank_plot(points)),
            rows=sorted(ranking.policies, key=lambda p: -p.true_rate.rate),
            videos=VIDEOS,
            provenance=provenance,
        )
    )


def facts(ranking: Ranking) -> dict[str, Any]:
    """Everything, for programs; NaN where there is no order."""

    def side(rate: SuccessRate, outcomes: Sequence[bool | None]) -> dict[str, Any]:
        return {
            "successes": rate.successes,
            "trials": rate.trials,
            "rate": rate.rate,
            "interval_95": [rate.interval.low, rate.interval.high],
            "outcomes": list(outcomes),
        }

    return {
        "task": ranking.task,
        "world": ranking.world,
        "settings": dict(ranking.settings),
        "notes": list(ranking.notes),
        "spearman": {
            **asdict(ranking.correlation),
            "interval": [ranking.interval.low, ranking.interval.high],
            "interval_confidence": RHO_CONFIDENCE,
        },
        "bias": ranking.bias,
        "policies": [
            {
                "name": p.name,
                "checkpoint_id": p.checkpoint_id,
                "imagined": side(p.imagined_rate, p.imagined),
                "twin": side(p.true_rate, p.true),
            }
            for p in ranking.policies
        ],
    }
