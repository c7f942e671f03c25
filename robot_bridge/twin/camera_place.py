"""Where the twin's camera stands: its nominal place, the secret one of a cell that was never calibrated, and a knock.

A camera is fixed in the cell or rides on the tool; its pose is given in frame ``base`` or in frame ``tool`` (the TCP)
accordingly. ``camera_seed`` 0 stands for a camera exactly at its nominal place, any other for an offset of centimetres
and degrees that only a calibration can find out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.poses import inverse, transform
from robot_bridge.cell import CAMERA_MOUNTS, TwinConfig
from robot_bridge.twin.faults import Faults
from robot_bridge.twin.scenes import CAMERA_FOCAL_PER_HEIGHT, CAMERA_PITCH_RAD, CAMERA_POSITION_M

Array = NDArray[np.float64]

SECRET_OFFSET_M = 0.060
SECRET_OFFSET_RAD = math.radians(6.0)
"""Largest secret offset along and about each axis of the optical frame."""
TOOL_CAMERA_POSITION_M = (0.0, -0.075, -0.134)
TOOL_CAMERA_TILT_RAD = math.radians(12.0)
"""Camera on the tool: beside the gripper's flat side, level with its palm, looking along tool z, a little inwards."""
NUDGE = "camera_nudge"
"""Name of the fault that moves the camera."""
_STREAM = 0xCA3E7A


def nominal_T_base_camera() -> Array:
    """Nominal pose of the fixed camera's optical frame in base [4, 4]."""
    s, c = math.sin(CAMERA_PITCH_RAD), math.cos(CAMERA_PITCH_RAD)
    T_base_camera = np.eye(4)
    T_base_camera[:3, 0] = (0.0, -1.0, 0.0)
    T_base_camera[:3, 1] = (-s, 0.0, -c)
    T_base_camera[:3, 2] = (c, 0.0, -s)
    T_base_camera[:3, 3] = CAMERA_POSITION_M
    return T_base_camera


def nominal_T_tool_camera() -> Array:
    """Nominal pose of the tool camera's optical frame in the tool frame [4, 4]; image x runs along tool x."""
    s, c = math.sin(TOOL_CAMERA_TILT_RAD), math.cos(TOOL_CAMERA_TILT_RAD)
    T_tool_camera = np.eye(4)
    T_tool_camera[:3, 1] = (0.0, c, -s)
    T_tool_camera[:3, 2] = (0.0, s, c)
    T_tool_camera[:3, 3] = TOOL_CAMERA_POSITION_M
    return T_tool_camera


def nominal_pose(mount: str) -> Array:
    """``T_base_camera`` of mount "fixed" or ``T_tool_camera`` of mount "tool" [4, 4], as drawn in the plans.

    Raises:
        ValueError: another mount.
    """
    if mount not in CAMERA_MOUNTS:
        raise ValueError(f"a camera is mounted {' or '.join(CAMERA_MOUNTS)}, got {mount!r}")
    return nominal_T_base_camera() if mount == "fixed" else nominal_T_tool_camera()


def secret_pose(mount: str, seed: int) -> Array:
    """Where the camera of this seed really is, in the frame of its mount [4, 4]; seed 0 is the nominal place.

    Raises:
        ValueError: unknown mount.
    """
    T_mount_camera = nominal_pose(mount)
    if seed == 0:
        return T_mount_camera
    draw = np.random.default_rng([seed, _STREAM]).uniform(-1.0, 1.0, 6)
    return nudged(T_mount_camera, np.concatenate([draw[:3] * SECRET_OFFSET_M, draw[3:] * SECRET_OFFSET_RAD]))


def nudged(T_mount_camera: Array, delta_6: ArrayLike) -> Array:
    """A pose [4, 4] moved by ``delta_6`` = [dt (3) m, dr (3) rad] in its own optical frame: ``T @ [exp(dr) | dt]``."""
    delta = np.asarray(delta_6, dtype=np.float64)
    moved: Array = T_mount_camera @ transform(delta[:3], Rotation.from_rotvec(delta[3:]))
    return moved


def twin_camera(width: int = 424, height: int = 240) -> PinholeCamera:
    """Intrinsics and nominal fixed pose for an image of this size (colour and depth are one sensor here)."""
    focal = CAMERA_FOCAL_PER_HEIGHT * height
    return PinholeCamera(
        focal, focal, (width - 1) / 2, (height - 1) / 2, width, height, inverse(nominal_T_base_camera())
    )


class CameraPlace:
    """The true place of one cell's camera, knocks included.

    Args:
        config: twin section of the cell file.
        faults: the lab's switches; they are polled by whoever owns them.
    """

    def __init__(self, config: TwinConfig, faults: Faults) -> None:
        self.on_tool = config.camera_mount == "tool"
        self.is_nominal = config.camera_seed == 0
        self._faults = faults
        self._T_mount_camera = secret_pose(config.camera_mount, config.camera_seed)

    @property
    def nudge_6(self) -> Array:
        """The knock it has taken [6], zeros without one."""
        return self._faults.pose(NUDGE)

    def T_mount_camera(self) -> Array:
        """``T_base_camera`` of a fixed camera, ``T_tool_camera`` of one on the tool [4, 4], now."""
        nudge = self.nudge_6
        return nudged(self._T_mount_camera, nudge) if nudge.any() else self._T_mount_camera

    def T_base_camera(self, T_base_tool: Array) -> Array:
        """Pose in base [4, 4] while the tool is at ``T_base_tool`` [4, 4]."""
        return T_base_tool @ self.T_mount_camera() if self.on_tool else self.T_mount_camera()
