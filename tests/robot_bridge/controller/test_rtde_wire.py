"""RTDE and the other ports byte by byte, where the genuine client would hide what happens."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.helpers.twin_controller import RunningController, wait_for

INT_REGISTER, DOUBLE_REGISTER = "input_int_register_40", "input_double_register_40"


class Wire:
    """A bare RTDE connection."""

    def __init__(self, host: str) -> None:
        self.socket = socket.create_connection((host, 30004), timeout=5.0)
        self._buffer = b""

    def send(self, kind: str, payload: bytes = b"") -> None:
        self.socket.sendall(struct.pack(">HB", len(payload) + 3, ord(kind)) + payload)

    def receive(self) -> tuple[str, bytes]:
        while len(self._buffer) < 3 or len(self._buffer) < struct.unpack(">H", self._buffer[:2])[0]:
            data = self.socket.recv(4096)
            assert data, "closed by the controller"
            self._buffer += data
        (size,) = struct.unpack(">H", self._buffer[:2])
        package, self._buffer = self._buffer[:size], self._buffer[size:]
        return chr(package[2]), package[3:]

    def ask(self, kind: str, payload: bytes = b"") -> bytes:
        """Send and return the answer of the same type, skipping data packages."""
        self.send(kind, payload)
        while True:
            answer, body = self.receive()
            if answer == kind:
                return body


@pytest.fixture
def wire(robot: RunningController) -> Iterator[Wire]:
    connection = Wire(robot.host)
    assert connection.ask("V", struct.pack(">H", 2)) == b"\x01"
    yield connection
    connection.socket.close()


def read_back(host: str, name: str, layout: str) -> object:
    """The present value of one variable, over a connection of its own."""
    reader = Wire(host)
    reader.ask("O", struct.pack(">d", 500.0) + f"{name},".encode())
    reader.ask("S")
    kind, body = reader.receive()
    reader.socket.close()
    assert kind == "U"
    return struct.unpack(">" + layout, body[1:])[0]


def test_versions(wire: Wire) -> None:
    assert struct.unpack(">4I", wire.ask("v")) == (5, 15, 2, 0)
    assert wire.ask("V", struct.pack(">H", 1)) == b"\x00"


def test_outputs_name_their_types_and_unknown_names_are_not_found(wire: Wire) -> None:
    names = b"timestamp,actual_q,robot_mode,actual_digital_output_bits,joint_mode,payload_cog,output_bit_register_64,"
    body = wire.ask("O", struct.pack(">d", 500.0) + names)
    assert body[0] == 1
    assert body[1:] == b"DOUBLE,VECTOR6D,INT32,UINT64,VECTOR6INT32,VECTOR3D,BOOL"
    assert b"DOUBLE,NOT_FOUND" in wire.ask("O", struct.pack(">d", 500.0) + b"timestamp,made_up")


def test_the_answer_to_start_comes_before_data_and_data_are_well_formed(wire: Wire) -> None:
    wire.ask("O", struct.pack(">d", 500.0) + b"timestamp,actual_q,runtime_state,")
    wire.send("S")
    assert wire.receive() == ("S", b"\x01")
    stamps = []
    for _ in range(20):
        kind, body = wire.receive()
        assert (kind, len(body)) == ("U", 1 + 8 + 48 + 4)
        stamps.append(struct.unpack(">d", body[1:9])[0])
    steps = [round((b - a) / 0.002) for a, b in itertools.pairwise(stamps)]
    assert set(steps) == {1}
    assert wire.ask("P") == b"\x01"


def test_a_slower_stream_keeps_its_rate(wire: Wire) -> None:
    wire.ask("O", struct.pack(">d", 50.0) + b"timestamp")
    wire.ask("S")
    stamps = [struct.unpack(">d", wire.receive()[1][1:])[0] for _ in range(4)]
    assert [round(b - a, 4) for a, b in itertools.pairwise(stamps)] == [0.02] * 3


def test_input_recipes_count_per_connection_and_need_no_start(wire: Wire, robot: RunningController) -> None:
    assert wire.ask("I", f"{INT_REGISTER},".encode()) == b"\x01INT32"
    assert wire.ask("I", f"{DOUBLE_REGISTER},".encode()) == b"\x02DOUBLE"
    wire.send("U", b"\x02" + struct.pack(">d", 2.5))
    wire.send("U", b"\x01" + struct.pack(">i", -7))
    wait_for(lambda: read_back(robot.host, INT_REGISTER, "i") == -7, "the integer register")
    assert read_back(robot.host, DOUBLE_REGISTER, "d") == 2.5
    other = Wire(robot.host)
    assert other.ask("I", b"input_int_register_41") == b"\x01INT32"
    other.socket.close()


def test_registers_belong_to_one_connection_until_it_closes(wire: Wire, robot: RunningController) -> None:
    assert wire.ask("I", INT_REGISTER.encode())[0] == 1
    other = Wire(robot.host)
    assert other.ask("I", f"input_int_register_39,{INT_REGISTER}".encode()) == b"\x00INT32,IN_USE"
    assert wire.ask("I", INT_REGISTER.encode())[0] == 2  # the owner may use it in more recipes
    wire.socket.close()
    wait_for(lambda: other.ask("I", INT_REGISTER.encode())[0] == 1, "the register to be free")
    other.socket.close()


def test_long_packages_are_cut_and_short_ones_dropped(wire: Wire, robot: RunningController) -> None:
    wire.ask("I", INT_REGISTER.encode())
    wire.send("U", b"\x01" + struct.pack(">ii", 11, 99))
    wait_for(lambda: read_back(robot.host, INT_REGISTER, "i") == 11, "the long package")
    wire.send("U", b"\x01\x00\x00")
    wire.send("U", b"\x01" + struct.pack(">i", 12))
    wait_for(lambda: read_back(robot.host, INT_REGISTER, "i") == 12, "the package after the short one")


def test_a_fieldbus_adapter_makes_every_register_in_use(wire: Wire, robot: RunningController) -> None:
    robot.lab.fault("rtde_in_use", True)
    wait_for(lambda: wire.ask("I", INT_REGISTER.encode()) == b"\x00IN_USE", "the fault")


def test_packets_split_and_joined_at_will_are_understood(robot: RunningController) -> None:
    wire = Wire(robot.host)
    request = struct.pack(">HBH", 5, ord("V"), 2) + struct.pack(">HB", 3, ord("v"))
    for i in range(len(request)):
        wire.socket.sendall(request[i : i + 1])
    assert [wire.receive()[0] for _ in range(2)] == ["V", "v"]
    wire.socket.close()


def test_garbage_closes_the_connection_and_nothing_else(robot: RunningController) -> None:
    wire = Wire(robot.host)
    wire.socket.sendall(b"\x00\x00\x00")
    assert wire.socket.recv(100) == b""
    assert robot.status("robot_mode") == "RUNNING"


def test_a_client_that_never_reads_does_not_slow_the_robot(robot: RunningController) -> None:
    wire = Wire(robot.host)
    wire.ask("O", struct.pack(">d", 500.0) + b",".join(b"actual_q" for _ in range(40)))
    wire.ask("S")
    before = int(str(robot.status("tick")))
    wait_for(lambda: int(str(robot.status("tick"))) > before + 500, "500 more ticks")
    wire.socket.close()


def test_dropped_packages_are_missing_from_the_stream(wire: Wire, robot: RunningController) -> None:
    robot.lab.fault("rtde_drop", 0.5)
    wire.ask("O", struct.pack(">d", 500.0) + b"timestamp")
    wire.ask("S")

    def gaps() -> int:
        stamps = [struct.unpack(">d", wire.receive()[1][1:])[0] for _ in range(60)]
        return sum(round((b - a) / 0.002) > 1 for a, b in itertools.pairwise(stamps))

    wait_for(lambda: gaps() > 10, "gaps")


def test_late_packages_arrive_late_and_in_order(wire: Wire, robot: RunningController) -> None:
    wire.ask("O", struct.pack(">d", 500.0) + b"timestamp")
    wire.ask("S")
    robot.lab.fault("rtde_late", 0.3)

    def behind() -> float:
        newest = 0.0
        wire.socket.settimeout(0.02)
        try:
            while True:
                stamp = struct.unpack(">d", wire.receive()[1][1:])[0]
                assert stamp > newest
                newest = stamp
                if float(str(robot.status("time_s"))) - newest > 0.25:
                    break
        except TimeoutError:
            pass
        return float(str(robot.status("time_s"))) - newest

    wait_for(lambda: 0.25 < behind() < 2.0, "the delay")


def test_a_script_in_many_segments_runs(robot: RunningController) -> None:
    client = socket.create_connection((robot.host, 30002), timeout=5.0)
    for part in ("def seg", "mented():\n  text", 'msg("in segments")\n', "  sync()\nen", "d\n"):
        client.sendall(part.encode())
    wait_for(lambda: "in segments" in robot.status("log"), "the program")
    client.close()


def test_dashboard_answers_everything_it_does_not_know(robot: RunningController) -> None:
    client = socket.create_connection((robot.host, 29999), timeout=5.0)
    stream = client.makefile("rw", newline="\n")
    assert stream.readline() == "Connected: Universal Robots Dashboard Server\n"
    for request, answer in (
        ("frobnicate", "could not understand: 'frobnicate'"),
        ("play", "Failed to execute: play"),
        ("get loaded program", "No program loaded"),
        ("load cell.urp", "Loading program: cell.urp"),
        ("load cell", "File not found: cell"),
        ("quit", "Disconnected"),
    ):
        stream.write(request + "\n")
        stream.flush()
        assert stream.readline().strip() == answer
    assert stream.readline() == ""
    client.close()
