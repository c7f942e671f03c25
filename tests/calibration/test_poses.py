"""Rigid transforms: axioms, representations against a second derivation, and the three meanings of an action."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from calibration.poses import (
    ActionConvention,
    difference,
    from_euler,
    from_quaternion,
    from_ur,
    integrate,
    integrate_chunk,
    interpolate,
    inverse,
    to_euler,
    to_quaternion,
    to_ur,
    transform,
    wrap_angle,
)

pytestmark = pytest.mark.filterwarnings("ignore:Gimbal lock")  # found on purpose; the pose must survive it

Array = NDArray[np.float64]
LOCAL, DIFFERENCE, SERVO = ActionConvention
DOWN = Rotation.from_euler("x", np.pi)

vectors = arrays(np.float64, 3, elements=st.floats(-2.0, 2.0))
rotations = arrays(np.float64, 4, elements=st.floats(-1.0, 1.0)).filter(lambda q: np.linalg.norm(q) > 0.05)
poses = st.builds(lambda p, q: transform(p, Rotation.from_quat(q)), vectors, rotations)
small = arrays(np.float64, 6, elements=st.floats(-0.3, 0.3))


def skew(v: Array) -> Array:
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])


def rx(a: float) -> Array:
    return np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])


def ry(a: float) -> Array:
    return np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])


def rz(a: float) -> Array:
    return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])


def assert_rigid(T: Array) -> None:
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)
    np.testing.assert_array_equal(T[3], (0, 0, 0, 1))


def wrapped_equal(a: Array, b: Array, atol: float = 1e-9) -> None:
    np.testing.assert_allclose(np.exp(1j * np.asarray(a)), np.exp(1j * np.asarray(b)), atol=atol)


# ---- transforms


@given(poses, poses, poses)
def test_transforms_form_a_group(A: Array, B: Array, C: Array) -> None:
    for T in (A, inverse(A), A @ B):
        assert_rigid(T)
    np.testing.assert_allclose(A @ inverse(A), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(inverse(A) @ A, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(inverse(A @ B), inverse(B) @ inverse(A), atol=1e-12)
    np.testing.assert_allclose((A @ B) @ C, A @ (B @ C), atol=1e-12)
    np.testing.assert_allclose(inverse(A), np.linalg.inv(A), atol=1e-12)


@given(poses, vectors, vectors)
def test_transforms_keep_distances_and_handedness(T: Array, p: Array, q: Array) -> None:
    moved_p, moved_q = T[:3, :3] @ p + T[:3, 3], T[:3, :3] @ q + T[:3, 3]
    assert np.linalg.norm(moved_p - moved_q) == pytest.approx(np.linalg.norm(p - q), abs=1e-12)
    np.testing.assert_allclose(T[:3, :3] @ np.cross(p, q), np.cross(T[:3, :3] @ p, T[:3, :3] @ q), atol=1e-12)


def test_without_a_rotation_a_transform_only_moves() -> None:
    np.testing.assert_array_equal(transform((1, 2, 3)) @ (0.5, 0.5, 0.5, 1), (1.5, 2.5, 3.5, 1))


# ---- representations, each derived a second way


@given(vectors, vectors)
def test_ur_poses_are_rotation_vectors(position: Array, rotvec: Array) -> None:
    T = from_ur([*position, *rotvec])
    np.testing.assert_allclose(T[:3, :3], expm(skew(rotvec)), atol=1e-9)
    np.testing.assert_allclose(T[:3, :3], cv2.Rodrigues(rotvec)[0], atol=1e-9)
    np.testing.assert_array_equal(T[:3, 3], position)
    if np.linalg.norm(rotvec) < np.pi:
        np.testing.assert_allclose(to_ur(T), [*position, *rotvec], atol=1e-7)


@given(poses)
def test_ur_poses_survive_a_round_trip(T: Array) -> None:
    pose = to_ur(T)
    assert np.linalg.norm(pose[3:]) <= np.pi + 1e-9
    np.testing.assert_allclose(from_ur(pose), T, atol=1e-9)


def test_half_a_turn_survives_as_a_ur_pose() -> None:
    # The home pose of the cell points straight down: the rotation vector has length pi and either sign is right.
    for axis in ((1, 0, 0), (0, 1, 0), (0.6, 0.8, 0)):
        T = transform((0, 0, 0), Rotation.from_rotvec(np.pi * np.array(axis)))
        np.testing.assert_allclose(from_ur(to_ur(T)), T, atol=1e-9)
        np.testing.assert_allclose(np.linalg.norm(to_ur(T)[3:]), np.pi)


@given(poses, st.floats(0.1, 10.0))
def test_quaternions_are_xyzw_of_any_length(T: Array, length: float) -> None:
    position, q = to_quaternion(T)
    x, y, z, w = q
    assert w >= 0 and np.linalg.norm(q) == pytest.approx(1.0)
    by_hand = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    np.testing.assert_allclose(by_hand, T[:3, :3], atol=1e-9)
    np.testing.assert_allclose(from_quaternion(position, length * q), T, atol=1e-9)
    np.testing.assert_allclose(from_quaternion(position, -q), T, atol=1e-9)


def test_position_of_a_quaternion_pose_is_a_copy() -> None:
    T = transform((1, 2, 3))
    to_quaternion(T)[0][0] = 9.0
    assert T[0, 3] == 1.0


def test_a_quaternion_nobody_filled_in_is_refused() -> None:
    with pytest.raises(ValueError, match="norm"):
        from_quaternion((0, 0, 0), (0, 0, 0, 0))


@given(vectors, arrays(np.float64, 3, elements=st.floats(-3.1, 3.1)))
def test_euler_angles_turn_about_the_fixed_axes_x_then_y_then_z(position: Array, angles: Array) -> None:
    T = from_euler([*position, *angles])
    np.testing.assert_allclose(T[:3, :3], rz(angles[2]) @ ry(angles[1]) @ rx(angles[0]), atol=1e-12)
    np.testing.assert_array_equal(T[:3, 3], position)
    if abs(abs(angles[1]) - np.pi / 2) > 1e-3:
        np.testing.assert_allclose(from_euler(to_euler(T)), T, atol=1e-9)
        if abs(angles[1]) < np.pi / 2:
            np.testing.assert_allclose(to_euler(T), [*position, *angles], atol=1e-6)


# ---- angles


@given(st.floats(-1e3, 1e3))
def test_wrapped_angles_are_the_same_direction_in_the_half_open_circle(angle: float) -> None:
    wrapped = float(wrap_angle(angle))
    assert -np.pi < wrapped <= np.pi
    wrapped_equal(np.array(wrapped), np.array(angle))
    assert float(wrap_angle(wrapped)) == pytest.approx(wrapped, abs=1e-15)


def test_pi_stays_pi_and_minus_pi_becomes_pi() -> None:
    np.testing.assert_allclose(wrap_angle([np.pi, -np.pi, 3 * np.pi, 0.0, 1.5 * np.pi]), [np.pi] * 3 + [0, -np.pi / 2])


# ---- actions


@pytest.mark.parametrize("convention", list(ActionConvention))
@settings(max_examples=150)
@given(poses, poses)
def test_what_was_differenced_integrates_to_where_it_came_from(
    convention: ActionConvention, A: Array, B: Array
) -> None:
    delta = difference(A, B, convention)
    assert delta.shape == (6,) and np.isfinite(delta).all() and (np.abs(delta[3:]) <= np.pi + 1e-9).all()
    np.testing.assert_allclose(integrate(A, delta, convention), B, atol=1e-6)


@pytest.mark.parametrize("convention", list(ActionConvention))
@given(poses, small)
def test_what_was_integrated_differences_to_the_action(convention: ActionConvention, A: Array, delta: Array) -> None:
    after = integrate(A, delta, convention)
    assert_rigid(after)
    again = difference(A, after, convention)
    if convention is DIFFERENCE:
        # Euler triples are not unique past +-90 degrees of pitch; the pose they lead to is.
        np.testing.assert_allclose(integrate(A, again, convention), after, atol=1e-6)
        np.testing.assert_allclose(again[:3], delta[:3], atol=1e-12)
    else:
        np.testing.assert_allclose(again, delta, atol=1e-7)


@pytest.mark.parametrize("convention", list(ActionConvention))
@given(poses)
def test_no_motion_is_the_zero_action(convention: ActionConvention, A: Array) -> None:
    np.testing.assert_allclose(difference(A, A, convention), 0.0, atol=1e-7)
    np.testing.assert_allclose(integrate(A, np.zeros(6), convention), A, atol=1e-6)


@given(poses, poses)
def test_local_deltas_follow_the_papers_formula(A: Array, B: Array) -> None:
    delta = difference(A, B, LOCAL)
    np.testing.assert_allclose(delta[:3], A[:3, :3].T @ (B[:3, 3] - A[:3, 3]), atol=1e-12)
    R = rz(delta[5]) @ ry(delta[4]) @ rx(delta[3])
    np.testing.assert_allclose(R, A[:3, :3].T @ B[:3, :3], atol=1e-7)


@given(poses, poses, poses)
def test_local_deltas_do_not_depend_on_where_the_base_stands(base: Array, A: Array, B: Array) -> None:
    a, b = difference(A, B, LOCAL), difference(base @ A, base @ B, LOCAL)
    np.testing.assert_allclose(from_euler(a), from_euler(b), atol=1e-7)


@given(poses, poses)
def test_servo_deltas_are_a_shift_and_a_turn_in_the_base_frame(A: Array, B: Array) -> None:
    delta = difference(A, B, SERVO)
    np.testing.assert_allclose(delta[:3], B[:3, 3] - A[:3, 3], atol=1e-12)
    np.testing.assert_allclose(expm(skew(delta[3:])) @ A[:3, :3], B[:3, :3], atol=1e-7)


@given(vectors, vectors, arrays(np.float64, 3, elements=st.floats(-1.2, 1.2)), small)
def test_absolute_differences_are_differences_of_the_printed_numbers(
    p: Array, step: Array, angles: Array, delta: Array
) -> None:
    A = from_euler([*p, *angles])
    B = from_euler([*(p + step), *(angles + delta[3:])])
    np.testing.assert_allclose(difference(A, B, DIFFERENCE), [*step, *delta[3:]], atol=1e-7)


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_tool_pointing_down_turns_through_pi_without_a_leap(axis: int, sign: int) -> None:
    # Down is Euler x = pi: the slightest sway makes it jump between +pi and -pi.
    before, after = np.zeros(6), np.zeros(6)
    before[3 + axis], after[3 + axis] = sign * (np.pi - 0.01), sign * (np.pi + 0.02)
    A, B = from_euler(before), from_euler(after)
    assert abs(to_euler(A)[3 + axis] - to_euler(B)[3 + axis]) > 6  # the printed numbers do leap
    delta = difference(A, B, DIFFERENCE)
    np.testing.assert_allclose(delta[3 + axis], sign * 0.03, atol=1e-12)
    np.testing.assert_allclose(integrate(A, delta, DIFFERENCE), B, atol=1e-12)


def test_a_chunk_swaying_about_straight_down_has_small_actions_that_lead_back() -> None:
    rng = np.random.default_rng(1)
    path = [transform(rng.uniform(-0.01, 0.01, 3), Rotation.from_rotvec(0.03 * rng.standard_normal(3)) * DOWN)]
    for _ in range(20):
        turn = Rotation.from_rotvec(0.03 * rng.standard_normal(3))
        path.append(
            transform(path[-1][:3, 3] + 0.01 * rng.standard_normal(3), turn * Rotation.from_matrix(path[-1][:3, :3]))
        )
    for convention in ActionConvention:
        actions = np.stack([difference(a, b, convention) for a, b in pairwise(path)])
        assert np.abs(actions).max() < 0.3
        np.testing.assert_allclose(integrate_chunk(path[0], actions, convention), path[1:], atol=1e-9)
    eulers = np.stack([to_euler(T) for T in path])
    assert np.abs(np.diff(eulers, axis=0)).max() > 6  # else the test would test nothing


def test_the_three_meanings_differ_unless_the_tool_stands_square_to_the_base() -> None:
    A = transform((0.1, 0.2, 0.3), Rotation.from_euler("z", 0.7))
    B = A @ from_euler((0.02, 0.0, 0.01, 0.1, 0.05, 0.2))
    deltas = [difference(A, B, c) for c in ActionConvention]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(deltas[i] - deltas[j]).max() > 1e-3
    square = np.eye(4)
    moved = transform((0.02, -0.01, 0.03))
    for convention in ActionConvention:
        np.testing.assert_allclose(difference(square, moved, convention), (0.02, -0.01, 0.03, 0, 0, 0), atol=1e-12)


@given(poses, arrays(np.float64, (5, 7), elements=st.floats(-0.2, 0.2)))
def test_a_chunk_is_its_actions_one_after_the_other_and_ignores_the_gripper(T: Array, actions: Array) -> None:
    for convention in ActionConvention:
        chunk = integrate_chunk(T, actions, convention)
        at = T
        for row, reached in zip(actions, chunk, strict=True):
            at = integrate(at, row[:6], convention)
            np.testing.assert_allclose(reached, at, atol=1e-12)


def test_an_empty_chunk_leads_nowhere() -> None:
    assert integrate_chunk(np.eye(4), np.zeros((0, 7)), LOCAL).shape == (0, 4, 4)


@pytest.mark.parametrize("value", [0, 4, 255])
def test_an_unknown_convention_is_an_error(value: int) -> None:
    with pytest.raises(ValueError, match=str(value)):
        difference(np.eye(4), np.eye(4), value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=str(value)):
        integrate(np.eye(4), np.zeros(6), value)  # type: ignore[arg-type]


def test_conventions_have_the_numbers_of_the_message() -> None:
    message = pytest.importorskip("prophrl_interfaces.msg").ActionChunk
    assert {c.name: getattr(message, c.name) for c in ActionConvention} == {c.name: c.value for c in ActionConvention}


# ---- interpolation


@given(poses, poses, st.floats(0.0, 1.0))
def test_interpolation_goes_straight_and_turns_at_a_constant_rate(A: Array, B: Array, fraction: float) -> None:
    T = interpolate(A, B, fraction)
    assert_rigid(T)
    np.testing.assert_allclose(T[:3, 3], (1 - fraction) * A[:3, 3] + fraction * B[:3, 3], atol=1e-12)
    whole = Rotation.from_matrix(A[:3, :3].T @ B[:3, :3]).magnitude()
    assert Rotation.from_matrix(A[:3, :3].T @ T[:3, :3]).magnitude() == pytest.approx(fraction * whole, abs=1e-6)
    assert Rotation.from_matrix(T[:3, :3].T @ B[:3, :3]).magnitude() == pytest.approx((1 - fraction) * whole, abs=1e-6)
    np.testing.assert_allclose(interpolate(A, B, 0.0), A, atol=1e-9)
    np.testing.assert_allclose(interpolate(A, B, 1.0), B, atol=1e-7)
