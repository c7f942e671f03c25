"""A policy that answers observations with action chunks: in this process, or behind a WebSocket on another machine.

Both backends give the same answer to the same observation, seed and position in the run. With ``planning_runner`` the
only module of the nodes that imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.episode import Observation
from prophrl_models.data.synchronise import SyncSpec
from prophrl_models.policies.grip import CLOSE_BELOW, firm_grip
from prophrl_models.policies.interface import PolicySpec, UnknownInstruction
from prophrl_models.serving.client import ClientSettings, PolicyClient
from prophrl_models.serving.engine import PolicyAnswer, PolicyEngine, PolicyRequest, chunk_seed
from prophrl_models.serving.errors import ServingError, SetupError
from prophrl_models.serving.latency import LatencyMeter
from prophrl_models.serving.token import TokenError, read_token
from prophrl_models.training.checkpoint import CheckpointError

if TYPE_CHECKING:
    from prophrl_models.policies.chunking import Committed

REMOTE = ("ws://", "wss://")


@dataclass(frozen=True)
class Answer:
    """A chunk and what it cost.

    Attributes:
        actions_CHD: float32 [CH, D], environment units, in the spec's convention.
        inference_s: from the observation being handed over to the chunk being there, transport and injected latency
            included.
        server_timing: milliseconds by stage where the policy ran (``queue_ms`` only from a server, ``prepare_ms``,
            ``encode_ms``, ``sample_ms``, ``total_ms``), ``batch`` the robots answered together, ``round_trip_ms`` over
            the network, ``injected_ms``.
    """

    actions_CHD: NDArray[np.float32]
    inference_s: float
    server_timing: dict[str, float]


class PolicyRunner(Protocol):
    """What the policy node needs of a policy. Ready when constructed: loaded, warmed up, connected.

    Attributes:
        extra_latency_s: added to every answer, for experiments on chunk seams; may be changed at any time.
        close_below: openings below it are answered as closed, see ``grip.firm_grip``; may be changed at any time.
        latency: of all answers, against the budget.
    """

    extra_latency_s: float
    close_below: float
    latency: LatencyMeter

    @property
    def policy_id(self) -> str:
        """Name of the checkpoint's folder."""
        ...

    @property
    def checkpoint_id(self) -> str:
        """SHA-256 over the checkpoint's files."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, in words."""
        ...

    @property
    def spec(self) -> PolicySpec:
        """What the checkpoint promises."""
        ...

    @property
    def sync(self) -> SyncSpec:
        """How observations were formed in training, so that they are formed alike here."""
        ...

    def restart(self, run: int = 0) -> None:
        """Begin a run: the same observations then give the same chunks as in any other run of this number."""
        ...

    def infer(self, observation: Observation, *, committed: Committed | None = None) -> Answer:
        """One chunk; with ``committed``, one that continues these actions.

        Raises:
            UnknownInstruction, ValueError: the observation is not one this policy was trained on.
            ServingError: the server did not answer in time, or is not the one that was agreed on; ask again later.
        """
        ...

    def close(self) -> None:
        """Let go of the connection or the device."""
        ...


class TimedRunner:
    """What all backends share: the run's seeds, the injected latency, the record of latencies and the firm grip."""

    def __init__(self, seed: int, extra_latency_s: float, budget_s: float) -> None:
        if extra_latency_s < 0.0:
            raise ValueError(f"extra_latency_s cannot be negative, got {extra_latency_s}")
        self.extra_latency_s = extra_latency_s
        self.close_below = CLOSE_BELOW
        self.latency = LatencyMeter(budget_s)
        self._seed, self._run, self._index = seed, 0, 0

    def restart(self, run: int = 0) -> None:
        """See ``PolicyRunner``."""
        self._run, self._index = run, 0

    @property
    def chunks_given(self) -> int:
        """In this run."""
        return self._index

    def _timed(self, request: PolicyRequest, ask: Callable[[PolicyRequest], PolicyAnswer]) -> Answer:
        started_s = time.perf_counter()
        answer = ask(request)
        self._index += 1  # only answered requests count, so a lost one does not shift the run's noise
        extra_s = self.extra_latency_s
        if extra_s:
            time.sleep(extra_s)
        took_s = time.perf_counter() - started_s
        self.latency.add(took_s)
        actions_CHD = firm_grip(answer.actions_CHD, self.close_below)
        return Answer(actions_CHD, took_s, {**answer.timing, "injected_ms": 1e3 * extra_s})

    def _request(self, observation: Observation, committed: Committed | None) -> PolicyRequest:
        return PolicyRequest(observation, chunk_seed(self._seed + self._run, self._index), committed)


class InProcessRunner(TimedRunner):
    """The policy in this process; see ``PolicyRunner``.

    Args:
        checkpoint: folder as ``prophrl train`` writes it.
        device: torch device, "auto" takes a GPU when there is one.
        seed: of the sampling noise.
        threads: CPU threads torch may use, 0 leaves torch's own choice.
        precision, compile: see ``PolicyEngine``.
        real_time: chunks that continue others will be asked for (real-time chunking), and are warmed up, too.
        extra_latency_s: see ``PolicyRunner``.
        budget_s: longest acceptable answer, 0: as long as a chunk takes to execute.

    Raises:
        CheckpointError: the checkpoint cannot be trusted or built.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        seed: int = 0,
        threads: int = 1,
        *,
        precision: str = "auto",
        compile: bool = False,
        real_time: bool = False,
        extra_latency_s: float = 0.0,
        budget_s: float = 0.0,
    ) -> None:
        self._engine = PolicyEngine.load(checkpoint, device, threads=threads, precision=precision, compile=compile)
        super().__init__(seed, extra_latency_s, budget_s or chunk_duration_s(self._engine.spec))
        self._engine.warm_up(guided=real_time)

    @property
    def policy_id(self) -> str:
        return self._engine.policy_id

    @property
    def checkpoint_id(self) -> str:
        return self._engine.checkpoint_id

    @property
    def device(self) -> str:
        return str(self._engine.device)

    @property
    def spec(self) -> PolicySpec:
        return self._engine.spec

    @property
    def sync(self) -> SyncSpec:
        return self._engine.sync

    def infer(self, observation: Observation, *, committed: Committed | None = None) -> Answer:
        return self._timed(self._request(observation, committed), lambda request: self._engine.answer([request])[0])

    def close(self) -> None:
        """Nothing to let go of before the process ends."""


class RemoteRunner(TimedRunner):
    """The policy behind ``prophrl serve``; see ``PolicyRunner``.

    Args:
        url: ``ws://host:port/policy``.
        seed: of the sampling noise.
        settings: token, timeouts, and what the server must serve; see ``ClientSettings``.
        extra_latency_s, budget_s: see ``InProcessRunner``.

    Raises:
        ServingError: no server within the time-out, wrong token, or not what was agreed on.
    """

    def __init__(
        self,
        url: str,
        seed: int = 0,
        settings: ClientSettings | None = None,
        *,
        extra_latency_s: float = 0.0,
        budget_s: float = 0.0,
    ) -> None:
        self._client = PolicyClient(url, settings)
        self._hello = self._client.connect()
        super().__init__(seed, extra_latency_s, budget_s or chunk_duration_s(self._hello.spec))

    @property
    def policy_id(self) -> str:
        return self._hello.policy_id

    @property
    def checkpoint_id(self) -> str:
        return self._hello.checkpoint_id

    @property
    def device(self) -> str:
        return f"{self._hello.device} at {self._client.url}"

    @property
    def spec(self) -> PolicySpec:
        return self._hello.spec

    @property
    def sync(self) -> SyncSpec:
        return self._hello.sync

    def infer(self, observation: Observation, *, committed: Committed | None = None) -> Answer:
        return self._timed(self._request(observation, committed), self._client.infer)

    def close(self) -> None:
        self._client.close()


def chunk_duration_s(spec: PolicySpec) -> float:
    """How long a whole chunk takes to execute: an answer that takes longer leaves the arm waiting."""
    return spec.chunk / spec.control_rate_hz


def open_runner(
    where: str,
    *,
    device: str = "auto",
    seed: int = 0,
    threads: int = 1,
    precision: str = "auto",
    compile: bool = False,
    extra_latency_s: float = 0.0,
    budget_s: float = 0.0,
    settings: ClientSettings | None = None,
    token_file: str = "",
    real_time: bool = False,
) -> PolicyRunner:
    """The runner for a checkpoint folder or a server's ``ws://`` address.

    Args:
        precision, compile: of a policy in this process, see ``PolicyEngine``; a server has chosen its own.
        settings: how to reach a server and what it must serve.
        token_file: file with the server's bearer token, instead of a token in ``settings``.
        real_time: see ``InProcessRunner``; a server is always ready for it.

    Raises:
        CheckpointError: the folder cannot be trusted or built.
        SetupError: a precision or device that this policy or machine does not have.
        ServingError: the server cannot be used.
        TokenError: the token file cannot be used.
    """
    if where.startswith(REMOTE):
        if token_file:
            settings = replace(settings or ClientSettings(), token=read_token(token_file))
        return RemoteRunner(where, seed, settings, extra_latency_s=extra_latency_s, budget_s=budget_s)
    return InProcessRunner(
        where,
        device,
        seed,
        threads,
        precision=precision,
        compile=compile,
        real_time=real_time,
        extra_latency_s=extra_latency_s,
        budget_s=budget_s,
    )


__all__ = [
    "Answer",
    "CheckpointError",
    "ClientSettings",
    "InProcessRunner",
    "PolicyRunner",
    "RemoteRunner",
    "ServingError",
    "SetupError",
    "TokenError",
    "UnknownInstruction",
    "chunk_duration_s",
    "open_runner",
]
