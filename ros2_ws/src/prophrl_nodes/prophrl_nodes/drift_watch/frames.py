"""What the drift check looks at: a few frames spread over an episode, with the joint angles at their stamps.

Nobody knows at the start how long an episode will be. Frames are kept at a short spacing, and each time there are twice
as many as wanted, every other one is let go and the spacing doubles; so a long episode costs no more memory.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.cdr import RawImage, parse_image, rgb_image

Array = NDArray[np.float64]

_HISTORY_NS = 2_000_000_000
_LARGEST_GAP_NS = 100_000_000
"""Joint samples farther apart than this say nothing about what was between them."""
_OPENING_UNKNOWN = 0.5


@dataclass(frozen=True)
class EpisodeFrames:
    """T frames in time order: RGB [T, H, W, 3], joint angles [T, 6] rad, gripper opening [T] (0 to 1), seconds [T]."""

    images_THW3: NDArray[np.uint8]
    q_T6: Array
    opening_T: Array
    stamp_s_T: Array

    def __len__(self) -> int:
        return len(self.stamp_s_T)

    def every(self, step: int, first: int = 0) -> EpisodeFrames:
        """Every ``step``-th frame from ``first`` on."""
        chosen = slice(first, None, step)
        return EpisodeFrames(
            self.images_THW3[chosen], self.q_T6[chosen], self.opening_T[chosen], self.stamp_s_T[chosen]
        )


class Track:
    """The last two seconds of one measured quantity, to be asked for its value at a stamp."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, Array]] = deque()

    def push(self, stamp_ns: int, value: Array) -> None:
        """Add a sample; one that is not newer than the last is ignored."""
        if self._samples and stamp_ns <= self._samples[-1][0]:
            return
        self._samples.append((stamp_ns, value))
        while stamp_ns - self._samples[0][0] > _HISTORY_NS:
            self._samples.popleft()

    @property
    def newest_ns(self) -> int:
        """Stamp of the last sample; before the first one, long ago."""
        return self._samples[-1][0] if self._samples else -1

    def at(self, stamp_ns: int) -> Array | None:
        """Linear interpolation between the neighbours; None where they are missing or far apart."""
        after: tuple[int, Array] | None = None
        for sample in reversed(self._samples):
            if sample[0] == stamp_ns:
                return sample[1]
            if sample[0] < stamp_ns:
                if after is None or after[0] - sample[0] > _LARGEST_GAP_NS:
                    return None
                part = (stamp_ns - sample[0]) / (after[0] - sample[0])
                return sample[1] + part * (after[1] - sample[1])
            after = sample
        return None


@dataclass
class _Kept:
    image: NDArray[np.uint8]
    stamp_ns: int
    q_6: Array
    opening: float


class FrameKeeper:
    """Collects the frames of one episode from the messages of its topics, live or out of a bag.

    Attributes:
        seen: pictures that came.
        without_joints: pictures that were to be kept, but no joint angles were known at their stamp.
    """

    def __init__(self, count: int = 20, period_s: float = 0.25) -> None:
        """Keep ``count`` frames, of a short episode those at least ``period_s`` apart."""
        if count < 2:
            raise ValueError(f"the drift check needs at least 2 frames, got {count}; 20 are plenty")
        self._count = count
        self._period_ns = round(1e9 * period_s)
        self._joints, self._gripper = Track(), Track()
        self._waiting: deque[RawImage] = deque()
        self._kept: list[_Kept] = []
        self._next_ns = 0
        self.seen = 0
        self.without_joints = 0

    def joints(self, stamp_ns: int, q_6: Array) -> None:
        """Measured joint angles, radians, from base to wrist."""
        self._joints.push(stamp_ns, q_6)
        while self._waiting and self._waiting[0].stamp_ns <= stamp_ns:
            self._keep(self._waiting.popleft())

    def gripper(self, stamp_ns: int, opening: float) -> None:
        """Measured opening, 0 to 1."""
        self._gripper.push(stamp_ns, np.array([opening]))

    def image(self, cdr: bytes | memoryview) -> None:
        """A serialised sensor_msgs/Image; its pixels are copied only when it is kept.

        Raises:
            ImageError: damaged bytes, or an encoding without colour.
        """
        self.seen += 1
        raw = parse_image(cdr)
        if raw.stamp_ns < self._next_ns:
            return
        self._next_ns = raw.stamp_ns + self._period_ns
        if self._joints.newest_ns >= raw.stamp_ns:
            self._keep(raw)
        elif len(self._waiting) < 4:  # more are waiting only where no joint angles come at all
            self._waiting.append(raw)
        else:
            self.without_joints += 1

    def frames(self) -> EpisodeFrames | None:
        """What was kept so far, ``count`` frames at most; None without any."""
        if not self._kept:
            return None
        shape = self._kept[-1].image.shape
        same = [kept for kept in self._kept if kept.image.shape == shape]  # the camera may have been opened anew
        chosen = np.unique(np.linspace(0, len(same) - 1, min(self._count, len(same))).round().astype(int))
        kept = [same[i] for i in chosen]
        return EpisodeFrames(
            np.stack([k.image for k in kept]),
            np.stack([k.q_6 for k in kept]),
            np.array([k.opening for k in kept]),
            np.array([k.stamp_ns * 1e-9 for k in kept]),
        )

    def _keep(self, raw: RawImage) -> None:
        q_6 = self._joints.at(raw.stamp_ns)
        if q_6 is None:
            self.without_joints += 1
            return
        opening = self._gripper.at(raw.stamp_ns)
        image = rgb_image(raw.height, raw.width, raw.encoding, raw.step, raw.data).copy()
        self._kept.append(_Kept(image, raw.stamp_ns, q_6, _OPENING_UNKNOWN if opening is None else float(opening[0])))
        if len(self._kept) >= 2 * self._count:
            self._kept = self._kept[::2]
            self._period_ns *= 2
            self._next_ns = self._kept[-1].stamp_ns + self._period_ns
