"""Denavit-Hartenberg parameters of the UR30, nominal and as calibration finds them on one arm."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class DhTable:
    """Standard DH parameters, ``A_i = RotZ(q_i + theta_i) TransZ(d_i) TransX(a_i) RotX(alpha_i)``; metres, radians."""

    a: tuple[float, ...]
    d: tuple[float, ...]
    alpha: tuple[float, ...]
    theta: tuple[float, ...] = (0.0,) * 6

    def __post_init__(self) -> None:
        for name in ("a", "d", "alpha", "theta"):
            if len(getattr(self, name)) != 6:
                raise ValueError(f"DH parameter {name} needs six numbers, one per joint, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class DhDeltas:
    """What calibration of one arm adds to the nominal table (UR calls these delta_a, delta_d, ...)."""

    a: tuple[float, ...] = (0.0,) * 6
    d: tuple[float, ...] = (0.0,) * 6
    alpha: tuple[float, ...] = (0.0,) * 6
    theta: tuple[float, ...] = (0.0,) * 6

    @classmethod
    def random(cls, seed: int, *, length_m: float = 1e-3, angle_rad: float = 1e-3) -> DhDeltas:
        """Deltas as one arm might carry them: normal with the given standard deviations, cut at two of them."""
        rng = random.Random(seed)

        def draw(scale: float) -> tuple[float, ...]:
            return tuple(scale * max(-2.0, min(2.0, rng.gauss(0.0, 1.0))) for _ in range(6))

        return cls(a=draw(length_m), d=draw(length_m), alpha=draw(angle_rad), theta=draw(angle_rad))

    def added_to(self, table: DhTable) -> DhTable:
        """The calibrated table of an arm whose nominal table is given."""
        return DhTable(
            a=tuple(map(sum, zip(table.a, self.a, strict=True))),
            d=tuple(map(sum, zip(table.d, self.d, strict=True))),
            alpha=tuple(map(sum, zip(table.alpha, self.alpha, strict=True))),
            theta=tuple(map(sum, zip(table.theta, self.theta, strict=True))),
        )


UR30_DH = DhTable(
    a=(0.0, -0.6370, -0.5037, 0.0, 0.0, 0.0),
    d=(0.2363, 0.0, 0.0, 0.2010, 0.1593, 0.1543),
    alpha=(math.pi / 2, 0.0, 0.0, math.pi / 2, -math.pi / 2, 0.0),
)
"""Nominal UR30 (figures of the manufacturer's ROS description)."""
