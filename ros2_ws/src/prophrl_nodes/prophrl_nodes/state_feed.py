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
        ValueError: an integrated state cannot be had with overlapping chunks.
    """

    def __init__(self, spec: PolicySpec, real_time: bool = False) -> None:
        if real_time and spec.state_source == "integrated":
            raise ValueError(
                "this policy counts its state from executed chunks (state_source integrated), which needs chunking "
                "'synchronous'; train it with state_source measured for real-time chunking"
            )
        self._state = IntegratedState(spec.convention) if spec.state_source == "integrated" else None
        self._sent: NDArray[np.float32] | None = None
        self._begun = False

    def begin(self) -> None:
        """A run begins: the next observation's measured state is where counting starts."""
        self._begun, self._sent = False, None

    def observe(self, observation: Observation, taken: bool) -> Observation:
        """The observation as the policy is to see it; ``taken``: the rows sent last were executed, not refused."""
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
