"""What came of replays: one JSON file per episode, and the rates by task over all of them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prophrl_models.data.files import write_json
from prophrl_models.trials.statistics import SuccessRate
from prophrl_nodes.replaying.plan import ReplayError, ReplayPlan
from prophrl_nodes.replaying.track import Track
from prophrl_nodes.replaying.tracking import Tracking, TrackingError, compare

FORMAT = "prophrl-replay/1"
SUFFIX = ".replay.json"
HEADING = (
    *("episode", "mode", "mm p50", "p95", "max", "deg p50", "p95", "max"),
    *("path mm", "lag ms", "gripper ms", "success again"),
)


@dataclass(frozen=True)
class Replayed:
    """What came of one replay.

    Attributes:
        track: what the arm did, beginning with the first target; None when nothing was replayed.
        success: the task succeeded again, in the eyes of ``judge``.
        stop_reason: why it ended early; empty when it was replayed to its end.
        duration_s: in the scene's time, without the way to the first pose.
        wall_s: in the computer's time, all included.
    """

    track: Track | None
    success: bool
    reason: str
    judge: str
    stop_reason: str
    duration_s: float
    wall_s: float


@dataclass(frozen=True)
class EpisodeOutcome:
    """One line of the report; ``valid`` is False when the episode could not be replayed at all."""

    episode_id: str
    source: str
    task: str
    mode: str
    lane: str
    valid: bool
    recorded_outcome: str
    success: bool
    reason: str
    judge: str
    stop_reason: str
    tracking: dict[str, Any] | None
    recorded_lag_s: float | None
    gripper_delay_s: float
    rate_hz: float
    convention: str
    actions: int
    invalid_actions: int
    duration_s: float
    wall_s: float

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> EpisodeOutcome:
        """The inverse of ``to_json``.

        Raises:
            ReplayError: another format.
        """
        if raw.get("format") != FORMAT:
            raise ReplayError(f"not a replay report of format {FORMAT}: format is {raw.get('format')!r}")
        return cls(**{key: value for key, value in raw.items() if key != "format"})


def outcome_of(plan: ReplayPlan, replayed: Replayed, *, lane: str, gripper_delay_s: float) -> EpisodeOutcome:
    """Compare a replay with its plan; ``lane`` says where it ran, as "fast" or the cell's name."""
    tracking: Tracking | None = None
    reason = replayed.reason
    if replayed.track is not None:
        try:
            tracking = compare(plan.recorded, replayed.track)
        except TrackingError as error:
            reason = f"{reason}; not compared: {error}".lstrip("; ")
    said = plan.metadata
    return EpisodeOutcome(
        episode_id=said.episode_id,
        source=plan.source,
        task=said.task,
        mode=plan.mode.value,
        lane=lane,
        valid=replayed.track is not None,
        recorded_outcome=said.outcome,
        success=replayed.success,
        reason=reason,
        judge=replayed.judge,
        stop_reason=replayed.stop_reason,
        tracking=tracking.to_json() if tracking else None,
        recorded_lag_s=plan.lag_s if math.isfinite(plan.lag_s) else None,
        gripper_delay_s=gripper_delay_s,
        rate_hz=plan.rate_hz,
        convention=plan.convention.name,
        actions=len(plan.actions_T7),
        invalid_actions=plan.invalid_steps,
        duration_s=replayed.duration_s,
        wall_s=replayed.wall_s,
    )


def void(source: str, mode: str, lane: str, reason: str, plan: ReplayPlan | None = None) -> EpisodeOutcome:
    """An episode that could not be read, or for which the cell could not be prepared."""
    said = plan.metadata if plan else None
    return EpisodeOutcome(
        episode_id=said.episode_id if said else Path(source).name.removesuffix(".mcap"),
        source=source,
        task=said.task if said else "",
        mode=mode,
        lane=lane,
        valid=False,
        recorded_outcome=said.outcome if said else "unknown",
        success=False,
        reason=reason,
        judge="nobody",
        stop_reason=reason,
        tracking=None,
        recorded_lag_s=None,
        gripper_delay_s=0.0,
        rate_hz=plan.rate_hz if plan else 0.0,
        convention=plan.convention.name if plan else "",
        actions=len(plan.actions_T7) if plan else 0,
        invalid_actions=plan.invalid_steps if plan else 0,
        duration_s=0.0,
        wall_s=0.0,
    )


def write_outcome(folder: Path, outcome: EpisodeOutcome) -> Path:
    """Write one report, atomically; an earlier replay of the same episode in the same mode is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{outcome.episode_id}.{outcome.mode}{SUFFIX}"
    write_json(path, outcome.to_json())
    return path


def read_outcomes(folder: Path) -> list[EpisodeOutcome]:
    """All reports of a folder, by name.

    Raises:
        ReplayError: a file is not a report.
    """
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            found.append(EpisodeOutcome.from_json(json.loads(path.read_text())))
        except (json.JSONDecodeError, TypeError, ReplayError) as error:
            raise ReplayError(f"{path}: {error}; delete it or use another output folder") from error
    return found


def rates(outcomes: Iterable[EpisodeOutcome]) -> dict[str, SuccessRate]:
    """By task, how often what had succeeded when it was recorded succeeded again; "all" when there are several tasks.

    Episodes that were no success when they were recorded, or were not judged, prove nothing and are not counted.
    """
    counted: dict[str, list[bool]] = {}
    for outcome in outcomes:
        if outcome.valid and outcome.recorded_outcome == "success" and outcome.judge != "nobody":
            counted.setdefault(outcome.task, []).append(outcome.success)
    found = {task: SuccessRate(sum(wins), len(wins)) for task, wins in sorted(counted.items())}
    if len(found) > 1:
        found["all"] = SuccessRate(sum(r.successes for r in found.values()), sum(r.trials for r in found.values()))
    return found


def rows(outcomes: Sequence[EpisodeOutcome]) -> list[list[str]]:
    """The report as a table, heading first."""
    lines = [list(HEADING)]
    for outcome in outcomes:
        said = "yes" if outcome.success else "no"
        if not outcome.valid:
            said = "not replayed"
        elif outcome.recorded_outcome != "success":
            said += f" (was {outcome.recorded_outcome})"
        lines.append([outcome.episode_id, outcome.mode, *_figures(outcome.tracking), said])
    return lines


def _figures(tracking: dict[str, Any] | None) -> list[str]:
    if tracking is None:
        return ["-"] * (len(HEADING) - 3)
    errors = [
        f"{tracking[name][key]:.{digits}f}"
        for name, digits in (("position_mm", 1), ("rotation_deg", 2))
        for key in ("p50", "p95", "max")
    ]
    lag = "-" if tracking["lag_s"] is None else f"{tracking['lag_s'] * 1e3:.0f}"
    path = f"{tracking['path_mm']['max']:.1f}"
    late = tracking["gripper_s"]
    gripper = f"{1e3 * statistics.median(late):+.0f}" if late else "-"
    unmatched = tracking["gripper_unmatched"]
    return [*errors, path, lag, f"{gripper} ({unmatched} unmatched)" if unmatched else gripper]
