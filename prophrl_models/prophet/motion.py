"""The robot's motion under actions, for many rollouts at once: integrated states, and the action frames they give.

The mathematics is ``training.state_source.IntegratedState``'s, row by row the same numbers; rotations of all rows are
composed in one call, because a batch of hundreds of rollouts takes thousands of steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from calibration.action_frame import STYLE, render_action_frames
from calibration.action_frame_drawing import ActionFrameStyle
from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, wrap_angle
from prophrl_models.data.image import Image

Array = NDArray[np.float64]


def integrated(state_B7: ArrayLike, actions_BA7: ArrayLike, convention: ActionConvention) -> Array:
    """States [B, A + 1, 7] at the start and after each action (m, rad, opening fraction; base frame), float64.

    Angles are continuous: each lies within pi of the one before. The opening is the commanded one.

    Raises:
        ValueError: shapes other than these, or numbers that are not finite.
    """
    state, actions = np.array(state_B7, dtype=np.float64), np.asarray(actions_BA7, dtype=np.float64)
    if state.ndim != 2 or state.shape[1] != 7 or actions.ndim != 3 or actions.shape[::2] != (len(state), 7):
        raise ValueError(f"need states [B, 7] and actions [B, A, 7], got {state.shape} and {actions.shape}")
    if not (np.isfinite(state).all() and np.isfinite(actions).all()):
        raise ValueError("states and actions must be finite; a NaN among them is a fault of whoever chose them")
    states = [state]
    for action in np.moveaxis(actions, 1, 0):
        states.append(_moved(states[-1], action, convention))
    return np.stack(states, axis=1)


def _moved(state_B7: Array, action_B7: Array, convention: ActionConvention) -> Array:
    """States after one action each."""
    position, turned = state_B7[:, :3], Rotation.from_euler("xyz", state_B7[:, 3:6])
    step, turn = action_B7[:, :3], action_B7[:, 3:6]
    if convention is ActionConvention.LOCAL_FRAME_DELTA:
        position = position + turned.apply(step)
        turned = turned * Rotation.from_euler("xyz", turn)
    elif convention is ActionConvention.ABSOLUTE_POSE_DIFFERENCE:
        position = position + step
        turned = Rotation.from_euler("xyz", turned.as_euler("xyz") + turn)
    else:
        position = position + step
        turned = Rotation.from_rotvec(turn) * turned
    angles = state_B7[:, 3:6] + wrap_angle(turned.as_euler("xyz") - state_B7[:, 3:6])
    return np.concatenate([position, angles, action_B7[:, 6:7]], axis=1)


def drawn_action_frames(
    states_BT7: ArrayLike, cameras: Sequence[PinholeCamera], style: ActionFrameStyle = STYLE
) -> Image:
    """Action frames of integrated states, uint8 RGB [B, T, H, W, 3] at the cameras' (common) size."""
    states = np.asarray(states_BT7, dtype=np.float64)
    T_base_tcp = np.zeros((*states.shape[:2], 4, 4))
    T_base_tcp[..., :3, :3] = (
        Rotation.from_euler("xyz", states[..., 3:6].reshape(-1, 3)).as_matrix().reshape(*states.shape[:2], 3, 3)
    )
    T_base_tcp[..., :3, 3] = states[..., :3]
    T_base_tcp[..., 3, 3] = 1.0
    return np.stack(
        [
            render_action_frames(T, state[:, 6], camera, style=style)
            for T, state, camera in zip(T_base_tcp, states, cameras, strict=True)
        ]
    )
