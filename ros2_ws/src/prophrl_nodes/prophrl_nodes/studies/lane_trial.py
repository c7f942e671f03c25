"""One trial of a policy in the fast lane, through the same turn-taking, schedule and player as the nodes.

Inference takes as long as it is told to take, in the time of the simulated world: targets go on at 100 Hz meanwhile,
along the chunk in execution or standing at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from prophrl_models.data.episode import Observation
from prophrl_models.data.image import policy_image
from prophrl_models.data.synchronise import state_vector
from prophrl_nodes.chunk_player import Chunk, ChunkError, ChunkPlayer
from prophrl_nodes.chunk_schedule import ChunkSchedule, Continuation, LatencyBudget
from prophrl_nodes.policy_turn import EXECUTOR, FOLLOWING, PolicyTurn
from prophrl_nodes.state_feed import StateFeed
from robot_bridge.twin.fast_lane import LOG_TICKS, TARGET_TICKS, FastLane
from robot_bridge.twin.scenes import TIMESTEP_S
from robot_bridge.twin.tasks import Placement, get_task

if TYPE_CHECKING:
    from prophrl_nodes.policy_runner import PolicyRunner

Array = NDArray[np.float64]

CHUNKING = ("synchronous", "real_time", "unguided")
"""How chunks follow one another: after a pause; continued under guidance; or overlapping, but each sampled freely."""
LANE_LAG_S = 0.065
"""How far the arm runs behind its target in the fast lane, at any speed."""
STEADY_S = 0.6
"""Success must hold this long, as in trials through ROS."""
BEFORE_SEAM_S, AFTER_SEAM_S = 0.1, 0.4
"""The arm answers a target after about 0.1 s and the fade takes 0.2 s: a seam shows in the motion between these."""
_LOG_S = LOG_TICKS * TIMESTEP_S


@dataclass(frozen=True)
class LaneSettings:
    """How a policy is run.

    Attributes:
        chunking: one of ``CHUNKING``.
        latency_s: simulated time from observation to answer.
        execute_length: rows of a chunk before the next look.
        max_duration_s: time limit; the task's when 0.
        settle_s, tracking_lag_s: parameters of the policy node.
    """

    chunking: str
    latency_s: float
    execute_length: int
    max_duration_s: float = 0.0
    settle_s: float = 0.15
    tracking_lag_s: float = LANE_LAG_S

    def __post_init__(self) -> None:
        if self.chunking not in CHUNKING:
            raise ValueError(f"unknown chunking {self.chunking!r}, choose {', '.join(CHUNKING)}")
        if not (math.isfinite(self.latency_s) and 0.0 <= self.latency_s <= 60.0):
            raise ValueError(f"latency must lie in 0..60 s, got {self.latency_s}")


@dataclass(frozen=True)
class SeamRecord:
    """What one seam was like: difference of targets, and jerk of the TCP (root mean square) around it."""

    jump_m: float
    jump_rad: float
    jerk_mps3: float


@dataclass(frozen=True)
class LaneTrial:
    """Outcome of one trial.

    Attributes:
        success, reason: the judge's verdict, or why the arm stopped.
        duration_s: simulated time.
        chunks, refused: chunks executed, and those the player did not take.
        standing_s: time the target stood still at the end of a chunk.
        seams: all but the first chunk's beginning.
        jerk_mps3: jerk of the TCP over the whole trial, root mean square.
    """

    success: bool
    reason: str
    duration_s: float
    chunks: int
    refused: int
    standing_s: float
    seams: tuple[SeamRecord, ...]
    jerk_mps3: float


class _Cell:
    """Player, schedule and turn of one trial, stepped at 100 Hz."""

    def __init__(self, lane: FastLane, runner: PolicyRunner, instruction: str, settings: LaneSettings) -> None:
        spec = runner.spec
        self.lane, self.runner, self.instruction, self.settings = lane, runner, instruction, settings
        self.budget = LatencyBudget()
        self.schedule = None
        if settings.chunking != "synchronous":
            self.schedule = ChunkSchedule(
                spec.chunk, spec.control_rate_hz, settings.execute_length, settings.tracking_lag_s, self.budget
            )
        self.turn = PolicyTurn(settings.settle_s, schedule=self.schedule)
        self.feed = StateFeed(spec, real_time=self.schedule is not None)
        self.player = ChunkPlayer(wait_s=math.inf)
        self.pending: tuple[float, Chunk] | None = None
        self.sequence = self.refused = self.chunks = 0
        self.standing_s = 0.0
        self.target: Array | None = None
        self.seams: list[tuple[float, float, float, float]] = []  # began_s, took_over_s, jump_m, jump_rad
        self._standing_since_s: float | None = None

    def step(self) -> None:
        """10 ms: take an answer that is due, send a target, look when it is our turn, and let the world go on."""
        now_s = self.lane.time_s
        if self.pending is not None and now_s >= self.pending[0] - 1e-9:
            self._take(self.pending[1], now_s)
            self.pending = None
        self._send(now_s)
        if self.pending is None:
            self._look(now_s)
        self.lane.run(TARGET_TICKS)

    def _send(self, now_s: float) -> None:
        setpoint = self.player.step(now_s)
        if setpoint is None:
            return
        self.target = setpoint.T_base_tcp
        self.lane.opening_target = setpoint.opening
        self.lane.engage(EXECUTOR)
        self.lane.offer_pose(setpoint.T_base_tcp)
        if self.player.state.name == "WAITING":
            self.standing_s += TARGET_TICKS * TIMESTEP_S
            self._standing_since_s = now_s if self._standing_since_s is None else self._standing_since_s

    def _look(self, now_s: float) -> None:
        player, now_ns = self.player, round(now_s * 1e9)
        self.turn.on_executor(int(player.state), player.sequence, "", now_ns, player.progress)
        turn = self.turn.ask(now_ns, EXECUTOR, FOLLOWING)
        if not turn.mine or now_ns < turn.not_before_ns:
            return
        seen = self.lane.observe()
        state = state_vector(seen.T_base_tcp, self.lane.world.gripper_opening, self.runner.sync)
        image = policy_image(seen.image_HW3, self.runner.sync.image_region)
        observation = Observation(image, state, self.instruction, seen.stamp_ns)
        continuation = self.turn.continuation(now_ns, seen.T_base_tcp) if turn.continues else None
        guided = continuation is not None and self.settings.chunking == "real_time"
        observation = self.feed.observe(observation, self.turn.taken())
        answer = self.runner.infer(observation, committed=continuation.committed if guided and continuation else None)
        self.pending = (now_s + self.settings.latency_s, self._chunk(answer.actions_CHD, seen.T_base_tcp, continuation))

    def _chunk(self, actions_CHD: NDArray[np.float32], T_reference: Array, found: Continuation | None) -> Chunk:
        self.sequence += 1
        spec, real_time = self.runner.spec, self.schedule is not None
        return Chunk.checked(
            self.sequence, T_reference, actions_CHD, int(spec.convention), spec.control_rate_hz,
            len(actions_CHD) if real_time else self.settings.execute_length,
            found.follows if found else 0, found.start_step if found else 0.0, real_time,
        )  # fmt: skip

    def _take(self, chunk: Chunk, now_s: float) -> None:
        self.budget.add(self.settings.latency_s)
        self.turn.on_sent(chunk.sequence, round(now_s * 1e9))
        self.feed.sent(chunk.actions_CHD[: chunk.execute_length].astype(np.float32))
        if self.schedule is not None:
            self.schedule.sent(chunk)
        began_s = now_s if self._standing_since_s is None else self._standing_since_s
        try:
            self.player.play(chunk, now_s)
        except ChunkError:
            self.refused += 1
            return
        self.chunks += 1
        self._standing_since_s = None
        if self.target is None:
            return
        seam, T = self.player.seam, chunk.T_base_reference
        turn_rad = Rotation.from_matrix(self.target[:3, :3].T @ T[:3, :3]).magnitude()
        jump = (seam.jump_m, seam.jump_rad) if seam else (np.linalg.norm(self.target[:3, 3] - T[:3, 3]), turn_rad)
        self.seams.append((began_s, now_s, float(jump[0]), float(jump[1])))


def run_lane_trial(lane: FastLane, runner: PolicyRunner, placement: Placement, settings: LaneSettings) -> LaneTrial:
    """Reset the lane to a placement and let the policy try.

    Raises:
        ValueError: the policy was not trained on this task's instruction, or on this lane's control rate.
    """
    task = get_task(placement.task)
    if not 1 <= settings.execute_length <= runner.spec.chunk:
        raise ValueError(f"execute_length must lie in 1..{runner.spec.chunk}, got {settings.execute_length}")
    runner.restart()
    lane.reset(placement)
    cell = _Cell(lane, runner, task.instruction, settings)
    steady_since_s: float | None = None
    limit_s = settings.max_duration_s or task.max_duration_s
    reason = f"time limit of {limit_s:.0f} s"
    while lane.time_s < limit_s:
        cell.step()
        if lane.protective_stop:
            reason = lane.protective_stop
            break
        if lane.world.tick % 50:
            continue
        if not lane.success().success:
            steady_since_s = None
        elif steady_since_s is None:
            steady_since_s = lane.time_s
        elif lane.time_s - steady_since_s >= STEADY_S:
            break
    verdict = lane.success()
    jerk = tcp_jerk(lane.trajectory[:, :3, 3])
    return LaneTrial(
        verdict.success,
        "" if verdict.success else f"{reason}: {verdict.reason}",
        lane.time_s,
        cell.chunks,
        cell.refused,
        cell.standing_s,
        tuple(_records(cell.seams, jerk)),
        _rms(jerk),
    )


def tcp_jerk(position_N3: Array) -> Array:
    """Size of the third derivative [N] of logged positions (m/s^3), NaN where three samples on one side are missing."""
    jerk = np.full(len(position_N3), np.nan)
    if len(position_N3) > 3:
        jerk[2:-1] = np.linalg.norm(np.diff(position_N3, 3, axis=0), axis=1) / _LOG_S**3
    return jerk


def _records(seams: list[tuple[float, float, float, float]], jerk: Array) -> Iterator[SeamRecord]:
    for began_s, took_over_s, jump_m, jump_rad in seams:
        first, last = round((began_s - BEFORE_SEAM_S) / _LOG_S), round((took_over_s + AFTER_SEAM_S) / _LOG_S)
        yield SeamRecord(jump_m, jump_rad, _rms(jerk[max(0, first) : last]))


def _rms(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(known**2))) if len(known) else 0.0
