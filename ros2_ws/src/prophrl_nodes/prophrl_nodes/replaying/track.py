"""What an arm did, on one uniform time grid: the common form of a recording and of its replay.

Devices speak at their own rates and stamps; both sides of a comparison go through here, so that what differs between
them is the motion and not the sampling. Joints and positions are interpolated linearly, rotations along the shortest
turn; nothing is extrapolated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

Array = NDArray[np.float64]
Stamps = NDArray[np.int64]

TRACK_RATE_HZ = 100.0
MIN_SAMPLES = 2


class TrackError(ValueError):
    """Too few samples to say what the arm did; names the stream."""


@dataclass
class Samples:
    """Samples of one device as they arrive: stamps in nanoseconds and values, in any order."""

    name: str
    stamp_ns: list[int] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)

    def add(self, stamp_ns: int, value: Array | float) -> None:
        self.stamp_ns.append(int(stamp_ns))
        self.values.append(np.asarray(value, dtype=np.float64))

    def sorted(self) -> tuple[Stamps, Array]:
        """Stamps strictly increasing, and their values [N, ...]; of samples with the same stamp the last one counts.

        Raises:
            TrackError: fewer than two different stamps.
        """
        stamps = np.asarray(self.stamp_ns, dtype=np.int64)
        order = np.argsort(stamps, kind="stable")
        stamps = stamps[order]
        different = len(np.unique(stamps))
        if different < MIN_SAMPLES:
            raise TrackError(f"{self.name}: {different} samples are too few; was its node running?")
        last = np.append(np.diff(stamps) > 0, True)
        return stamps[last], np.stack(self.values)[order][last]


@dataclass(frozen=True)
class Track:
    """Joints, TCP pose and gripper at ``TRACK_RATE_HZ``.

    Attributes:
        start_ns: stamp of the first row, nanoseconds.
        q_N6: joint angles, radians.
        T_base_tcp_N44: TCP poses.
        opening_N: measured gripper opening, 0 closed .. 1 open.
    """

    start_ns: int
    q_N6: Array
    T_base_tcp_N44: Array
    opening_N: Array

    def __len__(self) -> int:
        return len(self.q_N6)

    @property
    def time_s_N(self) -> Array:
        """Seconds since ``start_ns``."""
        return np.arange(len(self)) / TRACK_RATE_HZ

    @property
    def duration_s(self) -> float:
        return (len(self) - 1) / TRACK_RATE_HZ

    @classmethod
    def of(
        cls, joints: Samples, poses: Samples, openings: Samples, start_ns: int | None = None, end_ns: int | None = None
    ) -> Track:
        """Resample three streams over the time that all of them cover, cut to ``start_ns``..``end_ns``.

        Raises:
            TrackError: a stream has too few samples, or the three do not overlap by two rows.
        """
        streams = [joints.sorted(), poses.sorted(), openings.sorted()]
        # An arm may be in motion when a recording begins, a gripper is not: before its first word it was where it was.
        begins = streams if start_ns is None else streams[:2]
        first = max([int(stamps[0]) for stamps, _ in begins] + ([] if start_ns is None else [start_ns]))
        last = min([int(stamps[-1]) for stamps, _ in streams] + ([] if end_ns is None else [end_ns]))
        count = int((last - first) * 1e-9 * TRACK_RATE_HZ + 1e-6) + 1
        if count < MIN_SAMPLES:
            raise TrackError(
                f"{joints.name}, {poses.name} and {openings.name} have no common time; did a device stop speaking?"
            )
        grid_ns = first + np.round(np.arange(count) * (1e9 / TRACK_RATE_HZ)).astype(np.int64)
        (joint_ns, q), (pose_ns, T), (opening_ns, opening) = streams
        return cls(
            first, _linear(grid_ns, joint_ns, q), _poses(grid_ns, pose_ns, T), _linear(grid_ns, opening_ns, opening)
        )


def _linear(at_ns: Stamps, stamp_ns: Stamps, values: Array) -> Array:
    """Linear interpolation of values [N] or [N, D]; a float counts nanoseconds from the first stamp, not from 1970."""
    at, stamps = (at_ns - stamp_ns[0]) * 1e-9, (stamp_ns - stamp_ns[0]) * 1e-9
    if values.ndim == 1:
        return np.asarray(np.interp(at, stamps, values))
    return np.column_stack([np.interp(at, stamps, column) for column in values.T])


def _poses(at_ns: Stamps, stamp_ns: Stamps, T_N44: Array) -> Array:
    at, stamps = (at_ns - stamp_ns[0]) * 1e-9, (stamp_ns - stamp_ns[0]) * 1e-9
    poses = np.tile(np.eye(4), (len(at_ns), 1, 1))
    poses[:, :3, 3] = _linear(at_ns, stamp_ns, T_N44[:, :3, 3])
    turn = Slerp(stamps, Rotation.from_matrix(T_N44[:, :3, :3]))
    poses[:, :3, :3] = turn(np.clip(at, stamps[0], stamps[-1])).as_matrix()
    return poses
