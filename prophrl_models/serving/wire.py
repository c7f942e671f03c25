"""Bytes on the wire: msgpack maps with arrays spelled out as dtype, shape and raw bytes. Never pickle.

A decoder trusts nothing: it accepts four number types, at most four dimensions, a byte count that fits both, and only
the fields that a message has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from prophrl_models.serving.errors import ProtocolError

MAX_MESSAGE_BYTES = 4 << 20
"""A 1024 x 1024 RGB image and some. Larger messages are not read to their end."""
MAX_DIMENSIONS = 4
MAX_ENTRIES = 4096
"""Entries of one map or list: a specification has instructions, nothing has more."""
DTYPES = {name: np.dtype(name).newbyteorder("<") for name in ("uint8", "int64", "float32", "float64")}
_ARRAY_FIELDS = {"dtype", "shape", "data"}


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as bytes; arrays must have one of ``DTYPES``.

    Raises:
        ProtocolError: too large, or a value that has no place in a message.
    """
    try:
        data: bytes = msgpack.packb(message, use_bin_type=True, default=_array_to_map)
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"message cannot be packed: {error}") from error
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"message of {len(data)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """The map in a message; arrays are still maps, see ``array``.

    Raises:
        ProtocolError: too large, not msgpack, or not a map with text keys.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"message of {len(data)} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")
    try:
        message = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=1 << 16,
            max_bin_len=MAX_MESSAGE_BYTES,
            max_array_len=MAX_ENTRIES,
            max_map_len=MAX_ENTRIES,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not a msgpack message: {type(error).__name__} {error}".rstrip()) from error
    if not isinstance(message, dict):
        raise ProtocolError(f"a message is a map, got {type(message).__name__}")
    return message


def fields(message: Mapping[str, Any], kind: str, names: set[str]) -> Mapping[str, Any]:
    """The message itself, when it is of this type and has exactly these fields beside ``type``.

    Raises:
        ProtocolError: otherwise, with the difference.
    """
    if message.get("type") != kind:
        raise ProtocolError(f"expected a message of type {kind!r}, got {message.get('type')!r}")
    present = set(message) - {"type"}
    if present != names:
        missing, unknown = sorted(names - present), sorted(map(str, present - names))
        raise ProtocolError(f"message {kind!r} lacks {missing} and has unknown {unknown}")
    return message


def text(value: Any, name: str, longest: int = 1000) -> str:
    """A string of limited length.

    Raises:
        ProtocolError: something else.
    """
    if not isinstance(value, str) or len(value) > longest:
        raise ProtocolError(f"{name} must be text of at most {longest} characters, got {_shown(value)}")
    return value


def integer(value: Any, name: str, low: int = 0, high: int = (1 << 63) - 1) -> int:
    """An integer within bounds.

    Raises:
        ProtocolError: something else.
    """
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"{name} must be an integer in [{low}, {high}], got {_shown(value)}")
    return value


def array(value: Any, name: str, dtype: str, dimensions: int) -> NDArray[Any]:
    """An array of this number type and dimension, read-only, from its map.

    Raises:
        ProtocolError: not an array, of another type or dimension, or with too few or too many bytes.
    """
    if not isinstance(value, dict) or set(value) != _ARRAY_FIELDS:
        raise ProtocolError(f"{name} must be an array with dtype, shape and data, got {_shown(value)}")
    shape, data = value["shape"], value["data"]
    if value["dtype"] != dtype:
        raise ProtocolError(f"{name} must hold {dtype}, got {_shown(value['dtype'])}")
    if not isinstance(shape, list) or len(shape) != dimensions or dimensions > MAX_DIMENSIONS:
        raise ProtocolError(f"{name} must have {dimensions} dimensions, got shape {_shown(shape)}")
    sizes = [integer(size, f"shape of {name}", high=1 << 24) for size in shape]
    wanted = math.prod(sizes) * DTYPES[dtype].itemsize
    if not isinstance(data, bytes) or len(data) != wanted:
        held = len(data) if isinstance(data, bytes) else _shown(data)
        raise ProtocolError(f"{name} of shape {sizes} and {dtype} needs {wanted} bytes, got {held}")
    return np.frombuffer(data, DTYPES[dtype]).reshape(sizes)


def _array_to_map(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray) or value.dtype.name not in DTYPES:
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{kind} has no place in a message; arrays may hold {', '.join(DTYPES)}")
    plain = np.ascontiguousarray(value, DTYPES[value.dtype.name])
    return {"dtype": value.dtype.name, "shape": list(value.shape), "data": plain.tobytes()}


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
