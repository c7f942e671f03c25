"""One bag to one episode, by playing its messages into the live node's ``Synchroniser`` in the order they arrived.

Ticks run on the recorder's receive clock: at a tick the converter knows what a live node would have known then, with
the same delays. The first tick is the moment the last of the three streams has spoken; the last one lies before the
end of the last stream. Ticks with a missing or stale sample stay in the episode, marked as not valid, so that the
time grid has no holes that look like motion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention, Array, difference
from prophrl_models.data.bag import Bag, BagError, BagMessage
from prophrl_models.data.depth import DepthColumns, DepthSpec, DepthTrack, depth_summary
from prophrl_models.data.episode import Episode, EpisodeColumns, Observation
from prophrl_models.data.image import Depth, Image
from prophrl_models.data.quality import CounterGrowth, EpisodeQuality, topic_timing
from prophrl_models.data.samples import read_samples
from prophrl_models.data.streams import COLOR, DEPTH, STREAMS, Topics
from prophrl_models.data.synchronise import Synchroniser, SyncSpec, tick_ns


@dataclass(frozen=True)
class MotionThreshold:
    """A step counts as moving when, from one tick to the next, any of these is exceeded.

    Half a millimetre in a tenth of a second is well above the noise of a holding arm (UR30: 0.1 mm repeatability).
    """

    position_m: float = 0.0005
    rotation_rad: float = 0.005
    opening: float = 0.01


@dataclass(frozen=True)
class _Moment:
    """A snapshot without its image."""

    now_ns: int
    T_base_tcp: Array
    state_7: NDArray[np.float32]
    target_opening: float
    stamp_ns: Mapping[str, int]
    age_s: Mapping[str, float]
    problems: tuple[str, ...]


class Converter:
    """Converts one bag; a class because image rows leave it while the other columns are still growing."""

    def __init__(
        self,
        bag: Bag,
        spec: SyncSpec,
        on_image: Callable[[Image], None],
        *,
        topics: Topics | None = None,
        motion: MotionThreshold | None = None,
        depth: DepthTrack | None = None,
    ) -> None:
        """Prepare to convert.

        Args:
            bag: the recording.
            spec: how policy inputs are formed.
            on_image: takes the RGB image [240, 320, 3] of each step, in order; memory stays bounded that way.
            topics: topic names; ROS defaults when None.
            motion: what counts as moving.
            depth: takes the depth frames; depth is not read when None. Everything else is the same either way.
        """
        self._bag, self._spec, self._on_image = bag, spec, on_image
        self._topics = topics or Topics()
        self._motion = motion or MotionThreshold()
        self._depth = depth
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._synchroniser = Synchroniser(spec, bag.metadata.instruction)
        self._moments: list[_Moment] = []
        self._latest: Observation | None = None
        self._stamps_ns: dict[str, list[int]] = {stream: [] for stream in STREAMS}
        self._unusable = dict.fromkeys(STREAMS, 0)
        self._counters = {name: CounterGrowth() for name in ("clamped", "refused", "stale")}

    def run(self, convention: ActionConvention) -> EpisodeColumns:
        """Read the bag once, hand on the images and return the other columns.

        Raises:
            BagError: damaged bag, missing topic, unusable message, or fewer than two ticks.
        """
        rate_hz = self._spec.control_rate_hz
        first_ns: int | None = None
        ticks = end_ns = 0
        samples = read_samples(self._bag, self._topics, self._see_status, with_depth=self._depth is not None)
        for log_ns, stream, stamp, value in samples:
            self._see_size(stream, value)
            if self._depth is not None and stream == DEPTH:
                self._depth.push(stamp, value)  # and nothing else: depth decides neither ticks nor samples
                continue
            while first_ns is not None and (now_ns := tick_ns(first_ns, ticks, rate_hz)) < log_ns:
                self._tick(now_ns)
                ticks += 1
            try:
                self._synchroniser.push(stream, stamp, value)
            except ValueError:  # NaN from a driver: the policy node does without such a sample, too
                self._unusable[stream] += 1
                continue
            self._stamps_ns[stream].append(stamp)
            end_ns = log_ns
            if first_ns is None and all(self._stamps_ns.values()):
                first_ns = log_ns
        while first_ns is not None and (now_ns := tick_ns(first_ns, ticks, rate_hz)) <= end_ns:
            self._tick(now_ns)
            ticks += 1
        if len(self._moments) < 2:
            raise BagError(
                f"{self._bag.name}: only {len(self._moments)} tick(s) at {rate_hz:g} Hz have all of "
                f"{', '.join(STREAMS)}; an episode needs two. Record it again or discard it"
            )
        return self._columns(ActionConvention(convention))

    def _tick(self, now_ns: int) -> None:
        snapshot = self._synchroniser.snapshot(now_ns)
        held, T_base_tcp = snapshot.held, snapshot.T_base_tcp
        if held is None or T_base_tcp is None:
            if self._moments:
                raise BagError(f"{self._bag.name}: clocks jumped during the episode: {'; '.join(snapshot.problems)}")
            return  # at the start, stamps may run ahead of the recorder's clock: no policy input exists yet
        if self._depth is not None:
            self._depth.ask(snapshot.stamp_ns[COLOR])
        if self._latest is not None:
            self._on_image(self._latest.image_HW3)
        self._latest = held
        self._moments.append(
            _Moment(
                now_ns,
                T_base_tcp,
                held.state_7,
                snapshot.target_opening,
                snapshot.stamp_ns,
                snapshot.age_s,
                snapshot.problems,
            )
        )

    def _see_size(self, stream: str, value: Any) -> None:
        """Depth is cropped as colour is, so the two must be pixel by pixel the same picture."""
        if stream in (COLOR, DEPTH):
            self._sizes[stream] = value.shape[:2]
            if len(set(self._sizes.values())) > 1:
                sizes = ", ".join(f"{name} {width}x{height}" for name, (height, width) in sorted(self._sizes.items()))
                raise BagError(
                    f"{self._bag.name}: {sizes}: depth of another size than colour is not aligned to it; "
                    "record the aligned depth, or build without depth"
                )

    def _see_status(self, message: BagMessage) -> None:
        status = self._bag.decode(message)
        for name, counter in self._counters.items():
            counter.see(int(getattr(status, name)))

    def _columns(self, convention: ActionConvention) -> EpisodeColumns:
        moments = self._moments
        pairs = list(itertools.pairwise(moments))
        fresh = np.array([not moment.problems for moment in moments])
        moving = np.array([self._moving(a, b) for a, b in pairs])
        stamps = {s: np.array([m.stamp_ns[s] for m in moments[:-1]], dtype=np.int64) for s in STREAMS}
        assert self._latest is not None  # there are at least two moments
        depth = None if self._depth is None else self._depth.finish()
        return EpisodeColumns(
            metadata=self._bag.metadata,
            convention=convention,
            control_rate_hz=self._spec.control_rate_hz,
            state_T7=np.stack([moment.state_7 for moment in moments[:-1]]),
            action_T7=np.stack([_action(a, b, convention) for a, b in pairs]),
            stamp_ns_T=np.array([moment.now_ns for moment in moments[:-1]], dtype=np.int64),
            source_stamp_ns_T=stamps,
            valid_T=fresh[:-1] & fresh[1:],
            moving_T=moving,
            final=self._latest,
            quality=self._quality(int((~moving).sum()), depth).to_json(),
            depth=depth,
        )

    def _moving(self, a: _Moment, b: _Moment) -> bool:
        limit = self._motion
        local = difference(a.T_base_tcp, b.T_base_tcp, ActionConvention.CONTROLLER_SERVO)
        return bool(
            np.linalg.norm(local[:3]) > limit.position_m
            or np.linalg.norm(local[3:]) > limit.rotation_rad
            or abs(float(b.state_7[6] - a.state_7[6])) > limit.opening
            or abs(b.target_opening - a.target_opening) > limit.opening
        )

    def _quality(self, idle_steps: int, depth: DepthColumns | None) -> EpisodeQuality:
        bag, counts = self._bag, self._synchroniser.counts()
        recorded = bag.metadata.extra.get("topics")
        said = recorded if isinstance(recorded, Mapping) else {}
        dropped = {t: int(entry["dropped"]) for t, entry in said.items() if entry.get("dropped") is not None}
        growth = {name: counter.growth if counter.seen else None for name, counter in self._counters.items()}
        streams = {s: np.asarray(values, dtype=np.int64) for s, values in self._stamps_ns.items()}
        return EpisodeQuality(
            streams={stream: topic_timing(values, bag.start_ns) for stream, values in streams.items()},
            topics={topic: topic_timing(times, bag.start_ns) for topic, times in bag.log_times_ns().items()},
            largest_age_s={s: max(moment.age_s[s] for moment in self._moments) for s in STREAMS},
            stale=_runs([moment.problems for moment in self._moments]),
            idle_steps=idle_steps,
            out_of_order={stream: count["out_of_order"] for stream, count in counts.items()},
            repeated={stream: count["repeated"] for stream, count in counts.items()},
            unusable=self._unusable,
            dropped=dropped,
            clamped=growth["clamped"],
            refused=growth["refused"],
            watchdog=growth["stale"],
            depth=None if depth is None else depth_summary(depth),
        )


def convert_bag(
    bag: Bag,
    spec: SyncSpec | None = None,
    convention: ActionConvention = ActionConvention.ABSOLUTE_POSE_DIFFERENCE,
    topics: Topics | None = None,
    depth: DepthSpec | None = None,
) -> Episode:
    """One bag as an episode in memory (23 MB for ten seconds at 10 Hz); ``build_dataset`` streams to disk instead.

    Raises:
        BagError: see ``Converter.run``.
    """
    images: list[Image] = []
    depths: list[Depth] = []
    spec = spec or SyncSpec()
    track = None if depth is None else DepthTrack(depth, depths.append, spec.image_region)
    columns = Converter(bag, spec, images.append, topics=topics, depth=track).run(convention)
    return Episode(
        **{f.name: getattr(columns, f.name) for f in fields(columns)},
        color_THW3=np.stack(images),
        depth_THW=None if depth is None else np.stack(depths),
    )


def _action(a: _Moment, b: _Moment, convention: ActionConvention) -> NDArray[np.float32]:
    """The action [7] that leads from one moment to the next: measured motion, commanded opening."""
    pose = difference(a.T_base_tcp, b.T_base_tcp, convention)
    return np.append(pose, b.target_opening).astype(np.float32)


def _runs(problems: list[tuple[str, ...]]) -> tuple[tuple[int, int, str], ...]:
    """Runs of consecutive ticks with problems as (first, last, what the first one said)."""
    runs: list[tuple[int, int, str]] = []
    for tick, found in enumerate(problems):
        if not found:
            continue
        if runs and runs[-1][1] == tick - 1:
            runs[-1] = (runs[-1][0], tick, runs[-1][2])
        else:
            runs.append((tick, tick, "; ".join(found)))
    return tuple(runs)
