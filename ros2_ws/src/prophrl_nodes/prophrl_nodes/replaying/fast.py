"""Replay in the fast lane: the same plan in one process, many times faster than the arm, scene restored.

The executor's own ``ChunkPlayer`` plays the actions, and the lane's servo generator, safety envelope and joint servo
are those of the wire path; what is missing is ROS and RTDE, whose delays the lane has.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.bag import BagError
from prophrl_nodes.chunk_player import Chunk, ChunkPlayer
from prophrl_nodes.replaying.outcome import EpisodeOutcome, Replayed, outcome_of, void
from prophrl_nodes.replaying.plan import ReplayError, ReplayMode, ReplayPlan, check_cell, read_plan, scene_of
from prophrl_nodes.replaying.targets import JointStream, delayed_actions
from prophrl_nodes.replaying.track import Samples, Track
from robot_bridge.cell import CellConfig
from robot_bridge.twin.fast_lane import TARGET_TICKS, FastLane
from robot_bridge.twin.scenes import TIMESTEP_S

Array = NDArray[np.float64]

SOURCE = "replay"
LANE = "fast"
APPROACH_RADPS = 0.4
ARRIVED_RAD = 0.002
APPROACH_TIMEOUT_S = 30.0
SETTLE_S = 3.0
"""After the last target the scene may come to rest this long before it is judged."""
PERIOD_S = TARGET_TICKS * TIMESTEP_S


class FastReplays:
    """Replays bags one after the other, with one lane per task.

    Args:
        cell: a twin's cell file; arm unit, servo settings, safety envelope and control rate are taken from it.
        mode: what drives the arm.
        gripper_delay_s: see ``targets``.

    Raises:
        ReplayError: the cell is a real one.
    """

    def __init__(self, cell: CellConfig, mode: ReplayMode | str, gripper_delay_s: float = 0.0) -> None:
        if cell.twin is None:
            raise ReplayError(f"cell {cell.name!r} is a real one; the fast lane is the twin's, replay with cell twin")
        self._cell, self._twin = cell, cell.twin
        self._mode, self._delay_s = ReplayMode(mode), gripper_delay_s
        self._lanes: dict[str, FastLane] = {}

    def __enter__(self) -> FastReplays:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._lanes.values():
            lane.close()

    def replay(self, path: Path) -> EpisodeOutcome:
        """Replay one bag; one that cannot be replayed gives an outcome that says why."""
        plan: ReplayPlan | None = None
        try:
            plan = read_plan(path, self._mode, rate_hz=self._cell.control_rate_hz)
            check_cell(plan, self._cell.name)
            replayed = replay_fast(plan, self._lane(scene_of(plan).task), self._delay_s)
        except (BagError, ReplayError) as error:
            return void(str(path), self._mode.value, LANE, str(error), plan)
        return outcome_of(plan, replayed, lane=LANE, gripper_delay_s=self._delay_s)

    def _lane(self, task: str) -> FastLane:
        if task not in self._lanes:
            self._lanes[task] = FastLane(
                task,
                seed=self._twin.seed,
                dh_deltas=self._twin.dh_deltas,
                control_rate_hz=self._cell.control_rate_hz,
                render=False,
                safety=self._cell.safety,
                robot=self._cell.robot,
            )
        return self._lanes[task]


def replay_fast(plan: ReplayPlan, lane: FastLane, gripper_delay_s: float = 0.0) -> Replayed:
    """Restore the scene, go to the first pose, replay, wait for rest and judge.

    Raises:
        ReplayError: the plan's scene is not the lane's, or the first pose was not reached.
    """
    started_s = time.monotonic()
    placement = scene_of(plan)
    if placement.task != lane.world.task.id:
        raise ReplayError(f"{plan.metadata.episode_id} is of {placement.task}, this lane runs {lane.world.task.id}")
    lane.reset(placement)
    lane.opening_target = float(plan.target_opening_N[0])
    _approach(lane, plan.q_first_6)
    log = _Log(lane)
    begun_s = lane.time_s
    if plan.mode is ReplayMode.ACTIONS:
        _play_actions(lane, plan, gripper_delay_s, log)
    else:
        _play_joints(lane, plan, gripper_delay_s, log)
    report = lane.success()
    return Replayed(
        log.track(begun_s), report.success, report.reason, "twin ground truth", lane.protective_stop,
        lane.time_s - begun_s, time.monotonic() - started_s,
    )  # fmt: skip


class _Log:
    """Samples the lane at each target."""

    def __init__(self, lane: FastLane) -> None:
        self._lane = lane
        self._joints, self._poses, self._openings = Samples("joints"), Samples("poses"), Samples("openings")

    def run(self) -> None:
        """Advance the lane by one target period and look."""
        lane = self._lane
        lane.run(TARGET_TICKS)
        now_ns = round(lane.time_s * 1e9)
        self._joints.add(now_ns, lane.world.q)
        self._poses.add(now_ns, lane.world.T_base_tcp)
        self._openings.add(now_ns, lane.world.gripper_opening)

    def track(self, begun_s: float) -> Track:
        return Track.of(self._joints, self._poses, self._openings, start_ns=round(begun_s * 1e9))


def _approach(lane: FastLane, q_goal_6: Array) -> None:
    """Slow joint targets from where the arm is to the first pose, until it stands there."""
    lane.engage("approach")
    q_start = lane.world.q.copy()
    seconds = float(np.abs(q_goal_6 - q_start).max()) / APPROACH_RADPS
    begun_s = lane.time_s
    while lane.time_s - begun_s < APPROACH_TIMEOUT_S:
        share = min(1.0, (lane.time_s - begun_s) / max(seconds, PERIOD_S))
        lane.offer_joints(q_start + share * (q_goal_6 - q_start), lane.time_s)
        lane.run(TARGET_TICKS)
        at_rest = float(np.abs(lane.world.qd).max()) < ARRIVED_RAD
        if share == 1.0 and at_rest and float(np.abs(lane.world.q - q_goal_6).max()) < ARRIVED_RAD:
            return
        if lane.protective_stop:
            break
    raise ReplayError(
        f"the first pose was not reached: {lane.protective_stop or lane.servo.status().refusal or 'time is up'}; "
        "is it inside the cell's workspace box?"
    )


def _play_actions(lane: FastLane, plan: ReplayPlan, gripper_delay_s: float, log: _Log) -> None:
    actions = delayed_actions(plan, gripper_delay_s)
    player = ChunkPlayer(wait_s=SETTLE_S)
    lane.engage("executor")
    player.play(
        Chunk.checked(1, lane.world.T_base_tcp, actions, int(plan.convention), plan.rate_hz, len(actions)), lane.time_s
    )
    while not lane.protective_stop:
        setpoint = player.step(lane.time_s)
        if setpoint is None:
            return
        lane.opening_target = setpoint.opening
        lane.offer_pose(setpoint.T_base_tcp)
        log.run()


def _play_joints(lane: FastLane, plan: ReplayPlan, gripper_delay_s: float, log: _Log) -> None:
    stream = JointStream.of(plan, gripper_delay_s)
    lane.engage(SOURCE)
    begun_s = lane.time_s
    while lane.time_s - begun_s < stream.duration_s + SETTLE_S and not lane.protective_stop:
        q, lane.opening_target = stream.at(lane.time_s - begun_s)
        lane.offer_joints(q, lane.time_s)
        log.run()
