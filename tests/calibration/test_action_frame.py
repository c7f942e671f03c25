"""Action frames: where they are drawn, how they look, and what happens at the edges of the picture and the world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from benchmarks.action_frames import camera_in_front, chunk, straightforward
from calibration.action_frame import (
    PAPER_STYLE,
    PLUMB_STYLE,
    STYLE,
    draw_over,
    project_action_frames,
    render_action_frames,
    render_at_source,
)
from calibration.action_frame_drawing import ActionFrameStyle, opening_colors
from calibration.camera import PinholeCamera
from calibration.poses import inverse, transform

Array = NDArray[np.float64]
GOLDEN = Path(__file__).parent / "golden" / "action_frames.png"
CAMERA = camera_in_front()
IN_VIEW = transform((-0.6, 0.0, 0.2), Rotation.from_euler("x", np.pi))
LARGE = PinholeCamera(500.0, 500.0, 319.5, 239.5, 640, 480)  # at the origin of base, looking along z


def at(x: float, y: float, z: float, rotation: Rotation | None = None) -> Array:
    return transform((x, y, z), rotation)


def one(T: Array, opening: float, camera: PinholeCamera, style: ActionFrameStyle = STYLE) -> NDArray[np.uint8]:
    return render_action_frames(T[None], np.array([opening]), camera, style=style)[0]


def golden_scene() -> NDArray[np.uint8]:
    """Two arms over four steps: moving, turning, opening, one leaving the picture, one absent in the last step."""
    camera = camera_in_front()
    turn = Rotation.from_euler("xyz", (np.pi, 0.0, 0.0))
    poses = np.empty((4, 2, 4, 4))
    for step in range(4):
        tilt = Rotation.from_euler("zyx", (0.5 * step, 0.3 * step, 0.1)) * turn
        poses[step, 0] = at(-0.75 + 0.1 * step, 0.15 - 0.1 * step, 0.1 + 0.08 * step, tilt)
        poses[step, 1] = at(-0.65, -0.15 - 0.13 * step, 0.2, Rotation.from_euler("z", -0.4 * step) * turn)
    poses[3, 1] = np.nan
    openings = np.array([[0.0, 1.0], [0.35, 0.8], [0.7, 0.6], [1.0, 0.4]])
    a, b, c, d = render_action_frames(poses, openings, camera)
    return np.vstack([np.hstack([a, b]), np.hstack([c, d])])


def test_pictures_look_as_they_did_when_somebody_last_looked_at_them() -> None:
    golden = cv2.imread(str(GOLDEN), cv2.IMREAD_COLOR)
    assert golden is not None
    off = np.abs(golden_scene().astype(int) - golden[..., ::-1]).max(axis=-1)
    # Another OpenCV may shade an edge differently, no more.
    assert (off > 24).mean() < 0.002
    assert off.mean() < 0.2


# ---- where


@st.composite
def cameras_and_poses(draw: st.DrawFn) -> tuple[PinholeCamera, Array]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    T_base_camera = transform(rng.uniform(-1, 1, 3), Rotation.from_rotvec(rng.uniform(-2, 2, 3)))
    size = rng.integers(100, 900, 2)
    focal = rng.uniform(0.8, 2.0, 2) * size.max()
    k = rng.uniform(-0.03, 0.03, 5) * (1, 1, 0.1, 0.1, 0.1)
    camera = PinholeCamera(
        float(focal[0]),
        float(focal[1]),
        float(rng.uniform(0.3, 0.7) * size[0]),
        float(rng.uniform(0.3, 0.7) * size[1]),
        int(size[0]),
        int(size[1]),
        inverse(T_base_camera),
        k if draw(st.booleans()) else None,
    )
    depths = rng.uniform(0.6, 3.0, 5)
    centres = camera.unproject(rng.uniform(0.1, 0.9, (5, 2)) * size, depths)
    return camera, np.stack([transform(p, Rotation.from_rotvec(rng.uniform(-2, 2, 3))) for p in centres])


@settings(max_examples=60, deadline=None)
@given(cameras_and_poses())
def test_centres_and_tips_are_where_opencv_projects_them(scene: tuple[PinholeCamera, Array]) -> None:
    camera, poses = scene
    seen = project_action_frames(poses, camera, 0.15)
    assert seen.visible_M.all()
    rotation, _ = cv2.Rodrigues(camera.T_camera_base[:3, :3])
    distortion = np.zeros(5) if camera.distortion is None else camera.distortion
    for T, centre, tips, depth in zip(poses, seen.centre_px_M2, seen.tips_px_M32, seen.depth_M, strict=True):
        points = np.stack([T[:3, 3], *(T[:3, 3] + 0.15 * T[:3, k] for k in range(3))])
        expected, _ = cv2.projectPoints(points, rotation, camera.T_camera_base[:3, 3], camera.K, distortion)
        np.testing.assert_allclose([centre, *tips], expected[:, 0], atol=1e-6)
        assert depth == pytest.approx((camera.T_camera_base @ T)[2, 3])


def test_pixels_move_with_the_pose_as_the_derivative_of_the_projection_says() -> None:
    rng = np.random.default_rng(4)
    h, axis = 1e-6, 0.15
    for _ in range(20):
        T = at(*rng.uniform((-0.7, -0.2, 0.1), (-0.5, 0.2, 0.3)), Rotation.random(random_state=rng))
        R, R_c = T[:3, :3], CAMERA.T_camera_base[:3, :3]
        points = [T[:3, 3], *(T[:3, 3] + axis * R[:, k] for k in range(3))]
        for k, point in enumerate(points):
            x, y, z = R_c @ point + CAMERA.T_camera_base[:3, 3]
            d_pixel = np.array([[CAMERA.fx / z, 0, -CAMERA.fx * x / z**2], [0, CAMERA.fy / z, -CAMERA.fy * y / z**2]])
            d_position = d_pixel @ R_c @ R  # a step along the tool's own axes
            arm = np.zeros(3) if k == 0 else axis * np.eye(3)[k - 1]
            d_rotation = d_position @ np.cross(np.eye(3), arm).T  # R (turn x arm)
            for analytic, is_turn in ((d_position, False), (d_rotation, True)):
                for direction in range(3):
                    step = h * np.eye(3)[direction]
                    moved = [
                        T @ (transform((0, 0, 0), Rotation.from_rotvec(s * step)) if is_turn else transform(s * step))
                        for s in (1, -1)
                    ]
                    seen = project_action_frames(np.stack(moved), CAMERA, axis)
                    pixels = seen.centre_px_M2 if k == 0 else seen.tips_px_M32[:, k - 1]
                    numeric = (pixels[0] - pixels[1]) / (2 * h)
                    np.testing.assert_allclose(numeric, analytic[:, direction], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 0.25, 0.5, 0.8])
def test_the_drawn_disc_is_centred_on_the_projection_to_a_fraction_of_a_pixel(offset: float) -> None:
    T = at((20.0 + offset) / 500.0, (-33.0 - offset) / 500.0, 1.0)
    disc_only = replace(PAPER_STYLE, whole_pixels=False, disc_share=1.0)
    picture = one(T, 0.5, LARGE, disc_only)[..., 1].astype(float)
    v, u = np.mgrid[: LARGE.height, : LARGE.width]
    centroid = np.array([(picture * u).sum(), (picture * v).sum()]) / picture.sum()
    centre = project_action_frames(T, LARGE).centre_px_M2[0]
    np.testing.assert_allclose(centre, [339.5 + offset, 206.5 - offset])
    np.testing.assert_allclose(centroid, centre, atol=0.1)
    # Area of the disc: radius 40 px at 1 m.
    assert picture.sum() / picture.max() == pytest.approx(np.pi * 40.0**2, rel=0.04)


def test_a_plumb_line_ends_where_opencv_projects_the_point_of_the_table_below_the_tcp() -> None:
    poses = np.stack([at(-0.6, 0.1, 0.3), at(-0.7, -0.2, 0.02), at(-0.5, 0.0, -0.05)])
    seen = project_action_frames(poses, CAMERA)
    rotation, _ = cv2.Rodrigues(CAMERA.T_camera_base[:3, :3])
    below = poses[:, :3, 3] * (1.0, 1.0, 0.0)
    expected, _ = cv2.projectPoints(below, rotation, CAMERA.T_camera_base[:3, 3], CAMERA.K, np.zeros(5))
    np.testing.assert_allclose(seen.foot_px_M2, expected[:, 0], atol=1e-9)


def test_along_a_ray_the_disc_hardly_changes_and_the_plumb_line_says_where_the_hand_is() -> None:
    centre = project_action_frames(IN_VIEW[None], CAMERA).centre_px_M2
    depth_m = project_action_frames(IN_VIEW[None], CAMERA).depth_M
    farther = at(*CAMERA.unproject(centre, depth_m + 0.05)[0], Rotation.from_matrix(IN_VIEW[:3, :3]))
    near, far = project_action_frames(np.stack([IN_VIEW, farther]), CAMERA).foot_px_M2
    radius = PLUMB_STYLE.for_height(CAMERA.height).radii_px([depth_m[0], depth_m[0] + 0.05])
    assert np.linalg.norm(far - near) > 4.0 * abs(radius[1] - radius[0])
    one_frame, other = (one(T, 0.5, CAMERA, PLUMB_STYLE) for T in (IN_VIEW, farther))
    foot = (one_frame[..., 0] > 100) & (one_frame[..., 2] > 100) & (one_frame[..., 1] < 60)
    assert np.abs(np.argwhere(foot).mean(axis=0)[::-1] - near).max() < 0.5
    assert (one_frame != other).any()


def test_a_plumb_line_changes_the_papers_frame_only_along_itself() -> None:
    plain, plumb = (one(IN_VIEW, 0.5, CAMERA, style) for style in (STYLE, PLUMB_STYLE))
    seen = project_action_frames(IN_VIEW[None], CAMERA)
    start, end = seen.centre_px_M2[0], seen.foot_px_M2[0]
    changed = np.argwhere((plain != plumb).any(axis=-1))[:, ::-1] - start
    along = (changed @ (end - start)) / np.dot(end - start, end - start)
    beside = np.linalg.norm(changed - np.clip(along, 0.0, 1.0)[:, None] * (end - start), axis=1)
    assert len(changed) > 20 and beside.max() < PLUMB_STYLE.for_height(CAMERA.height).foot_px + 2.0


def test_a_foot_behind_the_camera_is_not_drawn() -> None:
    upwards = replace(CAMERA, T_camera_base=inverse(at(0.0, 0.0, 1.0)))  # looks up from above the table
    ahead = at(0.05, 0.0, 2.0)
    assert np.isnan(project_action_frames(ahead[None], upwards).foot_px_M2).all()
    assert np.array_equal(one(ahead, 0.5, upwards, PLUMB_STYLE), one(ahead, 0.5, upwards))


def test_the_same_scene_in_a_picture_of_another_size_is_the_same_picture() -> None:
    poses, openings = chunk(arms=2)
    large = render_action_frames(poses, openings, CAMERA.resized(960, 720))
    small = render_action_frames(poses, openings, CAMERA)
    for a, b in zip(large, small, strict=True):
        shrunk = cv2.resize(a, (320, 240), interpolation=cv2.INTER_AREA)
        cost = [np.abs(shrunk - np.roll(b.astype(int), by, axis)).mean() for by in (0, 1, -1) for axis in (0, 1)]
        assert max(cost[:2]) < 0.6  # of 255: edges
        assert min(cost[2:]) > 1.2 * cost[0]  # a shift of one pixel would show


def test_a_centre_crop_shows_the_middle_of_the_whole_picture() -> None:
    wide = PinholeCamera(212.0, 212.0, 211.5, 119.5, 424, 240, CAMERA.T_camera_base)
    poses, openings = chunk(arms=1)
    whole = render_action_frames(poses, openings, wide)
    np.testing.assert_array_equal(
        render_action_frames(poses, openings, wide.cropped(52, 0, 320, 240)), whole[:, :, 52:372]
    )


# ---- how


@pytest.mark.parametrize(
    ("depth_m", "radius_px"),
    [(0.01, 140), (0.2, 140), (0.3, 133), (0.5, 80), (1.0, 40), (1.1, 36), (4.0, 10), (5.0, 8), (50.0, 8)],
)
def test_radius_follows_depth_within_its_limits(depth_m: float, radius_px: int) -> None:
    assert PAPER_STYLE.radii_px([depth_m])[0] == radius_px
    half = PAPER_STYLE.radii_px([depth_m]) / 2
    assert STYLE.for_height(240).radii_px([depth_m])[0] == pytest.approx(half[0], abs=0.5)


@pytest.mark.parametrize("depth_m", [np.nan, np.inf, -np.inf, 0.0, 1e-7, -1.0])
def test_a_depth_that_is_none_has_the_smallest_radius(depth_m: float) -> None:
    assert PAPER_STYLE.radii_px([depth_m])[0] == 8.0


def test_colours_run_from_turbo_blue_when_closed_to_turbo_red_when_open() -> None:
    closed, open_, below, above, unknown = opening_colors([0.0, 1.0, -0.3, 7.0, np.nan])
    # The ends of the published table: (0.18995, 0.07176, 0.23217) and (0.4796, 0.01583, 0.01055).
    np.testing.assert_allclose(closed, (48, 18, 59), atol=1)
    np.testing.assert_allclose(open_, (122, 4, 3), atol=1)
    assert (below, above) == (closed, open_)
    assert len(set(unknown)) == 1
    # In between, the warm end belongs to the open gripper.
    (r_low, _, b_low), (r_high, _, b_high) = opening_colors([0.15, 0.85])
    assert b_low > r_low and r_high > b_high
    assert len(set(opening_colors(np.linspace(0, 1, 256)))) > 240


def test_the_disc_carries_35_and_the_lines_65_hundredths_of_their_colours() -> None:
    T = at(0.0, 0.0, 1.0, Rotation.from_euler("y", -0.6))
    picture = one(T, 1.0, LARGE, PAPER_STYLE)
    seen = project_action_frames(T, LARGE)
    disc = np.array(opening_colors([1.0])[0])
    (cx, cy), tips = seen.centre_px_M2[0], seen.tips_px_M32[0]
    np.testing.assert_allclose(picture[round(cy - 20), round(cx + 20)], 0.35 * disc, atol=1)
    for k in (0, 1):
        inside, outside = 0.75 * seen.centre_px_M2[0] + 0.25 * tips[k], tips[k]
        pure = 255 * 0.65 * np.eye(3)[k]
        np.testing.assert_allclose(picture[round(inside[1]), round(inside[0])], pure + 0.35 * disc, atol=2)
        np.testing.assert_allclose(picture[round(outside[1]), round(outside[0])], pure, atol=2)
    rim = 40.0 * np.array([np.cos(2.2), np.sin(2.2)]) + (cx, cy)
    assert picture[round(rim[1]), round(rim[0])].min() > 0.6 * 0.65 * 255


@pytest.mark.parametrize("arms", [1, 2])
def test_the_batched_path_gives_the_bytes_of_a_straightforward_loop(arms: int) -> None:
    poses, openings = chunk(arms, seed=arms)
    source = CAMERA.resized(640, 480)
    expected = straightforward(poses, openings, source)
    np.testing.assert_array_equal(render_action_frames(poses, openings, source, style=PAPER_STYLE), expected)
    small = [cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA) for picture in expected]
    np.testing.assert_array_equal(render_at_source(poses, openings, CAMERA, 640, 480), small)


def test_drawing_small_agrees_with_drawing_at_the_source_and_resizing() -> None:
    poses, openings = chunk(arms=1)
    fast = render_action_frames(poses, openings, CAMERA).astype(int)
    reference = render_at_source(poses, openings, CAMERA, 640, 480).astype(int)
    off = np.abs(fast - reference).max(axis=-1)
    assert off.mean() < 1.0
    drawn = reference.max(axis=-1) > 0
    assert (off > 60).sum() < 0.1 * drawn.sum()  # the edges of lines, which are 0.6 px wider


@pytest.mark.parametrize("size", [(300, 225), (640, 240), (320, 480)])
def test_a_source_that_is_no_enlargement_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="without enlarging or distorting"):
        render_at_source(IN_VIEW[None], [1.0], CAMERA, *size)


# ---- edges


def test_what_lies_behind_the_camera_is_not_drawn() -> None:
    for z in (-0.5, -1e-9, 0.0, 0.005):
        assert not one(at(0.0, 0.0, z), 0.5, LARGE).any()
    seen = project_action_frames(np.stack([at(0, 0, -0.5), at(0, 0, 0.5)]), LARGE)
    assert seen.visible_M.tolist() == [False, True]
    assert np.isnan(seen.centre_px_M2[0]).all() and np.isnan(seen.tips_px_M32[0]).all()


def test_an_axis_that_runs_behind_the_camera_is_cut_there_and_keeps_its_direction() -> None:
    towards = Rotation.from_euler("yx", (np.arctan2(1.0, 0.3), 0.0)) * Rotation.from_euler("x", 0.8)
    # The x axis points to the right and at the camera.
    T = at(0.0, 0.0, 0.1, towards)
    assert (T[:3, 3] + 0.15 * T[:3, 0])[2] < 0
    centre, tip = project_action_frames(T, LARGE).centre_px_M2[0], project_action_frames(T, LARGE).tips_px_M32[0, 0]
    assert tip[0] > LARGE.width  # a mirrored projection would put it on the left
    picture = one(T, 0.5, LARGE, replace(PAPER_STYLE, radius_max_px=20.0))
    row = picture[round(centre[1])]
    assert (row[round(centre[0]) + 40 :, 0] > 100).all()
    assert not (row[: round(centre[0]) - 40, 0] > 100).any()


def test_an_arm_outside_the_picture_leaves_it_black_and_its_axis_may_still_reach_in() -> None:
    assert not one(at(3.0, 0.0, 1.0), 0.5, LARGE).any()
    edge = one(at(320.0 / 500.0 + 0.1, 0.0, 1.0, Rotation.from_euler("z", np.pi)), 0.5, LARGE)  # 50 px right of it
    assert edge[239, 620:].any() and not edge[:, :590].any()
    assert edge[238:241, 630, 0].max() == round(0.65 * 255)
    half = one(at(320.0 / 500.0, 0.0, 1.0), 0.5, LARGE)
    assert half[239, 610:].any()


@pytest.mark.parametrize("far", [1e3, 1e6, 1e12, 1e300])
def test_huge_coordinates_neither_overflow_nor_take_for_ever(far: float) -> None:
    assert not one(at(far, far, 0.02), 0.5, LARGE).any()
    one(at(0.0, 0.0, 0.011, Rotation.from_euler("xyz", (1.0, 0.7, 0.2))), 0.5, LARGE)
    long = replace(PAPER_STYLE, axis_m=min(far, 1e12))
    picture = one(at(0.0, 0.0, 1.0), 0.5, LARGE, long)
    assert (picture[240, 400:, 0] > 150).all() and (picture[300:, 320, 1] > 150).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_absent_arm_is_left_out_and_disturbs_nobody(bad: float) -> None:
    there = np.stack([IN_VIEW, at(-0.6, 0.1, 0.2)])
    gone = there.copy()
    gone[1, 2, 3] = bad
    with_it = render_action_frames(gone[None], [[0.5, 0.5]], CAMERA)
    np.testing.assert_array_equal(with_it[0], one(IN_VIEW, 0.5, CAMERA))
    assert not render_action_frames(np.full((2, 1, 4, 4), bad), np.ones((2, 1)), CAMERA).any()


def test_strong_distortion_does_not_fold_far_arms_back_into_the_picture() -> None:
    barrel = replace(LARGE, distortion=np.array([-0.3, 0.02, 0.0, 0.0, 0.0]))
    for x in np.linspace(2.0, 60.0, 30):
        assert not one(at(float(x), 0.0, 1.0), 0.5, barrel, replace(PAPER_STYLE, axis_m=0.05)).any()
    near = project_action_frames(at(0.4, 0.0, 1.0), barrel).centre_px_M2[0]
    assert near[0] == pytest.approx(319.5 + 500 * 0.4 * (1 - 0.3 * 0.16 + 0.02 * 0.16**2))


# ---- several arms, shapes


def test_two_arms_share_one_picture_and_are_blended_once() -> None:
    poses, openings = np.stack([IN_VIEW, at(-0.6, 0.02, 0.2)]), np.array([0.1, 0.9])
    both = render_action_frames(poses[None], openings[None], CAMERA)[0]
    alone = [one(T, float(o), CAMERA) for T, o in zip(poses, openings, strict=True)]
    # Where only one arm draws, the picture is that arm's; no pixel is darkened by a second blend.
    for mine, other in (alone, alone[::-1]):
        only = ~other.any(axis=-1)
        np.testing.assert_array_equal(both[only], mine[only])
    swapped = render_action_frames(poses[None, ::-1], openings[None, ::-1], CAMERA)[0]
    assert (swapped != both).any()  # later arms lie on top


def test_single_arm_form_equals_the_form_for_several() -> None:
    poses, openings = chunk(arms=1)
    np.testing.assert_array_equal(
        render_action_frames(poses[:, 0], openings[:, 0], CAMERA), render_action_frames(poses, openings, CAMERA)
    )
    assert render_action_frames(poses, openings, CAMERA).shape == (21, 240, 320, 3)
    assert render_action_frames(np.zeros((0, 4, 4)), np.zeros(0), CAMERA).shape == (0, 240, 320, 3)
    assert not render_action_frames(np.zeros((2, 0, 4, 4)), np.zeros((2, 0)), CAMERA).any()


@pytest.mark.parametrize(
    ("poses", "openings"),
    [
        ((4, 4), ()),
        ((3, 4, 4), (2,)),
        ((3, 2, 4, 4), (3,)),
        ((3, 4, 4), (3, 1)),
        ((3, 3, 4), (3,)),
        ((1, 1, 1, 4, 4), (1, 1, 1)),
    ],
)
def test_other_shapes_are_refused_by_name(poses: tuple[int, ...], openings: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected poses \[T, 4, 4\] with openings \[T\], or \[T, N, 4, 4\]"):
        render_action_frames(np.zeros(poses), np.zeros(openings), CAMERA)


def test_a_style_that_cannot_be_drawn_is_refused() -> None:
    for nonsense in (
        {"axis_m": 0.0},
        {"radius_max_px": 1.0},
        {"foot_px": 0.0},
        {"disc_share": 1.5},
        {"plumb_px": -1.0},
    ):
        with pytest.raises(ValueError, match=r"sizes must be positive|plumb_px must not be negative and"):
            replace(STYLE, **nonsense)


# ---- over a picture


def test_drawing_over_a_picture_changes_it_only_where_something_is_drawn() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (240, 320, 3), np.uint8)
    before = image.copy()
    frames = one(IN_VIEW, 0.8, CAMERA)
    over = draw_over(image, frames)
    np.testing.assert_array_equal(image, before)
    drawn = frames.any(axis=-1)
    np.testing.assert_array_equal(over[~drawn], image[~drawn])
    opacity = frames.max(axis=-1, keepdims=True) / 255.0
    np.testing.assert_allclose(over, frames + image * (1.0 - opacity), atol=0.51)
    np.testing.assert_array_equal(draw_over(np.zeros_like(image), frames), frames)
    np.testing.assert_array_equal(draw_over(np.stack([image] * 2), np.stack([frames] * 2))[1], over)


def test_pictures_that_do_not_fit_are_refused() -> None:
    frames = one(IN_VIEW, 0.8, CAMERA)
    with pytest.raises(ValueError, match="must both be"):
        draw_over(np.zeros((480, 640, 3), np.uint8), frames)
    with pytest.raises(ValueError, match="must be uint8"):
        draw_over(np.zeros((240, 320, 3)), frames)


def write_golden() -> None:
    """Run this file to write the golden picture anew; look at it before you commit it."""
    GOLDEN.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(GOLDEN), golden_scene()[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    write_golden()
