"""``prophrl serve`` in a process of its own, over real sockets: what robots get, and what everybody else does not."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from calibration.poses import ActionConvention
from prophrl_models.policies.interface import UnknownInstruction
from prophrl_models.serving import protocol, wire
from prophrl_models.serving.client import ClientSettings, PolicyClient
from prophrl_models.serving.engine import PolicyEngine, PolicyRequest
from prophrl_models.serving.errors import ServerMismatch, ServerUnavailable, Unauthorised
from prophrl_models.serving.server import ServerError, check_access, hello_of
from tests.helpers.served_policy import HOST, ROUNDING, ServerProcess, observation, write_checkpoint

TOKEN = "correct-horse-battery-staple"
PATIENT = ClientSettings(token=TOKEN, timeout_s=60.0, connect_timeout_s=60.0)


@pytest.fixture(scope="module")
def server(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    token = folder / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    server = ServerProcess(served_checkpoint, folder / "log", 0, ["--token-file", str(token), "--window-ms", "20"])
    yield server
    assert server.stop() == 0, server.log
    assert "Traceback" not in server.log


def get(server: ServerProcess, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(HOST, server.port, timeout=30.0)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, json.loads(body) if body.startswith(b"{") else body.decode()


@contextmanager
def raw(server: ServerProcess, **headers: str) -> Iterator[ClientConnection]:
    """A connection without our client's care."""
    headers = {"Authorization": f"Bearer {TOKEN}", **headers}
    with (
        suppress(ConnectionClosed),  # on the way out, of one that the test has broken
        connect(server.url, additional_headers=headers, compression=None, proxy=None, open_timeout=60.0) as connection,
    ):
        yield connection


def receive(connection: ClientConnection) -> dict[str, Any]:
    data = connection.recv(timeout=60.0)
    assert isinstance(data, bytes)
    return wire.unpack(data)


def question(checkpoint_id: str, **changes: Any) -> bytes:
    message = protocol.request_to_message(PolicyRequest(observation(1), 3), 1, checkpoint_id)
    return wire.pack({**message, **changes})


def test_a_remote_answer_is_the_local_one_bit_for_bit(server: ServerProcess, engine: PolicyEngine) -> None:
    client = PolicyClient(server.url, PATIENT)
    try:
        for seed in range(3):
            request = PolicyRequest(observation(seed), seed)
            answer = client.infer(request)
            assert np.array_equal(answer.actions_CHD, engine.answer([request])[0].actions_CHD)
        parts = {"queue_ms", "prepare_ms", "encode_ms", "sample_ms", "total_ms", "round_trip_ms", "network_ms", "batch"}
        assert set(answer.timing) == parts
        assert answer.timing["round_trip_ms"] >= answer.timing["total_ms"] > 0.0
        assert client.round_trip.summary().count == 3
    finally:
        client.close()


def test_two_robots_at_once_each_get_their_own_answer(server: ServerProcess, engine: PolicyEngine) -> None:
    answers: dict[tuple[int, int], np.ndarray] = {}

    def robot(who: int) -> None:
        client = PolicyClient(server.url, PATIENT)
        for i in range(6):
            answers[who, i] = client.infer(PolicyRequest(observation(10 * who + i), 100 * who + i)).actions_CHD
        client.close()

    threads = [threading.Thread(target=robot, args=(who,)) for who in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100.0)
    assert len(answers) == 12
    for (who, i), actions in answers.items():
        expected = engine.answer([PolicyRequest(observation(10 * who + i), 100 * who + i)])[0].actions_CHD
        np.testing.assert_allclose(actions, expected, atol=ROUNDING)


def test_a_robot_that_asks_and_does_not_read_keeps_nobody_waiting(server: ServerProcess) -> None:
    with raw(server) as silent:
        silent.send(question(receive(silent)["checkpoint_id"]))
        client = PolicyClient(server.url, PATIENT)
        assert len({client.infer(PolicyRequest(observation(i), i)).actions_CHD.tobytes() for i in range(4)}) == 4
        client.close()


@pytest.mark.parametrize("token", ["", "wrong-horse-battery-staple", TOKEN[:-1], TOKEN + "x", "é" * 20])
def test_a_wrong_token_is_refused_everywhere(server: ServerProcess, token: str) -> None:
    with pytest.raises(Unauthorised, match="does not accept our token"):
        PolicyClient(server.url, replace(PATIENT, token=token)).connect()
    headers = {"Authorization": f"Bearer {token}".encode().decode("latin-1")} if token else {}
    assert get(server, "/spec", headers)[0] == 401


def test_health_needs_no_token_and_counts(server: ServerProcess) -> None:
    status, before = get(server, "/health")
    assert status == 200 and before["status"] == "ok"
    client = PolicyClient(server.url, PATIENT)
    client.infer(PolicyRequest(observation(1), 1))
    assert get(server, "/health")[1]["clients"] >= 1
    client.close()
    after = get(server, "/health")[1]
    assert after["answered"] == before["answered"] + 1
    assert after["latency"]["p50_s"] > 0.0


def test_the_spec_is_what_a_client_is_told(server: ServerProcess, engine: PolicyEngine) -> None:
    status, said = get(server, "/spec", {"Authorization": f"Bearer {TOKEN}"})
    assert status == 200
    assert protocol.Hello.from_message(said).spec == engine.spec
    assert said["checkpoint_id"] == engine.checkpoint_id


def test_pages_in_a_browser_are_turned_away(server: ServerProcess) -> None:
    with pytest.raises(InvalidStatus) as refused, raw(server, Origin="http://example.com"):
        pass
    assert refused.value.response.status_code == 403
    assert get(server, "/spec", {"Authorization": f"Bearer {TOKEN}", "Origin": "null"})[0] == 403


def test_another_path_is_named_to_the_operator(server: ServerProcess) -> None:
    with pytest.raises(ServerMismatch, match=r"ws://host:port/policy"):
        PolicyClient(server.url.replace("/policy", "/polcy"), PATIENT).connect()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xc1garbage", "not a msgpack message"),
        (wire.pack({"type": "shutdown"}), "expected a message of type 'infer'"),
        (question("x", image=np.zeros((240, 320), dtype=np.uint8)), "image must have 3 dimensions"),
        (question("x", surprise=1), "unknown ['surprise']"),
        ("text", "binary frames"),
    ],
    ids=["garbage", "type", "array", "field", "text"],
)
def test_what_is_not_understood_is_answered_and_hung_up_on(server: ServerProcess, data: bytes | str, said: str) -> None:
    with raw(server) as connection:
        receive(connection)
        connection.send(data)
        reply = receive(connection)
        assert reply["code"] == "malformed"
        assert said in reply["message"]
        with pytest.raises(ConnectionClosed) as end:
            connection.recv(timeout=60.0)
    assert end.value.rcvd is not None and end.value.rcvd.code == 1007


def test_an_oversize_message_ends_its_connection_and_no_other(server: ServerProcess) -> None:
    client = PolicyClient(server.url, PATIENT)
    client.connect()
    with raw(server) as connection:
        receive(connection)
        with pytest.raises((ConnectionClosed, OSError)):
            connection.send(bytes(wire.MAX_MESSAGE_BYTES + 1))
            connection.recv(timeout=60.0)
    client.infer(PolicyRequest(observation(1), 1))
    client.close()


def test_a_request_that_cannot_be_answered_leaves_the_connection_open(
    server: ServerProcess, engine: PolicyEngine
) -> None:
    checkpoint = engine.checkpoint_id
    refused = [
        (question("another" + checkpoint), "wrong_checkpoint", "meant for checkpoint another"),
        (question(checkpoint, instruction="dance"), "unknown_instruction", "not trained on 'dance'"),
        (question(checkpoint, image=np.zeros((24, 32, 3), dtype=np.uint8)), "bad_observation", "(1, 240, 320, 3)"),
        (question(checkpoint, state=np.full(7, np.nan, dtype=np.float32)), "bad_observation", "not finite"),
        (question(checkpoint, state=np.zeros(6, dtype=np.float32)), "bad_observation", "states need shape"),
    ]
    with raw(server) as connection:
        assert receive(connection)["checkpoint_id"] == checkpoint
        for data, code, said in refused:
            connection.send(data)
            reply = receive(connection)
            assert (reply["type"], reply["code"], reply["number"]) == ("error", code, 1)
            assert said in reply["message"]
        connection.send(question(checkpoint))
        answer, _ = protocol.answer_from_message(receive(connection))
    assert np.array_equal(answer.actions_CHD, engine.answer([PolicyRequest(observation(1), 3)])[0].actions_CHD)


def test_the_client_turns_refusals_into_the_policys_own_errors(server: ServerProcess) -> None:
    client = PolicyClient(server.url, PATIENT)
    try:
        with pytest.raises(UnknownInstruction, match="dance"):
            client.infer(PolicyRequest(observation(1, "dance"), 1))
        with pytest.raises(ValueError, match="not finite"):
            broken = replace(observation(1), state_7=np.full(7, np.inf, dtype=np.float32))
            client.infer(PolicyRequest(broken, 1))
        client.infer(PolicyRequest(observation(1), 1))
        assert client.reconnects == 0
    finally:
        client.close()


def test_what_was_agreed_on_is_insisted_on(server: ServerProcess, engine: PolicyEngine) -> None:
    right = replace(PATIENT, convention=ActionConvention.ABSOLUTE_POSE_DIFFERENCE, checkpoint_id=engine.checkpoint_id)
    client = PolicyClient(server.url, right)
    client.connect()
    client.close()
    with pytest.raises(ServerMismatch, match="agreed was LOCAL"):
        PolicyClient(server.url, replace(right, convention=ActionConvention.LOCAL_FRAME_DELTA)).connect()
    with pytest.raises(ServerMismatch, match="agreed was checkpoint 0000"):
        PolicyClient(server.url, replace(right, checkpoint_id="0" * 64)).connect()


def test_an_overdue_answer_is_given_up_and_never_taken_for_the_next(
    server: ServerProcess, engine: PolicyEngine
) -> None:
    client = PolicyClient(server.url, PATIENT)
    client.connect()
    client.settings = replace(PATIENT, timeout_s=1e-4)
    with pytest.raises(ServerUnavailable):
        client.infer(PolicyRequest(observation(1), 1))
    client.settings = PATIENT
    request = PolicyRequest(observation(2), 2)
    assert np.array_equal(client.infer(request).actions_CHD, engine.answer([request])[0].actions_CHD)
    client.close()


def test_nobody_listening_is_said_after_the_timeout() -> None:
    client = PolicyClient(f"ws://{HOST}:9/policy", replace(PATIENT, connect_timeout_s=0.3))
    with pytest.raises(ServerUnavailable, match=r"no policy server at .*prophrl serve"):
        client.connect()


def test_a_killed_and_restarted_server_is_found_again(served_checkpoint: Path, tmp_path: Path) -> None:
    first = ServerProcess(served_checkpoint, tmp_path / "first.log")
    client = PolicyClient(first.url, replace(PATIENT, token=""))
    request = PolicyRequest(observation(1), 1)
    before = client.infer(request).actions_CHD
    first.kill()
    client.settings = replace(client.settings, timeout_s=0.3)
    with pytest.raises(ServerUnavailable):
        client.infer(request)

    second = ServerProcess(served_checkpoint, tmp_path / "second.log", first.port)
    client.settings = replace(client.settings, timeout_s=60.0)
    assert np.array_equal(client.infer(request).actions_CHD, before)
    assert client.reconnects == 1
    client.close()
    second.kill()


def test_a_server_that_comes_back_with_another_policy_is_refused(server: ServerProcess, tmp_path: Path) -> None:
    another = write_checkpoint(tmp_path / "another", convention=ActionConvention.LOCAL_FRAME_DELTA)
    for agreed in (another, write_checkpoint(tmp_path / "longer", chunk=8)):
        client = PolicyClient(server.url, PATIENT)
        client.hello = hello_of(PolicyEngine.load(agreed, "cpu"), 0.0)  # what an earlier server on this port said
        with pytest.raises(ServerMismatch, match="agreed was"):
            client.infer(PolicyRequest(observation(1), 1))


def test_strangers_are_not_let_in_by_accident() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        check_access(host, "")
    for host in ("0.0.0.0", "::", "192.168.1.4", "robot.lan"):
        with pytest.raises(ServerError, match="needs a token"):
            check_access(host, "")
        check_access(host, TOKEN)
    with pytest.raises(ServerError, match="at least 16"):
        check_access("127.0.0.1", "secret")


def test_a_client_that_leaves_while_its_answer_is_computed_is_forgotten(server: ServerProcess) -> None:
    with raw(server) as connection:
        connection.send(question(receive(connection)["checkpoint_id"]))
        connection.socket.shutdown(socket.SHUT_RDWR)  # no goodbye
    deadline_s = time.monotonic() + 60.0
    while get(server, "/health")[1]["clients"] > 0:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    client = PolicyClient(server.url, PATIENT)
    client.infer(PolicyRequest(observation(1), 1))
    client.close()


def test_a_second_question_before_the_answer_is_refused(server: ServerProcess) -> None:
    """Both questions lie in the socket before the first is read, so the second is there while the policy thinks."""
    with raw(server) as connection:
        data = question(receive(connection)["checkpoint_id"])
        with connection.protocol_mutex:
            connection.protocol.send_binary(data)
            connection.protocol.send_binary(data)
            connection.socket.sendall(b"".join(connection.protocol.data_to_send()))
        reply = receive(connection)
        assert (reply["type"], reply["code"]) == ("error", "busy")
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=60.0)
