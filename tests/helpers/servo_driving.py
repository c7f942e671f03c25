"""A setpoint generator on its own: engaged at home, driven by a stream of targets, its setpoints kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robot_bridge.cell import SafetyConfig
from robot_bridge.servo import ServoGenerator, ServoState
from robot_bridge.ur_kinematics import Kinematics

HOME = np.radians([0.0, -90.0, 90.0, -90.0, -90.0, 0.0])
CONFIG = SafetyConfig()
KINEMATICS = Kinematics()
PERIOD_S = 0.002


def start_pose() -> tuple[np.ndarray, np.ndarray]:
    T = KINEMATICS.forward(HOME)
    T[:3, 3] = [-0.60, -0.10, 0.30]
    return T, KINEMATICS.inverse(T, HOME)


def engaged(config: SafetyConfig = CONFIG) -> ServoGenerator:
    servo = ServoGenerator(KINEMATICS, config)
    servo.seed(start_pose()[1])
    servo.engage("teleop")
    return servo


@dataclass
class Trace:
    """Setpoints [N, 6] with the state after each step."""

    q_N6: np.ndarray
    state_N: list[ServoState]

    @property
    def velocity(self) -> np.ndarray:
        return np.diff(self.q_N6, axis=0) / PERIOD_S

    @property
    def tcp(self) -> np.ndarray:
        return np.stack([KINEMATICS.forward(q) for q in self.q_N6])


def drive(servo: ServoGenerator, seconds: float, offer: Callable[[float], object], start_s: float = 0.0) -> Trace:
    """Step the generator at 500 Hz; ``offer`` is called before each step and may set targets."""
    setpoints, states = [servo.status().q_target], []
    for tick in range(round(seconds / PERIOD_S)):
        now = start_s + tick * PERIOD_S
        offer(now)
        setpoints.append(tuple(servo.step(now)))
        states.append(servo.status().state)
    return Trace(np.array(setpoints), states)


def assert_within_envelope(trace: Trace, config: SafetyConfig = CONFIG) -> None:
    v = trace.velocity
    acceleration = np.diff(v, axis=0) / PERIOD_S
    assert np.abs(v).max() <= config.joint_speed_radps * (1 + 1e-9)
    speeding_up = acceleration * v[1:] > 0.0
    assert np.abs(acceleration[speeding_up]).max(initial=0.0) <= config.joint_acceleration_radps2 * (1 + 1e-6)
    assert np.abs(acceleration).max() <= config.hold_deceleration_radps2 * (1 + 1e-6)
    T = trace.tcp
    speed = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1) / PERIOD_S
    assert speed.max() <= config.tcp_speed_mps * 1.005
    spin = np.einsum("nij,nik->njk", T[:-1, :3, :3], T[1:, :3, :3])
    turn = 0.5 * np.linalg.norm(
        np.stack([spin[:, 2, 1] - spin[:, 1, 2], spin[:, 0, 2] - spin[:, 2, 0], spin[:, 1, 0] - spin[:, 0, 1]], 1),
        axis=1,
    )
    assert turn.max() / PERIOD_S <= config.tcp_rotation_speed_radps * 1.01
    position = T[:, :3, 3]
    assert np.all(position >= np.array(config.workspace_min_m) - 1e-6)
    assert np.all(position <= np.array(config.workspace_max_m) + 1e-6)
