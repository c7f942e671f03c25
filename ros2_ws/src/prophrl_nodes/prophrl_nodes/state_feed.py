"""The state a policy is shown: the measured one, or for policies trained that way the one its own actions add up to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.episode import Observation
from prophrl_models.policies.interface import PolicySpec
from prophrl_models.training.state_source import IntegratedState


class StateFeed:
    """Prepares the observations of one policy; see ``prophrl_models.training.state_source``.

    Args:
        spec: says where the policy's state comes from.
        real_time: chunks overlap, so that nobody can say which rows had been executed when an observation was taken.

    Raises:
        ValueError: a state that follows from actions cannot be had with overlapping chunks.
    """

    def __init__(self, spec: PolicySpec, real_time: bool = False) -> None:
        if real_time and spec.state_source != "measured":
            raise ValueError(
                f"this policy's state follows from executed chunks (state_source {spec.state_source}), which needs "
                "chunking 'synchronous'; train it with state_source measured for real-time chunking"
            )
        self._only_opening = spec.state_source == "commanded_opening"
        self._opening: float | None = None
        self._state = IntegratedState(spec.convention) if spec.state_source == "integrated" else None
        self._sent: NDArray[np.float32] | None = None
        self._begun = False

    def begin(self) -> None:
        """A run begins: the next observation's measured state is where counting starts."""
        self._begun, self._sent, self._opening = False, None, None

    def observe(self, observation: Observation, taken: bool) -> Observation:
        """The observation as the policy is to see it; ``taken``: the rows sent last were executed, not refused."""
        if self._only_opening:
            return self._with_commanded_opening(observation, taken)
        if self._state is None:
            return observation
        if not self._begun:
            self._state.start(observation.state_7)
            self._begun = True
        elif taken and self._sent is not None:
            self._state.advance(self._sent)
        self._sent = None
        return replace(observation, state_7=self._state.state_7)

    def sent(self, actions_ND: NDArray[np.float32]) -> None:
        """These rows went out to be executed."""
        self._sent = actions_ND

    def _with_commanded_opening(self, observation: Observation, taken: bool) -> Observation:
        if taken and self._sent is not None and len(self._sent):
            self._opening = float(self._sent[-1, 6])
        self._sent = None
        if self._opening is None:
            return observation
        state = observation.state_7.copy()
        state[6] = self._opening
        return replace(observation, state_7=state)
