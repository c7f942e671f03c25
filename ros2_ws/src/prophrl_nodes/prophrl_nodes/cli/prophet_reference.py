"""Make the small world model that the project ships, from nothing, on the digital twin.

  prophrl prophet reference runs/prophet_small

Records demonstrations of the four tasks through ROS, trains weak policies on a few of them and lets these play in the
fast lane, trains codec and network on all of that, and measures the result: some two hours on two CPU cores. Killed at
any moment, the same command goes on where it stopped. OUT/small is the checkpoint, OUT/report/report.html says how good
it is. With --world that one is taken and only the recordings are made, a quarter of an hour a task: what
`prophrl rl gain` starts from.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of everything, new or to be continued")
    parser.add_argument("--task", action="append", default=[], help="only this task; may be repeated")
    parser.add_argument("--episodes", type=int, default=24, help="good demonstrations of each task (default: 24)")
    parser.add_argument(
        "--few",
        type=int,
        nargs="+",
        default=[5, 14],
        metavar="N",
        help="of which playing policies learn (default: 5 14)",
    )
    parser.add_argument("--play", type=int, default=64, help="attempts of theirs, twice a task (default: 64)")
    parser.add_argument("--codec-steps", type=int, default=0, help="(default: as the preset small says)")
    parser.add_argument("--steps", type=int, default=0, help="of the world model (default: as the preset small says)")
    parser.add_argument(
        "--world", type=Path, metavar="CHECKPOINT", help="take this world model, train none (checkpoints/prophet_small)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of placements and operator (default: 0)")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address of the twin")


def run(options: argparse.Namespace) -> int:
    """Run the verb."""
    from prophrl_nodes.cli.tasks import check_tasks
    from prophrl_nodes.studies.reference_world import PACKED, ReferenceWorld
    from robot_bridge.twin.tasks import TASK_IDS

    check_tasks(options.task)
    study = ReferenceWorld(
        options.out,
        tasks=tuple(options.task) or TASK_IDS,
        episodes=options.episodes,
        few=tuple(options.few),
        play=options.play,
        codec_steps=options.codec_steps,
        world_steps=options.steps,
        seed=options.seed,
        host=options.host,
        world=options.world,
    )
    failed = study.run(lambda line: print(line, flush=True))
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    if failed:
        return 1
    page = "" if options.world else f", report: {options.out / 'report' / 'report.html'}"
    print(f"checkpoint: {options.out / PACKED}{page}")
    return 0
