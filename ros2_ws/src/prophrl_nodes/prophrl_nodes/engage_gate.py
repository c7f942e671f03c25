"""May the leader take the follower by the hand? Only when both stand in the same pose, whatever turn they count.

A leader that has been power-cycled may count its joints one or more whole turns away from the follower; the gate
compares modulo a turn and hands back the turns to add, so that the follower never unwinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.poses import wrap_angle
from prophrl_nodes.messages import ARM_JOINTS

Array = NDArray[np.float64]


class GateClosed(Exception):
    """Leader and follower may not be coupled; the message names the joint or the missing data and what to do."""


@dataclass(frozen=True)
class EngageGate:
    """Compares leader and follower joint positions.

    Args:
        limit_rad: largest difference of any joint at which engaging is safe.
        max_age_s: oldest joint data that may be compared.
    """

    limit_rad: float
    max_age_s: float = 0.1

    def difference(self, q_leader_6: ArrayLike, q_follower_6: ArrayLike) -> Array:
        """Leader minus follower [6] in rad, wrapped to (-pi, pi]."""
        return wrap_angle(np.asarray(q_leader_6, dtype=np.float64) - np.asarray(q_follower_6, dtype=np.float64))

    def turns(
        self, q_leader_6: ArrayLike, leader_age_s: float, q_follower_6: ArrayLike, follower_age_s: float
    ) -> Array:
        """Whole turns [6] in rad to add to the leader's positions so that they meet the follower's.

        Raises:
            GateClosed: stale data, or a joint further apart than the limit.
        """
        for who, age_s in (("leader", leader_age_s), ("follower", follower_age_s)):
            if not age_s <= self.max_age_s:  # also true of NaN
                since = f"for {age_s:.1f} s" if np.isfinite(age_s) else "since the start"
                raise GateClosed(f"no joint positions from the {who} {since}; start its node or look at /diagnostics")
        difference = self.difference(q_leader_6, q_follower_6)
        worst = int(np.argmax(np.abs(difference)))
        if not abs(difference[worst]) <= self.limit_rad:
            direction = "back" if difference[worst] > 0 else "forward"
            raise GateClosed(
                f"leader and follower differ by {difference[worst]:+.2f} rad at {ARM_JOINTS[worst]}, at most "
                f"{self.limit_rad:.2f} is safe; move that joint of the leader {direction}, or home both arms"
            )
        return np.asarray(q_follower_6, dtype=np.float64) + difference - np.asarray(q_leader_6, dtype=np.float64)
