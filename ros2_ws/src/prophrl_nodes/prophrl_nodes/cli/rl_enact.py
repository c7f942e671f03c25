"""Carry out on the digital twin what was imagined: are a rollout's verdicts true?

  prophrl rl enact runs/enacted --task place_cube --policy runs/sft/policy --world runs/prophet \\
      --judge classifier:runs/judge/classifier

Groups of rollouts are imagined as a run would, from new placements; then their commands are executed on the twin from
the same starts, whatever the policy would have done there. Success is compared rollout by rollout: reinforcement learns
from differences within groups, so a score that does not tell those apart teaches nothing, or worse. OUT/videos shows
imagination beside the twin, OUT/enacted.json holds every rollout. Nothing of it is for policies of a real robot.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from prophrl_models.reward.argument import FORMS, parse_judge
from prophrl_nodes.cli.output import print_json
from prophrl_nodes.cli.rl_shared import UsageError, add_settings, read_settings

ENACTED = "enacted.json"


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument("--task", required=True, help="the twin's task")
    parser.add_argument("--policy", type=Path, required=True, metavar="CHECKPOINT", help="whose rollouts")
    parser.add_argument("--world", type=Path, required=True, metavar="CHECKPOINT", help="world model")
    parser.add_argument("--judge", required=True, help=FORMS)
    parser.add_argument("--world-steps", type=int, help="passes of the world model for a chunk (default: its own)")
    parser.add_argument("--starts", type=int, default=20, metavar="N", help="placements (default: 20)")
    parser.add_argument("--as-deployed", action="store_true", help="without the noise of reinforcement")
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2, help="processes for the twin (default: 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl rl enact``."""
    import torch

    from prophrl_models.data.files import write_json
    from prophrl_models.prophet.regions import check_regions
    from prophrl_models.prophet.worlds import load_world
    from prophrl_models.reward.factory import open_judge
    from prophrl_models.rl.open_run import WORLD_DTYPES
    from prophrl_models.rl.rollouts import RolloutWorker
    from prophrl_models.serving.engine import PolicyEngine, choose_device
    from prophrl_nodes.cli.tasks import check_tasks
    from prophrl_nodes.studies.enact import EnactSettings, EnactSummary, enact
    from prophrl_nodes.studies.fast_trials import TrialSettings, check_spec
    from prophrl_nodes.studies.progress import progress_bar

    check_tasks([options.task])
    if (options.out / ENACTED).exists():
        raise UsageError(f"{options.out} holds an earlier result; choose a new folder")
    settings, device = read_settings(options), str(choose_device(options.device))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    engine = PolicyEngine.load(options.policy, device)
    check_spec(engine.spec, TrialSettings(options.task, 1, settings.rollout.keep or 1), str(options.policy))
    check_regions(options.policy, options.world, [])
    world = load_world(
        options.world,
        device=device,
        dtype=WORLD_DTYPES[settings.rollout.world_precision],
        steps=options.world_steps,
    )
    judge = open_judge(parse_judge(options.judge))
    chosen = EnactSettings(
        options.task,
        options.starts,
        settings.rollout.group_size,
        "ode" if options.as_deployed else "sde",
        settings.seed,
        settings.rollout.groups_at_once,
    )
    with progress_bar(options.starts * chosen.group_size, "rollout") as bar:
        results = enact(
            lambda prompts: RolloutWorker(
                engine.policy, world, judge, prompts, settings.rollout, precision=settings.update.precision
            ),
            engine.sync,
            chosen,
            options.out,
            workers=options.workers,
            tell=lambda done, total: bar.update(done - bar.n),
        )
    summary = EnactSummary.of(results)
    answer = {
        "task": options.task,
        "policy": str(options.policy),
        "world": str(options.world),
        "judge": options.judge,
        "settings": dataclasses.asdict(chosen),
        "summary": summary.to_json(),
        "rollouts": [dataclasses.asdict(result) for result in results],
    }
    write_json(options.out / ENACTED, answer)
    if options.json:
        print_json(answer)
    else:
        print(summary.text())
        print(f"videos, imagined beside the twin: {options.out / 'videos'}")
    return 0
