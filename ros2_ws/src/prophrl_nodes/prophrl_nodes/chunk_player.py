"""Plays one action chunk after another: from pose deltas at the control rate to a stream of TCP poses.

Pure and clockless: the time of each step is passed in. A chunk's poses are integrated once from its reference; between
them the target moves on a straight line at constant rate. The opening of an action is commanded when the motion of
that action begins, as in the fast lane: the gripper needs the time of a step to answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.poses import ActionConvention, integrate_chunk, interpolate

Array = NDArray[np.float64]

ACTION_DIM = 7
MAX_CLOCK_STEP_S = 0.05
"""The chunk's clock never advances more between two steps: a process that was starved goes on late, without a leap."""


class ChunkError(ValueError):
    """A chunk that cannot be executed; the message names the field, its value and the valid ones."""


class PlayerState(IntEnum):
    """Values equal the constants in ``prophrl_interfaces/msg/ExecutorStatus.msg``."""

    IDLE = 0
    EXECUTING = 1
    WAITING = 2
    STOPPED = 3


@dataclass(frozen=True)
class Chunk:
    """A checked action chunk.

    Attributes:
        sequence: number of the chunk in its policy run.
        T_base_reference: TCP pose [4, 4] the first delta starts from.
        actions_CHD: ``[dx dy dz drx dry drz opening]`` by row, metres, radians, fraction (0 closed, 1 open).
        convention: meaning of the six pose numbers.
        rate_hz: rows per second.
        execute_length: rows to execute, 1..CH.
    """

    sequence: int
    T_base_reference: Array
    actions_CHD: Array
    convention: ActionConvention
    rate_hz: float
    execute_length: int

    @classmethod
    def checked(
        cls,
        sequence: int,
        T_base_reference: ArrayLike,
        actions_CHD: ArrayLike,
        convention: int,
        rate_hz: float,
        execute_length: int,
    ) -> Chunk:
        """Build a chunk from untrusted numbers.

        Raises:
            ChunkError: wrong shape, unknown convention, a number that is not finite, or a length out of range.
        """
        actions = np.asarray(actions_CHD, dtype=np.float64)
        T = np.asarray(T_base_reference, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[1] != ACTION_DIM or len(actions) == 0:
            raise ChunkError(
                f"actions must be a table of {ACTION_DIM} columns and at least one row, got {actions.shape}"
            )
        if not (np.isfinite(actions).all() and np.isfinite(T).all()):
            raise ChunkError("actions and reference must be finite numbers; the policy produced NaN or infinity")
        if convention not in list(ActionConvention):
            known = ", ".join(f"{c.value} ({c.name})" for c in ActionConvention)
            raise ChunkError(f"action convention {convention} is unknown, known are {known}; check the checkpoint")
        if not 0.1 <= rate_hz <= 200.0:
            raise ChunkError(f"rate_hz must lie in [0.1, 200], got {rate_hz}")
        if not 1 <= execute_length <= len(actions):
            raise ChunkError(f"execute_length must lie in [1, {len(actions)}] (the chunk's rows), got {execute_length}")
        return cls(sequence, T, actions, ActionConvention(convention), float(rate_hz), int(execute_length))


@dataclass(frozen=True)
class Setpoint:
    """Where the TCP should be now, ``T_base_tcp`` [4, 4], and how far open the gripper (NaN: leave it alone)."""

    T_base_tcp: Array
    opening: float


class ChunkPlayer:
    """Plays chunks; after each it waits at the final pose, at most ``wait_s`` seconds, then stops.

    IDLE until the first chunk; EXECUTING; WAITING for the next chunk; STOPPED until ``reset``.
    """

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self.reset()

    def reset(self) -> None:
        """Forget everything; ready for a first chunk."""
        self.state = PlayerState.IDLE
        self.reason = ""
        self.sequence = 0
        self.executed = 0
        self._chunk: Chunk | None = None
        self._poses: list[Array] = []
        self._clock_s = 0.0
        self._stepped_at_s = 0.0
        self._waiting_since_s = 0.0
        self._opening = float("nan")

    def play(self, chunk: Chunk, now_s: float) -> None:
        """Start a chunk at once; one still in execution is left where it is.

        Raises:
            ChunkError: the player is stopped, or the sequence number does not grow.
        """
        if self.state is PlayerState.STOPPED:
            raise ChunkError(f"stopped ({self.reason}); engage again before sending chunks")
        if self._chunk is not None and chunk.sequence <= self.sequence:
            raise ChunkError(f"chunk {chunk.sequence} is not newer than chunk {self.sequence}; it is ignored")
        rows = chunk.actions_CHD[: chunk.execute_length]
        poses = integrate_chunk(chunk.T_base_reference, rows, chunk.convention)
        self._poses = [chunk.T_base_reference, *poses]
        self._chunk = chunk
        self.state, self.reason = PlayerState.EXECUTING, ""
        self.sequence, self.executed = chunk.sequence, 0
        self._clock_s, self._stepped_at_s = 0.0, now_s

    def stop(self, reason: str) -> None:
        """Play nothing more until ``reset``; the first reason stands."""
        if self.state is not PlayerState.STOPPED:
            self.state, self.reason = PlayerState.STOPPED, reason
        self._chunk = None

    def step(self, now_s: float) -> Setpoint | None:
        """The target for now, or None while there is nothing to say (idle, stopped)."""
        chunk = self._chunk
        if chunk is None:
            return None
        if self.state is PlayerState.EXECUTING:
            self._clock_s += min(max(0.0, now_s - self._stepped_at_s), MAX_CLOCK_STEP_S)
            self._stepped_at_s = now_s
            # The tiny share makes a clock summed up from 100 small steps reach the row's end on time.
            progress = self._clock_s * chunk.rate_hz + 1e-9
            self.executed = min(int(progress), chunk.execute_length)
            row = min(self.executed, chunk.execute_length - 1)
            self._opening = float(np.clip(chunk.actions_CHD[row, 6], 0.0, 1.0))
            if self.executed < chunk.execute_length:
                at, fraction = self.executed, progress - int(progress)
                pose = interpolate(self._poses[at], self._poses[at + 1], min(1.0, fraction))
                return Setpoint(pose, self._opening)
            self.state, self._waiting_since_s = PlayerState.WAITING, now_s
        elif now_s - self._waiting_since_s > self.wait_s:
            self.stop(f"no new chunk for {self.wait_s:.1f} s after chunk {self.sequence}; is the policy alive?")
            return None
        return Setpoint(self._poses[-1], self._opening)
