"""How far a replay was from its recording: lag, error along the path, and the timing of the gripper.

A servoed arm comes behind its targets, so replay and recording are shifted in time against each other by a constant
lag. It is estimated first, by the cross-correlation of the joint velocities; all errors are then taken at equal
places of the motion, not at equal times.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prophrl_nodes.replaying.track import TRACK_RATE_HZ, Track

Array = NDArray[np.float64]

MAX_LAG_S = 1.0
MIN_OVERLAP_S = 0.5
VELOCITY_SPAN_S = 0.1
"""Velocities are differences over this long: noise and encoder steps weigh little then, and both sides alike."""
MOVING_RADPS = 0.01
"""A recording whose joints never move faster has no shape that could be found again."""
PATH_STEP_M = 0.001
"""Corners of the replayed path are this far apart: arcs of a hand lose less than 0.01 mm by it."""
SWITCH_SHARE = 0.2
"""The gripper's events are crossings of the middle between its extremes, if these differ by at least this much."""
SWITCH_HYSTERESIS = 0.25
"""Share of the range by which the opening must go beyond the middle to count as crossed."""


class TrackingError(ValueError):
    """Recording and replay cannot be compared; the message says why."""


@dataclass(frozen=True)
class Spread:
    """Median, 95th percentile and largest of an error."""

    p50: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: Array) -> Spread:
        if not len(values):
            return cls(math.nan, math.nan, math.nan)
        p50, p95 = np.percentile(values, [50, 95])
        return cls(float(p50), float(p95), float(values.max()))


@dataclass(frozen=True)
class Tracking:
    """The comparison of one replay with its recording.

    Attributes:
        lag_s: by how much the replay came later (negative: earlier) than the recording; NaN for a motionless one.
        position_mm, rotation_deg, joint_rad: errors at equal places of the motion (joint: the worst of six).
        path_mm: distance of each recorded TCP position to the replayed path near it, whatever the timing.
        gripper_s: by how much later than the arm's lag explains the gripper opened or closed, per event.
        gripper_unmatched: times the gripper opened or closed in one of the two but not in the other.
        compared_s: length of motion compared.
        missing_s: end of the recording that the replay has no counterpart for.
    """

    lag_s: float
    position_mm: Spread
    rotation_deg: Spread
    joint_rad: Spread
    path_mm: Spread
    gripper_s: tuple[float, ...]
    gripper_unmatched: int
    compared_s: float
    missing_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; a lag that could not be told is null."""
        return asdict(self) | {
            "gripper_s": list(self.gripper_s),
            "lag_s": self.lag_s if math.isfinite(self.lag_s) else None,
        }


def compare(recorded: Track, replayed: Track) -> Tracking:
    """Compare a replay with its recording; both tracks begin when their first target or sample was due.

    Raises:
        TrackingError: they overlap by less than half a second.
    """
    lag_s = estimate_lag(recorded.q_N6, replayed.q_N6)
    shift = 0 if math.isnan(lag_s) else round(lag_s * TRACK_RATE_HZ)
    first = max(0, -shift)
    last = min(len(recorded), len(replayed) - shift)
    if last - first < MIN_OVERLAP_S * TRACK_RATE_HZ:
        raise TrackingError(
            f"recording ({recorded.duration_s:.1f} s) and replay ({replayed.duration_s:.1f} s) overlap by less than "
            f"{MIN_OVERLAP_S} s at a lag of {lag_s:.2f} s; did the arm move?"
        )
    here, there = slice(first, last), slice(first + shift, last + shift)
    T_a, T_b = recorded.T_base_tcp_N44[here], replayed.T_base_tcp_N44[there]
    late_s, unmatched = gripper_lateness(recorded.opening_N, replayed.opening_N, shift / TRACK_RATE_HZ)
    return Tracking(
        lag_s=lag_s,
        position_mm=Spread.of(1e3 * np.linalg.norm(T_a[:, :3, 3] - T_b[:, :3, 3], axis=1)),
        rotation_deg=Spread.of(np.degrees(turn_angles(T_a, T_b))),
        joint_rad=Spread.of(np.abs(recorded.q_N6[here] - replayed.q_N6[there]).max(axis=1)),
        path_mm=Spread.of(1e3 * path_distances(T_a[:, :3, 3], replayed.T_base_tcp_N44[:, :3, 3])),
        gripper_s=tuple(late_s),
        gripper_unmatched=unmatched,
        compared_s=(last - first) / TRACK_RATE_HZ,
        missing_s=(len(recorded) - last) / TRACK_RATE_HZ,
    )


def estimate_lag(q_a_N6: Array, q_b_M6: Array, max_lag_s: float = MAX_LAG_S) -> float:
    """Seconds by which motion b comes later than motion a, both at ``TRACK_RATE_HZ``; NaN when a does not move.

    The lag with the highest normalised cross-correlation of joint velocities, refined by a parabola through its
    neighbours.
    """
    span = round(VELOCITY_SPAN_S * TRACK_RATE_HZ)
    v_a, v_b = q_a_N6[span:] - q_a_N6[:-span], q_b_M6[span:] - q_b_M6[:-span]
    if not len(v_a) or not len(v_b) or np.abs(v_a).max() / VELOCITY_SPAN_S < MOVING_RADPS:
        return math.nan
    lags = range(-round(max_lag_s * TRACK_RATE_HZ), round(max_lag_s * TRACK_RATE_HZ) + 1)
    scores = np.array([_correlation(v_a, v_b, lag) for lag in lags])
    best = int(np.argmax(scores))
    refined = 0.0
    if 0 < best < len(scores) - 1 and np.isfinite(scores[best - 1 : best + 2]).all():
        left, top, right = scores[best - 1 : best + 2]
        bend = left - 2.0 * top + right
        refined = 0.5 * float(left - right) / float(bend) if bend < 0.0 else 0.0
    return (lags[best] + refined) / TRACK_RATE_HZ


def _correlation(v_a: Array, v_b: Array, lag: int) -> float:
    """Cosine between a and b shifted by a lag, over their overlap; minus infinity when that is too short."""
    first, last = max(0, -lag), min(len(v_a), len(v_b) - lag)
    if last - first < MIN_OVERLAP_S * TRACK_RATE_HZ:
        return -math.inf
    a, b = v_a[first:last], v_b[first + lag : last + lag]
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size > 0.0 else -math.inf


def turn_angles(T_a_N44: Array, T_b_N44: Array) -> Array:
    """Angle [N] in radians between the orientations of two pose sequences."""
    R = np.einsum("nji,njk->nik", T_a_N44[:, :3, :3], T_b_N44[:, :3, :3])
    skew = np.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], axis=1)
    # The arc tangent stays exact for the small angles that matter here; the arc cosine of the trace does not.
    angles: Array = np.arctan2(np.linalg.norm(skew, axis=1), np.trace(R, axis1=1, axis2=2) - 1.0)
    return angles


def path_distances(p_N3: Array, path_M3: Array) -> Array:
    """Distance [N] of each point to the polyline through ``path_M3``, followed from start to end.

    Of all ways to walk along the path without ever turning back while the points go by, that with the least sum of
    squared distances. So pauses on either side do not matter, and a place that is passed twice (down to the object and
    up again) is not taken for its other visit.
    """
    path = _thinned(path_M3)
    start_S3, along_S3 = path[:-1], np.diff(path, axis=0)
    square_S = np.maximum((along_S3 * along_S3).sum(axis=1), 1e-18)
    total_S, came_from = np.zeros(len(start_S3)), []
    squares = np.empty((len(p_N3), len(start_S3)), np.float32)
    for i, p in enumerate(p_N3):
        share_S = np.clip(((p - start_S3) * along_S3).sum(axis=1) / square_S, 0.0, 1.0)
        squares[i] = ((start_S3 + share_S[:, None] * along_S3 - p) ** 2).sum(axis=1)
        least_S = np.minimum.accumulate(total_S)
        began = np.flatnonzero(np.diff(least_S, prepend=np.inf) < 0.0)  # segments at which the least so far was reached
        came_from.append(began[np.searchsorted(began, np.arange(len(least_S)), side="right") - 1].astype(np.int32))
        total_S = least_S + squares[i]
    distances, at = np.empty(len(p_N3)), int(np.argmin(total_S))
    for i in reversed(range(len(p_N3))):
        distances[i] = math.sqrt(squares[i, at])
        at = int(came_from[i][at])
    return distances


def _thinned(path_M3: Array) -> Array:
    """The path without the points at which it hardly moved; at least two."""
    kept = [path_M3[0]]
    for p in path_M3[1:]:
        if np.linalg.norm(p - kept[-1]) >= PATH_STEP_M:
            kept.append(p)
    return np.stack([*kept, path_M3[-1]])


def gripper_lateness(opening_a_N: Array, opening_b_M: Array, lag_s: float) -> tuple[list[float], int]:
    """How much later than ``lag_s`` each opening or closing of a happens in b, and how many lack a counterpart.

    Events of a and b are paired in order, each with the nearest of the same direction within a second.
    """
    late_s: list[float] = []
    events_a, events_b = switches(opening_a_N), switches(opening_b_M)
    free = list(events_b)
    for row, opens in events_a:
        due = row + lag_s * TRACK_RATE_HZ
        near = [event for event in free if event[1] == opens and abs(event[0] - due) <= TRACK_RATE_HZ]
        if near:
            match = min(near, key=lambda event: abs(event[0] - due))
            free.remove(match)
            late_s.append(round((match[0] - due) / TRACK_RATE_HZ, 4))
    return late_s, len(events_a) + len(events_b) - 2 * len(late_s)


def switches(opening_N: Array) -> list[tuple[int, bool]]:
    """(row, opens) of each crossing of the middle between the extremes, with hysteresis; none for a still gripper."""
    low, high = float(opening_N.min()), float(opening_N.max())
    if high - low < SWITCH_SHARE:
        return []
    middle, margin = 0.5 * (low + high), SWITCH_HYSTERESIS * (high - low)
    found: list[tuple[int, bool]] = []
    side = opening_N[0] > middle
    crossed = 0
    for row, opening in enumerate(opening_N):
        above = opening > middle
        if above == side:
            crossed = row + 1
        elif abs(opening - middle) > margin:
            found.append((crossed, bool(above)))
            side = above
    return found
