"""The servoj model: smooth, late by the lookahead time, within the arm's limits, never overshooting."""

from __future__ import annotations

import math

import pytest

from robot_bridge.twin.motion import JOINT_ACCELERATION_LIMITS_RADPS2, JointServo
from robot_bridge.ur_kinematics import JOINT_SPEED_LIMITS_RADPS

PERIOD_S = 0.002


@pytest.mark.parametrize("lookahead_s", [0.03, 0.05, 0.1, 0.2])
def test_moving_target_is_followed_late_by_the_lookahead_time(lookahead_s: float) -> None:
    servo = JointServo(lookahead_s=lookahead_s, gain=600.0)
    servo.seed([0.0] * 6)
    speed = 0.3
    for tick in range(1000):
        q = servo.step([speed * tick * PERIOD_S] * 6)
    lag_s = 999 * PERIOD_S - q[0] / speed
    assert lag_s == pytest.approx(lookahead_s, abs=0.005)


@pytest.mark.parametrize(("lookahead_s", "gain"), [(0.03, 600.0), (0.05, 600.0), (0.1, 300.0), (0.2, 100.0)])
@pytest.mark.parametrize("step_rad", [0.001, 0.05, 1.0])
def test_steps_are_reached_without_overshoot_within_limits(lookahead_s: float, gain: float, step_rad: float) -> None:
    servo = JointServo(lookahead_s=lookahead_s, gain=gain)
    servo.seed([0.0] * 6)
    before_q, before_v = [0.0] * 6, [0.0] * 6
    highest = [0.0] * 6
    for _ in range(2500):
        q = servo.step([step_rad] * 6)
        for i in range(6):
            velocity = (q[i] - before_q[i]) / PERIOD_S
            assert abs(velocity) <= JOINT_SPEED_LIMITS_RADPS[i] + 1e-9
            assert abs(velocity - before_v[i]) / PERIOD_S <= JOINT_ACCELERATION_LIMITS_RADPS2[i] + 1e-6
            before_v[i] = velocity
        before_q = q
        highest = [max(pair) for pair in zip(highest, q, strict=True)]
    assert q == pytest.approx([step_rad] * 6, abs=1e-6)
    assert max(highest) < step_rad * 1.02 + 1e-6


def test_target_that_stops_coming_is_held() -> None:
    servo = JointServo()
    servo.seed([0.1] * 6)
    for _ in range(1000):
        q = servo.step([0.2] * 6)
    assert servo.at_rest
    assert q == pytest.approx([0.2] * 6, abs=1e-9)


def test_braking_takes_the_asked_deceleration() -> None:
    servo = JointServo()
    servo.seed([0.0] * 6, [1.0, -1.0, 0.5, 0.0, 2.0, -0.1])
    ticks = 0
    while not servo.at_rest:
        servo.brake(4.0)
        ticks += 1
    assert ticks * PERIOD_S == pytest.approx(2.0 / 4.0, abs=0.004)
    assert servo.q[0] == pytest.approx(1.0 / 8.0, abs=0.002)
    assert servo.q[3] == 0.0


def test_parameters_are_clipped_to_what_the_controller_accepts() -> None:
    servo = JointServo(lookahead_s=0.0, gain=1e6)
    assert (servo.lookahead_s, servo.gain) == (0.03, 2000.0)
    with pytest.raises(ValueError, match="controller cycle"):
        JointServo(period_s=math.nan)
