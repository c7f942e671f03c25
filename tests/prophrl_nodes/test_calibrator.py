"""The calibrator on the digital lab: real arm driver, rendered board, secret camera; stops, cancels, and by hand."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from prophrl_interfaces.action import CalibrateHandEye
from prophrl_interfaces.msg import ServoStatus
from prophrl_interfaces.srv import OperatorVerb
from prophrl_nodes import qos
from prophrl_nodes.calibrating.samples import load_samples
from rclpy.action import ActionClient
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from calibration.poses import inverse
from calibration.storage import load
from robot_bridge.cell_overrides import twin_overrides
from robot_bridge.twin.lab import Lab
from robot_bridge.twin.lab_client import LabClient, LabError

PROFILE = "848x480@5"
LIVENESS_S = 90.0


class Goal:
    """One goal of the calibrator, its feedback and its result."""

    def __init__(self, graph: Any, client: ActionClient, **fields: Any) -> None:
        self.graph = graph
        self.feedback: list[Any] = []
        sent = client.send_goal_async(
            CalibrateHandEye.Goal(**fields), feedback_callback=lambda message: self.feedback.append(message.feedback)
        )
        graph.until(sent.done, "the goal to be answered", LIVENESS_S)
        self.handle = sent.result()
        assert self.handle.accepted
        self._ended = self.handle.get_result_async()

    def wait_phase(self, phase: str, since: int = 0) -> None:
        self.graph.until(lambda: any(f.phase == phase for f in self.feedback[since:]), f"phase {phase}", LIVENESS_S)

    def result(self) -> Any:
        self.graph.until(self._ended.done, "the result", LIVENESS_S)
        return self._ended.result()


@pytest.fixture
def lab(loopback_host: str) -> Iterator[Lab]:
    overrides = twin_overrides(scene="calibration", camera_seed=5)
    with Lab("twin", loopback_host, camera_profile=PROFILE, overrides=overrides) as lab:
        yield lab


def error(X: np.ndarray, truth: list[list[float]]) -> tuple[float, float]:
    """Millimetres and degrees."""
    difference = inverse(np.array(truth)) @ X
    turn = float(np.degrees(Rotation.from_matrix(difference[:3, :3]).magnitude()))
    return float(1e3 * np.linalg.norm(difference[:3, 3])), turn


@pytest.mark.timeout(400)
def test_it_calibrates_survives_stops_and_cancels_and_takes_samples_by_hand(
    graph: Any, lab: Lab, tmp_path: Path
) -> None:
    folder, host = tmp_path / "calibration", lab.host
    servo: list[ServoStatus] = graph.collect(ServoStatus, "/servo/status", qos.STATE)
    pictures: list[Image] = graph.collect(Image, "/camera/calibration/image_raw")
    frames: list[TFMessage] = graph.collect(TFMessage, "/tf", qos.TRANSFORMS)
    graph.start("prophrl_nodes.nodes.arm", host=host)
    graph.start("prophrl_nodes.nodes.camera", host=host, camera_profile=f"'{PROFILE}'", publish_depth="false")
    graph.start("prophrl_nodes.nodes.calibrator", host=host, output=str(folder), frames_per_view=2)
    client = graph.action_client(CalibrateHandEye, "calibrate_hand_eye")
    graph.until(client.server_is_ready, "the action server", LIVENESS_S)

    # Four views are too few for the gates, but near the truth already.
    goal = Goal(graph, client, max_poses=4)
    answer = goal.result()
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    result = answer.result
    assert not result.accepted and result.message.startswith("refused: views"), result.message
    assert any(line.startswith("views: FAILED") for line in result.gates)
    assert result.poses == 4 and result.calibration_file == ""
    truth = LabClient(host).truth()["T_base_camera"]
    at = result.camera.position
    off = 1e3 * np.linalg.norm(np.array([at.x, at.y, at.z]) - np.array(truth)[:3, 3])
    assert off < 5.0
    sigmas = [f.sigma_mm for f in goal.feedback if f.message == "solved"]
    assert sigmas == sorted(sigmas, reverse=True) and sigmas
    assert pictures and (pictures[-1].width, pictures[-1].height) == (848, 480)
    assert any(t.child_frame_id == "calibration_board" for message in frames for t in message.transforms)

    # A protective stop on the way ends the run with its reason; the samples stay.
    goal = Goal(graph, client, resume=True)
    goal.wait_phase("moving")
    LabClient(host).call("protective_stop")
    message = goal.result().result.message
    assert "protective stop" in message and message.startswith("stopped")
    assert len(load_samples(folder)[1]) >= 4
    recovered = graph.call(OperatorVerb, "/arm/command", OperatorVerb.Request(verb="recover"), timeout_s=LIVENESS_S)
    assert recovered.success, recovered.message

    # Cancelling brakes the arm.
    goal = Goal(graph, client, resume=True)
    goal.wait_phase("moving")
    goal.handle.cancel_goal_async()
    answer = goal.result()
    assert answer.status == GoalStatus.STATUS_CANCELED
    assert "cancelled" in answer.result.message
    graph.until(lambda: servo[-1].state == ServoStatus.STOPPED, "the arm to stop", LIVENESS_S)
    kept = len(load_samples(folder)[1])

    # By hand the arm need not obey; the board is where the arm was stopped, perhaps half out of view.
    taken = graph.call(Trigger, "/calibrator/take_sample", timeout_s=LIVENESS_S)
    assert ("corners" in taken.message) if taken.success else ("no sample" in taken.message), taken.message
    removed = graph.call(Trigger, "/calibrator/remove_sample", timeout_s=LIVENESS_S)
    assert removed.success, removed.message
    assert len(load_samples(folder)[1]) == kept - (0 if taken.success else 1)
    assert not graph.call(Trigger, "/calibrator/save", timeout_s=LIVENESS_S).success


def launched(tmp_path: Path, host: str, domain: int, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Run the launch file to its end; its exit code, its output, and the truth the lab told meanwhile."""
    log = tmp_path / "launch.log"
    command = [sys.executable, "-m", "prophrl_nodes.cli.main", "launch", "calibrate", "cell:=twin"]
    command += [f"host:={host}", f"domain:={domain}", f"output:={tmp_path / 'out'}", *arguments]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ})
    truth: dict[str, Any] = {}
    deadline_s = time.monotonic() + 500.0
    try:
        while process.poll() is None:
            assert time.monotonic() < deadline_s, log.read_text()[-3000:]
            time.sleep(1.0)
            try:
                with LabClient(host, timeout_s=2.0) as client:
                    truth = client.truth()
            except LabError:
                continue  # not yet, or not any more
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30.0)
    return int(process.returncode), log.read_text(), truth


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("mode", "seed"), [("eye_to_hand", 7), ("eye_in_hand", 8)])
def test_the_launch_file_finds_a_secret_camera_by_itself(
    mode: str, seed: int, tmp_path: Path, loopback_host: str, ros_domain: int
) -> None:
    code, log, truth = launched(tmp_path, loopback_host, ros_domain, f"camera_seed:={seed}", f"mode:={mode}")
    assert code == 0, log[-3000:]
    assert "calibration accepted" in log
    found = load(tmp_path / "out" / "calibration.yaml")
    assert found.samples <= 15
    millimetres, degrees = error(found.X, truth["T_tool_camera" if mode == "eye_in_hand" else "T_base_camera"])
    assert millimetres <= 2.0
    assert degrees <= 0.3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_refused_calibration_ends_the_launch_with_an_error(
    tmp_path: Path, loopback_host: str, ros_domain: int
) -> None:
    code, log, _ = launched(tmp_path, loopback_host, ros_domain, "camera_seed:=7", "poses:=4")
    assert code == 1
    assert "calibration refused: views" in log
    assert not (tmp_path / "out" / "calibration.yaml").exists()
