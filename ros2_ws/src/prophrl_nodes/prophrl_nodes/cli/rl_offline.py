"""``prophrl rl offline``: bags and two checkpoints in, a reinforced policy out, in one command; round after round.

The same flow as ``prophrl launch offline_rl``, without ROS. With ``--after`` it continues a finished flow with new
bags, such as those of trials of its policy.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.usage = (
        "prophrl rl offline BAGS [BAGS ...] POLICY OUT [options]\n"
        "       prophrl rl offline BAGS [BAGS ...] OUT --after ROUND [options]"
    )
    # With --after there is no POLICY; which of the paths is what can only be said when all are known.
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="BAGS: bags, or folders of bags; POLICY: checkpoint to start from; OUT: folder of the run, new or to be "
        "continued",
    )
    parser.add_argument(
        "--after",
        type=Path,
        metavar="ROUND",
        help="folder of a finished run to continue with new bags: its policy, world model and episodes are used",
    )
    parser.add_argument(
        "--world", type=Path, metavar="CHECKPOINT", help="Prophet checkpoint to adapt (default: train one)"
    )
    parser.add_argument("--task", default="", help="which task to reinforce (default: the only one in the bags)")
    parser.add_argument(
        "--judge",
        default="",
        help="KIND:PLACE as in prophrl rl run; or what to train: trajectory (default), which looks at where the "
        "hand goes in the start picture, or video",
    )
    parser.add_argument(
        "--planned",
        type=Path,
        nargs="+",
        default=[],
        metavar="BAGS",
        help="bags of attempts planned in a world model and executed unseen (plan_in of the policy node): what the "
        "judge of trajectories learns from",
    )
    parser.add_argument(
        "--audit",
        default="none",
        metavar="WHAT",
        help="what imagined success is held against: twin (trials on the digital twin; for bags of the twin only), a "
        "second judge KIND:PLACE, or none (default: none)",
    )
    parser.add_argument("--preset", default="small", help="reinforcement settings by name or file (default: small)")
    parser.add_argument("--world-preset", default="small_adapt", help="of the adaptation (default: small_adapt)")
    parser.add_argument("--steps", type=int, default=0, help="reinforcement steps (default: as the preset says)")
    parser.add_argument(
        "--world-steps", type=int, default=0, help="steps of the adaptation (default: as its preset says)"
    )
    parser.add_argument("--no-gates", action="store_true", help="go on even where the check fails")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")


def told_apart(options: argparse.Namespace) -> tuple[list[Path], Path | None, Path]:
    """(bags, policy, output folder) of the paths; no policy where a round is continued.

    Raises:
        PlanError: too few paths.
    """
    from prophrl_nodes.offline.plan import PlanError

    paths = list(options.paths)
    wanted = ["BAGS", "OUT"] if options.after else ["BAGS", "POLICY", "OUT"]
    if len(paths) < len(wanted):
        raise PlanError(f"expected {' '.join(wanted)}, got {' '.join(map(str, paths))}")
    out = paths.pop()
    return (paths, None, out) if options.after else (paths[:-1], paths[-1], out)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl rl offline``; 1 where no better policy came out."""
    from prophrl_nodes.offline.flow import Flow
    from prophrl_nodes.offline.plan import OfflinePlan, settings_argument
    from prophrl_nodes.offline.progress import FlowProgress
    from prophrl_nodes.offline.rounds import begin

    bags, policy, out = told_apart(options)
    plan = OfflinePlan(
        bags=tuple(str(path.resolve()) for path in bags),
        policy=str(policy.resolve()) if policy else "",
        world=str(options.world.resolve()) if options.world else "",
        task=options.task,
        judge=options.judge,
        audit=options.audit,
        planned=tuple(str(path.resolve()) for path in options.planned),
        preset=settings_argument(options.preset),
        world_preset=settings_argument(options.world_preset),
        steps=options.steps,
        world_steps=options.world_steps,
        gates=not options.no_gates,
        seed=options.seed,
        threads=options.threads,
        after=str(options.after.resolve()) if options.after else "",
    )
    folder = out.resolve()
    begin(plan, folder)

    def show(progress: FlowProgress) -> None:
        count = f" step {progress.step}" + (f"/{progress.steps}" if progress.steps else "") if progress.step else ""
        print(f"[{progress.elapsed_s:6.0f} s] {progress.phase}{count}: {progress.message}", flush=True)

    result = Flow(plan, folder, show).run()
    return 0 if result.accepted else 1
