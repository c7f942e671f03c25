"""The UR30's kinematics: what goes forward comes back, on the nominal and on a calibrated arm."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from calibration.poses import transform
from robot_bridge.ur_kinematics import (
    JOINT_POSITION_LIMITS_RAD,
    UR30_DH,
    DhDeltas,
    DhTable,
    Kinematics,
    Unreachable,
)

HOME = np.radians([0.0, -90.0, 90.0, -90.0, -90.0, 0.0])


def random_joints(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2 * math.pi, 2 * math.pi, (count, 6))


def chain_by_matrices(q: np.ndarray, table: DhTable, tool: np.ndarray) -> np.ndarray:
    """The textbook DH product, written independently of the module under test."""
    T = np.eye(4)
    for i in range(6):
        c, s = math.cos(q[i] + table.theta[i]), math.sin(q[i] + table.theta[i])
        ca, sa = math.cos(table.alpha[i]), math.sin(table.alpha[i])
        a, d = table.a[i], table.d[i]
        T = T @ np.array([[c, -s * ca, s * sa, a * c], [s, c * ca, -c * sa, a * s], [0, sa, ca, d], [0, 0, 0, 1]])
    return T @ tool


@pytest.mark.parametrize("deltas", [None, DhDeltas.random(7)], ids=["nominal", "calibrated"])
def test_forward_equals_the_product_of_dh_matrices(deltas: DhDeltas | None) -> None:
    tool = transform([0.01, -0.02, 0.174])
    kinematics = Kinematics(tool=tool, deltas=deltas)
    table = UR30_DH if deltas is None else deltas.added_to(UR30_DH)
    for q in random_joints(200, 1):
        np.testing.assert_allclose(kinematics.forward(q), chain_by_matrices(q, table, tool), atol=1e-12)


def test_home_looks_down_in_front_of_the_robot() -> None:
    T = Kinematics().forward(HOME)
    np.testing.assert_allclose(T[:3, 2], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(T[:3, 3], [-0.663, -0.201, 0.5450], atol=1e-9)


def test_forward_all_ends_in_flange_and_tcp() -> None:
    kinematics = Kinematics()
    q = random_joints(1, 2)[0]
    frames = kinematics.forward_all(q)
    assert frames.shape == (7, 4, 4)
    np.testing.assert_allclose(frames[5] @ kinematics.T_tool0_tcp, frames[6], atol=1e-12)
    np.testing.assert_allclose(frames[6], kinematics.forward(q), atol=1e-15)


@pytest.mark.parametrize("deltas", [None, DhDeltas.random(7)], ids=["nominal", "calibrated"])
def test_jacobian_equals_finite_differences(deltas: DhDeltas | None) -> None:
    kinematics = Kinematics(deltas=deltas)
    step = 1e-6
    for q in random_joints(50, 3):
        J = kinematics.jacobian(q)
        for i in range(6):
            dq = np.zeros(6)
            dq[i] = step
            T_plus, T_minus = kinematics.forward(q + dq), kinematics.forward(q - dq)
            linear = (T_plus[:3, 3] - T_minus[:3, 3]) / (2 * step)
            spin = (T_plus[:3, :3] - T_minus[:3, :3]) / (2 * step) @ kinematics.forward(q)[:3, :3].T
            angular = [spin[2, 1], spin[0, 2], spin[1, 0]]
            np.testing.assert_allclose(J[:, i], np.concatenate([linear, angular]), atol=1e-8)


def test_inverse_returns_to_the_same_joints_on_the_nominal_arm() -> None:
    kinematics = Kinematics()
    for q in random_joints(3000, 4):
        np.testing.assert_allclose(kinematics.inverse(kinematics.forward(q), q), q, atol=1e-6)


def test_inverse_reaches_the_pose_of_a_calibrated_arm() -> None:
    kinematics = Kinematics(deltas=DhDeltas.random(3))
    same = 0
    for q in random_joints(1000, 5):
        T = kinematics.forward(q)
        found = kinematics.inverse(T, q)
        np.testing.assert_allclose(kinematics.forward(found), T, atol=1e-9)
        same += bool(np.abs(found - q).max() < 1e-5)
    assert same >= 995  # beside a singular posture another posture may be as near


def test_calibrated_and_nominal_arm_disagree_by_about_a_millimetre() -> None:
    gaps = [
        np.linalg.norm((Kinematics(deltas=DhDeltas.random(seed)).forward(HOME) - Kinematics().forward(HOME))[:3, 3])
        for seed in range(20)
    ]
    assert 0.3e-3 < float(np.median(gaps)) < 6e-3


def test_all_inverse_gives_eight_different_branches_that_reach_the_pose() -> None:
    kinematics = Kinematics()
    T = kinematics.forward(HOME + 0.3)
    branches = kinematics.all_inverse(T)
    assert len(branches) == 8
    for i, branch in enumerate(branches):
        np.testing.assert_allclose(kinematics.forward(branch), T, atol=1e-9)
        assert all(np.abs(branch - other).max() > 1e-3 for other in branches[:i])


def test_inverse_chooses_the_whole_turn_near_the_arm_within_limits() -> None:
    kinematics = Kinematics()
    q = HOME + np.array([0.1, 0.0, 0.0, 0.0, 0.0, 6.0])
    T = kinematics.forward(q)
    np.testing.assert_allclose(kinematics.inverse(T, q), q, atol=1e-9)
    np.testing.assert_allclose(kinematics.inverse(T, HOME)[5], 6.0 - 2 * math.pi, atol=1e-9)
    beyond = q.copy()
    beyond[5] = 6.3  # a hair past the limit of one turn: the answer must come back inside
    found = kinematics.inverse(kinematics.forward(beyond), beyond)
    assert np.all(np.abs(found) <= np.array(JOINT_POSITION_LIMITS_RAD) + 1e-12)


@pytest.mark.parametrize("q6", [-3.0, 0.0, 0.7, 2.5])
@pytest.mark.parametrize("deltas", [None, DhDeltas.random(5)], ids=["nominal", "calibrated"])
def test_straight_wrist_keeps_the_last_joint_where_it_is(q6: float, deltas: DhDeltas | None) -> None:
    kinematics = Kinematics(deltas=deltas)
    q = np.array([0.2, -1.2, 1.4, -0.8, 0.0, q6])
    found = kinematics.inverse(kinematics.forward(q), q)
    np.testing.assert_allclose(found, q, atol=1e-6)


def test_a_path_through_the_straight_wrist_has_no_jump() -> None:
    kinematics = Kinematics()
    q = np.array([0.2, -1.2, 1.4, -0.8, -0.05, 0.4])
    for q5 in np.linspace(-0.05, 0.05, 101):
        true = np.array([0.2, -1.2, 1.4, -0.8, q5, 0.4])
        found = kinematics.inverse(kinematics.forward(true), q)
        assert np.abs(found - q).max() < 0.01
        q = found


@pytest.mark.parametrize("deltas", [None, DhDeltas.random(5)], ids=["nominal", "calibrated"])
def test_a_pose_too_far_away_is_refused_with_pose_and_reason(deltas: DhDeltas | None) -> None:
    T = Kinematics().forward(HOME)
    T[:3, 3] = [-2.0, 0.0, 0.3]
    with pytest.raises(Unreachable, match=r"-2\.000.*out of reach.*shoulder") as caught:
        Kinematics(deltas=deltas).inverse(T, HOME)
    np.testing.assert_array_equal(caught.value.T_base_tcp, T)


def test_a_pose_inside_the_base_column_is_refused() -> None:
    T = Kinematics().forward(HOME)
    T[:3, 3] = [0.0, 0.0, 0.5]
    with pytest.raises(Unreachable, match="base axis"):
        Kinematics().inverse(T, HOME)


def test_nan_pose_is_refused() -> None:
    T = Kinematics().forward(HOME)
    T[0, 3] = math.nan
    with pytest.raises(Unreachable, match="NaN"):
        Kinematics().inverse(T, HOME)


def test_a_table_that_is_not_of_ur_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="UR geometry"):
        Kinematics(dh=DhTable(a=UR30_DH.a, d=UR30_DH.d, alpha=(0.0,) * 6))
    with pytest.raises(ValueError, match="six numbers"):
        DhTable(a=(0.0,), d=UR30_DH.d, alpha=UR30_DH.alpha)


def test_inverse_is_cheap_enough_for_a_real_time_loop() -> None:
    kinematics = Kinematics()
    q = HOME.tolist()
    T = kinematics.forward(q)
    fastest = math.inf
    for _ in range(200):
        begin = time.perf_counter()
        kinematics.inverse(T, q)
        fastest = min(fastest, time.perf_counter() - begin)
    assert fastest < 1e-3  # typically 30 us; the bound only catches a change of kind
