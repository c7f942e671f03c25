"""Measure where a gripper's stroke ends, and check the scale that follows, by moving it. The fingers must be empty.

The gripper is moved through its ordinary driver: first on a scale of raw counts (0..255), slowly and with little
force, then on the measured scale, fraction by fraction.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from robot_bridge.cell import GripperConfig
from robot_bridge.gripper_scale import REPEATS_WITHIN, GripperScale, scale_of
from robot_bridge.robotiq_gripper import GripperError, GripperReading, RobotiqGripper

SLOW_SPEED, LITTLE_FORCE = 40, 20
"""Registers 0..255; about 40 mm/s and a fraction of the force, so that an obstacle stops the fingers early."""
MOVE_TIMEOUT_S = 20.0
REST_S = 0.25
SILENCE_S = 2.0
FRACTIONS = (1.0, 0.75, 0.5, 0.25, 0.0, 0.5, 1.0)
LARGEST_ERROR = 0.03
"""Of the stroke: the gripper stops within about two counts of what it is asked."""


class GripperBlocked(GripperError):
    """The fingers stopped at something before the end of their stroke."""


@dataclass(frozen=True)
class ScaleCheck:
    """Openings read back after asking for fractions on the measured scale.

    Attributes:
        asked, read: fractions, in the order of the moves.
        ends: counts, open and closed, at which the gripper stops when sent as far as it goes.
        largest_error: of the stroke.
        monotonic: every larger request gave a larger reading.
        reasons: why it failed; empty when it passed.
    """

    asked: tuple[float, ...]
    read: tuple[float, ...]
    ends: tuple[int, int]
    largest_error: float
    monotonic: bool
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons


def measure_ends(
    config: GripperConfig,
    *,
    cycles: int = 2,
    speed: int = SLOW_SPEED,
    force: int = LITTLE_FORCE,
    allow_contact: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[GripperScale, list[int], list[int]]:
    """Close and open the empty gripper ``cycles`` times.

    Args:
        config: gripper section of the cell; its counts do not matter.
        cycles: strokes; their ends must repeat.
        speed, force: registers 0..255 of these strokes.
        allow_contact: accept that the unit reports an object at the closed end (long fingertips that touch early).
        say: gets a line for each end.

    Returns:
        The scale, the open counts and the closed counts that it was made of.

    Raises:
        GripperBlocked: something is between (or around) the fingers.
        GripperScaleError: the ends do not repeat, or the stroke is too short.
        GripperError: no connection, no power, no activation.
    """
    if cycles < 1:
        raise ValueError(f"cycles must be at least 1, got {cycles}")
    opened: list[int] = []
    closed: list[int] = []
    with _connected(_on_counts(config, speed, force)) as gripper:
        _end(gripper, 1.0, allow_contact=False)  # wherever it stood: every measured stroke begins at the other end
        for _ in range(cycles):
            closed.append(_end(gripper, 0.0, allow_contact=allow_contact))
            opened.append(_end(gripper, 1.0, allow_contact=False))
            say(f"  closed at count {closed[-1]}, open at {opened[-1]}")
    return scale_of(opened, closed), opened, closed


def check_scale(config: GripperConfig, scale: GripperScale) -> ScaleCheck:
    """Ask for fractions of the stroke and read them back.

    Raises:
        GripperError: no connection, no power, a move that does not end.
    """
    scaled = dataclasses.replace(
        config, open_count=scale.open_count, closed_count=scale.closed_count, calibration_file=""
    )
    with _connected(scaled) as gripper:
        read = tuple(_rest(gripper, fraction).opening for fraction in FRACTIONS)
    # A scale that ends too early follows its fractions well: only going as far as it goes shows it.
    with _connected(_on_counts(config, config.speed, config.force)) as gripper:
        ends = _end(gripper, 1.0, allow_contact=True), _end(gripper, 0.0, allow_contact=True)
        _end(gripper, 1.0, allow_contact=True)
    return judge(FRACTIONS, read, scale, ends)


def judge(asked: tuple[float, ...], read: tuple[float, ...], scale: GripperScale, ends: tuple[int, int]) -> ScaleCheck:
    """Whether readings follow requests (monotonic, linear within ``LARGEST_ERROR``) over the stroke's whole length.

    Args:
        asked, read: opening fractions on this scale.
        scale: what is judged.
        ends: counts at which the gripper stops when it is sent as far as it goes, open and closed.
    """
    errors = [abs(r - a) for a, r in zip(asked, read, strict=True)]
    pairs = sorted(zip(asked, read, strict=True))
    monotonic = all(r0 < r1 for a0, r0 in pairs for a1, r1 in pairs if a0 < a1)
    worst = max(range(len(errors)), key=errors.__getitem__)
    reasons = []
    if not monotonic:
        reasons.append(f"larger requests did not always open the gripper wider: asked {asked}, read {read}")
    if errors[worst] > LARGEST_ERROR:
        reasons.append(
            f"asked for an opening of {asked[worst]:.2f} it stopped at {read[worst]:.2f}, at most {LARGEST_ERROR} of "
            "the stroke away is good: clear the fingers and calibrate again"
        )
    for name, count, end in (("open", scale.open_count, ends[0]), ("closed", scale.closed_count, ends[1])):
        if abs(count - end) > 2 * REPEATS_WITHIN:
            reasons.append(
                f"fully {name} is count {count} on this scale, the fingers go to {end}: calibrate the gripper again"
            )
    return ScaleCheck(asked, read, ends, errors[worst], monotonic, tuple(reasons))


def _on_counts(config: GripperConfig, speed: int, force: int) -> GripperConfig:
    """The same gripper on a scale on which an opening of 1 is count 0 and an opening of 0 is count 255."""
    return dataclasses.replace(config, open_count=0, closed_count=255, calibration_file="", speed=speed, force=force)


@contextlib.contextmanager
def _connected(config: GripperConfig) -> Iterator[RobotiqGripper]:
    """An active gripper; let go at the end."""
    gripper = RobotiqGripper(config)
    gripper.connect()
    try:
        gripper.activate()
        yield gripper
    finally:
        gripper.close()


def _end(gripper: RobotiqGripper, opening: float, *, allow_contact: bool) -> int:
    """Count at which the gripper comes to rest at one end of the raw scale."""
    reading = _rest(gripper, opening)
    count = round(255 * (1.0 - reading.opening))
    if reading.object_detected and not allow_contact:
        way = "closing" if opening == 0.0 else "opening"
        raise GripperBlocked(
            f"the gripper met something while {way}, at count {count}: take it away. If these are long fingertips that "
            "touch each other there, pass --allow-contact"
        )
    return count


def _rest(gripper: RobotiqGripper, opening: float) -> GripperReading:
    """Ask for an opening and wait until the fingers have rested for a while."""
    gripper.set_opening(opening)
    asked_ns = time.time_ns()
    began_s = heard_s = since_s = time.monotonic()
    last = -1.0
    while (now_s := time.monotonic()) - began_s < MOVE_TIMEOUT_S:
        time.sleep(0.01)
        try:
            reading = gripper.state()
        except GripperError:
            if now_s - heard_s > SILENCE_S:  # a hiccup of the tool bus is no reason to begin again
                raise
            since_s = now_s
            continue
        heard_s = now_s
        if reading.fault:
            raise GripperError(gripper.trouble)
        if reading.moving or reading.stamp_ns < asked_ns or reading.opening != last:
            last, since_s = reading.opening, now_s
        elif now_s - since_s > REST_S:
            return reading
    raise GripperError(
        f"the gripper did not come to rest within {MOVE_TIMEOUT_S:.0f} s: {gripper.trouble or 'look at its cap'}"
    )
