"""Logged actions played in a world, batch by batch and chunk by chunk: the inner loop of every evaluation.

Nothing is kept: what is not consumed is gone, so memory is that of one batch and one chunk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention
from prophrl_models.data.image import Image
from prophrl_models.prophet.eval_data import Clip, ClipReader, EvaluationError
from prophrl_models.prophet.past import remembered_frames, with_past
from prophrl_models.prophet.rollout import ImaginedWorld, WorldState

Actions = Callable[[int, int, int], NDArray[np.float32]]
"""(clip number, first action, count) -> actions [count, 7] in environment units."""


@dataclass(frozen=True)
class Played:
    """One chunk of one batch; F frames.

    Attributes:
        rows: numbers of the clips.
        first: number of the first generated frame, counted from 1 after the known one.
        before_BHW3: generated (at first: real) frame before the chunk.
        frames_BFHW3: generated frames, uint8 RGB.
        seconds: time the world took.
    """

    rows: tuple[int, ...]
    first: int
    before_BHW3: Image
    frames_BFHW3: Image
    seconds: float

    def generated(self, row: int) -> Image:
        """The frames of one row of the batch with the frame before them [F + 1, H, W, 3]."""
        return np.concatenate([self.before_BHW3[row : row + 1], self.frames_BFHW3[row]])


def play(
    world: ImaginedWorld,
    reader: ClipReader,
    clips: Sequence[Clip],
    *,
    chunks: int,
    batch: int,
    seed: int = 0,
    actions: Actions | None = None,
) -> Iterator[Played]:
    """Start the world at each clip's known frame and let it run along actions for ``chunks`` chunks.

    A world with memory remembers the real frames before the known one, as it did in training.

    Args:
        clips: where to start.
        chunks: chunks of ``world.actions`` actions; a batch ends early when all its clips have ended.
        batch: clips imagined together.
        seed: of the world's noise; a clip's noise depends on this and its number only.
        actions: what is executed; the clips' own logged actions by default.

    Raises:
        EvaluationError: the world returns something else than the frames it was asked for.
    """
    count = world.actions
    chosen = actions or (lambda clip, first, number: reader.actions(clips[clip], first, number))
    for rows in _batches(len(clips), batch):
        before: Image = np.concatenate([reader.frames(clips[row], 0, 1) for row in rows])
        state: WorldState = world.begin(
            torch.from_numpy(before.copy()),
            torch.from_numpy(np.stack([reader.state(clips[row]) for row in rows])),
            cameras=[reader.camera(clips[row]) for row in rows],
            seeds_B=[1_000_003 * seed + row for row in rows],
        )
        past = remembered_frames(world)
        if past and any(clips[row].start for row in rows):
            frames_BMHW3 = np.stack([reader.frames(clips[row], -past, past) for row in rows])
            state = with_past(world, state, torch.from_numpy(frames_BMHW3))
        for chunk in range(chunks):
            if chunk and all(clips[row].frames <= chunk * count for row in rows):
                break
            action_BCD = torch.from_numpy(np.stack([chosen(row, chunk * count, count) for row in rows]))
            began_s = time.perf_counter()
            state, generated = world.advance(state, action_BCD, count)
            frames: Image = generated.cpu().numpy()
            seconds = time.perf_counter() - began_s
            wanted = (len(rows), count, world.image_height, world.image_width, 3)
            if frames.shape != wanted or frames.dtype != np.uint8:
                raise EvaluationError(f"the world returned {frames.dtype} {frames.shape}, expected uint8 {wanted}")
            yield Played(rows, chunk * count + 1, before, frames, seconds)
            before = frames[:, -1].copy()


def check_world(world: ImaginedWorld, convention: ActionConvention, control_rate_hz: float) -> None:
    """Refuse a world for which the dataset's actions mean something else.

    Raises:
        EvaluationError: names both conventions or rates.
    """
    if world.convention != convention:
        raise EvaluationError(
            f"the world model takes actions in {world.convention.name}, the dataset's are {convention.name}; "
            "evaluate on data recorded in the same convention"
        )
    if abs(world.control_rate_hz - control_rate_hz) > 1e-6:
        raise EvaluationError(
            f"the world model runs at {world.control_rate_hz:g} Hz, the dataset at {control_rate_hz:g} Hz; "
            "build the dataset at the world model's rate"
        )


@dataclass(frozen=True)
class StillState:
    """See ``StillWorld``."""

    frame_BHW3: Tensor
    state_B7: Tensor

    def select(self, rows: Sequence[int] | Tensor) -> StillState:
        """Some rows."""
        index = torch.as_tensor(rows, dtype=torch.long)
        return StillState(self.frame_BHW3[index], self.state_B7[index])

    def repeat(self, times: int) -> StillState:
        """Each row ``times`` times in a row."""
        return StillState(self.frame_BHW3.repeat_interleave(times, 0), self.state_B7.repeat_interleave(times, 0))


@dataclass(frozen=True)
class StillWorld:
    """The baseline that every world model must beat: nothing ever moves (the last frame is copied)."""

    image_height: int
    image_width: int
    actions: int
    convention: ActionConvention
    control_rate_hz: float

    @staticmethod
    def like(world: ImaginedWorld) -> StillWorld:
        """Of the same picture size and chunk length."""
        return StillWorld(world.image_height, world.image_width, world.actions, world.convention, world.control_rate_hz)

    def begin(
        self,
        first_BHW3: Tensor,
        state_B7: Tensor,
        *,
        cameras: Sequence[PinholeCamera | None],
        seeds_B: Sequence[int] | Tensor,
    ) -> WorldState:
        """Rollouts at their first frame; cameras and seeds play no part."""
        return StillState(first_BHW3, state_B7)

    def advance(self, world: WorldState, actions_BCD: Tensor, keep: int | Tensor) -> tuple[WorldState, Tensor]:
        """The same frame ``keep`` times; the robot stays where it is."""
        count = int(keep.max()) if isinstance(keep, Tensor) else keep
        return world, world.frame_BHW3[:, None].repeat(1, count, 1, 1, 1)


def _batches(count: int, size: int) -> Iterator[tuple[int, ...]]:
    if size < 1:
        raise EvaluationError(f"a batch holds at least one clip, got {size}")
    for first in range(0, count, size):
        yield tuple(range(first, min(first + size, count)))
