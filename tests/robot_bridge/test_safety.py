"""The safety envelope judges single targets: clamp what can be obeyed in part, refuse what cannot be meant."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from calibration.poses import transform
from robot_bridge.cell import SafetyConfig
from robot_bridge.pose_correction import PoseCorrection
from robot_bridge.safety import SafetyEnvelope
from robot_bridge.ur_kinematics import DhDeltas, Kinematics

HOME = np.radians([0.0, -90.0, 90.0, -90.0, -90.0, 0.0]).tolist()
KINEMATICS = Kinematics()
CONFIG = SafetyConfig()
ENVELOPE = SafetyEnvelope(CONFIG, KINEMATICS)


def test_a_target_inside_passes_unchanged() -> None:
    q = [angle + 0.1 for angle in HOME]
    verdict = ENVELOPE.check_joints(q, HOME)
    assert (verdict.q, verdict.clamped, verdict.reason) == (q, False, "")


def test_a_joint_target_below_the_table_is_lifted_to_the_box_and_keeps_its_orientation() -> None:
    T = KINEMATICS.forward(HOME)
    T[2, 3] = -0.05
    q = KINEMATICS.inverse(T, HOME)
    verdict = ENVELOPE.check_joints(q, q)
    assert verdict.clamped and verdict.q is not None
    reached = KINEMATICS.forward(verdict.q)
    assert CONFIG.workspace_min_m[2] <= reached[2, 3] <= CONFIG.workspace_min_m[2] + 0.005
    np.testing.assert_allclose(reached[:2, 3], T[:2, 3], atol=1e-6)
    np.testing.assert_allclose(reached[:3, :3], T[:3, :3], atol=1e-6)


def test_random_pose_targets_end_inside_the_box_or_are_refused() -> None:
    rng = np.random.default_rng(0)
    config = replace(CONFIG, jump_rad=100.0)
    envelope = SafetyEnvelope(config, KINEMATICS)
    T_home = KINEMATICS.forward(HOME)
    accepted = 0
    for _ in range(300):
        T = T_home.copy()
        T[:3, 3] = rng.uniform(-1.5, 1.5, 3)
        verdict = envelope.check_pose(T, HOME)
        if verdict.q is None:
            assert "reach" in verdict.reason or "limit" in verdict.reason
            continue
        accepted += 1
        position = KINEMATICS.forward(verdict.q)[:3, 3]
        assert np.all(position >= config.workspace_min_m) and np.all(position <= config.workspace_max_m)
    assert accepted > 200


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(bad: float) -> None:
    q = list(HOME)
    q[3] = bad
    verdict = ENVELOPE.check_joints(q, HOME)
    assert verdict.q is None and "NaN" in verdict.reason
    T = KINEMATICS.forward(HOME)
    T[1, 1] = bad
    verdict = ENVELOPE.check_pose(T, HOME)
    assert verdict.q is None and "NaN" in verdict.reason


def test_a_jump_is_refused_and_names_joint_and_size() -> None:
    q = list(HOME)
    q[4] += 0.7
    verdict = ENVELOPE.check_joints(q, HOME)
    assert verdict.q is None
    assert verdict.reason == "wrist_2_joint is 0.70 rad from the previous target (limit 0.50 rad)"
    verdict = ENVELOPE.check_pose(KINEMATICS.forward(q), HOME)
    assert verdict.q is None and "rad from the previous target" in verdict.reason


def test_a_joint_target_past_the_position_limits_is_clamped() -> None:
    q = list(HOME)
    q[5] = 6.27
    verdict = ENVELOPE.check_joints(q, q)
    assert verdict.clamped and verdict.q is not None and abs(verdict.q[5]) < 2 * math.pi - 0.04


def test_a_scaled_rotation_is_refused() -> None:
    T = KINEMATICS.forward(HOME)
    T[:3, :3] *= 1.1
    verdict = ENVELOPE.check_pose(T, HOME)
    assert verdict.q is None and "not a rotation" in verdict.reason


def test_an_unusable_configuration_is_refused_with_its_value() -> None:
    with pytest.raises(ValueError, match=r"joint_acceleration_radps2.*-1"):
        SafetyEnvelope(replace(CONFIG, joint_acceleration_radps2=-1.0), KINEMATICS)
    with pytest.raises(ValueError, match=r"hold_deceleration_radps2 3\.0 must be at least"):
        SafetyEnvelope(replace(CONFIG, hold_deceleration_radps2=3.0), KINEMATICS)
    with pytest.raises(ValueError, match="must lie below"):
        SafetyEnvelope(replace(CONFIG, workspace_min_m=(0.0, 0.0, 0.7)), KINEMATICS)
    with pytest.raises(ValueError, match="three"):
        SafetyEnvelope(replace(CONFIG, workspace_max_m=(0.0, 0.0)), KINEMATICS)


def test_braking_takes_all_joints_to_rest_together_at_the_limit() -> None:
    v = [0.6, -0.3, 0.0, 0.1, 0.0, -0.6]
    steps = 0
    while any(v):
        slower = ENVELOPE.brake(v, 0.002)
        assert max(abs(a - b) for a, b in zip(v, slower, strict=True)) <= 12.0 * 0.002 + 1e-12
        v, steps = slower, steps + 1
    assert steps == pytest.approx(0.6 / 12.0 / 0.002, abs=1)


def test_pose_correction_learns_the_arms_calibration() -> None:
    real = Kinematics(deltas=DhDeltas.random(4))
    correction = PoseCorrection(KINEMATICS)
    np.testing.assert_array_equal(correction.to_nominal(np.eye(4)), np.eye(4))
    correction.observe(HOME, real.forward(HOME))
    q = KINEMATICS.inverse(correction.to_nominal(real.forward(HOME)), HOME)
    np.testing.assert_allclose(q, HOME, atol=1e-9)


def test_pose_correction_refuses_a_pose_of_another_tool() -> None:
    other = Kinematics(tool=transform([0.0, 0.0, 0.25]))
    with pytest.raises(ValueError, match=r"76\.0 mm.*tcp_offset"):
        PoseCorrection(KINEMATICS).observe(HOME, other.forward(HOME))
