"""What a policy played, as it was commanded: the chunks' own rows as actions, without the pauses between them.

A recording of a policy at work stands still while the policy looks and thinks, begins every chunk slowly, and ends
where the arm stops; its measured motion says what the arm did, never what it was told to do and did not. A rollout in
imagination has none of this: chunk follows chunk, every row counts, also those that an arm which has stopped no longer
carries out. An episode as made here is what such a rollout would have to show:

- one step for each row of a chunk that was executed, and the rows that were left when the arm stopped;
- the first picture of a chunk is the one it was computed from, later ones are taken ``LAG_S`` after their row began,
  for the arm follows its target and the picture the arm;
- an attempt that was planned as a whole has all rows of its plan, whenever it ended: its length must not tell what
  came of it;
- the state is measured where a chunk begins, unless the arm has stopped, and counted from its rows after that; the
  opening is the commanded one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.poses import ActionConvention, integrate_chunk, to_euler, transform, wrap_angle
from prophrl_models.data.bag import Bag, BagError
from prophrl_models.data.convert import convert_bag
from prophrl_models.data.episode import Episode
from prophrl_models.data.streams import resolve_topic, stamp_ns
from prophrl_models.data.synchronise import SyncSpec

CHUNK_TOPIC, EXECUTOR_TOPIC, SAFETY_TOPIC = "policy/chunk", "executor/status", "io_and_status_controller/safety_mode"
PLAN_TOPIC = "policy/plan"
EXECUTING, NORMAL = 1, 1
"""ExecutorStatus.state of a chunk on its way, and SafetyMode.mode of an arm that may move (1: normal, 2: reduced)."""
REDUCED = 2
ACTIONS, COMMANDED = "actions", "commanded"
"""Said in the metadata (``EpisodeMetadata.extra``) of such an episode."""
LAG_S = 0.1
"""From a target to the picture that shows it: 65 ms of servo, 30 ms of camera."""
FINE_HZ = 30.0
"""Pictures are looked for on a grid as fine as the camera's."""


@dataclass(frozen=True)
class PlayedChunk:
    """A chunk that was executed: the moments (ns, receive clock) of its picture and of its beginning, and its rows."""

    seen_ns: int
    begin_ns: int
    rows_N7: NDArray[np.float64]


def commanded_episode(bag: Bag, spec: SyncSpec, convention: ActionConvention) -> Episode:
    """A bag of a policy's trial as an episode of its commands.

    Raises:
        BagError: no chunks, chunks of another convention or rate, a plan that was broken off by no fault of its own,
            or what ``convert_bag`` refuses.
    """
    chunks, stop_ns = _played(bag, convention, spec.control_rate_hz)
    fine = convert_bag(bag, replace(spec, control_rate_hz=FINE_HZ), convention)
    return as_commanded(fine, chunks, spec.control_rate_hz, stop_ns)


def as_commanded(fine: Episode, chunks: Sequence[PlayedChunk], rate_hz: float, stop_ns: int | None = None) -> Episode:
    """The episode of the chunks' commands, from a finely sampled one of the measured motion.

    Args:
        fine: several samples for each action, on the receive clock.
        stop_ns: when the arm stopped; rows after it count, under the last picture there is.

    Raises:
        ValueError: no chunk.
    """
    if not chunks:
        raise ValueError("an episode of commands needs a chunk that was executed")
    ticks = np.append(fine.stamp_ns_T, fine.stamp_ns_T[-1] + round(1e9 / fine.control_rate_hz))
    measured = np.concatenate([fine.state_T7, fine.final.state_7[None]])
    period_ns, lag_ns = round(1e9 / rate_hz), round(LAG_S * 1e9)
    pictures: list[int] = []
    states: list[NDArray[np.float64]] = []
    actions: list[NDArray[np.float64]] = []
    opening = float(measured[0, 6])
    end = 0, measured[0].astype(np.float64)
    for chunk in chunks:
        seen = _at(ticks, chunk.seen_ns)
        stopped = stop_ns is not None and chunk.begin_ns >= stop_ns
        # A rollout in imagination knows of no stop: it goes on counting from where the commands led.
        pose = end[1] if stopped else measured[seen].astype(np.float64)
        counted = _counted(pose, opening, chunk.rows_N7, fine.convention)
        for k, row in enumerate(chunk.rows_N7):
            shown_ns = chunk.begin_ns + (k + 1) * period_ns + lag_ns
            if stop_ns is None and shown_ns > ticks[-1] + period_ns:
                break  # the trial ended before this row had been carried out
            pictures.append(seen if k == 0 else _at(ticks, shown_ns - period_ns))
            states.append(counted[k])
            actions.append(row)
            end = (_at(ticks, shown_ns), counted[k + 1])
        opening = float(chunk.rows_N7[-1, 6])
    if not actions:
        raise ValueError("no row of any chunk was carried out before the recording ended")
    count = len(actions)
    stamps = fine.stamp_ns_T[0] + period_ns * np.arange(count)

    def picture(tick: int) -> NDArray[np.uint8]:
        return np.asarray(fine.color_THW3[tick]) if tick < len(fine) else fine.final.image_HW3

    always = np.ones(count, bool)
    return replace(
        fine,
        metadata=replace(fine.metadata, extra={**fine.metadata.extra, ACTIONS: COMMANDED}),
        control_rate_hz=rate_hz,
        state_T7=np.array(states, np.float32),
        action_T7=np.array(actions, np.float32),
        stamp_ns_T=stamps.astype(np.int64),
        source_stamp_ns_T={s: stamps.astype(np.int64) for s in fine.source_stamp_ns_T},
        valid_T=always,
        moving_T=always,
        final=replace(
            fine.final,
            image_HW3=picture(end[0]),
            state_7=end[1].astype(np.float32),
            stamp_ns=int(stamps[-1] + period_ns),
        ),
        color_THW3=np.stack([picture(tick) for tick in pictures]),
        depth=None,
        depth_THW=None,
    )


def _played(bag: Bag, convention: ActionConvention, rate_hz: float) -> tuple[list[PlayedChunk], int | None]:
    """Chunks that the executor took, in order, then those of a plan that it never came to; and when the arm stopped."""
    recorded = list(bag.topics)
    try:
        topics = [resolve_topic(name, recorded) for name in (CHUNK_TOPIC, EXECUTOR_TOPIC, SAFETY_TOPIC)]
    except ValueError as error:
        raise BagError(f"{bag.name} is no recording of a policy at work: {error}") from error
    topics += [topic for topic in recorded if f"/{topic.lstrip('/')}".endswith(f"/{PLAN_TOPIC}")]
    plan_SN7: NDArray[np.float64] | None = None
    said: dict[int, tuple[int, int, NDArray[np.float64]]] = {}
    begun: list[int] = []
    stop_ns: int | None = None
    for message in bag.messages(topics):
        value = bag.decode(message)
        if message.topic in topics[3:]:
            rows = np.asarray(value.actions, np.float64)
            plan_SN7 = rows.reshape(-1, int(value.execute_length), int(value.action_dim))
        elif message.topic == topics[0]:
            if int(value.convention) != int(convention) or abs(float(value.rate_hz) - rate_hz) > 1e-6:
                raise BagError(
                    f"{bag.name}: chunks are in {ActionConvention(int(value.convention)).name} at {value.rate_hz:g} "
                    f"Hz, asked for are {convention.name} at {rate_hz:g} Hz"
                )
            rows = np.asarray(value.actions, np.float64).reshape(-1, int(value.action_dim))[: int(value.execute_length)]
            said[int(value.sequence)] = (stamp_ns(value), message.log_time_ns, rows)
        elif message.topic == topics[1]:
            if int(value.state) == EXECUTING and int(value.sequence) not in begun:
                begun.append(int(value.sequence))
        elif int(value.mode) not in (NORMAL, REDUCED) and stop_ns is None:
            stop_ns = message.log_time_ns
    chunks = [PlayedChunk(*said[sequence]) for sequence in begun if sequence in said]
    if not chunks:
        raise BagError(f"{bag.name}: the executor carried out no chunk; only trials of policies have commands")
    if plan_SN7 is None:
        return chunks, stop_ns
    if len(chunks) < len(plan_SN7) and stop_ns is None and bag.metadata.outcome != "success":
        raise BagError(
            f"{bag.name}: {len(chunks)} of {len(plan_SN7)} chunks of its plan were carried out and the arm was not "
            "stopped, so the outcome says nothing of the plan; give trials more time"
        )
    return _to_the_end(chunks, stop_ns, plan_SN7, rate_hz)


def _to_the_end(
    chunks: list[PlayedChunk], stop_ns: int | None, plan_SN7: NDArray[np.float64], rate_hz: float
) -> tuple[list[PlayedChunk], int]:
    """Chunks of a plan and nothing else; it stopped where its last chunk was carried out, at the latest."""
    chunks = chunks[: len(plan_SN7)]
    ended_ns = chunks[-1].begin_ns + round(1e9 * len(chunks[-1].rows_N7) / rate_hz)
    stop_ns = ended_ns if stop_ns is None else min(stop_ns, ended_ns)
    left = [PlayedChunk(ended_ns, ended_ns, rows_N7) for rows_N7 in plan_SN7[len(chunks) :]]
    return [*chunks, *left], stop_ns


def _at(ticks: NDArray[np.int64], time_ns: int) -> int:
    """The sample nearest to a moment."""
    return int(np.abs(ticks - time_ns).argmin())


def _counted(
    pose_7: NDArray[np.float64], opening: float, rows_N7: NDArray[np.float64], convention: ActionConvention
) -> NDArray[np.float64]:
    """States [N + 1, 7] counted from the rows."""
    T = transform(pose_7[:3], Rotation.from_euler("xyz", pose_7[3:6]))
    angles, states = pose_7[3:6], [np.append(pose_7[:6], opening)]
    for T_next, row in zip(integrate_chunk(T, rows_N7, convention), rows_N7, strict=True):
        euler = to_euler(T_next)
        angles = angles + wrap_angle(euler[3:6] - angles)
        states.append(np.concatenate([euler[:3], angles, row[6:7]]))
    return np.array(states)
