"""Has the camera moved? Compares recorded episodes with one of the time when the calibration was new.

  prophrl calibrate check runs/collect/bags/place_cube        one row per episode
  prophrl calibrate check runs/bags --dataset runs/dataset    those of them that a dataset was made from
  prophrl calibrate check BAG --reference FILE                with the reference that the cell keeps

Without --reference the first episode of each calibration is the reference of the later ones. Exit code 1 when an
episode shows a camera that was moved, 0 otherwise; episodes of which nothing can be said are listed as unknown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from prophrl_nodes.cli.output import print_json, progress, table

if TYPE_CHECKING:
    from prophrl_nodes.drift_watch.verdict import DriftVerdict


class DriftUsageError(ValueError):
    """Arguments that cannot be used; the message names what is there and the next action."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bags", nargs="*", type=Path, metavar="BAG", help="episode, or a folder of episodes")
    parser.add_argument("--dataset", type=Path, metavar="DIR", help="only episodes of this dataset (bags: beside it)")
    parser.add_argument("--reference", type=Path, metavar="FILE", help="compare with this reference of the drift node")
    parser.add_argument("--cell", default="", help="cell, by name or path (default: the one named in each episode)")
    parser.add_argument("--marker", type=Path, metavar="FILE", help="YAML description of a board standing in view")
    parser.add_argument("--frames", type=int, default=20, help="frames looked at per episode (default: 20)")
    parser.add_argument("--write", action="store_true", help="also write drift.json beside each bag")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl calibrate check``."""
    import cv2

    from prophrl_nodes.drift_watch.bag import BagChecks
    from prophrl_nodes.drift_watch.check import load_board
    from prophrl_nodes.drift_watch.references import load_reference
    from prophrl_nodes.drift_watch.verdict import DRIFT_FILE
    from prophrl_nodes.recorder.metadata import write_atomically

    cv2.setNumThreads(1)  # small pictures: threads cost more than they bring
    bags = _bags(options)
    given = None if options.reference is None else load_reference(options.reference)
    if options.reference is not None and given is None:
        raise DriftUsageError(f"no reference at {options.reference}; they are kept in 'drift' beside the calibration")
    board = None if options.marker is None else load_board(options.marker)
    checks = BagChecks(options.cell, board, given, options.frames)
    verdicts: list[tuple[Path, DriftVerdict]] = []
    for bag in progress(bags, "episode"):
        verdict = checks.of(bag)
        verdicts.append((bag, verdict))
        if options.write and bag.is_dir():
            write_atomically(bag / DRIFT_FILE, json.dumps(verdict.as_dict(), indent=2, ensure_ascii=False) + "\n")
    _print(verdicts, as_json=options.json)
    return int(any(verdict.moved for _, verdict in verdicts))


def _print(verdicts: list[tuple[Path, DriftVerdict]], *, as_json: bool) -> None:
    moved = [verdict for _, verdict in verdicts if verdict.moved]
    unknown = [verdict for _, verdict in verdicts if verdict.verdict == "unknown"]
    if as_json:
        rows = [{"bag": str(bag), **verdict.as_dict()} for bag, verdict in verdicts]
        print_json({"episodes": rows, "moved": len(moved), "unknown": len(unknown)})
        return
    lines: list[tuple[str, ...]] = [("episode", "calibration", "verdict", "px", "+-", "mm", "frames")]
    for bag, v in verdicts:
        figures = tuple("-" if f is None else f"{f:.2f}" for f in (v.pixels, v.sigma_px, v.millimetres))
        lines.append((bag.name, v.calibration_id or "-", v.verdict, *figures, str(v.frames)))
    print(table(lines, right=(3, 4, 5, 6)))
    print(f"\n{len(verdicts)} episodes: {len(moved)} with a moved camera, {len(unknown)} unknown")
    for verdict in (*moved, *unknown):
        print(f"{verdict.episode_id}: {verdict.reason}")


def _bags(options: argparse.Namespace) -> list[Path]:
    """Episodes in the order they were recorded in, by the times at the head of their names."""
    given = list(options.bags)
    if options.dataset is not None and not given:
        given = [options.dataset.resolve().parent / "bags"]
    bags = [bag for place in given for bag in _episodes_in(place)]
    if options.dataset is not None:
        bags = _of_dataset(options.dataset, bags)
    if not bags:
        raise DriftUsageError("nothing to check; give bags, or --dataset DIR")
    return sorted(dict.fromkeys(bags), key=lambda bag: (bag.name, str(bag)))


def _episodes_in(place: Path) -> list[Path]:
    if not place.exists():
        raise DriftUsageError(f"there is no {place}; give the folder of an episode, or one that holds episodes")
    inside = sorted({file.parent for file in place.rglob("*.mcap")}) if place.is_dir() else [place]
    if not inside:
        raise DriftUsageError(f"{place} holds no recorded episode (no .mcap below it)")
    return inside


def _of_dataset(dataset: Path, bags: list[Path]) -> list[Path]:
    """Those of the bags that the dataset names as its sources; a dataset alone holds no joint angles."""
    from prophrl_models.data.dataset import Dataset

    sources = {row.source for row in Dataset(dataset).table}
    missing = sorted(sources - {bag.name for bag in bags})
    if missing:
        raise DriftUsageError(
            f"{len(missing)} of the {len(sources)} episodes of {dataset} are not among the {len(bags)} bags looked at "
            f"({missing[0]}); give the folder that holds them"
        )
    return [bag for bag in bags if bag.name in sources]
