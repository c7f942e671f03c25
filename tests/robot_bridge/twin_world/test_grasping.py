"""Objects are held by friction alone: every task can be done by its own plan, and fails when it should."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from calibration.poses import inverse
from robot_bridge.twin.tasks import TASK_IDS, held_out_placements, sample_placement


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_task_is_done_by_its_own_plan(hand: Callable, task_id: str) -> None:
    rng = np.random.default_rng(4)
    for placement in [*held_out_placements(task_id, 2), sample_placement(task_id, rng)]:
        report = hand(task_id, placement).do_task()
        assert report.success, f"{placement}: {report.reason}"


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_doing_nothing_or_forgetting_to_close_is_no_success(hand: Callable, task_id: str) -> None:
    h = hand(task_id)
    h.wait(1.0)
    assert not h.world.success().success
    plan = h.world.task.grasp
    T = plan.grasp_pose(h.world.object_poses()[plan.object])
    h.move(raised(T, 0.1))
    h.move(T, 0.15)
    h.move(raised(T, plan.lift_height_m))
    h.wait(0.7)
    report = h.world.success()
    assert not report.success
    assert report.reason.startswith("not: ")


@pytest.mark.parametrize("task_id", ["grasp_bottle", "place_cube", "place_bowl"])
def test_held_object_does_not_slip_when_lifted_and_carried(hand: Callable, task_id: str) -> None:
    h = hand(task_id)
    name = h.world.task.grasp.object
    T_grasp = h.grasp()
    held = inverse(h.world.T_base_tcp) @ h.world.object_poses()[name]
    away = raised(T_grasp, 0.2)
    away[1, 3] += 0.25
    h.move(away, 0.25)
    h.move(raised(T_grasp, 0.15), 0.25)
    now = inverse(h.world.T_base_tcp) @ h.world.object_poses()[name]
    assert np.linalg.norm(now[:3, 3] - held[:3, 3]) < 0.0015
    assert _turned_deg(held, now) < 1.0
    h.wait(5.0)
    later = inverse(h.world.T_base_tcp) @ h.world.object_poses()[name]
    assert np.linalg.norm(later[:3, 3] - now[:3, 3]) < 0.0008, "creep"
    assert h.world.gripper_object_detected


@pytest.mark.parametrize(("dx_m", "dy_m"), [(0.006, 0.008), (-0.006, -0.008)])
def test_grasp_tolerates_a_human_aim(hand: Callable, dx_m: float, dy_m: float) -> None:
    """A few millimetres beside the centre: the closing fingers centre the cube and still hold it."""
    h = hand("place_cube")
    T = h.world.task.grasp.grasp_pose(h.world.object_poses()["cube"])
    T[:2, 3] += (dx_m, dy_m)
    h.move(raised(T, 0.1))
    h.move(T, 0.15)
    h.grip(0.0)
    h.move(raised(T, 0.15))
    assert h.world.object_poses()["cube"][2, 3] > 0.14


def test_bowl_can_be_taken_at_either_side(hand: Callable) -> None:
    for side in (0, 1):
        assert hand("place_bowl", held_out_placements("place_bowl")[2]).do_task(side).success


def test_dropping_the_cube_beside_the_bowl_is_no_success(hand: Callable) -> None:
    h = hand("place_cube")
    T = h.grasp()
    h.grip(1.0, 0.6)
    h.move(raised(T, 0.2))
    h.wait(0.7)
    report = h.world.success()
    assert not report.terms["cube is over the bowl"]
    assert report.terms["cube is at rest"]
    assert not report.success


def test_holding_the_cube_in_the_bowl_is_not_yet_success(hand: Callable) -> None:
    h = hand("place_cube")
    plan = h.world.task.grasp
    T_place = plan.place_pose(h.world.object_poses()["bowl"], h.grasp())
    h.move(raised(T_place, 0.08))
    h.move(raised(T_place, -0.03), 0.1)
    h.wait(0.7)
    report = h.world.success()
    assert report.terms["cube is over the bowl"]
    assert report.terms["cube is below the rim"]
    assert not report.terms["gripper is open"]
    assert not report.success


def test_success_needs_its_dwell_time(hand: Callable) -> None:
    h = hand("grasp_bottle")
    plan = h.world.task.grasp
    T = plan.grasp_pose(h.world.object_poses()["bottle"])
    h.move(raised(T, plan.approach_height_m))
    h.move(T, 0.15)
    h.grip(0.0)
    h.move(raised(T, 0.105))
    while h.world.success().reason.startswith("not"):
        h.tick()
    early = h.world.success()
    assert not early.success
    assert "0.5 s" in early.reason
    h.wait(0.6)
    assert h.world.success().success


def test_pulled_tissue_comes_free_and_follows_the_gripper(hand: Callable) -> None:
    h = hand("pull_tissue")
    T = h.grasp()
    assert h.world.success().terms["tissue is pulled out at least 8 cm"]
    away = raised(T, 0.15)
    away[1, 3] += 0.15
    box = h.world.object_poses()["tissue_box"]
    h.move(away)
    poses = h.world.object_poses()
    assert np.linalg.norm(poses["tissue"][:3, 3] - h.world.T_base_tcp[:3, 3]) < 0.03
    assert np.linalg.norm(poses["tissue_box"][:3, 3] - box[:3, 3]) < 0.002, "the box stays"
    h.grip(1.0, 1.5)
    assert h.world.object_poses()["tissue"][2, 3] < T[2, 3] + 0.10, "let go, it falls"


def test_reset_puts_a_pulled_tissue_back(hand: Callable) -> None:
    h = hand("pull_tissue")
    h.grasp()
    h.world.reset(held_out_placements("pull_tissue")[0])
    for _ in range(200):
        h.world.step(h.world.q.tolist(), 1.0)
    report = h.world.success()
    assert not report.terms["tissue is pulled out at least 8 cm"]
    assert h.world.object_poses()["tissue"][2, 3] == pytest.approx(0.135, abs=0.003)


def test_arm_and_objects_stay_sane_under_rough_handling(hand: Callable) -> None:
    """Fingers pushed against objects and the table at random: nothing flies off, nothing diverges."""
    rng = np.random.default_rng(7)
    for task_id in TASK_IDS:
        h = hand(task_id, sample_placement(task_id, rng))
        for _ in range(4):
            poses = list(h.world.object_poses().values())
            goal = poses[rng.integers(len(poses))].copy()
            T = h.T.copy()
            T[:3, 3] = goal[:3, 3] + rng.normal(0.0, 0.02, 3)
            T[2, 3] = rng.uniform(0.012, 0.12)
            T[:3, 3] = np.clip(T[:3, 3], (-0.9, -0.4, 0.012), (-0.4, 0.4, 0.5))
            h.move(T)
            h.grip(float(rng.uniform(0.0, 1.0)), 0.3)
            assert all(speed < 5.0 for speed in h.world.scene_state().speed_mps.values())
        assert np.abs(h.world.q - h.q).max() < 0.2


def raised(T: np.ndarray, height_m: float) -> np.ndarray:
    T = T.copy()
    T[2, 3] += height_m
    return T


def _turned_deg(T_a: np.ndarray, T_b: np.ndarray) -> float:
    cosine = (np.trace(T_a[:3, :3].T @ T_b[:3, :3]) - 1.0) / 2.0
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))
