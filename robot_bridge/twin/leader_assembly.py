"""How the twin's leader was screwed together: horns on their marks, or somewhere, as on every real leader.

Nobody at a real cell knows these numbers; they are found by calibration (``leader_calibration.py``), which is
tested against them.
"""

from __future__ import annotations

import numpy as np

from robot_bridge.leader_offsets import NOMINAL, UR_SIGNS, JointServo, LeaderOffsets, TriggerServo

SHAKE_COUNTS = 0.5
"""Standard deviation of the shake of a hand-assembled leader's readings (encoder noise, a hand on the arm)."""


def assembled(seed: int) -> LeaderOffsets:
    """The true offsets of the leader with this number; 0 is a leader without any.

    Horns sit at any angle (real-valued), about one servo in four is mounted the other way round, and the trigger
    sweeps 30 to 60 degrees somewhere on its circle, in either direction.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"twin.leader_seed must be 0 (no offsets) or a positive number, got {seed}")
    if seed == 0:
        return NOMINAL
    rng = np.random.default_rng([0x6E110, seed])
    joints = tuple(
        JointServo(float(rng.uniform(0.0, 4096.0)), -sign if rng.random() < 0.25 else sign) for sign in UR_SIGNS
    )
    released = float(rng.uniform(0.0, 4096.0))
    sweep = float(rng.uniform(340.0, 680.0)) * (1.0 if rng.random() < 0.5 else -1.0)
    return LeaderOffsets(joints, TriggerServo(released, released + sweep))
