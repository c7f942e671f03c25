"""What a trial report says, as typed facts; ``report.py`` turns it into a page."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prophrl_models.data.quality import QualityRow
from prophrl_models.trials.figures import FAILURE, SUCCESS, VOID, Curve, Workspace
from prophrl_models.trials.results import Comparison
from prophrl_models.trials.statistics import SuccessRate
from prophrl_models.trials.video import TrialMedia


@dataclass(frozen=True)
class TrialCard:
    """One trial as the report shows it.

    Attributes:
        trial_id: names it on the page.
        policy: whose trial it was.
        outcome: "success", "failure" or "void".
        reason: why it ended.
        x_m, y_m: where the object stood, in the base frame; NaN leaves it off the map.
        placement: the placement in words.
        media: pictures; None when none were taken.
        details: further facts, shown small.
    """

    trial_id: str
    policy: str
    outcome: str
    reason: str
    duration_s: float
    x_m: float
    y_m: float
    placement: str = ""
    media: TrialMedia | None = None
    details: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.outcome not in (SUCCESS, FAILURE, VOID):
            raise ValueError(f"trial {self.trial_id}: outcome {self.outcome!r} is not success, failure or void")


@dataclass(frozen=True)
class TimingRow:
    """One measured quantity: what was typical, what was rare, the worst; ``wanted`` is the design value in words."""

    name: str
    unit: str
    median: float
    p95: float
    worst: float
    wanted: str = ""

    def shown(self) -> list[str]:
        """The three figures with as many decimals as the largest of them deserves (three digits)."""
        values = (self.median, self.p95, self.worst)
        largest = max(map(abs, values))
        decimals = min(max(2 - math.floor(math.log10(largest)), 0), 3) if largest > 0 else 0
        return [f"{value:.{decimals}f}" for value in values]


@dataclass(frozen=True)
class Machine:
    """All the report says about the computer."""

    cores: int
    clock_ghz: float | None

    @staticmethod
    def here() -> Machine:
        """The machine this runs on: usable cores and, where Linux tells, the highest clock at this moment."""
        try:
            clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        except OSError:
            clocks = []
        fastest = max(map(float, clocks), default=0.0)
        return Machine(len(os.sched_getaffinity(0)), round(fastest / 1000, 1) or None)

    def __str__(self) -> str:
        cores = f"{self.cores} core" + ("s" if self.cores != 1 else "")
        return f"{cores}, {self.clock_ghz:.1f} GHz" if self.clock_ghz else cores


@dataclass(frozen=True)
class TrialReport:
    """Everything the page shows.

    Attributes:
        task, instruction: what was asked.
        policy: the policy the headline is about; other policies among the trials are compared with it.
        trials: in the order they were run, voided ones included.
        created_at: when, in words.
        scene_jpeg: a picture of the task.
        timing: measured rates, delays and jitter.
        quality: of the demonstrations the policy was trained on.
        curves: training curves.
        provenance: where everything came from, by name.
        comparison: the headline policy (b) against another (a).
        note: one sentence of the author's.
    """

    task: str
    instruction: str
    policy: str
    trials: Sequence[TrialCard]
    created_at: str
    machine: Machine
    provenance: Mapping[str, str]
    scene_jpeg: bytes | None = None
    workspace: Workspace = field(default_factory=Workspace)
    timing: Sequence[TimingRow] = ()
    quality: Sequence[QualityRow] = ()
    curves: Sequence[Curve] = ()
    comparison: Comparison | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not any(card.policy == self.policy and card.outcome != VOID for card in self.trials):
            raise ValueError(f"no valid trial of policy {self.policy!r} to report; run trials first")

    @property
    def policies(self) -> list[str]:
        """The headline policy, then the others by name."""
        return sorted({card.policy for card in self.trials}, key=lambda name: (name != self.policy, name))

    def rate(self, policy: str) -> SuccessRate:
        """Successes among the valid trials of a policy."""
        valid = [card.outcome for card in self.trials if card.policy == policy and card.outcome != VOID]
        return SuccessRate(valid.count(SUCCESS), len(valid))
