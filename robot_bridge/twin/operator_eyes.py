"""What the scripted operator sees: object poses and the follower, late, blurred, and better close by.

A person across the table misjudges where an object is by several millimetres and sees the error shrink while the
gripper comes near, because then two things are compared side by side. The same holds for yaw. Everything is seen one
reaction time late. Positions in metres and yaws in radians, frame ``base``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FAR_ERROR_M = 0.006
"""Standard deviation per axis of a position judged from afar."""
NEAR_SHARE = 0.2
"""Share of that error which stays when gripper and object are side by side."""
SIDE_BY_SIDE_M = 0.03
AFAR_M = 0.25
YAW_ERROR_RAD = 0.06
FLICKER_M = 0.0003
"""Standard deviation of what changes from glance to glance."""


@dataclass(frozen=True)
class SceneView:
    """One glance at the scene, without error: true poses ``T_base_*`` [4, 4] and the gripper's opening (1 open)."""

    time_s: float
    object_poses: Mapping[str, Array]
    T_base_tcp: Array
    gripper_opening: float


class Eyes:
    """Keeps the glances of the last reaction time and answers from the oldest of them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.reaction_s = float(rng.uniform(0.16, 0.24))
        self._glances: deque[SceneView] = deque()
        self._errors: dict[str, tuple[Array, float]] = {}

    def look(self, view: SceneView) -> None:
        """Take in the present scene."""
        self._glances.append(view)
        while len(self._glances) > 1 and view.time_s - self._glances[1].time_s >= self.reaction_s:
            self._glances.popleft()

    @property
    def seen(self) -> SceneView:
        """The scene one reaction time ago, without error."""
        if not self._glances:
            raise RuntimeError("the operator has not looked yet; call look() before asking what is seen")
        return self._glances[0]

    def refocus(self) -> None:
        """Judge all objects anew: new errors, as for a new attempt."""
        self._errors.clear()

    def tcp(self) -> Array:
        """Follower TCP pose [4, 4] as seen."""
        T = self.seen.T_base_tcp.copy()
        T[:3, 3] += self._rng.normal(0.0, FLICKER_M, 3)
        return T

    def tcp_speed_mps(self) -> float:
        """Speed of the follower's TCP as seen."""
        first = self.seen
        later = next((glance for glance in self._glances if glance.time_s - first.time_s >= 0.04), self._glances[-1])
        span = later.time_s - first.time_s
        return math.dist(later.T_base_tcp[:3, 3], first.T_base_tcp[:3, 3]) / span if span > 0.0 else 0.0

    def object(self, name: str) -> Array:
        """Pose [4, 4] of an object as seen; the error shrinks as the gripper comes near."""
        T = self.seen.object_poses[name].copy()
        if name not in self._errors:
            shift = self._rng.normal(0.0, FAR_ERROR_M, 3) * (1.0, 1.0, 0.4)
            self._errors[name] = (
                np.clip(shift, -2 * FAR_ERROR_M, 2 * FAR_ERROR_M),
                self._rng.normal(0.0, YAW_ERROR_RAD),
            )
        shift, twist = self._errors[name]
        distance = float(np.linalg.norm(T[:2, 3] - self.seen.T_base_tcp[:2, 3]))
        afar = min(max((distance - SIDE_BY_SIDE_M) / (AFAR_M - SIDE_BY_SIDE_M), 0.0), 1.0)
        share = NEAR_SHARE + (1.0 - NEAR_SHARE) * afar
        T[:3, 3] += share * shift + self._rng.normal(0.0, FLICKER_M, 3)
        c, s = math.cos(share * twist), math.sin(share * twist)
        T[:3, :3] = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ T[:3, :3]
        return T
