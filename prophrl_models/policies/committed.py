"""Actions already committed when the policy looks again, in the form the policy knows: rows of its next chunk.

Our actions are pose differences: a chunk means nothing without the pose it starts from. A policy learns how the
*measured* TCP moves, and sees the measured pose. The measured TCP runs behind the commanded one by the lag L of the
servo (65 to 100 ms): measured(t) = commanded(t - L). Two obvious references are therefore wrong. A chunk laid from the
measured pose at the time of the observation pulls the command back by L times the speed at each seam; one laid from the
commanded pose at that time overshoots every goal by as much, because the policy measured its way from the measured
pose. What agrees with both is the measured pose, placed on the command's clock where the arm is: row 0 of the new chunk
begins at command time t - L. The old chunk's rows from there on are the committed ones. Rows until the answer arrives
(L plus the time of inference) have then been commanded already: they are frozen.

No torch here: the nodes that schedule chunks import this file.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.poses import ActionConvention, difference


@dataclass(frozen=True)
class Committed:
    """What is left of the chunk in execution, as the first rows of the chunk that is being asked for.

    Attributes:
        actions_MD: float32, environment units, relative to the reference pose of the new chunk.
        frozen: leading rows that will be over before the answer arrives, 0..M.

    Raises:
        ValueError: not a finite table with at least one row, or frozen out of range.
    """

    actions_MD: NDArray[np.float32]
    frozen: int

    def __post_init__(self) -> None:
        actions = self.actions_MD
        if actions.ndim != 2 or len(actions) == 0 or not np.isfinite(actions).all():
            raise ValueError(f"committed actions must be a finite table [M, D], M >= 1, got shape {actions.shape}")
        if not 0 <= self.frozen <= len(actions):
            raise ValueError(f"frozen must lie in 0..{len(actions)} (the committed rows), got {self.frozen}")


def committed_actions(
    T_reference: ArrayLike, T_path_M44: ArrayLike, opening_M: ArrayLike, convention: ActionConvention
) -> NDArray[np.float32]:
    """Rows [M, 7] that lead from a reference pose along a commanded path [M, 4, 4], with its gripper openings [M].

    Integrated from the reference they give that path exactly, so a chunk that begins with them joins the old one
    without a jump. What the arm is off its path at the reference goes into the first row.
    """
    poses = [np.asarray(T_reference, dtype=np.float64), *np.asarray(T_path_M44, dtype=np.float64)]
    steps = [difference(a, b, convention) for a, b in itertools.pairwise(poses)]
    return np.column_stack([np.array(steps), np.asarray(opening_M, dtype=np.float64)]).astype(np.float32)
