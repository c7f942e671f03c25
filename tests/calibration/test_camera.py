"""The camera model against OpenCV and against itself: projection and back, distortion, resizing, cropping."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.poses import inverse, transform

Array = NDArray[np.float64]
DISTORTION = np.array([-0.055, 0.066, 0.0006, -0.0004, -0.021])  # of a D455's size


@st.composite
def cameras(draw: st.DrawFn, distorted: bool | None = None) -> PinholeCamera:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width, height = (int(n) for n in rng.integers(160, 1300, 2))
    fx, fy = rng.uniform(0.7, 2.0, 2) * max(width, height)
    T_base_camera = transform(rng.uniform(-2, 2, 3), Rotation.from_rotvec(rng.uniform(-3, 3, 3)))
    if distorted is None:
        distorted = draw(st.booleans())
    k = DISTORTION * rng.uniform(-1, 1, 5) if distorted else None
    cx, cy = rng.uniform(0.4, 0.6) * width, rng.uniform(0.4, 0.6) * height
    return PinholeCamera(float(fx), float(fy), float(cx), float(cy), width, height, inverse(T_base_camera), k)


def some_pixels(camera: PinholeCamera, count: int = 20, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 1, (count, 2)) * (camera.width - 1, camera.height - 1), rng.uniform(0.2, 4.0, count)


@settings(max_examples=60, deadline=None)
@given(cameras())
def test_projection_is_opencvs(camera: PinholeCamera) -> None:
    points = camera.unproject(*some_pixels(camera))
    pixels, depth = camera.project(points)
    rotation, _ = cv2.Rodrigues(camera.T_camera_base[:3, :3])
    k = np.zeros(5) if camera.distortion is None else camera.distortion
    expected, _ = cv2.projectPoints(points, rotation, camera.T_camera_base[:3, 3], camera.K, k)
    np.testing.assert_allclose(pixels, expected[:, 0], atol=1e-6)
    np.testing.assert_allclose(depth, (points - camera.T_base_camera[:3, 3]) @ camera.T_base_camera[:3, 2], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(cameras(distorted=True))
def test_distortion_is_the_published_polynomial(camera: PinholeCamera) -> None:
    points = camera.unproject(*some_pixels(camera))
    at_camera = points @ camera.T_camera_base[:3, :3].T + camera.T_camera_base[:3, 3]
    x, y = at_camera[:, 0] / at_camera[:, 2], at_camera[:, 1] / at_camera[:, 2]
    assert camera.distortion is not None
    k1, k2, p1, p2, k3 = camera.distortion
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    u = camera.fx * (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)) + camera.cx
    v = camera.fy * (y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y) + camera.cy
    np.testing.assert_allclose(camera.project(points)[0], np.stack([u, v], axis=1), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(cameras())
def test_a_pixel_with_its_depth_is_the_point_it_shows(camera: PinholeCamera) -> None:
    pixels, depth = some_pixels(camera)
    back, depth_back = camera.project(camera.unproject(pixels, depth))
    np.testing.assert_allclose(back, pixels, atol=1e-6)
    np.testing.assert_allclose(depth_back, depth, atol=1e-9)


def test_corners_of_a_wide_distorted_lens_are_found_again() -> None:
    k = np.array([-0.0364, -0.0596, -0.0004, -0.0003, -0.0174])
    camera = PinholeCamera(954.8, 1595.0, 540.4, 526.8, 1297, 1119, distortion=k)
    corners = np.array([[0, 0], [1296, 0], [0, 1118], [1296, 1118]], dtype=np.float64)
    np.testing.assert_allclose(camera.project(camera.unproject(corners, np.ones(4)))[0], corners, atol=1e-6)


@settings(deadline=None)
@given(cameras(distorted=False))
def test_intrinsic_matrix_and_pose_multiply_to_the_projection(camera: PinholeCamera) -> None:
    points = camera.unproject(*some_pixels(camera))
    homogeneous = camera.K @ camera.T_camera_base[:3] @ np.vstack([points.T, np.ones(len(points))])
    np.testing.assert_allclose(camera.project(points)[0], (homogeneous[:2] / homogeneous[2]).T, atol=1e-6)
    np.testing.assert_allclose(camera.T_base_camera @ camera.T_camera_base, np.eye(4), atol=1e-12)


def test_axes_of_the_optical_frame_are_right_down_and_forward() -> None:
    camera = PinholeCamera(100.0, 100.0, 50.0, 40.0, 101, 81)
    pixels, depth = camera.project([[0, 0, 2], [0.2, 0, 2], [0, 0.2, 2]])
    np.testing.assert_allclose(pixels, [[50, 40], [60, 40], [50, 50]])
    np.testing.assert_allclose(depth, 2.0)


@pytest.mark.parametrize("distortion", [None, DISTORTION])
def test_points_behind_the_camera_have_a_depth_and_no_pixel(distortion: Array | None) -> None:
    camera = PinholeCamera(100.0, 100.0, 50.0, 40.0, 101, 81, distortion=distortion)
    pixels, depth = camera.project([[0.1, 0.1, -1.0], [0.0, 0.0, 1.0], [0.1, 0.0, 0.0], [0.0, 0.0, -1e-12]])
    assert np.isnan(pixels[[0, 2, 3]]).all()
    np.testing.assert_allclose(pixels[1], (50, 40), atol=1e-9)
    np.testing.assert_array_equal(depth, [-1.0, 1.0, 0.0, -1e-12])
    pixels, depth = camera.project(-np.ones((3, 3)))
    assert np.isnan(pixels).all() and (depth == -1).all()


@pytest.mark.parametrize("distortion", [None, DISTORTION])
def test_no_points_give_no_pixels(distortion: Array | None) -> None:
    camera = PinholeCamera(100.0, 100.0, 50.0, 40.0, 101, 81, distortion=distortion)
    pixels, depth = camera.project(np.zeros((0, 3)))
    assert pixels.shape == (0, 2) and depth.shape == (0,)


@pytest.mark.parametrize("distortion", [None, DISTORTION])
def test_pixels_move_with_the_point_as_the_derivative_says(distortion: Array | None) -> None:
    camera = PinholeCamera(
        420.0,
        430.0,
        320.0,
        250.0,
        640,
        480,
        transform((0.1, 0, 0.2), Rotation.from_rotvec((0.2, -0.1, 0.4))),
        distortion,
    )
    h = 1e-6
    for point in camera.unproject(*some_pixels(camera, 10)):
        rotation, _ = cv2.Rodrigues(camera.T_camera_base[:3, :3])
        k = np.zeros(5) if distortion is None else distortion
        _, jacobian = cv2.projectPoints(point[None], rotation, camera.T_camera_base[:3, 3], camera.K, k)
        analytic = jacobian[:, 3:6] @ camera.T_camera_base[:3, :3]  # by translation, turned into base
        moved = np.concatenate([point + h * np.eye(3), point - h * np.eye(3)])
        pixels, _ = camera.project(moved)
        np.testing.assert_allclose((pixels[:3] - pixels[3:]).T / (2 * h), analytic, rtol=1e-5, atol=1e-3)


# ---- other sizes


@settings(deadline=None)
@given(cameras(), st.integers(50, 2000), st.integers(50, 2000))
def test_a_resized_camera_sees_the_same_point_at_the_same_place_of_the_picture(
    camera: PinholeCamera, width: int, height: int
) -> None:
    resized = camera.resized(width, height)
    points = camera.unproject(*some_pixels(camera))
    before, after = camera.project(points)[0], resized.project(points)[0]
    # In shares of the picture, whose left edge lies half a pixel left of the first pixel's centre.
    np.testing.assert_allclose(
        (after + 0.5) / (width, height), (before + 0.5) / (camera.width, camera.height), atol=1e-9
    )
    again = resized.resized(camera.width, camera.height)
    np.testing.assert_allclose(again.K, camera.K, atol=1e-9)
    assert (again.width, again.height) == (camera.width, camera.height)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_resizing_agrees_with_what_opencv_does_to_the_picture(factor: int) -> None:
    camera = PinholeCamera(424.0, 424.0, 423.5, 239.5, 848, 480)
    point = camera.unproject([[500.3, 200.8]], [1.0])
    u, v = np.meshgrid(np.arange(848), np.arange(480))
    x, y = camera.project(point)[0][0]
    spot = np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 12.0**2)).astype(np.float32)
    small = cv2.resize(spot, (848 // factor, 480 // factor), interpolation=cv2.INTER_AREA)
    v, u = np.mgrid[: small.shape[0], : small.shape[1]]
    centroid = np.array([(small * u).sum(), (small * v).sum()]) / small.sum()
    seen = camera.resized(848 // factor, 480 // factor).project(point)[0][0]
    np.testing.assert_allclose(centroid, seen, atol=0.01)


@settings(deadline=None)
@given(cameras(), st.integers(0, 60), st.integers(0, 60))
def test_a_crop_moves_every_pixel_by_its_corner(camera: PinholeCamera, left: int, top: int) -> None:
    cropped = camera.cropped(left, top, 100, 90)
    points = camera.unproject(*some_pixels(camera))
    np.testing.assert_allclose(cropped.project(points)[0], camera.project(points)[0] - (left, top), atol=1e-9)
    assert (cropped.width, cropped.height) == (100, 90)
    back = cropped.cropped(-left, -top, camera.width, camera.height)
    np.testing.assert_allclose(back.K, camera.K)


@settings(deadline=None)
@given(cameras())
def test_cropping_then_resizing_is_resizing_then_cropping(camera: PinholeCamera) -> None:
    # The crop's corner lies on a pixel border of both pictures: 20 px of the large one are 10 of the small one.
    even = replace(camera, width=camera.width // 2 * 2, height=camera.height // 2 * 2)
    a = even.cropped(20, 40, 120, 80).resized(60, 40)
    b = even.resized(even.width // 2, even.height // 2).cropped(10, 20, 60, 40)
    np.testing.assert_allclose(a.K, b.K, atol=1e-9)
    assert (a.width, a.height) == (b.width, b.height)


def test_pose_and_distortion_stay_when_the_picture_changes() -> None:
    T = transform((1, 2, 3), Rotation.from_euler("x", 0.3))
    camera = PinholeCamera(100.0, 100.0, 50.0, 40.0, 101, 81, T, DISTORTION)
    for other in (camera.resized(50, 40), camera.cropped(1, 2, 30, 40)):
        np.testing.assert_array_equal(other.T_camera_base, T)
        assert other.distortion is DISTORTION


@pytest.mark.parametrize(
    "wrong", [{"fx": 0.0}, {"fy": -1.0}, {"width": 0}, {"height": -3}], ids=lambda wrong: next(iter(wrong))
)
def test_a_camera_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="check the camera_info"):
        replace(PinholeCamera(100.0, 100.0, 50.0, 40.0, 101, 81), **wrong)  # type: ignore[arg-type]


def test_a_camera_does_not_change_and_has_a_pose_of_its_own() -> None:
    a, b = (PinholeCamera(100.0, 100.0, 50.0, 40.0, 101, 81) for _ in range(2))
    with pytest.raises(FrozenInstanceError):
        a.fx = 1.0  # type: ignore[misc]
    assert a.T_camera_base is not b.T_camera_base
