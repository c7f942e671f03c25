"""From encoder counts to how a leader arm was screwed together: zeros, directions, and the trigger's range.

Pure: counts go in, numbers or a refusal with its reason come out. Counts are of the servos' registers, 4096 a turn,
on whatever turn each servo happens to be; whole turns mean nothing here, so a servo that loses power in between
(and counts from within its first turn again) does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.leader_offsets import COUNTS_PER_RAD, JointServo, LeaderOffsets, TriggerServo

Array = NDArray[np.float64]

TURN = 4096.0
COUNTS_PER_DEGREE = TURN / 360.0
SERVO_NAMES = ("base", "shoulder", "elbow", "wrist 1", "wrist 2", "wrist 3", "trigger")


class CalibrationRefused(ValueError):
    """The measurements do not determine the leader's assembly; the message says which, why, and what to do."""


class NotStill(CalibrationRefused):
    """The leader moved while it had to be held still: hold it and measure again."""


@dataclass(frozen=True)
class Limits:
    """What a measurement must fulfil. Counts are 0.088 degrees each."""

    samples: int = 20
    noise_counts: float = 2.5
    drift_counts: float = 2.0
    turned_deg: float = 12.0
    """A wiggle or a move between two jig poses shorter than this says nothing sure about a direction."""
    other_share: float = 0.6
    """Another joint may move along by this share of the one that is turned."""
    pose_residual_deg: float = 4.0
    """A joint read in a second jig pose must lie this near to where one of the two directions puts it."""
    placement_deg: float = 1.0
    """Two placements in the jig must give the same zero within this."""
    trigger_deg: tuple[float, float] = (6.0, 120.0)


LIMITS = Limits()


@dataclass(frozen=True)
class StillReading:
    """Averaged counts [7] of a leader held still, with standard deviation and drift (last third minus first)."""

    counts_7: Array
    noise_7: Array
    drift_7: Array
    samples: int

    @property
    def sigma_deg_7(self) -> Array:
        """Standard deviation of the averages [7] in degrees; never under that of one count's rounding."""
        variance: Array = self.noise_7**2 / self.samples + 1.0 / 12.0
        return np.sqrt(variance) / COUNTS_PER_DEGREE


def unwrapped(samples_TN: ArrayLike) -> Array:
    """Counts [T, N] made continuous: a step of more than half a turn between two samples is whole turns lost."""
    samples = np.asarray(samples_TN, dtype=np.float64)
    if samples.ndim != 2 or not len(samples):
        raise ValueError(f"expected counts [T, N] with at least one sample, got shape {samples.shape}")
    steps = np.diff(samples, axis=0)
    steps -= TURN * np.round(steps / TURN)
    whole: Array = np.concatenate([samples[:1], samples[:1] + np.cumsum(steps, axis=0)])
    return whole


def still_reading(samples_T7: ArrayLike, limits: Limits = LIMITS) -> StillReading:
    """Average of a leader held still.

    Args:
        samples_T7: counts [T, 7], in the order of ``SERVO_NAMES``.

    Raises:
        NotStill: a servo moved; the message names it and by how much.
        CalibrationRefused: too few samples.
    """
    samples = unwrapped(samples_T7)
    count = len(samples)
    if count < limits.samples:
        raise CalibrationRefused(f"only {count} readings arrived, {limits.samples} are needed; look at the servo bus")
    third = max(1, count // 3)
    noise, drift = samples.std(axis=0), samples[-third:].mean(axis=0) - samples[:third].mean(axis=0)
    excess = np.maximum(noise / limits.noise_counts, np.abs(drift) / limits.drift_counts)
    worst = int(np.argmax(excess))
    if excess[worst] > 1.0:
        raise NotStill(
            f"{SERVO_NAMES[worst]} moved: it drifted by {drift[worst] / COUNTS_PER_DEGREE:+.2f} degrees and shook by "
            f"{noise[worst] / COUNTS_PER_DEGREE:.2f} (allowed {limits.drift_counts / COUNTS_PER_DEGREE:.2f} and "
            f"{limits.noise_counts / COUNTS_PER_DEGREE:.2f}); hold the leader still and measure again"
        )
    return StillReading(samples.mean(axis=0), noise, drift, count)


# --- directions ---


@dataclass(frozen=True)
class Wiggle:
    """One joint turned on request in its positive direction: the direction of its servo, and how far it went."""

    joint: int
    sign: int
    turned_deg: float


def wiggle_done(samples_T7: ArrayLike, joint: int, limits: Limits = LIMITS) -> bool:
    """Whether the asked joint (or another one) has been turned far enough and is back."""
    moved = unwrapped(samples_T7)[:, :6]
    moved = np.abs(moved - moved[0]) / COUNTS_PER_DEGREE
    peak = moved.max(axis=0)
    mover = joint if peak[joint] >= limits.turned_deg else int(np.argmax(peak))
    return bool(peak[mover] >= limits.turned_deg and moved[-1, mover] < 0.35 * peak[mover])


def judge_wiggle(samples_T7: ArrayLike, joint: int, limits: Limits = LIMITS) -> Wiggle:
    """Direction of a joint's servo from counts [T, 7] taken while that joint was turned positively and back.

    Raises:
        CalibrationRefused: hardly turned, turned both ways, or another joint turned.
    """
    moved = unwrapped(samples_T7)[:, :6]
    moved = (moved - moved[0]) / COUNTS_PER_DEGREE
    peak = np.abs(moved).max(axis=0)
    name = SERVO_NAMES[joint]
    others = np.where(np.arange(6) == joint, 0.0, peak)
    other = int(np.argmax(others))
    if peak[joint] < limits.turned_deg and others[other] >= limits.turned_deg:
        raise CalibrationRefused(
            f"the servo of {SERVO_NAMES[other]} turned by {others[other]:.0f} degrees, that of {name} by "
            f"{peak[joint]:.0f}; turn {name} alone. If you did, leader.servo_ids in the cell file is out of order"
        )
    if peak[joint] < limits.turned_deg:
        raise CalibrationRefused(
            f"{name} turned by only {peak[joint]:.1f} degrees, at least {limits.turned_deg:.0f} are needed; turn it by "
            "about 20 degrees and back"
        )
    if others[other] > limits.other_share * peak[joint]:
        raise CalibrationRefused(
            f"{SERVO_NAMES[other]} turned along by {others[other]:.0f} degrees while {name} turned by "
            f"{peak[joint]:.0f}; hold the other joints and turn {name} alone"
        )
    high, low = float(moved[:, joint].max()), float(-moved[:, joint].min())
    if min(high, low) > 0.5 * max(high, low):
        raise CalibrationRefused(
            f"{name} was turned both ways ({high:.0f} and {low:.0f} degrees): no direction can be told; turn it only "
            "the way that is asked, then back to where it was"
        )
    return Wiggle(joint, 1 if high > low else -1, max(high, low))


def signs_from_wiggles(wiggles: Sequence[Wiggle]) -> tuple[int, ...]:
    """Directions of the six joint servos.

    Raises:
        CalibrationRefused: a joint is missing, or two wiggles of it disagree.
    """
    signs = []
    for joint, name in enumerate(SERVO_NAMES[:6]):
        seen = {wiggle.sign for wiggle in wiggles if wiggle.joint == joint}
        if not seen:
            raise CalibrationRefused(f"the direction of {name} was not measured; turn it once")
        if len(seen) == 2:
            raise CalibrationRefused(f"{name} was turned one way once and the other way another time; turn it again")
        signs.append(seen.pop())
    return tuple(signs)


def signs_from_poses(
    first: StillReading, q_first_6: ArrayLike, second: StillReading, q_second_6: ArrayLike, limits: Limits = LIMITS
) -> tuple[int, ...]:
    """Directions of the six joint servos from two jig poses with joint angles [6] in radians.

    Raises:
        CalibrationRefused: a joint hardly differs between the poses (or by half a turn, which looks the same both
            ways round), or its servo moved by something else than the poses say.
    """
    asked = np.degrees(np.asarray(q_second_6, dtype=np.float64) - np.asarray(q_first_6, dtype=np.float64))
    moved = (second.counts_7 - first.counts_7)[:6] / COUNTS_PER_DEGREE
    signs = []
    for name, angle, counted in zip(SERVO_NAMES[:6], asked, moved, strict=True):
        if abs(wrap_deg(2.0 * angle)) < 2.0 * limits.turned_deg:
            raise CalibrationRefused(
                f"{name} differs by {angle:.0f} degrees between the jig poses: its direction cannot be told from that; "
                f"choose poses that differ by at least {limits.turned_deg:.0f} degrees and not by half a turn"
            )
        residuals = {sign: abs(wrap_deg(counted - sign * angle)) for sign in (1, -1)}
        sign = min(residuals, key=lambda s: residuals[s])
        if residuals[sign] > limits.pose_residual_deg:
            raise CalibrationRefused(
                f"{name} should have turned by {angle:+.0f} degrees between the jig poses, its servo turned by "
                f"{wrap_deg(counted):+.1f}; was the leader in both poses? Is leader.servo_ids in order?"
            )
        signs.append(sign)
    return tuple(signs)


def agreed_signs(wiggled: Sequence[int], posed: Sequence[int]) -> tuple[int, ...]:
    """The directions when both ways of finding them say the same.

    Raises:
        CalibrationRefused: they disagree; names the joint.
    """
    for name, wiggle, pose in zip(SERVO_NAMES[:6], wiggled, posed, strict=True):
        if wiggle != pose:
            raise CalibrationRefused(
                f"{name}: turning it by hand says direction {wiggle:+d}, the two jig poses say {pose:+d}; it was "
                "turned the wrong way, or one of the jig poses was not the one that was asked"
            )
    return tuple(wiggled)


# --- zeros and trigger ---


@dataclass(frozen=True)
class Zeros:
    """Counts [6] at joint angle 0, within one turn; spread [6] in degrees between the placements (0 for one)."""

    counts_6: Array
    spread_deg_6: Array


def zeros(placements: Sequence[tuple[StillReading, ArrayLike]], signs: Sequence[int], limits: Limits = LIMITS) -> Zeros:
    """Zeros from one or more placements in the jig, each with the joint angles [6] in radians of its pose.

    Raises:
        CalibrationRefused: the placements disagree: one of them was not in the jig.
    """
    sign = np.asarray(signs, dtype=np.float64)
    each = np.array([r.counts_7[:6] - sign * np.asarray(q, dtype=np.float64) * COUNTS_PER_RAD for r, q in placements])
    from_first = each - each[0]
    from_first -= TURN * np.round(from_first / TURN)
    spread = (from_first.max(axis=0) - from_first.min(axis=0)) / COUNTS_PER_DEGREE
    worst = int(np.argmax(spread))
    if spread[worst] > limits.placement_deg:
        raise CalibrationRefused(
            f"{SERVO_NAMES[worst]} differs by {spread[worst]:.2f} degrees between two placements in the jig, at most "
            f"{limits.placement_deg:.1f} is good; it was not seated, or its horn slips: seat it and measure again"
        )
    return Zeros(np.mod(each[0] + from_first.mean(axis=0), TURN), spread)


def trigger_range(released: StillReading, pulled: StillReading, limits: Limits = LIMITS) -> TriggerServo:
    """The trigger's ends.

    Raises:
        CalibrationRefused: it hardly moved, or by so much that the direction is doubtful.
    """
    sweep = pulled.counts_7[6] - released.counts_7[6]
    sweep -= TURN * round(sweep / TURN)
    swept_deg = abs(sweep) / COUNTS_PER_DEGREE
    low, high = limits.trigger_deg
    if not low <= swept_deg <= high:
        raise CalibrationRefused(
            f"the trigger swept {swept_deg:.1f} degrees, {low:.0f} to {high:.0f} are plausible; release it fully, then "
            "pull it fully (its servo is the last of leader.servo_ids)"
        )
    opened = float(np.mod(released.counts_7[6], TURN))
    return TriggerServo(opened, opened + float(sweep))


def offsets_from(found: Zeros, signs: Sequence[int], trigger: TriggerServo) -> LeaderOffsets:
    """The three results as the offsets that the leader's driver uses."""
    joints = tuple(JointServo(float(zero), int(sign)) for zero, sign in zip(found.counts_6, signs, strict=True))
    return LeaderOffsets(joints, trigger)


def wrap_deg(angle: float) -> float:
    """The angle in degrees within half a turn either way."""
    return float(angle - 360.0 * round(angle / 360.0))
