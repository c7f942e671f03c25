"""``prophrl dataset select``: some episodes of datasets, or several datasets, as one."""

from __future__ import annotations

import argparse
from pathlib import Path

from prophrl_nodes.cli.output import print_json


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="made by prophrl dataset build")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the new dataset")
    parser.add_argument("--task", action="append", default=[], help="only episodes of this task; may be repeated")
    parser.add_argument("--outcome", action="append", default=[], help="only episodes that ended so; may be repeated")
    parser.add_argument("--episode", action="append", default=[], metavar="ID", help="only this one; may be repeated")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="so many of each task, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the verb."""
    from prophrl_models.data.select import Choice, select_episodes
    from prophrl_nodes.cli.tasks import check_tasks

    check_tasks(options.task)
    choice = Choice(
        tuple(options.task), tuple(options.outcome), tuple(options.episode), count=options.count, seed=options.seed
    )
    dataset = select_episodes(options.datasets, options.out, choice)
    if options.json:
        print_json({"folder": dataset.folder, "content_hash": dataset.content_hash, "episodes": len(dataset)})
        return 0
    print(f"{dataset.folder}: {len(dataset)} episodes, {sum(row.steps for row in dataset.table)} steps")
    print(f"content hash {dataset.content_hash}")
    return 0
