"""Live and recorded give the same policy inputs.

Regressions pinned: policies that were trained on samples chosen by one rule and run on samples chosen by another.
The live node gets whole ROS messages from the middleware and asks at its own ticks; the converter reads bytes from a
file. Both must see the same bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from prophrl_interfaces.msg import GripperState
from rclpy.serialization import deserialize_message, serialize_message

from prophrl_models.data.bag import Bag
from prophrl_models.data.convert import convert_bag
from prophrl_models.data.episode import Observation
from prophrl_models.data.streams import COLOR as COLOR_STREAM
from prophrl_models.data.streams import GRIPPER as GRIPPER_STREAM
from prophrl_models.data.streams import TCP_POSE, color_sample, gripper_sample, pose_sample
from prophrl_models.data.synchronise import Synchroniser, SyncSpec
from tests.helpers.recording import COLOR, GRIPPER, POSE, Recording, record


class LiveNode:
    """The input side of a policy node: subscriptions that push, a timer that asks."""

    def __init__(self, instruction: str) -> None:
        self.synchroniser = Synchroniser(SyncSpec(), instruction)
        self.decoders = {
            COLOR: (COLOR_STREAM, color_sample),
            POSE: (TCP_POSE, lambda cdr: pose_sample(deserialize_message(cdr, PoseStamped))),
            GRIPPER: (GRIPPER_STREAM, lambda cdr: gripper_sample(deserialize_message(cdr, GripperState))),
        }

    def receive(self, topic: str, cdr: bytes) -> None:
        stream, decode = self.decoders[topic]
        stamp_ns, value = decode(cdr)
        self.synchroniser.push(stream, stamp_ns, value)


@pytest.mark.parametrize("faults", ["none", "late and lost messages"])
def test_a_replayed_bag_gives_the_live_node_the_inputs_of_the_dataset(tmp_path: Path, faults: str) -> None:
    recording = record(2.0, seed=3)
    if faults != "none":
        recording = with_faults(recording)
    episode = convert_bag(Bag(recording.write(tmp_path)))
    live = LiveNode(recording.instruction)
    arriving = [s for s in recording.sent if s.topic in live.decoders]
    ticks_ns = [*episode.stamp_ns_T.tolist(), episode.final.stamp_ns]
    inputs: list[Observation | None] = []
    for tick in ticks_ns:
        while arriving and arriving[0].log_ns <= tick:
            sent = arriving.pop(0)
            live.receive(sent.topic, bytes(serialize_message(sent.message)))
        inputs.append(live.synchroniser.snapshot(tick).observation)

    for step in range(len(episode)):
        observation, stored = inputs[step], episode.observation(step)
        if observation is None:
            assert not episode.valid_T[step], "the live node had no input here, so training must not have one either"
            continue
        assert (observation.image_HW3 == stored.image_HW3).all()
        assert observation.state_7.tobytes() == stored.state_7.tobytes()
        assert (observation.instruction, observation.stamp_ns) == (stored.instruction, stored.stamp_ns)
    assert inputs[-1] is not None
    assert (inputs[-1].image_HW3 == episode.final.image_HW3).all()
    missing = sum(observation is None for observation in inputs)
    assert (missing > 0) == (faults != "none")
    assert len({observation.image_HW3.tobytes() for observation in inputs if observation}) > 10


def with_faults(recording: Recording) -> Recording:
    """Every eleventh message lost, a camera that is silent for half a second, images that come in bursts."""
    start_ns = recording.sent[0].log_ns
    kept = []
    for k, sent in enumerate(recording.sent):
        after_s = (sent.log_ns - start_ns) * 1e-9
        if k % 11 == 0 or (sent.topic == COLOR and 0.8 < after_s < 1.3):
            continue
        if sent.topic == COLOR:
            burst_ns = 90_000_000
            sent = type(sent)(sent.topic, sent.stamp_ns, -(-sent.log_ns // burst_ns) * burst_ns, sent.message)
        kept.append(sent)
    order = np.argsort([sent.log_ns for sent in kept], kind="stable")
    return Recording(tuple(kept[i] for i in order), recording.instruction, recording.task)
