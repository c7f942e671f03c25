"""A fast lane that keeps what a recorder would: a trial in it becomes a logged episode, as a bag of it would."""

from __future__ import annotations

import itertools

import numpy as np

from calibration.poses import ActionConvention, difference
from prophrl_models.data.image import policy_camera, policy_image
from prophrl_models.data.synchronise import SyncSpec, state_vector
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.rl.replays import LoggedEpisode
from robot_bridge.twin.fast_lane import FastLane, FastObservation
from robot_bridge.twin.scenes import TIMESTEP_S


class WatchedLane(FastLane):
    """See ``FastLane``. Observation and commanded opening of every control step since the reset are kept."""

    def _begin_episode(self) -> None:
        self._seen: list[tuple[FastObservation, float]] = []
        super()._begin_episode()

    def run(self, ticks: int) -> None:
        while ticks > 0:
            since = self.world.tick % self._every
            if not since:
                self._seen.append((self.observe(), self.opening_target))
            stride = min(ticks, self._every - since)
            super().run(stride)
            ticks -= stride

    @property
    def moments(self) -> list[FastObservation]:
        """What was seen at every control step since the reset, the present moment not included."""
        return [moment for moment, _ in self._seen]

    def episode(
        self, instruction: str, sync: SyncSpec, convention: ActionConvention, success: bool, source: str = ""
    ) -> LoggedEpisode:
        """What was done since the reset: T actions, and T + 1 pictures [240, 320, 3].

        Actions are those of a dataset: from measured pose to measured pose in ``convention``, with the opening that is
        commanded at the later one.

        Raises:
            ValueError: less than one control step has passed.
        """
        seen = self._seen if self.world.tick % self._every else [*self._seen, (self.observe(), self.opening_target)]
        if len(seen) < 2 or self.renderer is None:
            raise ValueError(f"an episode needs pictures of at least one control step, got {len(seen)} moments")
        actions = [
            [*difference(now.T_base_tcp, then.T_base_tcp, convention), opening]
            for (now, _), (then, opening) in itertools.pairwise(seen)
        ]
        first = seen[0][0]
        state = state_vector(first.T_base_tcp, float(first.state_7[6]), sync)
        frames = np.stack([policy_image(moment.image_HW3, sync.image_region) for moment, _ in seen])
        prompt = Prompt(frames[0], state, instruction, policy_camera(self.renderer.camera, sync.image_region), source)
        return LoggedEpisode(prompt, np.array(actions, np.float32), success, frames)

    @property
    def _every(self) -> int:
        """Ticks of a control step."""
        return round(1.0 / (self.control_rate_hz * TIMESTEP_S))
