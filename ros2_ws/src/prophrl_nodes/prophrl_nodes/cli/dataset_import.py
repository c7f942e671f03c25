"""``prophrl dataset import``: a LeRobotDataset v3.0 folder that was exported here, back to a dataset."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from prophrl_nodes.cli.output import print_json


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("lerobot", type=Path, metavar="LEROBOT", help="folder that 'prophrl dataset export' wrote")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the dataset, new or to be continued")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the verb."""
    from prophrl_models.data.lerobot.importer import import_dataset

    report = import_dataset(options.lerobot, options.out, progress=not options.json)
    if options.json:
        print_json(asdict(report))
        return 0
    total = report.converted + report.resumed
    print(f"{report.folder}: {total} episodes ({report.converted} new), {report.steps} steps")
    print(f"content hash {report.content_hash}")
    return 0
