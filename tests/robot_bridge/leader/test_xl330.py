"""Rules of one servo: who may write what when, and what the position register remembers."""

from __future__ import annotations

import pytest

from robot_bridge.twin.dynamixel_protocol import Error
from robot_bridge.twin.xl330 import (
    BOOT_S,
    DRIVE_MODE,
    EXTENDED_POSITION_MODE,
    GOAL_POSITION,
    HOMING_OFFSET,
    MAX_SPEED_COUNTS_PER_S,
    OPERATING_MODE,
    POSITION_MODE,
    PRESENT_POSITION,
    PRESENT_VELOCITY,
    RETURN_DELAY,
    TORQUE_ENABLE,
    ServoRefusal,
    Xl330,
)


def _servo(counts: float = 2048.0) -> Xl330:
    return Xl330(1, baud_rate=1_000_000, shaft_counts=counts)


def _position(servo: Xl330, now_s: float = 0.0) -> int:
    return int.from_bytes(servo.read(PRESENT_POSITION, 4, now_s), "little", signed=True)


def _refusal(servo: Xl330, address: int, data: bytes) -> Error:
    with pytest.raises(ServoRefusal) as caught:
        servo.write(address, data)
    return caught.value.error


def test_position_register_counts_over_several_turns_in_both_directions() -> None:
    servo = _servo()
    servo.advance(100.0, 9000.0)
    assert _position(servo) == 9000
    servo.advance(200.0, -5000.4)
    assert _position(servo) == -5000


def test_power_cycle_keeps_the_angle_and_forgets_whole_turns() -> None:
    servo = _servo()
    servo.advance(100.0, 9000.0)
    servo.power_cycle(100.0, off_s=1.0)
    assert not servo.alive(100.5)
    servo.advance(101.0 + BOOT_S, 9000.0)
    assert servo.alive(101.0 + BOOT_S)
    assert _position(servo) == 9000 - 2 * 4096


def test_shaft_turned_while_off_is_read_at_its_new_angle() -> None:
    servo = _servo()
    servo.power_cycle(1.0, off_s=1.0)
    servo.advance(2.1, -300.0)
    servo.advance(2.0 + BOOT_S, -300.0)
    assert _position(servo) == 4096 - 300


def test_reboot_clears_ram_and_keeps_eeprom() -> None:
    servo = _servo()
    servo.write(RETURN_DELAY, b"\x07")
    servo.write(65, b"\x01")
    servo.reboot(1.0)
    assert servo.peek(RETURN_DELAY) == 7
    assert servo.peek(65) == 0


def test_choosing_position_mode_forgets_whole_turns_and_extended_mode_does_not() -> None:
    servo = _servo()
    servo.advance(100.0, 9000.0)
    servo.write(OPERATING_MODE, bytes([EXTENDED_POSITION_MODE]))
    assert _position(servo) == 9000
    servo.write(OPERATING_MODE, bytes([POSITION_MODE]))
    assert _position(servo) == 9000 - 2 * 4096


def test_homing_offset_and_reverse_mode_shift_and_mirror_the_register() -> None:
    servo = _servo()
    servo.write(HOMING_OFFSET, (-48).to_bytes(4, "little", signed=True))
    assert _position(servo) == 2000
    servo.write(DRIVE_MODE, b"\x01")
    assert _position(servo) == -2048 - 48


def test_eeprom_is_locked_while_torque_is_on() -> None:
    servo = _servo()
    servo.write(TORQUE_ENABLE, b"\x01")
    assert _refusal(servo, RETURN_DELAY, b"\x00") is Error.ACCESS
    assert servo.peek(RETURN_DELAY) == 250
    servo.write(TORQUE_ENABLE, b"\x00")
    servo.write(RETURN_DELAY, b"\x00")
    assert servo.peek(RETURN_DELAY) == 0


@pytest.mark.parametrize(
    ("address", "data", "error"),
    [
        (PRESENT_POSITION, b"\x00\x00\x00\x00", Error.ACCESS),
        (3, b"\x00", Error.ACCESS),
        (400, b"\x00", Error.ACCESS),
        (GOAL_POSITION, b"\x00\x00", Error.DATA_LENGTH),
        (8, b"\x09", Error.DATA_RANGE),
        (GOAL_POSITION, (5000).to_bytes(4, "little"), Error.DATA_RANGE),
    ],
)
def test_unusable_write_is_refused_with_the_manuals_code(address: int, data: bytes, error: Error) -> None:
    assert _refusal(_servo(), address, data) is error


def test_a_write_over_several_registers_is_all_or_nothing() -> None:
    servo = _servo()
    assert _refusal(servo, 8, b"\x01\xff") is Error.DATA_RANGE
    assert servo.peek(8) == 3


def test_torque_holds_the_shaft_against_the_hand_and_moves_it_to_the_goal() -> None:
    servo = _servo()
    servo.advance(1.0, 2048.0)
    servo.write(TORQUE_ENABLE, b"\x01")
    servo.advance(2.0, 3000.0)
    assert servo.shaft_counts == 2048.0
    servo.write(GOAL_POSITION, (2500).to_bytes(4, "little"))
    servo.advance(3.0, 3000.0)
    assert servo.shaft_counts == 2500.0
    servo.write(TORQUE_ENABLE, b"\x00")
    servo.advance(4.0, 3000.0)
    assert servo.shaft_counts == 3000.0


def test_shaft_never_turns_faster_than_the_no_load_speed() -> None:
    servo = _servo(0.0)
    servo.advance(10.0, 0.0)
    servo.advance(10.1, 4096.0)
    assert servo.shaft_counts == pytest.approx(0.1 * MAX_SPEED_COUNTS_PER_S)


def test_velocity_register_shows_a_steady_motion_in_its_own_unit() -> None:
    servo = _servo(0.0)
    for step in range(1, 101):
        servo.advance(step * 0.01, step * 10.0)  # 1000 counts/s = 14.65 rpm = 64 units of 0.229 rpm
    velocity = int.from_bytes(servo.read(PRESENT_VELOCITY, 4, 1.0), "little", signed=True)
    assert velocity == pytest.approx(64, abs=1)
