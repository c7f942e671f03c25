"""The drift node over a real cell on the twin: a camera that is bumped between two episodes is noticed, no other is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from prophrl_interfaces.action import RecordEpisode
from prophrl_interfaces.msg import RecorderStatus
from prophrl_interfaces.srv import FinishEpisode, OperatorVerb
from prophrl_nodes import qos

from robot_bridge.twin.lab import Lab
from robot_bridge.twin.lab_client import LabClient

LIVENESS_S = 90.0
TOPICS = "[camera/color/image_raw, joint_states, gripper/state, drift/verdict]"


class WatchedCell:
    """Arm, camera, recorder and drift nodes on a lab."""

    def __init__(self, graph: Any, lab: Lab, folder: Path) -> None:
        self.graph, self.lab = graph, lab
        self.bags, self.references = folder / "bags", folder / "references"
        self.recorder: list[RecorderStatus] = graph.collect(RecorderStatus, "recorder/status", qos.STATE)
        self.verdicts: list[DiagnosticArray] = graph.collect(DiagnosticArray, "drift/verdict", qos.STATE)
        self._record = graph.action_client(RecordEpisode, "record_episode")
        for name in ("arm", "camera"):
            graph.start(f"prophrl_nodes.nodes.{name}", host=lab.host)
        graph.start(
            "prophrl_nodes.nodes.recorder",
            host=lab.host,
            output=self.bags,
            topics=TOPICS,
            required_topics="[camera/color/image_raw, joint_states, gripper/state, drift/verdict]",
            disk_reserve_gb=0.0,
            publisher_wait_s=30.0,
        )
        self.drift = self.start_drift()

    def start_drift(self) -> Any:
        return self.graph.start(
            "prophrl_nodes.nodes.drift",
            host=self.lab.host,
            output=self.bags,
            references=self.references,
            first_check_s=3.0,
        )

    def begin(self, episode_id: str) -> Any:
        self.graph.until(self._record.server_is_ready, "the recorder's action to be there", LIVENESS_S)
        answer = self._record.send_goal_async(RecordEpisode.Goal(task="place_cube", episode_id=episode_id))
        self.graph.until(answer.done, "an answer to the goal", LIVENESS_S)
        assert answer.result().accepted
        return answer.result()

    def work_about(self) -> None:
        """Five seconds of an episode in which the gripper closes and opens; a motion of the arm is not needed here."""
        for opening in ("0.2", "1.0"):
            self.command("gripper", opening)
        self.graph.until(lambda: self.recorder[-1].elapsed_s > 5.0, "five seconds of recording", LIVENESS_S)

    def command(self, verb: str, argument: str = "") -> None:
        """Ask the arm node until it is able to."""

        def obeyed() -> bool:
            request = OperatorVerb.Request(verb=verb, argument=argument)
            return bool(self.graph.call(OperatorVerb, "arm/command", request, timeout_s=LIVENESS_S).success)

        self.graph.until(obeyed, f"the arm to obey {verb}", LIVENESS_S)

    def episode(self, episode_id: str, *, accept: bool = True) -> dict[str, Any]:
        """Record one and return what the drift node wrote beside its bag."""
        self.begin(episode_id)
        self.work_about()
        return self.finish(episode_id, accept=accept)

    def finish(self, episode_id: str, *, accept: bool = True) -> dict[str, Any]:
        request = FinishEpisode.Request(accept=accept, outcome="success")
        assert self.graph.call(FinishEpisode, "recorder/finish", request, timeout_s=LIVENESS_S).success
        file = self.bags / ("place_cube" if accept else "discarded") / episode_id / "drift.json"
        self.graph.until(file.is_file, f"{file} to be written", LIVENESS_S)
        written: dict[str, Any] = json.loads(file.read_text())
        return written


@pytest.fixture
def lab(loopback_host: str) -> Iterator[Lab]:
    with Lab("twin", loopback_host, restart=True) as lab:
        yield lab


def verdicts_in(bag: Path) -> list[dict[str, str]]:
    with next(bag.glob("*.mcap")).open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        messages = [message for *_, message in reader.iter_decoded_messages(topics=["/drift/verdict"])]
    return [figures(message) for message in messages]


def figures(verdict: Any) -> dict[str, str]:
    return {value.key: value.value for value in verdict.status[0].values}


@pytest.mark.slow
def test_a_camera_bumped_between_episodes_is_noticed_and_one_left_alone_is_not(
    graph: Any, lab: Lab, tmp_path: Path
) -> None:
    cell = WatchedCell(graph, lab, tmp_path)
    cell.command("home")
    assert cell.episode("a-discarded", accept=False)["verdict"] == "unknown"
    assert not list(cell.references.glob("*"))

    first = cell.episode("b-reference")
    assert first["verdict"] == "reference", first
    assert len(list(cell.references.glob(f"{first['calibration_id']}-424x240.*"))) == 2

    second = cell.episode("c-untouched")
    assert second["verdict"] == "still", second
    assert second["reference_episode"] == "b-reference"
    graph.wait_said("drift", "stands where it was calibrated", timeout_s=LIVENESS_S)

    with LabClient(lab.host) as client:
        client.nudge_camera([0.010, 0.0, 0.0, 0.0, 0.0, 0.0])
    cell.begin("d-bumped")
    cell.work_about()
    graph.until(lambda: "d-bumped" in figures(cell.verdicts[-1])["episode_id"], "a verdict meanwhile", LIVENESS_S)
    third = cell.finish("d-bumped")
    assert third["verdict"] == "moved", third
    assert 1.0 < third["pixels"] < 4.0  # 10 mm at 0.75 to 1.3 m, focal length 212 px
    assert third["millimetres"] == pytest.approx(10.0, abs=2.0)
    assert "prophrl launch calibrate" in third["reason"]
    said = graph.wait_said("drift", "the camera was moved", timeout_s=LIVENESS_S)
    assert said.level == DiagnosticStatus.WARN

    # The bag of an episode holds the verdict known when it began, and the one about itself as it lasted long enough.
    held = verdicts_in(cell.bags / "place_cube" / "d-bumped")
    assert (held[0]["episode_id"], held[0]["verdict"]) == ("c-untouched", "still")
    assert (held[-1]["episode_id"], held[-1]["verdict"], held[-1]["provisional"]) == ("d-bumped", "moved", "true")

    # A node that is stopped right after the last episode still writes its verdict, and a new one knows the reference.
    with LabClient(lab.host) as client:
        client.nudge_camera([0.0] * 6)
    cell.begin("e-last")
    cell.work_about()
    graph.call(FinishEpisode, "recorder/finish", FinishEpisode.Request(accept=True, outcome="success"))
    assert cell.drift.stop() == 0
    last = json.loads((cell.bags / "place_cube" / "e-last" / "drift.json").read_text())
    assert (last["verdict"], last["reference_episode"]) == ("still", "b-reference")
