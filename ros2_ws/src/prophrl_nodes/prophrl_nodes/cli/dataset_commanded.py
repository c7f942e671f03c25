"""``prophrl dataset commanded``: what policies played, as it was commanded, for world models to learn from.

  prophrl dataset commanded runs/trials/bags runs/play
  prophrl prophet train runs/demos runs/play runs/world

The chunks' own rows are the actions, pauses between chunks are left out, and what was still to come when the arm
stopped counts, under a picture that stays. These are no demonstrations: do not train policies on them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prophrl_nodes.cli.output import print_json


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAGS", help="bags of trials, or folders of them")
    parser.add_argument("out", type=Path, metavar="DATASET", help="folder of the dataset, new or to be continued")
    add_image_region(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_image_region(parser: argparse.ArgumentParser) -> None:
    """The argument of all that makes datasets out of bags."""
    parser.add_argument(
        "--image-region", nargs=3, type=float, default=(0.0, 0.0, 1.0), metavar=("LEFT", "TOP", "SIZE"),
        help="part of the 4:3 picture, as shares of it, where the work takes place (default: 0 0 1, all of it)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Run the verb."""
    from prophrl_models.data.commanded_build import build_commanded
    from prophrl_models.data.dataset_format import DatasetHeader
    from prophrl_models.data.image import ImageRegion
    from prophrl_models.data.synchronise import SyncSpec

    header = DatasetHeader(sync=SyncSpec(image_region=ImageRegion(*options.image_region)))
    built = build_commanded(options.bags, options.out, header)
    if options.json:
        print_json(
            {
                "folder": options.out,
                "content_hash": built.content_hash,
                "episodes": built.episodes,
                "left_out": [{"bag": name, "reason": reason} for name, reason in built.left_out],
            }
        )
        return 0
    print(f"{options.out}: {built.episodes} episodes, {len(built.left_out)} bags left out")
    for name, reason in built.left_out:
        print(f"  {name}: {reason}")
    print(f"content hash {built.content_hash}")
    return 0
