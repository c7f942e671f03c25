"""The two protocol-buffer messages that TFRecord files of datasets hold, read from their wire format.

tf.train.Example          { Features features = 1; }
tf.train.SequenceExample  { Features context = 1; FeatureLists feature_lists = 2; }
Features                  { map<string, Feature> feature = 1; }
FeatureLists              { map<string, FeatureList> feature_list = 1; }
FeatureList               { repeated Feature feature = 1; }
Feature                   { BytesList bytes_list = 1 | FloatList float_list = 2 | Int64List int64_list = 3; }
... each list             { repeated value = 1; }  floats as 4 bytes, integers as varints, both packed or not

Source: tensorflow/tensorflow core/example/{example,feature}.proto and the protocol-buffer encoding guide.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.registry.errors import CorruptFileError

Values = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KINDS = {1: "bytes", 2: "float", 3: "int64"}


class StoredFeature:
    """One feature, decoded when asked for: an episode's pictures and embeddings are often not wanted."""

    def __init__(self, message: memoryview) -> None:
        self._message = message

    def values(self) -> Values:
        """Byte strings, float32 or int64 numbers; an unset feature is an empty list."""
        for field, _, value in _fields(self._message):
            if field in _KINDS:
                return _list_values(_as_bytes(value), _KINDS[field])
        return []


def parse_example(data: bytes) -> dict[str, StoredFeature]:
    """Features of a serialised ``tf.train.Example`` by key.

    Raises:
        CorruptFileError: the bytes are no such message; the caller knows file and offset.
    """
    features: dict[str, StoredFeature] = {}
    for field, _, value in _fields(memoryview(data)):
        if field == 1:
            features.update(_feature_map(_as_bytes(value)))
    return features


def parse_sequence_example(data: bytes) -> tuple[dict[str, StoredFeature], dict[str, list[StoredFeature]]]:
    """Context features and per-step feature lists of a serialised ``tf.train.SequenceExample``."""
    context: dict[str, StoredFeature] = {}
    lists: dict[str, list[StoredFeature]] = {}
    for field, _, value in _fields(memoryview(data)):
        if field == 1:
            context.update(_feature_map(_as_bytes(value)))
        elif field == 2:
            for key, message in _map_entries(_as_bytes(value)):
                lists[key] = [StoredFeature(_as_bytes(v)) for number, _, v in _fields(message) if number == 1]
    return context, lists


def _feature_map(message: memoryview) -> dict[str, StoredFeature]:
    return {key: StoredFeature(value) for key, value in _map_entries(message)}


def _map_entries(message: memoryview) -> Iterator[tuple[str, memoryview]]:
    for field, _, value in _fields(message):
        if field != 1:
            continue
        key, content = "", memoryview(b"")
        for number, _, part in _fields(_as_bytes(value)):
            if number == 1:
                key = _decoded(_as_bytes(part))
            elif number == 2:
                content = _as_bytes(part)
        yield key, content


def _list_values(message: memoryview, kind: str) -> Values:
    if kind == "bytes":
        return [bytes(_as_bytes(value)) for field, _, value in _fields(message) if field == 1]
    numbers: list[NDArray[Any]] = []
    for field, wire, value in _fields(message):
        if field != 1:
            continue
        if kind == "float":
            numbers.append(np.frombuffer(_as_bytes(value) if wire == _BYTES else _fixed(value), "<f4"))
        elif wire == _BYTES:
            numbers.append(_packed_varints(_as_bytes(value)))
        else:
            assert isinstance(value, int)
            numbers.append(np.array([_signed(value)], np.int64))
    joined = np.concatenate(numbers) if numbers else np.zeros(0)
    return np.asarray(joined, dtype=np.float32) if kind == "float" else np.asarray(joined, dtype=np.int64)


def _packed_varints(data: memoryview) -> NDArray[np.int64]:
    array = np.frombuffer(data, np.uint8)
    last = array < 0x80
    if last.all():
        return array.astype(np.int64)
    if not len(array) or not last[-1]:
        raise CorruptFileError("a packed integer list ends inside a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 9:
        raise CorruptFileError("an integer of more than 10 bytes")
    shift = (np.arange(len(array)) - np.repeat(starts, ends - starts + 1)).astype(np.uint64) * np.uint64(7)
    parts = (array & 0x7F).astype(np.uint64) << shift
    return np.asarray(np.add.reduceat(parts, starts), dtype=np.uint64).view(np.int64)


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Field number, wire type and value of each field: an integer for varints, bytes for everything else."""
    position, size = 0, len(message)
    while position < size:
        tag, position = _varint(message, position)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            number, position = _varint(message, position)
            yield field, wire, number
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise CorruptFileError(f"wire type {wire} at byte {position} of a protocol-buffer message")
        if position + length > size:
            raise CorruptFileError(f"a field of {length} bytes at byte {position} of a message of {size} bytes")
        yield field, wire, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise CorruptFileError(f"an unfinished number at byte {position} of a protocol-buffer message")


def _signed(value: int) -> int:
    return int(struct.unpack("<q", struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF))[0])


def _as_bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise CorruptFileError("a number where a message is expected")
    return value


def _fixed(value: int | memoryview) -> memoryview:
    data = _as_bytes(value)
    if len(data) != 4:
        raise CorruptFileError(f"a float of {len(data)} bytes")
    return data


def _decoded(data: memoryview) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"a feature name that is no text: {error}") from error
