"""From the opening a policy says to the opening the fingers are told.

A flow policy's "closed" is not 0 but noise above it, and what the fingers hold may be thinner than that noise: fingers
around a bowl's rim stand at 0.05, so a command of 0.06 lets the bowl go. Whatever executes a policy's chunk (the policy
node, the fast lane, a rollout in imagination) therefore takes small openings as closed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLOSE_BELOW = 0.3
"""Above the noise of a policy that means 0, below any opening a demonstration has on its way to let go."""
OPENING = 6
"""Column of an action that holds the opening, 0 closed .. 1 open."""


def firm_grip(actions_CD: NDArray[np.float32], close_below: float = CLOSE_BELOW) -> NDArray[np.float32]:
    """A copy of actions [..., D] in environment units whose openings lie in 0..1, 0 where they were below the bound.

    Args:
        close_below: 0 takes openings as they come, for a task that needs fingers held a little apart.

    Raises:
        ValueError: a bound outside 0..1.
    """
    if not 0.0 <= close_below <= 1.0:
        raise ValueError(f"close_below is an opening, 0 closed .. 1 open, got {close_below}; 0 leaves openings as said")
    firm = actions_CD.copy()
    opening = firm[..., OPENING]
    firm[..., OPENING] = np.where(opening < close_below, 0.0, np.clip(opening, 0.0, 1.0))
    return firm
