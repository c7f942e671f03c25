"""The calibration of a leader arm, step by step: jig, directions, jig again, trigger, check against the follower.

The arithmetic is in ``robot_bridge.leader_calibration``; here are the order, the reading of the servos and the
second chances: what a person can do better at once is asked for again, what remains wrong is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prophrl_nodes.studies.leader_hands import Hands
from robot_bridge.arm_types import ArmState
from robot_bridge.cell import RobotConfig
from robot_bridge.gello import Gello
from robot_bridge.leader_calibration import (
    COUNTS_PER_DEGREE,
    LIMITS,
    SERVO_NAMES,
    CalibrationRefused,
    StillReading,
    Wiggle,
    agreed_signs,
    judge_wiggle,
    offsets_from,
    signs_from_poses,
    signs_from_wiggles,
    still_reading,
    trigger_range,
    unwrapped,
    wiggle_done,
    zeros,
)
from robot_bridge.leader_errors import ServoBusSilent, ServoMissing, ServoReadFailed
from robot_bridge.leader_offsets import UR_SIGNS, LeaderOffsets
from robot_bridge.leader_verification import Verification, verify
from robot_bridge.ur_arm import RtdeLink
from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]
T = TypeVar("T")

SAMPLE_PERIOD_S = 0.006
ATTEMPTS = 3
SETTLING_S = 0.3
WIGGLE_PATIENCE_S = 15.0
REST_S, REST_DEG, REST_PATIENCE_S = 0.2, 1.5, 3.0
SILENCE_S = 2.0
"""Longest silence of the servos that is waited out, as when somebody plugs their supply in again."""
FOLLOWER_PATIENCE_S = 3.0
FOLLOWER_STILL_RADPS = 0.005


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        poses: jig poses [6] rad, each placed ``placements`` times; two different poses also give the directions.
        signs: the directions when they are known; None has every joint wiggled (or takes them from two poses).
        wiggle: have every joint turned by hand.
        placements: how often the leader is seated in each pose; two show how well the jig repeats.
        seconds: length of each still measurement.
    """

    poses: tuple[tuple[float, ...], ...]
    signs: tuple[int, ...] | None = None
    wiggle: bool = True
    placements: int = 2
    seconds: float = 2.0


@dataclass(frozen=True)
class Measured:
    """What came out: offsets, how well they are known, and remarks for the person.

    Attributes:
        noise_deg_6: standard deviation of single readings, the worst placement.
        sigma_deg_6: standard deviation of the zeros from the readings alone; the jig's own error is not in it.
        spread_deg_6: largest difference between placements, which shows jig, gears and hands.
    """

    offsets: LeaderOffsets
    noise_deg_6: tuple[float, ...]
    sigma_deg_6: tuple[float, ...]
    spread_deg_6: tuple[float, ...]
    wiggles: tuple[Wiggle, ...]
    remarks: tuple[str, ...]
    plan: Plan

    def record(self) -> dict[str, Any]:
        """Plain values for the offsets file."""
        return {
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "jig_poses_deg": [[round(float(np.degrees(q)), 4) for q in pose] for pose in self.plan.poses],
            "placements": self.plan.placements,
            "noise_deg": [round(value, 4) for value in self.noise_deg_6],
            "sigma_deg": [round(value, 4) for value in self.sigma_deg_6],
            "placement_spread_deg": [round(value, 4) for value in self.spread_deg_6],
            "directions_from": "given" if self.plan.signs else "wiggles" if self.wiggles else "two jig poses",
        }


class LeaderCalibrator:
    """Runs the steps on one connected leader.

    Args:
        gello: connected; its own offsets do not matter.
        hands: who moves the leader.
        say: prints a line.
    """

    def __init__(self, gello: Gello, hands: Hands, say: Callable[[str], None]) -> None:
        self._gello = gello
        self._hands = hands
        self._say = say

    def measure(self, plan: Plan) -> Measured:
        """Everything but the check against the follower.

        Raises:
            CalibrationRefused: the measurements do not determine the offsets; says why and what to do.
            LeaderError: the servo bus failed.
        """
        seated = [(pose, self._seat(pose, plan, 1)) for pose in plan.poses]
        wiggles: list[Wiggle] = []
        if plan.signs is None and plan.wiggle:
            self._hands.begin_wiggles()
            wiggles = [self._wiggle(joint) for joint in range(6)]
        for again in range(2, plan.placements + 1):
            seated += [(pose, self._seat(pose, plan, again)) for pose in plan.poses]
        signs = _signs(plan, wiggles, seated)
        found = zeros([(reading, pose) for pose, reading in seated], signs)
        released = self._try(lambda: self._hands.trigger(pulled=False), lambda: self._still(plan.seconds / 2))
        pulled = self._try(lambda: self._hands.trigger(pulled=True), lambda: self._still(plan.seconds / 2))
        offsets = offsets_from(found, signs, trigger_range(released, pulled))
        sigma = np.sqrt(np.mean([reading.sigma_deg_7[:6] ** 2 for _, reading in seated], axis=0))
        noise = np.max([reading.noise_7[:6] for _, reading in seated], axis=0) / COUNTS_PER_DEGREE
        return Measured(
            offsets,
            tuple(float(value) for value in noise),
            tuple(float(value) for value in sigma),
            tuple(float(value) for value in found.spread_deg_6),
            tuple(wiggles),
            _remarks(signs),
            plan,
        )

    def check(
        self,
        offsets: LeaderOffsets,
        follower: Follower,
        kinematics: Kinematics,
        *,
        jig_q_6: Sequence[float],
        limit_deg: float,
        seconds: float = 1.0,
    ) -> Verification:
        """Compare with the follower, which nobody moves here.

        Raises:
            CalibrationRefused: the follower moves, or sends no data.
        """
        q_follower_6 = follower.standing().q
        reading = self._try(lambda: self._hands.match(q_follower_6), lambda: self._still(seconds))
        after = follower.standing().q
        q_leader_6 = offsets.joint_angles(reading.counts_7[:6])
        return verify(q_leader_6, after, kinematics, jig_q_6=jig_q_6, limit_deg=limit_deg)

    # --- steps ---

    def _seat(self, pose: Sequence[float], plan: Plan, time_number: int) -> StillReading:
        which = f"Jig pose {plan.poses.index(tuple(pose)) + 1}" if len(plan.poses) > 1 else "Jig"
        what = which if time_number == 1 else f"{which}, once more (shows how well it repeats)"
        return self._try(lambda: self._hands.place(pose, what), lambda: self._still(plan.seconds))

    def _still(self, seconds: float) -> StillReading:
        time.sleep(SETTLING_S)
        return still_reading(self._record(lambda _: False, seconds, least=LIMITS.samples))

    def _wiggle(self, joint: int) -> Wiggle:
        rest = np.zeros((0, 7))

        def ask() -> None:
            nonlocal rest
            rest = self._rest()
            self._hands.wiggle(joint)

        def watch() -> Wiggle:
            # Judged from the rest before the request: the first sample may come late, when the joint is out already.
            moves = self._record(
                lambda seen: wiggle_done(np.concatenate([rest, seen]), joint), WIGGLE_PATIENCE_S, self._hands.proceed
            )
            wiggle = judge_wiggle(np.concatenate([rest, moves]), joint)
            self._say(f"    seen: {wiggle.turned_deg:.0f} degrees, direction {wiggle.sign:+d}")
            return wiggle

        return self._try(ask, watch)

    def _rest(self) -> Array:
        """Wait until the joint before has come back to rest; returns counts [1, 7] there.

        A hand that never rests is caught by the judgement.
        """
        until_s = time.monotonic() + REST_PATIENCE_S
        while True:
            samples = self._record(lambda _: False, REST_S)
            moved = np.ptp(unwrapped(samples)[:, :6], axis=0).max()
            if moved < REST_DEG * COUNTS_PER_DEGREE or time.monotonic() > until_s:
                return samples[-1:]

    def _try(self, ask: Callable[[], None], look: Callable[[], T]) -> T:
        """Ask and look; what was refused is asked again, twice."""
        for attempt in range(1, ATTEMPTS + 1):
            ask()
            try:
                return look()
            except CalibrationRefused as refusal:
                if attempt == ATTEMPTS:
                    raise
                self._say(f"    not yet: {refusal}")
        raise AssertionError("unreachable")

    def _record(
        self,
        done: Callable[[Array], bool],
        seconds: float,
        between: Callable[[], None] | None = None,
        *,
        least: int = 1,
    ) -> Array:
        """Counts [T, 7] until ``done`` says so or time is up; failed readings and a short loss of power are skipped.

        A busy computer gets more time, until ``least`` readings are there.
        """
        samples: list[list[int]] = []
        heard_s = time.monotonic()
        until_s = heard_s + seconds
        looked = 0
        while (now_s := time.monotonic()) < until_s or (len(samples) < least and now_s < until_s + SILENCE_S):
            try:
                samples.append(self._gello.read_raw())
                heard_s = time.monotonic()
            except (ServoReadFailed, ServoMissing, ServoBusSilent):
                if time.monotonic() - heard_s > SILENCE_S:
                    raise
            if between is not None:
                between()
            if len(samples) - looked >= 5:  # judging grows with the record; five samples are 30 ms
                looked = len(samples)
                if done(np.array(samples)):
                    break
            time.sleep(SAMPLE_PERIOD_S)
        if not samples:
            raise CalibrationRefused("no reading arrived; look at the servo bus and try again")
        return np.array(samples, dtype=np.float64)


class Follower:
    """The robot's joint angles over a connection that can only receive: nothing here can move it.

    Raises:
        ArmError: no controller answers.
    """

    def __init__(self, robot: RobotConfig) -> None:
        self._host = robot.host
        self._link = RtdeLink(robot)
        try:
            self._link.reconnect()
        except BaseException:
            self._link.close()
            raise

    def standing(self) -> ArmState:
        """The newest measurement of the standing robot.

        Raises:
            CalibrationRefused: it moves, or no data comes.
        """
        until_s = time.monotonic() + FOLLOWER_PATIENCE_S
        while (state := self._link.sample()) is None:
            if time.monotonic() > until_s:
                raise CalibrationRefused(f"the controller at {self._host} sends no measurements; look at its pendant")
            time.sleep(0.005)
        fastest = int(np.argmax(np.abs(state.qd)))
        if abs(state.qd[fastest]) > FOLLOWER_STILL_RADPS:
            raise CalibrationRefused(
                f"the follower's {SERVO_NAMES[fastest]} moves at {state.qd[fastest]:+.3f} rad/s; stop whatever moves "
                "it, then check again"
            )
        return state

    def close(self) -> None:
        """End the connection."""
        self._link.close()


def _signs(
    plan: Plan, wiggles: Sequence[Wiggle], seated: Sequence[tuple[tuple[float, ...], StillReading]]
) -> tuple[int, ...]:
    """Directions from what was given or measured; two sources must agree."""
    if plan.signs is not None:
        return plan.signs
    posed = None
    if len(plan.poses) > 1:
        (first_q, first), (second_q, second) = seated[0], seated[1]
        posed = signs_from_poses(first, first_q, second, second_q)
    if not wiggles:
        if posed is None:
            raise CalibrationRefused("directions need wiggles, a second jig pose, or to be given with --signs")
        return posed
    wiggled = signs_from_wiggles(wiggles)
    return wiggled if posed is None else agreed_signs(wiggled, posed)


def _remarks(signs: Sequence[int]) -> tuple[str, ...]:
    unusual = [name for name, sign, usual in zip(SERVO_NAMES, signs, UR_SIGNS, strict=False) if sign != usual]
    if not unusual:
        return ()
    return (
        f"{', '.join(unusual)}: mounted the other way round than on the usual GELLO for a UR arm. That is fine if it "
        "is so; if not, a joint was turned the wrong way: calibrate again",
    )
