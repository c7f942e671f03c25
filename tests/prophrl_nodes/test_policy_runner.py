"""Both backends of the policy node give the same chunk, and say truly how long it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from prophrl_nodes.policy_runner import (
    ClientSettings,
    InProcessRunner,
    PolicyRunner,
    RemoteRunner,
    TokenError,
    UnknownInstruction,
    open_runner,
)

from calibration.poses import ActionConvention
from prophrl_models.policies.chunking import Committed
from prophrl_models.policies.grip import CLOSE_BELOW, firm_grip
from prophrl_models.policies.interface import ObservationBatch
from prophrl_models.policies.load import load_policy
from prophrl_models.serving.engine import PolicyAnswer, PolicyEngine, PolicyRequest, chunk_seed
from prophrl_models.serving.errors import ServerMismatch, ServerUnavailable
from tests.helpers.served_policy import CHUNK, HOST, ServerProcess, observation, write_checkpoint

PATIENT = ClientSettings(timeout_s=60.0, connect_timeout_s=60.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("runner") / "policy")


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(checkpoint, tmp_path_factory.mktemp("runner_server") / "log")
    yield server
    assert server.stop() == 0, server.log


@pytest.fixture(scope="module")
def local(checkpoint: Path) -> PolicyRunner:
    return open_runner(str(checkpoint), device="cpu", seed=3)


@pytest.fixture(scope="module")
def remote(server: ServerProcess) -> Iterator[PolicyRunner]:
    runner = open_runner(server.url, seed=3, settings=PATIENT)
    yield runner
    runner.close()


def test_the_address_decides_where_the_policy_runs(local: PolicyRunner, remote: PolicyRunner) -> None:
    assert isinstance(local, InProcessRunner) and isinstance(remote, RemoteRunner)
    assert local.device == "cpu"
    assert remote.device.startswith("cpu at ws://")
    assert (local.spec, local.sync, local.policy_id) == (remote.spec, remote.sync, remote.policy_id)
    assert local.checkpoint_id == remote.checkpoint_id


def test_a_run_has_the_same_chunks_here_and_there_and_again(local: PolicyRunner, remote: PolicyRunner) -> None:
    runs = []
    for runner in (local, remote, local):
        runner.restart()
        rows = np.array([[0.001] * 6 + [0.5]] * 3, dtype=np.float32)
        runs.append([runner.infer(observation(i)).actions_CHD for i in range(3)])
        runs[-1].append(runner.infer(observation(9), committed=Committed(rows, 1)).actions_CHD)
        assert np.array_equal(runs[-1][-1][0], rows[0])
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])


def test_another_run_has_other_noise_and_the_same_run_the_same(local: PolicyRunner, remote: PolicyRunner) -> None:
    chunks = []
    for runner, run in ((local, 0), (local, 1), (remote, 1), (local, 2), (local, 0)):
        runner.restart(run)
        chunks.append(runner.infer(observation(1)).actions_CHD)
    assert np.array_equal(chunks[1], chunks[2]) and np.array_equal(chunks[0], chunks[4])
    assert not any(np.array_equal(chunks[a], chunks[b]) for a, b in ((0, 1), (1, 3), (0, 3)))


def test_chunks_are_those_of_the_policy_and_noise_is_new_each_time(local: PolicyRunner, checkpoint: Path) -> None:
    local.restart()
    same = [local.infer(observation(1)).actions_CHD for _ in range(3)]
    policy = load_policy(checkpoint)
    for index, actions in enumerate(same):
        noise = torch.randn((CHUNK, 7), generator=torch.Generator().manual_seed(chunk_seed(3, index)))
        expected, _ = policy.sample_actions(ObservationBatch.of([observation(1)]), noise[None])
        assert np.array_equal(actions, firm_grip(expected[0].numpy()))
    assert not np.allclose(same[0], same[1])


@pytest.mark.parametrize("where", ["local", "remote"])
def test_openings_below_the_bound_are_answered_as_closed(where: str, request: pytest.FixtureRequest) -> None:
    runner: PolicyRunner = request.getfixturevalue(where)
    said = []
    try:
        for runner.close_below in (0.0, 1.0):
            runner.restart()
            said.append(runner.infer(observation(1)).actions_CHD)
    finally:
        runner.close_below = CLOSE_BELOW
    assert np.array_equal(said[1], firm_grip(said[0], 1.0))
    assert not np.array_equal(*said)  # there was something to close


@pytest.mark.parametrize("where", ["local", "remote"])
def test_injected_latency_is_added_and_counted(where: str, request: pytest.FixtureRequest) -> None:
    runner: PolicyRunner = request.getfixturevalue(where)
    before = runner.latency.summary()
    runner.extra_latency_s = 0.2
    try:
        began_s = time.perf_counter()
        answer = runner.infer(observation(1))
        took_s = time.perf_counter() - began_s
    finally:
        runner.extra_latency_s = 0.0
    assert took_s >= answer.inference_s >= 0.2 + 1e-3 * answer.server_timing["total_ms"]
    assert answer.server_timing["injected_ms"] == pytest.approx(200.0)
    after = runner.latency.summary()
    assert after.count == before.count + 1
    assert after.worst_s >= 0.2


def test_answers_over_budget_are_counted(checkpoint: Path) -> None:
    assert InProcessRunner(checkpoint, "cpu").latency.budget_s == pytest.approx(CHUNK / 10.0)
    runner = InProcessRunner(checkpoint, "cpu", budget_s=1e-6)
    runner.infer(observation(1))
    assert (runner.latency.summary().count, runner.latency.summary().over_budget) == (1, 1)


@pytest.mark.parametrize("where", ["local", "remote"])
def test_a_refused_observation_uses_up_no_noise(where: str, request: pytest.FixtureRequest) -> None:
    runner: PolicyRunner = request.getfixturevalue(where)
    runner.restart()
    first = runner.infer(observation(1)).actions_CHD
    runner.restart()
    with pytest.raises(UnknownInstruction, match="dance"):
        runner.infer(observation(1, "dance"))
    assert np.array_equal(runner.infer(observation(1)).actions_CHD, first)


def test_what_the_node_expects_is_checked_before_it_is_ready(server: ServerProcess) -> None:
    with pytest.raises(ServerMismatch, match="agreed was CONTROLLER_SERVO"):
        open_runner(server.url, settings=ClientSettings(convention=ActionConvention.CONTROLLER_SERVO))
    with pytest.raises(ServerUnavailable, match="prophrl serve"):
        open_runner(f"ws://{HOST}:9/policy", settings=ClientSettings(connect_timeout_s=0.2))


def test_the_token_file_is_read_and_must_be_private(server: ServerProcess, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o644)
    with pytest.raises(TokenError, match="chmod 600"):
        open_runner(server.url, token_file=str(token))
    token.chmod(0o600)
    runner = open_runner(server.url, settings=PATIENT, token_file=str(token))  # a server without token takes any
    runner.close()
    with pytest.raises(TokenError, match="no token file"):
        open_runner(server.url, token_file=str(tmp_path / "absent"))
    token.write_text("two words")
    with pytest.raises(TokenError, match="one word"):
        open_runner(server.url, token_file=str(token))


def test_a_runner_for_real_time_chunking_has_continued_a_chunk_before_the_first_one_counts(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    plain = PolicyEngine.answer

    def watched(self: PolicyEngine, requests: list[PolicyRequest]) -> list[PolicyAnswer]:
        asked.append(any(request.committed is not None for request in requests))
        return plain(self, requests)

    monkeypatch.setattr(PolicyEngine, "answer", watched)
    runner = open_runner(str(checkpoint), device="cpu", real_time=True)
    assert asked.count(True) == asked.count(False) > 0 and runner.latency.summary().count == 0
    asked.clear()
    open_runner(str(checkpoint), device="cpu")
    assert asked and not any(asked)
