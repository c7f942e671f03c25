"""Decoding trusts nothing: every lie in a message is refused with a reason, and none gets past as another error."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prophrl_models.serving import wire
from prophrl_models.serving.errors import ProtocolError


@pytest.mark.parametrize("dtype", sorted(wire.DTYPES))
@pytest.mark.parametrize("shape", [(3,), (2, 0), (4, 5, 3), ()])
def test_arrays_come_back_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    value = np.asarray(100 * np.random.default_rng(0).random(shape)).astype(dtype)
    read = wire.array(wire.unpack(wire.pack({"a": value}))["a"], "a", dtype, value.ndim)
    assert read.dtype.name == dtype
    assert np.array_equal(read, value)


def test_memory_order_and_byte_order_of_the_sender_do_not_matter() -> None:
    value = np.arange(12, dtype=">f4").reshape(3, 4).T
    read = wire.array(wire.unpack(wire.pack({"a": value}))["a"], "a", "float32", 2)
    assert np.array_equal(read, value)


GOOD = {"dtype": "uint8", "shape": [2, 3], "data": bytes(6)}


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": [2, 4]},
        {"shape": [2, 2]},
        {"shape": [-2, -3]},
        {"shape": [6]},
        {"shape": [2, 3.0]},
        {"shape": [True, 6]},
        {"shape": [1 << 40, 0]},
        {"shape": "23"},
        {"dtype": "float32"},
        {"dtype": "object"},
        {"dtype": ["u1"]},
        {"data": "abcdef"},
        {"data": None},
        {"more": 1},
    ],
)
def test_an_array_that_lies_about_itself_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="image"):
        wire.array({**GOOD, **lie}, "image", "uint8", 2)


def test_objects_are_refused_on_both_sides() -> None:
    with pytest.raises(ProtocolError, match="no place in a message"):
        wire.pack({"a": np.array([object()])})
    with pytest.raises(ProtocolError, match="no place in a message"):
        wire.pack({"a": {1, 2}})
    with pytest.raises(ProtocolError):
        wire.unpack(pickle.dumps({"type": "infer"}))
    with pytest.raises(ProtocolError):
        wire.unpack(msgpack.packb({"a": msgpack.ExtType(3, b"x")}))


def test_messages_over_the_limit_are_neither_sent_nor_read() -> None:
    big = np.zeros(wire.MAX_MESSAGE_BYTES + 1, dtype=np.uint8)
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        wire.pack({"a": big})
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        wire.unpack(big.tobytes())


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", b"[]", msgpack.packb([1]), msgpack.packb({1: 2}), msgpack.packb({"a": 1})[:-1], b"\x91" * 3000],
    ids=["empty", "never used byte", "json", "list", "number key", "cut", "nested without end"],
)
def test_what_is_not_a_message_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        wire.unpack(data)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        wire.unpack(data)


def test_fields_must_be_exactly_those_of_the_type() -> None:
    assert wire.fields({"type": "a", "b": 1}, "a", {"b"})["b"] == 1
    for message in ({"type": "a"}, {"type": "a", "b": 1, "c": 2}, {"type": "x", "b": 1}, {"b": 1}):
        with pytest.raises(ProtocolError):
            wire.fields(message, "a", {"b"})


def test_numbers_and_texts_are_checked() -> None:
    assert wire.integer(3, "seed") == 3
    assert wire.text("é", "word") == "é"
    for value in (-1, 1 << 63, True, 1.0, "1", None):
        with pytest.raises(ProtocolError, match="seed"):
            wire.integer(value, "seed")
    for wrong in (b"x", "x" * 1001, None):
        with pytest.raises(ProtocolError, match="word"):
            wire.text(wrong, "word")
