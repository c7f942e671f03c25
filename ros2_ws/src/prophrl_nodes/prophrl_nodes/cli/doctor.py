"""Check this machine and a cell, and say what to do about what is wrong.

  prophrl doctor                                    this machine, and the twin
  prophrl doctor --cell ur30e                       the devices of a real cell as well
  prophrl doctor --quick                            only what takes no time

Exit code 0 when nothing keeps you from working, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from prophrl_nodes.cli.output import print_json

_MARKS = {"ok": ("ok  ", 32), "warning": ("warn", 33), "error": ("FAIL", 31)}


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--cell", default="twin", help="cell whose devices are checked, by name or path")
    parser.add_argument("--host", default="127.0.0.1", help="address that replaces {host} in the cell file")
    parser.add_argument("--output", type=Path, default=Path(), help="where bags will be written (default: here)")
    parser.add_argument("--quick", action="store_true", help="leave out the measurements (DDS, rendering, disk speed)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl doctor``."""
    from prophrl_nodes.studies.doctor import examine

    findings = []
    for finding in examine(options.cell, options.host, options.output, quick=options.quick):
        findings.append(finding)
        if not options.json:
            mark, colour = _MARKS[finding.level]
            if sys.stdout.isatty():
                mark = f"\x1b[{colour}m{mark}\x1b[0m"
            print(f"{mark}  {finding.topic:<12}{finding.message}", flush=True)
            if finding.action:
                print(f"      {'':<12}-> {finding.action}", flush=True)
    errors = [f for f in findings if f.level == "error"]
    if options.json:
        print_json([asdict(f) for f in findings])
    else:
        print(f"\n{len(errors)} of {len(findings)} checks failed" if errors else "\nnothing stands in the way")
    return 1 if errors else 0
