"""Write a copy of a world model whose weights take two bytes each, for giving away.

  prophrl prophet pack runs/world/prophet runs/packed

It is used like any other; arithmetic is done in the usual types.
"""

from __future__ import annotations

import argparse
from pathlib import Path


class UsageError(ValueError):
    """Arguments that cannot be understood; the message says which."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of the world model")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the copy, new")
    parser.add_argument(
        "--note", action="append", default=[], metavar="KEY=TEXT", help="for its provenance; may be repeated"
    )


def run(options: argparse.Namespace) -> int:
    """Run the verb."""
    from prophrl_models.prophet.pack import pack_prophet
    from prophrl_nodes.cli.output import megabytes

    notes = {}
    for note in options.note:
        key, equals, text = note.partition("=")
        if not (key.strip() and equals and text.strip()) or key.strip() in notes:
            raise UsageError(f"--note {note!r}: give KEY=TEXT, and each KEY once")
        notes[key.strip()] = text.strip()
    folder = pack_prophet(options.checkpoint, options.out, notes=notes)
    print(f"{folder}: {megabytes(sum(file.stat().st_size for file in folder.iterdir()))}")
    return 0
