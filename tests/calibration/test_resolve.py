"""Somebody's hand-eye samples solved again: methods compared, results judged, frames brought into ours."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.easy_handeye import HandeyeParameters
from calibration.hand_eye import solve_poses
from calibration.hand_eye_types import GateLimits, Mode
from calibration.poses import inverse, transform
from calibration.resolve import (
    FrameError,
    check,
    compare_methods,
    held_out_error,
    mount,
    predict,
    prediction_error,
    to_calibration,
    to_house_frames,
)
from calibration.tangent import local, retract

MODES: tuple[Mode, ...] = ("eye_to_hand", "eye_in_hand")
XS: dict[Mode, np.ndarray] = {
    "eye_to_hand": transform((-1.2, 0.1, 0.6), Rotation.from_euler("xyz", (-2.2, 0.1, 1.5))),
    "eye_in_hand": transform((0.02, -0.08, -0.13), Rotation.from_euler("xyz", (0.2, 0.02, 0.1))),
}
YS: dict[Mode, np.ndarray] = {
    "eye_to_hand": transform((0.01, -0.1, -0.06), Rotation.from_euler("xyz", (1.2, 0.02, 0.03))),
    "eye_in_hand": transform((-0.62, 0.01, 0.01), Rotation.from_euler("xyz", (3.1, 0.0, 0.1))),
}
FRAMES = {"robot_effector_frame": "tcp", "tracking_base_frame": "camera_color_optical_frame"}


def poses(mode: Mode, count: int = 12, noise: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tool and board poses of well spread views; ``noise`` 1 is what a good cell has."""
    rng = np.random.default_rng(seed)
    T_base_tool, T_camera_board = [], []
    X, Y = XS[mode], YS[mode]
    for _ in range(count):
        T = transform(rng.uniform((-0.75, -0.15, 0.2), (-0.5, 0.15, 0.45)), Rotation.from_rotvec(rng.normal(0, 0.4, 3)))
        robot = noise * rng.normal(size=6) * ([0.0002] * 3 + [math.radians(0.05)] * 3)
        camera = noise * rng.normal(size=6) * ([0.0006] * 3 + [math.radians(0.1)] * 3)
        T_base_tool.append(T)
        T_camera_board.append(retract(predict(retract(T, robot), mode, X, Y), camera))
    return np.array(T_base_tool), np.array(T_camera_board)


@pytest.mark.parametrize("mode", MODES)
def test_the_board_is_predicted_where_the_chain_of_frames_puts_it(mode: Mode) -> None:
    (T, *_), (C, *_) = poses(mode, noise=0.0)
    X, Y = XS[mode], YS[mode]
    corner = np.array([0.03, 0.06, 0.0, 1.0])
    in_base = T @ Y @ corner if mode == "eye_to_hand" else Y @ corner
    camera_in_base = X if mode == "eye_to_hand" else T @ X
    np.testing.assert_allclose(C @ corner, inverse(camera_in_base) @ in_base, atol=1e-12)
    np.testing.assert_allclose(mount(T, C, mode, X), Y, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_exact_poses_have_no_error_and_a_wrong_transform_has_its_own(mode: Mode) -> None:
    T, C = poses(mode, noise=0.0)
    X = XS[mode]
    exact = prediction_error(T, C, mode, X)
    assert exact.millimetres < 1e-6 and exact.degrees < 1e-6
    wrong = prediction_error(T, C, mode, retract(X, [0.01, 0.0, 0.0, 0.0, 0.0, math.radians(1.0)]))
    assert wrong.millimetres > 1.0 and wrong.degrees > 0.1
    assert math.isnan(prediction_error(T[:1], C[:1], mode, X).millimetres)


@pytest.mark.parametrize("mode", MODES)
def test_every_method_is_listed_with_its_error_on_views_it_did_not_see(mode: Mode) -> None:
    rows = {row.method: row for row in compare_methods(*poses(mode), mode)}
    assert set(rows) == {"tsai", "park", "horaud", "andreff", "daniilidis", "shah", "li"}
    for row in rows.values():
        assert row.X is not None and not row.problem
    assert np.linalg.norm(local(XS[mode], rows["park"].X)[:3]) < 0.01  # type: ignore[arg-type]
    assert 0.2 < rows["park"].held_out.millimetres < 10.0
    views = poses(mode, count=2)
    assert all(row.X is None and row.problem for row in compare_methods(*views, mode))


def test_held_out_views_are_not_among_those_the_fit_sees() -> None:
    T, C = poses("eye_to_hand", count=11)
    seen: list[int] = []

    def fit(T_training: np.ndarray, C_training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(T_training))
        return XS["eye_to_hand"], YS["eye_to_hand"]

    error = held_out_error(T, C, "eye_to_hand", fit)
    assert sum(11 - count for count in seen) == 11 and len(seen) == 5
    assert 0.3 < error.millimetres < 3.0


@pytest.mark.parametrize("mode", MODES)
def test_a_good_transform_passes_and_one_that_is_off_does_not(mode: Mode) -> None:
    T, C = poses(mode, count=25)
    X = XS[mode]
    result = solve_poses(T, C, mode)
    error = local(X, result.X)
    assert 1e3 * np.linalg.norm(error[:3]) < 4.0 * result.sigma_mm
    assert all(gate.passed for gate in check(X, result, T, C, GateLimits()))
    off = {gate.name: gate for gate in check(retract(X, [0.006, 0, 0, 0, 0, 0]), result, T, C, GateLimits())}
    assert not off["position"].passed and off["position"].value == pytest.approx(6.0, abs=2.0)
    assert "use the re-solved transform" in off["position"].reason and off["rotation"].passed
    turned = {gate.name: gate for gate in check(retract(X, [0, 0, 0, 0.05, 0, 0]), result, T, C, GateLimits())}
    assert not turned["rotation"].passed and not turned["predicted_mm"].passed


def test_samples_that_cannot_tell_are_not_blamed_on_the_transform() -> None:
    T, C = poses("eye_to_hand", count=4)
    result = solve_poses(T, C, "eye_to_hand")
    gate = next(g for g in check(result.X, result, T, C, GateLimits(sigma_mm=1e-3)) if g.name == "position")
    assert not gate.passed and "these samples cannot tell" in gate.reason


@pytest.mark.parametrize("mode", MODES)
def test_a_result_in_base_link_and_tool0_is_brought_into_base_and_tcp(mode: Mode) -> None:
    T_base_base_link = np.diag([-1.0, -1.0, 1.0, 1.0])
    T_tool0_tcp = transform((0.0, 0.0, 0.174))
    T, C = poses(mode, noise=0.0)
    X, Y = XS[mode], YS[mode]
    T_base_link_tool0 = inverse(T_base_base_link) @ T @ inverse(T_tool0_tcp)
    foreign = solve_poses(T_base_link_tool0, C, mode)
    parameters = HandeyeParameters(robot_base_frame="left_base_link", **FRAMES)
    ours = to_house_frames(foreign, parameters, T_tool0_tcp)
    np.testing.assert_allclose(ours.X, X, atol=1e-5)
    np.testing.assert_allclose(ours.Y, Y, atol=1e-5)
    same = to_house_frames(solve_poses(T, C, mode), HandeyeParameters(robot_base_frame="base", **FRAMES))
    np.testing.assert_allclose(same.X, X, atol=1e-5)
    calibration = to_calibration(ours, PinholeCamera(424, 424, 423.5, 239.5, 848, 480), "7", "test")
    np.testing.assert_allclose(calibration.X, X, atol=1e-5)
    assert calibration.mode == mode and calibration.held_out is not None and math.isnan(calibration.held_out.pixels)
    assert calibration.covariance_66 is not None and calibration.samples == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"robot_base_frame": "panda_link0"}, r"base frame is 'panda_link0'; say with --base-frame"),
        ({"tracking_base_frame": "camera_link"}, "camera's frame is 'camera_link'"),
    ],
)
def test_frames_of_unknown_place_are_refused(change: dict[str, str], message: str) -> None:
    result = solve_poses(*poses("eye_to_hand", noise=0.0), "eye_to_hand")
    with pytest.raises(FrameError, match=message):
        to_house_frames(result, HandeyeParameters(**{"robot_base_frame": "base", **FRAMES, **change}))
