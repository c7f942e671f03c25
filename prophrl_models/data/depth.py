"""Depth beside the colour image of each step: the frame of the same moment, with its own stamp.

A policy sees no depth, so depth takes no part in choosing samples: whatever the ``Synchroniser`` chose stays, and the
depth frame whose stamp lies nearest to that of the chosen colour frame is put beside it, even if it arrived a little
later. Nothing is interpolated, no stamp is changed; a depth frame that is too far away in time is kept and marked.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH, WHOLE, Depth, ImageRegion, policy_depth

_SETTLE_NS = 100_000_000
"""A match is final once depth this much younger has arrived: frames of one camera are never later than that."""
_KEPT_BEFORE_FIRST = 64
"""Frames kept until the first step asks: two seconds of a camera at 30 Hz."""


@dataclass(frozen=True)
class DepthSpec:
    """How depth is put beside colour; stored with every dataset that has depth.

    Attributes:
        max_apart_s: a step's depth is valid when its stamp is no further than this from the colour image's. A
            complete stream at 30 Hz never exceeds 0.017 s.
    """

    max_apart_s: float = 0.02

    def __post_init__(self) -> None:
        if not (math.isfinite(self.max_apart_s) and self.max_apart_s >= 0.0):
            raise ValueError(f"max_apart_s must be a time of 0 s or more, got {self.max_apart_s}")


@dataclass(frozen=True)
class DepthColumns:
    """The depth of an episode without its pictures.

    Attributes:
        stamp_ns_T: the frames' own stamps, int64 nanoseconds.
        valid_T: stamp within ``DepthSpec.max_apart_s`` of the colour image's.
        final_HW: uint16 millimetres [240, 320] beside the observation after the last action; 0 is "not measured".
        final_stamp_ns, final_valid: the same for it.
        largest_apart_s: largest distance of a depth stamp from its colour stamp.
    """

    stamp_ns_T: NDArray[np.int64]
    valid_T: NDArray[np.bool_]
    final_HW: Depth
    final_stamp_ns: int
    final_valid: bool
    largest_apart_s: float

    def __post_init__(self) -> None:
        if self.final_HW.shape != (POLICY_HEIGHT, POLICY_WIDTH) or self.final_HW.dtype != np.uint16:
            raise ValueError(
                f"depth is uint16 millimetres [{POLICY_HEIGHT}, {POLICY_WIDTH}], got "
                f"{self.final_HW.dtype} {self.final_HW.shape}; crop with prophrl_models.data.image.policy_depth"
            )
        if self.stamp_ns_T.shape != self.valid_T.shape:
            raise ValueError(f"{self.stamp_ns_T.shape} depth stamps, but {self.valid_T.shape} marks of validity")


class DepthTrack:
    """Collects the depth of one episode: samples come in as they arrived, pictures go out in the order of the steps."""

    def __init__(self, spec: DepthSpec, on_depth: Callable[[Depth], None], region: ImageRegion = WHOLE) -> None:
        """Start empty; ``on_depth`` takes the picture [240, 320] of each step but the last one asked for."""
        self._spec, self._on_depth, self._region = spec, on_depth, region
        self._stamps_ns: list[int] = []
        self._frames: list[NDArray[np.uint16]] = []
        self._asked_ns: deque[int] = deque()
        self._asked_last_ns: int | None = None
        self._matches: list[tuple[int, int]] = []
        self._latest: Depth | None = None

    def push(self, stamp_ns: int, depth_HW: NDArray[np.uint16]) -> None:
        """Take one frame, at the camera's size; it is kept by reference until it cannot be asked for any more."""
        at = bisect_left(self._stamps_ns, stamp_ns)
        if at < len(self._stamps_ns) and self._stamps_ns[at] == stamp_ns:
            self._frames[at] = depth_HW  # sent again: the later copy counts, as for colour
        else:
            self._stamps_ns.insert(at, stamp_ns)
            self._frames.insert(at, depth_HW)
        while self._asked_ns and self._asked_ns[0] <= self._stamps_ns[-1] - _SETTLE_NS:
            self._match()
        self._forget()

    def ask(self, color_stamp_ns: int) -> None:
        """A step shows the colour frame with this stamp; stamps never decrease from step to step."""
        self._asked_ns.append(color_stamp_ns)
        self._asked_last_ns = color_stamp_ns

    def finish(self) -> DepthColumns:
        """No more frames will come: the last picture becomes the final one.

        Raises:
            ValueError: nothing was asked for, or there was no frame at all.
        """
        if not self._stamps_ns:
            raise ValueError("no depth frame at all")
        while self._asked_ns:
            self._match()
        if self._latest is None:
            raise ValueError("no step asked for depth")
        asked, found = np.array(self._matches, dtype=np.int64).T
        apart_ns = np.abs(found - asked)
        valid = apart_ns <= round(self._spec.max_apart_s * 1e9)
        return DepthColumns(
            stamp_ns_T=found[:-1].copy(),
            valid_T=valid[:-1].copy(),
            final_HW=self._latest,
            final_stamp_ns=int(found[-1]),
            final_valid=bool(valid[-1]),
            largest_apart_s=float(apart_ns.max() * 1e-9),
        )

    def _match(self) -> None:
        wanted_ns = self._asked_ns.popleft()
        at = bisect_left(self._stamps_ns, wanted_ns)
        around = [i for i in (at - 1, at) if 0 <= i < len(self._stamps_ns)]
        nearest = min(around, key=lambda i: abs(self._stamps_ns[i] - wanted_ns))
        if self._latest is not None:
            self._on_depth(self._latest)
        self._latest = policy_depth(self._frames[nearest], self._region)
        self._matches.append((wanted_ns, self._stamps_ns[nearest]))

    def _forget(self) -> None:
        """Drop the frames that lie before the nearest one to any stamp that may still be asked for."""
        if self._asked_last_ns is None:
            surplus = len(self._stamps_ns) - _KEPT_BEFORE_FIRST
        else:
            earliest_ns = self._asked_ns[0] if self._asked_ns else self._asked_last_ns
            surplus = bisect_left(self._stamps_ns, earliest_ns) - 1
        if surplus > 0:
            del self._stamps_ns[:surplus], self._frames[:surplus]


def depth_summary(columns: DepthColumns) -> dict[str, Any]:
    """What the quality report says about depth."""
    return {
        "invalid_steps": int((~columns.valid_T).sum()),
        "largest_apart_s": columns.largest_apart_s,
    }
