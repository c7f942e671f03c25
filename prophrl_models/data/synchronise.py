"""From three unsynchronised streams to one policy input: the same object live and when a bag is converted.

At a tick, each stream contributes its newest sample whose own stamp is at or before the tick, among the
samples that have arrived. Nothing is interpolated and no stamp is changed. Stamps and ticks are given in
nanoseconds of one clock; the object itself reads no clock.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibration.poses import Array, to_euler, wrap_angle
from prophrl_models.data.episode import Observation
from prophrl_models.data.image import WHOLE, Image, ImageRegion, policy_image
from prophrl_models.data.streams import COLOR, GRIPPER, STREAMS, TCP_POSE

_CAPACITY = {COLOR: 16, TCP_POSE: 64, GRIPPER: 64}  # about half a second each: enough for clocks that disagree a little


@dataclass(frozen=True)
class SyncSpec:
    """How policy inputs are formed; stored with every dataset so that the live node can do the same.

    Attributes:
        control_rate_hz: ticks per second.
        max_age_s: oldest sample accepted, per stream, measured from the tick to the sample's own stamp.
        euler_centre_rad: Euler angles of the state lie within pi of these. A tool that points down has e_x near
            pi, where the usual branch (-pi, pi] would jump; the default is the home pose, far from any jump.
        image_region: the part of the camera's picture that the policy sees.
    """

    control_rate_hz: float = 10.0
    max_age_s: Mapping[str, float] = field(default_factory=lambda: {COLOR: 0.2, TCP_POSE: 0.1, GRIPPER: 0.2})
    euler_centre_rad: tuple[float, float, float] = (math.pi, 0.0, math.pi / 2)
    image_region: ImageRegion = WHOLE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.control_rate_hz) and 0.0 < self.control_rate_hz <= 100.0):
            raise ValueError(f"control_rate_hz must lie in (0, 100], got {self.control_rate_hz}")
        if set(self.max_age_s) != set(STREAMS) or min(self.max_age_s.values()) <= 0:
            raise ValueError(
                f"max_age_s needs a positive age for each of {', '.join(STREAMS)}, got {dict(self.max_age_s)}"
            )
        if len(self.euler_centre_rad) != 3:
            raise ValueError(f"euler_centre_rad needs three angles, got {self.euler_centre_rad}")

    def to_json(self) -> dict[str, Any]:
        plain = {
            "control_rate_hz": self.control_rate_hz,
            "max_age_s": dict(self.max_age_s),
            "euler_centre_rad": list(self.euler_centre_rad),
        }
        if self.image_region != WHOLE:  # absent otherwise, so that datasets of whole pictures keep their content hash
            plain["image_region"] = self.image_region.to_json()
        return plain

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> SyncSpec:
        try:
            x, y, z = raw["euler_centre_rad"]
            ages = {str(k): float(v) for k, v in raw["max_age_s"].items()}
            region = ImageRegion.from_json(raw["image_region"]) if "image_region" in raw else WHOLE
            return SyncSpec(float(raw["control_rate_hz"]), ages, (float(x), float(y), float(z)), region)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a stored SyncSpec ({error!r}): {dict(raw)}") from error


def tick_ns(start_ns: int, index: int, rate_hz: float) -> int:
    """The index-th tick after ``start_ns``; exact for any rate, so ticks never drift."""
    return start_ns + round(index * 1e9 / rate_hz)


@dataclass(frozen=True)
class Snapshot:
    """All streams at one tick.

    Attributes:
        observation: the policy input, or None while a stream is missing or older than allowed.
        held: the same from the newest samples whatever their age; None while a stream has no sample at all.
        T_base_tcp: measured TCP pose [4, 4] behind the state; None when there is none.
        target_opening: commanded opening, NaN when there is none.
        stamp_ns: the samples' own stamps, by stream; absent streams are left out.
        age_s: tick minus stamp, by stream; absent streams are left out.
        problems: why ``observation`` is None, one sentence per stream.
    """

    now_ns: int
    observation: Observation | None
    held: Observation | None
    T_base_tcp: Array | None
    target_opening: float
    stamp_ns: Mapping[str, int]
    age_s: Mapping[str, float]
    problems: tuple[str, ...]


class _Buffer:
    """The last few samples of a stream, ordered by stamp."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._stamps_ns: list[int] = []
        self._values: list[Any] = []
        self.pushed = self.out_of_order = self.repeated = 0

    def push(self, stamp_ns: int, value: Any) -> None:
        self.pushed += 1
        at = bisect_right(self._stamps_ns, stamp_ns)
        if at and self._stamps_ns[at - 1] == stamp_ns:  # the device sent the same sample again: the later copy counts
            self.repeated += 1
            self._values[at - 1] = value
            return
        self.out_of_order += at < len(self._stamps_ns)
        self._stamps_ns.insert(at, stamp_ns)
        self._values.insert(at, value)
        if len(self._stamps_ns) > self._capacity:
            del self._stamps_ns[0], self._values[0]

    def newest(self, now_ns: int) -> tuple[int, Any] | None:
        at = bisect_right(self._stamps_ns, now_ns)
        return (self._stamps_ns[at - 1], self._values[at - 1]) if at else None

    def earliest_ns(self) -> int | None:
        return self._stamps_ns[0] if self._stamps_ns else None


class Synchroniser:
    """Collects samples as they arrive and answers with policy inputs. Safe to use from several threads."""

    def __init__(self, spec: SyncSpec, instruction: str = "") -> None:
        self.spec = spec
        self.instruction = instruction
        self._buffers = {stream: _Buffer(_CAPACITY[stream]) for stream in STREAMS}
        self._lock = threading.Lock()

    def push(self, stream: str, stamp_ns: int, value: Any) -> None:
        """Take one sample: color RGB uint8 [H, W, 3] | tcp_pose ``T_base_tcp`` [4, 4] | gripper (opening, target).

        The image is kept by reference until newer ones displace it: hand over bytes that nobody rewrites.

        Raises:
            ValueError: unknown stream, wrong shape, or a number that is not finite.
        """
        if stream not in self._buffers:
            raise ValueError(f"unknown stream {stream!r}, known are {', '.join(STREAMS)}")
        if stream == COLOR:
            if value.ndim != 3 or value.shape[2] != 3 or value.dtype != np.uint8:
                raise ValueError(f"color samples are RGB uint8 [H, W, 3], got {value.dtype} {value.shape}")
        else:
            shape = (4, 4) if stream == TCP_POSE else (2,)
            value = np.asarray(value, dtype=np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{stream} samples are finite numbers of shape {shape}, got {value.tolist()}")
        with self._lock:
            self._buffers[stream].push(int(stamp_ns), value)

    def snapshot(self, now_ns: int) -> Snapshot:
        """The policy input at ``now_ns`` from what has arrived so far, with ages and, if any, problems."""
        with self._lock:
            newest = {stream: buffer.newest(now_ns) for stream, buffer in self._buffers.items()}
            earliest_ns = {stream: buffer.earliest_ns() for stream, buffer in self._buffers.items()}
        problems = []
        stamp_ns, age_s, value = {}, {}, {}
        for stream, sample in newest.items():
            if sample is None:
                first_ns = earliest_ns[stream]
                if first_ns is None:
                    problems.append(f"{stream}: no sample yet")
                else:
                    ahead_s = (first_ns - now_ns) * 1e-9
                    problems.append(f"{stream}: stamps are {ahead_s:.3f} s ahead of this clock; synchronise the clocks")
                continue
            stamp_ns[stream], value[stream] = sample
            age_s[stream] = (now_ns - sample[0]) * 1e-9
            if age_s[stream] > self.spec.max_age_s[stream]:
                limit = self.spec.max_age_s[stream]
                problems.append(f"{stream}: newest sample is {age_s[stream]:.3f} s old, allowed are {limit:.3f} s")
        held = self._observation(now_ns, value) if len(value) == len(STREAMS) else None
        return Snapshot(
            now_ns=now_ns,
            observation=None if problems else held,
            held=held,
            T_base_tcp=value.get(TCP_POSE),
            target_opening=float(value[GRIPPER][1]) if GRIPPER in value else math.nan,
            stamp_ns=stamp_ns,
            age_s=age_s,
            problems=tuple(problems),
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """Samples pushed, arrived out of order and repeated (same stamp again), by stream."""
        with self._lock:
            return {
                stream: {"pushed": b.pushed, "out_of_order": b.out_of_order, "repeated": b.repeated}
                for stream, b in self._buffers.items()
            }

    def _observation(self, now_ns: int, value: Mapping[str, Any]) -> Observation:
        image: Image = policy_image(value[COLOR], self.spec.image_region)
        return Observation(image, state_vector(value[TCP_POSE], value[GRIPPER][0], self.spec), self.instruction, now_ns)


def state_vector(T_base_tcp: Array, opening: float, spec: SyncSpec) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """State float32 ``[x y z ex ey ez g]`` of a TCP pose and an opening, on the spec's Euler branch."""
    pose = to_euler(T_base_tcp)
    centre = np.asarray(spec.euler_centre_rad)
    pose[3:] = centre + wrap_angle(pose[3:] - centre)
    return np.append(pose, opening).astype(np.float32)
