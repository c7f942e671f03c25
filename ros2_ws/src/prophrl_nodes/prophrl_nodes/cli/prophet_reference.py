"""Make the small world model that the project ships, from nothing, on the digital twin.

  prophrl prophet reference runs/prophet_small

Records demonstrations of the four tasks and a weak policy's own attempts through ROS, trains codec and network, and
measures the result: on two CPU cores most of a day. Killed at any moment, the same command goes on where it stopped.
OUT/small is the checkpoint, OUT/report/report.html says how good it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of everything, new or to be continued")
    parser.add_argument("--task", action="append", default=[], help="only this task; may be repeated")
    parser.add_argument("--episodes", type=int, default=48, help="good demonstrations of each task (default: 48)")
    parser.add_argument("--few", type=int, default=10, help="of which the playing policy learns (default: 10)")
    parser.add_argument("--play", type=int, default=24, help="attempts of that policy (default: 24)")
    parser.add_argument("--codec-steps", type=int, default=0, help="(default: as the preset small says)")
    parser.add_argument("--steps", type=int, default=0, help="of the world model (default: as the preset small says)")
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
        few=options.few,
        play=options.play,
        codec_steps=options.codec_steps,
        world_steps=options.steps,
        seed=options.seed,
        host=options.host,
    )
    failed = study.run(lambda line: print(line, flush=True))
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    if failed:
        return 1
    print(f"checkpoint: {options.out / PACKED}, report: {options.out / 'report' / 'report.html'}")
    return 0
