"""SentencePiece BPE models to ``tokenizer.json``, without the sentencepiece library.

A ``.model`` file is one protocol-buffer message (google/sentencepiece, sentencepiece_model.proto). Needed of it are the
pieces (field 1: text 1, score 2, kind 3), the kind of model (field 2, trainer: model_type 3, byte_fallback 35) and
whether a space is put in front of the text (field 3, normaliser: add_dummy_prefix 3).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

BPE = 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def tokenizer_from_sentencepiece(content: bytes) -> bytes:
    """The same tokeniser as a ``tokenizer.json``.

    SentencePiece joins the neighbours whose union has the best score; pieces of a BPE model are numbered in that
    order, so the merges are every way to cut a piece into two others, in the order of the pieces.

    Raises:
        ValueError: damaged, or not a BPE model with byte fallback and without dummy prefix (Gemma's kind).
    """
    try:
        pieces, settings = _read(content)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"this is no SentencePiece model ({error!r}); download it again") from error
    wanted = {"model_type": BPE, "byte_fallback": 1, "add_dummy_prefix": 0}
    if not pieces or settings != wanted:
        raise ValueError(
            f"only BPE models with byte fallback and without dummy prefix can be read ({wanted}), this one has "
            f"{len(pieces)} pieces and {settings}; use its tokenizer.json"
        )
    vocabulary = {text: i for i, (text, _, _) in enumerate(pieces)}
    # Several pieces may share a score; the better score merges first, then the earlier piece.
    order = sorted((i for i, (_, _, kind) in enumerate(pieces) if kind == NORMAL), key=lambda i: (-pieces[i][1], i))
    mergeable = {pieces[i][0] for i in order}
    merges = []
    for i in order:
        text = pieces[i][0]
        cuts = [(text[:at], text[at:]) for at in range(1, len(text))]
        cuts = [(a, b) for a, b in cuts if a in mergeable and b in mergeable]
        merges += sorted(cuts, key=lambda cut: (vocabulary[cut[0]], vocabulary[cut[1]]))
    unknown = next((text for text, _, kind in pieces if kind == UNKNOWN), None)
    added = [
        {
            "id": i,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": SPACE in text,  # such a piece can only be found after spaces were replaced
            "special": kind != USER_DEFINED,
        }
        for i, (text, _, kind) in enumerate(pieces)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [list(cut) for cut in merges],
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()


def _read(content: bytes) -> tuple[list[tuple[str, float, int]], dict[str, int]]:
    """Pieces (text, score, kind) and the settings that decide whether we can imitate the model."""
    pieces = []
    settings = {"model_type": 1, "byte_fallback": 0, "add_dummy_prefix": 1}  # the format's defaults
    for field, value in _fields(content):
        if field == 1 and isinstance(value, bytes):
            text, score, kind = "", 0.0, NORMAL
            for inner, part in _fields(value):
                if inner == 1 and isinstance(part, bytes):
                    text = part.decode()
                elif inner == 2 and isinstance(part, bytes):
                    (score,) = struct.unpack("<f", part)
                elif inner == 3 and isinstance(part, int):
                    kind = part
            pieces.append((text, score, kind))
        elif field == 2 and isinstance(value, bytes):
            names = {3: "model_type", 35: "byte_fallback"}
            settings |= {names[inner]: part for inner, part in _fields(value) if inner in names and type(part) is int}
        elif field == 3 and isinstance(value, bytes):
            names = {3: "add_dummy_prefix"}
            settings |= {names[inner]: part for inner, part in _fields(value) if inner in names and type(part) is int}
    return pieces, settings


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and raw values of a protocol-buffer message's fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            number, at = _varint(message, at)
            yield tag >> 3, number
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise IndexError(f"wire type {wire} at byte {at}")
        if at + size > len(message):
            raise IndexError(f"a field ends at byte {at + size}, the message at {len(message)}")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
