"""The vendor's SDK, unmodified, against the bus on its pseudo-terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dynamixel_sdk as sdk
import pytest

IDS = range(1, 8)
HOME_COUNTS = [2048, 1024, 1024, 1024, 1024, 2048, 2048]
ACCESS, RANGE = 7, 4
LATE_S = 0.1


@pytest.fixture
def port(leader: Any) -> Iterator[Any]:
    handler = sdk.PortHandler(leader.config.port)
    handler.openPort()
    handler.setBaudRate(leader.config.baud_rate)
    yield handler
    handler.closePort()


class PatientPackets:
    """The SDK's packet handler, asked again after a time-out.

    The SDK polls without sleeping, so on a busy computer the scheduler may take this process off the processor for
    longer than the SDK's own 34 ms, and a reply that has long arrived counts as late. ``sdk`` is the bare handler. A
    pause before asking again lets the late reply come, which the SDK then discards; it would pass it off as the answer
    to the next question otherwise.
    """

    def __init__(self) -> None:
        self.sdk = sdk.PacketHandler(2.0)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self.sdk, name)

        def patient(*arguments: Any) -> Any:
            for _ in range(4):
                answer = call(*arguments)
                if not isinstance(answer, tuple) or sdk.COMM_RX_TIMEOUT not in answer:
                    break
                time.sleep(LATE_S)
            return answer

        return patient


@pytest.fixture
def packets() -> PatientPackets:
    return PatientPackets()


def _patiently(exchange: Callable[[], int]) -> int:
    """Result of a group exchange, asked again after a time-out (see ``PatientPackets``)."""
    result = exchange()
    for _ in range(3):
        if result == sdk.COMM_SUCCESS:
            break
        time.sleep(LATE_S)
        result = exchange()
    return result


def _positions(port: Any, packets: PatientPackets, *, fast: bool) -> tuple[int, list[int]]:
    group = sdk.GroupSyncRead(port, packets.sdk, 126, 10)
    for servo_id in IDS:
        group.addParam(servo_id)
    result = _patiently(group.fastSyncRead if fast else group.txRxPacket)
    return result, [group.getData(servo_id, 132, 4) for servo_id in IDS]


def _wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the expected state did not come"
        time.sleep(0.02)


def test_broadcast_ping_finds_all_seven_servos(port: Any, packets: PatientPackets) -> None:
    found, result = packets.broadcastPing(port)
    assert result == sdk.COMM_SUCCESS
    assert {servo_id: model for servo_id, (model, _) in found.items()} == dict.fromkeys(IDS, 1200)


def test_ping_of_an_absent_id_times_out(port: Any, packets: PatientPackets) -> None:
    assert packets.ping(port, 3) == (1200, sdk.COMM_SUCCESS, 0)
    assert packets.ping(port, 40)[1] == sdk.COMM_RX_TIMEOUT


@pytest.mark.parametrize("fast", [False, True])
def test_group_reads_return_the_pose_of_the_leader(port: Any, packets: PatientPackets, fast: bool) -> None:
    assert _positions(port, packets, fast=fast) == (sdk.COMM_SUCCESS, HOME_COUNTS)


def test_bulk_read_returns_different_registers_of_different_servos(port: Any, packets: PatientPackets) -> None:
    group = sdk.GroupBulkRead(port, packets.sdk)
    group.addParam(1, 132, 4)
    group.addParam(2, 144, 2)
    assert _patiently(group.txRxPacket) == sdk.COMM_SUCCESS
    assert group.getData(1, 132, 4) == 2048
    assert group.getData(2, 144, 2) == 50
    assert _patiently(group.fastBulkRead) == sdk.COMM_SUCCESS
    assert group.getData(1, 132, 4) == 2048


def test_sync_write_reaches_every_servo(port: Any, packets: PatientPackets) -> None:
    group = sdk.GroupSyncWrite(port, packets.sdk, 65, 1)
    for servo_id in IDS:
        group.addParam(servo_id, [servo_id % 2])
    assert group.txPacket() == sdk.COMM_SUCCESS
    assert [packets.read1ByteTxRx(port, servo_id, 65)[0] for servo_id in IDS] == [i % 2 for i in IDS]


def test_registered_write_waits_for_the_action(port: Any, packets: PatientPackets) -> None:
    assert packets.regWriteTxRx(port, 2, 65, 1, [1]) == (sdk.COMM_SUCCESS, 0)
    assert packets.read1ByteTxRx(port, 2, 65)[0] == 0
    packets.action(port, 2)
    _wait_until(lambda: packets.read1ByteTxRx(port, 2, 65)[0] == 1)


def test_eeprom_write_with_torque_on_is_an_access_error(port: Any, packets: PatientPackets) -> None:
    assert packets.write1ByteTxRx(port, 1, 64, 1) == (sdk.COMM_SUCCESS, 0)
    assert packets.write1ByteTxRx(port, 1, 9, 0) == (sdk.COMM_SUCCESS, ACCESS)
    assert packets.read1ByteTxRx(port, 1, 9)[0] == 250
    assert packets.write1ByteTxRx(port, 1, 64, 0) == (sdk.COMM_SUCCESS, 0)
    assert packets.write1ByteTxRx(port, 1, 9, 0) == (sdk.COMM_SUCCESS, 0)
    assert packets.read1ByteTxRx(port, 1, 9)[0] == 0


def test_write_out_of_range_and_to_a_read_only_register_are_refused(port: Any, packets: PatientPackets) -> None:
    assert packets.write1ByteTxRx(port, 1, 8, 77) == (sdk.COMM_SUCCESS, RANGE)
    assert packets.write4ByteTxRx(port, 1, 132, 0) == (sdk.COMM_SUCCESS, ACCESS)


def test_a_servo_with_a_hardware_error_raises_the_alert_bit(leader: Any, port: Any, packets: PatientPackets) -> None:
    leader.fault("hardware_error", [4])
    model, result, error = packets.ping(port, 4)
    assert (model, result, error) == (1200, sdk.COMM_SUCCESS, 0x80)
    assert packets.read1ByteTxRx(port, 4, 70)[0] == 0x20


def test_a_servo_with_another_baud_rate_answers_only_there(port: Any, packets: PatientPackets) -> None:
    assert packets.write1ByteTxRx(port, 5, 8, 1) == (sdk.COMM_SUCCESS, 0)
    assert packets.ping(port, 5)[1] == sdk.COMM_RX_TIMEOUT
    port.setBaudRate(57_600)
    assert packets.ping(port, 5) == (1200, sdk.COMM_SUCCESS, 0)
    assert packets.ping(port, 4)[1] == sdk.COMM_RX_TIMEOUT


def test_a_servo_with_another_id_answers_only_to_it(port: Any, packets: PatientPackets) -> None:
    assert packets.write1ByteTxRx(port, 5, 7, 15) == (sdk.COMM_SUCCESS, 0)
    assert packets.ping(port, 15) == (1200, sdk.COMM_SUCCESS, 0)
    assert packets.ping(port, 5)[1] == sdk.COMM_RX_TIMEOUT


def test_a_missing_servo_stalls_those_after_it_in_a_group_read(leader: Any, port: Any, packets: PatientPackets) -> None:
    leader.fault("missing", [3])
    result, _ = _positions(port, packets, fast=True)
    assert result != sdk.COMM_SUCCESS
    group = sdk.GroupSyncRead(port, packets.sdk, 132, 4)
    for servo_id in IDS:
        group.addParam(servo_id)
    answered = []
    for _ in range(4):
        assert group.txRxPacket() != sdk.COMM_SUCCESS
        answered.append([bool(group.data_dict[servo_id]) for servo_id in IDS])
    assert max(answered) == [True, True, False, False, False, False, False]


def test_spoiled_packets_are_reported_as_corrupt(leader: Any, port: Any, packets: PatientPackets) -> None:
    leader.fault("crc", 1.0)
    assert packets.ping(port, 1)[1] == sdk.COMM_RX_CORRUPT
    leader.fault("crc", 0.0)
    assert packets.ping(port, 1)[1] == sdk.COMM_SUCCESS


def test_reboot_silences_a_servo_for_a_moment(port: Any, packets: PatientPackets) -> None:
    assert packets.write1ByteTxRx(port, 6, 65, 1) == (sdk.COMM_SUCCESS, 0)
    assert packets.reboot(port, 6) == (sdk.COMM_SUCCESS, 0)
    assert packets.sdk.ping(port, 6)[1] == sdk.COMM_RX_TIMEOUT  # the bare handler: patience would outlast the reboot
    _wait_until(lambda: packets.ping(port, 6)[1] == sdk.COMM_SUCCESS)
    # A ping answered late leaves its reply on the line; the register itself is read once that has passed.
    _wait_until(lambda: packets.read1ByteTxRx(port, 6, 65) == (0, sdk.COMM_SUCCESS, 0))


def test_clear_multi_turn_and_factory_reset_are_understood(port: Any, packets: PatientPackets) -> None:
    assert packets.clearMultiTurn(port, 1) == (sdk.COMM_SUCCESS, 0)
    assert packets.write1ByteTxRx(port, 1, 9, 3) == (sdk.COMM_SUCCESS, 0)
    assert packets.factoryReset(port, 1, 0x02) == (sdk.COMM_SUCCESS, 0)
    _wait_until(lambda: packets.ping(port, 1)[1] == sdk.COMM_SUCCESS)
    assert packets.read1ByteTxRx(port, 1, 9)[0] == 250


def test_slow_line_takes_the_time_its_bytes_need(leader: Any, port: Any, packets: PatientPackets) -> None:
    # One read: 14 bytes out and 15 back. At 57600 baud they are 5 ms on the wire, at 1 Mbaud 0.3 ms.
    packets.write1ByteTxRx(port, 1, 8, 1)
    port.setBaudRate(57_600)
    durations = []
    for _ in range(10):
        began = time.monotonic()
        if packets.read4ByteTxRx(port, 1, 132)[1] == sdk.COMM_SUCCESS:
            durations.append(time.monotonic() - began)
    assert durations and min(durations) >= 29 * 10 / 57_600


def test_nobody_but_the_client_holds_the_port(leader: Any, port: Any) -> None:
    # GELLO's own start-up kills every process that has the port open.
    device = os.path.realpath(leader.config.port)
    pid = leader.process.pid
    held = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists() or link.is_symlink()]
    assert device not in held


def test_the_link_disappears_with_the_lab(leader: Any) -> None:
    leader.stop()
    assert not os.path.lexists(leader.config.port)
