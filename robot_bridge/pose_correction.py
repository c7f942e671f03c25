"""What one arm's calibration adds to the nominal kinematics, learnt from the controller's own TCP poses.

The controller computes TCP poses with the arm's calibrated DH table, which RTDE does not hand out; our inverse
kinematics is nominal. The two differ by a millimetre or so. Without a correction a pose target lands beside the
pose asked for, and a policy that starts each chunk at the measured pose creeps by that error with every chunk. The
difference changes slowly over the workspace, so its running average near the present pose is a good correction:
``T_measured = T_nominal @ T_offset`` with T_offset in the TCP frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.poses import interpolate, inverse
from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]

MAX_OFFSET_M = 0.02
"""A larger difference is no calibration: a wrong model name or tool offset."""
MAX_OFFSET_RAD = 0.05


class PoseCorrection:
    """Running average of ``T_offset``; the identity until the first observation."""

    def __init__(self, kinematics: Kinematics) -> None:
        self._kinematics = kinematics
        self._T_offset = np.eye(4)
        self._T_offset_inverse = np.eye(4)
        self.observations = 0

    @property
    def T_offset(self) -> Array:
        """Present estimate of the TCP frame as the controller sees it, in the nominal TCP frame [4, 4]."""
        return self._T_offset.copy()

    def observe(self, q_measured: Sequence[float] | Array, T_base_tcp_measured: ArrayLike, weight: float = 0.1) -> None:
        """Take in one simultaneous measurement of joints [6] and TCP pose [4, 4] from the controller.

        Joints and pose must be of the same controller tick. A few calls per second are enough.

        Raises:
            ValueError: they differ too much to belong to the same arm and tool.
        """
        T_nominal = self._kinematics.forward(q_measured)
        T_new = inverse(T_nominal) @ np.asarray(T_base_tcp_measured, dtype=np.float64)
        distance = float(np.linalg.norm(T_new[:3, 3]))
        angle = float(np.arccos(np.clip((np.trace(T_new[:3, :3]) - 1.0) / 2.0, -1.0, 1.0)))
        if not (distance <= MAX_OFFSET_M and angle <= MAX_OFFSET_RAD):
            raise ValueError(
                f"the controller's TCP pose is {distance * 1e3:.1f} mm and {angle:.3f} rad from the nominal one "
                f"(limits {MAX_OFFSET_M * 1e3:.0f} mm, {MAX_OFFSET_RAD} rad); check the robot model and tcp_offset"
            )
        self._T_offset = interpolate(self._T_offset, T_new, weight) if self.observations else T_new
        self._T_offset_inverse = inverse(self._T_offset)
        self.observations += 1

    def to_nominal(self, T_base_tcp: ArrayLike) -> Array:
        """The pose to give the nominal inverse kinematics so that the controller measures T_base_tcp [4, 4]."""
        T = np.asarray(T_base_tcp, dtype=np.float64)
        if T.shape != (4, 4):
            return T  # judged, and refused with its shape, by the safety envelope
        return T @ self._T_offset_inverse
