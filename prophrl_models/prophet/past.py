"""Rollouts that begin in the middle of a recording: the world remembers the real frames before the known one.

``ImaginedWorld.begin`` starts as a robot does, with nothing behind it. A window in the middle of an episode has a real
past, and in training the network saw it; an evaluation of single windows gives it back.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prophrl_models.prophet.history import History, frames_behind
from prophrl_models.prophet.rollout import ImaginedWorld, WorldState
from prophrl_models.prophet.worlds import ProphetState, ProphetWorld


def remembered_frames(world: ImaginedWorld) -> int:
    """Frames before the known one that a world looks at; 0 for worlds that know no other."""
    if not isinstance(world, ProphetWorld):
        return 0
    memory = world.config.network.memory
    return frames_behind(0 if memory is None else memory.frames, world.codec)


@torch.no_grad()
def with_past(world: ImaginedWorld, state: WorldState, past_BPHW3: Tensor) -> WorldState:
    """A state that has just begun, with these frames behind it.

    Args:
        world: a world that looks back.
        state: as ``begin`` returned it.
        past_BPHW3: uint8 RGB, the P = ``remembered_frames(world)`` frames before the known one, oldest first.

    Raises:
        ValueError: the world does not look back, or another number or size of frames than it remembers.
    """
    frames = remembered_frames(world)
    if not isinstance(world, ProphetWorld) or not isinstance(state, ProphetState) or not frames:
        raise ValueError("this world remembers nothing, so it cannot be given a past; ask remembered_frames first")
    wanted = (len(state), frames, world.image_height, world.image_width, 3)
    if tuple(past_BPHW3.shape) != wanted or past_BPHW3.dtype != torch.uint8:
        raise ValueError(f"the past must be uint8 {wanted}, got {past_BPHW3.dtype} {tuple(past_BPHW3.shape)}")
    return replace(state, history=History.of(past_BPHW3.to(world.device), state.frame_BHW3, world.codec))
