"""Messages mean the same on both ends, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prophrl_models.policies.chunking import Committed
from prophrl_models.serving import protocol, wire
from prophrl_models.serving.engine import PolicyAnswer, PolicyEngine, PolicyRequest
from prophrl_models.serving.errors import ProtocolError
from prophrl_models.serving.protocol import Hello
from prophrl_models.serving.server import hello_of
from tests.helpers.served_policy import CHUNK, observation


def across(message: dict[str, Any]) -> dict[str, Any]:
    """As the other side gets it."""
    return wire.unpack(wire.pack(message))


def test_a_hello_carries_the_whole_promise(engine: PolicyEngine) -> None:
    hello = hello_of(engine, 0.02)
    assert Hello.from_message(across(hello.to_message())) == hello
    assert hello.spec == engine.spec


@pytest.mark.parametrize("field", ["spec", "sync", "checkpoint_id", "warm_p50_s"])
def test_a_hello_with_a_damaged_field_is_refused(engine: PolicyEngine, field: str) -> None:
    message = across(hello_of(engine, 0.02).to_message())
    with pytest.raises(ProtocolError):
        Hello.from_message({**message, field: {"convention": "SIDEWAYS"}})
    del message[field]
    with pytest.raises(ProtocolError, match=field):
        Hello.from_message(message)


def test_another_version_is_named(engine: PolicyEngine) -> None:
    message = {**across(hello_of(engine, 0.02).to_message()), "version": 99}
    with pytest.raises(ProtocolError, match=r"version 99.*same release"):
        Hello.from_message(message)


@pytest.mark.parametrize("continues", [False, True])
def test_a_question_comes_through_bit_for_bit(continues: bool) -> None:
    rows = np.random.default_rng(1).normal(size=(4, 7)).astype(np.float32)
    asked = PolicyRequest(observation(3), (1 << 63) - 1, Committed(rows, 2) if continues else None)
    message = across(protocol.request_to_message(asked, 7, "c0ffee"))
    read, number, checkpoint = protocol.request_from_message(message)
    assert (number, checkpoint, read.seed) == (7, "c0ffee", asked.seed)
    assert np.array_equal(read.observation.image_HW3, asked.observation.image_HW3)
    assert np.array_equal(read.observation.state_7, asked.observation.state_7)
    assert read.observation.instruction == asked.observation.instruction
    if continues:
        assert read.committed is not None
        assert np.array_equal(read.committed.actions_MD, rows)
        assert read.committed.frozen == 2
    else:
        assert read.committed is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image", None),
        ("image", np.zeros((240, 320, 3), dtype=np.float32)),
        ("image", np.zeros((240, 320), dtype=np.uint8)),
        ("state", np.zeros((1, 7), dtype=np.float32)),
        ("state", [0.0] * 7),
        ("seed", -1),
        ("seed", "0"),
        ("instruction", b"bytes"),
        ("committed", {"actions": np.zeros((2, 7), dtype=np.float32)}),
        ("committed", {"actions": np.zeros((2, 7), dtype=np.float32), "frozen": 3}),
        ("committed", {"actions": np.full((2, 7), np.nan, dtype=np.float32), "frozen": 0}),
        ("committed", {"actions": np.zeros((0, 7), dtype=np.float32), "frozen": 0}),
        ("surprise", 1),
    ],
)
def test_a_question_that_does_not_follow_the_protocol_is_refused(field: str, value: Any) -> None:
    message = protocol.request_to_message(PolicyRequest(observation(3), 0), 1, "c0ffee")
    with pytest.raises((ProtocolError, ValueError), match=field):
        protocol.request_from_message(across({**message, field: value}))


def test_an_answer_comes_through_bit_for_bit_and_one_with_nan_does_not() -> None:
    answer = PolicyAnswer(np.random.default_rng(1).normal(size=(CHUNK, 7)).astype(np.float32), {"total_ms": 12.5})
    read, number = protocol.answer_from_message(across(protocol.answer_to_message(answer, 5)))
    assert number == 5
    assert np.array_equal(read.actions_CHD, answer.actions_CHD)
    assert read.timing == answer.timing
    broken = replace(answer, actions_CHD=np.full((CHUNK, 7), np.inf, dtype=np.float32))
    with pytest.raises(ProtocolError, match="not finite"):
        protocol.answer_from_message(across(protocol.answer_to_message(broken, 5)))
