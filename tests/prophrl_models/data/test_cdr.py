"""Images read from serialised bytes equal what rclpy put there, whatever the alignment of the fields before them."""

from __future__ import annotations

import array
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from prophrl_models.data.cdr import ImageError, parse_image, rgb_image
from tests.helpers.recording import color_image


@settings(max_examples=60, deadline=None)
@given(
    frame_id=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
    encoding=st.sampled_from(["rgb8", "bgr8", "rgba8", "16UC1", "8UC1", "an odd encoding"]),
    stamp=st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 999_999_999)),
    size=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    padding=st.integers(0, 3),
)
def test_parsing_returns_what_rclpy_serialised(
    frame_id: str, encoding: str, stamp: tuple[int, int], size: tuple[int, int], padding: int
) -> None:
    height, width = size
    step = width * 3 + padding
    message = Image(height=height, width=width, encoding=encoding, step=step)
    message.header.frame_id = frame_id
    message.header.stamp.sec, message.header.stamp.nanosec = stamp
    message.data = array.array("B", bytes(range(height * step)))
    raw = parse_image(serialize_message(message))
    assert (raw.frame_id, raw.encoding, raw.height, raw.width, raw.step) == (frame_id, encoding, height, width, step)
    assert raw.stamp_ns == stamp[0] * 1_000_000_000 + stamp[1]
    assert raw.data.tobytes() == bytes(message.data)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_all_colour_encodings_give_the_same_rgb(encoding: str) -> None:
    raw = parse_image(serialize_message(color_image(7, 32, 24, encoding)))
    rgb = rgb_image(raw.height, raw.width, raw.encoding, raw.step, raw.data)
    assert rgb.shape == (24, 32, 3)
    assert (rgb[..., 0] == 7).all()
    assert (rgb[3, :, 1] == (np.arange(32) + 7)).all()


def test_padding_at_the_end_of_rows_is_not_part_of_the_image() -> None:
    rows = np.arange(2 * 8, dtype=np.uint8).reshape(2, 8)
    rgb = rgb_image(2, 2, "rgb8", 8, rows.ravel())
    assert rgb.tolist() == [[[0, 1, 2], [3, 4, 5]], [[8, 9, 10], [11, 12, 13]]]


def test_pixels_are_a_view_into_the_message() -> None:
    cdr = bytearray(serialize_message(color_image(1, 8, 4)))
    raw = parse_image(cdr)
    cdr[-1] ^= 0xFF
    assert raw.data[-1] == cdr[-1]


def test_big_endian_bytes_are_understood() -> None:
    fields = struct.pack(">iII4s", 5, 6, 4, b"cam\0") + struct.pack(">III5s", 1, 1, 5, b"rgb8\0")
    cdr = b"\0\0\0\0" + fields + b"\0\0\0" + struct.pack(">II", 3, 3) + b"\x01\x02\x03"
    raw = parse_image(cdr)
    assert (raw.stamp_ns, raw.frame_id, raw.encoding, raw.data.tolist()) == (5_000_000_006, "cam", "rgb8", [1, 2, 3])


def test_every_cut_off_message_is_refused() -> None:
    cdr = serialize_message(color_image(1, 4, 2))
    for length in range(len(cdr)):
        with pytest.raises(ImageError):
            parse_image(cdr[:length])


def test_a_wrong_encoding_is_named_with_the_accepted_ones() -> None:
    with pytest.raises(ImageError, match=r"'16UC1', accepted are rgb8, bgr8, rgba8, bgra8"):
        rgb_image(2, 2, "16UC1", 4, np.zeros(8, np.uint8))


def test_sizes_that_disagree_are_refused() -> None:
    with pytest.raises(ImageError, match="needs rows of 12 bytes, got step 8"):
        rgb_image(2, 4, "rgb8", 8, np.zeros(16, np.uint8))
