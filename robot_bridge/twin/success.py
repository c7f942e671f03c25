"""When a task has succeeded: one predicate per task, its docstring is what a human judge is told.

A predicate looks at one instant and returns named conditions; the world asks it regularly and calls the task a
success when all conditions have held without a break for the task's dwell time.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

AT_REST_MPS = 0.03
BOWL_RIM_HEIGHT_M = 0.050
BOWL_INNER_RADIUS_M = 0.067
PLATE_HEIGHT_M = 0.012
PLATE_TOLERANCE_M = 0.035
LIFT_M = 0.10
PULL_M = 0.08


@dataclass(frozen=True)
class SceneState:
    """What a predicate may look at; poses are 4x4 in base, opening is a fraction (1 open)."""

    poses: Mapping[str, Array]
    start_poses: Mapping[str, Array]
    speed_mps: Mapping[str, float]
    T_base_tcp: Array
    tcp_speed_mps: float
    gripper_opening: float
    object_detected: bool


@dataclass(frozen=True)
class SuccessReport:
    """The verdict, the reason in words, and each condition by name."""

    success: bool
    reason: str
    terms: Mapping[str, bool]


def words(predicate: Callable[[SceneState], dict[str, bool]]) -> str:
    """The sentence a judge reads: the predicate's docstring on one line."""
    return " ".join((inspect.getdoc(predicate) or "").split())


def judge_grasp_bottle(state: SceneState) -> dict[str, bool]:
    """The gripper holds the bottle at least 10 cm above where it stood, within 30 degrees of upright and steady;
    it holds this for half a second."""
    bottle = state.poses["bottle"]
    lifted_m = bottle[2, 3] - state.start_poses["bottle"][2, 3]
    return {
        "bottle is lifted at least 10 cm": bool(lifted_m >= LIFT_M),
        "gripper holds something": state.object_detected,
        "bottle is between the fingers": _distance_xy(bottle, state.T_base_tcp) < 0.06,
        "bottle is upright within 30 degrees": _tilt_rad(bottle) < math.radians(30.0),
        "bottle moves with the gripper": abs(state.speed_mps["bottle"] - state.tcp_speed_mps) < 0.05,
    }


def judge_place_cube(state: SceneState) -> dict[str, bool]:
    """The red cube lies inside the bowl, below its rim, at rest; the gripper is open and clear of the cube."""
    cube, bowl = state.poses["cube"], state.poses["bowl"]
    local = bowl[:3, :3].T @ (cube[:3, 3] - bowl[:3, 3])
    return {
        "cube is over the bowl": math.hypot(local[0], local[1]) < BOWL_INNER_RADIUS_M - 0.012,
        "cube is below the rim": bool(0.0 < local[2] < BOWL_RIM_HEIGHT_M),
        "bowl stands upright": _tilt_rad(bowl) < math.radians(15.0),
        "cube is at rest": state.speed_mps["cube"] < AT_REST_MPS,
        "gripper is open": state.gripper_opening > 0.6,
        "gripper is clear of the cube": float(np.linalg.norm(state.T_base_tcp[:3, 3] - cube[:3, 3])) > 0.06,
    }


def judge_pull_tissue(state: SceneState) -> dict[str, bool]:
    """The tissue has been pulled at least 8 cm out of the opening by the gripper, partly or wholly out, held or
    dropped; the box still stands on the table."""
    start, now = state.start_poses["tissue"], state.poses["tissue"]
    moved_m = float(
        np.linalg.norm(_local(state.poses["tissue_box"], now) - _local(state.start_poses["tissue_box"], start))
    )
    box = state.poses["tissue_box"]
    return {
        "tissue is pulled out at least 8 cm": moved_m >= PULL_M,
        "box stands on the table": bool(abs(box[2, 3]) < 0.02) and _tilt_rad(box) < math.radians(15.0),
    }


def judge_place_bowl(state: SceneState) -> dict[str, bool]:
    """The bowl stands upright on the plate, its foot inside the plate's flat, at rest; the gripper is open and clear
    of the bowl."""
    bowl, plate = state.poses["bowl"], state.poses["plate"]
    rim = bowl[:3, 3] + bowl[:3, 2] * BOWL_RIM_HEIGHT_M
    return {
        "bowl is over the plate": _distance_xy(bowl, plate) < PLATE_TOLERANCE_M,
        "bowl stands on the plate": bool(abs(bowl[2, 3] - plate[2, 3] - PLATE_HEIGHT_M) < 0.008),
        "bowl stands upright": _tilt_rad(bowl) < math.radians(10.0),
        "bowl is at rest": state.speed_mps["bowl"] < AT_REST_MPS,
        "gripper is open": state.gripper_opening > 0.3,
        "gripper is clear of the bowl": bool(state.T_base_tcp[2, 3] > rim[2] + 0.02),
    }


def _distance_xy(T_a: Array, T_b: Array) -> float:
    return math.hypot(T_a[0, 3] - T_b[0, 3], T_a[1, 3] - T_b[1, 3])


def _tilt_rad(T: Array) -> float:
    """Angle between the object's z axis and up."""
    return math.acos(max(-1.0, min(1.0, float(T[2, 2]))))


def _local(T_base_frame: Array, T_base_object: Array) -> Array:
    """Position [3] of an object in another object's frame."""
    local: Array = T_base_frame[:3, :3].T @ (T_base_object[:3, 3] - T_base_frame[:3, 3])
    return local


def judge_nothing(_: SceneState) -> dict[str, bool]:
    """There is no task in this scene: nothing can succeed."""
    return {"the scene has a task": False}
