"""The pictures agree with the camera model, with the physics, and with each other."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from robot_bridge.twin.render import D455Noise, Renderer, RenderError, twin_camera
from robot_bridge.twin.tasks import TASK_IDS, held_out_placements
from robot_bridge.twin.world import World


@pytest.fixture(scope="module")
def cube_world() -> World:
    return World("place_cube", dh_deltas=False)


def _red(rgb: np.ndarray) -> np.ndarray:
    r, g, b = (rgb[..., k].astype(int) for k in range(3))
    return (r > 120) & (g < 70) & (b < 70)


def test_cube_appears_where_the_camera_model_projects_it(cube_world: World) -> None:
    with Renderer("place_cube", 424, 240) as renderer:
        for placement in held_out_placements("place_cube", 6):
            cube_world.reset(placement)
            rows, columns = np.nonzero(_red(renderer.render_color(cube_world.qpos)))
            corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * 0.0225
            T = cube_world.object_poses()["cube"]
            pixels, _ = twin_camera(424, 240).project(corners @ T[:3, :3].T + T[:3, 3])
            box = [columns.min(), rows.min(), columns.max(), rows.max()]
            expected = [*pixels.min(axis=0), *pixels.max(axis=0)]
            np.testing.assert_allclose(box, expected, atol=1.1)


def test_depth_measures_the_table_and_the_cube(cube_world: World) -> None:
    placement = held_out_placements("place_cube")[4]
    cube_world.reset(placement)
    camera = twin_camera(424, 240)
    with Renderer("place_cube", 424, 240) as renderer:
        _, depth = renderer.render(cube_world.qpos)
    x, y, _ = placement.objects["cube"]
    table = np.array([[px, py, 0.0] for px in (-0.85, -0.70, -0.55) for py in (-0.33, 0.33)])
    for point in [*table, (x, y, 0.045)]:
        (pixel,), (expected,) = camera.project([point])
        column, row = np.rint(pixel).astype(int)
        measured = camera.unproject([[column, row]], [depth[row, column]])[0]
        assert depth[row, column] == pytest.approx(expected, abs=0.006)
        assert measured[2] == pytest.approx(point[2], abs=0.0015)


def test_narrow_image_is_the_centre_crop_of_the_wide_one(cube_world: World) -> None:
    cube_world.reset(held_out_placements("place_cube")[2])
    with Renderer("place_cube", 424, 240) as wide, Renderer("place_cube", 320, 240) as narrow:
        crop = wide.render(cube_world.qpos)[0][:, 52:372]
        direct = narrow.render_color(cube_world.qpos)
    difference = np.abs(crop.astype(int) - direct.astype(int)).max(axis=2)
    assert np.mean(difference > 2) < 0.002
    camera, cropped = twin_camera(320, 240), twin_camera(424, 240).cropped(52, 0, 320, 240)
    np.testing.assert_allclose(camera.K, cropped.K)


@pytest.mark.parametrize("task_id", TASK_IDS)
def test_policy_image_shows_every_object_and_the_fingers_at_home(task_id: str) -> None:
    world = World(task_id)
    camera = twin_camera(320, 240)
    with Renderer(task_id, 320, 240) as renderer:
        for placement in held_out_placements(task_id, 8):
            world.reset(placement)
            points = [T[:3, 3] for T in world.object_poses().values()] + [world.T_base_tcp[:3, 3]]
            pixels, depth = camera.project(points)
            assert (depth > 0.2).all()
            assert (pixels > 4).all()
            assert (pixels < (315, 235)).all()
            image = renderer.render_color(world.qpos)
            column, row = np.rint(pixels[-1]).astype(int)
            around = image[max(row - 12, 0) : row + 12, column - 24 : column + 24]
            assert around.min() < 60, "the dark fingers are beside the TCP"


def test_image_changes_with_the_gripper_opening(cube_world: World) -> None:
    cube_world.reset(held_out_placements("place_cube")[0])
    closed = cube_world.qpos
    closed[6:8] = 0.0
    with Renderer("place_cube", 320, 240) as renderer:
        difference = np.abs(renderer.render_color(cube_world.qpos).astype(int) - renderer.render_color(closed)).max(
            axis=2
        )
    rows, columns = np.nonzero(difference > 40)
    pixel = twin_camera(320, 240).project([cube_world.T_base_tcp[:3, 3]])[0][0]
    assert len(rows) > 50
    assert np.abs(np.median(columns) - pixel[0]) < 25
    assert rows.max() < 60


def test_renderers_do_not_disturb_each_other(cube_world: World) -> None:
    cube_world.reset(held_out_placements("place_cube")[0])
    qpos = cube_world.qpos
    one = Renderer("place_cube", 320, 240)
    reference = one.render_color(qpos)
    two = Renderer("grasp_bottle", 200, 100)
    np.testing.assert_array_equal(one.render_color(qpos), reference)
    two.close()
    np.testing.assert_array_equal(one.render_color(qpos), reference)
    two = Renderer("place_cube", 320, 240)
    del one
    np.testing.assert_array_equal(two.render_color(qpos), reference)
    two.close()
    two.close()
    with pytest.raises(RenderError, match="closed"):
        two.render_color(qpos)


def test_positions_of_another_task_are_refused() -> None:
    with Renderer("grasp_bottle", 64, 48) as renderer, pytest.raises(ValueError, match="another task"):
        renderer.render_color(np.zeros(22))


def test_another_process_draws_the_same_picture_from_positions_alone(cube_world: World, tmp_path) -> None:
    cube_world.reset(held_out_placements("place_cube")[1])
    np.save(tmp_path / "qpos.npy", cube_world.qpos)
    code = (
        "import sys, numpy as np; from robot_bridge.twin.render import Renderer; "
        "r = Renderer('place_cube', 160, 120); folder = sys.argv[1]; "
        "np.save(folder + '/rgb.npy', r.render_color(np.load(folder + '/qpos.npy')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "nothing may complain at exit"
    with Renderer("place_cube", 160, 120) as renderer:
        np.testing.assert_array_equal(np.load(tmp_path / "rgb.npy"), renderer.render_color(cube_world.qpos))


def test_depth_noise_grows_with_the_square_of_distance_and_is_blind_nearby() -> None:
    noise = D455Noise(np.random.default_rng(0), focal_px=424.0)
    for distance_m, sigma_mm in ((1.0, 1.99), (2.0, 7.94)):
        z16 = noise.apply(np.full((200, 200), distance_m, dtype=np.float32))
        assert z16.dtype == np.uint16
        assert z16.mean() == pytest.approx(1000.0 * distance_m, abs=0.2)
        assert z16.std() == pytest.approx(sigma_mm, rel=0.05)
    assert noise.min_range_m == pytest.approx(0.32, abs=0.01)
    assert not noise.apply(np.full((4, 4), 0.30, dtype=np.float32)).any()
    assert not noise.apply(np.full((4, 4), 7.0, dtype=np.float32)).any()


def test_depth_noise_is_fresh_in_every_frame_and_repeatable() -> None:
    depth = np.full((50, 50), 1.5, dtype=np.float32)
    one, two = D455Noise(np.random.default_rng(3)), D455Noise(np.random.default_rng(3))
    first = one.apply(depth)
    np.testing.assert_array_equal(first, two.apply(depth))
    assert (first != one.apply(depth)).any()
