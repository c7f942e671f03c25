"""The calibration scenes: board and camera are where the truth says, to a fraction of a pixel."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from calibration.board import DEFAULT_BOARD, detect
from calibration.camera import PinholeCamera
from calibration.poses import inverse
from robot_bridge.twin.calibration_scene import nominal_T_tool_board, secret_T_base_board, secret_T_tool_board
from robot_bridge.twin.camera_place import nominal_T_tool_camera, nudged, secret_pose
from robot_bridge.twin.operator import ScriptedOperator
from robot_bridge.twin.render import Renderer, twin_camera
from robot_bridge.twin.shared_state import WorldStateReader, WorldStateWriter
from robot_bridge.twin.tasks import SCENE_IDS, TASK_IDS, Placement, get_task, held_out_placements
from robot_bridge.twin.world import World
from robot_bridge.ur_kinematics import Kinematics
from tests.helpers.board_views import CornerErrors, corner_errors, diverse_poses

WIDTH, HEIGHT = 848, 480
SEED = 3


def _report(name: str, found: list[CornerErrors]) -> CornerErrors:
    together = CornerErrors(np.concatenate([errors.pixels_N2 for errors in found]))
    print(f"{name}, {len(found)} poses, {together}")
    return together


def _assert_exact(errors: CornerErrors) -> None:
    distance = np.linalg.norm(errors.pixels_N2, axis=1)
    assert errors.rms < 0.12
    assert np.quantile(distance, 0.95) < 0.2
    assert np.abs(errors.pixels_N2.mean(axis=0)).max() < 0.02, "picture and truth are shifted against each other"


def test_board_on_the_tool_is_seen_by_the_fixed_camera_where_the_truth_says() -> None:
    world = World("calibration", seed=SEED)
    camera = dataclasses.replace(twin_camera(WIDTH, HEIGHT), T_camera_base=inverse(secret_pose("fixed", 11)))
    with Renderer("calibration", deltas=world.deltas, seed=SEED, camera=camera) as renderer:
        found = [
            corner_errors(renderer.render_color(world.qpos), camera, world.object_poses()["board"])
            for _ in diverse_poses(world, (-0.65, 0.0, 0.33), 12)
        ]
    together = _report("fixed camera, board on the tool", found)
    assert len(together.pixels_N2) > 10 * DEFAULT_BOARD.corner_count
    _assert_exact(together)


def test_board_on_the_table_is_seen_by_the_camera_on_the_tool_where_the_truth_says() -> None:
    world = World("calibration_table", seed=SEED)
    found = []
    with Renderer("calibration_table", WIDTH, HEIGHT, deltas=world.deltas, seed=SEED) as renderer:
        T_tool_camera = secret_pose("tool", 11)
        renderer.ride(T_tool_camera)
        for _ in diverse_poses(world, (-0.64, 0.0, 0.40), 12, (0.08, 0.08, 0.05), 0.3):
            image = renderer.render_color(world.qpos)
            np.testing.assert_allclose(renderer.camera.T_base_camera, world.T_base_tcp @ T_tool_camera, atol=1e-9)
            found.append(corner_errors(image, renderer.camera, world.object_poses()["board"]))
    together = _report("camera on the tool, board on the table", found)
    assert len(together.pixels_N2) > 10 * DEFAULT_BOARD.corner_count
    _assert_exact(together)


def test_any_lens_is_drawn_as_the_camera_model_says() -> None:
    world = World("calibration_table", seed=SEED)
    world.reset(None, q=(1.0, -1.57, 1.57, -1.57, -1.57, 0.0))
    place = twin_camera().T_camera_base
    lens = PinholeCamera(705.0, 640.0, 390.0, 150.0, WIDTH, HEIGHT, place)
    with Renderer("calibration_table", deltas=world.deltas, seed=SEED, camera=lens) as renderer:
        errors = corner_errors(renderer.render_color(world.qpos), lens, world.object_poses()["board"])
        print(f"odd lens: {errors}")
        _assert_exact(errors)
        renderer.aim(twin_camera(WIDTH, HEIGHT))
        errors = corner_errors(renderer.render_color(world.qpos), renderer.camera, world.object_poses()["board"])
        assert errors.rms < 0.15, "the lens of before is gone"


def test_depth_of_the_board_is_its_distance() -> None:
    world = World("calibration_table", seed=SEED)
    world.reset(None, q=(1.0, -1.57, 1.57, -1.57, -1.57, 0.0))
    with Renderer("calibration_table", WIDTH, HEIGHT, deltas=world.deltas, seed=SEED) as renderer:
        _, depth = renderer.render(world.qpos)
        T = world.object_poses()["board"]
        pixels, expected = renderer.camera.project(DEFAULT_BOARD.corners_board_N3 @ T[:3, :3].T + T[:3, 3])
    columns, rows = np.rint(pixels).astype(int).T
    np.testing.assert_allclose(depth[rows, columns], expected, atol=0.002)


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_nominal_camera_draws_the_same_picture_placed_or_not(task_id: str) -> None:
    world = World(task_id, seed=SEED)
    world.reset(held_out_placements(task_id)[1])
    with Renderer(task_id, 424, 240, deltas=world.deltas) as renderer:
        before = renderer.render(world.qpos)
    with Renderer(task_id, deltas=world.deltas, seed=99, camera=twin_camera()) as renderer:
        renderer.aim(dataclasses.replace(twin_camera(), T_camera_base=inverse(secret_pose("fixed", 1))))
        elsewhere = renderer.render_color(world.qpos)
        renderer.aim(twin_camera())
        again = renderer.render(world.qpos)
    np.testing.assert_array_equal(before[0], again[0])
    np.testing.assert_allclose(before[1], again[1], atol=1e-6)
    assert np.mean(elsewhere != before[0]) > 0.3


def test_camera_that_cannot_be_drawn_is_refused() -> None:
    with Renderer("calibration", 424, 240) as renderer:
        with pytest.raises(ValueError, match=r"draws 424x240, the camera is 848x480; use camera\.resized"):
            renderer.aim(twin_camera(848, 480))
        with pytest.raises(ValueError, match="without distortion"):
            renderer.aim(dataclasses.replace(twin_camera(), distortion=np.array([0.1, 0.0, 0.0, 0.0, 0.0])))


def test_secret_places_differ_by_seed_and_stay_within_bounds() -> None:
    for mount in ("fixed", "tool"):
        nominal = secret_pose(mount, 0)
        places = [secret_pose(mount, seed) for seed in range(1, 40)]
        offsets_mm = np.array([1e3 * (inverse(nominal) @ T)[:3, 3] for T in places])
        turns = np.array([inverse(nominal) @ T for T in places])[:, :3, :3]
        degrees = np.degrees(np.arccos(np.clip((np.trace(turns, axis1=1, axis2=2) - 1.0) / 2.0, -1.0, 1.0)))
        assert np.abs(offsets_mm).max() <= 60.0
        assert 15.0 < offsets_mm.std() < 45.0
        assert degrees.max() <= 6.0 * np.sqrt(3.0)
        assert np.median(degrees) > 3.0
        np.testing.assert_array_equal(places[4], secret_pose(mount, 5))
    with pytest.raises(ValueError, match="fixed or tool, got 'drone'"):
        secret_pose("drone", 1)
    mounts = [inverse(nominal_T_tool_board()) @ secret_T_tool_board(seed) for seed in range(20)]
    assert 2.0 < 1e3 * np.array([T[:3, 3] for T in mounts]).std() < 5.0
    assert len({secret_T_base_board(seed).tobytes() for seed in range(20)}) == 20


def test_board_on_the_tool_moves_with_it_and_is_mounted_where_the_seed_says() -> None:
    world = World("calibration", seed=SEED)
    for _ in diverse_poses(world, (-0.65, 0.0, 0.33), 3):
        T_tool_board = inverse(world.T_base_tcp) @ world.object_poses()["board"]
        np.testing.assert_allclose(T_tool_board, secret_T_tool_board(SEED), atol=1e-9)
    for _ in range(50):
        world.step([0.1, -1.4, 1.5, -1.5, -1.5, 0.2], 0.5)
    T_tool_board = inverse(world.T_base_tcp) @ world.object_poses()["board"]
    np.testing.assert_allclose(T_tool_board, secret_T_tool_board(SEED), atol=1e-9)


def test_nudge_moves_the_picture_by_the_projected_amount() -> None:
    world = World("calibration_table", seed=SEED)
    world.reset(None, q=(1.0, -1.57, 1.57, -1.57, -1.57, 0.0))
    T = world.object_poses()["board"]
    points = DEFAULT_BOARD.corners_board_N3 @ T[:3, :3].T + T[:3, 3]
    camera = twin_camera(WIDTH, HEIGHT)
    with Renderer("calibration_table", deltas=world.deltas, seed=SEED, camera=camera) as renderer:
        before = detect(renderer.render_color(world.qpos), DEFAULT_BOARD)
        for delta in ((0.005, 0, 0, 0, 0, 0), (0, 0, 0, 0, np.radians(0.5), 0), (0, -0.01, 0.01, 0.01, 0, 0.02)):
            T_moved = nudged(camera.T_base_camera, delta)
            moved = dataclasses.replace(camera, T_camera_base=inverse(T_moved))
            renderer.aim(moved)
            after = detect(renderer.render_color(world.qpos), DEFAULT_BOARD)
            assert before is not None and after is not None
            ids, i, j = np.intersect1d(before.ids_N, after.ids_N, return_indices=True)
            seen = (after.corners_px_N2[j] - before.corners_px_N2[i]).mean(axis=0)
            expected = (moved.project(points[ids])[0] - camera.project(points[ids])[0]).mean(axis=0)
            print(f"nudge {delta}: picture moves by {seen.round(3)} px, projected {expected.round(3)} px")
            assert np.linalg.norm(expected) > 2.0
            np.testing.assert_allclose(seen, expected, atol=0.05)


def test_tool_camera_sees_the_fingers_below_and_the_table_above() -> None:
    world = World("calibration_table", seed=SEED)
    with Renderer("calibration_table", WIDTH, HEIGHT, deltas=world.deltas, seed=SEED) as renderer:
        renderer.ride(nominal_T_tool_camera())
        image = renderer.render_color(world.qpos)
        (column, row), depth = (values[0] for values in renderer.camera.project([world.T_base_tcp[:3, 3]]))
    assert depth == pytest.approx(0.147, abs=0.005)
    assert abs(column - WIDTH / 2) < 2.0 and HEIGHT / 2 < row < HEIGHT
    assert image[-20:, 200:600].max() < 80, "the dark palm is at the lower edge"
    assert image[:100].min() > 100, "nothing dark above"


def test_calibration_scenes_are_no_tasks() -> None:
    assert SCENE_IDS[:4] == TASK_IDS == ("grasp_bottle", "place_cube", "pull_tissue", "place_bowl")
    for scene_id in ("calibration", "calibration_table"):
        with pytest.raises(ValueError, match="unknown task"):
            get_task(scene_id)
        with pytest.raises(ValueError, match="unknown task"):
            ScriptedOperator(scene_id, np.random.default_rng(0), Kinematics())
        assert not World(scene_id).success().success
    with pytest.raises(ValueError, match=r"unknown task 'fold'.*place_bowl.*calibration_table"):
        World("fold")


def test_placement_of_the_board_goes_through_json() -> None:
    for board, scene_id in (("tool", "calibration"), ("table", "calibration_table")):
        assert Placement.from_json({"board": board}) == Placement(scene_id)
        text = json.dumps(Placement(scene_id, seed=4).to_json())
        assert Placement.from_json(text) == Placement(scene_id, seed=4)
        assert json.loads(text)["board"] == board
    with pytest.raises(ValueError, match="the board is on the tool or the table, got 'wall'"):
        Placement.from_json({"board": "wall"})
    assert "board" not in held_out_placements("place_cube")[0].to_json()


def test_world_state_carries_the_calibration_scene(tmp_path: Path) -> None:
    world = World("calibration", seed=SEED)
    writer = WorldStateWriter(tmp_path)
    state = {"qpos": world.qpos, "q": world.q, "qd": world.qd, "T_base_tcp": world.T_base_tcp}
    flags = {"gripper_opening": 1.0, "gripper_target": 1.0, "object_detected": False, "robot_mode": 7, "safety_mode": 1}
    poses = world.object_poses()
    writer.write(tick=1, stamp_ns=5, task=world.task.id, scene_revision=1, objects=poses, **state, **flags)
    read = WorldStateReader(tmp_path).read()
    assert read.task == "calibration"
    np.testing.assert_array_equal(read.objects["board"], poses["board"])
    writer.close()
