"""Tasks and placements: what may be trained on, what is held out, and that every placement can be reached."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from robot_bridge.twin.tasks import (
    HELD_OUT_CLEARANCE_M,
    TASK_IDS,
    TASKS,
    Placement,
    get_task,
    held_out_placements,
    sample_placement,
    top_down,
    yaw_of,
)
from robot_bridge.twin.world import HOME_Q_RAD
from robot_bridge.ur_kinematics import Kinematics

each_task = pytest.mark.parametrize("task_id", TASK_IDS)


@each_task
def test_held_out_grid_visits_every_cell_once_and_never_changes(task_id: str) -> None:
    placements = held_out_placements(task_id)
    assert len({p.cell for p in placements}) == len(placements) == 20
    assert placements == held_out_placements(task_id)
    assert held_out_placements(task_id, 7) == placements[:7]


def test_held_out_placements_are_the_published_ones() -> None:
    """Results are comparable over time only while these stay where they are."""
    first, last = held_out_placements("place_cube")[0], held_out_placements("place_cube")[19]
    assert first.cell == (0, 0)
    assert first.objects["cube"][:2] == pytest.approx((-0.80375, -0.224))
    assert first.objects["bowl"][:2] == pytest.approx((-0.6074847, -0.0110958), abs=1e-6)
    assert last.cell == (1, 2)
    assert last.objects["bowl"][:2] == pytest.approx((-0.5145676, 0.0415122), abs=1e-6)


@each_task
def test_any_prefix_of_the_grid_is_spread_over_the_table(task_id: str) -> None:
    name = get_task(task_id).primary.name
    ys = [p.objects[name][1] for p in held_out_placements(task_id, 5)]
    xs = [p.objects[name][0] for p in held_out_placements(task_id, 5)]
    assert max(ys) - min(ys) > 0.4
    assert max(xs) - min(xs) > 0.2


@each_task
def test_more_placements_than_cells_vary_what_is_not_on_the_grid(task_id: str) -> None:
    placements = held_out_placements(task_id, 40)
    name = get_task(task_id).primary.name
    for one, two in zip(placements[:20], placements[20:], strict=True):
        assert one.objects[name][:2] == two.objects[name][:2]
        assert one.seed != two.seed


@each_task
def test_training_placements_keep_off_the_held_out_positions(task_id: str) -> None:
    rng = np.random.default_rng(1)
    name = get_task(task_id).primary.name
    held_out = [p.objects[name][:2] for p in held_out_placements(task_id)]
    for _ in range(500):
        x, y, _ = sample_placement(task_id, rng).objects[name]
        assert min(math.dist((x, y), other) for other in held_out) >= HELD_OUT_CLEARANCE_M


@each_task
def test_placements_stay_in_range_and_apart(task_id: str) -> None:
    task = get_task(task_id)
    rng = np.random.default_rng(2)
    for placement in [*held_out_placements(task_id, 40), *(sample_placement(task_id, rng) for _ in range(300))]:
        assert set(placement.objects) == {spec.name for spec in task.placed}
        for spec in task.placed:
            x, y, yaw = placement.objects[spec.name]
            assert spec.x_m[0] <= x <= spec.x_m[1]
            assert spec.y_m[0] <= y <= spec.y_m[1]
            assert spec.yaw_rad[0] <= yaw <= spec.yaw_rad[1]
        for a, b in itertools.combinations(placement.objects.values(), 2):
            assert math.dist(a[:2], b[:2]) >= task.min_separation_m


@each_task
def test_training_placements_cover_the_workspace_evenly(task_id: str) -> None:
    rng = np.random.default_rng(3)
    spec = get_task(task_id).primary
    points = np.array([sample_placement(task_id, rng).objects[spec.name][:2] for _ in range(800)])
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=2, range=[spec.x_m, spec.y_m])
    assert counts.min() > 130, "each quarter of the table should hold about 200 of 800"


def test_sampling_follows_the_generator() -> None:
    one = sample_placement("place_bowl", np.random.default_rng(5))
    two = sample_placement("place_bowl", np.random.default_rng(5))
    three = sample_placement("place_bowl", np.random.default_rng(6))
    assert one == two != three


@each_task
def test_every_grasp_and_release_is_reachable_top_down_from_home(task_id: str) -> None:
    task = get_task(task_id)
    kinematics = Kinematics()
    corners = [itertools.product(s.x_m, s.y_m, s.yaw_rad) for s in task.placed]
    for poses in itertools.product(*corners):
        frames = {}
        for spec, (x, y, yaw) in zip(task.placed, poses, strict=True):
            T = np.eye(4)
            T[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
            T[:3, 3] = (x, y, 0.02)
            frames[spec.name] = T
        frames.setdefault("tissue", frames[task.primary.name])
        for side in range(len(task.grasp.grasp_offsets_m)):
            goals = [task.grasp.grasp_pose(frames[task.grasp.object], side)]
            if task.grasp.target is not None:
                goals.append(task.grasp.place_pose(frames[task.grasp.target], goals[0], side))
            for T in goals:
                above = T.copy()
                above[2, 3] += 0.15
                q = kinematics.inverse(T, kinematics.inverse(above, HOME_Q_RAD))
                assert np.abs(q - HOME_Q_RAD).max() < 2.2, "the arm must not turn over on the way from home"


def test_grasp_follows_the_cube_by_the_shortest_turn() -> None:
    plan = TASKS["place_cube"].grasp
    for degrees in (-100.0, -60.0, -15.0, 0.0, 20.0, 80.0, 170.0):
        T = np.eye(4)
        yaw = math.radians(degrees)
        T[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
        turned = math.degrees(yaw_of(plan.grasp_pose(T)))
        assert abs(turned) <= 45.0
        assert (turned - degrees) % 90.0 == pytest.approx(0.0, abs=1e-9) or (turned - degrees) % 90.0 == pytest.approx(
            90.0
        )


def test_yaw_zero_is_the_home_orientation() -> None:
    np.testing.assert_allclose(Kinematics().forward(HOME_Q_RAD)[:3, :3], top_down((0, 0, 0))[:3, :3], atol=1e-12)
    assert yaw_of(top_down((0.1, 0.2, 0.3), 0.4)) == pytest.approx(0.4)


def test_placement_survives_json() -> None:
    placement = held_out_placements("place_bowl")[4]
    assert Placement.from_json(json.loads(json.dumps(placement.to_json()))) == placement
    assert Placement.from_json(json.dumps(placement.to_json())) == placement


def test_bad_placements_are_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"unknown task 'stack'.*grasp_bottle, place_cube"):
        Placement.from_json({"task": "stack", "objects": {}})
    with pytest.raises(ValueError, match=r"must place \['bowl', 'cube'\], got \['cube'\]"):
        Placement.from_json({"task": "place_cube", "objects": {"cube": [-0.6, 0, 0]}})
    with pytest.raises(ValueError, match="three finite numbers"):
        Placement.from_json({"task": "grasp_bottle", "objects": {"bottle": [-0.6, float("nan"), 0]}})
    with pytest.raises(ValueError, match="needs the keys task and objects"):
        Placement.from_json({"objects": {}})
    with pytest.raises(ValueError, match="n=0"):
        held_out_placements("place_cube", 0)


@each_task
def test_each_task_says_in_words_what_success_is(task_id: str) -> None:
    task = get_task(task_id)
    assert task.primary.name.split("_")[0] in task.success_words
    assert len(task.success_words) > 60
    assert task.instruction
