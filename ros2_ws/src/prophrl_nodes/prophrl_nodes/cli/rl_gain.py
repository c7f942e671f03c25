"""``prophrl rl gain``: does reinforcement in imagination pay? Measured on the digital twin, task by task.

  prophrl prophet reference runs/reference
  prophrl rl gain runs/reference runs/gain

Takes what the reference folder recorded: policies of few demonstrations, their logged attempts, a world model. For each
task it adapts the world model, trains a judge, reinforces the policy with each seed, tries all policies on the same
held-out placements in simulated time, and the first seed's against the first policy through ROS and RTDE, interleaved
and blinded. Before and after, imagined rollouts are carried out on the twin: were their verdicts true? Killed at any
moment, the same command goes on; tasks and seeds may be added. The page is OUT/report.html.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prophrl_nodes.cli.output import table
from prophrl_nodes.cli.presets import preset_file
from prophrl_nodes.cli.rl_shared import UsageError

MEASURE = ("simulated time", "report of the trials", "carried out, after")
"""Ends of the names of jobs that change the page."""
PLANNED = 256
"""Attempts that teach a judge of trajectories to tell a task's plans from one another (docs/reward.md)."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "reference", type=Path, metavar="REFERENCE", help="finished folder of prophrl prophet reference"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the study, new or to be continued")
    parser.add_argument("--task", action="append", default=[], help="only this task; may be repeated")
    parser.add_argument("--few", type=int, default=14, help="demonstrations of the first policies (default: 14)")
    parser.add_argument(
        "--policy-steps", type=int, default=0, metavar="N",
        help="train the first policies for so long, 0: take the reference's (default: 0)",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="N", help="(default: 0 1)")
    parser.add_argument("--trials", type=int, default=100, metavar="N", help="in simulated time (default: 100)")
    parser.add_argument(
        "--robot-trials", type=int, default=20, metavar="N", help="placements through ROS, 0: none (default: 20)"
    )
    parser.add_argument(
        "--starts", type=int, default=12, metavar="N", help="of rollouts carried out, 0: none (default: 12)"
    )
    parser.add_argument(
        "--play", type=int, default=0, metavar="N",
        help="more attempts, of the first policy itself, of each kind (default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--planned", type=int, metavar="N",
        help="attempts that the first policy plans in the adapted world model, for a judge of trajectories; 0: it "
        "learns from the logged ones (default: 256)",
    )  # fmt: skip
    parser.add_argument(
        "--world-steps", type=int, default=1000, metavar="N", help="of the adaptation, 0: none (default: 1000)"
    )
    parser.add_argument(
        "--judge", choices=("trajectory", "video"), default="trajectory",
        help="what the judge looks at: where the hand goes in the start picture, or videos (default: trajectory)",
    )  # fmt: skip
    parser.add_argument("--judge-steps", type=int, default=400, metavar="N", help="(default: 400)")
    parser.add_argument(
        "--steps", type=int, default=0, metavar="N", help="of reinforcement (default: as the preset says)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", default="small", help="of reinforcement, by name (default: small)")
    which.add_argument("--config", type=Path, help="of reinforcement, YAML")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address of the twin")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl rl gain``; 1 where a part failed."""
    from prophrl_nodes.cli.tasks import check_tasks
    from prophrl_nodes.studies.ablation_jobs import run_study
    from prophrl_nodes.studies.gain import GainStudy
    from robot_bridge.twin.tasks import TASK_IDS

    check_tasks(options.task)
    study = GainStudy(
        options.reference.resolve(),
        options.out.resolve(),
        options.config or preset_file("rl", options.preset),
        tasks=tuple(options.task) or TASK_IDS,
        few=options.few,
        policy_steps=options.policy_steps,
        seeds=tuple(options.seeds),
        trials=options.trials,
        robot_trials=options.robot_trials,
        starts=options.starts,
        play=options.play,
        planned=_planned(options),
        world_steps=options.world_steps,
        judge_steps=options.judge_steps,
        judge_kind=options.judge,
        steps=options.steps,
        host=options.host,
    )
    study.claim()

    return run_study(
        study.jobs(),
        write=study.write,
        text=lambda failed: _text(study.result(failed)),
        measures=lambda job: job.name.endswith(MEASURE),
        measured=study.measured,
    )


def _planned(options: argparse.Namespace) -> int:
    """Attempts for the judge: one of videos has no use for them."""
    if options.judge == "trajectory":
        return PLANNED if options.planned is None else int(options.planned)
    if options.planned:
        raise UsageError(
            f"--planned {options.planned}: planned attempts are for a judge of trajectories, --judge video learns from "
            "logged attempts imagined again; leave one of the two out"
        )
    return 0


def _text(gain: Any) -> str:
    """The table and the finding for a terminal."""
    from prophrl_models.rl.gain_report import rate_text

    rows = [["task", "first policy", "reinforced", "points", "95 %", "verdict"]]
    for task in gain.tasks:
        found = task.difference
        ends = f"{100 * found.interval.low:+.0f} .. {100 * found.interval.high:+.0f}"
        counts = ", ".join(f"{sum(run.trials)} of {len(run.trials)}" for run in task.runs)
        first = rate_text(task.ablation.start_rate)
        rows.append([task.task, first, counts, f"{100 * found.difference:+.0f}", ends, found.verdict])
    return "\n".join([table(rows, right=(3,)), "", gain.headline, *(f"- {sentence}" for sentence in gain.sentences)])
