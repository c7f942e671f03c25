"""From a dataset's gripper numbers to an opening: 0 fully closed, 1 fully open, one convention everywhere.

Every mapping names the raw value of both ends and where that is known from, because published comments contradict
each other (AgiBot's card and A2World's formula are the opposite of what the gripper does, see ``specs_arms``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prophrl_models.data.registry.errors import RegistryError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GripperMap:
    """A linear scale between two raw values; anything beyond them is clipped.

    Attributes:
        closed_raw: raw value of a fully closed gripper.
        open_raw: raw value of a fully open one.
        source: where both are known from.
        weights: how several raw columns make one number, e.g. (1, -1) for two fingers that move in opposition.
    """

    closed_raw: float
    open_raw: float
    source: str
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.closed_raw == self.open_raw:
            raise RegistryError(f"a gripper cannot be open and closed at the same raw value {self.open_raw:g}")

    def opening(self, raw: ArrayLike) -> Array:
        """Opening [T] of raw values [T] or [T, len(weights)].

        Raises:
            RegistryError: another number of columns than weights, or a value that is not finite.
        """
        values = np.asarray(raw, dtype=np.float64)
        values = values.reshape(len(values), -1)
        if values.shape[1] != len(self.weights):
            raise RegistryError(f"the gripper mapping takes {len(self.weights)} columns, got {values.shape[1]}")
        _refuse_nan(values)
        mixed = values @ np.asarray(self.weights)
        scaled = (mixed - self.closed_raw) / (self.open_raw - self.closed_raw)
        return np.asarray(np.clip(scaled, 0.0, 1.0) + 0.0, dtype=np.float64)  # + 0.0: no negative zero

    def __str__(self) -> str:
        return f"{self.closed_raw:g} closed .. {self.open_raw:g} open"


@dataclass(frozen=True)
class GripperSteps:
    """Commands that say "close", "open" or "stay", as RT-1 and Jaco Play store them: the state is what was said last.

    Before the first command the gripper is taken to be in the other state than that command asks for, because a
    command that changes nothing would not have been given; without any command it is taken to be open. (The same
    reading as in openvla/openvla's and octo-models/octo's data utilities.)
    """

    closing_sign: float
    source: str
    threshold: float = 0.1

    def opening(self, raw: ArrayLike) -> Array:
        """Opening [T], 0 or 1, after each command [T] or [T, 1]."""
        values = np.asarray(raw, dtype=np.float64).reshape(-1)
        _refuse_nan(values)
        commanded = np.where(values * self.closing_sign > self.threshold, 0.0, np.nan)
        commanded[values * self.closing_sign < -self.threshold] = 1.0
        spoken = np.flatnonzero(~np.isnan(commanded))
        result = np.empty(len(values))
        current = 1.0 if not len(spoken) else 1.0 - commanded[spoken[0]]
        for step, value in enumerate(commanded):
            current = current if np.isnan(value) else float(value)
            result[step] = current
        return result

    def __str__(self) -> str:
        return f"{self.closing_sign:+g} closes, {-self.closing_sign:+g} opens, 0 stays"


Gripper = GripperMap | GripperSteps


def _refuse_nan(values: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        raise RegistryError(f"the gripper value at frame {bad[0]} is not finite; leave this episode out")
