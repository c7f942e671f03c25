"""Stored orientations and the motions between them, against matrices and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from calibration.poses import ActionConvention, difference, integrate
from prophrl_models.data.registry.actions import (
    Representation,
    measured_motion,
    next_opening,
    poses,
    poses_from_joints,
    rotations,
    states,
)
from prophrl_models.data.registry.errors import RegistryError


def axis(name: str, angle: float) -> np.ndarray:
    """Rotation matrix about one axis, written out."""
    c, s = np.cos(angle), np.sin(angle)
    return {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[name]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3))
def test_every_representation_gives_the_same_matrix(angles: list[float]) -> None:
    a, b, c = angles
    R = axis("z", c) @ axis("y", b) @ axis("x", a)
    same = Rotation.from_matrix(R)
    x, y, z, w = same.as_quat()
    stored = {
        Representation.EULER_XYZ: [a, b, c],
        Representation.QUATERNION_XYZW: [2 * x, 2 * y, 2 * z, 2 * w],
        Representation.QUATERNION_WXYZ: [w, x, y, z],
        Representation.ROTATION_VECTOR: same.as_rotvec(),
        Representation.ROT6D_ROWS: [*(3 * R[0]), *(R[1] + 0.2 * R[0])],
        Representation.ROT6D_COLUMNS: [*R[:, 0], *R[:, 1]],
    }
    for representation, values in stored.items():
        found = rotations(np.array([values]), representation).as_matrix()[0]
        assert np.allclose(found, R, atol=1e-9), representation


def test_dlr_angles_turn_about_z_then_x_then_y_of_the_base() -> None:
    found = rotations(np.array([[0.3, -0.4, 0.5]]), Representation.EULER_ZXY).as_matrix()[0]
    assert np.allclose(found, axis("y", 0.5) @ axis("x", -0.4) @ axis("z", 0.3))


def test_a_quarter_turn_makes_a_base_motion_a_local_one() -> None:
    """The TCP looks along the base's y (quarter turn about z) and moves 10 cm along the base's x, to its right."""
    turn = Rotation.from_euler("z", 90, degrees=True)
    both = Rotation.concatenate([turn, turn * Rotation.from_euler("x", 0.2)])
    T = poses([[0.5, 0.0, 0.3], [0.6, 0.0, 0.3]], both)
    local = measured_motion(T, ActionConvention.LOCAL_FRAME_DELTA)
    assert np.allclose(local[0], [0, -0.1, 0, 0.2, 0, 0])
    assert not local[1].any(), "nothing follows the last frame"
    absolute = measured_motion(T, ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    assert np.allclose(absolute[0], [0.1, 0, 0, 0.2, 0, 0]), "Euler angles go from (0, 0, 90 deg) to (0.2, 0, 90 deg)"
    servo = measured_motion(T, ActionConvention.CONTROLLER_SERVO)
    assert np.allclose(servo[0], [0.1, 0, 0, 0, 0.2, 0]), "the local x axis is the base's y"


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_integrating_the_actions_goes_through_the_measured_poses(convention: ActionConvention) -> None:
    rng = np.random.default_rng(1)
    T = poses(rng.normal(0, 0.3, (6, 3)), Rotation.from_euler("xyz", rng.uniform(-1, 1, (6, 3))))
    reached = T[0]
    for step, action in enumerate(measured_motion(T, convention)[:-1]):
        reached = integrate(reached, action, convention)
        assert np.allclose(reached, T[step + 1], atol=1e-9)


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_whole_episodes_and_single_steps_are_the_same_arithmetic(convention: ActionConvention) -> None:
    rng = np.random.default_rng(2)
    T = poses(rng.normal(0, 1, (40, 3)), Rotation.random(40, random_state=3))
    found = measured_motion(T, convention)
    for step in range(39):
        assert np.allclose(found[step], difference(T[step], T[step + 1], convention), atol=1e-12)


def test_states_are_positions_euler_angles_and_openings() -> None:
    T = poses([[1.0, 2.0, 3.0]] * 2, Rotation.from_euler("xyz", [[0.1, -0.2, 0.3]] * 2))
    assert np.allclose(states(T, [0.25, 1.0]), [[1, 2, 3, 0.1, -0.2, 0.3, 0.25], [1, 2, 3, 0.1, -0.2, 0.3, 1.0]])


def test_an_action_carries_the_opening_that_is_reached() -> None:
    assert next_opening([1.0, 0.8, 0.1]).tolist() == [0.8, 0.1, 0.1]


def test_joint_angles_go_through_the_given_kinematics() -> None:
    def forward(q: np.ndarray) -> np.ndarray:
        T = np.eye(4)
        T[:3, :3] = axis("z", q[0] + q[1])
        return T

    found = poses_from_joints([[0.1, 0.2], [0.3, 0.4]], forward)
    assert np.allclose(found[1][:3, :3], axis("z", 0.7))


@pytest.mark.parametrize(
    ("values", "representation", "message"),
    [
        ([[0, 0, 0, 0]], Representation.QUATERNION_XYZW, "quaternion at frame 0 has norm 0"),
        ([[0, 0, 0], [np.nan, 0, 0]], Representation.EULER_XYZ, "orientation at frame 1 is not finite"),
        ([[1, 0, 0, 2, 0, 0]], Representation.ROT6D_ROWS, "parallel"),
        ([[0, 0, 0]], Representation.QUATERNION_WXYZ, "takes 4 columns"),
    ],
)
def test_degenerate_orientations_are_refused(values: list, representation: Representation, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        rotations(np.array(values, dtype=float), representation)
