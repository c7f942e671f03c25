"""What comes after a protective stop: whatever is commanded, nothing moves. As episodes that a world model learns from.

Recordings end where the arm stops, and their actions are measured motion. So nothing in them says that a hand which
comes down on an object does not go on from there: in a world model that has learned from such recordings alone every
finger passes through and every grasp takes hold, and a policy that is reinforced there learns to run into stops
(docs/log.md).

What would have followed is known without recording it. An attempt that ended in a stop is continued here by actions
that others took in its place (they close, lift, carry, let go), while the picture stays as it was. The state goes on as
a rollout in imagination would count it, from the actions; action frames are drawn from it, and as soon as arm and
picture part, the network can tell a stopped arm from one that stands still.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.commanded import ACTIONS, COMMANDED
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import DatasetError
from prophrl_models.data.dataset_writer import DatasetWriter
from prophrl_models.data.episode import Episode
from prophrl_models.data.split import derived_name
from prophrl_models.prophet.motion import integrated

ARM_STOPPED = "arm stopped"
"""In the note of every episode that a stop ended: trials and sessions write it (``prophrl_nodes.trial_sequence``)."""
CLOSED_BELOW = 0.5
"""Opening (0..1) below which a command is one to close."""
LEAD_STEPS = 14
"""A continuation begins at most so many steps before the hand it is taken from closed."""
_STILL_M = 0.002
"""Motion of a step below which an arm stands."""
Motions = dict[str, list[tuple[NDArray[np.float32], int]]]
"""For each task the actions [T, 7] of its successes, and the step at which the hand was told to close."""


@dataclass(frozen=True)
class Continued:
    """How many episodes were continued, and what was written."""

    stops: int
    written: int


def write_stops(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    times: int = 3,
    seconds: float = 6.0,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Continued:
    """Every episode of the sources that a stop ended, ``times`` times, each time continued by other actions.

    Args:
        sources: datasets; their successful episodes are where the actions come from.
        out: dataset folder; interrupted, the same call goes on.
        seconds: length of a continuation.
        seed: of what is continued by what.
        tell: (episodes written, episodes in all).

    Raises:
        DatasetError: sources were made differently, or no attempt ended in a stop at a task that another one
            succeeded at.
        ValueError: ``times`` or ``seconds`` out of range.
    """
    datasets = [Dataset(source) for source in sources]
    if not datasets or times < 1 or not seconds > 0.0:
        raise ValueError(f"need datasets, times >= 1 and seconds > 0, got {len(datasets)}, {times} and {seconds}")
    headers = {str(replace(dataset.header, depth=None)) for dataset in datasets}
    if len(headers) > 1:
        raise DatasetError(f"{' and '.join(map(str, sources))} were made differently; build one of them anew")
    stopped, bank = _found(datasets)
    if not stopped:
        raise DatasetError(
            f"no attempt in {', '.join(map(str, sources))} ended in a stop of the arm at a task that another attempt "
            "succeeded at, closing its hand; let a policy try (prophrl launch evaluate), and build the dataset with "
            "failures"
        )
    steps = round(seconds * datasets[0].header.sync.control_rate_hz)
    writer = DatasetWriter(out, replace(datasets[0].header, depth=None))
    try:
        for number, (dataset, position) in enumerate(stopped):
            row = dataset.table[position]
            episode: Episode | None = None
            for time in range(times):
                tell(number * times + time, len(stopped) * times)
                identity = hashlib.sha256(f"{row.source_id} stopped {time} {seed} {steps}".encode()).hexdigest()
                if identity in writer.source_ids:
                    continue
                episode = episode or dataset[position]
                rng = np.random.default_rng(int(identity[:16], 16))
                what = f"stopped-{time}"
                longer = continued(episode, _drawn(bank[row.task], steps, rng), what)
                writer.add(
                    longer, identity, source=derived_name(row.source, what),
                    calibration_yaml=dataset.calibration_yaml(position),
                )  # fmt: skip
        tell(len(stopped) * times, len(stopped) * times)
        writer.finish()
    finally:
        writer.close()
    return Continued(len(stopped), len(stopped) * times)


def continued(episode: Episode, actions_N7: NDArray[np.float32], what: str) -> Episode:
    """The episode up to the first picture of the stopped arm, then the actions, under which that picture stays.

    ``what`` goes into its name (``data.split.derived_name``).

    Raises:
        ValueError: no actions, or not [N, 7].
    """
    if actions_N7.ndim != 2 or actions_N7.shape[1] != 7 or not len(actions_N7):
        raise ValueError(f"a continuation needs actions [N, 7], got {actions_N7.shape}")
    stop, N = _stop_of(episode), len(actions_N7)
    still = np.asarray(episode.color_THW3[stop]) if stop < len(episode) else episode.final.image_HW3
    before = np.asarray(episode.state_T7[stop] if stop < len(episode) else episode.final.state_7, np.float64).copy()
    if stop:
        before[6] = episode.action_T7[stop - 1, 6]  # the opening said last, as a rollout would count it
    states = integrated(before[None], actions_N7[None], episode.convention)[0].astype(np.float32)
    period_ns = round(1e9 / episode.control_rate_hz)

    def later(stamps_T: NDArray[np.int64]) -> NDArray[np.int64]:
        first = stamps_T[stop] if stop < len(stamps_T) else stamps_T[-1] + period_ns
        return np.concatenate([stamps_T[:stop], first + period_ns * np.arange(N)]).astype(np.int64)

    stamps = later(np.asarray(episode.stamp_ns_T))
    always = np.ones(stop + N, bool)
    return replace(
        episode,
        metadata=replace(
            episode.metadata,
            episode_id=derived_name(episode.metadata.episode_id, what),
            outcome="failure",
            note="what follows a stop, by another's actions",
        ),
        state_T7=np.concatenate([episode.state_T7[:stop], states[:-1]]).astype(np.float32),
        action_T7=np.concatenate([episode.action_T7[:stop], actions_N7]).astype(np.float32),
        stamp_ns_T=stamps,
        source_stamp_ns_T={s: later(np.asarray(v)) for s, v in episode.source_stamp_ns_T.items()},
        valid_T=always,
        moving_T=always,
        final=replace(
            episode.final, image_HW3=still, state_7=states[-1], stamp_ns=int(stamps[-1] + period_ns)
        ),
        color_THW3=np.concatenate([np.asarray(episode.color_THW3[:stop]), np.repeat(still[None], N, axis=0)]),
        depth=None,
        depth_THW=None,
    )  # fmt: skip


def _stop_of(episode: Episode) -> int:
    """The step of the first picture in which the arm stands for good; as many as there are steps: the final one.

    Episodes of commands go on to the end of the last chunk, under pictures of the arm that stands.
    """
    if episode.metadata.extra.get(ACTIONS) == COMMANDED:
        return len(episode)
    positions = np.concatenate([episode.state_T7[:, :3], episode.final.state_7[None, :3]])
    moving = np.flatnonzero(np.linalg.norm(np.diff(positions, axis=0), axis=1) > _STILL_M)
    return int(moving[-1]) + 1 if len(moving) else 0


def _found(datasets: Sequence[Dataset]) -> tuple[list[tuple[Dataset, int]], Motions]:
    """Stopped attempts as (dataset, position), and what they can be continued with."""
    stopped: list[tuple[Dataset, int]] = []
    motions: Motions = {}
    for dataset in datasets:
        for position, row in enumerate(dataset.table):
            episode = dataset[position]
            if ARM_STOPPED in episode.metadata.note:
                stopped.append((dataset, position))
            elif row.outcome == "success":
                closing = np.flatnonzero(episode.action_T7[:, 6] < CLOSED_BELOW)
                if len(closing):
                    taken = np.asarray(episode.action_T7, np.float32)
                    motions.setdefault(row.task, []).append((taken, int(closing[0])))
    return [(dataset, position) for dataset, position in stopped if dataset.table[position].task in motions], motions


def _drawn(
    motions: Sequence[tuple[NDArray[np.float32], int]], steps: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """What another did from about where its hand closed [steps, 7]; it stands still when it is through."""
    actions, closing = motions[int(rng.integers(len(motions)))]
    first = max(0, closing - int(rng.integers(LEAD_STEPS)))
    taken = actions[first : first + steps]
    hold = np.zeros((steps - len(taken), 7), np.float32)
    hold[:, 6] = actions[-1, 6]
    return np.concatenate([taken, hold])
