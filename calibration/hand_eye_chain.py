"""The chain of poses behind every view, with its derivatives.

``T_camera_board_i = inv(X) T_base_tool_i D_i Y`` (eye_to_hand) or ``inv(X) inv(T_base_tool_i D_i) Y`` (eye_in_hand),
where ``D_i`` is the correction of a view's tool pose.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibration.hand_eye_types import Mode
from calibration.tangent import adjoint, inverses, motion, right_jacobian

Array = NDArray[np.float64]


@dataclass(frozen=True)
class State:
    """Unknowns: X, Y, per-view corrections [V, 6] (tangent of the tool pose), intrinsics [4], size of the board."""

    X: Array
    Y: Array
    corrections_V6: Array
    intrinsics_4: Array = field(default_factory=lambda: np.ones(4))
    scale: float = 1.0


@dataclass(frozen=True)
class Linearised:
    """Whitened residuals [V, R] and their derivatives by the globals [V, R, G] and the view's correction [V, R, 6]."""

    residuals_VR: Array
    by_globals_VRG: Array
    by_view_VR6: Array


def chain(T_base_tool_V44: Array, state: State, mode: Mode) -> Array:
    """Predicted ``T_camera_board`` [V, 4, 4]."""
    T = T_base_tool_V44 @ motion(state.corrections_V6)
    middle = T if mode == "eye_to_hand" else inverses(T)
    predicted: Array = inverses(state.X[None]) @ middle @ state.Y
    return predicted


def chain_derivatives(T_base_tool_V44: Array, predicted_V44: Array, state: State, mode: Mode) -> tuple[Array, Array]:
    """Right tangent of the predicted pose by X [V, 6, 6] and by the corrections [V, 6, 6]; by Y it is the identity."""
    by_X = -adjoint(inverses(predicted_V44))
    D = motion(state.corrections_V6)
    own = np.zeros((len(D), 6, 6))  # right tangent of D by its own coordinates
    own[:, :3, :3] = np.swapaxes(D[:, :3, :3], 1, 2)
    own[:, 3:, 3:] = right_jacobian(state.corrections_V6[:, 3:])
    if mode == "eye_to_hand":
        return by_X, adjoint(inverses(state.Y[None])) @ own
    after = inverses(T_base_tool_V44 @ D) @ state.Y
    return by_X, -adjoint(inverses(after)) @ own
