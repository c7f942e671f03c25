"""Write down what follows a protective stop, for the world model: whatever is commanded, nothing moves.

  prophrl prophet stops runs/demos runs/play runs/stops
  prophrl prophet train runs/demos runs/play runs/stops runs/world

Attempts that a stop ended are continued by actions of the datasets' successes while the picture stays. Without them a
world model lets every finger through, and a policy that is reinforced in it learns to run into things.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prophrl_nodes.cli.output import print_json


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="with attempts that ended in a stop")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the new dataset")
    parser.add_argument("--times", type=int, default=3, metavar="N", help="continuations of each (default: 3)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a continuation (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="of what is continued by what (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl prophet stops``."""
    from prophrl_models.prophet.stops import write_stops

    found = write_stops(
        options.datasets, options.out, times=options.times, seconds=options.seconds, seed=options.seed
    )  # fmt: skip
    if options.json:
        print_json({"folder": options.out, "stops": found.stops, "episodes": found.written})
        return 0
    print(f"{options.out}: {found.stops} attempts that a stop ended, as {found.written} episodes")
    return 0
