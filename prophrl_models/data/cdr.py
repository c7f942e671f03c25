"""sensor_msgs/Image straight from its serialised bytes (CDR), without copying or looping over pixels.

A camera gives thirty of these a second and a bag holds thousands, so this is the one message type that is
not left to a generic decoder. Layout: 4 bytes of encapsulation, then fields aligned to their own size
counted from byte 4 (OMG DDS-XTypes 1.3, plain CDR, version 1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.image import Depth, Image

COLOR_ENCODINGS = ("rgb8", "bgr8", "rgba8", "bgra8")
DEPTH_ENCODINGS = ("16UC1", "mono16", "z16")
"""Three names in use for the same bytes: unsigned 16 bit, millimetres (REP 118 for 16UC1)."""
_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4}


class ImageError(ValueError):
    """An image message that cannot be used; the message says what it holds and what is accepted."""


@dataclass(frozen=True)
class RawImage:
    """One sensor_msgs/Image; ``data`` is a view into the message's bytes (rows are ``step`` bytes long)."""

    stamp_ns: int
    frame_id: str
    height: int
    width: int
    encoding: str
    big_endian: bool
    step: int
    data: NDArray[np.uint8]


def parse_image(cdr: bytes | bytearray | memoryview) -> RawImage:
    """Read a serialised sensor_msgs/Image; pixels are not copied.

    Raises:
        ImageError: the bytes end early or are not plain CDR version 1.
    """
    view = memoryview(cdr).cast("B")
    if len(view) < 4 or view[0] != 0 or view[1] not in (0, 1):
        raise ImageError(f"expected plain CDR (first bytes 00 00 or 00 01), got {bytes(view[:4]).hex(' ')}")
    order = "<" if view[1] == 1 else ">"
    try:
        sec, nanosec, length = struct.unpack_from(order + "iII", view, 4)
        frame_id, at = _string(view, 16, length)
        height, width, length = struct.unpack_from(order + "III", view, _aligned(at))
        encoding, at = _string(view, _aligned(at) + 12, length)
        big_endian = view[at]
        step, size = struct.unpack_from(order + "II", view, _aligned(at + 1))
        start = _aligned(at + 1) + 8
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ImageError(f"{len(view)} bytes are not a sensor_msgs/Image: {error}; check the topic's type") from error
    if start + size > len(view):
        raise ImageError(f"image data of {size} bytes ends after {len(view) - start}: the message is cut off")
    data = np.frombuffer(view, np.uint8, count=size, offset=start)
    return RawImage(sec * 1_000_000_000 + nanosec, frame_id, height, width, encoding, bool(big_endian), step, data)


def rgb_image(height: int, width: int, encoding: str, step: int, data: NDArray[np.uint8]) -> Image:
    """RGB view [H, W, 3] of an 8-bit colour image with rows of ``step`` bytes; no copy.

    Raises:
        ImageError: the encoding has no RGB, or the sizes disagree.
    """
    if encoding not in COLOR_ENCODINGS:
        raise ImageError(
            f"colour image has encoding {encoding!r}, accepted are {', '.join(COLOR_ENCODINGS)}; "
            "set the camera's colour format to rgb8"
        )
    channels = _CHANNELS[encoding]
    if step < width * channels or data.size < height * step:
        raise ImageError(
            f"{encoding} image of {width}x{height} needs rows of {width * channels} bytes, "
            f"got step {step} and {data.size} bytes in all"
        )
    rows = data[: height * step].reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    return rows[:, :, 2::-1] if encoding.startswith("bgr") else rows[:, :, :3]


def depth_image(image: RawImage) -> Depth:
    """Depth [H, W] uint16 in millimetres of a 16-bit depth image; a view where the byte order allows it.

    Raises:
        ImageError: another encoding, or the sizes disagree.
    """
    if image.encoding not in DEPTH_ENCODINGS:
        raise ImageError(
            f"depth image has encoding {image.encoding!r}, accepted are {', '.join(DEPTH_ENCODINGS)} in millimetres; "
            "set the camera's depth format to z16"
        )
    if image.step < image.width * 2 or image.step % 2 or image.data.size < image.height * image.step:
        raise ImageError(
            f"{image.encoding} image of {image.width}x{image.height} needs rows of {image.width * 2} bytes, "
            f"got step {image.step} and {image.data.size} bytes in all"
        )
    rows = image.data[: image.height * image.step].reshape(image.height, image.step)[:, : image.width * 2]
    depth = np.ascontiguousarray(rows).view(">u2" if image.big_endian else "<u2")
    return depth.astype(np.uint16, copy=False)


def _aligned(offset: int) -> int:
    """The next multiple of 4, counted from the end of the encapsulation (itself 4 bytes)."""
    return (offset + 3) & ~3


def _string(view: memoryview, start: int, length: int) -> tuple[str, int]:
    """A CDR string (its length counts the closing zero) and the offset behind it."""
    if start + length > len(view):
        raise IndexError(f"a string of {length} bytes at offset {start} runs past the end")
    return bytes(view[start : start + max(length - 1, 0)]).decode(), start + length
