"""The whole pipeline on the digital twin, from an empty table to a report; no robot and no GPU are needed.

  prophrl demo
  prophrl demo --task pull_tissue --episodes 10 --trials 5 --output runs/quick
  prophrl demo --task pull_tissue --reinforce 1 --trials 10

The scripted operator demonstrates through the leader arm, ROS 2 and RTDE; a policy learns from the recorded bags and
then moves the arm itself, at placements it has not seen. With --reinforce 1 it also learns in the imagination of a
small world model, adapted to these bags and to its own attempts, and both policies are tried, blinded; with --full 1
that world model is trained from nothing, on these alone. Ctrl-C stops it; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--task", default="place_cube", help="what is demonstrated and tried (default: place_cube)")
    parser.add_argument("--episodes", type=int, default=30, help="good demonstrations to collect (default: 30)")
    parser.add_argument("--trials", type=int, default=20, help="trials at held-out placements (default: 20)")
    parser.add_argument("--reinforce", type=int, choices=(0, 1), default=0, help="1: learn in imagination, too")
    parser.add_argument("--full", type=int, choices=(0, 1), default=0, help="1: so, in a world model from nothing")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder (default: runs/demo)")
    parser.add_argument("--headless", type=int, choices=(0, 1), default=1, help="0 opens the report at the end")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address of the twin; a second demo needs another")
    parser.add_argument("--domain", type=int, default=None, help="ROS domain (default: ROS_DOMAIN_ID)")
    parser.add_argument("--seed", type=int, default=0, help="of placements, operator and training (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl demo``."""
    from prophrl_nodes.cli.presets import preset_file
    from prophrl_nodes.cli.tasks import check_tasks

    check_tasks([options.task])
    from prophrl_nodes.studies.demo import DemoOptions
    from prophrl_nodes.studies.demo import run as run_demo
    from prophrl_nodes.studies.demo_reinforcement import FROM_NOTHING, MINUTES, Presets

    presets = None
    if options.reinforce or options.full:
        effort = FROM_NOTHING if options.full else MINUTES
        presets = Presets(preset_file("train", "imagined"), preset_file("rl", "demo"), effort)
    run_demo(
        DemoOptions(
            task=options.task,
            episodes=options.episodes,
            trials=options.trials,
            output=options.output,
            headless=bool(options.headless),
            host=options.host,
            domain_id=options.domain,
            seed=options.seed,
            reinforcement=presets,
        )
    )
    return 0
