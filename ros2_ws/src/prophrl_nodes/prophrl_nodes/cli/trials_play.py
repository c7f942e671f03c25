"""Attempts of policies in the fast lane as a dataset of what was commanded: for world models, judges and start states.

  prophrl trials play runs/weak/policy runs/sft/policy --task pull_tissue --attempts 300 --out runs/play
  prophrl prophet train runs/demos runs/play runs/world

Placements are like those of demonstrations; policies take turns, with the noise that reinforcement will explore with.
Chunk follows chunk as in imagination, and after a protective stop commands go on under a picture that stays. Successes
and failures are kept and marked. With --world a policy does not look: it acts in that world model's imagination, and
what it did there is executed from the same start; as imagined rollouts are that a judge has to judge. Interrupted,
the same command goes on; a larger --attempts adds to what is there. These are no demonstrations: do not train policies
on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prophrl_nodes.cli.output import print_json
from prophrl_nodes.cli.rl_shared import UsageError

if TYPE_CHECKING:
    from prophrl_nodes.studies.lane_play import PlaySettings
    from prophrl_nodes.studies.lane_play_files import Played


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="policy's checkpoint folder")
    parser.add_argument("--task", required=True, help="what is tried")
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="new folder, or to be continued")
    parser.add_argument("--attempts", type=int, default=64, metavar="N", help="of all policies together (default: 64)")
    parser.add_argument("--calls", type=int, default=16, metavar="N", help="looks of an attempt (default: 16)")
    parser.add_argument("--execute", type=int, default=8, metavar="ROWS", help="rows until the next look (default: 8)")
    parser.add_argument(
        "--noise",
        type=float,
        default=0.7,
        metavar="A",
        help="of the SDE, 0 as deployed (default: 0.7, as preset small)",
    )
    parser.add_argument(
        "--world", type=Path, metavar="CHECKPOINT", help="plan whole attempts in this world model, then execute them"
    )
    parser.add_argument(
        "--world-precision", choices=("auto", "bf16", "fp32"), default="auto", help="of its arithmetic (default: auto)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of placements and noise (default: 0)")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2, help="processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl trials play``."""
    from prophrl_nodes.cli.tasks import check_tasks
    from prophrl_nodes.studies.lane_play import PlaySettings
    from prophrl_nodes.studies.lane_play_files import write_play
    from prophrl_nodes.studies.progress import progress_bar

    check_tasks([options.task])
    settings = PlaySettings(options.task, options.calls, options.execute, options.noise, options.seed)
    with progress_bar(options.attempts, "attempt") as bar:

        def tell(done: int, total: int) -> None:
            bar.update(done - bar.n)

        if options.world:
            played = _planned(options, settings, tell)
        else:
            played = write_play(
                options.checkpoints, settings, options.attempts, options.out, workers=options.workers, tell=tell
            )
    if options.json:
        print_json({"folder": options.out, **vars(played)})
        return 0
    print(f"{options.out}: {played.successes} of {played.successes + played.failures} attempts succeeded")
    print(f"content hash {played.content_hash}")
    return 0


def _planned(options: argparse.Namespace, settings: PlaySettings, tell: Callable[[int, int], None]) -> Played:
    from prophrl_models.prophet.worlds import load_world
    from prophrl_models.rl.open_run import WORLD_DTYPES
    from prophrl_nodes.studies.planned_play import write_planned

    if len(options.checkpoints) > 1:
        raise UsageError(f"with --world one policy plans, got {len(options.checkpoints)}; play them one by one")
    return write_planned(
        options.checkpoints[0],
        lambda: load_world(options.world, dtype=WORLD_DTYPES[options.world_precision]),
        options.world,
        settings,
        options.attempts,
        options.out,
        workers=options.workers,
        tell=tell,
    )
