"""The simulated arm is the arm that the kinematics describe, and it goes where it is told."""

from __future__ import annotations

import numpy as np
import pytest

from robot_bridge.twin.arm_model import EFFORT_LIMIT_NM, JOINTS, LINK_MASS_KG
from robot_bridge.twin.world import HOME_Q_RAD, TIMESTEP_S, World
from robot_bridge.ur_kinematics import Kinematics


@pytest.mark.parametrize("with_deltas", [False, True])
def test_tcp_pose_equals_forward_kinematics(with_deltas: bool) -> None:
    world = World("grasp_bottle", dh_deltas=with_deltas, seed=11)
    kinematics = Kinematics(deltas=world.deltas)
    rng = np.random.default_rng(0)
    for _ in range(40):
        q = rng.uniform(-2 * np.pi, 2 * np.pi, 6)
        qpos = world.qpos
        qpos[:6] = q
        world.set_qpos(qpos)
        np.testing.assert_allclose(world.T_base_tcp, kinematics.forward(q), atol=1e-9)


def test_deltas_belong_to_the_unit_and_differ_by_millimetres_from_nominal() -> None:
    first, again, other = World("grasp_bottle", seed=1), World("grasp_bottle", seed=1), World("grasp_bottle", seed=2)
    assert first.deltas == again.deltas
    assert first.deltas != other.deltas
    nominal = Kinematics().forward(HOME_Q_RAD)[:3, 3]
    assert 1e-4 < np.linalg.norm(first.T_base_tcp[:3, 3] - nominal) < 0.02


def test_links_weigh_what_the_maker_says() -> None:
    model = World("grasp_bottle").model
    masses = [float(model.body(f"link{i}").mass[0]) for i in range(1, 7)]
    assert masses == pytest.approx(LINK_MASS_KG)
    assert float(model.body("gripper").subtreemass[0]) == pytest.approx(0.97, abs=0.05)


def test_arm_tracks_moving_targets_within_milliradians_without_jitter() -> None:
    world = World("grasp_bottle")
    home = np.array(HOME_Q_RAD)
    worst = 0.0
    for tick in range(1500):
        t = tick * TIMESTEP_S
        # 0.3 rad/s at the shoulder is about 0.25 m/s at the TCP; the ramp starts without a jump in velocity.
        ramp = min(t, 1.0)
        target = home + 0.15 * ramp * ramp * np.sin(2.0 * t) * np.array([1.0, 0.5, -0.5, 1.0, 1.0, 1.0])
        world.step(target.tolist(), 1.0)
        worst = max(worst, float(np.abs(world.q - target).max()))
    assert worst < 0.002

    held = world.q.tolist()
    standing = []
    for tick in range(1000):
        world.step(held, 1.0)
        if tick >= 500:
            standing.append(world.q)
    assert np.ptp(np.array(standing), axis=0).max() < 1e-6
    assert np.abs(standing[-1] - held).max() < 1e-4


def test_drives_do_not_exceed_their_torque() -> None:
    world = World("grasp_bottle")
    target = np.array(HOME_Q_RAD) + 0.5
    peak = np.zeros(6)
    for _ in range(200):
        world.step(target.tolist(), 1.0)
        peak = np.maximum(peak, np.abs(world.data.actuator_force[:6]))
    assert (peak <= np.array(EFFORT_LIMIT_NM) + 1e-9).all()
    assert (peak > 0.9 * np.array(EFFORT_LIMIT_NM)).any()


def test_joints_come_first_in_qpos() -> None:
    for task in ("grasp_bottle", "place_cube", "pull_tissue", "place_bowl"):
        model = World(task).model
        assert [int(model.joint(name).qposadr[0]) for name in JOINTS] == [0, 1, 2, 3, 4, 5]
