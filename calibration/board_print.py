"""The calibration board as a file that prints to scale: PDF of one page, or PNG that states its resolution.

Nothing but OpenCV is needed: a PDF with one compressed picture and a PNG with a pHYs chunk are a few lines each. The
page carries a line of exactly 100 mm beside the board, because printers scale.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from calibration.board_pattern import Board, Image

PAPERS_MM = {"a4": (297.0, 210.0), "a3": (420.0, 297.0), "a2": (594.0, 420.0), "letter": (279.4, 215.9)}
"""Landscape width and height."""
MARGIN_SQUARES = 0.5
_POINTS_PER_MM = 72.0 / 25.4


class PrintError(ValueError):
    """The board cannot be put on that page or into that kind of file; the message says what can."""


def write_board(
    path: str | Path, board: Board, *, paper: str = "", pixels_per_square: int = 300
) -> tuple[float, float]:
    """Write the board true to scale; the file's suffix chooses the format.

    Args:
        path: ends in .pdf or .png.
        paper: page of a PDF; empty takes the smallest of ``PAPERS_MM`` that holds the board, else a page made for it.
        pixels_per_square: resolution of the picture.

    Returns:
        Width and height of the page in millimetres.

    Raises:
        PrintError: another suffix, an unknown paper, or a board larger than the paper.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".pdf", ".png"):
        raise PrintError(f"the board can be written as .pdf or .png, got {path.name!r}")
    picture = board.image(pixels_per_square, MARGIN_SQUARES)
    square_mm = 1e3 * board.square_m
    size_mm = (
        picture.shape[1] / pixels_per_square * square_mm,
        picture.shape[0] / pixels_per_square * square_mm,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".png":
        path.write_bytes(_png(picture, pixels_per_square / board.square_m))
        return size_mm
    page_mm = _page(size_mm, paper)
    path.write_bytes(_pdf(picture, size_mm, page_mm, board))
    return page_mm


def _page(size_mm: tuple[float, float], paper: str) -> tuple[float, float]:
    if paper:
        if paper.lower() not in PAPERS_MM:
            raise PrintError(f"unknown paper {paper!r}; choose one of {', '.join(PAPERS_MM)}")
        page = PAPERS_MM[paper.lower()]
        if size_mm[0] > page[0] + 5.0 or size_mm[1] > page[1] + 5.0:
            raise PrintError(
                f"the board with its margin is {size_mm[0]:.0f} x {size_mm[1]:.0f} mm, {paper} is {page[0]:.0f} x "
                f"{page[1]:.0f} mm; choose a larger paper or smaller squares"
            )
        return page
    for page in sorted(PAPERS_MM.values()):
        # The margin is white: it may hang over the edge by a hair, squares may not.
        if size_mm[0] <= page[0] + 5.0 and size_mm[1] <= page[1] + 1.0:
            return page
    return size_mm[0], size_mm[1] + 20.0


def _png(picture: Image, pixels_per_metre: float) -> bytes:
    written, encoded = cv2.imencode(".png", picture)
    if not written:
        raise PrintError("OpenCV could not encode the picture as PNG")
    data = encoded.tobytes()
    after_header = 8 + 25  # signature, IHDR
    body = b"pHYs" + struct.pack(">IIB", round(pixels_per_metre), round(pixels_per_metre), 1)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
    return data[:after_header] + chunk + data[after_header:]


def _pdf(picture: Image, size_mm: tuple[float, float], page_mm: tuple[float, float], board: Board) -> bytes:
    height, width = picture.shape
    page = tuple(value * _POINTS_PER_MM for value in page_mm)
    drawn = tuple(value * _POINTS_PER_MM for value in size_mm)
    left, bottom = 0.5 * (page[0] - drawn[0]), 0.5 * (page[1] - drawn[1])
    bar_left, bar_y = 12 * _POINTS_PER_MM, 3.0 * _POINTS_PER_MM
    bar_right = bar_left + 100 * _POINTS_PER_MM
    text = f"{board.name}   print at 100 %, this line is 100 mm"
    content = (
        f"q {drawn[0]:.4f} 0 0 {drawn[1]:.4f} {left:.4f} {bottom:.4f} cm /Board Do Q\n"
        f"0.8 w {bar_left:.4f} {bar_y:.4f} m {bar_right:.4f} {bar_y:.4f} l S\n"
        f"BT /F 7 Tf {bar_right + 6:.4f} {bar_y - 2:.4f} Td ({_escaped(text)}) Tj ET\n"
    ).encode("latin-1")
    pixels = zlib.compress(np.ascontiguousarray(picture).tobytes(), 9)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {page[0]:.4f} {page[1]:.4f}] /Contents 4 0 R "
            "/Resources << /XObject << /Board 5 0 R >> /Font << /F 6 0 R >> >> >>"
        ).encode(),
        _stream("", content),
        _stream(
            f"/Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace /DeviceGray "
            "/BitsPerComponent 8 /Filter /FlateDecode",
            pixels,
        ),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    xref = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += "".join(f"{offset:010d} 00000 n \n" for offset in offsets).encode()
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{xref}\n%%EOF\n".encode()
    return bytes(out)


def _stream(dictionary: str, data: bytes) -> bytes:
    return f"<< {dictionary} /Length {len(data)} >>\nstream\n".encode() + data + b"\nendstream"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
