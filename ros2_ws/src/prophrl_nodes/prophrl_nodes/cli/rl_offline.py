"""``prophrl rl offline``: bags and two checkpoints in, a reinforced policy out, in one command.

The same flow as ``prophrl launch offline_rl``, without ROS.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAGS", help="bags, or folders of bags")
    parser.add_argument("policy", type=Path, metavar="POLICY", help="policy checkpoint to start from")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the run, new or to be continued")
    parser.add_argument(
        "--world", type=Path, metavar="CHECKPOINT", help="Prophet checkpoint to adapt (default: train one)"
    )
    parser.add_argument("--task", default="", help="which task to reinforce (default: the only one in the bags)")
    parser.add_argument(
        "--judge", default="", help="classifier folder, or ADDRESS,MODEL of a server (default: train one)"
    )
    parser.add_argument("--preset", default="small", help="reinforcement settings by name (default: small)")
    parser.add_argument("--world-preset", default="small_adapt", help="of the adaptation (default: small_adapt)")
    parser.add_argument("--steps", type=int, default=0, help="reinforcement steps (default: as the preset says)")
    parser.add_argument(
        "--world-steps", type=int, default=0, help="steps of the adaptation (default: as its preset says)"
    )
    parser.add_argument("--no-gates", action="store_true", help="go on even where the check fails")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl rl offline``; 1 where no better policy came out."""
    from prophrl_nodes.offline.flow import Flow
    from prophrl_nodes.offline.plan import OfflinePlan
    from prophrl_nodes.offline.progress import FlowProgress

    plan = OfflinePlan(
        bags=tuple(str(path.resolve()) for path in options.bags),
        policy=str(options.policy.resolve()),
        world=str(options.world.resolve()) if options.world else "",
        task=options.task,
        judge=options.judge if not options.judge or "://" in options.judge else str(Path(options.judge).resolve()),
        preset=options.preset,
        world_preset=options.world_preset,
        steps=options.steps,
        world_steps=options.world_steps,
        gates=not options.no_gates,
        seed=options.seed,
        threads=options.threads,
    )
    folder = options.out.resolve()
    plan.settle(folder)

    def show(progress: FlowProgress) -> None:
        count = f" step {progress.step}" + (f"/{progress.steps}" if progress.steps else "") if progress.step else ""
        print(f"[{progress.elapsed_s:6.0f} s] {progress.phase}{count}: {progress.message}", flush=True)

    result = Flow(plan, folder, show).run()
    return 0 if result.accepted else 1
