"""The graph on the digital lab: what happens to the arm when a process is killed with -9, and how it goes on after.

Every process here is the real one: lab, drivers, nodes, Fast DDS. Only the leader's hand is scripted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from prophrl_interfaces.msg import GripperState, ServoStatus, ServoTarget
from prophrl_interfaces.srv import OperatorVerb
from prophrl_nodes import qos
from prophrl_nodes.messages import to_nanoseconds
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger

from prophrl_models.data.streams import color_sample
from robot_bridge.twin.lab import Lab
from robot_bridge.twin.lab_client import LabClient, OperatorClient
from robot_bridge.twin.shared_state import Frame, FrameRingReader

SWING_RAD = 0.5
LIVENESS_S = 60.0  # a loaded machine starts everything slowly
AT_REST_RADPS = 0.005


class Cell:
    """A twin cell with its arm, leader and teleop nodes, engaged on demand."""

    def __init__(self, graph: Any, lab: Lab, namespace: str = "") -> None:
        self.graph, self.lab, self.host, self.namespace = graph, lab, lab.host, namespace
        self.operator = OperatorClient(self.host)
        self.joints: list[JointState] = graph.collect(JointState, f"{namespace}/joint_states")
        self.servo: list[ServoStatus] = graph.collect(ServoStatus, f"{namespace}/servo/status", qos.STATE)
        self.targets: list[ServoTarget] = graph.collect(ServoTarget, f"{namespace}/servo/target")
        self.grippers: list[GripperState] = graph.collect(GripperState, f"{namespace}/gripper/state")
        self.nodes = {name: self.start(name) for name in ("arm", "gello", "teleop")}

    def start(self, name: str) -> Any:
        settings = ["-r", f"__ns:={self.namespace}"] if self.namespace else []
        if self.namespace and name == "arm":
            settings += ["-p", "tf_prefix:=left_"]
        return self.graph.start(f"prophrl_nodes.nodes.{name}", *settings, host=self.host)

    def engage(self) -> None:
        """As an operator does: when the gate is open, and again while it is refused."""
        self.graph.until(self._engaged, "teleop to engage", LIVENESS_S)
        self.graph.until(lambda: self.servo[-1].state == ServoStatus.FOLLOWING, "the arm to follow", LIVENESS_S)

    def _engaged(self) -> bool:
        return bool(self.graph.call(Trigger, f"{self.namespace}/teleop/engage", timeout_s=LIVENESS_S).success)

    def swing(self) -> None:
        """The hand moves the leader's base joint; returns while the arm moves."""
        q_6 = list(self.operator.status()["q"])
        q_6[0] += SWING_RAD if q_6[0] < 0.1 else -SWING_RAD
        self.operator.call("set_joints", q=q_6, seconds=2.0)
        self.graph.until(lambda: speed(self.joints[-1]) > 0.1, "the arm to move", LIVENESS_S)

    def wait_held(self) -> None:
        """Wait until the arm stands, and check that it goes on standing at one place."""
        graph = self.graph
        graph.until(lambda: self.joints and speed(self.joints[-1]) < AT_REST_RADPS, "the arm to hold", LIVENESS_S)
        count = len(self.joints)
        graph.until(lambda: len(self.joints) > count + 60, "half a second of joint states", LIVENESS_S)
        held = np.array([message.position for message in self.joints[count:]])
        assert np.ptp(held, axis=0).max() < 2e-3


def stamp_of(message: Any) -> int:
    return to_nanoseconds(message.header.stamp)


def speed(message: JointState) -> float:
    return max(map(abs, message.velocity))


@pytest.fixture
def lab(loopback_host: str) -> Iterator[Lab]:
    with Lab("twin", loopback_host, restart=True) as lab:
        yield lab


@pytest.fixture
def cell(graph: Any, lab: Lab) -> Cell:
    return Cell(graph, lab)


def test_the_arm_holds_when_teleop_is_killed_and_follows_again_only_after_a_new_engage(graph: Any, cell: Cell) -> None:
    cell.engage()
    cell.swing()
    cell.nodes["teleop"].kill()
    said = graph.wait_said("arm", "holding: no valid target from teleop", timeout_s=LIVENESS_S)
    assert said.level == DiagnosticStatus.WARN
    cell.wait_held()
    last_target = max(to_nanoseconds(target.header.stamp) for target in cell.targets)
    holding = next(
        s for s in cell.servo if s.state == ServoStatus.HOLDING and to_nanoseconds(s.header.stamp) > last_target
    )
    assert (holding.source, holding.reason) == ("teleop", "no valid target for 60 ms")

    since = len(graph.statuses)
    cell.start("teleop")
    graph.wait_said("teleop", "cannot engage: leader and follower differ", since=since, timeout_s=LIVENESS_S)
    held = np.array(cell.joints[-1].position)
    cell.operator.call("align")  # the operator brings the leader to the follower
    count = len(cell.targets)
    graph.wait_said("teleop", "ready to engage", since=since, timeout_s=LIVENESS_S)
    assert len(cell.targets) == count
    assert np.abs(np.array(cell.joints[-1].position) - held).max() < 2e-3
    cell.engage()
    cell.operator.call("set_joints", q=held.tolist(), opening=0.3, seconds=0.5)
    graph.until(lambda: cell.grippers[-1].opening < 0.35, "the gripper to follow the trigger", LIVENESS_S)
    assert cell.grippers[-1].target_opening == pytest.approx(0.3, abs=0.02)
    cell.swing()


@pytest.mark.slow
def test_a_killed_leader_node_stops_the_arm_and_everybody_says_so(graph: Any, cell: Cell) -> None:
    cell.engage()
    cell.swing()
    cell.nodes["gello"].kill()
    assert graph.wait_said("teleop", "leader silent for").level == DiagnosticStatus.ERROR
    cell.wait_held()
    graph.until(lambda: cell.servo[-1].source == "", "teleop to let go of the arm")
    since = len(graph.statuses)
    cell.start("gello")
    graph.wait_said("gello", "reading the leader", since=since, timeout_s=LIVENESS_S)
    cell.operator.call("align")
    cell.engage()
    cell.swing()


@pytest.mark.slow
def test_a_cell_works_within_a_namespace_and_with_a_prefix_on_its_frames(graph: Any, lab: Lab) -> None:
    cell = Cell(graph, lab, "/left")
    cell.engage()
    cell.swing()
    assert cell.joints[-1].name[0] == "left_shoulder_pan_joint"
    assert graph.wait_said("left/arm", "obeying teleop", timeout_s=LIVENESS_S).level == DiagnosticStatus.OK


@pytest.mark.slow
def test_a_killed_arm_node_leaves_the_arm_held_by_its_controller(graph: Any, cell: Cell) -> None:
    cell.engage()
    cell.swing()
    cell.nodes["arm"].kill()
    assert graph.wait_said("teleop", "arm node silent for").level == DiagnosticStatus.WARN
    lab = LabClient(cell.host)
    graph.until(lambda: lab.status()["program"] == "", "the controller to end the program", LIVENESS_S)
    held = np.array(lab.status()["q"])
    time.sleep(0.3)
    assert np.abs(np.array(lab.status()["q"]) - held).max() < 2e-3

    since, count = len(graph.statuses), len(cell.joints)
    cell.start("arm")
    graph.wait_said("arm", "ready to engage", since=since, timeout_s=LIVENESS_S)
    graph.until(lambda: len(cell.joints) > count, "joint states of the new arm node", LIVENESS_S)
    cell.wait_held()
    cell.operator.call("align")
    cell.engage()
    cell.swing()


@pytest.mark.slow
def test_stop_and_protective_stop_need_recovery_and_a_new_engage(graph: Any, cell: Cell) -> None:
    cell.engage()
    cell.swing()
    assert graph.call(Trigger, "arm/stop").success
    cell.wait_held()
    graph.wait_said("arm", "stopped: stopped by the operator")
    refused = graph.call(Trigger, "teleop/engage")
    assert not refused.success
    assert "recover" in refused.message or "differ" in refused.message
    assert graph.call(Trigger, "arm/recover", timeout_s=LIVENESS_S).success

    assert graph.call(Trigger, "arm/home", timeout_s=LIVENESS_S).success
    cell.operator.call("home")
    cell.engage()
    LabClient(cell.host).call("protective_stop")
    graph.wait_said("arm", "protective stop", timeout_s=LIVENESS_S)
    graph.wait_said("teleop", "disengaged: arm is stopped", timeout_s=LIVENESS_S)
    assert graph.call(OperatorVerb, "arm/command", OperatorVerb.Request(verb="recover"), timeout_s=LIVENESS_S).success
    graph.until(lambda: cell.servo[-1].state == ServoStatus.IDLE, "the arm to be idle after recovery")
    cell.engage()


def test_what_the_camera_sees_is_published_pixel_by_pixel(graph: Any, lab: Lab) -> None:
    raw: list[bytes] = []
    graph.node.create_subscription(Image, "camera/color/image_raw", raw.append, qos.RECORD, raw=True)
    depths = graph.collect(Image, "camera/aligned_depth_to_color/image_raw")
    infos = graph.collect(CameraInfo, "camera/color/camera_info")
    graph.start("prophrl_nodes.nodes.camera", host=lab.host)
    with contextlib.closing(FrameRingReader(lab.directory)) as ring:
        seen: list[Frame] = []
        last = 0

        def both() -> tuple[Frame, Any] | None:
            nonlocal last
            frame = ring.wait(last, 0.05)
            if frame is not None:
                last = frame.frame_number
                seen.append(frame)
            published = {color_sample(cdr)[0]: cdr for cdr in raw}
            # Stamps pass through librealsense as milliseconds in a double: equal to within a microsecond.
            return next(((f, c) for f in seen for s, c in published.items() if abs(s - f.stamp_ns) < 1000), None)

        frame, cdr = graph.until(both, "a frame seen in the ring and on the topic", LIVENESS_S)
    stamp_ns, rgb = color_sample(cdr)
    np.testing.assert_array_equal(rgb, frame.rgb)
    assert np.ptp(rgb) > 50  # a picture, not an empty buffer
    depth = graph.until(lambda: next((d for d in depths if stamp_of(d) == stamp_ns), None), "its depth", LIVENESS_S)
    np.testing.assert_array_equal(np.frombuffer(depth.data, np.uint16).reshape(240, 424), frame.z16)
    info = next(i for i in infos if stamp_of(i) == stamp_ns)
    assert (info.k[0], info.width, info.height) == (pytest.approx(212.0), 424, 240)


@pytest.mark.slow
def test_the_camera_comes_back_after_a_kill_of_its_node_and_of_the_camera_itself(graph: Any, lab: Lab) -> None:
    images = graph.collect(Image, "camera/color/image_raw", qos.IMAGE_LATEST)
    node = graph.start("prophrl_nodes.nodes.camera", host=lab.host, reconnect_timeout=1.0)
    graph.until(lambda: len(images) > 5, "images", LIVENESS_S)
    node.kill()
    count = len(images)
    graph.start("prophrl_nodes.nodes.camera", host=lab.host, reconnect_timeout=1.0)
    graph.until(lambda: len(images) > count + 5, "images after the node was started again", LIVENESS_S)

    since = len(graph.statuses)
    os.kill(lab.pid("camera"), signal.SIGKILL)
    graph.wait_said("camera", "no camera frame", since=since, timeout_s=LIVENESS_S)
    lab.check()
    count = len(images)
    graph.until(lambda: len(images) > count + 5, "images after the camera was started again", LIVENESS_S)


def test_the_verbs_of_the_arm_are_refused_with_what_to_do(graph: Any) -> None:
    process = graph.start("prophrl_nodes.nodes.arm", host="127.0.0.15", power_on="false")

    def command(verb: str, argument: str = "") -> str:
        answer = graph.call(OperatorVerb, "arm/command", OperatorVerb.Request(verb=verb, argument=argument))
        assert not answer.success
        return str(answer.message)

    assert command("dance") == (
        "unknown verb 'dance', the arm knows power_on, home, move_joints, engage, disengage, stop, recover, gripper"
    )
    assert "call arm/command with the verb power_on" in command("engage", "teleop")
    assert "between 0 (closed) and 1 (open), got 'wide'" in command("gripper", "wide")
    assert "no UR controller answers at 127.0.0.15:30004" in command("power_on")
    assert graph.wait_said("arm", "no UR controller answers").level == DiagnosticStatus.ERROR
    assert process.stop() == 0
