"""Write a copy of a world model whose weights take two bytes each, for giving away.

  prophrl prophet pack runs/world/prophet runs/packed

It is used like any other; arithmetic is done in the usual types.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder of the world model")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the copy, new")


def run(options: argparse.Namespace) -> int:
    """Run the verb."""
    from prophrl_models.prophet.pack import pack_prophet
    from prophrl_nodes.cli.output import megabytes

    folder = pack_prophet(options.checkpoint, options.out)
    print(f"{folder}: {megabytes(sum(file.stat().st_size for file in folder.iterdir()))}")
    return 0
