"""From demonstrations to training rows: chunks without idle time, and waypoint labels by hindsight.

Everything here is computed from recorded streams (measured poses and openings, commanded openings), never from
the simulator's or anybody's knowledge of where objects stand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.poses import ActionConvention, difference, from_euler, wrap_angle
from prophrl_models.data.episode import Episode
from prophrl_models.data.normalise import Normalisation
from prophrl_models.policies.interface import FlowPolicy, Inputs, ObservationBatch, Scaling

Array = NDArray[np.float64]

PREPARE_BATCH = 64
SCALE_FLOOR = (0.002, 0.002, 0.002, 0.01, 0.01, 0.01)
"""Smallest action scale (m, rad for each step): a direction that demonstrations hardly use is noise, not signal."""


@dataclass(frozen=True)
class FrameOptions:
    """How demonstrations become rows.

    Attributes:
        chunk: steps CH of a chunk.
        idle_keep: frames kept of each rest; a policy without memory that learns to wait, waits for ever.
        rest_window: steps over which rest is judged.
        rest_speed_mps, rest_turn_radps: slower than this is rest.
        event_window: rows this many steps before a gripper event, and half as many after it, count double.
        event_weight: extra sampling weight of those rows.
    """

    chunk: int = 20
    idle_keep: int = 1
    rest_window: int = 4
    rest_speed_mps: float = 0.012
    rest_turn_radps: float = 0.1
    event_window: int = 8
    event_weight: float = 2.0


@dataclass(frozen=True)
class EpisodeRows:
    """The rows of one episode: T kept frames.

    Attributes:
        frame_T: index of each row's frame in the episode.
        state_T7: states.
        chunk_TCD: action chunks in the episode's convention, environment units.
        waypoint_T7: state at the next gripper event (the last state when none follows), with the opening that the
            event leads to.
        weight_T: 0 where the row is not to be imitated.
        waypoint_weight_T: 0 where the label is not to be trusted.
        sampling_T: relative frequency in training.
    """

    frame_T: NDArray[np.int64]
    state_T7: NDArray[np.float32]
    chunk_TCD: NDArray[np.float32]
    waypoint_T7: NDArray[np.float32]
    weight_T: NDArray[np.float32]
    waypoint_weight_T: NDArray[np.float32]
    sampling_T: NDArray[np.float32]


def resting(
    state_T7: NDArray[np.float32], command_T: Array, rate_hz: float, options: FrameOptions
) -> NDArray[np.bool_]:
    """Frames [T] that lie in some window in which the hand goes nowhere and the gripper neither moves nor is told to.

    Net displacement over a window is compared, not one step's: a human hand that rests still trembles by a millimetre.
    """
    steps, window = len(state_T7), options.rest_window
    rests = np.zeros(steps, dtype=bool)
    elapsed_s = window / rate_hz
    for first in range(steps - window):
        span = slice(first, first + window + 1)
        moved_m = np.linalg.norm(state_T7[span, :3] - state_T7[first, :3], axis=1).max()
        turned_rad = np.abs(wrap_angle(state_T7[span, 3:6] - state_T7[first, 3:6])).max()
        gripped = max(float(np.ptp(state_T7[span, 6])), float(np.ptp(command_T[span])))
        slow = moved_m < options.rest_speed_mps * elapsed_s and turned_rad < options.rest_turn_radps * elapsed_s
        if slow and gripped < 0.02:
            rests[span] = True
    return rests


def kept_frames(resting_T: NDArray[np.bool_], idle_keep: int) -> NDArray[np.int64]:
    """Indices of all frames that do not rest and of the first ``idle_keep`` frames of each rest."""
    run = 0
    kept = []
    for index, rests in enumerate(resting_T):
        run = run + 1 if rests else 0
        if run <= idle_keep:
            kept.append(index)
    return np.asarray(kept, dtype=np.int64)


def gripper_events(command_T: Array, least_range: float = 0.2) -> NDArray[np.int64]:
    """Steps at which the commanded opening crosses the middle of its range, with hysteresis.

    Half of the range decides, so that a task that opens to 0.6 only has events too; a range under ``least_range`` has
    none.
    """
    low, high = float(command_T.min()), float(command_T.max())
    if high - low < least_range:
        return np.zeros(0, dtype=np.int64)
    upper, lower = low + 0.6 * (high - low), low + 0.4 * (high - low)
    is_open = bool(command_T[0] > 0.5 * (low + high))
    events = []
    for step, command in enumerate(command_T):
        if (is_open and command < lower) or (not is_open and command > upper):
            is_open = not is_open
            events.append(step)
    return np.asarray(events, dtype=np.int64)


def episode_rows(episode: Episode, options: FrameOptions) -> EpisodeRows:
    """Rows of one demonstration.

    Raises:
        ValueError: nothing ever moves in it.
    """
    rests = resting(episode.state_T7, episode.action_T7[:, 6].astype(np.float64), episode.control_rate_hz, options)
    kept = kept_frames(rests, options.idle_keep)
    if rests.all():
        raise ValueError(f"nothing moves in episode {episode.metadata.episode_id!r}; leave it out of the dataset")
    states = np.concatenate([episode.state_T7[kept], episode.final.state_7[None]]).astype(np.float64)
    poses = [from_euler(state[:6]) for state in states]
    steps = len(kept)
    # The action of a kept row leads to the next kept row; its opening is the command in force just before that.
    following = np.append(kept[1:], len(episode)) - 1
    action = np.empty((steps, 7))
    for i in range(steps):
        action[i, :6] = difference(poses[i], poses[i + 1], episode.convention)
    action[:, 6] = episode.action_T7[following, 6]
    valid = episode.valid_T[kept] & episode.valid_T[following]

    rest = np.zeros((options.chunk, 7))
    rest[:, 6] = action[-1, 6]
    padded = np.concatenate([action, rest])
    index = np.arange(steps)[:, None] + np.arange(options.chunk)
    trusted = np.append(valid, np.ones(options.chunk, dtype=bool))[index].all(axis=1)

    events = gripper_events(action[:, 6])
    upcoming = np.searchsorted(events, np.arange(steps), side="left")
    target = np.append(events, steps)[np.minimum(upcoming, len(events))]
    waypoint = states[target]
    waypoint[:, 6] = np.append(action[:, 6], action[-1, 6])[np.minimum(target + 2, steps)]

    ahead = np.arange(steps)[:, None] - events[None] if len(events) else np.full((steps, 1), 10**6)
    near = ((ahead >= -options.event_window) & (ahead <= options.event_window // 2)).any(axis=1)
    return EpisodeRows(
        frame_T=kept,
        state_T7=states[:-1].astype(np.float32),
        chunk_TCD=padded[index].astype(np.float32),
        waypoint_T7=waypoint.astype(np.float32),
        weight_T=trusted.astype(np.float32),
        waypoint_weight_T=valid.astype(np.float32),
        sampling_T=np.where(near, 1.0 + options.event_weight, 1.0).astype(np.float32),
    )


def policy_scalings(normalisation: Normalisation) -> tuple[Scaling, Scaling]:
    """(action, state) scalings from a dataset's statistics.

    Pose deltas are divided by their root mean square (the offset stays 0, so that rest is 0), openings are mapped to
    -1 ... 1, states are centred and divided by their deviation.
    """
    action, state = normalisation.action, normalisation.state
    rms = [math.hypot(mean, std) for mean, std in zip(action.mean[:6], action.std[:6], strict=True)]
    scale = tuple(max(value, floor) for value, floor in zip(rms, SCALE_FLOOR, strict=True))
    spread = tuple(max(std, 0.01) for std in state.std)
    return Scaling((0.0,) * 6 + (0.5,), (*scale, 0.5)), Scaling(state.mean, spread)


def typical_orientation(rows: Iterable[EpisodeRows]) -> tuple[float, float, float]:
    """Euler angles [3] rad of the demonstrations' mean orientation, independent of the angles' branch."""
    total = np.zeros((3, 3))
    for r in rows:
        total += sum(from_euler(state[:6])[:3, :3] for state in r.state_T7.astype(np.float64))
    u, _, vt = np.linalg.svd(total)
    mean = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    ex = np.arctan2(mean[2, 1], mean[2, 2])
    ey = np.arcsin(np.clip(-mean[2, 0], -1.0, 1.0))
    ez = np.arctan2(mean[1, 0], mean[0, 0])
    return float(ex), float(ey), float(ez)


@dataclass(frozen=True)
class TrainingSet:
    """All rows in memory, images as the policy prepares them. ``episode_N`` numbers each row's episode."""

    inputs: Inputs
    chunk_NCD: Tensor
    waypoint_N7: Tensor
    weight_N: Tensor
    waypoint_weight_N: Tensor
    sampling_N: Tensor
    episode_N: Tensor

    def __len__(self) -> int:
        return len(self.weight_N)


def build_training_set(
    episodes: Iterable[Episode],
    rows: Iterable[EpisodeRows],
    policy: FlowPolicy,
    on_episode: Callable[[int], None] | None = None,
) -> TrainingSet:
    """Prepare every kept frame of the episodes for ``policy`` and hold the results in memory.

    Raises:
        ValueError: an episode's convention is not the policy's.
    """
    images, texts, columns, numbers = [], [], [], []
    for number, (episode, row) in enumerate(zip(episodes, rows, strict=True)):
        if ActionConvention(episode.convention) is not policy.spec.convention:
            raise ValueError(
                f"episode {episode.metadata.episode_id!r} has actions in {ActionConvention(episode.convention).name}, "
                f"the policy in {policy.spec.convention.name}; convert the dataset first"
            )
        for start in range(0, len(row.frame_T), PREPARE_BATCH):
            frames = row.frame_T[start : start + PREPARE_BATCH]
            batch = ObservationBatch(
                torch.from_numpy(np.asarray(episode.color_THW3[frames])),
                torch.from_numpy(row.state_T7[start : start + PREPARE_BATCH]),
                (episode.instruction,) * len(frames),
            )
            policy.check(batch)
            prepared = policy.prepare(batch)
            images.append(prepared.image)
            texts.append(prepared.text)
        columns.append(row)
        numbers.append(torch.full((len(row.frame_T),), number))
        if on_episode is not None:
            on_episode(number)

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(row, name) for row in columns]))

    return TrainingSet(
        Inputs(torch.cat(images), column("state_T7"), torch.cat(texts)),
        column("chunk_TCD"),
        column("waypoint_T7"),
        column("weight_T"),
        column("waypoint_weight_T"),
        column("sampling_T"),
        torch.cat(numbers),
    )
