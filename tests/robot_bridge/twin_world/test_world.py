"""The world as the controller sees it: deterministic, honest about forces, strict about its input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from robot_bridge.twin.tasks import TASK_IDS, held_out_placements, sample_placement
from robot_bridge.twin.world import HOME_Q_RAD, TIMESTEP_S, World, WorldDiverged


def _swing(world: World, ticks: int) -> None:
    for tick in range(ticks):
        target = np.array(HOME_Q_RAD) + 0.1 * np.sin(2.0 * tick * TIMESTEP_S)
        world.step(target.tolist(), 0.5 + 0.5 * np.cos(tick * TIMESTEP_S))


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_same_placement_gives_the_same_world_bit_by_bit(task_id: str) -> None:
    placement = held_out_placements(task_id)[3]
    one, two = World(task_id, seed=4), World(task_id, seed=4)
    one.reset(placement)
    _swing(one, 300)
    two.reset(sample_placement(task_id, np.random.default_rng(0)))
    _swing(two, 100)
    two.reset(placement)
    _swing(two, 300)
    assert one.qpos.tobytes() == two.qpos.tobytes()
    assert one.success() == two.success()


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_objects_stand_still_where_they_were_placed(task_id: str) -> None:
    world = World(task_id)
    for placement in held_out_placements(task_id, 4):
        world.reset(placement)
        poses = world.object_poses()
        for name, (x, y, yaw) in placement.objects.items():
            T = poses[name]
            assert T[:2, 3] == pytest.approx((x, y), abs=5e-4)
            assert np.arctan2(T[1, 0], T[0, 0]) == pytest.approx(yaw, abs=0.005)
            assert T[2, 2] > 0.9999
        assert max(world.scene_state().speed_mps.values()) < 2e-3
        assert (world.tick, world.time_s) == (0, 0.0)


def test_scene_can_change_under_a_live_arm() -> None:
    world = World("place_cube")
    _swing(world, 200)
    q, revision = world.q, world.scene_revision
    world.reset(held_out_placements("place_cube")[1], q=q, gripper_opening=0.3)
    np.testing.assert_allclose(world.q, q, atol=1e-3)
    assert world.gripper_opening == pytest.approx(0.3, abs=0.01)
    assert world.scene_revision == revision + 1


def test_state_lists_poses_in_the_order_of_the_task() -> None:
    for task_id in TASK_IDS:
        world = World(task_id)
        assert tuple(world.object_poses()) == world.task.objects


def test_wrong_input_is_refused_and_moves_nothing() -> None:
    world = World("place_cube")
    with pytest.raises(ValueError, match="unknown task 'juggle'"):
        World("juggle")
    with pytest.raises(ValueError, match="place_cube, the placement is for grasp_bottle"):
        world.reset(held_out_placements("grasp_bottle")[0])
    before = world.qpos
    with pytest.raises(ValueError, match="not finite"):
        world.step([0.0, float("nan"), 0.0, 0.0, 0.0, 0.0], 1.0)
    with pytest.raises(ValueError, match="not finite"):
        world.step(list(HOME_Q_RAD), float("inf"))
    with pytest.raises(ValueError, match=r"22 positions, got shape \(3,\)"):
        world.set_qpos([0.0, 0.0, 0.0])
    np.testing.assert_array_equal(world.qpos, before)


def test_diverged_physics_is_reported_and_healed_by_reset() -> None:
    world = World("place_cube")
    world.data.qvel[10] = np.nan
    with pytest.raises(WorldDiverged, match="reset the scene"):
        _swing(world, 60)
    world.reset(held_out_placements("place_cube")[0])
    _swing(world, 60)
    assert np.isfinite(world.qpos).all()


def test_flange_feels_the_weight_of_what_is_lifted(hand: Callable) -> None:
    h = hand("grasp_bottle")
    h.wait(0.2)
    np.testing.assert_allclose(h.world.tcp_force(), 0.0, atol=0.05)
    h.grasp()
    h.wait(0.5)
    weight_n = float(h.world.model.body("bottle").mass[0]) * 9.81
    assert h.world.tcp_force()[2] == pytest.approx(-weight_n, abs=0.1)


def test_free_motion_and_grasping_stay_far_below_a_collision(hand: Callable) -> None:
    peak = [0.0]

    def watch(world: World) -> None:
        peak[0] = max(peak[0], world.arm_collision_force)

    assert hand("place_cube", held_out_placements("place_cube")[6], watch).do_task().success
    assert peak[0] < 40.0


def test_pushing_into_the_table_is_felt(hand: Callable) -> None:
    peak = [0.0]

    def watch(world: World) -> None:
        peak[0] = max(peak[0], world.arm_collision_force)

    h = hand("grasp_bottle", None, watch)
    T = h.T.copy()
    T[:3, 3] = (-0.60, -0.20, 0.05)
    h.move(T)
    assert peak[0] < 40.0
    T[2, 3] = 0.005
    h.move(T, 0.05)
    assert peak[0] > 200.0
    assert h.world.tcp_force()[2] > 200.0, "the table pushes up"


def test_forearm_on_the_table_is_felt_without_the_gripper() -> None:
    world = World("grasp_bottle")
    q = np.radians((0.0, 0.0, 0.0, 90.0, -90.0, 0.0))  # stretched out low over the table, gripper upwards
    world.reset(None, q=q)
    assert world.arm_collision_force < 20.0
    for tick in range(600):
        q[1] = np.radians(12.0) * min(tick, 500) / 500.0
        world.step(q.tolist(), 1.0)
    assert world.arm_collision_force > 100.0
    assert np.linalg.norm(world.tcp_force()[:3]) < 20.0


def test_recorded_positions_can_be_shown_again() -> None:
    world = World("place_bowl", seed=2)
    _swing(world, 200)
    qpos, T = world.qpos, world.T_base_tcp
    other = World("place_bowl", seed=2)
    other.set_qpos(qpos)
    np.testing.assert_allclose(other.T_base_tcp, T, atol=1e-12)
    assert other.object_poses().keys() == world.object_poses().keys()
