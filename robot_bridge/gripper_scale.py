"""The gripper's scale: which counts it reports fully open and fully closed. Every unit and pair of fingertips differs.

One small YAML, named by ``gripper.calibration_file`` of the cell, whose counts replace those of the cell file:

    gripper: {open_count: 3, closed_count: 228, measured: {...}}

Openings everywhere else are fractions of this stroke: 0 closed, 1 open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from robot_bridge.cell import GripperConfig
from robot_bridge.kept_yaml import replace_yaml

SMALLEST_STROKE = 100
"""Counts; a 2F-85 makes about 225, a 2F-140 the same. Less is an obstacle, not a gripper."""
REPEATS_WITHIN = 2
"""Counts by which the same end may differ from one stroke to the next."""


class GripperScaleError(ValueError):
    """Counts that cannot be the gripper's ends, or a file that does not hold them; says what to do."""


@dataclass(frozen=True)
class GripperScale:
    """Counts (0..255, the gripper's POS register) at both ends of the stroke."""

    open_count: int
    closed_count: int

    def __post_init__(self) -> None:
        if not (0 <= self.open_count <= 255 and 0 <= self.closed_count <= 255):
            raise GripperScaleError(f"gripper counts lie in 0..255, got {self.open_count} and {self.closed_count}")
        if self.closed_count - self.open_count < SMALLEST_STROKE:
            raise GripperScaleError(
                f"the stroke from count {self.open_count} (open) to {self.closed_count} (closed) is shorter than "
                f"{SMALLEST_STROKE} counts: something blocks the fingers; clear them and calibrate again"
            )


def scale_of(open_counts: Sequence[int], closed_counts: Sequence[int]) -> GripperScale:
    """The scale from the counts of several strokes.

    Raises:
        GripperScaleError: the ends do not repeat, or the stroke is too short.
    """
    for end, counts in (("open", open_counts), ("closed", closed_counts)):
        if max(counts) - min(counts) > REPEATS_WITHIN:
            raise GripperScaleError(
                f"the {end} end was at counts {', '.join(map(str, counts))}: it must repeat within {REPEATS_WITHIN}; "
                "take everything out of the fingers, check that they are screwed on, and calibrate again"
            )
    return GripperScale(round(sum(open_counts) / len(open_counts)), round(sum(closed_counts) / len(closed_counts)))


def calibrated(config: GripperConfig) -> GripperConfig:
    """The gripper section with the measured counts in force; unchanged when it names no calibration file.

    Raises:
        GripperScaleError: the file is missing or not one.
    """
    if not config.calibration_file:
        return config
    scale = load_scale(config.calibration_file)
    return dataclasses.replace(config, open_count=scale.open_count, closed_count=scale.closed_count)


def load_scale(path: str | Path) -> GripperScale:
    """The scale in a file.

    Raises:
        GripperScaleError: no such file, or it does not hold the two counts.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise GripperScaleError(
            f"no gripper calibration at {path}; run prophrl calibrate gripper, or clear gripper.calibration_file in "
            "the cell file to use the counts that stand there"
        )
    try:
        entry = yaml.safe_load(path.read_text())["gripper"]
        counts = entry["open_count"], entry["closed_count"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise GripperScaleError(
            f"{path} must hold gripper: {{open_count: 3, closed_count: 228}}; reading it gave "
            f"{type(error).__name__}: {error}"
        ) from error
    if any(isinstance(count, bool) or not isinstance(count, int) for count in counts):
        raise GripperScaleError(f"{path}: open_count and closed_count must be whole numbers, got {counts}")
    return GripperScale(*counts)


def save_scale(path: str | Path, scale: GripperScale, *, measured: Mapping[str, Any] | None = None) -> Path | None:
    """Write a scale in one step; returns where the file of before was kept, None when there was none."""
    entry: dict[str, Any] = dataclasses.asdict(scale)
    if measured is not None:
        entry["measured"] = dict(measured)
    return replace_yaml(Path(path).expanduser(), {"gripper": entry})
