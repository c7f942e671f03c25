"""One attempt of a policy in the fast lane as rollouts in imagination are: chunk follows chunk, a stop is for good.

The episode that comes of it holds what was commanded (``data.commanded``), with the rows that followed a protective
stop under the picture that stayed. The noise is that of reinforcement, so that a world model learns what a policy will
try in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.camera import PinholeCamera
from calibration.poses import integrate_chunk
from prophrl_models.data.commanded import PlayedChunk, as_commanded
from prophrl_models.data.episode import Episode, EpisodeMetadata, Observation
from prophrl_models.data.image import policy_image
from prophrl_models.data.quality import EpisodeQuality, topic_timing
from prophrl_models.data.streams import STREAMS
from prophrl_models.data.synchronise import state_vector
from prophrl_models.policies.grip import firm_grip
from prophrl_models.policies.interface import ObservationBatch
from prophrl_models.prophet.stops import ARM_STOPPED
from prophrl_models.rl.rollouts import derived_seed, sample_chain
from prophrl_models.rl.sde import shifted_grid
from prophrl_models.serving.engine import PolicyEngine
from prophrl_nodes.state_feed import StateFeed
from prophrl_nodes.studies.watched_lane import WatchedLane
from robot_bridge.twin.tasks import Placement, get_task, sample_placement

SAMPLES_HZ = 20.0
"""Pictures in the lane: two for each action, so that one lies where ``as_commanded`` looks for it."""
SETTLE_S = 0.1
"""From the last target of a chunk to the next look: the arm catches up, as in the pictures of a world model."""
CALLS_AFTER_STOP = 3
Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlaySettings:
    """How a policy plays; the fields mean what those of ``rl.settings.RolloutOptions`` mean.

    Attributes:
        task: what is tried.
        calls: looks of an attempt.
        keep: rows executed of each chunk.
        noise_level: a of the SDE; 0: as deployed.
        seed: of placements (like those of demonstrations, never near the held-out ones) and of noise.
    """

    task: str
    calls: int = 16
    keep: int = 8
    noise_level: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        get_task(self.task)
        if self.calls < 1 or self.keep < 1 or not 0.0 <= self.noise_level <= 2.0:
            raise ValueError(
                f"an attempt needs at least one call and one row and a noise level in 0..2, got {self.calls}, "
                f"{self.keep} and {self.noise_level}"
            )

    def to_json(self) -> dict[str, Any]:
        """What an attempt depends on."""
        return asdict(self)


def placement_of(settings: PlaySettings, index: int) -> Placement:
    """Where the objects of the ``index``-th attempt are."""
    return sample_placement(settings.task, np.random.default_rng((settings.seed, index)))


class PlayingLane:
    """A fast lane in which policies play, one attempt after the other. Close it."""

    def __init__(self, settings: PlaySettings) -> None:
        self.settings = settings
        self._lane = WatchedLane(settings.task, control_rate_hz=SAMPLES_HZ)

    def close(self) -> None:
        """Release the OpenGL context."""
        self._lane.close()

    @property
    def camera(self) -> PinholeCamera:
        """What the pictures are taken with."""
        assert self._lane.renderer is not None  # until close()
        return self._lane.renderer.camera

    def attempt(self, engine: PolicyEngine, index: int, name: str, calibration_id: str) -> Episode:
        """The ``index``-th attempt: its placement and noise follow from the settings' seed and this number.

        Raises:
            ValueError: the policy plans fewer rows than are to be kept.
        """
        settings = self.settings
        if settings.keep > engine.spec.chunk:
            raise ValueError(f"the policy plans {engine.spec.chunk} rows, {settings.keep} cannot be executed of them")
        feed = StateFeed(engine.spec)

        def look(call: int) -> tuple[Array, Array]:
            return self._look(engine, feed, derived_seed(settings.seed, "play", index, call))

        return self._carried_out(
            engine, placement_of(settings, index), look, settings.calls, CALLS_AFTER_STOP, name, calibration_id
        )

    def follow(
        self, engine: PolicyEngine, placement: Placement, plan_SN7: NDArray[np.float32], name: str, calibration_id: str
    ) -> Episode:
        """Execute chunks that were planned before, whatever is seen meanwhile; all of them are in the episode.

        Args:
            engine: whose plan it is; says in what convention and how it sees.
            plan_SN7: the rows of S chunks, in units of the environment.
        """

        def planned(call: int) -> tuple[Array, Array]:
            return plan_SN7[call].astype(np.float64), lane.observe().T_base_tcp

        lane = self._lane
        return self._carried_out(engine, placement, planned, len(plan_SN7), len(plan_SN7), name, calibration_id)

    def _carried_out(
        self, engine: PolicyEngine, placement: Placement, choose: Callable[[int], tuple[Array, Array]], calls: int,
        after_stop: int, name: str, calibration_id: str,
    ) -> Episode:  # fmt: skip
        """``choose`` gives a call's rows and the pose they start from."""
        task, lane = get_task(self.settings.task), self._lane
        lane.reset(placement)
        chunks: list[PlayedChunk] = []
        stop_ns: int | None = None
        for call in range(calls):
            rows, T_seen = choose(call)
            now_ns = round(lane.time_s * 1e9)
            chunks.append(PlayedChunk(now_ns, now_ns, rows))
            if stop_ns is not None:
                after_stop -= 1
                if not after_stop:
                    break
                continue
            lane.execute_pose_targets(
                integrate_chunk(T_seen, rows, engine.spec.convention), rows[:, 6], engine.spec.control_rate_hz
            )
            if lane.protective_stop:
                stop_ns = round(lane.time_s * 1e9)
            lane.hold(SETTLE_S)
        success = not lane.protective_stop and lane.success().success
        note = f"{ARM_STOPPED}: {lane.protective_stop}" if lane.protective_stop else ""
        metadata = EpisodeMetadata(
            name, task.id, task.instruction, "policy", "success" if success else "failure", note=note,
            calibration_id=calibration_id, placement=placement.to_json(),
        )  # fmt: skip
        return as_commanded(self._measured(engine, metadata), chunks, engine.spec.control_rate_hz, stop_ns)

    def _look(self, engine: PolicyEngine, feed: StateFeed, seed: int) -> tuple[Array, Array]:
        """The next rows [keep, 7] and the pose they start from."""
        policy, spec, settings = engine.policy, engine.spec, self.settings
        seen = self._lane.observe()
        state = state_vector(seen.T_base_tcp, self._lane.world.gripper_opening, engine.sync)
        image = policy_image(seen.image_HW3, engine.sync.image_region)
        observation = feed.observe(Observation(image, state, get_task(settings.task).instruction, seen.stamp_ns), True)
        grid_K1 = shifted_grid(spec.num_steps, shift=1.0, device=engine.device)
        noise = torch.randn(1, len(grid_K1), *policy.chain_shape, generator=torch.Generator().manual_seed(seed))
        batch = ObservationBatch.of([observation])
        policy.check(batch)
        with torch.no_grad():
            inputs = policy.prepare(batch).to(engine.device)
            chain = sample_chain(policy, inputs, noise.to(engine.device), grid_K1, settings.noise_level)
            actions = spec.action_scaling.restore(policy.environment(chain[:, -1]))[0].float().cpu().numpy()
        rows = firm_grip(actions)[: settings.keep]
        feed.sent(rows)
        return rows.astype(np.float64), seen.T_base_tcp

    def _measured(self, engine: PolicyEngine, metadata: EpisodeMetadata) -> Episode:
        """All that was seen since the reset, ``SAMPLES_HZ`` times a second; its actions are not used."""
        sync = replace(engine.sync, control_rate_hz=SAMPLES_HZ)
        seen = [*self._lane.moments, self._lane.observe()]
        states = np.stack([state_vector(m.T_base_tcp, float(m.state_7[6]), sync) for m in seen])
        frames = np.stack([policy_image(m.image_HW3, sync.image_region) for m in seen])
        stamps = np.array([m.stamp_ns for m in seen], dtype=np.int64)
        always = np.ones(len(seen) - 1, bool)
        return Episode(
            metadata, engine.spec.convention, SAMPLES_HZ, states[:-1], np.zeros((len(seen) - 1, 7), np.float32),
            stamps[:-1], dict.fromkeys(STREAMS, stamps[:-1]), always, always,
            Observation(frames[-1], states[-1], metadata.instruction, int(stamps[-1])),
            _quality(stamps[:-1]).to_json(), color_THW3=frames[:-1],
        )  # fmt: skip


def _quality(stamp_ns_T: NDArray[np.int64]) -> EpisodeQuality:
    """The report of an episode in which nothing can be late or lost."""
    timing = topic_timing(stamp_ns_T, int(stamp_ns_T[0]))
    return EpisodeQuality(
        streams=dict.fromkeys(STREAMS, timing),
        topics={},
        largest_age_s=dict.fromkeys(STREAMS, 0.0),
        stale=(),
        idle_steps=0,
        out_of_order={},
        repeated={},
        unusable={},
        dropped={},
        clamped=None,
        refused=None,
        watchdog=None,
    )
