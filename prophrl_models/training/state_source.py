"""Where a policy's state comes from: measured at every step, or in part or whole counted from its own actions.

"integrated" is the paper's real-robot set-up: the policy gets the measured state once, at the start; afterwards its
state is the time integral of its own deltas and the opening is the commanded one, because inside a world model nothing
can be measured. "commanded_opening" is the half of it that matters most: poses hardly differ, since a robot goes where
it is sent, but fingers that hold something stand open though they were told to close. Such a policy sees in imagination
what it sees on the robot, and still knows where its hand is.

A policy that is to be trained in imagination must live with such a state from the beginning, so training rows and the
running robot use the code below.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.poses import ActionConvention, from_euler, integrate, to_euler, wrap_angle

STATE_SOURCES = ("measured", "commanded_opening", "integrated")
"""Values of ``PolicySpec.state_source``."""


def check_state_source(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: not one of ``STATE_SOURCES``.
    """
    if name not in STATE_SOURCES:
        raise ValueError(f"unknown state source {name!r}; choose one of {', '.join(STATE_SOURCES)}")
    return name


class IntegratedState:
    """A state ``[x y z ex ey ez g]`` (m, rad, opening fraction; base frame) that follows executed actions.

    Use: ``start`` with the measured state at the beginning of an episode, ``advance`` with every action that was
    executed, in order. Angles stay continuous: each lies within pi of the one before, so a state on the branch that the
    synchroniser chose stays on it until the hand really turns away.
    """

    def __init__(self, convention: ActionConvention) -> None:
        self.convention = ActionConvention(convention)
        self._state_7: NDArray[np.float64] | None = None

    def start(self, measured_7: ArrayLike) -> None:
        """Begin an episode at a measured state [7].

        Raises:
            ValueError: not seven finite numbers.
        """
        self._state_7 = _seven(measured_7, "the measured state")

    def advance(self, actions_ND: ArrayLike) -> None:
        """Count executed actions [N, >=7], or one [>=7]: six pose numbers in the convention, then the opening.

        Raises:
            RuntimeError: ``start`` was not called.
            ValueError: numbers that are not finite, or fewer than seven.
        """
        state = self._known()
        for action in np.atleast_2d(np.asarray(actions_ND, dtype=np.float64)):
            a = _seven(action[:7], "an action")
            pose = to_euler(integrate(from_euler(state[:6]), a[:6], self.convention))
            pose[3:] = state[3:6] + wrap_angle(pose[3:] - state[3:6])
            state = np.append(pose, a[6])
        self._state_7 = state

    @property
    def state_7(self) -> NDArray[np.float32]:
        """The state the policy is to see, float32 [7].

        Raises:
            RuntimeError: ``start`` was not called.
        """
        return self._known().astype(np.float32)

    @property
    def started(self) -> bool:
        """Whether an episode has begun."""
        return self._state_7 is not None

    def _known(self) -> NDArray[np.float64]:
        if self._state_7 is None:
            raise RuntimeError("the integrated state has no beginning; call start() with the measured state first")
        return self._state_7


def integrated_states(initial_7: ArrayLike, actions_TD: ArrayLike, convention: ActionConvention) -> NDArray[np.float32]:
    """States [T, 7] before each of T actions, as ``IntegratedState`` counts them from a measured first one."""
    counter = IntegratedState(convention)
    counter.start(initial_7)
    states = []
    for action in np.asarray(actions_TD, dtype=np.float64):
        states.append(counter.state_7)
        counter.advance(action)
    return np.stack(states) if states else np.zeros((0, 7), np.float32)


def training_states(
    state_T7: NDArray[np.float32], actions_TD: ArrayLike, source: str, convention: ActionConvention
) -> NDArray[np.float32]:
    """The states [T, 7] of T training rows as the policy will be shown them.

    Args:
        state_T7: measured before each action.
        actions_TD: the action of each row.
        source: one of ``STATE_SOURCES``.

    Raises:
        ValueError: another source.
    """
    if check_state_source(source) == "measured" or not len(state_T7):
        return state_T7
    if source == "integrated":
        return integrated_states(state_T7[0], actions_TD, convention)
    shown = state_T7.copy()
    shown[1:, 6] = np.asarray(actions_TD, dtype=np.float32)[:-1, 6]
    return shown


def _seven(values: ArrayLike, what: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (7,) or not np.isfinite(array).all():
        raise ValueError(f"{what} must be seven finite numbers [x y z ex ey ez opening], got {array.tolist()}")
    return array
