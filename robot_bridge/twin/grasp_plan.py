"""Top-down grasps: where the TCP goes to take an object and to put it down.

The scripted operator and the tests of the physical scenes both follow these plans, so a plan that cannot work shows.

A TCP yaw of 0 is the home orientation: TCP z down, the finger axis (TCP x) along base +y, that is left-right in the
camera image, so that the camera sees both fingers and what is between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def top_down(position_m: ArrayLike, yaw_rad: float = 0.0) -> Array:
    """``T_base_tcp`` [4, 4] looking down: yaw 0 is the home orientation (TCP x along base +y)."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    T = np.eye(4)
    T[:3, 0] = (-s, c, 0.0)
    T[:3, 1] = (c, s, 0.0)
    T[:3, 2] = (0.0, 0.0, -1.0)
    T[:3, 3] = position_m
    return T


def yaw_of(T_base_tcp: Array) -> float:
    """Yaw in radians of a (nearly) top-down TCP pose, 0 at the home orientation."""
    return math.atan2(T_base_tcp[1, 1], T_base_tcp[0, 1])


@dataclass(frozen=True)
class GraspPlan:
    """How a top-down gripper does the task; offsets are relative to the named object's position and yaw.

    ``grasp_offsets_m`` lists TCP positions at the grasp in the object's frame, the preferred one first.
    """

    object: str
    grasp_offsets_m: tuple[tuple[float, float, float], ...]
    follow_yaw: bool
    symmetry_rad: float
    approach_height_m: float
    open_fraction: float
    lift_height_m: float
    target: str | None = None
    place_offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """TCP minus the grasp offset's x, y, relative to the target object at release (z: TCP above the target's frame)."""
    retreat_height_m: float = 0.12

    def grasp_pose(self, T_base_object: Array, side: int = 0) -> Array:
        """``T_base_tcp`` [4, 4] at the grasp of an object standing at ``T_base_object`` [4, 4]."""
        yaw = self._yaw(T_base_object)
        x, y, z = self.grasp_offsets_m[side]
        c, s = math.cos(yaw), math.sin(yaw)
        position = T_base_object[:3, 3] + np.array([c * x - s * y, s * x + c * y, z])
        return top_down(position, yaw)

    def place_pose(self, T_base_target: Array, T_base_tcp_at_grasp: Array, side: int = 0) -> Array:
        """``T_base_tcp`` [4, 4] at release over the target; keeps the yaw of the grasp.

        Raises:
            ValueError: the task has no target.
        """
        if self.target is None:
            raise ValueError(f"nothing is placed after grasping {self.object!r}; ask for the grasp pose only")
        yaw = yaw_of(T_base_tcp_at_grasp)
        x, y, _ = self.grasp_offsets_m[side]
        c, s = math.cos(yaw), math.sin(yaw)
        offset = np.array([c * x - s * y, s * x + c * y, 0.0]) + np.asarray(self.place_offset_m)
        return top_down(T_base_target[:3, 3] + offset, yaw)

    def _yaw(self, T_base_object: Array) -> float:
        if not self.follow_yaw:
            return 0.0
        yaw = math.atan2(T_base_object[1, 0], T_base_object[0, 0])
        return yaw - self.symmetry_rad * round(yaw / self.symmetry_rad)
