"""Rollouts in a world model (the paper's Algorithm 1): a policy acts, the world imagines what it would have seen.

``ImaginedWorld`` is what a rollout needs of a world; ``worlds.ProphetWorld`` is the learned one, tests use hand-made
ones. ``imagine`` runs many rollouts in lock-step and keeps their frames as uint8, in memory or on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention
from prophrl_models.policies.interface import ObservationBatch, PolicySpec
from prophrl_models.prophet.imagined import Extra, Imagined, Prompt
from prophrl_models.prophet.motion import integrated
from prophrl_models.prophet.rollout_files import RolloutFiles

Image = NDArray[np.uint8]

__all__ = [
    "Choose",
    "Extra",
    "Finished",
    "Imagined",
    "ImaginedWorld",
    "Prompt",
    "WorldState",
    "check_policy",
    "imagine",
]


class WorldState(Protocol):
    """Where B rollouts stand. Opaque but for the newest frame and the integrated state."""

    @property
    def frame_BHW3(self) -> Tensor:
        """The newest frame of each row, uint8 RGB at the world's size."""

    @property
    def state_B7(self) -> Tensor:
        """``[x y z ex ey ez opening]`` (m, rad, fraction; base frame) after all kept actions, float32."""

    def select(self, rows: Sequence[int] | Tensor) -> WorldState:
        """The same for some rows, in this order."""

    def repeat(self, times: int) -> WorldState:
        """Each row ``times`` times in a row."""


class ImaginedWorld(Protocol):
    """A world in which rollouts can be imagined.

    Attributes:
        image_height, image_width: size of its frames in pixels.
        actions: most actions of one call, and frames it predicts.
        convention: meaning of an action's six pose numbers.
        control_rate_hz: actions and frames per second.
    """

    @property
    def image_height(self) -> int: ...
    @property
    def image_width(self) -> int: ...
    @property
    def actions(self) -> int: ...
    @property
    def convention(self) -> ActionConvention: ...
    @property
    def control_rate_hz(self) -> float: ...

    def begin(
        self,
        first_BHW3: Tensor,
        state_B7: Tensor,
        *,
        cameras: Sequence[PinholeCamera | None],
        seeds_B: Sequence[int] | Tensor,
    ) -> WorldState:
        """Rollouts at their first frame (uint8 RGB at the world's size) with the robot in a measured state.

        ``seeds_B`` says what each row's world does where it is undecided; a row does the same in every batch.

        Raises:
            ValueError: sizes, types or numbers that cannot be used; a camera is missing where the world needs one.
        """

    def advance(self, world: WorldState, actions_BCD: Tensor, keep: int | Tensor) -> tuple[WorldState, Tensor]:
        """Execute the first ``keep`` of C <= ``actions`` actions (environment units) in every row.

        Missing actions are holds (zero motion, last opening); actions after ``keep`` tell the world what would come.

        Args:
            keep: actions to execute, one number or one for each row [B]; 0 leaves a row where it is.

        Returns:
            The new state, and uint8 frames [B, F, H, W, 3] with F the largest ``keep``; a row that keeps fewer repeats
            its last frame.

        Raises:
            ValueError: wrong shape, not finite, or ``keep`` outside 0 .. C.
        """


Choose = Callable[[ObservationBatch, list[int], int], tuple[Tensor, Any]]
"""(observations, their rows, step) -> (actions [B, C, 7] in environment units, anything to be kept)."""
Finished = Callable[[Tensor, list[int], int], Sequence[bool]]
"""(frames uint8 [B, F, H, W, 3] of the step, their rows, step) -> whether each row ends here."""


def imagine(
    world: ImaginedWorld,
    prompts: Sequence[Prompt],
    choose: Choose,
    *,
    steps: int,
    keep: int,
    seeds: Sequence[int],
    batch: int | None = None,
    group: int = 1,
    finished: Finished | None = None,
    spec: PolicySpec | None = None,
    folder: str | Path | None = None,
    videos: bool = True,
) -> Imagined:
    """Roll out a policy from prompts, ``batch`` rows in lock-step.

    A row's observation is the prompt's own picture at first, then the newest imagined frame enlarged to that size, and
    the integrated state. Rows are prompt-major: with ``group`` G, rows 0 .. G - 1 start from prompt 0.

    Args:
        steps: S, calls of ``choose`` for each row at most.
        keep: CH, actions executed of each chunk; the world sees the rest of the chunk as what would come.
        seeds: one for each row. A row with the same seed and prompt goes the same way whatever the batch, if ``choose``
            treats rows on their own.
        batch: rows at a time; all when omitted.
        finished: asked after each step; rows that end leave the batch.
        spec: of the policy behind ``choose``; checked against the world.
        folder: write frames to disk as they come (``rollout_files``), so that memory stays that of one batch.
        videos: with ``folder``: an H.264 video of every row too.

    Raises:
        ValueError: prompts of different picture sizes, seeds that do not match, a policy of another convention or rate,
            or chunks that are too short, too long, not finite or not [B, C, 7].
    """
    rows = _rows(world, prompts, steps, keep, seeds, group)
    if spec is not None:
        check_policy(world, spec, keep)
    B, T = len(rows), 1 + steps * keep
    shape = (B, T, world.image_height, world.image_width, 3)
    files = None if folder is None else RolloutFiles(folder, shape)
    try:
        frames = np.zeros(shape, np.uint8) if files is None else files.frames_BTHW3
        record = _Record(rows, frames, np.zeros((B, T, 7), np.float32), np.zeros(B, np.int64), steps, keep)
        size = B if batch is None else max(1, batch)
        for first in range(0, B, size):
            _lockstep(world, record, list(range(first, min(B, first + size))), seeds, choose, finished)
        result = record.result(seeds)
        return result if files is None else files.finish(result, world.control_rate_hz, videos)
    finally:
        if files is not None:
            files.discard_unfinished()


def check_policy(world: ImaginedWorld, spec: PolicySpec, keep: int) -> None:
    """Refuse a policy whose actions mean something else in this world.

    Raises:
        ValueError: names what differs.
    """
    if ActionConvention(spec.convention) is not ActionConvention(world.convention):
        raise ValueError(
            f"the policy's actions are {ActionConvention(spec.convention).name}, the world's "
            f"{ActionConvention(world.convention).name}; train one of them on data converted to the other's convention"
        )
    if abs(spec.control_rate_hz - world.control_rate_hz) > 1e-6:
        raise ValueError(f"the policy acts at {spec.control_rate_hz} Hz, the world steps at {world.control_rate_hz} Hz")
    if spec.action_dim != 7 or not keep <= spec.chunk <= world.actions:
        raise ValueError(
            f"need chunks of {keep} .. {world.actions} actions with 7 numbers, the policy's are {spec.chunk} x "
            f"{spec.action_dim}; choose another keep or policy"
        )


def resized(images_BHW3: Image, height: int, width: int) -> Image:
    """Pictures [B, H, W, 3] at another size: by area when they shrink, cubic when they grow."""
    if images_BHW3.shape[1:3] == (height, width):
        return images_BHW3
    how = cv2.INTER_AREA if images_BHW3.shape[1] >= height else cv2.INTER_CUBIC
    return np.stack([np.asarray(cv2.resize(i, (width, height), interpolation=how), np.uint8) for i in images_BHW3])


@dataclass
class _Record:
    """Rollouts while they are being made; rows are written in place."""

    rows: tuple[Prompt, ...]
    frames_BTHW3: Image
    states_BT7: NDArray[np.float32]
    steps_B: NDArray[np.int64]
    steps: int
    keep: int
    actions_BSCD: NDArray[np.float32] | None = None
    extras: list[Extra] = field(default_factory=list)

    def store_actions(self, rows: list[int], step: int, actions_BCD: NDArray[np.float32]) -> None:
        if self.actions_BSCD is None:
            self.actions_BSCD = np.zeros((len(self.rows), self.steps, *actions_BCD.shape[1:]), np.float32)
        if actions_BCD.shape[1:] != self.actions_BSCD.shape[2:]:
            raise ValueError(f"chunks were {self.actions_BSCD.shape[2:]}, now {actions_BCD.shape[1:]}; keep one size")
        self.actions_BSCD[rows, step] = actions_BCD

    def store_frames(self, rows: list[int], step: int, frames_BFHW3: Image, states_BF7: NDArray[np.float64]) -> None:
        first = 1 + step * self.keep
        for i, row in enumerate(rows):
            self.frames_BTHW3[row, first : first + self.keep] = frames_BFHW3[i]
            self.states_BT7[row, first : first + self.keep] = states_BF7[i]
            self.steps_B[row] = step + 1

    def result(self, seeds: Sequence[int]) -> Imagined:
        T = self.frames_BTHW3.shape[1]
        valid_BT = np.arange(T) <= (self.steps_B * self.keep)[:, None]
        for row in np.flatnonzero(~valid_BT[:, -1]):
            last = int(self.steps_B[row]) * self.keep
            self.frames_BTHW3[row, last + 1 :] = self.frames_BTHW3[row, last]
            self.states_BT7[row, last + 1 :] = self.states_BT7[row, last]
        assert self.actions_BSCD is not None  # there is at least one row and one step
        return Imagined(
            self.frames_BTHW3,
            self.states_BT7,
            self.actions_BSCD,
            valid_BT,
            self.steps_B,
            tuple(self.extras),
            np.asarray(seeds, np.int64),
            self.rows,
        )


def _rows(
    world: ImaginedWorld, prompts: Sequence[Prompt], steps: int, keep: int, seeds: Sequence[int], group: int
) -> tuple[Prompt, ...]:
    if not prompts or steps < 1 or group < 1 or not 1 <= keep <= world.actions:
        raise ValueError(
            f"need prompts, at least one step, groups of at least one and keep in 1..{world.actions}; got "
            f"{len(prompts)} prompts, {steps} steps, group {group}, keep {keep}"
        )
    sizes = sorted({prompt.image_HW3.shape for prompt in prompts})
    if len(sizes) > 1:
        raise ValueError(f"prompts have pictures of several sizes {sizes}; resize them to the policy's")
    rows = tuple(prompt for prompt in prompts for _ in range(group))
    if len(seeds) != len(rows):
        raise ValueError(f"{len(rows)} rows need a seed each, got {len(seeds)}")
    return rows


def _lockstep(
    world: ImaginedWorld,
    record: _Record,
    rows: list[int],
    seeds: Sequence[int],
    choose: Choose,
    finished: Finished | None,
) -> None:
    """All steps of some rows at once."""
    prompts = [record.rows[row] for row in rows]
    images = np.stack([prompt.image_HW3 for prompt in prompts])
    height, width = images.shape[1:3]
    first = resized(images, world.image_height, world.image_width)
    state_B7 = torch.from_numpy(np.stack([np.asarray(prompt.state_7, np.float32) for prompt in prompts]))
    state = world.begin(
        torch.from_numpy(first),
        state_B7,
        cameras=[prompt.camera for prompt in prompts],
        seeds_B=[seeds[row] for row in rows],
    )
    record.frames_BTHW3[rows, 0] = first
    record.states_BT7[rows, 0] = state_B7.numpy()
    for step in range(record.steps):
        observed = ObservationBatch(
            torch.from_numpy(images), state_B7, tuple(record.rows[row].instruction for row in rows)
        )
        actions, extra = choose(observed, list(rows), step)
        actions_BCD = _checked_actions(actions, len(rows), record.keep, world.actions)
        record.store_actions(rows, step, actions_BCD)
        if extra is not None:
            record.extras.append(Extra(step, tuple(rows), extra))
        state, frames = world.advance(state, torch.from_numpy(actions_BCD), record.keep)
        moved_BF7 = integrated(state_B7.numpy(), actions_BCD[:, : record.keep], world.convention)[:, 1:]
        record.store_frames(rows, step, frames.cpu().numpy(), moved_BF7)
        if finished is not None:
            ends = finished(frames, list(rows), step)
            going = [i for i in range(len(rows)) if not ends[i]]
            if not going:
                return
            if len(going) < len(rows):
                rows, state = [rows[i] for i in going], state.select(going)
        state_B7 = state.state_B7.cpu()
        images = resized(state.frame_BHW3.cpu().numpy(), height, width)


def _checked_actions(actions: Tensor, rows: int, keep: int, most: int) -> NDArray[np.float32]:
    values: NDArray[np.float32] = torch.as_tensor(actions).detach().float().cpu().numpy()
    if values.ndim != 3 or values.shape[0] != rows or values.shape[2] != 7 or not keep <= values.shape[1] <= most:
        raise ValueError(f"actions must be [{rows}, {keep}..{most}, 7], got {list(values.shape)}")
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2))).tolist()
        raise ValueError(
            f"the actions of rows {bad[:5]} of this call are not finite; look at the policy that chose them"
        )
    return values
