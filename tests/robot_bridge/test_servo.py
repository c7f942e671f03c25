"""The setpoint generator: whatever targets come, the setpoints stay inside the envelope; good ones are followed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from robot_bridge.servo import EngageRefused, ServoGenerator, ServoState
from robot_bridge.ur_kinematics import DhDeltas, Kinematics
from tests.helpers.servo_driving import (
    CONFIG,
    HOME,
    KINEMATICS,
    PERIOD_S,
    Trace,
    assert_within_envelope,
    drive,
    engaged,
    start_pose,
)

# --- adversarial streams --------------------------------------------------------------------------------------------


def adversary(rng: np.random.Generator, servo: ServoGenerator) -> Iterator[Callable[[float], None]]:
    """An endless mix of good, careless and malicious target sources, each active for a while."""
    T_start, q_start = start_pose()
    while True:
        kind = rng.choice(
            [
                "walk",
                "race",
                "through_walls",
                "pose_walk",
                "nan",
                "teleport",
                "noise",
                "silence",
                "old",
                "spin",
                "shape",
            ]
        )
        q = np.array(servo.status().q_target)
        T = KINEMATICS.forward(q)
        drift = rng.normal(size=6)
        rate = float(rng.choice([25.0, 50.0, 100.0, 500.0]))
        due = 0.0

        def offer(
            now: float,
            kind: str = str(kind),
            drift: np.ndarray = drift,
            q: np.ndarray = q,
            T: np.ndarray = T,
            rate: float = rate,
        ) -> None:
            nonlocal due
            if now < due:
                return
            due = now + rng.uniform(0.5, 1.5) / rate
            if kind == "walk":
                q += drift * 0.4 / rate + rng.normal(size=6) * 1e-3
                servo.set_joint_target(q, now - rng.uniform(0, 0.02), now)
            elif kind == "race":
                q += drift * 4.0 / rate
                servo.set_joint_target(q, now, now)
            elif kind == "through_walls":
                T[:3, 3] += drift[:3] * 0.5 / rate
                servo.set_pose_target(T, now, now)
            elif kind == "pose_walk":
                T[:3, 3] += (T_start[:3, 3] - T[:3, 3]) * 0.02 + rng.normal(size=3) * 2e-3
                servo.set_pose_target(T, now, now)
            elif kind == "nan":
                bad = q.copy()
                bad[rng.integers(6)] = rng.choice([math.nan, math.inf, -math.inf])
                servo.set_joint_target(bad, now, now)
                servo.set_pose_target(np.full((4, 4), math.nan), now, now)
            elif kind == "teleport":
                servo.set_joint_target(q_start + rng.uniform(-3, 3, 6), now, now)
                servo.set_joint_target(rng.uniform(-30, 30, 6), now, now)
            elif kind == "noise":
                servo.set_joint_target(np.array(servo.status().q_target) + rng.uniform(-0.4, 0.4, 6), now, now)
            elif kind == "old":
                servo.set_joint_target(q, now - rng.uniform(0.05, 3.0), now)
                servo.set_joint_target(q, now + rng.uniform(0.0, 100.0), now)
            elif kind == "spin":
                q[3:] += 3.0 / rate * np.sign(drift[3:])
                servo.set_joint_target(q, now, now)
            elif kind == "shape":
                servo.set_joint_target(q[:5], now, now)
                servo.set_pose_target(np.eye(3), now, now)
                servo.set_pose_target(np.diag([2.0, 2.0, 2.0, 1.0]), now, now)

        yield offer


@pytest.mark.parametrize("seed", range(12))
def test_no_target_stream_leads_the_setpoint_out_of_the_envelope(seed: int) -> None:
    rng = np.random.default_rng(seed)
    servo = engaged()
    sources = adversary(rng, servo)
    active: dict[str, object] = {"offer": next(sources), "until": 0.4}

    def offer(now: float) -> None:
        if now >= float(active["until"]):  # type: ignore[arg-type]
            active["offer"], active["until"] = next(sources), now + rng.uniform(0.1, 0.8)
            if servo.status().state is ServoState.HOLDING and rng.random() < 0.7:
                servo.engage("teleop")
            if rng.random() < 0.05:
                servo.disengage("test")
                servo.engage("teleop")
        active["offer"](now)  # type: ignore[operator]

    trace = drive(servo, 8.0, offer)
    assert_within_envelope(trace)
    assert np.ptp(trace.q_N6, axis=0).max() > 0.05  # it did move


@pytest.mark.parametrize("seed", range(6))
def test_pushing_into_any_wall_stops_at_the_box_and_still_slides_along_it(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    servo = engaged()
    T, _ = start_pose()
    direction = rng.normal(size=3)
    direction *= 0.35 / np.linalg.norm(direction)

    def offer(now: float) -> None:
        T[:3, 3] += direction * PERIOD_S
        servo.set_pose_target(T, now, now)

    trace = drive(servo, 4.0, offer)
    assert_within_envelope(trace)
    assert servo.status().clamped > 0
    reached = np.clip(T[:3, 3], CONFIG.workspace_min_m, CONFIG.workspace_max_m)
    # Whatever wall was hit, the arm is close to where the box lets it come to.
    np.testing.assert_allclose(trace.tcp[-1][:3, 3], reached, atol=0.03)


def test_after_garbage_a_valid_stream_is_followed_again() -> None:
    rng = np.random.default_rng(5)
    servo = engaged()
    sources = adversary(rng, servo)
    for i in range(20):
        drive(servo, 0.3, next(sources), start_s=0.3 * i)
    drive(servo, 0.5, lambda now: None, start_s=6.0)
    servo.engage("teleop")
    q_goal = start_pose()[1]
    q = np.array(servo.status().q_target)

    def offer(now: float) -> None:
        nonlocal q
        q = q + np.clip(q_goal - q, -0.001, 0.001)
        servo.set_joint_target(q, now, now)

    trace = drive(servo, 12.0, offer, start_s=6.5)
    assert_within_envelope(trace)
    np.testing.assert_allclose(trace.q_N6[-1], q_goal, atol=1e-3)


# --- tracking -------------------------------------------------------------------------------------------------------


def minimum_jerk_line(speed_mps: float, length_m: float) -> tuple[Callable[[float], np.ndarray], float]:
    T, _ = start_pose()
    duration = length_m * 1.875 / speed_mps

    def pose(t: float) -> np.ndarray:
        s = min(max(t / duration, 0.0), 1.0)
        moved = T.copy()
        moved[1, 3] += length_m * (10 * s**3 - 15 * s**4 + 6 * s**5)
        return moved

    return pose, duration


@pytest.mark.parametrize("rate_hz", [50.0, 100.0])
@pytest.mark.parametrize("mode", ["joint", "pose"])
def test_smooth_motion_is_followed_with_small_lag_and_without_overshoot(rate_hz: float, mode: str) -> None:
    rng = np.random.default_rng(1)
    servo = engaged()
    pose, duration = minimum_jerk_line(0.2, 0.35)
    q = start_pose()[1]
    samples = []
    for i in range(int((duration + 1.0) * rate_hz)):
        stamp = i / rate_hz
        q = KINEMATICS.inverse(pose(stamp), q)
        leader = np.round(q / (2 * math.pi) * 4096) / 4096 * 2 * math.pi  # what a leader servo can resolve
        samples.append((stamp + abs(rng.normal(0.0, 0.003)), stamp, leader))

    def offer(now: float) -> None:
        while samples and samples[0][0] <= now:
            _, stamp, leader = samples.pop(0)
            if mode == "joint":
                assert servo.set_joint_target(leader, stamp, now), servo.status().refusal
            else:
                assert servo.set_pose_target(KINEMATICS.forward(leader), stamp, now), servo.status().refusal

    trace = drive(servo, duration + 0.9, offer)
    assert_within_envelope(trace)
    along = trace.tcp[1:, 1, 3] - start_pose()[0][1, 3]
    want = np.array([pose(i * PERIOD_S)[1, 3] for i in range(len(along))]) - start_pose()[0][1, 3]
    lag_s = (np.argmin(np.abs(along - 0.175)) - np.argmin(np.abs(want - 0.175))) * PERIOD_S
    assert 0.0 < lag_s <= 0.060
    assert along.max() <= 0.35 + 0.001
    assert abs(along[-1] - 0.35) < 0.001
    speed = np.diff(along) / PERIOD_S
    assert speed.min() > -0.005  # never backwards: no overshoot, no jitter
    assert servo.status().state is ServoState.FOLLOWING
    assert (servo.status().refused, servo.status().stale) == (0, 0)


def test_setpoints_are_smooth_between_targets() -> None:
    servo = engaged()
    pose, duration = minimum_jerk_line(0.2, 0.3)

    def offer(now: float) -> None:
        if round(now / PERIOD_S) % 10 == 0:  # 50 Hz
            servo.set_pose_target(pose(now), now, now)

    trace = drive(servo, duration, offer)
    acceleration = np.abs(np.diff(trace.velocity, axis=0)).max() / PERIOD_S
    # The motion itself needs below 1 rad/s^2; a stream passed on sample by sample would need tens.
    assert acceleration < 3.5


def test_targets_faster_than_the_cap_are_followed_at_the_cap_and_counted() -> None:
    servo = engaged()
    pose, duration = minimum_jerk_line(0.5, 0.35)

    def offer(now: float) -> None:
        if round(now / PERIOD_S) % 5 == 0:
            assert servo.set_pose_target(pose(now), now, now)

    trace = drive(servo, duration + 2.0, offer)
    assert_within_envelope(trace)
    speed = np.linalg.norm(np.diff(trace.tcp[:, :3, 3], axis=0), axis=1) / PERIOD_S
    assert speed.max() > 0.9 * CONFIG.tcp_speed_mps
    assert servo.status().clamped > 10
    np.testing.assert_allclose(trace.tcp[-1], pose(10.0), atol=1e-3)


def test_pose_targets_are_reached_as_the_robot_measures_them_once_its_calibration_is_observed() -> None:
    real = Kinematics(deltas=DhDeltas.random(11))
    servo = engaged()
    q = np.array(servo.status().q_target)
    T_goal = real.forward(q)
    T_goal[:3, 3] += [0.03, 0.05, -0.05]
    uncorrected = real.forward(KINEMATICS.inverse(T_goal, q))
    assert np.linalg.norm((uncorrected - T_goal)[:3, 3]) > 5e-4

    def offer(now: float) -> None:
        if round(now / PERIOD_S) % 50 == 0:
            q_now = servo.status().q_target
            servo.correction.observe(q_now, real.forward(q_now))
        servo.set_pose_target(T_goal, now, now)

    trace = drive(servo, 4.0, offer)
    assert np.linalg.norm((real.forward(trace.q_N6[-1]) - T_goal)[:3, 3]) < 1e-4


# --- hold, stop, engage ---------------------------------------------------------------------------------------------


def test_stop_needs_seed_and_engage() -> None:
    servo = engaged()
    q = np.array(start_pose()[1])
    trace = drive(servo, 0.4, lambda now: servo.set_joint_target(q + 0.2 * now, now, now))
    servo.stop("protective stop")
    after = drive(servo, 0.5, lambda now: servo.set_joint_target(q + 0.2, now, now), start_s=0.4)
    assert_within_envelope(Trace(np.concatenate([trace.q_N6, after.q_N6[1:]]), []))
    assert np.abs(after.velocity[-1]).max() == 0.0
    status = servo.status()
    assert (status.state, status.source, status.reason) == (ServoState.STOPPED, "", "protective stop")
    with pytest.raises(EngageRefused, match=r"protective stop.*seed"):
        servo.engage("teleop")
    servo.disengage("operator")
    assert servo.status().state is ServoState.STOPPED
    servo.seed(after.q_N6[-1])
    servo.engage("teleop")
    assert servo.set_joint_target(after.q_N6[-1], 1.0, 1.0)


def test_disengage_decelerates_and_ignores_targets() -> None:
    servo = engaged()
    q = np.array(start_pose()[1])
    moving = drive(servo, 0.4, lambda now: servo.set_joint_target(q + 0.4 * now, now, now))
    servo.disengage("operator")
    after = drive(servo, 0.5, lambda now: servo.set_joint_target(q, now, now), start_s=0.4)
    assert_within_envelope(Trace(np.concatenate([moving.q_N6, after.q_N6[1:]]), []))
    assert servo.status().state is ServoState.IDLE
    assert np.abs(after.velocity[-1]).max() == 0.0


def test_another_source_cannot_take_over() -> None:
    servo = engaged()
    with pytest.raises(EngageRefused, match=r"'teleop'.*before engaging 'executor'"):
        servo.engage("executor")
    servo.disengage("handing over")
    servo.engage("executor")
    assert servo.status().source == "executor"


def test_an_unseeded_generator_hands_out_nothing() -> None:
    servo = ServoGenerator(KINEMATICS, CONFIG)
    with pytest.raises(RuntimeError, match="seed"):
        servo.step(0.0)
    with pytest.raises(EngageRefused, match="seed"):
        servo.engage("teleop")
    with pytest.raises(ValueError, match="six"):
        servo.seed([math.nan] * 6)
    with pytest.raises(EngageRefused, match="disengage"):
        engaged().seed(HOME)


def test_counters_start_anew_with_each_engage() -> None:
    servo = engaged()
    servo.set_joint_target([math.nan] * 6, 0.0, 0.0)
    assert servo.status().refused == 1
    servo.disengage("")
    servo.engage("teleop")
    assert servo.status().refused == 0


def test_an_arm_engaged_outside_the_box_comes_in_and_stays_in() -> None:
    config = replace(CONFIG, workspace_max_m=(-0.35, 0.45, 0.25))  # the start pose is 5 cm above this box
    servo = engaged(config)
    T, _ = start_pose()
    trace = drive(servo, 3.0, lambda now: servo.set_pose_target(T, now, now))
    height = trace.tcp[:, 2, 3]
    outside = height > 0.25
    assert outside[0] and not outside[-1]
    assert np.all(np.diff(height)[outside[:-1]] <= 1e-6)
    assert not outside[np.argmin(outside) :].any()
