"""What an ablation found: scores of each arm over its seeds, and which differences exceed the spread of seeds.

Everything is read from what ``prophrl prophet eval`` wrote for each training. A difference between two arms *exceeds
the seed spread* if the difference of their means is larger than the standard deviation that the difference of two
single trainings has, sqrt(s_a^2 + s_b^2). With one seed an arm's spread is unknown, and nothing exceeds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prophrl_models.prophet.ablate import AblationError, Arm
from prophrl_models.prophet.evaluate import BASELINE, CHUNK, LOOP
from prophrl_models.prophet.metrics import METRICS, Array
from prophrl_models.prophet.scores import Spread

SHOWN = ("psnr_db", "ssim", "tssim", "epe_px", "epe_moving_px", "cosine", "cosine_half_px", "cosine_moving")
"""Columns of the table: the paper's, and error and cosine of what moves."""
VERDICT = ("epe_px", "epe_moving_px", "cosine", "cosine_half_px", "cosine_moving")
"""What the finding is about: does the video move as the real one does?"""
AGAINST_STILL = ("epe_px", "cosine_moving")
"""What a winner must beat copying the last frame in. The other cosines count pixels that move in both videos, and in a
still one hardly any does."""
PROTOCOLS = (CHUNK, LOOP)

Verdict = Literal["better", "worse", "within", "unknown"]


@dataclass(frozen=True)
class Run:
    """One training of an arm, measured.

    Attributes:
        seed: of the training.
        folder: of the run, relative to the study's.
        facts: ``report.json`` of its evaluation.
    """

    seed: int
    folder: str
    facts: Mapping[str, Any]

    def row(self, *, baseline: bool = False) -> Mapping[str, Any]:
        """The model's row of the evaluation, or that of the baseline."""
        rows: Sequence[Mapping[str, Any]] = self.facts["rows"]
        return next(row for row in rows if (row["name"] == BASELINE) == baseline)

    def score(self, protocol: str, metric: str, *, baseline: bool = False) -> float:
        """Mean over all frames; NaN where nothing counted."""
        value = self.row(baseline=baseline)[protocol][metric]["mean"]["mean"]
        return math.nan if value is None else float(value)

    def curve(self, metric: str, *, baseline: bool = False) -> Array:
        """Mean over the closed loops at each frame [T]."""
        [values] = self.row(baseline=baseline)["horizon"][metric]
        return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


@dataclass(frozen=True)
class ArmResult:
    """A row: all finished trainings of an arm, at least one."""

    arm: Arm
    runs: tuple[Run, ...]
    parameters: int = 0

    def spread(self, protocol: str, metric: str) -> Spread:
        return Spread.of([run.score(protocol, metric) for run in self.runs])


@dataclass(frozen=True)
class Comparison:
    """The first arm against another one.

    Attributes:
        metric, protocol: what is compared.
        other: name of the arm, or the baseline.
        margin: by how much the first arm is better, whatever the metric's direction.
        spread: standard deviation of such a difference between single trainings; NaN where it is unknown.
    """

    metric: str
    protocol: str
    other: str
    margin: float
    spread: float

    @property
    def verdict(self) -> Verdict:
        if not (math.isfinite(self.margin) and math.isfinite(self.spread)):
            return "unknown"
        if abs(self.margin) <= self.spread:
            return "within"
        return "better" if self.margin > 0.0 else "worse"


@dataclass(frozen=True)
class AblationResult:
    """The study so far.

    Attributes:
        arms: with at least one finished training; the first is what the others are compared with.
        seeds: that every arm is to be trained with.
        missing: trainings that are not measured yet, in words.
        failed: trainings that ended with an error: name and reason.
    """

    arms: tuple[ArmResult, ...]
    seeds: tuple[int, ...]
    missing: tuple[str, ...] = ()
    failed: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.arms:
            raise AblationError("no training of this ablation is finished yet; there is nothing to report")
        asked = {json.dumps([run.facts["clips"], run.facts["settings"]]) for arm in self.arms for run in arm.runs}
        if len(asked) > 1:
            raise AblationError(
                "the trainings were measured on different clips or with different settings and cannot be compared; "
                "delete the folders eval of the runs and repeat the command"
            )

    @property
    def first(self) -> ArmResult:
        return self.arms[0]

    def baseline(self, protocol: str, metric: str) -> float:
        """Of copying the last frame, which needs no training."""
        return self.first.runs[0].score(protocol, metric, baseline=True)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The first arm against each other trained arm, on what the finding is about."""
        return tuple(
            self.compare(metric, protocol, other)
            for other in self.arms[1:]
            for metric in VERDICT
            for protocol in PROTOCOLS
        )

    @cached_property
    def against_baseline(self) -> tuple[Comparison, ...]:
        """The first arm against copying the last frame."""
        found = []
        for metric in VERDICT:
            for protocol in PROTOCOLS:
                ours = self.first.spread(protocol, metric)
                margin = _better(metric, ours.mean, self.baseline(protocol, metric))
                found.append(Comparison(metric, protocol, BASELINE, margin, ours.deviation))
        return tuple(found)

    def compare(self, metric: str, protocol: str, other: ArmResult) -> Comparison:
        """The first arm against another one in one number."""
        a, b = self.first.spread(protocol, metric), other.spread(protocol, metric)
        spread = math.hypot(a.deviation, b.deviation)
        return Comparison(metric, protocol, other.arm.name, _better(metric, a.mean, b.mean), spread)

    @property
    def headline(self) -> str:
        """The finding in a line, made of the numbers: against every other arm and against copying the last frame."""
        name = self.first.arm.name
        if not self.comparisons:
            return f"Only {name} is measured so far"
        found = (*self.comparisons, *(c for c in self.against_baseline if c.metric in AGAINST_STILL))
        won = sum(c.verdict == "better" for c in found)
        if all(c.verdict == "unknown" for c in found):
            ahead = sum(c.margin > 0.0 for c in found)
            return f"{name} is ahead in {ahead} of {len(found)} comparisons; the seed spread is not known yet"
        if won == len(found):
            return f"{name} wins on EPE and cosine, over copying the last frame too, by more than the seed spread"
        lost = [c for c in found if c.other == BASELINE and c.verdict != "better"]
        still = (
            f"; not ahead of copying the last frame in {', '.join(label(c.metric, c.protocol) for c in lost)}"
            if lost
            else ""
        )
        return f"{name} does not win throughout: {won} of {len(found)} comparisons on EPE and cosine{still}"

    @property
    def sentences(self) -> tuple[str, ...]:
        """The finding in words: over all arms, then for each, then the baseline."""
        said = []
        if self.comparisons:
            said.append(_overall(self.first.arm.name, self.comparisons))
        for other in self.arms[1:]:
            said.append(_against(other.arm.name, [c for c in self.comparisons if c.other == other.arm.name]))
        said.append(_against(BASELINE, self.against_baseline))
        return tuple(said)

    def to_json(self) -> dict[str, Any]:
        """Every number."""

        def arm(result: ArmResult) -> dict[str, Any]:
            return {
                "name": result.arm.name,
                "meaning": result.arm.meaning,
                "parameters": result.parameters,
                "runs": [{"seed": run.seed, "folder": run.folder} for run in result.runs],
                **{
                    protocol: {
                        metric: {
                            "mean": result.spread(protocol, metric).mean,
                            "deviation": result.spread(protocol, metric).deviation,
                            "seeds": [run.score(protocol, metric) for run in result.runs],
                        }
                        for metric in METRICS
                        if metric in result.runs[0].row()[protocol]
                    }
                    for protocol in PROTOCOLS
                },
            }

        return {
            "headline": self.headline,
            "sentences": list(self.sentences),
            "arms": [arm(result) for result in self.arms],
            "baseline": {p: {m: self.baseline(p, m) for m in SHOWN} for p in PROTOCOLS},
            "comparisons": [
                {**vars(c), "verdict": c.verdict, "first": self.first.arm.name}
                for c in (*self.comparisons, *self.against_baseline)
            ],
            "seeds": list(self.seeds),
            "missing": list(self.missing),
            "failed": dict(self.failed or {}),
        }


def read_run(folder: Path, study: Path, seed: int) -> Run | None:
    """A measured training; None where it is not measured yet."""
    file = folder / "eval" / "report.json"
    if not file.is_file():
        return None
    return Run(seed, folder.relative_to(study).as_posix(), json.loads(file.read_text(encoding="utf-8")))


def label(metric: str, protocol: str) -> str:
    """A metric under a protocol, in words."""
    return f"{METRICS[metric].label} ({protocol})"


def _better(metric: str, ours: float, theirs: float) -> float:
    return ours - theirs if METRICS[metric].higher_is_better else theirs - ours


def _overall(name: str, found: Sequence[Comparison]) -> str:
    won = [c for c in found if c.verdict == "better"]
    if len(won) == len(found):
        return (
            f"{name} beats every other arm on EPE and cosine, in single chunks and closed loops, by more than the seed "
            "spread."
        )
    counts = {v: sum(c.verdict == v for c in found) for v in ("better", "within", "worse", "unknown")}
    words = {
        "better": "better by more than the seed spread",
        "within": "within it",
        "worse": "worse by more than it",
        "unknown": "of unknown spread (it needs at least two seeds of each arm)",
    }
    said = ", ".join(f"{counts[v]} {words[v]}" for v in words if counts[v])
    return f"{name} against the other arms on EPE and cosine, {len(found)} comparisons: {said}."


def _against(other: str, found: Sequence[Comparison]) -> str:
    parts = []
    for verdict, word in (("better", "better"), ("worse", "worse"), ("within", "no clear difference")):
        these = [c for c in found if c.verdict == verdict]
        if these:
            parts.append(f"{word} in {'; '.join(_amount(c) for c in these)}")
    unknown = [c for c in found if c.verdict == "unknown"]
    known = [c for c in unknown if math.isfinite(c.margin)]
    if known:
        parts.append(f"spread unknown: {'; '.join(_amount(c) for c in known)}")
    if len(unknown) > len(known):
        nothing = (label(c.metric, c.protocol) for c in unknown if not math.isfinite(c.margin))
        parts.append(f"nothing to compare in {', '.join(nothing)}")
    return f"Against {other}: {', '.join(parts)}."


def _amount(c: Comparison) -> str:
    metric = METRICS[c.metric]
    spread = f" ± {c.spread:.{metric.decimals}f}" if math.isfinite(c.spread) else ""
    return f"{label(c.metric, c.protocol)} {c.margin:+.{metric.decimals}f}{spread}"
