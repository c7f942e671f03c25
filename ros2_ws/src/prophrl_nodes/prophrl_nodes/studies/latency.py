"""What inference latency costs a policy, with and without real-time chunking: trials in the fast lane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from prophrl_models.data.files import write_json
from prophrl_models.trials.statistics import SuccessRate
from prophrl_nodes.policy_runner import open_runner
from prophrl_nodes.studies.lane_trial import LaneSettings, LaneTrial, run_lane_trial
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.tasks import held_out_placements

EXECUTE_LENGTH = {"synchronous": 8, "real_time": 4, "unguided": 4}
"""Rows before the next look, unless told otherwise: where looking costs no pause, looking more often is free."""


@dataclass(frozen=True)
class LatencyCell:
    """All trials of one latency with one way of chunking; figures of seams are medians and 95 % quantiles."""

    chunking: str
    latency_s: float
    rate: SuccessRate
    success_duration_s: float
    standing_share: float
    seams: int
    refused: int
    jump_mm: tuple[float, float]
    jump_deg: tuple[float, float]
    seam_jerk_mps3: tuple[float, float]
    jerk_mps3: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, the interval among them."""
        interval = self.rate.interval
        return {
            **asdict(self),
            "rate": self.rate.rate,
            "successes": self.rate.successes,
            "trials": self.rate.trials,
            "interval_95": [interval.low, interval.high],
        }


def summarise(settings: LaneSettings, trials: Sequence[LaneTrial]) -> LatencyCell:
    """Figures of the trials run with one setting."""
    seams = [seam for trial in trials for seam in trial.seams]
    won = [trial.duration_s for trial in trials if trial.success]
    duration_s = sum(trial.duration_s for trial in trials)
    return LatencyCell(
        settings.chunking,
        settings.latency_s,
        SuccessRate(len(won), len(trials)),
        float(np.mean(won)) if won else float("nan"),
        sum(trial.standing_s for trial in trials) / duration_s if duration_s else 0.0,
        len(seams),
        sum(trial.refused for trial in trials),
        _spread([1e3 * seam.jump_m for seam in seams]),
        _spread([np.degrees(seam.jump_rad) for seam in seams]),
        _spread([seam.jerk_mps3 for seam in seams]),
        float(np.median([trial.jerk_mps3 for trial in trials])) if trials else float("nan"),
    )


def run_latency_study(
    checkpoint: str,
    task: str,
    *,
    trials: int,
    latencies_s: Sequence[float],
    chunking: Sequence[str],
    execute_length: int = 0,
    seed: int = 0,
    device: str = "cpu",
    out: Path | None = None,
    on_trial: Callable[[], None] = lambda: None,
) -> list[LatencyCell]:
    """Every latency with every way of chunking, on the same held-out placements and with the same noise.

    Args:
        execute_length: rows of a chunk before the next look; 0: as in ``EXECUTE_LENGTH``.
        out: file that receives all trials as JSON, rewritten after each setting, so that nothing is lost.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ValueError: unknown task or chunking, or an impossible latency or execute_length.
    """
    grid = [
        LaneSettings(way, latency_s, execute_length or EXECUTE_LENGTH.get(way, 0))
        for latency_s, way in product(latencies_s, chunking)
    ]
    placements = held_out_placements(task, trials)
    runner = open_runner(checkpoint, device=device, seed=seed)
    cells: list[LatencyCell] = []
    kept: list[dict[str, Any]] = []
    with FastLane(task, control_rate_hz=runner.spec.control_rate_hz) as lane:
        for settings in grid:
            done = []
            for placement in placements:
                done.append(run_lane_trial(lane, runner, placement, settings))
                on_trial()
            cells.append(summarise(settings, done))
            kept.append({"settings": asdict(settings), "trials": [asdict(trial) for trial in done]})
            if out is not None:
                write_json(out, kept)
    runner.close()
    return cells


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Median and 95 % quantile; NaN of nothing."""
    if not values:
        return float("nan"), float("nan")
    return float(np.median(values)), float(np.quantile(values, 0.95))
