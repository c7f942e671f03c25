"""Recorded episodes: look at them, check them, repair what was cut off, pack them.

  prophrl bag info runs/collect/bags/place_cube/20260101T120000000-place_cube
  prophrl bag check bags/place_cube --require camera/color/image_raw --max-gap 0.2
  prophrl bag recover bags/incomplete               after a crash or a power cut
  prophrl bag compress bags                         zstd, verified, when the disk fills
  prophrl bag replay bags/place_cube --fast         do it again from its delta actions, and measure the difference

A path may be one bag (a folder or its .mcap file) or a folder of many.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from prophrl_nodes.cli import bag_replay
from prophrl_nodes.cli.output import megabytes, print_json, progress, table


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{info,check,recover,compress,replay}")
    info = verbs.add_parser("info", help="what a bag holds: topics, rates, gaps, the episode it is")
    check = verbs.add_parser("check", help="is it fit for use? exit code 1 when not")
    check.add_argument("--require", action="append", default=[], metavar="TOPIC", help="topic that must hold messages")
    check.add_argument("--max-gap", type=float, metavar="S", help="longest silence allowed on required topics")
    check.add_argument("--max-dropped", type=int, metavar="N", help="most messages that may be lost on a topic")
    recover = verbs.add_parser(
        "recover", help="rebuild bags that were cut off; exit code 0 all recovered, 3 something lost, 1 nothing done"
    )
    recover.add_argument(
        "--accept", metavar="OUTCOME", help="file recovered episodes of incomplete/ under their task with this outcome"
    )
    compress = verbs.add_parser("compress", help="pack bags with zstd; verified before anything is replaced")
    for verb in (info, check, recover, compress):
        verb.add_argument("paths", nargs="+", type=Path, metavar="BAG", help="bag, .mcap file, or folder of bags")
        verb.add_argument("--json", action="store_true", help="print JSON")
    bag_replay.register(verbs.add_parser("replay", help="put episodes back on the cell, measure how well it follows"))


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl bag``."""
    verb = {"info": _info, "check": _check, "recover": _recover, "compress": _compress, "replay": bag_replay.run}[
        options.verb
    ]
    return verb(options)


def find_bags(paths: list[Path]) -> list[Path]:
    """The .mcap files meant by some paths, in order.

    Raises:
        RecoverError: a path holds none.
    """
    from prophrl_nodes.recorder.recover import RecoverError

    found: list[Path] = []
    for path in paths:
        files = [path] if path.is_file() else sorted(path.rglob("*.mcap"))
        if not files:
            raise RecoverError(f"no bag at {path}; expected an .mcap file, or a folder with some below it")
        found += files
    return list(dict.fromkeys(found))


def _info(options: argparse.Namespace) -> int:
    from prophrl_nodes.recorder.inspection import inspect_bag

    found = [inspect_bag(path) for path in progress(find_bags(options.paths), "bag")]
    if options.json:
        print_json([bag.as_dict() for bag in found])
        return 0
    for bag in found:
        print(f"{bag.path}  {megabytes(bag.bytes)}, {bag.duration_s:.1f} s, {bag.messages} messages")
        for key in ("episode_id", "task", "instruction", "operator", "outcome", "state", "calibration_id"):
            if bag.episode.get(key):
                print(f"  {key:<15}{bag.episode[key]}")
        print(_topic_table(bag.topics))
        for note in bag.notes:
            print(f"  note: {note}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from prophrl_nodes.recorder.inspection import check_bag

    found = [
        check_bag(path, required=options.require, max_gap_s=options.max_gap, max_dropped=options.max_dropped)
        for path in progress(find_bags(options.paths), "bag")
    ]
    bad = [bag for bag in found if bag.problems]
    if options.json:
        print_json([bag.as_dict() for bag in found])
    else:
        for bag in bad:
            for problem in bag.problems:
                print(f"{bag.path}: {problem}")
        print(f"{len(found) - len(bad)} of {len(found)} bags are fit for use")
    return 1 if bad else 0


def _recover(options: argparse.Namespace) -> int:
    from prophrl_nodes.recorder.recover import RecoverError, RecoverStatus, recover_bag

    results: list[dict[str, Any]] = []
    for path in progress(find_bags(options.paths), "bag"):
        try:
            result = recover_bag(path).as_dict()
            if options.accept:
                result["path"] = _accept(path.parent, options.accept)
        except RecoverError as error:
            result = {"path": str(path), "status": "failed", "notes": [str(error)]}
        results.append(result)
        if not options.json:
            print(_recovered(result))
    if options.json:
        print_json(results)
    statuses = {result["status"] for result in results}
    return next((int(s) for s in (RecoverStatus.FAILED, RecoverStatus.LOSSY) if s.name.lower() in statuses), 0)


def _accept(folder: Path, outcome: str) -> str:
    """File an episode from ``incomplete/`` under its task; elsewhere it is filed already."""
    from prophrl_nodes.recorder.episode import INCOMPLETE, EpisodeStore, open_episode

    if folder.parent.name != INCOMPLETE:
        return str(folder)
    return str(EpisodeStore(folder.parent.parent, 0).accept(open_episode(folder), outcome, "recovered"))


def _recovered(result: dict[str, Any]) -> str:
    if result["status"] == "failed":
        return f"{result['path']}: failed: {'; '.join(result['notes'])}"
    what = "was complete" if result["was_complete"] else f"recovered {result['messages']} messages"
    notes = "".join(f"\n  {note}" for note in result["notes"])
    return f"{result['path']}: {what}, {result['duration_s']:.1f} s{notes}"


def _compress(options: argparse.Namespace) -> int:
    from prophrl_nodes.recorder.compress import CompressError, compress_bag

    reports, failures = [], []
    for path in progress(find_bags(options.paths), "bag"):
        try:
            reports.append(compress_bag(path))
        except CompressError as error:
            failures.append(str(error))
    before, after = sum(r.before for r in reports), sum(r.after for r in reports)
    if options.json:
        print_json({"bags": [r.as_dict() for r in reports], "failures": failures})
    else:
        print(f"{len(reports)} bags: {megabytes(before)} -> {megabytes(after)}")
        for failure in failures:
            print(f"left alone: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _topic_table(topics: dict[str, dict[str, Any]]) -> str:
    rows = [["  topic", "type", "messages", "Hz", "largest gap", "lost"]]
    for name, t in topics.items():
        gap = "-" if t["largest_gap_s"] is None else f"{t['largest_gap_s']:.3f} s"
        lost = "?" if t["dropped"] is None else str(t["dropped"])
        rows.append([f"  {name}", t["type"], str(t["count"]), f"{t['rate_hz']:.1f}", gap, lost])
    return table(rows, right=(2, 3, 4, 5))
