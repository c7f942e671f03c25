"""Demonstrations in the fast lane: the scripted operator moves a modelled leader, the follower comes along.

The leader's wire is modelled by what it does to the numbers: 4096 counts a turn, 100 readings a second, a transport
delay until the servo generator has them. The episode has the form the learning room trains on: at the control rate,
the image, the measured state, and the action that leads to the next step.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import Any

import numpy as np

from calibration.poses import ActionConvention, difference
from robot_bridge.twin.fast_lane import TARGET_TICKS, FastLane, FastObservation
from robot_bridge.twin.operator import SceneView, ScriptedOperator
from robot_bridge.twin.scenes import TIMESTEP_S
from robot_bridge.twin.tasks import Placement

LEADER_COUNTS_PER_TURN = 4096
TRIGGER_COUNTS = 480
TRANSPORT_S = 0.05
"""From the leader's servos to the follower's servo generator: bus, two nodes, DDS."""
TAIL_S = 1.0
"""A demonstration runs at most this much longer than the task allows."""


def record_demonstration(
    task_id: str,
    placement: Placement,
    seed: int,
    *,
    lane: FastLane | None = None,
    transport_s: float = TRANSPORT_S,
) -> dict[str, Any]:
    """One demonstration from the given placement by the person and day named ``seed``.

    Args:
        task_id: one of ``tasks.TASK_IDS``.
        placement: where the objects stand.
        seed: of everything human.
        lane: reuse this lane (its task must match); None builds one and closes it.
        transport_s: leader-to-follower delay.

    Returns:
        ``image_THW3`` uint8, ``state_T7`` float32 (x y z ex ey ez measured opening), ``action_T7`` float32
        (ABSOLUTE_POSE_DIFFERENCE to the next step, commanded opening there; the last row stands still),
        ``stamp_ns_T`` int64, ``phase_T`` (what the operator was doing), ``success``, ``reason``, ``outcome``,
        ``gave_up``, ``attempts``, ``placement`` (JSON types), ``clamped``, ``refused``, ``seed``.

    Raises:
        ValueError: unknown task, a lane of another task, or a delay at which every target would be stale.
    """
    if lane is None:
        with FastLane(task_id) as own:
            return record_demonstration(task_id, placement, seed, lane=own, transport_s=transport_s)
    if lane.world.task.id != task_id:
        raise ValueError(f"this lane runs {lane.world.task.id}, the demonstration is of {task_id}; build another lane")
    stale_s = lane.servo.config.stale_s
    if not 0.0 <= transport_s < stale_s:
        raise ValueError(
            f"transport_s must lie in [0, {stale_s}): later targets are refused as stale, got {transport_s}"
        )
    lane.reset(placement)
    operator = ScriptedOperator(task_id, np.random.default_rng(seed), lane.kinematics)
    lane.engage("teleop")
    wire: deque[tuple[float, list[float], float]] = deque()
    steps: list[FastObservation] = []
    openings: list[float] = []
    phases: list[str] = []
    every = round(1.0 / (lane.control_rate_hz * TIMESTEP_S))
    while not operator.done and not lane.protective_stop and lane.time_s < lane.world.task.max_duration_s + TAIL_S:
        if lane.world.tick % every == 0:
            steps.append(lane.observe())
            openings.append(lane.opening_target)
            phases.append(operator.phase)
        command = operator.step(
            SceneView(lane.time_s, lane.world.object_poses(), lane.world.T_base_tcp, lane.world.gripper_opening)
        )
        opening = round(command.trigger_opening * TRIGGER_COUNTS) / TRIGGER_COUNTS
        wire.append((lane.time_s, [_quantised(angle) for angle in command.q_6], opening))
        while wire and lane.time_s - wire[0][0] >= transport_s - 1e-9:
            stamp_s, q, lane.opening_target = wire.popleft()
            lane.offer_joints(q, stamp_s)
        lane.run(TARGET_TICKS)
    report, servo = lane.success(), lane.servo.status()
    return {
        "image_THW3": np.stack([step.image_HW3 for step in steps]),
        "state_T7": np.stack([step.state_7 for step in steps]),
        "action_T7": _actions(steps, openings),
        "stamp_ns_T": np.array([step.stamp_ns for step in steps], dtype=np.int64),
        "phase_T": np.array(phases),
        "success": report.success,
        "reason": report.reason,
        "outcome": lane.protective_stop or operator.outcome,
        "gave_up": operator.gave_up or bool(lane.protective_stop),
        "attempts": operator.attempts,
        "placement": placement.to_json(),
        "clamped": servo.clamped,
        "refused": servo.refused,
        "seed": seed,
    }


def _quantised(angle_rad: float) -> float:
    turn = 2.0 * math.pi
    return round(angle_rad / turn * LEADER_COUNTS_PER_TURN) / LEADER_COUNTS_PER_TURN * turn


def _actions(steps: list[FastObservation], openings: list[float]) -> np.ndarray[Any, np.dtype[np.float32]]:
    actions = np.zeros((len(steps), 7), dtype=np.float32)
    for t, (now, then) in enumerate(itertools.pairwise(steps)):
        actions[t, :6] = difference(now.T_base_tcp, then.T_base_tcp, ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
        actions[t, 6] = openings[t + 1]
    actions[-1, 6] = openings[-1]
    return actions
