"""The setpoint generator when targets or measurements stay away: hold in time, and go on only where it is safe."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robot_bridge.servo import ServoGenerator, ServoState
from tests.helpers.servo_driving import (
    PERIOD_S,
    assert_within_envelope,
    drive,
    engaged,
    start_pose,
)


@pytest.mark.parametrize("speed_mps", [0.1, 0.2, 0.245])
@pytest.mark.parametrize("direction", ["x", "y", "z"])
def test_silence_ends_in_a_complete_hold_within_150_ms_of_the_last_command(speed_mps: float, direction: str) -> None:
    servo = engaged()
    T, _ = start_pose()
    axis = "xyz".index(direction)
    silent_from = 0.6

    def offer(now: float) -> None:
        if now <= silent_from and round(now / PERIOD_S) % 5 == 0:
            T[axis, 3] = start_pose()[0][axis, 3] - speed_mps * now
            servo.set_pose_target(T, now, now)

    trace = drive(servo, 2.0, offer)
    assert_within_envelope(trace)
    speed = np.abs(trace.velocity).max(axis=1)
    assert speed[round(silent_from / PERIOD_S) - 5] > 0.05
    standing = np.nonzero(speed > 0.0)[0][-1] * PERIOD_S
    assert standing - silent_from <= 0.150
    assert servo.status().state is ServoState.HOLDING
    assert servo.status().stale == 1
    assert "60 ms" in servo.status().reason


def test_a_capped_arm_far_behind_its_target_also_holds_within_150_ms() -> None:
    servo = engaged()
    T, _ = start_pose()

    def offer(now: float) -> None:
        if now <= 0.6:
            T[1, 3] = start_pose()[0][1, 3] + 0.45 * now
            servo.set_pose_target(T, now, now)

    trace = drive(servo, 2.0, offer)
    standing = np.nonzero(np.abs(trace.velocity).max(axis=1) > 0.0)[0][-1] * PERIOD_S
    assert standing - 0.6 <= 0.150
    assert trace.tcp[-1][1, 3] < T[1, 3] - 0.02  # it held where it was and did not run on to the target


def test_invalid_targets_do_not_keep_the_watchdog_quiet() -> None:
    servo = engaged()
    q = np.array(start_pose()[1])
    drive(servo, 0.2, lambda now: servo.set_joint_target(q, now, now))
    drive(servo, 0.3, lambda now: servo.set_joint_target(q * math.nan, now, now), start_s=0.2)
    status = servo.status()
    assert status.state is ServoState.HOLDING
    assert status.refused == 150
    assert "NaN" in status.refusal


def test_repeating_an_old_stamp_does_not_keep_the_watchdog_quiet() -> None:
    servo = engaged()
    q = start_pose()[1]
    drive(servo, 0.5, lambda now: servo.set_joint_target(q, 0.0, now))
    assert servo.status().state is ServoState.HOLDING
    assert "old on arrival" in servo.status().refusal


def test_a_stamp_from_the_future_counts_as_now() -> None:
    servo = engaged()
    q = start_pose()[1]
    drive(servo, 0.01, lambda now: servo.set_joint_target(q, now + 50.0, now))
    drive(servo, 0.2, lambda now: None, start_s=0.01)
    assert servo.status().state is ServoState.HOLDING


def test_an_arm_that_is_not_heard_is_held_until_it_is_heard_again() -> None:
    servo = engaged()
    q = np.array(start_pose()[1])
    turn = np.array([0.2, 0, 0, 0, 0, 0])
    drive(servo, 0.5, lambda now: servo.set_joint_target(q + now * turn, now, now))
    servo.set_blind(True)
    trace = drive(servo, 0.2, lambda now: servo.set_joint_target(q + now * turn, now, now), start_s=0.5)
    assert_within_envelope(trace)
    assert not trace.velocity[-1].any()
    assert servo.status().state is ServoState.HOLDING
    assert servo.status().stale == 1
    assert "measurements do not come" in servo.status().reason == servo.status().refusal
    servo.set_blind(False)
    trace = drive(servo, 2.0, lambda now: servo.set_joint_target(q + min(now, 1.0) * turn, now, now), start_s=0.7)
    assert_within_envelope(trace)
    assert servo.status().state is ServoState.FOLLOWING
    np.testing.assert_allclose(trace.q_N6[-1], q + turn, atol=1e-3)


def hold_after_motion(servo: ServoGenerator) -> np.ndarray:
    q = np.array(start_pose()[1])

    def offer(now: float) -> None:
        if now <= 0.3:
            servo.set_joint_target(q + 0.3 * now * np.array([1, 0, 0, 0, 0, 0]), now, now)

    drive(servo, 1.0, offer)
    assert servo.status().state is ServoState.HOLDING
    return np.array(servo.status().q_target)


def test_targets_that_resume_near_the_held_pose_are_followed_again() -> None:
    servo = engaged()
    held = hold_after_motion(servo)
    assert servo.set_joint_target(held + 0.1, 1.0, 1.0)
    assert servo.status().state is ServoState.FOLLOWING
    assert servo.status().reason == ""


def test_targets_that_resume_elsewhere_move_nothing_until_engaged_again() -> None:
    servo = engaged()
    held = hold_after_motion(servo)
    elsewhere = held + np.array([0.3, 0, 0, 0, 0, 0])
    for i in range(100):
        now = 1.0 + i * PERIOD_S
        assert not servo.set_joint_target(elsewhere if i < 50 else held, now, now)
        np.testing.assert_array_equal(servo.step(now), held)
    assert "engage again" in servo.status().reason
    servo.engage("teleop")
    assert servo.set_joint_target(elsewhere, 1.3, 1.3)
    servo.step(1.302)
    assert servo.status().state is ServoState.FOLLOWING
