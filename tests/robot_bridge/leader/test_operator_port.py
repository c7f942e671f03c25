"""The operator port: moves of the hand, demonstrations against a live world, and refusals that explain themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from robot_bridge.gello import Gello
from robot_bridge.leader_errors import ServoReadFailed
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.lab_client import LabError
from robot_bridge.twin.shared_state import WorldStateWriter
from robot_bridge.twin.tasks import sample_placement

HOME = (0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0)


class Follower:
    """A robot cell without sockets that follows the leader in real time and publishes its world, in a thread."""

    def __init__(self, leader: Any, task: str = "place_cube", seed: int = 0) -> None:
        self.lane = FastLane(task, render=False)
        self.lane.reset(sample_placement(task, np.random.default_rng(seed)))
        self.lane.engage("teleop")
        self.revision = 1
        self.frozen = False
        self.lowest_tcp_m = 1.0
        self._gello = Gello(leader.config)
        self._gello.connect(self.lane.world.q)
        self._writer = WorldStateWriter(leader.cell.twin.directory)
        self._ticks = 0
        self._stopping = False
        self._publish()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopping = True
        self._thread.join(10.0)
        self._gello.close()
        self._writer.close()
        self.lane.close()

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._stopping:
            if not self.frozen:
                try:
                    reading = self._gello.read()
                    self.lane.offer_joints(reading.q_6, self.lane.time_s)
                    self.lane.opening_target = reading.trigger_opening
                except ServoReadFailed:
                    pass
                self.lane.run(5)
                self._ticks += 5
                self._publish()
            next_s += 0.01
            time.sleep(max(0.0, next_s - time.monotonic()))

    def _publish(self) -> None:
        world = self.lane.world
        T = world.T_base_tcp
        self.lowest_tcp_m = min(self.lowest_tcp_m, float(T[2, 3]))
        self._writer.write(
            tick=self._ticks,
            stamp_ns=time.time_ns(),
            task=world.task.id,
            scene_revision=self.revision,
            qpos=world.qpos,
            q=world.q,
            qd=world.qd,
            T_base_tcp=T,
            gripper_opening=world.gripper_opening,
            gripper_target=self.lane.opening_target,
            object_detected=world.gripper_object_detected,
            objects=world.object_poses(),
            robot_mode=7,
            safety_mode=1,
        )


@pytest.fixture
def follower(leader: Any) -> Iterator[Follower]:
    follower = Follower(leader)
    yield follower
    follower.close()


def _wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the expected state did not come"
        time.sleep(0.02)


def _busy(leader: Any) -> bool:
    return bool(leader.call("status")["busy"])


def test_home_moves_the_leader_smoothly_and_reports_its_end(leader: Any) -> None:
    leader.call("set_joints", q=[0.5, -1.0, 1.0, -1.5, -1.5, 0.3], opening=0.2, seconds=0.02)
    _wait_for(lambda: not _busy(leader))
    gello = Gello(leader.config)
    gello.connect()
    seconds = leader.call("home")["seconds"]
    angles = []
    while _busy(leader):
        angles.append(gello.read().q_6)
    gello.close()
    assert 0.5 <= seconds < 3.0
    steps = np.abs(np.diff(angles, axis=0)).max(axis=1)
    assert steps.max() < 0.1  # no jump: at most the fastest part of a minimum-jerk move between two readings
    status = leader.call("status")
    assert status["phase"] == "idle"
    assert status["q"] == pytest.approx(HOME)
    assert status["opening"] == 1.0


def test_stop_holds_the_hand_where_it_is(leader: Any) -> None:
    leader.call("set_joints", q=[1.0, *HOME[1:]], seconds=5.0)
    _wait_for(lambda: leader.call("status")["q"][0] > 0.05)
    leader.call("stop")
    held = leader.call("status")
    assert not held["busy"]
    assert 0.05 < held["q"][0] < 0.9
    assert leader.call("status")["q"] == held["q"]


def test_align_brings_the_leader_to_the_followers_pose(leader: Any) -> None:
    leader.call("set_joints", q=[0.4, -1.2, 1.2, -1.5, -1.5, 0.3], opening=0.3, seconds=0.02)
    _wait_for(lambda: not _busy(leader))
    writer = WorldStateWriter(leader.cell.twin.directory)
    pose = np.array([0.1, -1.4, 1.5, -1.6, -1.5, 0.2])
    writer.write(
        tick=1,
        stamp_ns=time.time_ns(),
        task="place_cube",
        scene_revision=1,
        qpos=np.zeros(3),
        q=pose,
        qd=np.zeros(6),
        T_base_tcp=np.eye(4),
        gripper_opening=0.5,
        gripper_target=0.75,
        object_detected=False,
        objects={"cube": np.eye(4), "bowl": np.eye(4)},
        robot_mode=7,
        safety_mode=1,
    )
    leader.call("align")
    _wait_for(lambda: not _busy(leader))
    status = leader.call("status")
    writer.close()
    assert status["q"] == pytest.approx(pose)
    assert status["opening"] == 0.75


def test_demonstration_without_a_world_is_refused(leader: Any) -> None:
    with pytest.raises(LabError, match="demonstrate: no world state at"):
        leader.call("demonstrate", seed=1)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("dance", {}, "operations are status, demonstrate, home, align, set_joints, stop, fault"),
        ("demonstrate", {"seed": -1}, "'seed' with a number"),
        ("set_joints", {"q": [1, 2, 3]}, "'q' with 6 joint angles"),
        ("set_joints", {"q": [0, 0, 0, 0, 0, float("nan")]}, "'q' with 6 joint angles"),
        ("set_joints", {"q": [0] * 6, "opening": 3}, "'opening' is 0"),
        ("set_joints", {"q": [0] * 6, "seconds": 0}, "duration above 0 s"),
        ("fault", {"name": "thunder", "value": 1}, "no leader fault named 'thunder'; silent: "),
        ("fault", {"name": "missing", "value": [9]}, "list of servo ids out of"),
        ("fault", {"name": "crc", "value": 2}, "a share between 0 and 1"),
    ],
)
def test_unusable_request_is_refused_with_what_is_possible(
    leader: Any, op: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(LabError, match=message):
        leader.call(op, **arguments)
    assert leader.call("status")["phase"] == "idle"


def test_demonstration_moves_the_follower_down_to_the_object(leader: Any, follower: Follower) -> None:
    start_m = follower.lowest_tcp_m
    leader.call("demonstrate", seed=3)
    with pytest.raises(LabError, match="a demonstration is running"):
        leader.call("demonstrate", seed=4)
    _wait_for(lambda: leader.call("status")["phase"] == "reach")
    _wait_for(lambda: follower.lowest_tcp_m < start_m - 0.1)
    leader.call("stop")
    status = leader.call("status")
    assert (status["busy"], status["outcome"], status["gave_up"]) == (False, "stopped", True)


def test_demonstration_ends_when_the_scene_is_laid_out_anew(leader: Any, follower: Follower) -> None:
    leader.call("demonstrate", seed=3)
    _wait_for(lambda: leader.call("status")["phase"] != "align")
    follower.revision = 2
    _wait_for(lambda: not _busy(leader))
    assert "laid out anew" in leader.call("status")["outcome"]


def test_demonstration_ends_when_the_world_stands_still(leader: Any, follower: Follower) -> None:
    leader.call("demonstrate", seed=3)
    follower.frozen = True
    _wait_for(lambda: not _busy(leader))
    assert "is the controller running?" in leader.call("status")["outcome"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["place_cube", "grasp_bottle"])
def test_whole_demonstration_through_the_servo_bus_solves_the_task(leader: Any, task: str) -> None:
    # Seeds of operators who succeed; that some fail is measured elsewhere.
    follower = Follower(leader, task, seed=5)
    try:
        leader.call("demonstrate", seed=11)
        _wait_for(lambda: not _busy(leader), seconds=60.0)
        status = leader.call("status")
        assert status["outcome"] == "done"
        report = follower.lane.success()
        assert report.success, report.reason
    finally:
        follower.close()
