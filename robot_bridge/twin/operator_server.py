"""The operator port: who moves the leader's hand, and where to.

Operations (JSON lines): ``status``, ``home``, ``align``, ``set_joints``, ``demonstrate``, ``stop``, ``fault``.
"""

from __future__ import annotations

import time
from typing import Any

from robot_bridge.cell import CellConfig
from robot_bridge.twin.leader_faults import LeaderFaults
from robot_bridge.twin.leader_hand import LeaderHand


class OperatorHost:
    def __init__(self, hand: LeaderHand, cell: CellConfig, faults: LeaderFaults) -> None:
        self._hand = hand
        self._faults = faults
        self._home_q_6 = cell.robot.home_rad

    def handle(self, op: str, request: dict[str, Any]) -> dict[str, Any]:
        now_s = time.monotonic()
        if op == "home":
            return {"seconds": self._hand.move_to(self._home_q_6, 1.0, now_s)}
        if op == "set_joints":
            opening = float(request.get("opening", self._hand.pose(now_s)[1]))
            return {"seconds": self._hand.move_to(request["q"], opening, now_s, request.get("seconds"))}
        if op == "stop":
            self._hand.hold(now_s)
            return {}
        if op == "fault":
            self._faults.apply(str(request["name"]), request["value"], now_s)
            return {}
        if op == "status":
            q, opening = self._hand.pose(now_s)
            return {"busy": self._hand.moving(now_s), "q": q, "opening": opening}
        raise ValueError("unknown")

    def step(self, now_s: float) -> None: ...
