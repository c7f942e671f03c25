"""Model of the controller's servoj: how the arm's desired joints follow a stream of targets.

A real UR does not jump to a servoj target: ``lookahead_time`` smooths the path, ``gain`` sets how hard the position
is followed, and the joints' own speed and acceleration limits hold. The manufacturer does not publish the law, so
this is a model with the reported behaviour (a delay of about the lookahead time; little damping when a high
lookahead-free stiffness is asked for): the wanted velocity is error / lookahead, an inner loop whose bandwidth grows
with the gain follows it, and a braking curve keeps the acceleration limit from causing overshoot. The speed slider
slows the model's time: the arm then makes a share of the way in each cycle, and falls behind targets that come at full
speed. Plain floats: this runs 500 times a second beside the physics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from robot_bridge.ur_kinematics import JOINT_SPEED_LIMITS_RADPS

JOINT_ACCELERATION_LIMITS_RADPS2 = (12.0, 12.0, 15.0, 25.0, 25.0, 25.0)
"""What the modelled drives give; of the size UR arms show under servoj, not a data-sheet figure."""
LOOKAHEAD_RANGE_S = (0.03, 0.2)
GAIN_RANGE = (100.0, 2000.0)
_SPEED_LOOP_RADPS_PER_GAIN = 0.2
"""Bandwidth of the inner loop per unit of gain: 600 gives 120 rad/s; 100 with a lookahead of 0.2 s is critical."""


class JointServo:
    """Six joints following servoj targets; one ``step`` is one controller cycle.

    Args:
        period_s: controller cycle.
        lookahead_s: servoj's lookahead_time, clipped to the range the controller accepts.
        gain: servoj's gain, clipped likewise.
    """

    def __init__(self, *, period_s: float = 0.002, lookahead_s: float = 0.05, gain: float = 600.0) -> None:
        if not (period_s > 0.0 and math.isfinite(period_s)):
            raise ValueError(f"the controller cycle must be positive seconds, got {period_s!r}")
        self.period_s = period_s
        self.q = [0.0] * 6
        self.qd = [0.0] * 6
        self.tune(lookahead_s, gain)

    def tune(self, lookahead_s: float, gain: float) -> None:
        """Change lookahead and gain between cycles, as every servoj call may."""
        self.lookahead_s = min(max(lookahead_s, LOOKAHEAD_RANGE_S[0]), LOOKAHEAD_RANGE_S[1])
        self.gain = min(max(gain, GAIN_RANGE[0]), GAIN_RANGE[1])
        self._blend = 1.0 - math.exp(-_SPEED_LOOP_RADPS_PER_GAIN * self.gain * self.period_s)

    def seed(self, q: Sequence[float], qd: Sequence[float] | None = None) -> None:
        """Start from joints q [6] rad, at rest or with velocities qd [6] rad/s."""
        self.q = [float(value) for value in q]
        self.qd = [0.0] * 6 if qd is None else [float(value) for value in qd]

    def step(self, q_target: Sequence[float], speed_fraction: float = 1.0) -> list[float]:
        """Desired joints [6] of the next cycle on the way to ``q_target`` [6] rad; ``qd`` is in the slowed time."""
        dt, blend = self.period_s * speed_fraction, self._blend * speed_fraction
        inverse_lookahead = 1.0 / self.lookahead_s
        q, qd = self.q, self.qd
        for i in range(6):
            error = q_target[i] - q[i]
            limit = JOINT_ACCELERATION_LIMITS_RADPS2[i]
            top = min(JOINT_SPEED_LIMITS_RADPS[i], math.sqrt(1.6 * limit * abs(error)))
            wanted = error * inverse_lookahead
            wanted = top if wanted > top else -top if wanted < -top else wanted
            change = blend * (wanted - qd[i])
            bound = limit * dt
            change = bound if change > bound else -bound if change < -bound else change
            qd[i] += change
            q[i] += qd[i] * dt
        return list(q)

    def brake(self, deceleration_radps2: float) -> list[float]:
        """Desired joints [6] of the next cycle while braking every joint to rest, as stopj does."""
        bound = deceleration_radps2 * self.period_s
        for i in range(6):
            speed = self.qd[i]
            self.qd[i] = 0.0 if abs(speed) <= bound else speed - math.copysign(bound, speed)
            self.q[i] += self.qd[i] * self.period_s
        return list(self.q)

    @property
    def at_rest(self) -> bool:
        """No joint moves faster than 1 mrad/s."""
        return max(map(abs, self.qd)) < 1e-3
