"""The setpoint generator: from targets that come when they like to one joint setpoint every 2 ms.

It is pure: no clock, no thread, no device. ``step`` is called once per controller period and always returns a joint
setpoint that obeys the safety envelope; ``set_joint_target`` and ``set_pose_target`` are called whenever a target
arrives. All times are seconds of one clock of the caller's choice.

States: IDLE (not engaged) -> engage -> HOLDING until the first target -> FOLLOWING -> HOLDING when targets go stale.
HOLDING returns to FOLLOWING by itself when targets resume near the held pose; a target far from it asks for a new
engage. An arm that is not heard is held as well, see ``set_blind``. ``stop`` leads to STOPPED from anywhere; only
``seed`` and ``engage`` lead out of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.cell import SafetyConfig
from robot_bridge.pose_correction import PoseCorrection
from robot_bridge.safety import SafetyEnvelope, Verdict
from robot_bridge.tracking import JointTracker
from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]

HOLD_COMPLETE_S = 0.025
"""The arm stands this long after a target went stale: an ageing target lowers the speed it may still command."""
BLIND_REASON = "the arm's measurements do not come; look at the network and at what else this computer does"


class ServoState(IntEnum):
    """Values equal those in ``prophrl_interfaces/msg/ServoStatus.msg``."""

    IDLE = 0
    FOLLOWING = 1
    HOLDING = 2
    STOPPED = 3


class EngageRefused(RuntimeError):
    """The generator cannot be engaged now; the message says what to do first."""


@dataclass(frozen=True)
class ServoSnapshot:
    """What the generator is doing. Counters of targets run since engage, ``ticks`` since construction."""

    state: ServoState
    source: str
    reason: str
    ticks: int
    clamped: int
    refused: int
    stale: int
    target_age_s: float
    """Age of the newest valid target at the last step; infinity before the first."""
    q_target: tuple[float, ...]
    """Last setpoint handed out, radians."""
    refusal: str
    """Why the last refused target was refused; empty if none was since engage."""


class ServoGenerator:
    """Setpoints for one arm.

    Args:
        kinematics: nominal kinematics of the arm with its tool.
        config: the safety section of the cell file.
        period_s: setpoint period; one ``step`` call advances the motion by exactly this much.
    """

    def __init__(self, kinematics: Kinematics, config: SafetyConfig, period_s: float = 0.002) -> None:
        if not 0.0005 <= period_s <= 0.02:
            raise ValueError(f"period_s must lie in 0.0005..0.02 s, got {period_s}; the UR controller runs at 0.002")
        self.kinematics = kinematics
        self.config = config
        self.period_s = period_s
        self.envelope = SafetyEnvelope(config, kinematics)
        self.correction = PoseCorrection(kinematics)
        self._tracker = JointTracker(period_s, config.joint_acceleration_radps2)
        self._state = ServoState.IDLE
        self._source = ""
        self._reason = "not seeded"
        self._refusal = ""
        self._seeded = False
        self._q = [0.0] * 6
        self._v = [0.0] * 6
        self._rows = kinematics.forward_rows(self._q)
        self._q_given = list(self._q)  # newest accepted target before clamping: what a jump is measured from
        self._q_accepted = list(self._q)
        self._target_s = -math.inf
        self._age_s = math.inf
        self._target_counted = True
        self._far_from_hold = False
        self._blind = False
        self._ticks = self._clamped = self._refused = self._stale = 0

    # --- verbs ---------------------------------------------------------------------------------------------------

    def seed(self, q_measured: Sequence[float] | Array) -> None:
        """Take the measured joints [6] as setpoint, at rest. Allowed in IDLE and STOPPED only.

        Raises:
            ValueError: not six finite angles.
            EngageRefused: engaged; disengage first.
        """
        q = [float(value) for value in q_measured]
        if len(q) != 6 or not all(map(math.isfinite, q)):
            raise ValueError(f"seed needs the six measured joint angles, got {q}; is the robot connected?")
        if self._state in (ServoState.FOLLOWING, ServoState.HOLDING):
            raise EngageRefused(f"engaged by {self._source!r}: disengage before seeding")
        self._q, self._v = q, [0.0] * 6
        self._rows = self.kinematics.forward_rows(q)
        self._tracker.reset(q)
        self._seeded = True
        self._state, self._source, self._reason = ServoState.IDLE, "", ""

    def engage(self, source: str) -> None:
        """Obey targets from now on (HOLDING until the first one). Engaging again from HOLDING forgets old targets.

        Raises:
            EngageRefused: not seeded, stopped, or engaged by another source.
        """
        if not source:
            raise EngageRefused("engage needs the name of a source, e.g. 'teleop' or 'executor'")
        if self._state is ServoState.STOPPED:
            raise EngageRefused(f"stopped ({self._reason}): recover the robot and seed with its measured joints first")
        if not self._seeded:
            raise EngageRefused("not seeded: seed with the measured joints first")
        if self._source and self._source != source:
            raise EngageRefused(f"engaged by {self._source!r}: disengage it before engaging {source!r}")
        if self._state is not ServoState.FOLLOWING:
            self._tracker.reset(self._q)
            self._q_given = list(self._q)
            self._q_accepted = list(self._q)
            self._target_s, self._age_s = -math.inf, math.inf
            self._far_from_hold = False
            self._clamped = self._refused = self._stale = 0
            self._refusal = ""
            self._state, self._source, self._reason = ServoState.HOLDING, source, "waiting for the first target"

    def disengage(self, reason: str = "") -> None:
        """Stop obeying targets; the setpoint decelerates and stays. A STOPPED generator stays STOPPED."""
        if self._state is not ServoState.STOPPED:
            self._state, self._source, self._reason = ServoState.IDLE, "", reason

    def stop(self, reason: str) -> None:
        """Hard stop: the setpoint decelerates and stays until ``seed`` and ``engage``."""
        self._state, self._source, self._reason = ServoState.STOPPED, "", reason
        self._seeded = False

    def set_blind(self, blind: bool) -> None:
        """Say whether measurements of the arm are missing: while they are, the setpoint holds and targets are refused.

        A network that stalls delays setpoints as well. A setpoint that went on would be far ahead of the arm by the
        time it is heard, and the controller would catch up at several times the speed limit.
        """
        self._blind = blind
        if blind and self._state is ServoState.FOLLOWING:
            self._state = ServoState.HOLDING
            self._stale += 1
            self._reason = BLIND_REASON

    # --- targets -------------------------------------------------------------------------------------------------

    def set_joint_target(self, q: Sequence[float] | Array, stamp_s: float, now_s: float) -> bool:
        """Offer a joint target [6] radians, issued at stamp_s, received at now_s. False when refused or ignored."""
        if not self._engaged() or not self._heeds(stamp_s, now_s):
            return False
        previous = self._q if self._state is ServoState.HOLDING else self._q_given
        return self._accept(self.envelope.check_joints(q, previous), q, stamp_s, now_s)

    def set_pose_target(self, T_base_tcp: ArrayLike, stamp_s: float, now_s: float) -> bool:
        """Offer a TCP pose target [4, 4] as the robot measures it. False when refused or ignored."""
        if not self._engaged() or not self._heeds(stamp_s, now_s):
            return False
        previous = self._q if self._state is ServoState.HOLDING else self._q_accepted
        verdict = self.envelope.check_pose(self.correction.to_nominal(T_base_tcp), previous)
        return self._accept(verdict, verdict.q, stamp_s, now_s)

    def _engaged(self) -> bool:
        return self._state in (ServoState.FOLLOWING, ServoState.HOLDING)

    def _heeds(self, stamp_s: float, now_s: float) -> bool:
        if self._blind:
            return self._refuse(BLIND_REASON)
        if not (math.isfinite(stamp_s) and math.isfinite(now_s)):
            return self._refuse(f"target stamp {stamp_s} s or time {now_s} s is not a number")
        if now_s - stamp_s > self.config.stale_s:
            return self._refuse(
                f"target was {now_s - stamp_s:.3f} s old on arrival (limit {self.config.stale_s:.3f} s); "
                "check the clocks and the network"
            )
        if stamp_s < self._target_s:
            return self._refuse("target is older than the newest one")
        return True

    def _refuse(self, reason: str) -> bool:
        self._refused += 1
        self._refusal = reason
        return False

    def _accept(self, verdict: Verdict, q_given: Sequence[float] | Array | None, stamp_s: float, now_s: float) -> bool:
        if verdict.q is None or q_given is None:
            return self._refuse(verdict.reason)
        if self._state is ServoState.HOLDING and self._target_s > -math.inf:
            far = self.envelope.jump_reason(verdict.q, self._q, self.config.engage_difference_rad, "the held pose")
            if far or self._far_from_hold:
                self._far_from_hold = True
                self._reason = "targets resumed away from the held pose; engage again"
                return self._refuse(far or self._reason)
        if self._state is ServoState.HOLDING:
            self._tracker.reset(self._q)
        self._state, self._reason = ServoState.FOLLOWING, ""
        self._q_given = [float(value) for value in q_given]
        self._q_accepted = verdict.q
        self._target_s = min(stamp_s, now_s)  # a stamp from the future must not keep the watchdog quiet
        self._target_counted = verdict.clamped
        self._clamped += verdict.clamped
        self._tracker.push(verdict.q, now_s)
        return True

    # --- motion --------------------------------------------------------------------------------------------------

    def step(self, now_s: float) -> list[float]:
        """The next joint setpoint [6] radians. Call once per period; now_s only ages the newest target.

        Raises:
            RuntimeError: never seeded: there is no setpoint that would be safe to send.
        """
        if not self._seeded and self._state is not ServoState.STOPPED:
            raise RuntimeError("the setpoint generator has no setpoint yet: seed it with the measured joints")
        self._ticks += 1
        self._age_s = max(0.0, now_s - self._target_s)
        if self._state is ServoState.FOLLOWING and not self._age_s <= self.config.stale_s:
            self._state = ServoState.HOLDING
            self._stale += 1
            self._reason = f"no valid target for {self.config.stale_s * 1e3:.0f} ms"
        if self._state is ServoState.FOLLOWING:
            self._follow()
        elif any(self._v):
            self._v = self.envelope.brake(self._v, self.period_s)
            self._advance()
        return list(self._q)

    def _follow(self) -> None:
        wanted = self._tracker.wanted_velocity(self._q, self._v)
        if self._must_brake():
            self._v = self.envelope.brake(self._v, self.period_s)
            self._advance()
            return
        self._v, rows, limited = self.envelope.limit(self._q, self._v, wanted, self._rows, self.period_s)
        if limited and not self._target_counted:
            self._target_counted = True
            self._clamped += 1
        self._q = [angle + speed * self.period_s for angle, speed in zip(self._q, self._v, strict=True)]
        self._rows = rows

    def _must_brake(self) -> bool:
        """Slow down while a target ages, so that the hold is complete soon after it has gone stale."""
        left_s = self.config.stale_s + HOLD_COMPLETE_S - self._age_s
        allowed = self.config.hold_deceleration_radps2 * max(0.0, left_s)
        return self._age_s > 0.4 * self.config.stale_s and max(map(abs, self._v)) > allowed

    def _advance(self) -> None:
        self._q = [angle + speed * self.period_s for angle, speed in zip(self._q, self._v, strict=True)]
        self._rows = self.kinematics.forward_rows(self._q)

    def status(self) -> ServoSnapshot:
        """What the generator is doing now."""
        return ServoSnapshot(
            state=self._state,
            source=self._source,
            reason=self._reason,
            ticks=self._ticks,
            clamped=self._clamped,
            refused=self._refused,
            stale=self._stale,
            target_age_s=self._age_s,
            q_target=tuple(self._q),
            refusal=self._refusal,
        )
