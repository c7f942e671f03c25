"""Does a calibrated leader read what the follower stands at? Joint by joint, and in millimetres at the TCP. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from robot_bridge.leader_calibration import LIMITS, SERVO_NAMES, Limits, wrap_deg
from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Verification:
    """Leader against follower in what is meant to be the same pose.

    Attributes:
        difference_deg_6: leader minus follower [6] within half a turn.
        tcp_mm, tcp_deg: difference of the TCP poses by forward kinematics.
        limit_deg: largest difference of any joint that passes.
        reasons: why it failed; empty when it passed.
        blind: joints that stand as they did in the jig (or half a turn off): a wrong direction would not show.
    """

    difference_deg_6: Array
    tcp_mm: float
    tcp_deg: float
    limit_deg: float
    reasons: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.reasons


def verify(
    q_leader_6: ArrayLike,
    q_follower_6: ArrayLike,
    kinematics: Kinematics,
    *,
    jig_q_6: ArrayLike,
    limit_deg: float = 1.0,
    limits: Limits = LIMITS,
) -> Verification:
    """Compare joint angles [6] in radians of leader and follower; whole turns do not count."""
    leader, follower = np.asarray(q_leader_6, dtype=np.float64), np.asarray(q_follower_6, dtype=np.float64)
    jig = np.asarray(jig_q_6, dtype=np.float64)
    difference = np.array([wrap_deg(angle) for angle in np.degrees(leader - follower)])
    T_leader, T_follower = kinematics.forward(leader), kinematics.forward(follower)
    turned = T_follower[:3, :3].T @ T_leader[:3, :3]
    cosine = min(1.0, max(-1.0, (float(np.trace(turned)) - 1.0) / 2.0))
    from_jig = np.degrees(follower - jig)
    # With the wrong direction, a joint reads as far on the other side of the jig pose.
    blind = [abs(wrap_deg(2.0 * angle)) < 2.0 * limits.turned_deg for angle in from_jig]
    reasons = []
    for i, name in enumerate(SERVO_NAMES[:6]):
        if abs(difference[i]) <= limit_deg:
            continue
        reason = f"{name} differs by {difference[i]:+.1f} degrees, at most {limit_deg:.1f} is good: "
        quarter = difference[i] - 90.0 * round(difference[i] / 90.0)
        if not blind[i] and abs(wrap_deg(difference[i] + 2.0 * from_jig[i])) < limits.pose_residual_deg:
            reason += "its direction is wrong; turn it the way that is asked when the directions are measured"
        elif abs(quarter) < limits.pose_residual_deg and abs(difference[i]) > 45.0:
            reason += "about a quarter of a turn, so the jig pose is another than --jig says, or the horn was remounted"
        else:
            reason += (
                "put both arms in the same pose again; if it stays, seat the leader in the jig and calibrate again"
            )
        reasons.append(reason)
    return Verification(
        difference,
        1e3 * float(np.linalg.norm(T_leader[:3, 3] - T_follower[:3, 3])),
        math.degrees(math.acos(cosine)),
        limit_deg,
        tuple(reasons),
        tuple(name for name, hidden in zip(SERVO_NAMES, blind, strict=False) if hidden),
    )
