"""Plays one action chunk after another: from pose deltas at the control rate to a stream of TCP poses.

Pure and clockless: the time of each step is passed in. A chunk's poses are integrated once from its reference; between
them the target moves on a straight line at constant rate. The opening of an action is commanded when the motion of
that action begins, as in the fast lane: the gripper needs the time of a step to answer.

A chunk either begins at once, at its first row, or it *continues* the one in execution: it names that chunk and the
step of it at which its own first row begins (``follows``, ``start_step``), and takes over at the row that is due by
then. The rows that passed while the policy was thinking are skipped. Counting in steps, not in stamps, keeps both ends
in agreement when a process was starved. The target is continuous at the seam: what the two paths differ by fades out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from calibration.poses import ActionConvention, integrate_chunk, interpolate, transform

Array = NDArray[np.float64]

ACTION_DIM = 7
MAX_CLOCK_STEP_S = 0.05
"""The chunk's clock never advances more between two steps: a process that was starved goes on late, without a leap."""
BLEND_S = 0.2
"""Time in which the difference of two paths at a seam is faded out: about twice the arm's lag, so it can follow."""
MAX_JUMP_M, MAX_JUMP_RAD = 0.03, 0.3
"""A chunk that would continue farther from the target's present place than this was made for another situation."""


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
        follows: chunk in execution whose path this one continues; 0 when it begins at once.
        start_step: step of that chunk at which row 0 of this one begins.
        real_time: the next chunk should come before this one ends; reaching its end is a delay worth a word.
    """

    sequence: int
    T_base_reference: Array
    actions_CHD: Array
    convention: ActionConvention
    rate_hz: float
    execute_length: int
    follows: int = 0
    start_step: float = 0.0
    real_time: bool = False

    @classmethod
    def checked(
        cls,
        sequence: int,
        T_base_reference: ArrayLike,
        actions_CHD: ArrayLike,
        convention: int,
        rate_hz: float,
        execute_length: int,
        follows: int = 0,
        start_step: float = 0.0,
        real_time: bool = False,
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
        if follows and not (math.isfinite(start_step) and start_step >= 0.0):
            raise ChunkError(f"start_step must be a step of chunk {follows}, 0 or more, got {start_step}")
        return cls(
            sequence, T, actions, ActionConvention(convention), float(rate_hz), int(execute_length),
            int(follows), float(start_step), bool(real_time),
        )  # fmt: skip

    def path(self) -> Array:
        """Poses [execute_length + 1, 4, 4]: the reference and where each executed row ends."""
        poses = integrate_chunk(self.T_base_reference, self.actions_CHD[: self.execute_length], self.convention)
        return np.concatenate([np.asarray(self.T_base_reference)[None], poses])


@dataclass(frozen=True)
class Setpoint:
    """Where the TCP should be now, ``T_base_tcp`` [4, 4], and how far open the gripper (NaN: leave it alone)."""

    T_base_tcp: Array
    opening: float


@dataclass(frozen=True)
class Seam:
    """How one chunk gave way to the next.

    Attributes:
        sequence: the chunk that took over.
        skipped: its rows, with fraction, that were over before it came.
        jump_m, jump_rad: distance and angle between the two paths there; faded out, never leapt.
        waited_s: time the target had stood at the end of the old chunk; 0 when the new one came in time.
    """

    sequence: int
    skipped: float
    jump_m: float
    jump_rad: float
    waited_s: float


def path_pose(path_N44: Array, step: float) -> Array:
    """The pose [4, 4] at a fractional step of a path, clamped to its ends."""
    at = min(max(int(step), 0), len(path_N44) - 1)
    if at == len(path_N44) - 1:
        return np.array(path_N44[at])
    return interpolate(path_N44[at], path_N44[at + 1], min(max(step - at, 0.0), 1.0))


class ChunkPlayer:
    """Plays chunks; after the last it waits at the final pose, at most ``wait_s`` seconds, then stops.

    IDLE until the first chunk; EXECUTING; WAITING for the next chunk; STOPPED until ``reset``.

    Args:
        wait_s: patience at the end of a chunk.
        blend_s: time in which the difference of two paths at a seam is faded out.
    """

    def __init__(self, wait_s: float, blend_s: float = BLEND_S) -> None:
        self.wait_s, self.blend_s = wait_s, blend_s
        self.reset()

    def reset(self) -> None:
        """Forget everything; ready for a first chunk."""
        self.state = PlayerState.IDLE
        self.reason = ""
        self.sequence = 0
        self.executed = 0
        self.seam: Seam | None = None
        self._chunk: Chunk | None = None
        self._path: Array = np.zeros((0, 4, 4))
        self._clock_s = 0.0
        self._stepped_at_s = 0.0
        self._waiting_since_s = 0.0
        self._opening = float("nan")
        self._offset = np.zeros(6)
        self._blended_s = math.inf

    @property
    def progress(self) -> float:
        """Rows of the chunk that are over, with the fraction of the one in execution."""
        chunk = self._chunk
        # The tiny share makes a clock summed up from 100 small steps reach the row's end on time.
        return 0.0 if chunk is None else min(self._clock_s * chunk.rate_hz + 1e-9, float(chunk.execute_length))

    def play(self, chunk: Chunk, now_s: float) -> None:
        """Start a chunk at once, or continue the one in execution with it; ``seam`` then tells how they met.

        Raises:
            ChunkError: the player is stopped, the sequence number does not grow, or the chunk does not continue what is
                in execution; that goes on unchanged.
        """
        if self.state is PlayerState.STOPPED:
            raise ChunkError(f"stopped ({self.reason}); engage again before sending chunks")
        if self._chunk is not None and chunk.sequence <= self.sequence:
            raise ChunkError(f"chunk {chunk.sequence} is not newer than chunk {self.sequence}; it is ignored")
        path = chunk.path()
        begin = self._join(chunk, path, now_s) if chunk.follows else 0.0
        if not chunk.follows:
            self.seam, self._blended_s = None, math.inf
        self._chunk, self._path = chunk, path
        self.state, self.reason = PlayerState.EXECUTING, ""
        self.sequence, self.executed = chunk.sequence, int(begin)
        self._clock_s, self._stepped_at_s = begin / chunk.rate_hz, now_s

    def _join(self, chunk: Chunk, path: Array, now_s: float) -> float:
        """Check that a chunk continues the path in execution, remember by how much not; its row that is due now."""
        old = self._chunk
        if old is None or chunk.follows != self.sequence:
            raise ChunkError(f"it continues chunk {chunk.follows}, but {self.sequence or 'none'} is in execution")
        if chunk.rate_hz != old.rate_hz:
            raise ChunkError(f"it continues a chunk of {old.rate_hz} Hz at {chunk.rate_hz} Hz; rates must be equal")
        waited_s = self.delay_s(now_s)
        self._advance(now_s)
        begin = self.progress - chunk.start_step
        if not -1.0 < begin < chunk.execute_length:
            raise ChunkError(
                f"it covers steps {chunk.start_step:.1f} to {chunk.start_step + chunk.execute_length:.1f} of chunk "
                f"{self.sequence}, which is at step {self.progress:.1f}; it came too late or was made for another run"
            )
        begin = max(begin, 0.0)
        T_now, T_next = self._pose(), path_pose(path, begin)
        turn = Rotation.from_matrix(T_now[:3, :3] @ T_next[:3, :3].T).as_rotvec()
        offset = np.concatenate([T_now[:3, 3] - T_next[:3, 3], turn])
        jump_m, jump_rad = float(np.linalg.norm(offset[:3])), float(np.linalg.norm(offset[3:]))
        if jump_m > MAX_JUMP_M or jump_rad > MAX_JUMP_RAD:
            raise ChunkError(
                f"it goes on {jump_m * 1e3:.0f} mm and {math.degrees(jump_rad):.0f} deg away from the target, allowed "
                f"are {MAX_JUMP_M * 1e3:.0f} mm and {math.degrees(MAX_JUMP_RAD):.0f} deg; was it made elsewhere?"
            )
        self._offset, self._blended_s = offset, 0.0
        self.seam = Seam(chunk.sequence, begin, jump_m, jump_rad, waited_s)
        return begin

    def delay_s(self, now_s: float) -> float:
        """How long the target has stood at the end of a chunk the next one should have continued; 0 while it moves."""
        late = self.state is PlayerState.WAITING and self._chunk is not None and self._chunk.real_time
        return max(0.0, now_s - self._waiting_since_s) if late else 0.0

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
        self._advance(now_s)
        if self.state is PlayerState.EXECUTING:
            self.executed = int(self.progress)
            row = min(self.executed, chunk.execute_length - 1)
            self._opening = float(np.clip(chunk.actions_CHD[row, 6], 0.0, 1.0))
            if self.executed >= chunk.execute_length:
                self.state, self._waiting_since_s = PlayerState.WAITING, now_s
                if chunk.real_time:
                    self.reason = f"the next chunk is late: holding at the end of chunk {self.sequence}"
        elif now_s - self._waiting_since_s > self.wait_s:
            self.stop(f"no new chunk for {self.wait_s:.1f} s after chunk {self.sequence}; is the policy alive?")
            return None
        return Setpoint(self._pose(), self._opening)

    def _advance(self, now_s: float) -> None:
        """Let the chunk's clock and the fading of the last seam go on to now."""
        elapsed_s = min(max(0.0, now_s - self._stepped_at_s), MAX_CLOCK_STEP_S)
        self._stepped_at_s = now_s
        self._blended_s += elapsed_s
        if self.state is PlayerState.EXECUTING:
            self._clock_s += elapsed_s

    def _pose(self) -> Array:
        """The path's pose now, and what is left of the seam's offset: smooth at both ends of the fading."""
        T = path_pose(self._path, self.progress)
        if self._blended_s >= self.blend_s:
            return T
        u = self._blended_s / self.blend_s
        left = self._offset * (1.0 - u * u * (3.0 - 2.0 * u))
        rotation = Rotation.from_rotvec(left[3:]) * Rotation.from_matrix(T[:3, :3])
        return transform(T[:3, 3] + left[:3], rotation)
