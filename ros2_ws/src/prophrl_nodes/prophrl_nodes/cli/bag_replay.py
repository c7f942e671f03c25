"""``prophrl bag replay``: put recorded episodes back on the cell and say how well that went."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prophrl_nodes.cli.output import print_json, progress, table

if TYPE_CHECKING:
    from prophrl_nodes.replaying.outcome import EpisodeOutcome


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="BAG", help="bag, .mcap file, or folder of bags")
    parser.add_argument(
        "--mode",
        choices=("actions", "joints"),
        default="actions",
        help="what drives the arm: the delta actions, as a policy's are executed, or the recorded joints",
    )
    parser.add_argument("--cell", default="twin", help="name or path of a cell file (default: twin)")
    parser.add_argument("--host", default="127.0.0.1", help="address that replaces {host} in the cell file")
    parser.add_argument("--domain", type=int, metavar="ID", help="ROS domain (default: ROS_DOMAIN_ID, else 0)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="replay the first N bags (default: all)")
    parser.add_argument(
        "--fast", action="store_true", help="twin only: in one process, many times faster than the arm moves"
    )
    parser.add_argument(
        "--gripper-delay",
        type=float,
        default=0.0,
        metavar="S",
        help="let the gripper's commands wait for the arm, which comes behind its targets (default: 0)",
    )
    parser.add_argument(
        "--any-calibration", action="store_true", help="also bags recorded under another camera calibration"
    )
    parser.add_argument(
        "--unattended", action="store_true", help="twin only: after a stop, go on without replay/proceed"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/replay"), metavar="FOLDER", help="for reports (default: runs/replay)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Replay, print the table and the rates; exit code 1 when an episode could not be replayed."""
    from prophrl_models.data.bag import find_bags
    from prophrl_nodes.replaying.outcome import read_outcomes
    from prophrl_nodes.replaying.plan import ReplayError
    from robot_bridge.cell_files import open_cell

    cell = open_cell(options.cell, options.host)
    if options.limit < 0 or not 0.0 <= options.gripper_delay <= 1.0:
        raise ReplayError(
            f"--limit must not be negative and --gripper-delay lie in 0..1 s, got {options.limit} and "
            f"{options.gripper_delay}"
        )
    if cell.twin is None and (options.fast or options.unattended):
        raise ReplayError(f"--fast and --unattended are for the twin; cell {options.cell!r} is a real one")
    bags = find_bags([path.resolve() for path in options.paths])[: options.limit or None]
    if not bags:
        raise ReplayError(
            f"no bag below {', '.join(map(str, options.paths))}; discarded and incomplete ones do not count"
        )
    folder = options.output.resolve() / time.strftime("%Y%m%dT%H%M%S")
    folder.mkdir(parents=True)
    (_fast if options.fast else _launch)(options, bags, folder)
    return _report(read_outcomes(folder), folder, options.json)


def _fast(options: argparse.Namespace, bags: list[Path], folder: Path) -> None:
    from prophrl_nodes.replaying.fast import FastReplays
    from prophrl_nodes.replaying.outcome import write_outcome
    from robot_bridge.cell_files import open_cell

    with FastReplays(open_cell(options.cell, options.host), options.mode, options.gripper_delay) as replays:
        for bag in progress(bags, "bag"):
            write_outcome(folder, replays.replay(bag))


def _launch(options: argparse.Namespace, bags: list[Path], folder: Path) -> None:
    from prophrl_nodes.replaying.outcome import read_outcomes
    from prophrl_nodes.studies.stages import launch_command, run_stage

    domain = int(os.environ.get("ROS_DOMAIN_ID", "0")) if options.domain is None else options.domain
    arguments = {
        "cell": options.cell,
        "host": options.host,
        "domain": domain,
        "bags": os.pathsep.join(map(str, bags)),
        "mode": options.mode,
        "gripper_delay": options.gripper_delay,
        "same_calibration": str(not options.any_calibration).lower(),
        "unattended": str(options.unattended).lower(),
        "output": folder,
    }
    if options.cell != "twin":
        from robot_bridge.cell_files import open_cell

        arguments["lab"] = str(open_cell(options.cell, options.host).twin is not None).lower()
    log = folder / "launch.log"
    told: set[str] = set()

    def watch() -> None:
        for outcome in read_outcomes(folder):
            if outcome.episode_id not in told:
                told.add(outcome.episode_id)
                word = "yes" if outcome.success else (outcome.stop_reason or outcome.reason or "no")
                print(f"{len(told)} of {len(bags)}  {outcome.episode_id}  success again: {word}", file=sys.stderr)
                if outcome.stop_reason and not options.unattended and len(told) < len(bags):
                    print(f"if replay/proceed is waited for, {log} says why; Ctrl-C ends", file=sys.stderr)

    print(f"replaying {len(bags)} on cell {options.cell}; log in {log}", file=sys.stderr)
    run_stage(launch_command("replay", arguments), log, watch, domain_id=domain)


def _report(outcomes: list[EpisodeOutcome], folder: Path, as_json: bool) -> int:
    from prophrl_nodes.replaying.outcome import rates, rows

    found = rates(outcomes)
    if as_json:
        print_json(
            {
                "folder": folder,
                "episodes": [outcome.to_json() for outcome in outcomes],
                "rates": {task: _rate(rate) for task, rate in found.items()},
            }
        )
    else:
        print(table(rows(outcomes), right=range(2, 11)))
        for outcome in outcomes:
            if not outcome.success:
                print(f"{outcome.episode_id}: {outcome.stop_reason or outcome.reason}")
        for task, rate in found.items():
            interval = rate.interval
            print(
                f"{task}: {rate.successes} of {rate.trials} succeeded again, {rate.rate:.2f}, "
                f"95 % {interval.low:.2f} .. {interval.high:.2f}"
            )
        print(f"reports in {folder}")
    return 0 if outcomes and all(outcome.valid for outcome in outcomes) else 1


def _rate(rate: Any) -> dict[str, Any]:
    interval = rate.interval
    return {
        "successes": rate.successes,
        "trials": rate.trials,
        "rate": rate.rate,
        "interval_95": [interval.low, interval.high],
    }
