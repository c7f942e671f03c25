"""Distances between arm, table, camera and board, and what makes a joint path unsafe."""

from __future__ import annotations

import math

import numpy as np
import pytest

from calibration.poses import transform
from robot_bridge.arm_clearance import ArmClearance, Plate, Surroundings, path_problem, segment_distance
from robot_bridge.cell import SafetyConfig
from robot_bridge.ur_kinematics import Kinematics, Unreachable

KINEMATICS = Kinematics()
HOME = np.array([0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0])
SAFETY = SafetyConfig()


def tool_down_at(x_m: float, y_m: float, z_m: float) -> np.ndarray:
    T = KINEMATICS.forward(HOME)
    T[:3, 3] = x_m, y_m, z_m
    return KINEMATICS.inverse(T, HOME)


def test_segments_are_as_far_apart_as_a_fine_sampling_of_both_says() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(200, 2, 3)), rng.normal(size=(200, 2, 3))
    first[0, 1] = first[0, 0]  # a point
    second[1] = first[1] + 0.5  # parallel
    s = np.linspace(0.0, 1.0, 201)
    for a, b, distance in zip(first, second, segment_distance(first, second), strict=True):
        p = a[0] + s[:, None] * (a[1] - a[0])
        r = b[0] + s[:, None] * (b[1] - b[0])
        sampled = np.linalg.norm(p[:, None] - r[None], axis=-1).min()
        assert distance <= sampled + 1e-9
        assert sampled - distance < 0.02


def test_the_bodies_stand_where_the_kinematics_says() -> None:
    clearance = ArmClearance(KINEMATICS)
    Q = np.random.default_rng(0).uniform(-3.0, 3.0, (20, 6))
    for q, bodies in zip(Q, clearance.bodies(Q), strict=True):
        np.testing.assert_allclose(bodies[7] @ KINEMATICS.T_tool0_tcp, KINEMATICS.forward(q), atol=1e-12)


def test_the_drawn_arm_of_the_twin_fits_into_the_capsules() -> None:
    from robot_bridge.arm_outline import ArmOutline

    # The rims of flat ends stand out of capsules by less than the margin that paths keep.
    clearance, outline = ArmClearance(KINEMATICS), ArmOutline(KINEMATICS)
    for q in np.random.default_rng(1).uniform(-2.0, 2.0, (5, 6)):
        points = outline.points([q], [1.0])[0][outline.link_N >= 2]
        ends = clearance._segments(q[None])[0]
        start, along = ends[:, 0], ends[:, 1] - ends[:, 0]
        t = np.clip(np.einsum("pci,ci->pc", points[:, None] - start, along) / (along * along).sum(-1), 0.0, 1.0)
        nearest = np.linalg.norm(points[:, None] - start - t[..., None] * along, axis=-1) - clearance._radii
        assert nearest.min(axis=1).max() < 0.02


def test_home_is_clear_and_a_tool_on_the_table_is_not() -> None:
    clearance = ArmClearance(KINEMATICS)
    assert clearance.at(HOME).distance_m > 0.08
    low = clearance.at(tool_down_at(-0.6, 0.0, 0.005))
    assert low.distance_m < 0.0
    assert low.between == "gripper and table"


def test_a_folded_wrist_meets_the_forearm() -> None:
    clearance = ArmClearance(KINEMATICS)
    folded = HOME.copy()
    folded[3:5] = 1.55, 3.1  # the hand turned back along the forearm
    assert clearance.at(folded).distance_m < 0.0


def test_the_distance_of_a_path_holds_between_its_samples() -> None:
    clearance = ArmClearance(KINEMATICS)
    rng = np.random.default_rng(5)
    for _ in range(10):
        goal = HOME + rng.uniform(-0.8, 0.8, 6)
        promised = clearance.along(HOME, goal).distance_m
        fine = [clearance.at(HOME + s * (goal - HOME)).distance_m for s in np.linspace(0.0, 1.0, 997)]
        assert promised <= min(fine) + 1e-9
        assert promised > min(fine) - 0.02


def test_a_board_on_the_tool_and_a_camera_are_kept_apart() -> None:
    tool = KINEMATICS.forward(HOME)
    plate = Plate(transform((-0.15, -0.10, -0.1)), 0.3, 0.2)
    near = tool[:3, 3] + tool[:3, :3] @ np.array([0.0, 0.0, -0.1])
    sphere = (tuple(float(v) for v in near), 0.05)
    clearance = ArmClearance(KINEMATICS, Surroundings(spheres=(sphere,)), plate)  # type: ignore[arg-type]
    found = clearance.at(HOME)
    assert found.distance_m < 0.0
    assert "camera" in found.between
    assert ArmClearance(KINEMATICS, plate=plate).at(HOME).distance_m > 0.0


def test_a_path_inside_the_box_and_clear_has_no_problem() -> None:
    clearance = ArmClearance(KINEMATICS)
    assert path_problem(HOME, tool_down_at(-0.6, 0.1, 0.2), clearance, SAFETY) == ""


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ([0.0] * 5, "6 finite angles"),
        ([math.nan, *HOME[1:]], "6 finite angles"),
        ([6.27, *HOME[1:]], "shoulder_pan_joint would turn to 6.27"),
        (HOME + np.array([1.2, 0, 0, 0, 0, 0]), "leave the workspace box"),
        (tool_down_at(-0.6, 0.0, 0.02), "gripper and table would come within"),
    ],
)
def test_an_unsafe_goal_is_named(goal: object, words: str) -> None:
    clearance = ArmClearance(KINEMATICS)
    assert words in path_problem(HOME, goal, clearance, SAFETY)  # type: ignore[arg-type]


def test_an_arm_that_stands_outside_may_come_in() -> None:
    clearance = ArmClearance(KINEMATICS)
    inside, outside = tool_down_at(-0.6, 0.3, 0.3), tool_down_at(-0.6, 0.55, 0.3)
    assert path_problem(outside, inside, clearance, SAFETY) == ""
    assert "workspace box" in path_problem(inside, outside, clearance, SAFETY)


def test_a_path_is_judged_in_a_few_milliseconds_worth_of_samples() -> None:
    with pytest.raises(Unreachable):
        tool_down_at(-2.0, 0.0, 0.3)
    samples = ArmClearance(KINEMATICS).path(HOME, HOME + 6.0)
    assert len(samples) <= 801
