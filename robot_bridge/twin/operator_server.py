"""The operator port: who moves the leader's hand, and where to.

Operations (JSON lines, one object each way):

    status                            -> phase, busy, outcome, gave_up, attempts, q [6], opening
    demonstrate {seed}                the scripted operator shows the present task once
    home                              move to the home pose, trigger released
    align                             move to the follower's measured pose and commanded gripper opening
    set_joints {q, seconds?, opening?}
    stop                              hold still where the hand is
    fault {name, value}               see ``leader_faults``

The operator lives on the world's clock: when an overloaded host slows the robot down, the person slows down too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from calibration.poses import from_ur
from robot_bridge.cell import CellConfig
from robot_bridge.twin.controller_state import PERIOD_S
from robot_bridge.twin.leader_faults import LeaderFaults
from robot_bridge.twin.leader_hand import LeaderHand
from robot_bridge.twin.operator import SceneView, ScriptedOperator
from robot_bridge.twin.shared_state import SharedStateError, WorldState, WorldStateReader
from robot_bridge.ur_kinematics import Kinematics

STEP_S = 0.01
"""World time between two steps of the operator."""
WORLD_PATIENCE_S = 3.0
"""A demonstration ends when the world has stood still for this long."""


class OperatorHost:
    """Moves one hand on request.

    Args:
        hand: the hand on the leader.
        cell: for home pose, tool and the world's directory.
        faults: switches of the servo bus.
    """

    def __init__(self, hand: LeaderHand, cell: CellConfig, faults: LeaderFaults) -> None:
        assert cell.twin is not None
        self._hand = hand
        self._faults = faults
        self._home_q_6 = cell.robot.home_rad
        self._kinematics = Kinematics(tool=from_ur(cell.robot.tcp_offset))
        self._world = WorldStateReader(cell.twin.directory)
        self._operator: ScriptedOperator | None = None
        self._revision = 0
        self._last_tick = 0
        self._advanced_s = 0.0
        self._move = "idle"
        self._result: dict[str, Any] = {"phase": "idle", "outcome": "", "gave_up": False, "attempts": 0}
        self._operations: dict[str, Callable[[dict[str, Any], float], dict[str, Any]]] = {
            "status": self._status,
            "demonstrate": self._demonstrate,
            "home": self._home,
            "align": self._align,
            "set_joints": self._set_joints,
            "stop": self._stop,
            "fault": self._fault,
        }

    def handle(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Carry out one operation of the port.

        Raises:
            ValueError, RuntimeError: refused; the message says why.
        """
        if op not in self._operations:
            raise ValueError(f"no such operation; operations are {', '.join(self._operations)}")
        return self._operations[op](arguments, time.monotonic())

    def step(self, now_s: float) -> None:
        """Let a running demonstration go on; called about every 10 ms."""
        operator = self._operator
        if operator is None:
            return
        try:
            state = self._world.read(timeout_s=0.0)
        except SharedStateError:
            state = None  # a controller that is being restarted; patience ends below
        if state is not None and state.scene_revision != self._revision:
            self._end(now_s, "the scene was laid out anew during the demonstration", gave_up=True)
            return
        if state is None or (state.tick - self._last_tick) * PERIOD_S < STEP_S:
            if now_s - self._advanced_s > WORLD_PATIENCE_S:
                self._end(now_s, "the world stands still; is the controller running?", gave_up=True)
            return
        self._last_tick, self._advanced_s = state.tick, now_s
        command = operator.step(_view(state))
        self._hand.follow(command.q_6, command.trigger_opening, now_s, STEP_S)
        if operator.done:
            self._end(now_s, operator.outcome, gave_up=operator.gave_up)

    def _demonstrate(self, arguments: dict[str, Any], now_s: float) -> dict[str, Any]:
        if self._operator is not None:
            raise ValueError("a demonstration is running; wait for its end or stop it first")
        seed = arguments.get("seed")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"needs the key 'seed' with a number 0, 1, 2, ..., got {seed!r}")
        state = self._world.read()
        q_6, _ = self._hand.pose(now_s)
        self._hand.hold(now_s)
        self._operator = ScriptedOperator(state.task, np.random.default_rng(seed), self._kinematics, q_6)
        self._revision, self._last_tick, self._advanced_s = state.scene_revision, state.tick, now_s
        self._result |= {"outcome": "", "gave_up": False, "attempts": 0}
        return {"task": state.task, "seed": seed}

    def _end(self, now_s: float, outcome: str, *, gave_up: bool) -> None:
        assert self._operator is not None
        self._result |= {"outcome": outcome, "gave_up": gave_up, "attempts": self._operator.attempts, "phase": "done"}
        self._operator = None
        self._move = "done"

    def _home(self, _arguments: dict[str, Any], now_s: float) -> dict[str, Any]:
        return self._move_to("home", self._home_q_6, 1.0, now_s)

    def _align(self, _arguments: dict[str, Any], now_s: float) -> dict[str, Any]:
        state = self._world.read()
        return self._move_to("align", [float(q) for q in state.q], state.gripper_target, now_s)

    def _set_joints(self, arguments: dict[str, Any], now_s: float) -> dict[str, Any]:
        q_6 = arguments.get("q")
        if not isinstance(q_6, list) or len(q_6) != 6 or not np.isfinite(np.asarray(q_6, dtype=float)).all():
            raise ValueError(f"needs the key 'q' with 6 joint angles in radians, got {q_6!r}")
        opening = float(arguments.get("opening", self._hand.pose(now_s)[1]))
        if not 0.0 <= opening <= 1.0:
            raise ValueError(f"'opening' is 0 (trigger pulled) to 1 (released), got {opening}")
        return self._move_to("set_joints", [float(q) for q in q_6], opening, now_s, arguments.get("seconds"))

    def _move_to(
        self, name: str, q_6: Any, opening: float, now_s: float, seconds: float | None = None
    ) -> dict[str, Any]:
        if self._operator is not None:
            self._end(now_s, f"interrupted by {name}", gave_up=True)
        duration_s = self._hand.move_to(q_6, opening, now_s, seconds)
        self._move = name
        return {"seconds": duration_s}

    def _stop(self, _arguments: dict[str, Any], now_s: float) -> dict[str, Any]:
        if self._operator is not None:
            self._end(now_s, "stopped", gave_up=True)
        self._hand.hold(now_s)
        return {}

    def _fault(self, arguments: dict[str, Any], now_s: float) -> dict[str, Any]:
        if "name" not in arguments or "value" not in arguments:
            raise ValueError("needs the keys 'name' and 'value'")
        self._faults.apply(str(arguments["name"]), arguments["value"], now_s)
        return {}

    def _status(self, _arguments: dict[str, Any], now_s: float) -> dict[str, Any]:
        q_6, opening = self._hand.pose(now_s)
        running = self._operator
        if running is not None:
            progress = {"phase": running.phase, "busy": True, "attempts": running.attempts}
        elif self._hand.moving(now_s):
            progress = {"phase": self._move, "busy": True}
        else:
            progress = {"phase": "done" if self._move == "done" else "idle", "busy": False}
        return self._result | progress | {"q": q_6, "opening": opening}


def _view(state: WorldState) -> SceneView:
    return SceneView(state.tick * PERIOD_S, state.objects, state.T_base_tcp, state.gripper_opening)
