"""A world that can be written down: a hand above a table, drawn where the actions lead it. Demonstrations of it, too.

``DrawnWorld`` is exact with its default settings: played with the logged actions it shows the recorded frames, pixel
by pixel. Its faults can be set one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, difference, from_euler
from calibration.storage import save_camera
from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.data.episode import Episode, EpisodeMetadata, Observation
from prophrl_models.prophet.rollout import WorldState
from prophrl_models.training.state_source import IntegratedState
from tests.helpers import reaches

SQUARE_XY = (-0.6, 0.05)
CONVENTION = ActionConvention.ABSOLUTE_POSE_DIFFERENCE


def wander(number: int, steps: int) -> Episode:
    """A hand on its way around the table, another way for each number; measured openings are the commanded ones."""
    rng = np.random.default_rng(number)
    phase, turns = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.8, 1.6, 3)
    time = np.linspace(0, 2 * np.pi * steps / 60, steps + 1)
    states = np.zeros((steps + 1, 7), np.float32)
    for axis, (middle, reach) in enumerate(((-0.65, 0.12), (0.0, 0.15), (0.2, 0.1))):
        states[:, axis] = middle + reach * np.sin(turns[axis] * time + phase[axis])
    states[:, 3:6] = reaches.DOWN_EULER
    states[:, 6] = np.linspace(1.0, 0.2, steps + 1)
    action = np.zeros((steps, 7), np.float32)
    for t in range(steps):
        action[t, :6] = difference(from_euler(states[t, :6]), from_euler(states[t + 1, :6]), CONVENTION)
        action[t, 6] = states[t + 1, 6]
    images = np.stack([reaches.picture(SQUARE_XY, state) for state in states])
    drawn = reaches.reach(SQUARE_XY, number)
    stamps = (np.arange(steps + 1) * 100_000_000).astype(np.int64)
    return replace(
        drawn,
        metadata=EpisodeMetadata(f"wander-{number}", task="wander", instruction="wander", outcome="success"),
        state_T7=states[:-1],
        action_T7=action,
        stamp_ns_T=stamps[:-1],
        source_stamp_ns_T=dict.fromkeys(("color", "tcp_pose", "gripper"), stamps[:-1]),
        valid_T=np.ones(steps, dtype=bool),
        moving_T=np.ones(steps, dtype=bool),
        final=Observation(images[-1], states[-1], "wander", int(stamps[-1])),
        color_THW3=images[:-1],
    )


def write_dataset(folder: Path, lengths: Sequence[int], *, calibrated: bool = True) -> Dataset:
    """A finished dataset of such episodes."""
    writer = DatasetWriter(folder, DatasetHeader(convention=CONVENTION))
    calibration = None
    if calibrated:
        save_camera(folder / "camera.yaml", reaches.camera(), serial="DRAWN")
        calibration = (folder / "camera.yaml").read_text()
    for number, steps in enumerate(lengths):
        writer.add(wander(number, steps), f"{number:064x}", calibration_yaml=calibration)
    writer.finish()
    return Dataset(folder)


@dataclass(frozen=True)
class DrawnState:
    """Where B rollouts of a ``DrawnWorld`` stand."""

    frame_BHW3: Tensor
    state_B7: Tensor
    seeds_B: tuple[int, ...]
    step: int = 0

    def select(self, rows: Sequence[int] | Tensor) -> DrawnState:
        """Some rows."""
        index = [int(row) for row in rows]
        seeds = tuple(self.seeds_B[row] for row in index)
        return replace(self, frame_BHW3=self.frame_BHW3[index], state_B7=self.state_B7[index], seeds_B=seeds)

    def repeat(self, times: int) -> DrawnState:
        """Each row ``times`` times in a row."""
        return self.select([row for row in range(len(self.seeds_B)) for _ in range(times)])


@dataclass(frozen=True)
class DrawnWorld:
    """Draws the hand where the actions lead it.

    Attributes:
        image_height, image_width: size of its frames.
        actions: of a chunk.
        gain: the share of each motion that is carried out; 1 is exact, 0 ignores actions.
        grain: standard deviation of its noise in grey levels, drawn anew for each seed.
    """

    image_height: int = 48
    image_width: int = 64
    actions: int = 8
    gain: float = 1.0
    grain: float = 0.0
    convention: ActionConvention = CONVENTION
    control_rate_hz: float = 10.0

    def begin(
        self,
        first_BHW3: Tensor,
        state_B7: Tensor,
        *,
        cameras: Sequence[PinholeCamera | None],
        seeds_B: Sequence[int] | Tensor,
    ) -> WorldState:
        """Rollouts at their first frame."""
        return DrawnState(first_BHW3, state_B7, tuple(int(seed) for seed in seeds_B))

    def advance(self, world: WorldState, actions_BCD: Tensor, keep: int | Tensor) -> tuple[WorldState, Tensor]:
        """Draw what the actions lead to."""
        assert isinstance(world, DrawnState) and isinstance(keep, int)
        states, videos = [], []
        for start, chunk, seed in zip(world.state_B7.numpy(), actions_BCD.numpy(), world.seeds_B, strict=True):
            counter = IntegratedState(self.convention)
            counter.start(start)
            rng = np.random.default_rng([seed, world.step])
            frames = []
            for action in chunk[:keep]:
                counter.advance(np.append(action[:6] * self.gain, action[6]))
                frames.append(self._draw(counter.state_7, rng))
            states.append(counter.state_7)
            videos.append(np.stack(frames))
        frames_BFHW3 = torch.from_numpy(np.stack(videos))
        state_B7 = torch.from_numpy(np.stack(states))
        return DrawnState(frames_BFHW3[:, -1], state_B7, world.seeds_B, world.step + keep), frames_BFHW3

    def _draw(self, state_7: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
        size = (self.image_width, self.image_height)
        small = cv2.resize(reaches.picture(SQUARE_XY, state_7), size, interpolation=cv2.INTER_AREA)
        if not self.grain:
            return np.asarray(small, np.uint8)
        return np.clip(small + rng.normal(scale=self.grain, size=small.shape), 0, 255).round().astype(np.uint8)
