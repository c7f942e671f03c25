"""``prophrl trials latency``: what inference latency costs a policy, with and without real-time chunking."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prophrl_nodes.cli.output import print_json, table

CHUNKING = ("synchronous", "real_time", "unguided")


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of the policy")
    parser.add_argument("--task", required=True, help="what is tried")
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="held-out placements each (default: 20)")
    parser.add_argument(
        "--latency", type=float, nargs="+", default=[0.0, 100.0, 300.0], metavar="MS",
        help="milliseconds from observation to answer, in simulated time (default: 0 100 300)",
    )  # fmt: skip
    parser.add_argument(
        "--chunking", nargs="+", choices=CHUNKING, default=["synchronous", "real_time"],
        help="how chunks follow one another (default: synchronous real_time)",
    )  # fmt: skip
    parser.add_argument(
        "--execute-length", type=int, default=0, metavar="ROWS",
        help="rows of a chunk until the next look (default: 8 synchronous, 4 where chunks overlap)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the sampling noise (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every trial and seam to this JSON file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the study and print its table."""
    from prophrl_nodes.cli.tasks import check_tasks
    from prophrl_nodes.studies.latency import run_latency_study
    from prophrl_nodes.studies.progress import progress_bar

    check_tasks([options.task])
    total = options.trials * len(options.latency) * len(options.chunking)
    with progress_bar(total, "trial") as bar:
        cells = run_latency_study(
            options.checkpoint,
            options.task,
            trials=options.trials,
            latencies_s=[ms * 1e-3 for ms in options.latency],
            chunking=options.chunking,
            execute_length=options.execute_length,
            seed=options.seed,
            device=options.device,
            out=options.out,
            on_trial=lambda: bar.update(1),
        )
    if options.json:
        print_json({"task": options.task, "checkpoint": options.checkpoint, "cells": [c.as_json() for c in cells]})
        return 0
    print(table([HEADING, *(_row(cell) for cell in cells)], right=range(1, len(HEADING))))
    print("Jumps and jerks at seams: median / 95 % quantile. Time: mean of the successful trials.")
    return 0


HEADING = [
    "chunking", "latency ms", "success", "95 %", "time s", "standing", "jump mm", "jump deg", "seam jerk m/s3",
    "jerk m/s3", "refused",
]  # fmt: skip


def _row(cell: Any) -> list[str]:
    interval = cell.rate.interval
    return [
        cell.chunking,
        f"{cell.latency_s * 1e3:.0f}",
        f"{cell.rate.successes} of {cell.rate.trials}",
        f"{interval.low:.2f} .. {interval.high:.2f}",
        f"{cell.success_duration_s:.1f}",
        f"{cell.standing_share:.0%}",
        "{:.1f} / {:.1f}".format(*cell.jump_mm),
        "{:.2f} / {:.2f}".format(*cell.jump_deg),
        "{:.1f} / {:.1f}".format(*cell.seam_jerk_mps3),
        f"{cell.jerk_mps3:.1f}",
        f"{cell.refused} of {cell.seams + cell.refused}",
    ]
