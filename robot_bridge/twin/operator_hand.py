"""How the scripted operator's hand moves: smooth paths through via points, tremor, and slow drift of attention.

A path is a polyline with its corners rounded, run through with a speed that rises and falls like a minimum-jerk
motion and cruises in between, as practised long movements do. Metres, seconds, radians, frame ``base``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_SAMPLES_PER_CORNER = 24


def minimum_jerk(u: float) -> float:
    """Position 0..1 of a minimum-jerk motion at the fraction u of its duration (clipped to 0..1)."""
    u = min(max(u, 0.0), 1.0)
    return u * u * u * (10.0 + u * (6.0 * u - 15.0))


class RoundedPath:
    """A polyline [N, 3] with rounded corners, parametrised by arc length.

    Args:
        points: at least two points; repeated ones are dropped.
        radius_m: how far before and after a corner the rounding begins (less where segments are short).
    """

    def __init__(self, points: Sequence[ArrayLike], radius_m: float) -> None:
        corners = [np.asarray(points[0], dtype=np.float64)]
        for point in points[1:]:
            candidate = np.asarray(point, dtype=np.float64)
            if np.linalg.norm(candidate - corners[-1]) > 1e-6:
                corners.append(candidate)
        dense = [corners[0]]
        for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
            to_before, to_after = before - corner, after - corner
            reach = min(radius_m, 0.5 * float(np.linalg.norm(to_before)), 0.5 * float(np.linalg.norm(to_after)))
            start = corner + reach * to_before / np.linalg.norm(to_before)
            end = corner + reach * to_after / np.linalg.norm(to_after)
            for u in np.linspace(0.0, 1.0, _SAMPLES_PER_CORNER):  # quadratic Bezier curve
                dense.append((1 - u) ** 2 * start + 2 * u * (1 - u) * corner + u**2 * end)
        dense.append(corners[-1])
        self._points = np.array(dense)
        steps = np.linalg.norm(np.diff(self._points, axis=0), axis=1)
        self._arc = np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def length_m(self) -> float:
        """Arc length."""
        return float(self._arc[-1])

    def at(self, arc_m: float) -> Array:
        """Point [3] at an arc length (clipped to the path)."""
        arc = min(max(arc_m, 0.0), self.length_m)
        i = min(int(np.searchsorted(self._arc, arc, side="right")) - 1, len(self._arc) - 2)
        if i < 0:
            i = 0
        span = self._arc[i + 1] - self._arc[i]
        u = (arc - self._arc[i]) / span if span > 0.0 else 0.0
        point: Array = self._points[i] + u * (self._points[i + 1] - self._points[i])
        return point


class Cruise:
    """Distance over time: minimum-jerk rise to a cruising speed over ``ramp_s``, cruise, the same fall.

    Args:
        length_m: distance to go.
        speed_mps: cruising speed; short distances do not reach it.
        ramp_s: duration of the rise.
    """

    def __init__(self, length_m: float, speed_mps: float, ramp_s: float) -> None:
        self.length_m = length_m
        self.ramp_s = ramp_s
        self.speed_mps = min(speed_mps, length_m / ramp_s)
        self.duration_s = ramp_s + length_m / self.speed_mps if length_m > 0.0 else 0.0

    def at(self, time_s: float) -> float:
        """Distance covered at a time since the start."""
        if time_s <= 0.0 or self.duration_s == 0.0:
            return 0.0
        if time_s >= self.duration_s:
            return self.length_m
        if time_s < self.ramp_s:
            return self.speed_mps * self.ramp_s * _rise(time_s / self.ramp_s)
        left = self.duration_s - time_s
        if left < self.ramp_s:
            return self.length_m - self.speed_mps * self.ramp_s * _rise(left / self.ramp_s)
        return self.speed_mps * (time_s - 0.5 * self.ramp_s)


def _rise(u: float) -> float:
    """Integral over 0..u of the smooth step 10u^3 - 15u^4 + 6u^5."""
    return u**4 * (2.5 + u * (u - 3.0))


class Tremor:
    """Small involuntary motion of a hand: a few tenths of a millimetre of slow drift and of 9 Hz shaking."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._drift = np.zeros(4)
        self._size = np.array([5e-4, 5e-4, 5e-4, 3e-3]) * rng.uniform(0.6, 1.4)
        self._shake = np.array([1.5e-4, 1.5e-4, 1.5e-4, 5e-4]) * rng.uniform(0.3, 1.0)
        self._frequency_hz = rng.uniform(8.0, 10.0)
        self._phase = rng.uniform(0.0, 2.0 * math.pi, 4)

    def at(self, time_s: float, dt_s: float) -> Array:
        """Displacement [x m, y m, z m, yaw rad]; call once per step."""
        keep = math.exp(-dt_s / 0.3)
        self._drift = keep * self._drift + math.sqrt(1.0 - keep * keep) * self._size * self._rng.normal(size=4)
        shake = self._shake * np.sin(2.0 * math.pi * self._frequency_hz * time_s + self._phase)
        displacement: Array = self._drift + shake
        return displacement
