"""Questions of several robots: answered together, failing alone, and free when nobody waits for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prophrl_models.serving.batcher import Batcher
from prophrl_models.serving.engine import PolicyEngine, PolicyRequest
from prophrl_models.serving.latency import LatencyMeter
from tests.helpers.served_policy import ROUNDING, observation


class Gate:
    """The engine, whose first answer waits until the test opens it: what is asked meanwhile queues up."""

    def __init__(self, engine: PolicyEngine) -> None:
        self._engine, self.max_batch = engine, engine.max_batch
        self.open, self.busy = threading.Event(), threading.Event()

    def answer(self, requests: list[PolicyRequest]) -> list[object]:
        self.busy.set()
        assert self.open.wait(60.0)
        return list(self._engine.answer(requests))


@pytest.fixture
def gate(engine: PolicyEngine) -> Gate:
    return Gate(engine)


@pytest.fixture
def batcher(gate: Gate) -> Iterator[Batcher]:
    batcher = Batcher(gate, window_s=0.5)  # type: ignore[arg-type]
    yield batcher
    gate.open.set()
    batcher.close()
    assert not batcher.alive


def test_what_queues_up_is_answered_together_and_each_gets_its_own(
    batcher: Batcher, gate: Gate, engine: PolicyEngine
) -> None:
    requests = [PolicyRequest(observation(i), seed=i) for i in range(4)]
    first = batcher.ask(requests[0])
    assert gate.busy.wait(60.0)
    batcher.clients = 4
    rest = [batcher.ask(request) for request in requests[1:]]
    gate.open.set()
    assert first.result(60.0).timing["batch"] == 1.0
    for request, future in zip(requests[1:], rest, strict=True):
        answer = future.result(60.0)
        assert answer.timing["batch"] == 3.0
        np.testing.assert_allclose(answer.actions_CHD, engine.answer([request])[0].actions_CHD, atol=ROUNDING)
    assert batcher.answered == 4
    assert batcher.latency.summary().count == 4


def test_a_bad_request_fails_alone(batcher: Batcher, gate: Gate) -> None:
    good = PolicyRequest(observation(1), seed=1)
    bad = PolicyRequest(replace(observation(2), instruction="dance"), seed=1)
    blocked = batcher.ask(good)
    assert gate.busy.wait(60.0)
    batcher.clients = 3
    futures = [batcher.ask(request) for request in (good, bad, good)]
    gate.open.set()
    blocked.result(60.0)
    assert np.array_equal(futures[0].result(60.0).actions_CHD, futures[2].result(60.0).actions_CHD)
    with pytest.raises(ValueError, match="dance"):
        futures[1].result(60.0)
    assert (batcher.answered, batcher.failed) == (3, 1)


def test_a_question_that_nobody_waits_for_any_more_is_not_computed(batcher: Batcher, gate: Gate) -> None:
    request = PolicyRequest(observation(1), seed=1)
    first = batcher.ask(request)
    assert gate.busy.wait(60.0)
    gone = batcher.ask(request)
    assert gone.cancel()
    last = batcher.ask(request)
    gate.open.set()
    first.result(60.0)
    last.result(60.0)
    assert batcher.answered == 2


def test_an_engine_that_breaks_is_reported_and_the_next_question_is_tried_again(served_checkpoint: Path) -> None:
    engine = PolicyEngine.load(served_checkpoint, "cpu")
    encode = engine._stages.encode
    batcher = Batcher(engine)
    try:
        engine._stages.encode = None  # type: ignore[assignment, method-assign]
        with pytest.raises(TypeError):
            batcher.ask(PolicyRequest(observation(1), 0)).result(60.0)
        engine._stages.encode = encode  # type: ignore[method-assign]
        assert batcher.ask(PolicyRequest(observation(1), 0)).result(60.0).actions_CHD.shape == (6, 7)
        assert (batcher.answered, batcher.failed) == (1, 1)
    finally:
        batcher.close()


def test_latencies_are_counted_against_their_budget() -> None:
    meter = LatencyMeter(budget_s=0.1)
    assert meter.summary().p99_s == 0.0
    for seconds in (0.01, 0.02, 0.3):
        meter.add(seconds)
    summary = meter.summary()
    assert (summary.count, summary.over_budget, summary.worst_s, summary.p50_s) == (3, 1, 0.3, 0.02)
    with pytest.raises(ValueError, match="positive"):
        LatencyMeter(0.0)
