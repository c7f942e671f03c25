"""A fast lane that can be watched: the camera's pictures at a steady rate, whatever the policy looks at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.scenes import TIMESTEP_S

VIDEO_RATE_HZ = 10.0
_TICKS = round(1.0 / (VIDEO_RATE_HZ * TIMESTEP_S))


class FilmedLane(FastLane):
    """See ``FastLane``. While ``filming``, ``frames`` gathers pictures [240, 320, 3] at ``VIDEO_RATE_HZ``."""

    filming = False
    frames: list[NDArray[np.uint8]]

    def start_filming(self) -> None:
        """From here on pictures are kept."""
        self.filming, self.frames = True, []

    def stop_filming(self) -> list[NDArray[np.uint8]]:
        """The pictures since ``start_filming``; none are kept any more."""
        self.filming = False
        frames, self.frames = self.frames, []
        return frames

    def run(self, ticks: int) -> None:
        if not self.filming:
            super().run(ticks)
            return
        for _ in range(ticks):
            if self.world.tick % _TICKS == 0 and self.renderer is not None:
                self.frames.append(self.renderer.render_color(self.world.qpos).copy())
            super().run(1)
