"""From a jittery 50-100 Hz stream of joint targets to a smooth velocity wish at the setpoint rate.

Two stages. The *glide* turns samples into a continuous reference: it moves from where it is to the newest sample
within about one sample interval, so it never runs past a sample. The *law* asks each joint for the velocity
``feed_forward * reference rate + approach(error)``, where ``approach`` is linear close by and a braking parabola
farther away, so that the joint can still stop at the reference under the acceleration limit. With half of the rate
fed forward and the velocity loop four times faster than the position loop, the response to a ramp or a step is that
of a first-order lag: behind by about 40 ms, no overshoot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

APPROACH_PER_S = 20.0
"""Position loop: velocity asked per radian of error."""
VELOCITY_LOOP_PER_S = 80.0
"""Velocity loop: four times the position loop is critical damping."""
FEED_FORWARD = 0.5
"""More would overshoot when a target stops abruptly; less would lag."""
BRAKING_SHARE = 0.6
"""Share of the acceleration limit the braking parabola plans with; the rest is for the loop to follow it."""
RATE_SMOOTHING_S = 0.03
"""Quantised leader angles make a rough rate; it is averaged over this time before it is fed forward."""
MAX_INTERVAL_S = 0.03
"""A pause between samples longer than this is a gap, not a sample interval."""


class JointTracker:
    """Tracks a sampled six-joint target; time advances only by ``wanted_velocity`` calls, one per period."""

    def __init__(self, period_s: float, acceleration_radps2: float) -> None:
        self.period_s = period_s
        self._plan = BRAKING_SHARE * acceleration_radps2
        self._linear_zone = self._plan / (APPROACH_PER_S * APPROACH_PER_S)
        self._reference = [0.0] * 6
        self._slope = [0.0] * 6
        self._rate = [0.0] * 6
        self._goal = [0.0] * 6
        self._remaining = 0
        self._interval_s = 0.01
        self._last_push_s = -math.inf

    def reset(self, q: Sequence[float]) -> None:
        """Start from rest at q [6] radians."""
        self._reference = list(q)
        self._goal = list(q)
        self._slope = [0.0] * 6
        self._rate = [0.0] * 6
        self._remaining = 0
        self._interval_s = 0.01
        self._last_push_s = -math.inf

    def push(self, q: Sequence[float], now_s: float) -> None:
        """Give the newest target [6] radians, received at now_s."""
        interval = now_s - self._last_push_s
        self._last_push_s = now_s
        if 0.0 < interval < MAX_INTERVAL_S:
            self._interval_s += 0.2 * (interval - self._interval_s)
        # A little longer than the interval, so that a late sample does not make the reference stutter.
        periods = max(1, round(1.3 * self._interval_s / self.period_s))
        self._goal = list(q)
        self._slope = [
            (to - at) / (periods * self.period_s) for to, at in zip(self._goal, self._reference, strict=True)
        ]
        self._remaining = periods

    def wanted_velocity(self, q: Sequence[float], v: Sequence[float]) -> list[float]:
        """Advance the reference by one period and return the velocity [6] the setpoint should take next.

        Args:
            q, v: present setpoint [6] radians and its velocity [6] rad/s.
        """
        dt = self.period_s
        if self._remaining > 0:
            self._remaining -= 1
            if self._remaining == 0:
                self._reference = list(self._goal)
            else:
                self._reference = [at + slope * dt for at, slope in zip(self._reference, self._slope, strict=True)]
        else:
            self._slope = [0.0] * 6
        smoothing = dt / RATE_SMOOTHING_S
        loop = VELOCITY_LOOP_PER_S * dt
        zone, plan = self._linear_zone, self._plan
        wanted = []
        for i in range(6):
            rate = self._rate[i]
            rate += smoothing * (self._slope[i] - rate)
            self._rate[i] = rate
            error = self._reference[i] - q[i]
            if error > zone:
                approach = math.sqrt(2.0 * plan * (error - 0.5 * zone))
            elif error < -zone:
                approach = -math.sqrt(2.0 * plan * (-error - 0.5 * zone))
            else:
                approach = APPROACH_PER_S * error
            now = v[i]
            wanted.append(now + loop * (FEED_FORWARD * rate + approach - now))
        return wanted
