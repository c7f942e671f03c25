"""TFRecord framing and the Example messages, against TensorBoard's CRC and the protocol-buffer library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as reference_crc32c

from prophrl_models.data.registry.crc32c import crc32c
from prophrl_models.data.registry.errors import CorruptFileError
from prophrl_models.data.registry.tf_example import parse_example, parse_sequence_example
from prophrl_models.data.registry.tfrecord import read_record, record_offsets, records
from tests.helpers.published_layouts import example_class, write_tfrecord


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000))
def test_crc_equals_a_reference(data: bytes) -> None:
    assert crc32c(data) == reference_crc32c(data)


@pytest.mark.parametrize("count", [2**18 - 1, 2**18, 2**18 + 1, 700_001])
def test_crc_of_data_of_several_blocks_equals_a_reference(count: int) -> None:
    data = np.random.default_rng(count).integers(0, 256, count).astype(np.uint8).tobytes()
    assert crc32c(data) == reference_crc32c(data)


def test_crc_of_published_vectors() -> None:
    """RFC 3720, appendix B.4, and the usual check value."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_records_come_back(tmp_path: Path) -> None:
    written = [b"", b"one", bytes(range(256)) * 40]
    write_tfrecord(tmp_path / "a.tfrecord", written)
    assert list(records(tmp_path / "a.tfrecord")) == written
    assert record_offsets(tmp_path / "a.tfrecord") == [0, 16, 35]


@pytest.mark.parametrize(
    ("byte", "what"), [(16 + 14, "data of the record at byte 16"), (16, "record length at byte 16")]
)
def test_a_flipped_bit_is_refused_with_file_and_offset(tmp_path: Path, byte: int, what: str) -> None:
    file = tmp_path / "shard.tfrecord-00000-of-00001"
    write_tfrecord(file, [b"", b"something", b"more"])
    data = bytearray(file.read_bytes())
    data[byte] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(CorruptFileError, match=what) as caught:
        list(records(file))
    assert str(file) in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.tfrecord"
    write_tfrecord(file, [b"something"])
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(CorruptFileError, match="the file ends at 22"):
        record_offsets(file)
    with pytest.raises(CorruptFileError, match="cut off"):
        read_record(file, 0)


INTEGERS = [0, 1, -1, 127, 128, 300, 2**40, -(2**63), 2**63 - 1]


def test_examples_of_the_protocol_buffer_library_are_read() -> None:
    example = example_class()[0]()
    example.features.feature["steps/observation/image"].bytes_list.value.extend([b"\xff\xd8", b""])
    example.features.feature["steps/action"].float_list.value.extend([1.5, -2.25, 1e-30])
    example.features.feature["steps/is_first"].int64_list.value.extend([1, 0, 0])
    example.features.feature["big"].int64_list.value.extend(INTEGERS)
    example.features.feature["empty"].float_list.SetInParent()
    found = parse_example(example.SerializeToString())
    assert found["steps/observation/image"].values() == [b"\xff\xd8", b""]
    assert np.array_equal(found["steps/action"].values(), np.array([1.5, -2.25, 1e-30], np.float32))
    assert np.array_equal(found["steps/is_first"].values(), [1, 0, 0])
    assert np.array_equal(found["big"].values(), np.array(INTEGERS))
    assert len(found["empty"].values()) == 0


def test_unpacked_numbers_are_read_too() -> None:
    """Feature{float_list{1: 1.0, 1: 2.0}} and Feature{int64_list{1: 300}}, each value with its own tag."""
    floats = bytes.fromhex("120a 0d0000803f 0d00000040")
    integers = bytes.fromhex("1a03 08ac02")
    for key, feature, wanted in ((b"f", floats, [1.0, 2.0]), (b"i", integers, [300])):
        entry = b"\x0a\x01" + key + b"\x12" + bytes([len(feature)]) + feature
        features = b"\x0a" + bytes([len(entry)]) + entry
        message = b"\x0a" + bytes([len(features)]) + features
        assert parse_example(message)[key.decode()].values().tolist() == wanted


def test_sequence_examples_are_read() -> None:
    example = example_class()[1]()
    example.context.feature["task"].bytes_list.value.append(b"pour")
    for step in range(3):
        example.feature_lists.feature_list["angle"].feature.add().float_list.value.extend([step, step + 0.5])
    context, lists = parse_sequence_example(example.SerializeToString())
    assert context["task"].values() == [b"pour"]
    assert [feature.values().tolist() for feature in lists["angle"]] == [[0, 0.5], [1, 1.5], [2, 2.5]]


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(CorruptFileError, match="wire type 7"):
        parse_example(b"\x0f\x01\x02")
    with pytest.raises(CorruptFileError, match="a field of 100 bytes"):
        parse_example(b"\x0a\x64ab")
