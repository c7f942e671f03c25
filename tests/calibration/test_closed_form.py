"""Closed forms: exact on exact data, and as good as OpenCV's on noisy data."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from calibration.closed_form import (
    AX_XB_METHODS,
    AX_YB_METHODS,
    METHODS,
    ClosedFormFailed,
    closed_form,
    motions,
    solve_ax_xb,
    solve_ax_yb,
)
from calibration.hand_eye_types import MODES, Mode
from calibration.poses import inverse, transform
from calibration.tangent import local, retract

Array = np.ndarray


def _pose(rng: np.random.Generator) -> Array:
    return transform(rng.uniform(-1, 1, 3), Rotation.random(rng=rng))


def _poses(mode: Mode, seed: int, count: int = 12) -> tuple[Array, Array, Array, Array]:
    """(T_base_tool, T_camera_board, X, Y) without noise."""
    rng = np.random.default_rng(seed)
    X, Y = _pose(rng), _pose(rng)
    T = np.array([_pose(rng) for _ in range(count)])
    C = np.array([inverse(X) @ (T_i if mode == "eye_to_hand" else inverse(T_i)) @ Y for T_i in T])
    return T, C, X, Y


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_every_closed_form_is_exact_on_exact_poses(method: str, mode: Mode, seed: int) -> None:
    T, C, X, Y = _poses(mode, seed)
    X_found, Y_found = closed_form(T, C, mode, method)
    assert X_found == pytest.approx(X, abs=1e-8)
    assert Y_found == pytest.approx(Y, abs=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_a_known_change_of_the_base_frame_changes_x_alike(method: str) -> None:
    """Measuring from another base multiplies T_base_camera from the left and leaves T_tool_board alone."""
    T, C, _, _ = _poses("eye_to_hand", 1)
    rng = np.random.default_rng(9)
    C = retract(C, rng.normal(0.0, 1e-3, (len(C), 6)))
    other = _pose(rng)
    X, Y = closed_form(T, C, "eye_to_hand", method)
    X_other, Y_other = closed_form(other @ T, C, "eye_to_hand", method)
    # The answers of Park, Horaud and Andreff do not depend on the frame at all, the others' only through the noise.
    tolerance = 1e-7 if method in ("park", "horaud", "andreff") else 2e-3
    assert X_other == pytest.approx(other @ X, abs=tolerance)
    assert Y_other == pytest.approx(Y, abs=tolerance)


def _error(X: Array, truth: Array) -> Array:
    delta = local(truth, X)
    return np.array([np.linalg.norm(delta[:3]), np.linalg.norm(delta[3:])])


@pytest.mark.parametrize("method", AX_XB_METHODS)
def test_ax_xb_agrees_with_opencv_on_noisy_poses(method: str) -> None:
    ours, theirs = [], []
    for seed in range(12):
        T, C, X, _ = _poses("eye_in_hand", seed)
        rng = np.random.default_rng(seed)
        C = retract(C, rng.normal(0.0, 2e-3, (len(C), 6)))
        ours.append(_error(solve_ax_xb(*motions(T, C, "eye_in_hand"), method), X))
        R, t = cv2.calibrateHandEye(
            T[:, :3, :3],
            T[:, :3, 3],
            C[:, :3, :3],
            C[:, :3, 3],
            method=getattr(cv2, f"CALIB_HAND_EYE_{method.upper()}"),
        )
        theirs.append(_error(transform(t.ravel(), Rotation.from_matrix(R)), X))
    assert np.median(ours, axis=0) == pytest.approx(np.median(theirs, axis=0), rel=0.6)
    assert np.mean(ours) < 2e-2


@pytest.mark.parametrize("method", AX_YB_METHODS)
def test_ax_yb_agrees_with_opencv_on_noisy_poses(method: str) -> None:
    ours, theirs = [], []
    for seed in range(12):
        T, C, _, _ = _poses("eye_to_hand", seed)
        _, _, X, Y = _poses("eye_to_hand", seed)
        rng = np.random.default_rng(seed)
        C = retract(C, rng.normal(0.0, 2e-3, (len(C), 6)))
        # C (camera from board) inv(Y) = inv(X) T: the roles OpenCV gives to the two sides
        A, B = C, T
        Y_inverse, X_inverse = solve_ax_yb(A, B, method)
        ours.append(np.concatenate([_error(inverse(X_inverse), X), _error(inverse(Y_inverse), Y)]))
        R_y, t_y, R_x, t_x = cv2.calibrateRobotWorldHandEye(
            A[:, :3, :3],
            A[:, :3, 3],
            B[:, :3, :3],
            B[:, :3, 3],
            method=getattr(cv2, f"CALIB_ROBOT_WORLD_HAND_EYE_{method.upper()}"),
        )
        X_cv = inverse(transform(t_x.ravel(), Rotation.from_matrix(R_x)))
        Y_cv = inverse(transform(t_y.ravel(), Rotation.from_matrix(R_y)))
        theirs.append(np.concatenate([_error(X_cv, X), _error(Y_cv, Y)]))
    assert np.median(ours, axis=0) == pytest.approx(np.median(theirs, axis=0), rel=0.6)


def test_unknown_method_and_too_few_motions_are_refused_with_the_choices() -> None:
    T, C, _, _ = _poses("eye_in_hand", 0)
    A, B = motions(T, C, "eye_in_hand")
    with pytest.raises(ValueError, match="choose tsai, park, horaud, andreff, daniilidis"):
        solve_ax_xb(A, B, "shah")
    with pytest.raises(ValueError, match="choose shah, li"):
        solve_ax_yb(A, B, "tsai")
    with pytest.raises(ClosedFormFailed, match="too few"):
        solve_ax_xb(A[:1], B[:1])
    with pytest.raises(ValueError, match=r"\[N, 4, 4\]"):
        solve_ax_xb(A, B[:-1])
