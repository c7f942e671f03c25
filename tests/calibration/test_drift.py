"""Drift checks: a nudged camera is noticed and measured, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.board import Board, BoardView
from calibration.camera import PinholeCamera
from calibration.camera_shift import PRIOR_SIGMA_6, Shift, combine, shift_jacobian, shifted
from calibration.drift import check_marker, make_marker_reference
from calibration.poses import inverse, transform
from calibration.robot_drift import RobotDriftReport, RobotReference, check_robot, make_robot_reference
from robot_bridge.arm_outline import ArmOutline
from robot_bridge.twin.render import Renderer, twin_camera
from robot_bridge.twin.tasks import sample_placement
from robot_bridge.twin.world import World
from robot_bridge.ur_kinematics import Kinematics
from tests.helpers.board_pictures import facing, true_corners

Array = NDArray[np.float64]

BOARD = Board("chessboard", 6, 5, 0.040)
CAMERA = PinholeCamera(
    212.0,
    212.0,
    211.5,
    119.5,
    424,
    240,
    inverse(transform([-1.2, 0.1, 0.6], Rotation.from_euler("xyz", [-2.0, 0.1, 1.5]))),
)
T_CAMERA_BOARD = facing(BOARD, 0.9, np.array([0.3, -0.2, 0.1]), (0.2, 0.1))


def _delta(mm: tuple[float, float, float], deg: tuple[float, float, float]) -> Array:
    return np.concatenate([1e-3 * np.array(mm), np.radians(deg)])


SIDEWAYS = _delta((5.0, 0.0, 0.0), (0.0, 0.0, 0.0))
PITCHED = _delta((0.0, 0.0, 0.0), (0.5, 0.0, 0.0))
ROLLED = _delta((0.0, 0.0, 0.0), (0.0, 0.0, 0.5))


# --- the marker ------------------------------------------------------------------------------------------------------


def _marker_views(delta: Array, rng: np.random.Generator, count: int = 6, noise_px: float = 0.1) -> list[BoardView]:
    moved = inverse(transform(delta[:3], Rotation.from_rotvec(delta[3:]))) @ T_CAMERA_BOARD
    lens = PinholeCamera(CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy, CAMERA.width, CAMERA.height)
    pixels = true_corners(BOARD, moved, lens)
    ids = np.arange(BOARD.corner_count, dtype=np.int32)
    return [BoardView(ids, pixels + rng.normal(0, noise_px, pixels.shape), 424, 240) for _ in range(count)]


@pytest.mark.parametrize("delta", [SIDEWAYS, PITCHED, ROLLED], ids=["5 mm", "0.5 deg", "0.5 deg roll"])
def test_marker_notices_and_measures_a_nudge(delta: Array) -> None:
    rng = np.random.default_rng(0)
    reference = make_marker_reference(_marker_views(np.zeros(6), rng), BOARD, CAMERA)
    points = BOARD.corners_board_N3 @ reference.T_base_board[:3, :3].T + reference.T_base_board[:3, 3]
    true = shifted(CAMERA, delta).project(points)[0] - CAMERA.project(points)[0]
    for _ in range(20):
        report = check_marker(reference, _marker_views(delta, rng))
        assert report.moved
        assert report.pixels == pytest.approx(np.sqrt(np.mean(np.sum(true**2, axis=1))), abs=0.12)
        assert report.offset_px == pytest.approx(tuple(true.mean(axis=0)), abs=0.12)
        assert "moved" in str(report)


def test_marker_is_quiet_about_noise() -> None:
    rng = np.random.default_rng(1)
    reports = [
        check_marker(
            make_marker_reference(_marker_views(np.zeros(6), rng), BOARD, CAMERA), _marker_views(np.zeros(6), rng)
        )
        for _ in range(150)
    ]
    assert {report.verdict for report in reports} == {"still"}
    rms = float(np.sqrt(np.mean([report.pixels**2 for report in reports])))
    assert 0.2 * reports[0].sigma_px < rms < 1.3 * reports[0].sigma_px


def test_marker_hidden_during_the_episode_gives_no_verdict() -> None:
    rng = np.random.default_rng(2)
    reference = make_marker_reference(_marker_views(np.zeros(6), rng), BOARD, CAMERA)
    assert check_marker(reference, []).verdict == "unknown"
    few = [BoardView(view.ids_N[:4], view.corners_px_N2[:4], 424, 240) for view in _marker_views(SIDEWAYS, rng)]
    assert check_marker(reference, few).verdict == "unknown"


def test_one_corner_gone_wrong_is_no_nudge() -> None:
    rng = np.random.default_rng(3)
    reference = make_marker_reference(_marker_views(np.zeros(6), rng), BOARD, CAMERA)
    views = _marker_views(np.zeros(6), rng)
    for view in views:
        view.corners_px_N2[3] += [4.0, -3.0]
    assert check_marker(reference, views).verdict == "still"


def test_marker_reference_of_a_moving_board_is_refused() -> None:
    rng = np.random.default_rng(4)
    moving = [_marker_views(i * PITCHED, rng, 1)[0] for i in range(6)]
    with pytest.raises(ValueError, match="not at rest"):
        make_marker_reference(moving, BOARD, CAMERA)
    with pytest.raises(ValueError, match="resolution"):
        check_marker(
            make_marker_reference(_marker_views(np.zeros(6), rng), BOARD, CAMERA),
            [BoardView(np.arange(20, dtype=np.int32), np.zeros((20, 2)), 848, 480)],
        )


# --- the robot -------------------------------------------------------------------------------------------------------


@dataclass
class Film:
    """Frames of an episode with the robot's points."""

    images: NDArray[np.uint8]
    points: Array


HOME = (0, -90, 90, -90, -90, 0)
REACHES = (
    (0, -90, 90, -90, -90, 0),
    (8, -76, 98, -112, -90, 8),
    (-9, -66, 92, -116, -90, -9),
    (4, -84, 92, -98, -90, 20),
)
OTHER_REACHES = ((0, -90, 90, -90, -90, 0), (-6, -80, 96, -106, -90, 0), (11, -70, 95, -115, -90, 5))


class Stage:
    """The twin's cell, posed and filmed without simulating."""

    def __init__(self) -> None:
        self.world = World("place_cube", seed=1)
        self.renderer = Renderer("place_cube", 424, 240, deltas=self.world.deltas)
        self.outline = ArmOutline(Kinematics(tool=transform((0.0, 0.0, 0.174))))
        self.camera = twin_camera()

    def film(
        self, seed: int, delta: Array | None = None, *, via: tuple[tuple[int, ...], ...] = REACHES, gain: float = 1.0
    ) -> Film:
        """12 frames along a path; objects, noise by the seed."""
        rng = np.random.default_rng(seed)
        self.renderer.aim(shifted(self.camera, np.zeros(6) if delta is None else delta))
        placement = sample_placement("place_cube", rng)
        path = np.radians(np.array(via, dtype=np.float64))
        images, points = [], []
        for s in np.linspace(0.0, len(path) - 1.0, 12):
            q = np.array([np.interp(s, np.arange(len(path)), path[:, i]) for i in range(6)])
            self.world.reset(placement, q)
            image = self.renderer.render_color(self.world.qpos).astype(np.float64)
            images.append(np.clip(np.rint(gain * image + rng.normal(0, 2.0, image.shape)), 0, 255).astype(np.uint8))
            points.append(self.outline.points(q, [1.0])[0])
        return Film(np.stack(images), np.stack(points))

    def true_px(self, film: Film, delta: Array) -> float:
        """Rms displacement of the robot's points in view."""
        points = film.points.reshape(-1, 3)[::37]
        before, _ = self.camera.project(points)
        after, _ = shifted(self.camera, delta).project(points)
        with np.errstate(invalid="ignore"):
            seen = np.all((before > 0) & (before < [424, 240]), axis=1)
        return float(np.sqrt(np.mean(np.sum((after - before)[seen] ** 2, axis=1))))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.renderer.close()


@pytest.fixture(scope="module")
def reference(stage: Stage) -> RobotReference:
    film = stage.film(100)
    return make_robot_reference(stage.camera, film.images, film.points, stage.outline.link_N)


def _check(reference: RobotReference, film: Film) -> RobotDriftReport:
    return check_robot(reference, film.images, film.points, stamp_s_T=2.0 * np.arange(len(film.images)))


@pytest.mark.parametrize(
    ("seed", "via", "gain"), [(1, REACHES, 1.0), (2, REACHES, 0.8), (3, OTHER_REACHES, 1.2), (4, OTHER_REACHES, 0.9)]
)
def test_other_objects_light_and_motion_are_no_nudge(
    stage: Stage, reference: RobotReference, seed: int, via: tuple[tuple[int, ...], ...], gain: float
) -> None:
    report = _check(reference, stage.film(seed, via=via, gain=gain))
    assert report.result.verdict == "still", str(report.result)
    assert report.robot.verdict != "moved", str(report.robot)
    assert report.agree


@pytest.mark.parametrize("delta", [SIDEWAYS, PITCHED, -PITCHED, ROLLED], ids=["5 mm", "0.5", "-0.5", "roll"])
def test_robot_notices_and_measures_a_nudge(stage: Stage, reference: RobotReference, delta: Array) -> None:
    film = stage.film(7, delta, via=OTHER_REACHES, gain=0.85)
    report = _check(reference, film)
    true_px = stage.true_px(film, delta)
    for voice in (report.robot, report.result):
        assert voice.moved, str(voice)
        assert voice.pixels == pytest.approx(true_px, abs=0.35)
        assert voice.millimetres == pytest.approx(voice.pixels * 1.1 / 0.212, rel=0.5)


def test_shift_of_many_pixels_is_noticed(stage: Stage, reference: RobotReference) -> None:
    delta = _delta((20.0, -15.0, 10.0), (1.5, 2.0, -1.0))
    film = stage.film(8, delta)
    report = _check(reference, film)
    assert report.robot.moved
    assert report.robot.pixels == pytest.approx(stage.true_px(film, delta), rel=0.25)


def test_scenery_that_moved_is_not_taken_for_the_camera(stage: Stage, reference: RobotReference) -> None:
    film, elsewhere = stage.film(9), stage.film(9, PITCHED)
    for t, image in enumerate(film.images):
        near = _near_robot(stage.camera, film.points[t])
        image[~near] = elsewhere.images[t][~near]
    report = _check(reference, film)
    assert report.scenery is not None
    assert report.scenery.moved
    assert report.agree is False
    assert not report.result.moved, str(report.result)


def _near_robot(camera: PinholeCamera, points: Array) -> NDArray[np.bool_]:
    pixels, _ = camera.project(points)
    y, x = np.mgrid[0:240, 0:424]
    near = np.zeros((240, 424), dtype=bool)
    for u, v in pixels[np.isfinite(pixels).all(axis=1)]:
        if -20 < u < 444 and -20 < v < 260:
            top, left = max(0, int(v) - 13), max(0, int(u) - 13)
            window = np.s_[top : int(v) + 14, left : int(u) + 14]
            near[window] |= (x[window] - u) ** 2 + (y[window] - v) ** 2 < 13**2
    return near


@pytest.mark.parametrize("grey", [0, 128])
def test_picture_of_nothing_is_never_called_still(stage: Stage, reference: RobotReference, grey: int) -> None:
    film = stage.film(10)
    film.images[:] = grey
    assert _check(reference, film).result.verdict == "unknown"


def test_robot_out_of_view_gives_no_verdict(stage: Stage, reference: RobotReference) -> None:
    film = stage.film(11)
    film.points[:, :, 0] -= 10.0
    assert _check(reference, film).result.verdict == "unknown"


def test_reference_from_a_file_judges_the_same(stage: Stage, reference: RobotReference, tmp_path: Path) -> None:
    reference.save(tmp_path / "reference.npz")
    film = stage.film(12, SIDEWAYS)
    first, again = (_check(r, film).result for r in (reference, RobotReference.load(tmp_path / "reference.npz")))
    assert again.pixels == pytest.approx(first.pixels, abs=1e-6)
    assert again.verdict == first.verdict


def test_images_of_another_size_are_refused(stage: Stage, reference: RobotReference) -> None:
    film = stage.film(13)
    with pytest.raises(ValueError, match="424"):
        check_robot(reference, film.images[:, :, :320], film.points)
    with pytest.raises(ValueError, match="points must be"):
        check_robot(reference, film.images, film.points[:, :100])
    with pytest.raises(ValueError, match="stamps"):
        check_robot(reference, film.images, film.points, stamp_s_T=np.zeros(12))


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_jacobian_predicts_where_points_go() -> None:
    camera = twin_camera()
    points = np.array([[-0.6, 0.1, 0.0], [-0.3, -0.2, 0.4], [0.0, 0.0, 0.2]])
    delta = _delta((0.5, -0.3, 0.4), (0.03, -0.02, 0.05))
    seen = shifted(camera, delta).project(points)[0] - camera.project(points)[0]
    assert shift_jacobian(camera, points) @ delta == pytest.approx(seen, abs=1e-3)


def test_shift_is_in_the_optical_frame() -> None:
    camera = twin_camera()
    moved = shifted(camera, SIDEWAYS)
    assert moved.T_base_camera[:3, 3] - camera.T_base_camera[:3, 3] == pytest.approx(
        0.005 * camera.T_base_camera[:3, 0], abs=1e-12
    )


def test_two_agreeing_estimates_are_better_than_one_and_strangers_are_noticed() -> None:
    prior = np.diag(PRIOR_SIGMA_6**2)
    first = Shift(np.full(6, 1e-4), 0.01 * prior, 50)
    both, chance = combine(first, Shift(np.full(6, 1.1e-4), 0.01 * prior, 50))
    assert np.all(np.diag(both.covariance_66) < 0.6 * np.diag(first.covariance_66))
    assert chance > 0.9
    _, chance = combine(first, Shift(0.8 * PRIOR_SIGMA_6, 0.01 * prior, 50))
    assert chance < 1e-6
