"""The printed board: true to scale on paper, and the picture on it is the board."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.board import DEFAULT_BOARD, Board, detect
from calibration.board_print import PrintError, write_board

MM = 72.0 / 25.4


def test_the_png_states_the_resolution_that_makes_squares_their_size(tmp_path: Path) -> None:
    write_board(tmp_path / "board.png", DEFAULT_BOARD, pixels_per_square=120)
    data = (tmp_path / "board.png").read_bytes()
    at = data.index(b"pHYs")
    x, y, unit = struct.unpack(">IIB", data[at + 4 : at + 13])
    assert struct.unpack(">I", data[at + 13 : at + 17])[0] == zlib.crc32(data[at : at + 13])
    assert (x, y, unit) == (4000, 4000, 1)  # 120 pixels in 30 mm
    image = cv2.imread(str(tmp_path / "board.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None and image.shape == (7 * 120, 10 * 120)
    view = detect(np.asarray(image, dtype=np.uint8), DEFAULT_BOARD)
    assert view is not None and len(view.ids_N) == DEFAULT_BOARD.corner_count
    spacing = np.linalg.norm(view.corners_px_N2[1] - view.corners_px_N2[0])
    assert abs(spacing - 120.0) < 0.1


def test_the_pdf_draws_the_board_at_its_size_with_a_line_of_100_mm(tmp_path: Path) -> None:
    page = write_board(tmp_path / "board.pdf", DEFAULT_BOARD, pixels_per_square=100)
    assert page == (297.0, 210.0)
    data = (tmp_path / "board.pdf").read_bytes()
    width, height = map(float, re.search(rb"q ([\d.]+) 0 0 ([\d.]+) ", data).groups())  # type: ignore[union-attr]
    assert (width / MM, height / MM) == pytest.approx((300.0, 210.0), abs=0.01)
    left, right = map(float, re.search(rb"([\d.]+) [\d.]+ m ([\d.]+) [\d.]+ l S", data).groups())  # type: ignore[union-attr]
    assert (right - left) / MM == pytest.approx(100.0, abs=0.01)
    for number, offset in enumerate(re.findall(rb"(\d{10}) 00000 n", data), start=1):
        assert data[int(offset) :].startswith(f"{number} 0 obj".encode())
    stream = re.search(rb"/Width (\d+) /Height (\d+).*?/Length (\d+) >>\nstream\n", data)
    assert stream is not None
    columns, rows, length = map(int, stream.groups())
    pixels = np.frombuffer(zlib.decompress(data[stream.end() : stream.end() + length]), dtype=np.uint8)
    view = detect(pixels.reshape(rows, columns), DEFAULT_BOARD)
    assert view is not None and len(view.ids_N) == DEFAULT_BOARD.corner_count


def test_a_larger_board_gets_a_larger_page_and_an_impossible_one_a_reason(tmp_path: Path) -> None:
    large = Board("charuco", 9, 6, 0.042, 0.031)
    assert write_board(tmp_path / "a.pdf", large, pixels_per_square=60) == (420.0, 297.0)
    with pytest.raises(PrintError, match="larger paper"):
        write_board(tmp_path / "b.pdf", large, paper="a4", pixels_per_square=60)
    with pytest.raises(PrintError, match="a4, a3"):
        write_board(tmp_path / "b.pdf", large, paper="a9", pixels_per_square=60)
    with pytest.raises(PrintError, match=r"\.pdf or \.png"):
        write_board(tmp_path / "b.jpg", large)
