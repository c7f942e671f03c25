"""The gripper closes, stalls, feels and holds like a two-finger gripper with 85 mm stroke."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from robot_bridge.twin.gripper_model import FORCE_RANGE_N, GripperDrive
from robot_bridge.twin.world import HOME_Q_RAD, TIMESTEP_S, World

HOME = list(HOME_Q_RAD)


def _ticks_until(world: World, target: float, reached: Callable[[World], bool], limit: int = 2000) -> int:
    for tick in range(1, limit + 1):
        world.step(HOME, target)
        if reached(world):
            return tick
    raise AssertionError(f"not reached within {limit} ticks, opening {world.gripper_opening}")


def test_full_stroke_takes_as_long_as_the_real_gripper() -> None:
    world = World("grasp_bottle")
    closing_s = _ticks_until(world, 0.0, lambda w: w.gripper_opening < 0.01) * TIMESTEP_S
    opening_s = _ticks_until(world, 1.0, lambda w: w.gripper_opening > 0.99) * TIMESTEP_S
    assert 0.58 < closing_s < 0.75
    assert 0.58 < opening_s < 0.75


def test_lower_speed_setting_is_slower() -> None:
    world = World("grasp_bottle")
    world.gripper.speed_fraction = 0.0
    assert _ticks_until(world, 0.5, lambda w: w.gripper_opening < 0.51) * TIMESTEP_S > 1.5


def test_fingers_stay_together() -> None:
    world = World("grasp_bottle")
    difference = 0.0
    for _ in range(500):
        world.step(HOME, 0.0)
        right, left = world.data.qpos[6:8]
        difference = max(difference, abs(right - left))
    assert difference < 5e-4


def test_empty_gripper_detects_nothing() -> None:
    world = World("grasp_bottle")
    for target in (0.0, 0.7, 0.2, 1.0):
        for _ in range(600):
            world.step(HOME, target)
        assert world.gripper_opening == pytest.approx(target, abs=0.01)
        assert not world.gripper_object_detected
        assert not world.gripper.moving


@pytest.mark.parametrize("force_fraction", [0.0, 1.0])
def test_object_stalls_the_fingers_with_the_set_force(hand: Callable, force_fraction: float) -> None:
    h = hand("place_cube")
    h.world.gripper.force_fraction = force_fraction
    plan = h.world.task.grasp
    T = plan.grasp_pose(h.world.object_poses()["cube"])
    h.move(T)
    assert not h.world.gripper_object_detected
    h.grip(0.0, 1.0)
    assert h.world.gripper_object_detected
    assert 44.0 < 85.0 * h.world.gripper_opening < 46.0, "the cube is 45 mm wide"
    expected = FORCE_RANGE_N[0] + force_fraction * (FORCE_RANGE_N[1] - FORCE_RANGE_N[0])
    assert _squeeze_n(h.world) == pytest.approx(expected, rel=0.1)

    h.grip(1.0, 0.1)
    assert h.world.gripper_opening > 0.55, "opening after a stall must not wait for the reference to come back"
    h.grip(1.0, 0.8)
    assert not h.world.gripper_object_detected


def test_object_lost_while_held_is_noticed(hand: Callable) -> None:
    h = hand("grasp_bottle")
    h.grasp()
    assert h.world.gripper_object_detected
    qpos_address = h.world.model.joint("bottle").qposadr[0]
    h.world.data.qpos[qpos_address : qpos_address + 3] += (0.2, 0.0, 0.2)
    h.wait(0.8)
    assert not h.world.gripper_object_detected
    assert h.world.gripper_opening < 0.02


def test_drive_force_is_limited() -> None:
    drive = GripperDrive(TIMESTEP_S)
    drive.force_fraction = 1.0
    forces = [drive.force(0.0, 0.0425, 0.0) for _ in range(500)]
    assert max(map(abs, forces)) == pytest.approx(2.0 * FORCE_RANGE_N[1])


def _squeeze_n(world: World) -> float:
    """Sum of the normal forces on the right pad."""
    pad = world.model.geom("finger_right_pad").id
    total = 0.0
    for index, pair in enumerate(world.data.contact.geom):
        if pad in pair:
            total += float(world.data.efc_force[world.data.contact[index].efc_address])
    return float(np.abs(total))
