"""The replay node on the digital lab: every process is the real one, the bag is a demonstration of the fast lane."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prophrl_interfaces.msg import ExecutorStatus, ServoStatus, ServoTarget
from prophrl_nodes import qos
from prophrl_nodes.replaying.outcome import EpisodeOutcome, read_outcomes
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from robot_bridge.twin.lab import Lab
from robot_bridge.twin.lab_client import LabClient
from tests.helpers.demonstrations import Demonstration
from tests.prophrl_nodes.conftest import graph, ros_domain

__all__ = ["graph", "ros_domain"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LIVENESS_S = 120.0  # a loaded machine starts everything slowly, and a twin on it moves slowly


@pytest.fixture
def lab(loopback_host: str) -> Iterator[Lab]:
    with Lab("twin", loopback_host) as lab:
        yield lab


def start_cell(graph: Any, lab: Lab) -> None:
    """The nodes of replay.launch.yaml but for the camera, which a replay does not need, and the replay itself."""
    graph.start("prophrl_nodes.nodes.arm", host=lab.host)
    graph.start("prophrl_nodes.nodes.executor", wait_s=10.0)


def start_replay(graph: Any, lab: Lab, bags: list[Path], output: Path, mode: str) -> Any:
    words = os.pathsep.join(map(str, bags))
    return graph.start("prophrl_nodes.nodes.replay", host=lab.host, bags=words, output=output, mode=mode)


def finished(graph: Any, node: Any, output: Path) -> list[EpisodeOutcome]:
    graph.until(lambda: node.process.poll() is not None, "the replay to end", 2 * LIVENESS_S)
    assert node.process.returncode == 0, node.log[-3000:]
    return read_outcomes(output)


def replayed_to_the_end(graph: Any, lab: Lab, bag: Path, output: Path, mode: str) -> EpisodeOutcome:
    """The first replay that nothing stopped: on a starved machine the controller falls silent, and the arm stops."""
    stops = []
    for _ in range(4):
        [outcome] = finished(graph, start_replay(graph, lab, [bag], output, mode), output)
        if not outcome.stop_reason:
            return outcome
        stops.append(outcome.stop_reason)
    pytest.fail(f"four replays in a row were stopped: {stops}")


@pytest.mark.parametrize("mode", ["actions", "joints"])
def test_a_demonstration_succeeds_again_on_the_cell(graph: Any, lab: Lab, bag: Path, tmp_path: Path, mode: str) -> None:
    targets: list[ServoTarget] = graph.collect(ServoTarget, "servo/target")
    start_cell(graph, lab)
    outcome = replayed_to_the_end(graph, lab, bag, tmp_path, mode)
    assert outcome.valid and outcome.success, outcome.reason
    assert outcome.judge == "twin ground truth" and outcome.lane == "twin"
    tracking = outcome.tracking
    assert tracking is not None
    assert tracking["path_mm"]["p50"] < 5.0 and tracking["missing_s"] < 1.0 and tracking["gripper_unmatched"] == 0
    assert {target.source for target in targets} == {"executor" if mode == "actions" else "replay"}
    expected = ServoTarget.TCP_POSE if mode == "actions" else ServoTarget.JOINT
    assert {target.mode for target in targets} == {expected}


def test_after_a_stop_nothing_moves_until_the_operator_says_so(
    graph: Any, lab: Lab, demonstration: Demonstration, tmp_path: Path
) -> None:
    assert lab.cell.twin is not None
    bags = [demonstration.write(tmp_path / "bags", name) for name in ("first", "second")]
    progress: list[ExecutorStatus] = graph.collect(ExecutorStatus, "executor/status", qos.STATE)
    servo: list[ServoStatus] = graph.collect(ServoStatus, "servo/status", qos.STATE)
    joints: list[JointState] = graph.collect(JointState, "joint_states")
    start_cell(graph, lab)
    node = start_replay(graph, lab, bags, tmp_path / "out", "actions")
    graph.until(lambda: progress and progress[-1].step >= 10, "a second of the first episode", LIVENESS_S)
    LabClient(lab.host, lab.cell.twin.lab_port).call("protective_stop")
    graph.wait_said("replay", "waiting for ~/proceed: arm stopped", timeout_s=LIVENESS_S)

    count = len(joints)
    graph.until(lambda: len(joints) > count + 200, "seconds of joint states", LIVENESS_S)
    assert np.ptp(np.array([message.position for message in joints[count + 50 :]]), axis=0).max() < 2e-3
    assert servo[-1].state == ServoStatus.STOPPED and servo[-1].source == ""
    first = json.loads((tmp_path / "out" / "first.actions.replay.json").read_text())
    assert first["valid"] and not first["success"] and first["stop_reason"].startswith("arm stopped")
    assert first["tracking"]["missing_s"] > 1.0

    assert graph.call(Trigger, "replay/proceed", timeout_s=LIVENESS_S).success
    outcomes = finished(graph, node, tmp_path / "out")
    assert [(o.episode_id, o.success) for o in outcomes] == [("first", False), ("second", True)]
