"""The cell's verbs as blocking calls: home, engage, record. Sessions and trials are written with these."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from prophrl_interfaces.action import RecordEpisode
from prophrl_interfaces.msg import GripperState, ServoStatus
from prophrl_interfaces.srv import FinishEpisode, OperatorVerb
from rclpy.action import ActionClient
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from prophrl_nodes import qos
from prophrl_nodes.calls import CallError, call, demand, demand_within, goal_result, send_goal

HOME_TIMEOUT_S = 40.0
READY_TIMEOUT_S = 90.0
CHOOSE_TIMEOUT_S = 5.0
OPEN_TIMEOUT_S = 15.0
OPEN_ENOUGH = 0.9
"""An episode begins with an open gripper: the first images and states must not depend on the one before."""


@dataclass(frozen=True)
class RecordedEpisode:
    """What the recorder says of a finished episode."""

    episode_id: str
    bag_path: str
    duration_s: float
    messages: int


class CellCalls:
    """Service and action clients of one cell, for use from a thread that is not the executor's."""

    def __init__(self, node: Node) -> None:
        self._arm = node.create_client(OperatorVerb, "arm/command")
        self._teleop = {verb: node.create_client(Trigger, f"teleop/{verb}") for verb in ("engage", "disengage")}
        self._executor = {verb: node.create_client(Trigger, f"executor/{verb}") for verb in ("engage", "disengage")}
        self._policy = node.create_client(OperatorVerb, "policy/command")
        self._record = ActionClient(node, RecordEpisode, "record_episode")
        self._finish = node.create_client(FinishEpisode, "recorder/finish")
        self._servo: ServoStatus | None = None
        self._opening = 0.0
        self._lock = threading.Lock()
        node.create_subscription(ServoStatus, "servo/status", self._on_servo, 10)
        node.create_subscription(GripperState, "gripper/state", self._on_gripper, 10)
        self._pictures = threading.Event()
        node.create_subscription(CameraInfo, "camera/color/camera_info", self._on_picture, qos.IMAGE_LATEST)

    def _on_servo(self, message: ServoStatus) -> None:
        with self._lock:
            self._servo = message

    def _on_picture(self, _: CameraInfo) -> None:
        self._pictures.set()

    def _on_gripper(self, message: GripperState) -> None:
        self._opening = message.opening

    @property
    def servo(self) -> ServoStatus | None:
        """Newest servo status, None before the first."""
        with self._lock:
            return self._servo

    def stopped_reason(self) -> str:
        """Why the arm is stopped, empty when it is not."""
        servo = self.servo
        return str(servo.reason or "stopped") if servo is not None and servo.state == ServoStatus.STOPPED else ""

    def wait_until_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the arm obeys, pictures come and the recorder listens: nodes of one launch come up in any order.

        Raises:
            CallError: not ready in time; the message has the arm's last refusal.
        """
        demand_within(self._arm, lambda: OperatorVerb.Request(verb="disengage"), timeout_s, pause_s=0.5)
        if not self._pictures.wait(timeout_s):
            raise CallError(f"no pictures within {timeout_s:.0f} s; see what the camera node says on /diagnostics")
        if not self._finish.wait_for_service(timeout_sec=timeout_s):
            raise CallError(f"no recorder offered {self._finish.srv_name} within {timeout_s:.0f} s; start its node")

    def arm(self, verb: str, argument: str = "", timeout_s: float = 10.0) -> str:
        """Say an operator verb to the arm node; returns its message.

        Raises:
            CallError: no arm node, or it refused.
        """
        request = OperatorVerb.Request(verb=verb, argument=argument)
        return str(demand(self._arm, request, timeout_s).message)

    def home(self) -> None:
        """Let go of the arm, open the gripper and move to the home pose; recovers from a protective stop first.

        Raises:
            CallError: a node refused, or the gripper did not open.
        """
        self.arm("disengage")
        if self.stopped_reason():
            self.arm("recover", timeout_s=30.0)
        self.arm("gripper", "1.0")
        self.arm("home", timeout_s=HOME_TIMEOUT_S)
        deadline = time.monotonic() + OPEN_TIMEOUT_S
        while self._opening < OPEN_ENOUGH:
            if time.monotonic() > deadline:
                raise CallError(f"the gripper opened to {self._opening:.2f} only; is something stuck in it?")
            time.sleep(0.05)

    def engage_teleop(self, timeout_s: float = 10.0) -> None:
        """Engage the leader, waiting for the gate: leader and follower must agree."""
        demand_within(self._teleop["engage"], Trigger.Request, timeout_s)

    def disengage_teleop(self) -> None:
        demand(self._teleop["disengage"], Trigger.Request())

    def engage_executor(self) -> None:
        demand_within(self._executor["engage"], Trigger.Request, 5.0)

    def disengage_executor(self) -> None:
        demand(self._executor["disengage"], Trigger.Request())

    def choose_policy(self, letter: str) -> None:
        """Have the policy node take a plan's policy, by its letter; waits while policies are loaded.

        Raises:
            CallError: no policy node, or it has none of that letter.
        """
        if not self._policy.wait_for_service(timeout_sec=READY_TIMEOUT_S):
            raise CallError(f"no policy node within {READY_TIMEOUT_S:.0f} s; see what it says on /diagnostics")
        demand_within(self._policy, lambda: OperatorVerb.Request(verb="choose", argument=letter), CHOOSE_TIMEOUT_S)

    def start_policy(self, instruction: str) -> None:
        demand(self._policy, OperatorVerb.Request(verb="start", argument=instruction), 30.0)

    def stop_policy(self) -> None:
        demand(self._policy, OperatorVerb.Request(verb="stop"))

    def start_recording(self, goal: RecordEpisode.Goal) -> Any:
        """Start an episode; returns the handle ``finish_recording`` needs."""
        return send_goal(self._record, goal)

    def finish_recording(self, handle: Any, *, accept: bool, outcome: str, note: str = "") -> RecordedEpisode:
        """End the episode, keep it or move it to ``discarded``, and wait until it is safely on disk."""
        demand(self._finish, FinishEpisode.Request(accept=accept, outcome=outcome, note=note), 30.0)
        result = goal_result(handle, 30.0, "record_episode")
        return RecordedEpisode(result.episode_id, result.bag_path, result.duration_s, result.messages)

    def let_go(self) -> list[str]:
        """Best effort after an error: stop policy, leader and recording. Returns what could not be reached."""
        problems = []
        attempts = [
            ("policy", self._policy, OperatorVerb.Request(verb="stop")),
            ("executor", self._executor["disengage"], Trigger.Request()),
            ("teleop", self._teleop["disengage"], Trigger.Request()),
            ("arm", self._arm, OperatorVerb.Request(verb="disengage")),
            ("recorder", self._finish, FinishEpisode.Request(accept=False, outcome="unknown", note="aborted")),
        ]
        for name, client, request in attempts:
            if not client.service_is_ready():
                continue
            try:
                call(client, request, 5.0)
            except CallError as error:
                problems.append(f"{name}: {error}")
        return problems
