"""The recorder over real DDS: real publishers in their own processes, real bags on the disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from prophrl_interfaces.action import RecordEpisode
from prophrl_interfaces.msg import RecorderStatus
from prophrl_interfaces.srv import FinishEpisode
from prophrl_nodes.recorder.inspection import check_bag
from prophrl_nodes.recorder.recover import RecoverStatus, recover_bag
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rosbags.rosbag2 import Reader

DEVICES = Path(__file__).with_name("devices.py")
TOPICS = ["camera/color/image_raw", "joint_states", "arm/mode", "gripper/mode", "policy/chunk"]


class Recorder:
    """A recorder process, its devices, and a client of its action and service."""

    def __init__(self, graph: Any, folder: Path) -> None:
        self.graph = graph
        self.bags = folder / "bags"
        self._folder = folder
        self._devices: list[subprocess.Popen[bytes]] = []
        self._client = graph.action_client(RecordEpisode, "record_episode")
        self.status: list[RecorderStatus] = graph.collect(RecorderStatus, "recorder/status")

    def start(self, **parameters: Any) -> Any:
        settings: dict[str, Any] = {
            "output": self.bags,
            "topics": f"[{', '.join(TOPICS)}]",
            "required_topics": "[camera/color/image_raw]",
            "disk_reserve_gb": 0.0,
        } | parameters
        process = self.graph.start("prophrl_nodes.nodes.recorder", **settings)
        self.graph.until(self._client.server_is_ready, "the recorder's action to be there")
        return process

    def devices(self, *streams: str) -> subprocess.Popen[bytes]:
        """Publishers in a process of their own; see ``devices.py``."""
        log = (self._folder / f"devices-{len(self._devices)}.log").open("w")
        command = [sys.executable, str(DEVICES), *streams]
        process = subprocess.Popen(command, env=self.graph.environment, stdout=log, stderr=subprocess.STDOUT)
        self._devices.append(process)
        return process

    def close(self) -> None:
        for process in self._devices:
            process.kill()
            process.wait(10.0)

    def record(self, **goal: Any) -> Any:
        answer = self._client.send_goal_async(RecordEpisode.Goal(task="place_cube", instruction="go", **goal))
        self.graph.until(answer.done, "an answer to the goal")
        return answer.result()

    def finish(self, accept: bool = True, outcome: str = "success", note: str = "") -> Any:
        request = FinishEpisode.Request(accept=accept, outcome=outcome, note=note)
        return self.graph.call(FinishEpisode, "recorder/finish", request)

    def result(self, handle: Any) -> Any:
        answer = handle.get_result_async()
        self.graph.until(answer.done, "the result of the episode")
        return answer.result().result

    def figure(self, key: str) -> str:
        """A value of the recorder's latest diagnostics."""
        status = [s for s in self.graph.statuses if s.name == "recorder"][-1]
        return str({v.key: v.value for v in status.values}.get(key, ""))

    def recorded(self) -> int:
        """Messages of the running episode, by its latest status."""
        status = self.status[-1] if self.status else None
        return int(status.messages) if status is not None and status.state == RecorderStatus.RECORDING else 0


@pytest.fixture
def recorder(graph: Any, tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(graph, tmp_path)
    yield recorder
    recorder.close()


def record_of(path: str | Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((Path(path) / "episode.json").read_text())
    return loaded


def joint_numbers(bag: Path) -> list[int]:
    with open(next(bag.glob("*.mcap")), "rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return [int(m.position[0]) for _, _, _, m in reader.iter_decoded_messages(topics=["/joint_states"])]


def test_an_episode_holds_every_message_of_every_topic_and_its_latched_state(recorder: Recorder) -> None:
    recorder.devices("camera/color/image_raw=30", "joint_states=125", "arm/mode=7")
    gripper = recorder.devices("gripper/mode=3")
    recorder.start()
    bags = []
    for placement in ('{"cube": [0.1, 0.2, 0.3]}', ""):
        handle = recorder.record(operator_name="Ada", placement_json=placement)
        assert handle.accepted
        recorder.graph.until(lambda: recorder.recorded() > 250, "two seconds of messages")
        response = recorder.finish(note="fine")
        assert response.success, response.message
        result = recorder.result(handle)
        assert result.bag_path == response.bag_path and result.outcome == "success"
        bags.append(Path(response.bag_path))
        gripper.kill()
        recorder.graph.until(lambda: recorder.figure("/gripper/mode") == "nobody publishes it", "the death to be seen")
        recorder.graph.until(lambda: recorder.recorded() == 0, "the recorder to say that it is idle")

    for bag, modes in zip(bags, ({7, 3}, {7}), strict=True):
        record = record_of(bag)
        with Reader(bag) as reader:
            counts = {c.topic: c.msgcount for c in reader.connections}
            assert sum(counts.values()) == record["messages"] == reader.message_count
        numbers = joint_numbers(bag)
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # nothing lost, nothing twice
        joints, images = record["topics"]["/joint_states"], record["topics"]["/camera/color/image_raw"]
        assert joints["count"] == len(numbers) and joints["dropped"] == images["dropped"] == 0
        assert joints["rate_hz"] == pytest.approx(125.0, rel=0.1)
        assert images["rate_hz"] == pytest.approx(30.0, rel=0.1)
        assert images["largest_gap_s"] > 0.03
        with open(next(bag.glob("*.mcap")), "rb") as file:
            reader_ = make_reader(file, decoder_factories=[DecoderFactory()])
            found = {m.mode for _, _, _, m in reader_.iter_decoded_messages(topics=["/arm/mode", "/gripper/mode"])}
        assert found == modes  # the second episode does not begin with the state of a gripper that died
        assert "/policy/chunk" in [m["topic"] for m in record["missing_topics"]]
        assert check_bag(bag, required=["camera/color/image_raw", "joint_states"], max_dropped=0).problems == []
    first = record_of(bags[0])
    assert (first["operator"], first["task"], first["note"]) == ("Ada", "place_cube", "fine")
    assert first["placement"] == {"cube": [0.1, 0.2, 0.3]}
    assert bags[0].parent == recorder.bags / "place_cube"


def test_a_discarded_episode_is_kept_elsewhere(recorder: Recorder) -> None:
    recorder.devices("camera/color/image_raw=30")
    recorder.start()
    handle = recorder.record()
    recorder.graph.until(lambda: recorder.recorded() > 10, "some messages")
    misspelt = recorder.finish(outcome="succes")
    assert not misspelt.success and "choose one of success, failure, unknown" in misspelt.message
    before = recorder.recorded()
    recorder.graph.until(lambda: recorder.recorded() > before > 0, "the recording to go on after a misspelt verdict")
    response = recorder.finish(accept=False, outcome="failure", note="dropped it")
    assert Path(response.bag_path).parent == recorder.bags / "discarded"
    assert recorder.result(handle).outcome == "failure"
    with Reader(Path(response.bag_path)) as reader:
        assert reader.message_count > 10
    second = recorder.finish()
    assert not second.success and "already filed" in second.message


def test_an_episode_is_refused_while_a_required_topic_has_no_publisher(recorder: Recorder) -> None:
    recorder.start(publisher_wait_s=0.3)
    assert not recorder.record().accepted
    recorder.graph.wait_said("recorder", "required topics are missing: /camera/color/image_raw (nobody publishes it)")
    assert not (recorder.bags / "incomplete").exists()
    recorder.devices("camera/color/image_raw=30")
    recorder.graph.until(lambda: any(s.rates_hz and s.rates_hz[0] > 20.0 for s in recorder.status), "a rate")
    assert recorder.record().accepted
    assert not recorder.record().accepted  # one episode at a time
    recorder.graph.wait_said("recorder", "an episode is being recorded")
    assert recorder.finish().success


def test_a_nearly_full_disk_ends_the_episode_safely_and_refuses_the_next(recorder: Recorder) -> None:
    recorder.devices("camera/color/image_raw=30", "joint_states=125")
    recorder.start()
    handle = recorder.record(episode_id="cut_short")
    recorder.graph.until(lambda: recorder.recorded() > 60, "some messages")
    reserve = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=1e6)
    request = SetParameters.Request(parameters=[Parameter(name="disk_reserve_gb", value=reserve)])
    assert recorder.graph.call(SetParameters, "recorder/set_parameters", request).results[0].successful
    result = recorder.result(handle)
    assert "disk is nearly full" in result.message
    assert Path(result.bag_path) == recorder.bags / "incomplete" / "cut_short"
    with Reader(Path(result.bag_path)) as reader:
        assert reader.message_count == result.messages > 60
    assert not recorder.record().accepted
    recorder.graph.wait_said("recorder", "GB left")
    kept = recorder.finish(outcome="success")  # what was recorded can still be filed
    assert kept.success and Path(kept.bag_path).parent == recorder.bags / "place_cube"


def test_kill_9_in_the_middle_loses_less_than_a_second(recorder: Recorder) -> None:
    recorder.devices("camera/color/image_raw=30", "joint_states=125")
    process = recorder.start()
    recorder.record(episode_id="killed")
    recorder.graph.until(lambda: recorder.recorded() > 300, "two seconds of messages")
    process.kill()
    killed_ns = time.time_ns()
    bag = recorder.bags / "incomplete" / "killed"
    assert record_of(bag)["state"] == "recording"
    report = recover_bag(bag)
    assert report.status is RecoverStatus.OK, report.notes
    with Reader(bag) as reader:
        assert killed_ns - reader.end_time < 1_000_000_000
        # 300 messages are two seconds of an idle machine and more of a busy one; one of them may be lost
        assert reader.end_time - reader.start_time > 800_000_000
    numbers = joint_numbers(bag)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert record_of(bag)["state"] == "recovered"


def test_ctrl_c_in_the_middle_leaves_a_complete_bag(recorder: Recorder) -> None:
    recorder.devices("camera/color/image_raw=30")
    process = recorder.start()
    recorder.record(episode_id="interrupted")
    recorder.graph.until(lambda: recorder.recorded() > 10, "some messages")
    process.send(signal.SIGINT)
    assert process.wait() == 0
    record = record_of(recorder.bags / "incomplete" / "interrupted")
    assert record["state"] == "complete" and record["stop_reason"] == "the recorder was stopped"
    assert recover_bag(recorder.bags / "incomplete" / "interrupted").was_complete


def test_a_cancelled_goal_keeps_the_episode_undecided_until_it_is_filed(recorder: Recorder) -> None:
    recorder.devices("camera/color/image_raw=30")
    recorder.start()
    handle = recorder.record(episode_id="cancelled")
    recorder.graph.until(lambda: recorder.recorded() > 10, "some messages")
    answer = handle.cancel_goal_async()
    recorder.graph.until(answer.done, "an answer to the cancel request")
    result = recorder.result(handle)
    assert result.message == "cancelled" and Path(result.bag_path).parent == recorder.bags / "incomplete"
    assert recorder.finish(accept=False, outcome="failure").success
    assert (recorder.bags / "discarded" / "cancelled").is_dir()


def test_the_longest_duration_asked_for_ends_the_episode(recorder: Recorder) -> None:
    recorder.devices("camera/color/image_raw=30")
    recorder.start()
    result = recorder.result(recorder.record(max_duration_s=0.5))
    assert "longest duration" in result.message
    assert 0.5 <= result.duration_s < 5.0


def test_a_camera_that_dies_is_seen_as_a_gap_and_missing_publisher(recorder: Recorder) -> None:
    recorder.devices("joint_states=125")
    camera = recorder.devices("camera/color/image_raw=30")
    recorder.start()
    recorder.record()
    recorder.graph.until(lambda: recorder.recorded() > 100, "some messages")
    camera.kill()
    recorder.graph.until(lambda: recorder.status[-1].largest_gap_s[0] > 1.0, "the gap in the status")
    assert recorder.status[-1].largest_gap_s[1] < 1.0
    topics = record_of(recorder.finish().bag_path)["topics"]
    assert topics["/camera/color/image_raw"]["largest_gap_s"] > 1.0 > topics["/joint_states"]["largest_gap_s"]


def test_best_effort_and_reliable_publishers_are_recorded_alike_within_a_namespace(recorder: Recorder) -> None:
    """realsense-ros may publish best effort, our camera reliably; a reliable subscription would hear only one."""
    recorder._client = recorder.graph.action_client(RecordEpisode, "left/record_episode")
    namespace = ["--ros-args", "-r", "__ns:=/left"]
    recorder.devices("camera/color/image_raw=30,best_effort", "joint_states=125", *namespace)
    recorder.graph.start(
        "prophrl_nodes.nodes.recorder",
        "-r", "__ns:=/left",
        output=recorder.bags, topics=f"[{', '.join(TOPICS)}]", required_topics="[joint_states]", disk_reserve_gb=0.0,
    )  # fmt: skip
    recorder.graph.until(recorder._client.server_is_ready, "the recorder's action to be there")
    status: list[RecorderStatus] = recorder.graph.collect(RecorderStatus, "left/recorder/status")
    handle = recorder.record()
    recorder.graph.until(lambda: status and status[-1].messages > 150, "a second of messages")
    request = FinishEpisode.Request(accept=True, outcome="success")
    bag = recorder.graph.call(FinishEpisode, "left/recorder/finish", request).bag_path
    recorder.result(handle)
    with Reader(Path(bag)) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0].reliability.name for c in reader.connections}
        counts = {c.topic: c.msgcount for c in reader.connections}
    assert offered == {"/left/camera/color/image_raw": "BEST_EFFORT", "/left/joint_states": "RELIABLE"}
    assert min(counts["/left/camera/color/image_raw"], counts["/left/joint_states"]) > 10


def test_bad_goals_are_refused_with_their_reason(recorder: Recorder) -> None:
    recorder.devices("camera/color/image_raw=30")
    recorder.start()
    assert not recorder.record(placement_json="{broken").accepted
    recorder.graph.wait_said("recorder", "placement_json is not valid JSON")
    assert not recorder.record(episode_id="../../etc").accepted
    recorder.graph.wait_said("recorder", "cannot name a folder")
