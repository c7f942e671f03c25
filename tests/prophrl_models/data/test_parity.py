"""Live and recorded give the same policy inputs.

Regressions pinned: policies that were trained on samples chosen by one rule and run on samples chosen by another.
The live node gets whole ROS messages from the middleware and asks at its own ticks; the converter reads bytes from a
file. Both must see the same bits.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from prophrl_interfaces.msg import GripperState
from prophrl_nodes.policy_inputs import PolicyInputs
from rclpy.serialization import deserialize_message, serialize_message

from prophrl_models.data.bag import Bag
from prophrl_models.data.convert import convert_bag
from prophrl_models.data.episode import Observation
from prophrl_models.data.synchronise import SyncSpec
from tests.helpers.recording import COLOR, GRIPPER, POSE, Recording, record


class LiveNode:
    """The policy node's own input side, fed as the middleware feeds it."""

    def __init__(self, instruction: str) -> None:
        self.inputs = PolicyInputs(SyncSpec(), instruction)
        self.callbacks: dict[str, Callable[[bytes], None]] = {
            COLOR: self.inputs.on_image,
            POSE: lambda cdr: self.inputs.on_pose(deserialize_message(cdr, PoseStamped)),
            GRIPPER: lambda cdr: self.inputs.on_gripper(deserialize_message(cdr, GripperState)),
        }

    def receive(self, topic: str, cdr: bytes) -> None:
        self.callbacks[topic](cdr)


@pytest.mark.parametrize("faults", ["none", "late and lost messages", "samples that are no numbers"])
def test_a_replayed_bag_gives_the_live_node_the_inputs_of_the_dataset(tmp_path: Path, faults: str) -> None:
    recording = record(2.0, seed=3)
    if faults == "late and lost messages":
        recording = with_faults(recording)
    elif faults != "none":
        recording = with_nan(recording)
    episode = convert_bag(Bag(recording.write(tmp_path)))
    live = LiveNode(recording.instruction)
    arriving = [s for s in recording.sent if s.topic in live.callbacks]
    ticks_ns = [*episode.stamp_ns_T.tolist(), episode.final.stamp_ns]
    inputs: list[Observation | None] = []
    for tick in ticks_ns:
        while arriving and arriving[0].log_ns <= tick:
            sent = arriving.pop(0)
            live.receive(sent.topic, bytes(serialize_message(sent.message)))
        inputs.append(live.inputs.snapshot(tick).observation)

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
    assert (missing > 0) == (faults == "late and lost messages")
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


def with_nan(recording: Recording) -> Recording:
    """A driver that stutters: every seventh gripper state holds no number."""
    sent = list(recording.sent)
    for i in [i for i, s in enumerate(sent) if s.topic == GRIPPER][::7]:
        message = copy.deepcopy(sent[i].message)
        message.opening = math.nan
        sent[i] = replace(sent[i], message=message)
    return replace(recording, sent=tuple(sent))
