"""Datasets: bags in, synchronised episodes out; to and from LeRobotDataset v3.0.

  prophrl dataset build runs/collect/bags runs/dataset          successes only
  prophrl dataset build bags runs/all --outcome success --outcome failure --discarded       for world models
  prophrl dataset commanded trials/bags runs/play               policies' trials as commanded, for world models
  prophrl dataset info runs/dataset
  prophrl dataset select runs/monday runs/tuesday runs/both --outcome success --count 20
  prophrl dataset export runs/dataset runs/lerobot --workers 2
  prophrl dataset import runs/lerobot runs/again
  prophrl dataset sources
  prophrl dataset check droid data/droid_100
  prophrl dataset mixture config/train/mixture_paper.yaml --batches 20

A build or export that was interrupted goes on where it stopped; bags already in the dataset are not read again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from prophrl_nodes.cli import (
    dataset_check,
    dataset_commanded,
    dataset_export,
    dataset_import,
    dataset_mixture,
    dataset_select,
    dataset_sources,
)
from prophrl_nodes.cli.output import megabytes, print_json, table


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="{build,info,commanded,select,export,import,sources,check,mixture}"
    )
    build = verbs.add_parser("build", help="convert bags into a dataset folder")
    build.add_argument("bags", nargs="+", type=Path, metavar="BAGS", help="bags, or folders of bags")
    build.add_argument("out", type=Path, metavar="DATASET", help="folder of the dataset, new or to be continued")
    build.add_argument(
        "--outcome", action="append", metavar="OUTCOME", help="outcomes to take: success (default), failure, unknown"
    )
    build.add_argument("--task", action="append", default=[], help="only episodes of this task; may be repeated")
    build.add_argument(
        "--discarded", action="store_true", help="take attempts that were not accepted, too: for world models"
    )
    build.add_argument("--depth", action="store_true", help="keep the aligned depth images too")
    dataset_commanded.add_image_region(build)
    build.add_argument("--workers", type=int, default=0, metavar="N", help="processes that convert in parallel")
    info = verbs.add_parser("info", help="what a dataset holds")
    info.add_argument("dataset", type=Path, metavar="DATASET")
    for verb in (build, info):
        verb.add_argument("--json", action="store_true", help="print JSON")
    dataset_commanded.register(
        verbs.add_parser(
            "commanded",
            help="what policies played, as it was commanded: for world models",
            description=dataset_commanded.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    dataset_select.register(verbs.add_parser("select", help="some episodes of datasets, or several datasets, as one"))
    dataset_export.register(verbs.add_parser("export", help="write a dataset as a LeRobotDataset v3.0 folder"))
    dataset_import.register(verbs.add_parser("import", help="read such a folder back"))
    dataset_sources.register(verbs.add_parser("sources", help="the paper's datasets: what their numbers mean"))
    dataset_check.register(verbs.add_parser("check", help="read a published dataset and say what was understood"))
    dataset_mixture.register(verbs.add_parser("mixture", help="draw batches from a mixture of published datasets"))


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl dataset``."""
    verbs = {"build": _build, "info": _info, "commanded": dataset_commanded.run, "select": dataset_select.run}
    verbs |= {"export": dataset_export.run, "import": dataset_import.run}
    verbs |= {"sources": dataset_sources.run, "check": dataset_check.run, "mixture": dataset_mixture.run}
    return verbs[options.verb](options)


def _build(options: argparse.Namespace) -> int:
    from prophrl_models.data.build import build_dataset
    from prophrl_models.data.dataset_format import DatasetHeader
    from prophrl_models.data.depth import DepthSpec
    from prophrl_models.data.image import ImageRegion
    from prophrl_models.data.synchronise import SyncSpec
    from prophrl_nodes.cli.tasks import check_tasks

    check_tasks(options.task)
    sync = SyncSpec(image_region=ImageRegion(*options.image_region))
    report = build_dataset(
        options.bags,
        options.out,
        header=DatasetHeader(sync=sync, depth=DepthSpec() if options.depth else None),
        outcomes=options.outcome or ("success",),
        tasks=options.task,
        discarded=options.discarded,
        workers=options.workers,
        progress=not options.json,
    )
    if options.json:
        print_json({**asdict(report), "megabytes_per_s": report.megabytes_per_s})
        return 0
    total = report.converted + report.resumed
    print(f"{report.folder}: {total} episodes ({report.converted} new), {report.steps} steps")
    print(f"content hash {report.content_hash}")
    print(f"read {megabytes(report.bag_bytes)} of bags in {report.seconds:.1f} s")
    for entry in report.left_out:
        print(f"  left out {entry.source}: {entry.reason}")
    return 0


def _info(options: argparse.Namespace) -> int:
    from prophrl_models.data.dataset import Dataset

    dataset = Dataset(options.dataset)
    if options.json:
        print_json(
            {
                "folder": dataset.folder,
                "content_hash": dataset.content_hash,
                "convention": dataset.convention.name,
                "control_rate_hz": dataset.control_rate_hz,
                "episodes": [asdict(row) for row in dataset.table],
                "left_out": [asdict(entry) for entry in dataset.left_out],
            }
        )
        return 0
    print(f"{dataset.folder}: {len(dataset.table)} episodes, {dataset.convention.name}, {dataset.control_rate_hz:g} Hz")
    print(f"content hash {dataset.content_hash}")
    lines = [["", "episode", "task", "outcome", "steps", "usable", "calibration"]]
    for row in dataset.table:
        counts = [str(row.steps), str(row.valid_steps)]
        lines.append([str(row.index), row.episode_id, row.task, row.outcome, *counts, row.calibration_id])
    print(table(lines, right=(0, 4, 5)))
    for entry in dataset.left_out:
        print(f"left out {entry.source}: {entry.reason}")
    return 0
