"""The leader's driver on the twin's servo bus, in health and in every fault it must name."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_bridge.gello import Gello, LeaderReading
from robot_bridge.leader_errors import (
    LeaderError,
    LeaderGone,
    PortMissing,
    PortRefused,
    ServoBusSilent,
    ServoMissing,
    ServoNotConfigured,
    ServoReadFailed,
)
from robot_bridge.leader_offsets import JointServo, LeaderOffsets, OffsetsError, TriggerServo, measure, save_offsets

HOME = (0.0, -math.pi / 2, math.pi / 2, -math.pi / 2, -math.pi / 2, 0.0)
COUNT_RAD = 2.0 * math.pi / 4096
Connect = Callable[..., Gello]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Builds drivers and closes them at the end."""
    drivers: list[Gello] = []

    def build(leader: Any, near_q_6: Any = HOME, **arguments: Any) -> Gello:
        drivers.append(Gello(leader.config, **arguments))
        drivers[-1].connect(near_q_6)
        return drivers[-1]

    yield build
    for driver in drivers:
        driver.close()


def _place(leader: Any, q_6: Any, opening: float = 1.0) -> None:
    leader.call("set_joints", q=list(q_6), opening=opening, seconds=0.02)
    deadline = time.monotonic() + 5.0
    while leader.call("status")["busy"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _read_through(gello: Gello, seconds: float) -> LeaderReading:
    """Read as a node does, ignoring failures, and return the last reading after the given time."""
    end = time.monotonic() + seconds
    last = None
    while last is None or time.monotonic() < end:
        try:
            last = gello.read()
        except LeaderError:
            assert time.monotonic() < end + 5.0
        time.sleep(0.005)
    return last


def _settle(gello: Gello, q_6: Any) -> LeaderReading:
    """Read until the shafts have arrived: a servo's shaft turns at no more than 103 rpm."""
    deadline = time.monotonic() + 5.0
    while True:
        reading = _read_through(gello, 0.02)
        if np.max(np.abs(reading.q_6 - q_6)) < COUNT_RAD:
            return reading
        assert time.monotonic() < deadline, f"the leader reads {reading.q_6}, it stands at {q_6}"


def test_joint_angles_and_trigger_are_those_of_the_leader_arm(leader: Any, connect: Connect) -> None:
    gello = connect(leader)
    assert gello.read().q_6 == pytest.approx(HOME, abs=COUNT_RAD)
    assert gello.read().trigger_opening == 1.0
    pose = (0.3, -1.2, 1.7, -2.0, -1.4, 0.8)
    _place(leader, pose, opening=0.25)
    reading = _settle(gello, pose)
    assert reading.trigger_opening == pytest.approx(0.25, abs=1 / 480)


def test_readings_carry_the_host_clock(leader: Any, connect: Connect) -> None:
    gello = connect(leader)
    before = time.time_ns()
    stamps = [gello.read().stamp_ns for _ in range(5)]
    assert before < stamps[0] and stamps == sorted(stamps) and stamps[-1] < time.time_ns()


def test_first_connection_configures_the_servos_once_and_says_so(leader: Any) -> None:
    gello = Gello(leader.config)
    first = gello.connect()
    gello.close()
    assert len([change for change in first.changes if "return delay 500 us set to 0" in change]) == 7
    second = gello.connect()
    gello.close()
    assert second.changes == ()
    assert second.fast_reads and second.models == dict.fromkeys(range(1, 8), "XL330-M288")


def test_servos_left_at_their_factory_baud_rate_are_found_and_raised(start_leader: Any) -> None:
    leader = start_leader(servo_baud=57_600)
    gello = Gello(leader.config)
    report = gello.connect()
    assert sum("57600 baud set to 1000000" in change for change in report.changes) == 7
    assert gello.read().q_6 == pytest.approx(HOME, abs=COUNT_RAD)
    gello.close()


def test_without_permission_to_configure_the_wrong_baud_rate_is_an_error(start_leader: Any) -> None:
    leader = start_leader(servo_baud=57_600)
    with pytest.raises(ServoNotConfigured, match=r"servo 1 .* is set to 57600 baud, the cell file says 1000000"):
        Gello(leader.config, configure=False).connect()


def test_torque_left_on_is_released_at_connection(leader: Any) -> None:
    leader.fault("torque", [2, 5])
    gello = Gello(leader.config)
    report = gello.connect()
    assert [change for change in report.changes if "torque was on" in change] == [
        "servo 2: torque was on, released",
        "servo 5: torque was on, released",
    ]
    assert not any(servo.torque_on for servo in gello.health())
    gello.close()


def test_old_firmware_without_fast_reads_is_read_with_sync_reads(leader: Any, connect: Connect) -> None:
    leader.fault("no_fast_read", True)
    gello = Gello(leader.config)
    assert not gello.connect().fast_reads
    assert gello.read().q_6 == pytest.approx(HOME, abs=COUNT_RAD)
    gello.close()


def test_angles_start_on_the_turn_nearest_the_follower(leader: Any, connect: Connect) -> None:
    follower = np.array(HOME) + np.array([0.0, 0.0, 0.0, 0.0, 2 * math.pi, -2 * math.pi])
    gello = connect(leader, follower + 0.4)
    assert gello.read().q_6 == pytest.approx(follower, abs=COUNT_RAD)
    gello.rewrap(HOME)
    assert gello.read().q_6 == pytest.approx(HOME, abs=COUNT_RAD)


def test_angles_stay_continuous_when_a_joint_passes_the_encoders_zero(leader: Any, connect: Connect) -> None:
    gello = connect(leader)
    for angle in np.linspace(0.0, 4.5, 12):
        _place(leader, [angle, *HOME[1:]])
        _settle(gello, [angle, *HOME[1:]])


def test_power_cycle_of_the_leader_changes_no_angle(leader: Any, connect: Connect) -> None:
    # The register wraps from beyond a turn to 0..4095, which the usual driver reads as a jump of whole turns.
    gello = connect(leader)
    far = (-3.6, -1.2, 1.7, -2.0, 3.7, 0.2)
    for fraction in np.linspace(0.25, 1.0, 4):
        pose = np.array(HOME) + fraction * (np.array(far) - HOME)
        _place(leader, pose)
        _settle(gello, pose)
    raw_before = gello.raw_counts(3)
    leader.fault("power_cycle", 0.1)
    reading = _read_through(gello, 0.6)
    raw_after = gello.raw_counts(3)
    assert raw_before[0] - raw_after[0] == pytest.approx(-4096, abs=1)
    assert reading.q_6 == pytest.approx(far, abs=COUNT_RAD)


def test_power_cycle_through_the_labs_fault_file_is_noticed(leader: Any, connect: Connect) -> None:
    from robot_bridge.twin.faults import Faults

    gello = connect(leader)
    Faults(leader.cell.twin.directory).set("leader_power_cycle", True)
    deadline = time.monotonic() + 5.0
    with pytest.raises(LeaderError):
        while time.monotonic() < deadline:
            gello.read()
    assert _read_through(gello, 0.8).q_6 == pytest.approx(HOME, abs=COUNT_RAD)


def test_silent_bus_is_named_at_connection(leader: Any) -> None:
    leader.fault("silent", True)
    with pytest.raises(ServoBusSilent, match=r"no servo answers on .*ids 1, 2, 3, 4, 5, 6, 7.*5 V supply"):
        Gello(leader.config).connect()


def test_bus_falling_silent_is_named_while_reading_and_heals(leader: Any, connect: Connect) -> None:
    gello = connect(leader)
    leader.fault("silent", True)
    with pytest.raises(ServoReadFailed):
        gello.read()
    with pytest.raises(ServoBusSilent):
        for _ in range(5):
            try:
                gello.read()
            except ServoReadFailed:
                continue
    leader.fault("silent", False)
    assert gello.read().q_6 == pytest.approx(HOME, abs=COUNT_RAD)


def test_broken_cable_names_the_servos_behind_it(leader: Any, connect: Connect) -> None:
    leader.fault("missing", [6, 7])
    with pytest.raises(ServoMissing, match=r"servo 6, 7 on .* does not answer, 1, 2, 3, 4, 5 do") as caught:
        Gello(leader.config).connect()
    assert caught.value.missing == (6, 7)


def test_servo_lost_while_reading_is_named(leader: Any, connect: Connect) -> None:
    gello = connect(leader)
    leader.fault("missing", [4])
    with pytest.raises(ServoMissing) as caught:
        for _ in range(5):
            try:
                gello.read()
            except ServoReadFailed:
                continue
    assert caught.value.missing == (4,)


def test_occasional_crc_errors_are_retried_and_never_change_an_angle(leader: Any, connect: Connect) -> None:
    gello = connect(leader)
    leader.fault("crc", 0.2)
    good = 0
    for _ in range(100):
        try:
            reading = gello.read()
        except ServoReadFailed:
            continue
        good += 1
        assert reading.q_6 == pytest.approx(HOME, abs=COUNT_RAD)
    assert gello.retries > 0
    assert good > 80


def test_wrong_port_lists_the_ports_that_exist(leader: Any, tmp_path: Path) -> None:
    config = dataclasses.replace(leader.config, port=str(tmp_path / "ttyUSB7"))
    with pytest.raises(PortMissing, match=r"no leader port .*ttyUSB7; serial ports on this machine: "):
        Gello(config).connect()


def test_port_of_a_running_driver_is_refused_to_a_second(leader: Any, connect: Connect) -> None:
    connect(leader)
    with pytest.raises(PortRefused, match="another leader driver"):
        Gello(leader.config).connect()


def test_vanished_port_is_reported_and_a_new_one_can_be_connected(start_leader: Any) -> None:
    leader = start_leader()
    gello = Gello(leader.config)
    gello.connect()
    leader.kill()
    with pytest.raises(LeaderGone, match="disappeared"):
        gello.read()
    os.unlink(leader.config.port)
    with pytest.raises(PortMissing):
        gello.connect()
    start_leader()
    gello.connect()
    assert gello.read().q_6 == pytest.approx(HOME, abs=COUNT_RAD)
    gello.close()


def test_wrong_number_of_ids_is_refused_before_the_port_is_touched(leader: Any) -> None:
    with pytest.raises(LeaderError, match="7 different ids"):
        Gello(dataclasses.replace(leader.config, servo_ids=(1, 2, 3)))


def test_offsets_measured_in_a_jig_make_a_crooked_leader_read_true(start_leader: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    crooked = LeaderOffsets(
        tuple(JointServo(float(rng.uniform(0, 4096)), int(sign)) for sign in (1, 1, -1, 1, -1, 1)),
        TriggerServo(1700.0, 1290.0),
    )
    leader = start_leader(offsets=crooked, offsets_file=str(tmp_path / "leaders.yaml"))
    gello = Gello(leader.config)
    with pytest.raises(OffsetsError, match=r"no leader offsets at .*jig pose"):
        gello.connect()

    fresh = Gello(leader.config, offsets=crooked)  # any offsets will do to read raw counts
    fresh.connect()
    raw = fresh.raw_counts(10)
    fresh.close()
    measured = measure(raw[:6], HOME, crooked.trigger, signs=[joint.sign for joint in crooked.joints])
    save_offsets(leader.config.offsets_file, "default", measured)

    gello.connect()
    pose = (0.5, -1.0, 1.2, -1.9, -1.1, -0.6)
    _place(leader, pose, opening=0.5)
    reading = _read_through(gello, 0.2)
    assert reading.q_6 == pytest.approx(pose, abs=1.5 * COUNT_RAD)
    assert reading.trigger_opening == pytest.approx(0.5, abs=0.01)
    gello.close()


def test_health_reports_errors_voltage_and_temperature(leader: Any, connect: Connect) -> None:
    gello = connect(leader)
    leader.fault("hardware_error", [3])
    health = gello.health()
    assert [servo.servo_id for servo in health if servo.hardware_error] == [3]
    assert all(servo.voltage_v == 5.0 and servo.temperature_c == 33 for servo in health)


def test_reading_sleeps_instead_of_spinning(leader: Any, connect: Connect) -> None:
    # The SDK's own port handler burns a whole core while it waits for a reply that takes 2 x 35 ms to time out.
    gello = connect(leader)
    leader.fault("silent", True)
    cpu, wall = time.process_time(), time.monotonic()
    for _ in range(2):
        with pytest.raises(LeaderError):
            gello.read()
    assert time.process_time() - cpu < 0.5 * (time.monotonic() - wall)
